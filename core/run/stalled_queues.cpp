#include "core/run/stalled_queues.hpp"

#include <utility>

namespace pqpool {

void StalledQueues::note_grant(Inbox& queue, Nanos now, bool others_wait) {
    if (!std::exchange(queue.told.is_listed, true)) queue.told.next = std::exchange(told_, &queue);
    if (others_wait) look_at_ = std::min(look_at_, now + kPatience);
}

void StalledQueues::look(Nanos now, PoolMachine& machine, const std::function<void(Lease&)>& give_back) {
    WaitingList given_back;
    for (Inbox *queue = std::exchange(told_, nullptr), *next; queue; queue = next) {
        next = queue->told.next;
        WaitingList grants;
        queue->told.is_listed = queue->take_stale(now - kPatience, grants);
        if (queue->told.is_listed) queue->told.next = std::exchange(told_, queue);
        if (grants.empty()) continue;
        while (Waiting* waiting = grants.pop()) given_back.push(*waiting);
        machine.take_waiters([&](void* context) {
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
        if (lease) give_back(*lease);
    }
    look_at_ = told_ && machine.waiting() > 0 ? now + kPatience : kNever;
}

WaitingList StalledQueues::unpark(const Inbox& queue) {
    WaitingList its_own, all = std::exchange(parked_, {});
    while (Waiting* waiting = all.pop()) (waiting->queue == &queue ? its_own : parked_).push(*waiting);
    return its_own;
}

void StalledQueues::forget(const Inbox& queue) {
    for (Inbox** at = &told_; *at; at = &(*at)->told.next) {
        if (*at != &queue) continue;
        *at = queue.told.next;
        break;
    }
    unpark(queue);
}

}  // namespace pqpool
