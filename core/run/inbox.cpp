#include "core/run/inbox.hpp"

#include <utility>

namespace pqpool {

namespace {
thread_local const Inbox* releasing = nullptr;
}  // namespace

Inbox::OwnRelease::OwnRelease(const Inbox& inbox) : outer_(std::exchange(releasing, &inbox)) {}
Inbox::OwnRelease::~OwnRelease() { releasing = outer_; }

void Inbox::release(Lease& lease) {
    if (this_thread() == thread_) return owner_.on_release(lease);
    {
        std::lock_guard lock(mutex_);
        lease.next_to_release = std::exchange(contents_.releases, &lease);
        is_full_ = true;
    }
    wakeup_->wake();
}

void Inbox::deliver(Waiting& waiting) {
    {
        std::lock_guard lock(mutex_);
        if (contents_.answers.empty()) untaken_since_ = coarse_now();
        contents_.answers.push(waiting);
        is_full_.store(true, std::memory_order_relaxed);
    }
    if (releasing != this) wakeup_->wake();
}

bool Inbox::take_stale(Nanos before, WaitingList& grants) {
    std::lock_guard lock(mutex_);
    if (contents_.answers.empty()) return false;
    if (untaken_since_ > before) return true;
    WaitingList answers = std::exchange(contents_.answers, {});
    while (Waiting* waiting = answers.pop()) {
        const bool is_grant = waiting->what == Waiting::For::acquire && !waiting->error;
        if (is_grant) forget_release(*waiting->lease);
        (is_grant ? grants : contents_.answers).push(*waiting);
    }
    contents_.is_parked = true;
    is_full_.store(true, std::memory_order_relaxed);
    return false;
}

// Another thread has released the lease, which may be somebody else's before the owner looks.
void Inbox::forget_release(const Lease& lease) {
    for (Lease** at = &contents_.releases; *at; at = &(*at)->next_to_release) {
        if (*at != &lease) continue;
        *at = lease.next_to_release;
        return;
    }
}

Inbox::Contents Inbox::take() {
    std::lock_guard lock(mutex_);
    is_full_.store(false, std::memory_order_relaxed);
    return std::exchange(contents_, {});
}

void answer(Waiting& waiting) {
    if (waiting.queue)
        waiting.queue->deliver(waiting);
    else
        waiting.post();
}

}  // namespace pqpool
