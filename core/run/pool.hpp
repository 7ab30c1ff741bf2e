// The pool: the lock, the state machine, the keeper and the leases put together. Who waits for an answer is told
// through a Waiting; blocking.hpp and completion_queue.hpp are the two ways to wait.
//
// Thread safety: every public function may be called from any thread, unless it says otherwise. One mutex guards the
// machine and the tables; no I/O happens under it but waking somebody. Log lines are written after it is released.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/base/options.hpp"
#include "core/decide/pool_machine.hpp"
#include "core/run/acquire_request.hpp"
#include "core/run/action_log.hpp"
#include "core/run/event_log.hpp"
#include "core/run/fork.hpp"
#include "core/run/health_report.hpp"
#include "core/run/keeper.hpp"
#include "core/run/last_failure.hpp"
#include "core/run/lease_table.hpp"
#include "core/run/seats.hpp"
#include "core/run/stalled_queues.hpp"
#include "core/run/validation.hpp"
#include "core/run/waiting.hpp"

namespace pqpool {

class Pool final : private KeeperClient {
  public:
    // Throws Error(configuration) with every broken rule; opens nothing.
    explicit Pool(const Options& options);
    ~Pool() override;  // shuts down at once; leases still out are broken
    Pool(const Pool&) = delete;

    const Options& options() const { return options_; }
    Log& log() { return events_.log(); }

    // ---- life ----
    // Begins to open min_size connections; does not block. Once; where it throws, the pool is as before.
    void start();
    // Answered with Error(initialization) where they cannot be had, and the pool is terminated then.
    void ask_opened(Waiting& waiting);
    void ask_shutdown(Nanos timeout, Waiting& waiting);  // negative: no limit
    void shutdown(Nanos timeout);                        // blocks at most for the timeout and a moment

    // ---- leases ----
    // True where `waiting` is answered at once; else it will be.
    bool ask(const AcquireRequest& request, Waiting& waiting);
    bool ask_replacement(Lease& lease, Waiting& waiting, Nanos deadline);
    bool take_back(Waiting& waiting);  // false where it has been answered already
    Lease& find_lease(LeaseHandle handle) const { return leases_.find(handle); }  // throws as that does
    void release(LeaseHandle handle);                                             // does not block
    void release_owned(Lease& lease);                                             // the caller has it to itself
    // The statement of a blocking call that is under way ends with the server's error 57014; does not block.
    void cancel(LeaseHandle handle);
    void end_foreign_cancel(Lease& lease);  // the lease's owner, when that call has ended
    void note_lost(const Lease& lease, bool in_validation = false);
    // By the server's last word, without asking it. The lease's owner.
    TransactionStatus transaction_status(LeaseHandle handle) const;
    Nanos statement_deadline(Nanos timeout) const;  // kByOption, or negative for none
    // What an acquire ends with whose connection has not answered its check by the deadline.
    Error acquire_timeout(Nanos patience) noexcept;
    bool checks_before_grant() const { return validation_.comes_before_grant(); }
    Keeper& keeper() { return keeper_; }

    // ---- for the completion queue ----
    // The lease of this queue that stands next in the table, from place `at` on, which moves on; nullptr: no more.
    Lease* next_lease_of(const Inbox& queue, std::size_t& at) const;
    void unpark(const Inbox& queue);  // it is polled again: its requests wait again
    void forget(const Inbox& queue);  // at its end

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
    class Locked;

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
    void close(const Action& action);
    void break_lease(const Action& action);
    void grant(SlotId slot, Waiting& waiting);
    void answer_all(WaitingList& list);
    void fail_all(WaitingList& list, ErrorKind kind);
    Lease& new_lease(SlotId slot, Waiting& waiting, Nanos now);
    void put(SlotId slot, Lease& lease, Nanos now);
    void give_back(Lease& lease, const ReturnedConnection& condition, Nanos now);
    Nanos next_tick() const { return std::min(machine_.next_deadline(), stalled_.look_at()); }
    bool is_initializing() const { return machine_.state() == PoolState::initializing; }
    Error refused(ErrorKind kind, Nanos patience) const;
    Error refused_or_less(ErrorKind kind, Nanos patience) const noexcept;

    const std::uint32_t epoch_ = fork_epoch();
    const Options options_;
    const Validation validation_;
    const Nanos timeout_, leak_limit_, command_timeout_;
    const ConnectPlan plan_;
    const std::int64_t unix_us_at_zero_;  // of the monotonic clock's zero

    std::mutex start_mutex_;    // of start(); taken before the fork register's
    mutable std::mutex mutex_;  // guards all down to keeper_
    PoolMachine machine_;
    Seats seats_;
    LeaseTable leases_{epoch_};  // finds a lease without the lock
    WaitingList opening_waiters_, shutdown_waiters_;
    StalledQueues stalled_;
    EventLog events_;
    LastFailure last_failure_{plan_};
    ActionLog action_log_{events_, options_, machine_, seats_, last_failure_};
    bool behind_pooler_ = false;
    bool opened_ = false;       // min_size connections stood once
    bool closed_down_ = false;  // terminated, and the keeper has closed all it had
    bool started_ = false;
    Nanos keeper_wakes_at_ = kNever;

    Keeper keeper_;
};

}  // namespace pqpool
