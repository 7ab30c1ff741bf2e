#include "core/completion_queue.hpp"

#include <algorithm>

namespace pqpool {

namespace {
constexpr std::uint64_t kWakeKey = UINT64_MAX, kTimerKey = UINT64_MAX - 1;
constexpr std::uint64_t kIndexBits = 24;
}  // namespace

CompletionQueue::CompletionQueue(std::shared_ptr<Pool> pool)
    : pool_(std::move(pool)), owner_(std::this_thread::get_id()) {
    poller_.watch(wakeup_->fd(), Poller::kRead, kWakeKey);
}

CompletionQueue::~CompletionQueue() {
    pool_->log().stop_listening(this);
    for (auto& operation : operations_) {
        if (!operation.active || !operation.waiting) continue;
        pool_->take_back(*operation.waiting);
        operation.waits_for_pool = false;
    }
    // From here on nothing comes from the pool any more. What it granted last, and what others released, is among
    // these.
    answered_.clear();
    to_release_.clear();
    for (Lease* lease : pool_->leases_of(*this)) {
        lease->handle.store(0);
        release_here(*lease);
    }
}

void CompletionQueue::check_thread() const {
    if (std::this_thread::get_id() != owner_)
        throw Error(
            ErrorKind::invalid_argument,
            "the completion queue is used by another thread than its own. Suggestion: open one queue in each thread");
}

AsyncOperation& CompletionQueue::new_operation(AsyncOperation::Kind kind, void* user_data) {
    if (free_.empty()) {
        free_.push_back(static_cast<std::uint32_t>(operations_.size()));
        operations_.emplace_back();
    }
    const std::uint32_t index = free_.back();
    free_.pop_back();
    AsyncOperation& operation = operations_[index];
    operation.kind = kind;
    operation.active = true;
    operation.waits_for_pool = operation.settles = false;
    operation.user_data = user_data;
    operation.id = std::uint64_t{++operation.generation} << kIndexBits | index;
    operation.waiting.reset();
    return operation;
}

AsyncOperation* CompletionQueue::find(std::uint64_t id) {
    const auto index = id & ((std::uint64_t{1} << kIndexBits) - 1);
    return index < operations_.size() && operations_[index].active && operations_[index].id == id ? &operations_[index]
                                                                                                  : nullptr;
}

void CompletionQueue::free_operation(AsyncOperation& operation) {
    if (operation.settles) settling_--;
    operation.active = operation.settles = operation.waits_for_pool = false;
    free_.push_back(static_cast<std::uint32_t>(operation.id & ((std::uint64_t{1} << kIndexBits) - 1)));
}

void CompletionQueue::complete(AsyncOperation& operation, LeaseHandle lease, Result result) {
    ready_.push_back({operation.id, operation.user_data, lease, std::move(result)});
    free_operation(operation);
}

std::uint64_t CompletionQueue::acquire(const AcquireRequest& request, void* user_data, LeaseHandle& lease) {
    check_thread();
    AsyncOperation& operation = new_operation(AsyncOperation::Kind::acquire, user_data);
    const std::uint64_t id = operation.id;
    if (!ask(operation, request)) return id;
    Lease& found = *operation.waiting->lease;
    if (pool_->checks_before_grant() && found.needs_check) {
        granted(operation);
        return id;
    }
    lease = found.handle.load(std::memory_order_relaxed);
    watch(found, 0);
    free_operation(operation);
    return 0;
}

// True where the pool had a connection at once; else the operation waits for one.
bool CompletionQueue::ask(AsyncOperation& operation, const AcquireRequest& request) {
    Waiting& waiting = operation.waiting.emplace();
    waiting.queue = this;
    waiting.operation = &operation;
    try {
        operation.waits_for_pool = !pool_->ask(request, waiting);
    } catch (...) {
        free_operation(operation);
        throw;
    }
    return !operation.waits_for_pool;
}

std::uint64_t CompletionQueue::run(const AcquireRequest& request, std::string_view sql, const Parameter* parameters,
                                   std::size_t count, ResultFormat format, Nanos timeout, void* user_data) {
    check_thread();
    AsyncOperation& operation = new_operation(AsyncOperation::Kind::run, user_data);
    const std::uint64_t id = operation.id;
    operation.operation.statement().assign(sql, parameters, count, format);
    operation.statement_timeout = timeout;
    if (ask(operation, request)) granted(operation);
    return id;
}

void CompletionQueue::begin(AsyncOperation& operation, Lease& lease, bool has_statement, Nanos deadline) {
    operation.operation.begin(lease, has_statement, deadline);
    lease.operation = &operation;
    arm(deadline);
    go_on(operation);
}

std::uint64_t CompletionQueue::execute(LeaseHandle handle, std::string_view sql, const Parameter* parameters,
                                       std::size_t count, ResultFormat format, Nanos timeout, void* user_data) {
    check_thread();
    Lease& lease = pool_->find_lease(handle);
    if (lease.queue != this) throw Error(ErrorKind::invalid_argument, "the lease was not acquired through this queue");
    if (lease.operation)
        throw Error(ErrorKind::busy,
                    "another statement is under way on this lease. Suggestion: await it, or acquire one lease for each "
                    "concurrent statement");
    AsyncOperation& operation = new_operation(AsyncOperation::Kind::execute, user_data);
    const std::uint64_t id = operation.id;
    operation.operation.statement().assign(sql, parameters, count, format);
    begin(operation, lease, true, pool_->statement_deadline(timeout));
    return id;
}

std::uint64_t CompletionQueue::await_opened(void* user_data) {
    check_thread();
    AsyncOperation& operation = new_operation(AsyncOperation::Kind::opening, user_data);
    Waiting& waiting = operation.waiting.emplace();
    waiting.what = Waiting::For::opening;
    waiting.queue = this;
    waiting.operation = &operation;
    pool_->ask_opened(waiting);
    return operation.id;
}

std::uint64_t CompletionQueue::shut_down(Nanos timeout, void* user_data) {
    check_thread();
    AsyncOperation& operation = new_operation(AsyncOperation::Kind::shutdown, user_data);
    Waiting& waiting = operation.waiting.emplace();
    waiting.what = Waiting::For::shutdown;
    waiting.queue = this;
    waiting.operation = &operation;
    pool_->ask_shutdown(timeout, waiting);
    return operation.id;
}

// Drives the operation as far as it goes without waiting.
void CompletionQueue::go_on(AsyncOperation& operation) {
    Lease& lease = operation.operation.lease();
    const Need need = operation.operation.resume();
    if (operation.settles != (need == Need::settle)) {
        operation.settles = !operation.settles;
        settling_ += operation.settles ? 1 : -1;
    }
    switch (need) {
        case Need::read:
        case Need::settle:
            return watch(lease, Poller::kRead);
        case Need::write:
            return watch(lease, Poller::kRead | Poller::kWrite);
        case Need::replacement:
            return replace(operation);
        case Need::nothing:
            break;
    }
    lease.operation = nullptr;
    Result result = operation.operation.take_result();
    if (lease.connection && lease.connection->is_lost())
        pool_->note_lost(lease, result.error() && result.error()->kind == ErrorKind::validation);
    if (operation.kind == AsyncOperation::Kind::execute) return complete(operation, 0, std::move(result));
    const LeaseHandle handle = lease.handle.load(std::memory_order_relaxed);
    if (operation.kind == AsyncOperation::Kind::acquire && !result.error())
        return complete(operation, handle, Result());
    let_go(lease);
    complete(operation, 0, std::move(result));
}

void CompletionQueue::replace(AsyncOperation& operation) {
    Lease& lease = operation.operation.lease();
    unwatch(lease);
    Waiting& waiting = operation.waiting.emplace();
    waiting.queue = this;
    waiting.operation = &operation;
    try {
        if (!pool_->ask_replacement(lease, waiting, operation.operation.deadline())) {
            operation.waits_for_pool = true;
            return;
        }
    } catch (const Error& e) {
        operation.operation.fail(e);
    }
    go_on(operation);
}

void CompletionQueue::granted(AsyncOperation& operation) {
    Lease& lease = *operation.waiting->lease;
    watch(lease, 0);
    if (operation.kind == AsyncOperation::Kind::run)
        return begin(operation, lease, true, pool_->statement_deadline(operation.statement_timeout));
    if (pool_->checks_before_grant() && lease.needs_check)
        return begin(operation, lease, false, operation.waiting->deadline);
    complete(operation, lease.handle.load(std::memory_order_relaxed), Result());
}

// The pool has answered what the operation waits for.
void CompletionQueue::answered(AsyncOperation& operation) {
    operation.waits_for_pool = false;
    Waiting& waiting = *operation.waiting;
    if (waiting.what == Waiting::For::replacement) {
        if (waiting.error) operation.operation.fail(*waiting.error);
        arm(operation.operation.deadline());  // the timer passes over operations that wait for the pool
        return go_on(operation);
    }
    if (waiting.error) return complete(operation, 0, Result(*waiting.error));
    if (waiting.what == Waiting::For::acquire) return granted(operation);
    complete(operation, 0, Result());
}

// The socket of a lease of this queue. what 0: only remember whose it is; the descriptor joins the set with the first
// statement.
void CompletionQueue::watch(Lease& lease, std::uint32_t what) {
    const SlotId slot = lease.slot;
    if (slot.index >= watched_.size()) watched_.resize(slot.index + 1);
    Watched& watched = watched_[slot.index];
    const int fd = lease.connection->fd();
    if (watched.generation != slot.generation || watched.fd != fd) watched = {slot.generation, fd, 0, nullptr};
    watched.lease = &lease;
    if (what == 0 || watched.what == what) return;
    poller_.watch(fd, what | Poller::kHangUp, std::uint64_t{slot.index} << 32 | slot.generation);
    watched.what = what;
}

void CompletionQueue::unwatch(Lease& lease) {
    if (lease.slot.index < watched_.size() && watched_[lease.slot.index].lease == &lease)
        watched_[lease.slot.index].lease = nullptr;
}

bool CompletionQueue::cancel(std::uint64_t id) {
    check_thread();
    AsyncOperation* operation = find(id);
    if (!operation || operation->kind == AsyncOperation::Kind::opening ||
        operation->kind == AsyncOperation::Kind::shutdown)
        return false;
    while (operation->waits_for_pool && !pool_->take_back(*operation->waiting)) {
        take_inbox();  // its answer is there already
        operation = find(id);
        if (!operation) return false;
    }
    operation->waits_for_pool = false;
    if (operation->kind != AsyncOperation::Kind::execute &&
        operation->operation.is_done()) {  // it waited for a connection
        complete(*operation, 0, Result(Error(ErrorKind::cancelled, "the acquire was cancelled")));
        return true;
    }
    abandon(*operation);
    complete(*operation, 0,
             Result(Error(ErrorKind::cancelled, "the statement was cancelled; whether it took effect is unknown")));
    return true;
}

// Cancels what the operation has under way on the server. The lease stays, and its connection takes the next statement
// when that is settled.
void CompletionQueue::abandon(AsyncOperation& operation) {
    Lease& lease = operation.operation.lease();
    lease.operation = nullptr;
    Connection* connection = lease.connection.get();
    if (connection && connection->is_busy() && !connection->has_cancel())
        pool_->keeper().send_cancel(connection->make_cancel(), wakeup_);
    operation.operation.fail(Error(ErrorKind::cancelled, ""));
    if (operation.kind != AsyncOperation::Kind::execute) let_go(lease);
}

void CompletionQueue::release(Lease& lease) {
    if (std::this_thread::get_id() == owner_) return release_here(lease);
    {
        std::lock_guard lock(mutex_);
        to_release_.push_back(&lease);
        inbox_full_ = true;
    }
    wake();
}

// Unless somebody has released it already.
void CompletionQueue::let_go(Lease& lease) {
    if (lease.handle.exchange(0) != 0) release_here(lease);
}

void CompletionQueue::release_here(Lease& lease) {
    while (lease.operation && lease.operation->waits_for_pool && !pool_->take_back(*lease.operation->waiting))
        take_inbox();
    if (AsyncOperation* operation = lease.operation) {
        operation->waits_for_pool = false;
        abandon(*operation);
        complete(*operation, 0,
                 Result(Error(ErrorKind::cancelled, "the lease was released while the statement was under way")));
    }
    unwatch(lease);
    pool_->release_owned(lease);
}

void CompletionQueue::poll(Nanos deadline) {
    check_thread();
    Poller::Event events[64];
    if (!ready_.empty() || inbox_full_.load(std::memory_order_relaxed)) deadline = 0;
    const int count = poller_.wait(events, 64, deadline);
    for (int i = 0; i < count; i++) {
        if (events[i].key == kWakeKey) {
            wakeup_->clear();
            if (settling_ == 0) continue;
            for (auto& operation : operations_)  // a cancel request was sent, perhaps one that these wait for
                if (operation.active && operation.settles) go_on(operation);
        } else if (events[i].key == kTimerKey) {
            expire();
        } else {
            on_socket(events[i].key);
        }
    }
    take_inbox();
}

void CompletionQueue::on_socket(std::uint64_t key) {
    const auto index = static_cast<std::uint32_t>(key >> 32);
    if (index >= watched_.size()) return;
    Watched& watched = watched_[index];
    if (watched.generation != static_cast<std::uint32_t>(key)) return;
    if (!watched.lease || !watched.lease->connection) {  // somebody else has the connection now
        const int fd = watched.fd;
        watched = {};
        // It may be closed by now, and its number that of another connection that this queue watches.
        if (std::none_of(watched_.begin(), watched_.end(), [fd](const Watched& w) { return w.fd == fd; }))
            poller_.forget(fd);
        return;
    }
    Lease& lease = *watched.lease;
    if (lease.operation) return go_on(*lease.operation);
    // Nothing is under way: what is left of a cancelled statement, a notice, or the end.
    Connection& connection = *lease.connection;
    if (!connection.is_lost()) connection.advance();
    if (!connection.is_lost()) return;
    poller_.forget(watched.fd);
    watched.what = 0;
    pool_->note_lost(lease);
}

void CompletionQueue::arm(Nanos deadline) {
    if (deadline >= armed_) return;
    armed_ = deadline;
    poller_.arm_timer(deadline, kTimerKey);
}

void CompletionQueue::expire() {
    const Nanos now = monotonic_now();
    Nanos next = kNever;
    for (auto& operation : operations_) {
        if (!operation.active || operation.operation.is_done() || operation.waits_for_pool) continue;
        if (operation.operation.deadline() > now) {
            next = std::min(next, operation.operation.deadline());
            continue;
        }
        const bool acquires = operation.kind == AsyncOperation::Kind::acquire;
        abandon(operation);
        complete(operation, 0,
                 Result(acquires ? pool_->acquire_timeout(operation.waiting->patience) : Pool::statement_timeout()));
    }
    armed_ = next;
    poller_.arm_timer(next, kTimerKey);
}

void CompletionQueue::follow_log() {
    pool_->log().listen(this, [wakeup = wakeup_] { wakeup->wake(); });
    wake();
}

void CompletionQueue::deliver(Waiting& waiting) {
    {
        std::lock_guard lock(mutex_);
        answered_.push_back(&waiting);
        inbox_full_.store(true, std::memory_order_relaxed);
    }
    if (std::this_thread::get_id() != owner_) wake();
}

void CompletionQueue::take_inbox() {
    while (inbox_full_.load(std::memory_order_relaxed)) {
        std::vector<Waiting*> answers;
        std::vector<Lease*> releases;
        {
            std::lock_guard lock(mutex_);
            answers.swap(answered_);
            releases.swap(to_release_);
            inbox_full_.store(false, std::memory_order_relaxed);
        }
        for (Waiting* waiting : answers) answered(*waiting->operation);
        for (Lease* lease : releases) release_here(*lease);
    }
}

bool CompletionQueue::next(Completion& completion) {
    check_thread();
    if (inbox_full_.load(std::memory_order_relaxed)) take_inbox();
    if (ready_.empty()) return false;
    completion = std::move(ready_.front());
    ready_.pop_front();
    return true;
}

}  // namespace pqpool
