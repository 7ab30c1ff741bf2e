// Waiting for sockets, a timer and a wake-up from another thread. The only file that knows Linux; a kqueue twin can
// stand beside it.
#pragma once

#include <cstdint>

#include "core/base/clock.hpp"

namespace pqpool {

// A descriptor that any thread can make readable, until it is cleared.
class Wakeup {
  public:
    Wakeup();
    ~Wakeup();
    Wakeup(const Wakeup&) = delete;

    int fd() const { return fd_; }
    void wake() const;
    void clear() const;

  private:
    int fd_;
};

class Poller {
  public:
    static constexpr std::uint32_t kRead = 1, kWrite = 2;
    static constexpr std::uint32_t kHangUp = 4;  // the peer will send no more; always told of an error too

    Poller();
    ~Poller();
    Poller(const Poller&) = delete;

    int fd() const { return fd_; }                              // readable while any event stands
    void watch(int fd, std::uint32_t what, std::uint64_t key);  // new, or instead of what was watched on fd
    void forget(int fd);                                        // a closed descriptor is forgotten by itself
    // Waits until an event, at most until the deadline (kNever = no limit, 0 = do not wait). The number of events,
    // whose keys are given.
    int wait(std::uint64_t* keys, int capacity, Nanos deadline);
    // A timer that makes fd() readable, with this key, from the deadline on; kNever takes it back.
    void make_timer(std::uint64_t key);
    void arm_timer(Nanos deadline);

  private:
    int fd_;
    int timer_fd_ = -1;
};

// What the owner of a blocking call waits with: one socket, until the deadline. False at the deadline.
// Throws Error(internal) where the system cannot wait.
bool wait_for_socket(int fd, std::uint32_t what, Nanos deadline);

}  // namespace pqpool
