// Every decision of the pool, and nothing else: no I/O, no thread, no lock, no clock.
//
// Events come in as member functions, each with the time; what is to be done goes out as actions, which the caller
// carries out in order. next_deadline() tells when tick() is due. Not thread safe: Pool calls it under its lock.
//
// What is decided where: which state a connection is in, SlotLedger; who is served next, WaiterQueue; how many are to
// be there, Sizing; when one is due for its end or a check, Upkeep; when to try again, BackOff, Probation and
// StuckOpenings; whether a server that refuses to serve on is left, Condemnation; which leases are reported, LeakWatch;
// what state the pool is in, Lifecycle. Here they are put together: what an event means to each of them.
#pragma once

#include <cstdint>
#include <vector>

#include "core/base/clock.hpp"
#include "core/base/error.hpp"
#include "core/base/options.hpp"
#include "core/decide/action.hpp"
#include "core/decide/back_off.hpp"
#include "core/decide/condemnation.hpp"
#include "core/decide/health.hpp"
#include "core/decide/leak_watch.hpp"
#include "core/decide/lifecycle.hpp"
#include "core/decide/probation.hpp"
#include "core/decide/random.hpp"
#include "core/decide/sizing.hpp"
#include "core/decide/slot_ledger.hpp"
#include "core/decide/statistics.hpp"
#include "core/decide/stuck_openings.hpp"
#include "core/decide/upkeep.hpp"
#include "core/decide/waiter_queue.hpp"

namespace pqpool {

// In what condition a lease gives its connection back.
struct ReturnedConnection {
    bool broken = false;       // the connection is dead
    bool dirty = false;        // a statement is under way, a transaction is open, or something others can feel is left
    bool condemned = false;    // an error of the lease says that the server will not serve on
    std::int64_t queries = 0;  // statements run on the connection in its life
};

struct AcquireAnswer {
    enum class Kind { granted, waiting, refused };
    Kind kind;
    SlotId slot{};
    WaiterId waiter{};
    ErrorKind error = ErrorKind::internal;  // of a refusal
};

class PoolMachine {
  public:
    struct Config {
        std::int64_t min_size, max_size, max_queries, max_waiting;
        Nanos max_idle_time, max_lifetime, leak_limit, keepalive;  // leak_limit and keepalive: kNever = off
        std::uint64_t seed;                                        // of the jitter
    };
    static Config config_of(const Options& options, std::uint64_t seed);

    PoolMachine(const Config& config, Nanos now);

    // ---- events ----
    void start(Nanos now);
    // Waits until `deadline` where no connection is free and deadline > now. leak_limit: kNever = not watched.
    AcquireAnswer acquire(Nanos now, Nanos deadline, Nanos leak_limit, void* context);
    // What the caller measured between asking and a grant at once.
    void record_wait(Nanos wait) { tally_.waited(wait); }
    // An acquire that ended by its timeout although it had been granted: its connection did not answer the check.
    void timed_out(Nanos asked_at, Nanos now);
    // The lease's connection proved dead before its first statement ran: another one, ahead of all who wait. The lease
    // stays out.
    AcquireAnswer replace(SlotId dead, Nanos now, Nanos deadline, void* context);
    // False where the waiter has been granted or failed already.
    bool cancel(WaiterId waiter);
    // The requests for a lease whose context `leaves` is true for wait no more.
    template <class Leaves>
    void take_waiters(Leaves&& leaves) {
        waiters_.take_if([&](const Waiter& waiter) { return !waiter.replaces() && leaves(waiter.context); });
    }
    void released(SlotId slot, const ReturnedConnection& condition, Nanos now);
    void released_without_connection();  // of a lease whose replacement failed
    // False where the slot is gone: the caller closes the connection.
    bool opened(SlotId slot, Nanos round_trip, Nanos now);
    // admitted: the server had let the session in.
    void open_failed(SlotId slot, bool final, Nanos now, bool admitted = false);
    void lost(SlotId slot, Nanos now);
    void checked(SlotId slot, bool alive, Nanos round_trip, Nanos now);
    void cleaned(SlotId slot, bool usable, Nanos now);
    void health_asked(Nanos now);
    void resize(std::int64_t min_size, std::int64_t max_size, Nanos now);
    void drain(Nanos now);  // every connection of now is replaced: idle ones at once, leased ones at their release
    void pause(Nanos now);  // acquires wait
    void resume(Nanos now);
    void shutdown(Nanos deadline);
    void tick(Nanos now);

    // ---- what follows from them ----
    std::vector<Action>& actions() { return actions_.pending(); }
    // Stand until the next call; what is emitted meanwhile, by events that may move these, comes with that.
    const std::vector<Action>& take_actions() { return actions_.take(); }
    Nanos next_deadline() const;

    // ---- looking ----
    PoolState state() const { return lifecycle_.state(); }
    bool accepts() const { return lifecycle_.accepts(); }
    void fill_statistics(Statistics& out, Nanos now, std::int64_t unix_us_at_zero) const;
    Health health(Nanos now) const;
    std::int64_t max_size() const { return sizing_.max_size(); }
    std::int64_t waiting() const { return waiters_.size(); }
    std::int64_t idle() const { return ledger_.idle(); }
    std::int64_t leased() const { return ledger_.out(); }
    std::int64_t live() const { return ledger_.live(); }
    bool is_leased(SlotId id) const { return ledger_.find(id) && is_out(ledger_.find(id)->state()); }

  private:
    static constexpr std::uint32_t kNone = SlotLedger::kNone;

    // Leases and those who wait for one.
    std::uint32_t take_idle(Nanos now);
    void lease(std::uint32_t index, const LeaseTerms& terms);
    AcquireAnswer wait(const Waiter& waiter, Nanos now);
    void serve_waiters(Nanos now);
    void note_slow(Nanos asked_at, Nanos now);
    void expire_waiters(Nanos now);
    void fail_waiter(const Waiter& waiter, ErrorKind error, Nanos waited);
    void fail_all_waiters(ErrorKind error);
    void report_leaks(Nanos now);

    // Where a connection goes.
    CloseReason unfit(const Slot& slot, Nanos now) const;
    void put_back(std::uint32_t index, Nanos idle_since, Nanos now);
    void shelve(std::uint32_t index, Nanos idle_since);
    void take_in_hand(std::uint32_t index, SlotState state, Action::Kind what, Nanos now);
    void close_slot(std::uint32_t index, CloseReason reason);
    void end_session(std::uint32_t index, CloseReason reason, Nanos now);
    void note_death(std::uint32_t index, Nanos now);

    // Openings, and what becomes of them.
    void fill(Nanos now, bool watched = false);
    void open_one(Nanos now);
    void attempt_failed(Nanos started_at, bool final, Nanos now);
    void demand_retry();
    void end_hold(Nanos now);
    bool sessions_last(Nanos now) const;

    void settle(Nanos now);
    void update_state(Nanos now);
    void maintain(Nanos now);
    void give_up_initialization();
    void close_all_but_leased();
    void abort_leases(Nanos now);
    void finish_shutdown();

    Lifecycle lifecycle_;
    bool paused_ = false;
    SlotLedger ledger_;
    WaiterQueue waiters_;
    Upkeep upkeep_;
    LeakWatch leaks_;
    ActionList actions_;
    Sizing sizing_;
    const std::int64_t max_waiting_;
    BackOff back_off_;
    Probation probation_;
    StuckOpenings stuck_;
    Condemnation condemnation_;
    HealthRecord record_;
    Random random_;
    Tally tally_;
};

}  // namespace pqpool
