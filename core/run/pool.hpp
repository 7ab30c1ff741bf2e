// The pool: the lock, the state machine, the keeper and the leases put together.
//
// Thread safety: every public function may be called from any thread, unless it says otherwise. One mutex guards the
// machine and the tables; no I/O happens under it but waking somebody. Log lines are written after it is released.
#pragma once

#include <array>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/base/options.hpp"
#include "core/decide/pool_machine.hpp"
#include "core/run/fork.hpp"
#include "core/run/keeper.hpp"
#include "core/run/lease.hpp"
#include "core/run/log.hpp"
#include "core/run/operation.hpp"

namespace pqpool {

// So long a queue may leave a granted connection untaken while others wait for one.
inline constexpr Nanos kGrantPatience = kSecond;

struct AcquireRequest {
    Nanos timeout = -2;     // kByOption: the option's; negative otherwise: no limit; 0: do not wait
    Nanos leak_limit = -2;  // kByOption: the option's; 0: not watched
    std::string_view tag;   // shown among the holders

    static constexpr Nanos kByOption = -2;
};

struct Holder {
    LeaseHandle lease = 0;
    double held_seconds = 0;
    int backend_pid = 0;  // 0 while the connection is being replaced
    std::string tag;
    std::string last_statement;
};

struct HealthReport {
    Health health = Health::unhealthy;
    PoolState state = PoolState::initializing;
    const char* database = "disconnected";  // connected, connecting, degraded, disconnected
    Statistics statistics;
    std::string last_error;
    bool behind_pooler = false;
};

// For what tells of something and is not the thing, such as a line of the log: without memory it is left out.
template <class Body>
void best_effort(Body&& body) noexcept {
    try {
        body();
    } catch (const std::exception&) {
    }
}

class Pool final : private KeeperClient {
  public:
    // Throws Error(configuration) with every broken rule; opens nothing.
    explicit Pool(const Options& options);
    ~Pool() override;  // shuts down at once; leases still out are broken
    Pool(const Pool&) = delete;

    const Options& options() const { return options_; }
    Log& log() { return log_; }

    // ---- life ----
    // Begins to open min_size connections; does not block. Once; where it throws, the pool is as before.
    void start();
    void wait_opened();            // blocks; throws Error(initialization), and the pool is terminated then
    void shutdown(Nanos timeout);  // blocks at most for the timeout (negative: no limit) and a moment
    // For a queue: `waiting` is answered through it.
    void ask_opened(Waiting& waiting);
    void ask_shutdown(Nanos timeout, Waiting& waiting);

    // ---- leases: blocking ----
    LeaseHandle acquire(const AcquireRequest& request);
    // timeout: kByOption, or negative for none. The result may hold the server's error; all else is thrown.
    Result execute(LeaseHandle lease, std::string_view sql, const Parameter* parameters, std::size_t count,
                   ResultFormat format, Nanos timeout);
    Result run(const AcquireRequest& request, std::string_view sql, const Parameter* parameters, std::size_t count,
               ResultFormat format, Nanos timeout);
    void release(LeaseHandle lease);  // also of asynchronous leases, from any thread; does not block
    void cancel(LeaseHandle lease);   // the statement under way ends with the server's error 57014; does not block
    pg_conn* raw_connection(LeaseHandle lease);
    // By the server's last word, without asking it. The lease's owner.
    TransactionStatus transaction_status(LeaseHandle lease) const;

    // ---- leases: for the completion queue ----
    // True where `waiting` is answered at once; else its queue is told.
    bool ask(const AcquireRequest& request, Waiting& waiting);
    bool ask_replacement(Lease& lease, Waiting& waiting, Nanos deadline);
    bool take_back(Waiting& waiting);             // false where it has been answered already
    Lease& find_lease(LeaseHandle handle) const;  // throws Error(released)
    void release_owned(Lease& lease);
    // The lease of this queue that stands next in the table, from place `at` on, which moves on; nullptr: no more.
    Lease* next_lease_of(const CompletionQueue& queue, std::size_t& at) const;
    void unpark(CompletionQueue& queue);  // it is polled again: its requests wait again
    void forget(CompletionQueue& queue);  // at its end
    void note_lost(const Lease& lease, bool in_validation = false);
    Nanos statement_deadline(Nanos timeout) const;
    Keeper& keeper() { return keeper_; }
    // What a statement that ran past its deadline ends with.
    static Error statement_timeout() noexcept;
    // What an acquire ends with whose connection has not answered its check by the deadline.
    Error acquire_timeout(Nanos patience) noexcept;
    bool checks_before_grant() const { return validation_ == Validation::blocking; }

    // ---- looking ----
    Statistics statistics();
    HealthReport health();
    PoolState state();
    std::string last_error();
    std::vector<Holder> holders();

    // ---- steering ----
    void resize(std::int64_t min_size, std::int64_t max_size);
    void drain();
    void pause();
    void resume();

    // ---- fork ----
    // In the child: the parent's sessions are let go of without a word. Nothing but destroying queues may follow.
    void abandon_after_fork();
    bool is_of_parent() const { return epoch_ != fork_epoch(); }

  private:
    enum class Validation { always, blocking, idle, never };
    class Locked;
    class InUse;

    void on_opened(SlotId slot, std::unique_ptr<Connection> connection, Nanos round_trip) override;
    void on_open_failed(SlotId slot, const Error& error, bool admitted) override;
    void on_checked(SlotId slot, std::unique_ptr<Connection> connection, bool alive, Nanos round_trip) override;
    void on_cleaned(SlotId slot, std::unique_ptr<Connection> connection, bool usable) override;
    void on_hang_up(SlotId slot) override;
    void on_fence() override;
    Nanos on_tick() override;
    void on_trouble(const Error& error) override;

