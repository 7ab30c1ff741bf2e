// Every decision of the pool, and nothing else: no I/O, no thread, no lock, no clock.
//
// Events come in as member functions, each with the time; what is to be done goes out as actions, which the caller
// carries out in order. next_deadline() tells when tick() is due. Not thread safe: Pool calls it under its lock.
//
// A connection is a slot here. Slots and waiters are named by an index and a generation, so a late event about one
// that is gone is recognized and ignored.
#pragma once

#include <cstdint>
#include <vector>

#include "core/base/clock.hpp"
#include "core/base/error.hpp"
#include "core/base/options.hpp"
#include "core/decide/health.hpp"
#include "core/decide/statistics.hpp"
#include "core/decide/waiter_queue.hpp"

namespace pqpool {

struct SlotId {
    std::uint32_t index = UINT32_MAX;
    std::uint32_t generation = 0;
    bool operator==(const SlotId&) const = default;
    bool valid() const { return index != UINT32_MAX; }
};

// Why a connection was closed, and what else is worth a line in the log. X(enumerator, what the log says)
#define PQPOOL_CLOSE_REASONS(X)                               \
    X(none, "")                                               \
    X(lost, "lost")                                           \
    X(max_queries, "max_queries reached")                     \
    X(max_lifetime, "max_connection_lifetime reached")        \
    X(max_idle_time, "max_idle_time reached")                 \
    X(not_cleaned, "could not be cancelled or reset in time") \
    X(condemned, "its server is shutting down or read-only")  \
    X(drained, "drained")                                     \
    X(surplus, "more than max_size")                          \
    X(shutdown, "shutdown")

enum class CloseReason : std::int32_t {
#define X(name, text) name,
    PQPOOL_CLOSE_REASONS(X)
#undef X
};
const char* text_of(CloseReason reason);

struct Action {
    enum class Kind {
        open,       // open a connection for this slot
        close,      // close the slot's connection (or stop opening it); the slot is gone
        check,      // the pool's own check of an idle connection
        clean,      // cancel, drain and reset after a lease
        grant,      // give the slot to the waiter behind `context`
        fail,       // end the waiter behind `context` with `error`
        abort,      // shutdown's patience is over: break the connection under its lease; the slot is gone
        log_leak,   // held for `duration`
        log_lost,   // a live connection was found dead
        log_retry,  // attempt `count` failed; the next one is due after `duration`
        log_recovered,
        log_unhealthy,
        initialized,  // min_size connections stand for the first time
        init_failed,  // they could not be had; every slot has been closed
        terminated,   // after a shutdown; every slot has been closed or aborted
    };
    Kind kind;
    SlotId slot{};
    void* context = nullptr;
    ErrorKind error = ErrorKind::internal;
    CloseReason reason = CloseReason::none;
    Nanos duration = 0;
    std::int64_t count = 0;
};

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
    void record_wait(Nanos wait);
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
    std::vector<Action>& actions() { return actions_; }
    // Stand until the next call; what is emitted meanwhile, by events that may move these, comes with that.
    const std::vector<Action>& take_actions();
    Nanos next_deadline() const;

    // ---- looking ----
    PoolState state() const { return state_; }
    bool accepts() const { return state_ != PoolState::shutting_down && state_ != PoolState::terminated; }
    void fill_statistics(Statistics& out, Nanos now, std::int64_t unix_us_at_zero) const;
    Health health(Nanos now) const;
    std::int64_t max_size() const { return config_.max_size; }
    std::int64_t waiting() const { return waiters_.size(); }
    std::int64_t idle() const { return idle_; }
    std::int64_t leased() const { return leased_; }
    std::int64_t live() const;
    bool is_leased(SlotId id) const { return find(id) && find(id)->state == SlotState::leased; }

  private:
    // held: in between, for the length of one event; counted nowhere.
    enum class SlotState : std::uint8_t { free, opening, idle, leased, cleaning, checking, held };
    static constexpr std::uint32_t kNone = UINT32_MAX;

    // A connection given back with a statement under way is usually drained within a millisecond, so for this long it
    // keeps its place and the pool does not replace it; after that its place is free, whatever the server does.
    // The same holds for a connection that is checked. Meanwhile it is live; after that it is not.
    static constexpr Nanos kGrace = 100 * kMillisecond;
    // Opened at once to reach min_size. Bounds what a large pool does to a server that has just come back.
    static constexpr std::int64_t kFillAtOnce = 32;
    // Opened at once because requests wait, at most. A burst of short leases is served by returns long before a slow
    // connect ends, so a pool that opened one connection for each waiter would end at max_size after every burst. It
    // begins with one, and with one more each time that a connection stands and others still wait.
    static constexpr std::int64_t kGrowthAtOnce = 3;
    static constexpr Nanos kDemandedRetry = 250 * kMillisecond;  // while somebody waits
    static constexpr Nanos kWaningTime = 5 * kSecond;  // a successor is opened this long before the lifetime ends

    struct Slot {
        SlotState state = SlotState::free;
        bool lost = false;  // leased, and known to be dead
        bool leak_reported = false;
        CloseReason condemned = CloseReason::none;  // not to be handed out again, and why
        bool overdue = false;  // opening, cleaning or checking for long, and no longer counted against max_size
        bool waning = false;  // about to expire: does not count towards min_size, so that its successor is opened first
        std::uint32_t generation = 0;
        std::uint32_t newer = kNone, older = kNone;  // the shelf of idle connections, most recently used first
        std::int64_t queries = 0;
        Nanos started_at = 0;  // opening began
        Nanos opened_at = 0;
        Nanos ended_at = 0;  // found dead, or unfit
        Nanos retire_at = kNever;
        Nanos idle_since = 0;
        Nanos checked_at = 0;
        Nanos in_hand_since = 0;  // cleaning or checking
        Nanos leased_at = 0;
        Nanos leak_at = kNever;
    };

