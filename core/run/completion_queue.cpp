#include "core/run/completion_queue.hpp"

#include <algorithm>

namespace pqpool {

namespace {
constexpr std::uint64_t kWakeKey = UINT64_MAX, kTimerKey = UINT64_MAX - 1;
}  // namespace

// A call of the owner's, from its first line to its last.
class CompletionQueue::InCall {
  public:
    explicit InCall(CompletionQueue& queue) : queue_(queue) {
        if (this_thread() != queue.inbox_.thread())
            throw Error(ErrorKind::invalid_argument,
                        "the completion queue is used by another thread than its own. Suggestion: open one queue in "
                        "each thread");
        queue_.in_call_.store(true, std::memory_order_release);
    }
    ~InCall() { queue_.in_call_.store(false, std::memory_order_release); }
    InCall(const InCall&) = delete;

  private:
    CompletionQueue& queue_;
};

// An operation that is freed again where its submit fails.
class CompletionQueue::Submission {
  public:
    Submission(CompletionQueue& queue, AsyncOperation::Kind kind, void* user_data)
        : operation(queue.operations_.add(kind, user_data)), queue_(queue) {}
    ~Submission() {
        if (!kept_) queue_.operations_.free(operation);
    }
    Submission(const Submission&) = delete;

    std::uint64_t keep() {
        kept_ = true;
        return operation.completion.id;
    }

    AsyncOperation& operation;