    void carry_out() noexcept;
    void carry_out(const Action& action);
    void give_up(const Action& action);
    void log_action(const Action& action);
    void grant(SlotId slot, Waiting& waiting);
    void fail(Waiting& waiting, Error error);
    void answer(Waiting& waiting);
    void answer_all(WaitingList& list);
    void fail_all(WaitingList& list, ErrorKind kind);
    void add_lease();
    LeaseHandle handle_of(const Lease& lease) const {
        return handle_bits_ | lease.generation << kLeaseIndexBits | lease.index;
    }
    Lease& new_lease(SlotId slot, Waiting& waiting, Nanos now);
    void give_back(Lease& lease, const ReturnedConnection& condition, Nanos now);
    void watch_grant(CompletionQueue& queue, Nanos now);
    void park_stalled(Nanos now);
    Nanos next_tick() const { return std::min(machine_.next_deadline(), look_for_stalled_at_); }
    std::unique_ptr<Connection>& connection_of(SlotId slot);
    void put(SlotId slot, Lease& lease, Nanos now);
    Lease& begin_use(LeaseHandle handle);
    void end_use(Lease& lease);
    Result drive(Operation& operation);
    bool wait_for(Operation& operation, Need need);
    Error refusal(ErrorKind kind, Nanos patience) const;
    Error refusal_or_less(ErrorKind kind, Nanos patience) const noexcept;
    Error initialization_error(std::string_view sqlstate) const;
    void note_loss(std::string message);
    std::vector<Holder> holders_locked() const;
    void add_log(LogLevel level, std::string message, LogContext context, LeaseHandle subject = 0);
    static std::string seconds_text(Nanos t);
    std::string name_of_connection(SlotId slot) const;
    // What every line about a connection holds; connection: where it is known and not in the tables.
    LogContext about(SlotId slot, const Connection* connection = nullptr) const;
    // The same in words, for who reads messages only: "conn-1.2 (server process 4711, pool db1:5432/app)".
    std::string label(SlotId slot, const Connection* connection = nullptr) const;
    const Connection* known_connection(SlotId slot) const;

    struct PendingLine {
        LogLevel level;
        std::string message;
        LogContext context;
        LeaseHandle subject;
    };

    const std::uint32_t epoch_ = fork_epoch();
    const LeaseHandle handle_bits_;  // what the handles of all its leases have in common
    const Options options_;
    const Validation validation_;
    const Nanos timeout_, leak_limit_, command_timeout_, validation_idle_, validation_await_;
    const ConnectPlan plan_;
    const std::string name_;              // in the log
    const std::int64_t unix_us_at_zero_;  // of the monotonic clock's zero
    Log log_;

    std::mutex start_mutex_;    // of start(); taken before the fork register's
    mutable std::mutex mutex_;  // guards all down to keeper_
    PoolMachine machine_;
    std::vector<std::unique_ptr<Connection>>
        connections_;  // by slot; those the pool holds: idle ones, and those on their way to the keeper
    LeaseTable leases_;
    std::vector<std::uint32_t> free_leases_;
    std::vector<std::uint32_t> lease_of_slot_;
    WaitingList opening_waiters_, shutdown_waiters_;
    // Queues that were told of a grant and may not have taken it yet; and the requests of those that did not, until
    // they are polled again. See pool_stalled.cpp.
    CompletionQueue* told_ = nullptr;
    WaitingList parked_;
    Nanos look_for_stalled_at_ = kNever;
    std::vector<PendingLine> lines_;  // of the log, still to be written
    bool writes_log_ = false;         // a thread is at it
    std::string last_error_, last_cure_;
    std::optional<Error> init_error_;
    bool behind_pooler_ = false;
    bool opened_ = false;       // min_size connections stood once
    bool closed_down_ = false;  // terminated, and the keeper has closed all it had
    bool started_ = false;
    Nanos keeper_wakes_at_ = kNever;

    Keeper keeper_;
};

// Holds the pool's lock. At its end: carries out what the machine decided, wakes the keeper where it must come earlier,
// and writes the log lines after the lock is released; lines that come while another thread writes are that thread's,
// so that they keep their order.
class Pool::Locked {
  public:
    explicit Locked(Pool& pool) : pool_(pool) { pool.mutex_.lock(); }
    ~Locked() {  // fails in nothing: what it needs was had when the slot was opened, or is left out
        if (!pool_.machine_.actions().empty()) pool_.carry_out();
        if (const Nanos next = pool_.next_tick(); next < pool_.keeper_wakes_at_) {
            pool_.keeper_wakes_at_ = next;
            pool_.keeper_.wake();
        }
        if (!pool_.lines_.empty() && !pool_.writes_log_) write_lines();
        pool_.mutex_.unlock();
    }
    Locked(const Locked&) = delete;

  private:
    void write_lines() {
        pool_.writes_log_ = true;
        for (std::vector<PendingLine> lines; !pool_.lines_.empty(); lines.clear()) {
            lines.swap(pool_.lines_);
            pool_.mutex_.unlock();
            for (auto& line : lines)
                best_effort([&] { pool_.log_.write(line.level, std::move(line.message), line.context, line.subject); });
            pool_.mutex_.lock();
        }
        pool_.writes_log_ = false;
    }

    Pool& pool_;
};

}  // namespace pqpool
