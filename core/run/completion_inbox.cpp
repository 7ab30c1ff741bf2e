// What reaches a completion queue from the pool and from other threads: grants, failures, and its leases given back.
#include <utility>

#include "core/run/completion_queue.hpp"

namespace pqpool {

namespace {
thread_local const CompletionQueue* releasing = nullptr;
}  // namespace

void CompletionQueue::release(Lease& lease) {
    if (this_thread() == owner_) return release_here(lease);
    {
        std::lock_guard lock(mutex_);
        lease.next_to_release = std::exchange(to_release_, &lease);
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
                 Result(error_of(ErrorKind::cancelled, "the lease was released while the statement was under way")));
    }
    unwatch(lease);
    const CompletionQueue* outer = std::exchange(releasing, this);
    pool_->release_owned(lease);
    releasing = outer;
}

void CompletionQueue::deliver(Waiting& waiting) {
    {
        std::lock_guard lock(mutex_);
        if (answered_.empty()) untaken_since_ = coarse_now();
        answered_.push(waiting);
        inbox_full_.store(true, std::memory_order_relaxed);
    }
    if (!is_releasing()) wake();
}

bool CompletionQueue::is_releasing() const { return releasing == this; }

bool CompletionQueue::take_stale(Nanos before, WaitingList& grants) {
    std::lock_guard lock(mutex_);
    if (answered_.empty()) return false;
    if (untaken_since_ > before) return true;
    WaitingList answers = std::exchange(answered_, {});
    while (Waiting* waiting = answers.pop()) {
        const bool is_grant = waiting->what == Waiting::For::acquire && !waiting->error;
        if (is_grant) forget_release(*waiting->lease);
        (is_grant ? grants : answered_).push(*waiting);
    }
    parked_ = true;
    inbox_full_.store(true, std::memory_order_relaxed);
    return false;
}

// Another thread has released the lease, which may be somebody else's before the inbox is looked at.
void CompletionQueue::forget_release(const Lease& lease) {
    for (Lease** at = &to_release_; *at; at = &(*at)->next_to_release) {
        if (*at != &lease) continue;
        *at = lease.next_to_release;
        return;
    }
}

void CompletionQueue::take_inbox() {
    while (inbox_full_.load(std::memory_order_relaxed)) {
        WaitingList answers;
        Lease* releases;
        bool parked;
        {
            std::lock_guard lock(mutex_);
            answers = std::exchange(answered_, {});
            releases = std::exchange(to_release_, nullptr);
            parked = std::exchange(parked_, false);
            inbox_full_.store(false, std::memory_order_relaxed);
        }
        while (Waiting* waiting = answers.pop()) answered(*waiting->operation);
        while (Lease* lease = releases) {
            releases = lease->next_to_release;
            release_here(*lease);
        }
        if (parked) pool_->unpark(*this);
    }
}

}  // namespace pqpool