  private:
    CompletionQueue& queue_;
    bool kept_ = false;
};

CompletionQueue::CompletionQueue(std::shared_ptr<Pool> pool) : pool_(std::move(pool)) {
    poller_.watch(inbox_.wakeup()->fd(), Poller::kRead, kWakeKey);
    poller_.make_timer(kTimerKey);
}

CompletionQueue::~CompletionQueue() {
    pool_->log().stop_listening(this);
    for (auto& operation : operations_) {
        if (!operation.active || !operation.waiting) continue;
        pool_->take_back(*operation.waiting);
        operation.waits_for_pool = false;
    }
    pool_->forget(inbox_);
    // From here on nothing comes from the pool any more. What it granted last, and what others released or release at
    // this moment, is among these.
    inbox_.take();
    for (std::size_t at = 0; Lease* lease = pool_->next_lease_of(inbox_, at);) {
        lease->handle.store(0);
        on_release(*lease);
    }
}

std::uint64_t CompletionQueue::acquire(const AcquireRequest& request, void* user_data, LeaseHandle& lease) {
    const InCall in_call(*this);
    Submission submission(*this, AsyncOperation::Kind::acquire, user_data);
    AsyncOperation& operation = submission.operation;
    if (!ask(operation, request)) return submission.keep();
    Lease& found = *operation.waiting->lease;
    if (pool_->checks_before_grant() && found.needs_check) {
        granted(operation);
        return submission.keep();
    }
    try {
        sockets_.add(found);
    } catch (...) {
        let_go(found);
        throw;
    }
    lease = found.handle.load(std::memory_order_relaxed);
    return 0;
}

// True where the pool had a connection at once; else the operation waits for one.
bool CompletionQueue::ask(AsyncOperation& operation, const AcquireRequest& request) {
    Waiting& waiting = operation.waiting.emplace();
    waiting.queue = &inbox_;
    waiting.operation = &operation;
    operation.waits_for_pool = !pool_->ask(request, waiting);
    return !operation.waits_for_pool;
}

std::uint64_t CompletionQueue::run(const AcquireRequest& request, std::string_view sql, const Parameter* parameters,
                                   std::size_t count, ResultFormat format, Nanos timeout, void* user_data) {
    const InCall in_call(*this);
    Submission submission(*this, AsyncOperation::Kind::run, user_data);
    AsyncOperation& operation = submission.operation;
    operation.operation.statement().assign(sql, parameters, count, format);
    operation.statement_timeout = timeout;
    if (ask(operation, request)) granted(operation);
    return submission.keep();
}

// Throws with nothing begun.
void CompletionQueue::begin(AsyncOperation& operation, Lease& lease, bool has_statement, Nanos deadline) {
    prepare(lease, deadline);
    operation.operation.begin(lease, has_statement, deadline);
    lease.operation = &operation;
    go_on(operation);
}

std::uint64_t CompletionQueue::execute(LeaseHandle handle, std::string_view sql, const Parameter* parameters,
                                       std::size_t count, ResultFormat format, Nanos timeout, void* user_data) {
    const InCall in_call(*this);
    Lease& lease = pool_->find_lease(handle);
    if (lease.queue != &inbox_)
        throw Error(ErrorKind::invalid_argument, "the lease was not acquired through this queue");
    if (lease.operation)
        throw Error(ErrorKind::busy,
                    "another statement is under way on this lease. Suggestion: await it, or acquire one lease for each "
                    "concurrent statement");
    Submission submission(*this, AsyncOperation::Kind::execute, user_data);
    submission.operation.operation.statement().assign(sql, parameters, count, format);
    begin(submission.operation, lease, true, pool_->statement_deadline(timeout));
    return submission.keep();
}

std::uint64_t CompletionQueue::await_opened(void* user_data) {
    const InCall in_call(*this);
    Submission submission(*this, AsyncOperation::Kind::opening, user_data);
    Waiting& waiting = submission.operation.waiting.emplace();
    waiting.what = Waiting::For::opening;
    waiting.queue = &inbox_;
    waiting.operation = &submission.operation;
    pool_->ask_opened(waiting);
    return submission.keep();
}

std::uint64_t CompletionQueue::shut_down(Nanos timeout, void* user_data) {
    const InCall in_call(*this);
    Submission submission(*this, AsyncOperation::Kind::shutdown, user_data);
    Waiting& waiting = submission.operation.waiting.emplace();
    waiting.what = Waiting::For::shutdown;
    waiting.queue = &inbox_;
    waiting.operation = &submission.operation;
    pool_->ask_shutdown(timeout, waiting);
    return submission.keep();
}

// Drives the operation as far as it goes without waiting.
void CompletionQueue::go_on(AsyncOperation& operation, bool readable) {
    Lease& lease = operation.operation.lease();
    Need need = Need::nothing;
    try {
        if (lease.connection && !operation.operation.is_done()) prepare(lease, operation.operation.deadline());
        need = operation.operation.resume();
        if (need == Need::write)
            sockets_.watch(lease, Poller::kRead | Poller::kWrite);
        else if (need == Need::read || need == Need::settle)
            sockets_.watch(lease, Poller::kRead);
    } catch (...) {
        need = operation.operation.break_off(error_under_way());
    }
    operations_.set_settles(operation, need == Need::settle);
    if (need == Need::replacement) return replace(operation);
    if (need != Need::nothing) {
        more_ |= readable;
        return;
    }
    lease.operation = nullptr;
    Result result = operation.operation.take_result();
    if (lease.connection && lease.connection->is_lost())
        pool_->note_lost(lease, result.error() && result.error()->kind == ErrorKind::validation);
    if (operation.kind == AsyncOperation::Kind::execute) return operations_.complete(operation, 0, std::move(result));
    const LeaseHandle handle = lease.handle.load(std::memory_order_relaxed);
    if (operation.kind == AsyncOperation::Kind::acquire && !result.error())
        return operations_.complete(operation, handle, Result());
    let_go(lease);
    operations_.complete(operation, 0, std::move(result));
}

void CompletionQueue::replace(AsyncOperation& operation) {
    Lease& lease = operation.operation.lease();
    sockets_.leave(lease);
    Waiting& waiting = operation.waiting.emplace();
    waiting.queue = &inbox_;
    waiting.operation = &operation;
    try {
        if (!pool_->ask_replacement(lease, waiting, operation.operation.deadline())) {
            operation.waits_for_pool = true;
            return;
        }
    } catch (...) {
        operation.operation.fail(error_under_way());
    }
    go_on(operation);
}

void CompletionQueue::granted(AsyncOperation& operation) {
    Lease& lease = *operation.waiting->lease;
    try {
        sockets_.add(lease);
        if (operation.kind == AsyncOperation::Kind::run)
            return begin(operation, lease, true, pool_->statement_deadline(operation.statement_timeout));
        if (pool_->checks_before_grant() && lease.needs_check)
            return begin(operation, lease, false, operation.waiting->deadline);
    } catch (...) {
        Result failure(error_under_way());
        let_go(lease);
        return operations_.complete(operation, 0, std::move(failure));
    }
    operations_.complete(operation, lease.handle.load(std::memory_order_relaxed), Result());
}

// The pool has answered what the operation waits for.
void CompletionQueue::answered(AsyncOperation& operation) {
    operation.waits_for_pool = false;
    Waiting& waiting = *operation.waiting;
    if (waiting.what == Waiting::For::replacement) {
        if (waiting.error) operation.operation.fail(std::move(*waiting.error));
        return go_on(operation);
    }
    if (waiting.error) return operations_.complete(operation, 0, Result(std::move(*waiting.error)));
    if (waiting.what == Waiting::For::acquire) return granted(operation);
    operations_.complete(operation, 0, Result());
}

// Had before anything is sent: the socket stands in the set, and the timer is set.
void CompletionQueue::prepare(Lease& lease, Nanos deadline) {
    arm(deadline);  // the timer passes over operations that wait for the pool, so it may have gone off meanwhile
    if (!lease.connection) return;
    sockets_.keep_watching(lease);
}

bool CompletionQueue::cancel(std::uint64_t id) {
    const InCall in_call(*this);
    AsyncOperation* operation = operations_.find(id);
    if (!operation || operation->kind == AsyncOperation::Kind::opening ||
        operation->kind == AsyncOperation::Kind::shutdown)
        return false;
    while (operation->waits_for_pool && !pool_->take_back(*operation->waiting)) {
        take_inbox();  // its answer is there already
        operation = operations_.find(id);
        if (!operation) return false;
    }
    operation->waits_for_pool = false;
    if (operation->kind != AsyncOperation::Kind::execute &&
        operation->operation.is_done()) {  // it waited for a connection
        operations_.complete(*operation, 0, Result(error_of(ErrorKind::cancelled, "the acquire was cancelled")));
        return true;
    }
    abandon(*operation);
    operations_.complete(
        *operation, 0,
        Result(error_of(ErrorKind::cancelled, "the statement was cancelled; whether it took effect is unknown")));
    return true;
}

// Cancels what the operation has under way on the server. The lease stays, and its connection takes the next statement
// when that is settled.
void CompletionQueue::abandon(AsyncOperation& operation) {
    Lease& lease = operation.operation.lease();
    lease.operation = nullptr;
    Connection* connection = lease.connection.get();
    try {
        if (connection && connection->is_busy() && !connection->has_cancel())
            pool_->keeper().send_cancel(connection->make_cancel(), inbox_.wakeup());
    } catch (...) {
        connection->break_off();  // else the next statement would meet this one's answer
    }
    operation.operation.fail(Error(ErrorKind::cancelled, ""));
    if (operation.kind != AsyncOperation::Kind::execute) let_go(lease);
}

// Unless somebody has released it already.
void CompletionQueue::let_go(Lease& lease) {
    if (lease.handle.exchange(0) != 0) on_release(lease);
}

void CompletionQueue::on_release(Lease& lease) {
    while (lease.operation && lease.operation->waits_for_pool && !pool_->take_back(*lease.operation->waiting))
        take_inbox();
    if (AsyncOperation* operation = lease.operation) {
        operation->waits_for_pool = false;
        abandon(*operation);
        operations_.complete(
            *operation, 0,
            Result(error_of(ErrorKind::cancelled, "the lease was released while the statement was under way")));
    }
    sockets_.leave(lease);
    const Inbox::OwnRelease own(inbox_);
    pool_->release_owned(lease);
}

void CompletionQueue::take_inbox() {
    while (!inbox_.is_empty()) {
        auto [answers, releases, is_parked] = inbox_.take();
        while (Waiting* waiting = answers.pop()) answered(*waiting->operation);
        while (Lease* lease = releases) {
            releases = lease->next_to_release;
            on_release(*lease);
        }
        if (is_parked) pool_->unpark(inbox_);
    }
}

// An edge-triggered loop is told once of what is ready, so all of it is taken. Where that has no end, the wake-up tells
// the loop to come again.
void CompletionQueue::poll(Nanos deadline) {
    constexpr int kEvents = 64, kRounds = 32;
    const InCall in_call(*this);
    std::uint64_t keys[kEvents];
    if (operations_.first_completed() || !inbox_.is_empty()) deadline = 0;
    for (int round = 0; round < kRounds; round++, deadline = 0) {
        const int count = poller_.wait(keys, kEvents, deadline);
        more_ = count == kEvents;
        for (int i = 0; i < count; i++) {
            if (keys[i] == kWakeKey) {
                inbox_.wakeup()->clear();
                if (!operations_.any_settles()) continue;
                for (auto& operation : operations_)  // a cancel request was sent, perhaps one that these wait for
                    if (operation.active && operation.settles) go_on(operation);
            } else if (keys[i] == kTimerKey) {
                expire();
            } else {
                on_socket(keys[i]);
            }
        }
        take_inbox();
        if (!more_) return;
    }
    wake();
}

void CompletionQueue::on_socket(std::uint64_t key) {
    Lease* const found = sockets_.lease_of(key);
    if (!found) return;
    Lease& lease = *found;
    if (lease.operation) return go_on(*lease.operation, true);
    // Nothing is under way: what is left of a cancelled statement, a notice, or the end.
    Connection& connection = *lease.connection;
    try {
        if (!connection.is_lost()) connection.advance();
    } catch (...) {
        connection.break_off();
    }
    more_ = true;
    if (!connection.is_lost()) return;
    sockets_.forget(lease);
    pool_->note_lost(lease);
}

void CompletionQueue::arm(Nanos deadline) {
    if (deadline >= armed_) return;
    poller_.arm_timer(deadline);
    armed_ = deadline;
}

void CompletionQueue::expire() {
    const Nanos now = monotonic_now();
    Nanos next = kNever;
    armed_ = kNever;
    for (auto& operation : operations_) {
        if (!operation.active || operation.operation.is_done() || operation.waits_for_pool) continue;
        if (operation.operation.deadline() > now) {
            next = std::min(next, operation.operation.deadline());
            continue;
        }
        const bool acquires = operation.kind == AsyncOperation::Kind::acquire;
        abandon(operation);
        operations_.complete(
            operation, 0, Result(acquires ? pool_->acquire_timeout(operation.waiting->patience) : statement_timeout()));
    }
    poller_.arm_timer(next);
    armed_ = next;
}

void CompletionQueue::follow_log() {
    pool_->log().listen(this, [wakeup = inbox_.wakeup()] { wakeup->wake(); });
    wake();
}

Completion* CompletionQueue::first() {
    const InCall in_call(*this);
    if (!inbox_.is_empty()) take_inbox();
    AsyncOperation* const operation = operations_.first_completed();
    return operation ? &operation->completion : nullptr;
}

void CompletionQueue::take_first() { operations_.free_first_completed(); }

}  // namespace pqpool
