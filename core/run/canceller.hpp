// Sends cancel requests, and again after a while until they are called off. A request that hangs delays no other, and
// is sent once more beside itself.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "core/run/errands.hpp"
#include "core/run/poller.hpp"
#include "core/wire/connection.hpp"

namespace pqpool {

class Canceller {
  public:
    // wake: called from any thread when it is time for go_on().
    explicit Canceller(std::function<void()> wake);
    ~Canceller();
    Canceller(const Canceller&) = delete;

    void start() { errands_.start(); }  // any thread; throws where no thread can be started
    // Any thread. Who listens on the wake-up is told each time that the request was sent. Where it cannot be sent now,
    // that is its first attempt.
    void send(std::shared_ptr<CancelRequest> request, std::shared_ptr<Wakeup> also_wake) noexcept;

    // ---- of one thread ----
    void go_on(Nanos now);  // repeats what is due
    Nanos due() const;      // when to go on at the latest

  private:
    struct Sending {
        std::shared_ptr<CancelRequest> request;
        std::shared_ptr<Wakeup> also_wake;
        Nanos pause;  // before it is sent again
        Nanos due;
        bool sent = false;    // the last one; else it hangs
        bool beside = false;  // one that hung was sent again
    };
    struct Inbox;  // outlives the canceller in the hands of errands

    void send(const Sending& sending) noexcept;
    void collect(Nanos now);

    const std::shared_ptr<Inbox> inbox_;
    std::vector<Sending> under_way_;  // until they are called off
    Errands errands_;
};

}  // namespace pqpool
