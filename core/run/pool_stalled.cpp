// Queues that nobody polls any more: an event loop that has stopped, or that one of its callbacks keeps busy. What they
// are granted must not be lost to those who wait elsewhere.
#include <algorithm>

#include "core/run/completion_queue.hpp"
#include "core/run/pool.hpp"

namespace pqpool {

void Pool::watch_grant(CompletionQueue& queue, Nanos now) {
    if (!std::exchange(queue.told.is_listed, true)) queue.told.next = std::exchange(told_, &queue);
    if (machine_.waiting() > 0) look_for_stalled_at_ = std::min(look_for_stalled_at_, now + kGrantPatience);
}

// A queue that has not taken a grant in time gives its grants back, and its other requests wait aside until it is
// polled: else each of them would hold the next connection up as long.
void Pool::park_stalled(Nanos now) {
    WaitingList given_back;
    for (CompletionQueue *queue = std::exchange(told_, nullptr), *next; queue; queue = next) {
        next = queue->told.next;
        WaitingList grants;
        queue->told.is_listed = queue->take_stale(now - kGrantPatience, grants);
        if (queue->told.is_listed) queue->told.next = std::exchange(told_, queue);
        if (grants.empty()) continue;
        while (Waiting* waiting = grants.pop()) given_back.push(*waiting);
        machine_.take_waiters([&](void* context) {
            auto& waiting = *static_cast<Waiting*>(context);
            if (waiting.queue != queue) return false;
            waiting.lease = nullptr;
            given_back.push(waiting);
            return true;
        });
    }
    while (Waiting* waiting = given_back.pop()) {
        Lease* lease = std::exchange(waiting->lease, nullptr);
        parked_.push(*waiting);
        if (!lease) continue;
        ReturnedConnection condition;
        if (const Connection* connection = lease->connection.get()) {
            condition.broken = connection->is_lost() || lease->hung_up.load(std::memory_order_relaxed);
            condition.condemned = connection->is_condemned();
            condition.queries = connection->queries();
        }
        give_back(*lease, condition, now);
    }
    look_for_stalled_at_ = told_ && machine_.waiting() > 0 ? now + kGrantPatience : kNever;
}

void Pool::unpark(CompletionQueue& queue) {
    Locked locked(*this);
    const Nanos now = monotonic_now();
    WaitingList all = std::exchange(parked_, {});
    while (Waiting* waiting = all.pop()) {
        if (waiting->queue != &queue) {
            parked_.push(*waiting);
            continue;
        }
        try {
            if (free_leases_.empty()) add_lease();
            const AcquireAnswer given = machine_.acquire(now, waiting->deadline, waiting->leak_limit, waiting);
            waiting->waiter = given.waiter;
            if (given.kind == AcquireAnswer::Kind::refused) fail(*waiting, refusal(given.error, waiting->patience));
            if (given.kind == AcquireAnswer::Kind::granted) grant(given.slot, *waiting);
        } catch (...) {
            fail(*waiting, error_under_way());
        }
    }
}

void Pool::forget(CompletionQueue& queue) {
    std::lock_guard lock(mutex_);
    for (CompletionQueue** at = &told_; *at; at = &(*at)->told.next) {
        if (*at != &queue) continue;
        *at = queue.told.next;
        break;
    }
    WaitingList all = std::exchange(parked_, {});
    while (Waiting* waiting = all.pop())
        if (waiting->queue != &queue) parked_.push(*waiting);
}

}  // namespace pqpool