    // pool_machine.cpp: leases and waiters
    void lease(std::uint32_t index, Nanos leased_at, Nanos leak_limit, bool leak_reported = false);
    void record_wait_of_waiter(Nanos asked_at, Nanos now);
    void note_slow(Nanos asked_at, Nanos now);
    std::uint32_t take_idle(Nanos now);
    void fail_all_waiters(ErrorKind error);
    void serve_waiters(Nanos now);
    void shelve(std::uint32_t index, Nanos now);
    void unshelve(std::uint32_t index);
    void put_back(std::uint32_t index, Nanos now);
    CloseReason expired(const Slot& slot, Nanos now) const;
    void expire_waiters(Nanos now);
    void report_leaks(Nanos now);

    // pool_machine_outage.cpp: failures, and when to try again
    void failed(Nanos started_at, bool final, Nanos now);
    void back_off(Nanos started_at, Nanos now);
    void give_up_initialization();
    void bring_retry_forward(Nanos earliest);
    void demand_retry();
    void note_error(Nanos now);
    void note_end(const Slot& ended, Nanos now);
    void note_early_end();
    void trust();
    bool is_calm(Nanos now) const;
    bool may_close_condemned(const Slot& slot, Nanos now);
    Nanos stuck_after() const;
    void find_stuck(Nanos now);
    void give_up_one_stuck();
    void give_up_all_stuck();
    void give_up_newest_opening();
    void update_state(Nanos now);

    // pool_machine_sizing.cpp: how many connections, and when
    void fill(Nanos now, bool watched = false);
    void open_one(Nanos now);
    void close_slot(std::uint32_t index, CloseReason reason);
    void free_slot(std::uint32_t index);
    void settle(Nanos now);  // after any event that changed a count: serve, fill, state
    void maintain(Nanos now);
    void take_in_hand(Slot& slot, SlotState state, Nanos now);
    void let_go(Slot& slot);
    Nanos look_at_idle(std::uint32_t index, Nanos now);
    void wane(Slot& slot);
    void unwane(Slot& slot);
    void close_all_but_leased(CloseReason reason);
    void finish_shutdown();
    std::int64_t room() const;
    double random();

    Slot* find(SlotId id);
    const Slot* find(SlotId id) const;
    SlotId id_of(std::uint32_t index) const { return {index, slots_[index].generation}; }
    Action& emit(Action::Kind kind) { return actions_.emplace_back(Action{kind}); }  // has room: make_room()
    void make_room(std::size_t slots, std::size_t waiters);

    Config config_;
    const Nanos created_at_;
    PoolState state_ = PoolState::initializing;
    bool paused_ = false;

    std::vector<Slot> slots_;
    std::vector<std::uint32_t> free_;
    std::uint32_t newest_idle_ = kNone, oldest_idle_ = kNone;
    std::int64_t idle_ = 0, leased_ = 0, lost_leased_ = 0, opening_ = 0, cleaning_ = 0, checking_ = 0, waning_ = 0;
    std::int64_t over_grace_ = 0;  // cleaning or checking for longer than their grace
    std::int64_t stuck_ = 0;       // opening for long
    WaiterQueue waiters_;
    std::int64_t growth_at_once_ = 1;
    std::int64_t fill_at_once_ = 0;  // to reach min_size; 1 after a failure

    // Reconnection. next_try_at_ != kNever means that nothing is opened before then: the last attempt failed, or a
    // connection is on probation.
    std::int64_t failures_ = 0;
    // A connection that ends before its time is replaced at once. Those opened since the first such end are its
    // successors; where several of them end before they have proved themselves, that counts as a failed attempt, and
    // from then on connections are opened one at a time until one has proved itself.
    Nanos ends_since_ = kNoTime;
    int early_ends_ = 0;
    bool dying_ = false;
    // The same for connections whose server refuses to serve on though it lives, as one does that became read-only.
    Nanos condemned_since_ = kNoTime, last_condemned_ = kNoTime, next_condemned_at_ = kNoTime;
    Nanos usual_connect_ = 0;  // how long the last opening took
    Nanos stuck_at_ = kNever;  // when to look for openings that hang
    Nanos last_failure_at_ = kNoTime;
    Nanos last_try_at_ = kNoTime;
    Nanos next_try_at_ = kNever;

    Nanos maintenance_at_ = kNever;  // at the latest; each may turn out to be early
    Nanos leak_scan_at_ = kNever;
    Nanos shutdown_at_ = kNever;
    std::uint64_t random_;

    std::int64_t acquisitions_ = 0, releases_ = 0, timeouts_ = 0, rejected_ = 0;
    std::int64_t opened_ = 0, closed_ = 0, lost_ = 0, open_failures_ = 0, leaks_out_ = 0, peak_leased_ = 0;
    Nanos peak_wait_ = 0, last_round_trip_ = -kMillisecond;
    Nanos last_error_ = kNoTime, last_recovery_ = kNoTime, last_slow_ = kNoTime, last_leak_ = kNoTime,
          last_health_check_ = kNoTime;
    RecentMean recent_waits_;
    LatencyHistogram waits_;

    std::vector<Action> actions_, taken_;
};

}  // namespace pqpool
