// Leases: acquiring, running statements, giving back.
#include <algorithm>
#include <cinttypes>
#include <cstdio>

#include "core/base/thread_own.hpp"
#include "core/run/completion_queue.hpp"
#include "core/run/pool.hpp"

namespace pqpool {

namespace {

// Of the round trip that tells libpq where the session stands.
constexpr Nanos kLoanPatience = 5 * kSecond;

// Each thread's own, so that a statement after the first allocates nothing.
Operation& operation_of_thread() { return ThreadOwn<Operation>::get(); }

}  // namespace

// The lease is this thread's for the length of one blocking call.
class Pool::InUse {
  public:
    InUse(Pool& pool, LeaseHandle handle) : pool_(pool), lease_(pool.begin_use(handle)) {}
    ~InUse() { pool_.end_use(lease_); }
    InUse(const InUse&) = delete;
    Lease& lease() const { return lease_; }

  private:
    Pool& pool_;
    Lease& lease_;
};

Error Pool::refusal(ErrorKind kind, Nanos patience) const {
    Statistics s;
    machine_.fill_statistics(s, monotonic_now(), unix_us_at_zero_);
    char counts[160];
    std::snprintf(counts, sizeof counts,
                  "total %" PRId64 ", active %" PRId64 ", idle %" PRId64 ", waiting %" PRId64 ", max_size %" PRId64,
                  s.total_connections, s.active_connections, s.idle_connections, s.waiting_requests,
                  machine_.max_size());
    switch (kind) {
        case ErrorKind::timeout: {
            std::string message = "no connection became free within the timeout of " + seconds_text(patience) +
                                  " seconds (" + counts + ")";
            if (s.live_connections == 0 && !last_error_.empty())
                return {kind,
                        message + ". The server is not reachable: " + last_error_ + ". Suggestion: " + last_cure_};
            const auto holders = holders_locked();
            for (std::size_t i = 0; i < holders.size() && i < 3; i++) {
                message += i == 0 ? ". Held longest: " : "; ";
                message += (holders[i].tag.empty() ? "lease " + std::to_string(holders[i].lease) : holders[i].tag) +
                           " for " + seconds_text(from_seconds(holders[i].held_seconds)) + " s";
                if (!holders[i].last_statement.empty())
                    message += " (last statement: " + holders[i].last_statement + ")";
            }
            return {kind, message +
                              ". Suggestion: Increase POOL_MAX_SIZE, shorten what is done on a connection, or look for "
                              "leases that are not released"};
        }
        case ErrorKind::too_many_requests:
            return {kind, std::string("the pool's queue is full: max_waiting requests are waiting already (") + counts +
                              "). Suggestion: Increase POOL_MAX_WAITING or shed load earlier"};
        case ErrorKind::closed:
            return {kind, std::string("the pool is ") +
                              (machine_.state() == PoolState::terminated ? "closed" : "shutting down") +
                              ". Suggestion: open a new pool"};
        case ErrorKind::cancelled:
            return {kind, "the request was cancelled"};
        default:
            return {kind, "the request could not be served"};
    }
}

Error Pool::refusal_or_less(ErrorKind kind, Nanos patience) const noexcept {
    try {
        return kind == ErrorKind::initialization && init_error_ ? *init_error_ : refusal(kind, patience);
    } catch (const std::bad_alloc&) {
        return error_of(kind, "out of memory");
    }
}

bool Pool::ask(const AcquireRequest& request, Waiting& waiting) {
    const Nanos now = monotonic_now();
    waiting.patience = request.timeout == AcquireRequest::kByOption ? timeout_ : request.timeout;
    waiting.deadline = deadline_after(now, waiting.patience);
    waiting.tag.clear();
    if (!request.tag.empty()) waiting.tag = valid_utf8(std::string(request.tag));
    const Nanos leak_limit = request.leak_limit == AcquireRequest::kByOption ? leak_limit_
                             : request.leak_limit <= 0                       ? kNever
                                                                             : request.leak_limit;
    waiting.leak_limit = leak_limit;
    Locked locked(*this);
    if (!started_)
        throw Error(ErrorKind::not_initialized,
                    "the pool has not been opened. Suggestion: call initialize(config), or pqpool_open, first");
    if (free_leases_.empty()) add_lease();  // before a connection is taken for it
    const AcquireAnswer answer = machine_.acquire(now, waiting.deadline, leak_limit, &waiting);
    switch (answer.kind) {
        case AcquireAnswer::Kind::granted:
            waiting.lease = &new_lease(answer.slot, waiting, now);
            machine_.record_wait(monotonic_now() - now);
            return true;
        case AcquireAnswer::Kind::refused:
            throw refusal(answer.error, waiting.patience);
        case AcquireAnswer::Kind::waiting:
            break;
    }
    waiting.waiter = answer.waiter;
    if (told_) look_for_stalled_at_ = std::min(look_for_stalled_at_, now + kGrantPatience);
    return false;
}

bool Pool::ask_replacement(Lease& lease, Waiting& waiting, Nanos deadline) {
    const Nanos now = monotonic_now();
    waiting.what = Waiting::For::replacement;
    waiting.lease = &lease;
    waiting.deadline = std::min(deadline, deadline_after(now, lease.patience));
    waiting.patience = waiting.deadline == kNever ? -1 : std::max<Nanos>(0, waiting.deadline - now);
    Locked locked(*this);
    if (lease.aborted.load()) throw refusal(ErrorKind::closed, 0);
    if (lease.connection) {
        best_effort([&] {
            const std::string reason = lease.connection->loss_message();
            add_log(LogLevel::warning,
                    "Connection validation failed; replacing it: " + label(lease.slot, lease.connection.get()) + ": " +
                        reason,
                    about(lease.slot, lease.connection.get()).add("reason", reason), lease.handle.load());
        });
        keeper_.close(std::move(lease.connection));
        lease_of_slot_[lease.slot.index] = UINT32_MAX;
    }
    const AcquireAnswer answer = machine_.replace(lease.slot, now, waiting.deadline, &waiting);
    if (answer.kind == AcquireAnswer::Kind::refused) throw refusal(answer.error, waiting.patience);
    if (answer.kind == AcquireAnswer::Kind::granted) put(answer.slot, lease, now);
    waiting.waiter = answer.waiter;
    return answer.kind == AcquireAnswer::Kind::granted;
}

bool Pool::take_back(Waiting& waiting) {
    Locked locked(*this);
    if (waiting.what == Waiting::For::opening) return opening_waiters_.remove(waiting);
    if (waiting.what == Waiting::For::shutdown) return shutdown_waiters_.remove(waiting);
    return parked_.remove(waiting) || machine_.cancel(waiting.waiter);
}

LeaseHandle Pool::acquire(const AcquireRequest& request) {
    Waiting waiting;
    if (!ask(request, waiting)) waiting.wait();
    if (waiting.error) throw *waiting.error;
    Lease& lease = *waiting.lease;
    const LeaseHandle handle = lease.handle.load(std::memory_order_relaxed);
    if (!checks_before_grant() || !lease.needs_check) return handle;
    try {
        Operation& operation = operation_of_thread();
        operation.begin(lease, false, waiting.deadline);
        const Result result = drive(operation);
        if (!result.error()) return handle;
        if (result.error()->kind == ErrorKind::statement_timeout) throw acquire_timeout(waiting.patience);
        throw *result.error();
    } catch (...) {
        release(handle);
        throw;
    }
}

Lease& Pool::find_lease(LeaseHandle handle) const {
    const bool names_a_pool = (handle & kLeasePoolMask) != 0;
    if (names_a_pool && handle >> kLeasePoolShift != handle_bits_ >> kLeasePoolShift) {
        if (epoch_ != 0 && handle >> kLeaseEpochShift != (epoch_ & kLeaseEpochMask))
            throw Error(ErrorKind::forked,
                        "the lease belongs to the parent process. Suggestion: acquire one in this process");
        throw Error(ErrorKind::invalid_argument,
                    "the lease is not of this pool. Suggestion: pass the pool that it was acquired from");
    }
    Lease* lease = leases_.find(handle);
    if (!lease || lease->handle.load(std::memory_order_acquire) != handle)
        throw Error(ErrorKind::released,
                    "the lease was released already. Suggestion: acquire a new one; a connection may not be kept "
                    "beyond its release");
    return *lease;
}

Lease& Pool::begin_use(LeaseHandle handle) {
    Lease& lease = find_lease(handle);
    if (lease.queue)
        throw Error(
            ErrorKind::invalid_argument,
            "the lease was acquired through a completion queue. Suggestion: use pqpool_execute_async on that queue");
    auto use = Lease::Use::none;
    if (!lease.use.compare_exchange_strong(use, Lease::Use::call, std::memory_order_acquire))
        throw Error(ErrorKind::busy,
                    "another statement is under way on this lease. Suggestion: await it, or acquire one lease for each "
                    "concurrent statement");
    if (lease.handle.load(std::memory_order_relaxed) == handle) return lease;
    lease.use.store(Lease::Use::none, std::memory_order_release);
    return find_lease(handle);  // throws: released just now
}

void Pool::end_use(Lease& lease) {
    auto use = Lease::Use::call;
    if (lease.use.compare_exchange_strong(use, Lease::Use::none, std::memory_order_release)) return;
    // Another thread asked for a cancel, and has to be done with that. Where its request is being sent, the connection
    // takes no other statement before.
    Locked locked(*this);
    if (lease.foreign_cancel && !lease.foreign_cancel->call_off() && lease.connection)
        lease.connection->adopt_cancel(std::move(lease.foreign_cancel));
    lease.foreign_cancel.reset();
    lease.use.store(Lease::Use::none, std::memory_order_release);
}

Nanos Pool::statement_deadline(Nanos timeout) const {
    return deadline_after(monotonic_now(), timeout == AcquireRequest::kByOption ? command_timeout_ : timeout);
}

Result Pool::execute(LeaseHandle handle, std::string_view sql, const Parameter* parameters, std::size_t count,
                     ResultFormat format, Nanos timeout) {
    const InUse in_use(*this, handle);
    Lease& lease = in_use.lease();
    Operation& operation = operation_of_thread();
    operation.statement().assign(sql, parameters, count, format);
    operation.begin(lease, true, statement_deadline(timeout));
    Result result = drive(operation);
    if (lease.connection && lease.connection->is_lost())
        note_lost(lease, result.error() && result.error()->kind == ErrorKind::validation);
    if (result.error() && result.error()->kind != ErrorKind::query) throw *result.error();
    return result;
}

Result Pool::run(const AcquireRequest& request, std::string_view sql, const Parameter* parameters, std::size_t count,
                 ResultFormat format, Nanos timeout) {
    const LeaseHandle lease = acquire(request);
    try {
        Result result = execute(lease, sql, parameters, count, format, timeout);
        release(lease);
        return result;
    } catch (...) {
        release(lease);
        throw;
    }
}

Result Pool::drive(Operation& operation) {
    for (;;) {
        const Need need = operation.resume();
        if (need == Need::nothing) return operation.take_result();
        try {
            if (!wait_for(operation, need)) {
                Connection& connection = *operation.lease().connection;
                if (!connection.has_cancel()) keeper_.send_cancel(connection.make_cancel());
                operation.fail(statement_timeout());
            }
        } catch (...) {
            const Connection* connection = operation.lease().connection.get();
            if (connection && connection->is_busy())
                operation.break_off(error_under_way());
            else
                operation.fail(error_under_way());
            return operation.take_result();
        }
        if (operation.is_done()) return operation.take_result();
    }
}

// False at the deadline.
bool Pool::wait_for(Operation& operation, Need need) {
    Lease& lease = operation.lease();
    if (need == Need::replacement) {
        Waiting waiting;
        if (!ask_replacement(lease, waiting, operation.deadline())) waiting.wait();
        if (waiting.error) throw *waiting.error;
        return true;
    }
    Connection& connection = *lease.connection;
    if (need == Need::settle && !connection.is_busy()) return connection.wait_until_settled(operation.deadline());
    const std::uint32_t what = Poller::kRead | (need == Need::write ? Poller::kWrite : 0);
    return wait_for_socket(connection.fd(), what, operation.deadline());
}

Error Pool::acquire_timeout(Nanos patience) noexcept {
    Locked locked(*this);
    const Nanos now = monotonic_now();
    machine_.timed_out(now - patience, now);
    return refusal_or_less(ErrorKind::timeout, patience);
}

Error Pool::statement_timeout() noexcept {
    return error_of(ErrorKind::statement_timeout,
                    "the statement took longer than its timeout and is being cancelled. Suggestion: raise "
                    "command_timeout or this call's timeout, or make the statement faster");
}

void Pool::cancel(LeaseHandle handle) {
    Lease& lease = find_lease(handle);
    keeper_.be_ready_to_cancel();
    Locked locked(*this);
    if (lease.handle.load() != handle || !lease.connection) return;
    auto use = Lease::Use::call;
    if (!lease.use.compare_exchange_strong(use, Lease::Use::cancel_asked) && use != Lease::Use::cancel_asked) return;
    if (lease.foreign_cancel) return;  // under way, and repeated until it hits
    lease.foreign_cancel = lease.connection->cancel_from_outside();
    keeper_.send_cancel(lease.foreign_cancel);
}

void Pool::note_lost(const Lease& lease, bool in_validation) {
    Locked locked(*this);
    best_effort([&] {
        note_loss(lease.connection->loss_message());
        if (in_validation)
            add_log(LogLevel::warning,
                    "Connection validation failed; whether the statement behind it was executed is unknown, so it is "
                    "not sent again: " +
                        label(lease.slot, lease.connection.get()) + ": " + last_error_,
                    about(lease.slot, lease.connection.get()).add("reason", last_error_), lease.handle.load());
    });
    machine_.lost(lease.slot, monotonic_now());
}

pg_conn* Pool::raw_connection(LeaseHandle handle) {
    const InUse in_use(*this, handle);
    Lease& lease = in_use.lease();
    Operation& operation = operation_of_thread();
    operation.begin(lease, false, deadline_after(monotonic_now(), lease.patience));
    const Result result = drive(operation);  // the raw connection is validated before anything else
    if (result.error()) throw *result.error();
    lease.is_fresh = false;  // what the caller does on it is not known
    if (pg_conn* raw = lease.connection->lend(kLoanPatience)) return raw;
    throw Error(ErrorKind::connection_lost, "the connection is lost: " + lease.connection->loss_message());
}

TransactionStatus Pool::transaction_status(LeaseHandle handle) const {
    const Lease& lease = find_lease(handle);
    return lease.connection ? lease.connection->transaction_status() : TransactionStatus::idle;
}

void Pool::release(LeaseHandle handle) {
    Lease& lease = find_lease(handle);
    LeaseHandle expected = handle;
    if (CompletionQueue* queue = lease.queue) {
        if (!lease.handle.compare_exchange_strong(expected, 0)) find_lease(handle);  // throws
        if (lease.queue_thread == this_thread()) return queue->release(lease);
        // Unless another thread is freeing the queue, and this lease with it.
        std::lock_guard lock(mutex_);
        if (lease.queue == queue && handle_of(lease) == handle) queue->release(lease);
        return;
    }
    auto use = Lease::Use::none;
    if (!lease.use.compare_exchange_strong(use, Lease::Use::release, std::memory_order_acquire))
        throw Error(ErrorKind::busy,
                    "a statement is under way on this lease in another thread. Suggestion: wait for it, or call "
                    "pqpool_cancel, before releasing");
    if (!lease.handle.compare_exchange_strong(expected, 0)) {
        lease.use.store(Lease::Use::none, std::memory_order_release);
        find_lease(handle);  // throws
    }
    release_owned(lease);
}

// The caller has the lease to itself; its handle may still stand.
void Pool::release_owned(Lease& lease) {
    ReturnedConnection condition;
    if (Connection* connection = lease.connection.get()) {
        condition.broken =
            connection->is_lost() || lease.hung_up.load(std::memory_order_relaxed) || !connection->take_back();
        condition.dirty = !condition.broken && connection->needs_cleaning();
        condition.condemned = connection->is_condemned();
        condition.queries = connection->queries();
    }
    Locked locked(*this);
    // When nobody waits, the time only says since when the connection is idle.
    give_back(lease, condition, machine_.waiting() > 0 ? monotonic_now() : coarse_now());
}

void Pool::give_back(Lease& lease, const ReturnedConnection& condition, Nanos now) {
    if (lease.connection && !condition.broken && !condition.dirty) lease.connection->end_lease(now);
    const LeaseHandle handle = handle_of(lease);
    lease.handle.store(0, std::memory_order_release);
    lease.operation = nullptr;
    if (log_.is_enabled(LogLevel::debug))
        best_effort([&] {
            add_log(LogLevel::debug, "Connection released",
                    about(lease.slot, lease.connection.get())
                        .add("held_duration_seconds", to_seconds(std::max<Nanos>(now - lease.leased_at, 0))),
                    handle);
        });
    if (!lease.connection) {
        machine_.released_without_connection();
    } else if (lease.aborted.load()) {
        keeper_.close(std::move(lease.connection));  // its slot went with the shutdown
        machine_.released_without_connection();
    } else {
        connections_[lease.slot.index] = std::move(lease.connection);
        lease_of_slot_[lease.slot.index] = UINT32_MAX;
        machine_.released(lease.slot, condition, now);
    }
    lease.queue = nullptr;
    lease.use.store(Lease::Use::none, std::memory_order_release);
    free_leases_.push_back(lease.index);
}

void Pool::abandon_after_fork() {
    remove_from_fork_register(mutex_);
    for (auto& connection : connections_)
        if (connection) connection->abandon_after_fork(false);
    for (std::size_t i = 0; i < leases_.size(); i++)
        if (leases_.at(i).connection) leases_.at(i).connection->abandon_after_fork(true);
}

Lease* Pool::next_lease_of(const CompletionQueue& queue, std::size_t& at) const {
    std::lock_guard lock(mutex_);
    while (at < leases_.size())
        if (Lease& lease = leases_.at(at++); lease.queue == &queue) return &lease;
    return nullptr;
}

}  // namespace pqpool
