// Queues that nobody polls any more: an event loop that has stopped, or that one of its callbacks keeps busy. What they
// are granted must not be lost to those who wait elsewhere. Under the pool's lock.
#pragma once

#include <algorithm>
#include <functional>

#include "core/decide/pool_machine.hpp"
#include "core/run/inbox.hpp"
#include "core/run/waiting.hpp"

namespace pqpool {

class StalledQueues {
  public:
    // The queue was granted a connection.
    void note_grant(Inbox& queue, Nanos now, bool others_wait);
    void note_waiter(Nanos now) {
        if (told_) look_at_ = std::min(look_at_, now + kPatience);
    }
    Nanos look_at() const { return look_at_; }
    // A queue that has not taken a grant in time gives its grants back, and its other requests wait aside until it is
    // polled: else each of them would hold the next connection up as long.
    void look(Nanos now, PoolMachine& machine, const std::function<void(Lease&)>& give_back);

    // Of a queue that is polled again: its requests, which wait aside no more.
    WaitingList unpark(const Inbox& queue);
    bool take_back(const Waiting& waiting) { return parked_.remove(waiting); }  // false where it does not wait aside
    void forget(const Inbox& queue);

  private:
    // So long a queue may leave a granted connection untaken while others wait for one.
    static constexpr Nanos kPatience = kSecond;

    Inbox* told_ = nullptr;  // those that may not have taken a grant yet, linked by `told`
    WaitingList parked_;     // the requests of those that did not
    Nanos look_at_ = kNever;
};

}  // namespace pqpool
