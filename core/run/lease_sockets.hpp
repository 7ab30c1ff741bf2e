// The sockets of a queue's leases, in its epoll set. One stays there when its lease ends, because its connection often
// comes back with the next.
#pragma once

#include <cstdint>
#include <vector>

#include "core/run/lease.hpp"
#include "core/run/poller.hpp"

namespace pqpool {

class LeaseSockets {
  public:
    explicit LeaseSockets(Poller& poller) : poller_(poller) {}

    // Remembers whose the socket is; it joins the set with the first statement.
    void add(Lease& lease) { watched_of(lease); }
    void watch(Lease& lease, std::uint32_t what);
    // For writing too, where it is so already.
    void keep_watching(Lease& lease) {
        if (watched_of(lease).what == 0) watch(lease, Poller::kRead);
    }
    void leave(const Lease& lease);   // it ends, or its connection is another's
    void forget(const Lease& lease);  // it is told no more of its connection, which is lost
    // Of an event in the set. nullptr where the connection is in other hands.
    Lease* lease_of(std::uint64_t key);

  private:
    struct Watched {
        std::uint32_t generation = 0;
        int fd = -1;
        std::uint32_t what = 0;
        Lease* lease = nullptr;  // while it is this queue's
    };

    Watched& watched_of(Lease& lease);

    Poller& poller_;
    std::vector<Watched> watched_;  // by slot
};

}  // namespace pqpool
