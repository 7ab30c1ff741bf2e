// One thread for calls that block: name resolution, and cancel requests before libpq 17. Started with the first errand.
//
// An errand may hang for as long as the network lets it, so nobody waits for the thread: it shares its state with the
// Errands and ends by itself.
#pragma once

#include <functional>
#include <memory>
#include <thread>

namespace pqpool {

class Errands {
  public:
    Errands();
    ~Errands();  // errands not yet begun are dropped
    Errands(const Errands&) = delete;

    // Any thread. The thread, where it does not run yet; throws where it cannot be started.
    void start();
    // Any thread; does not block. Throws where its thread cannot be started, or for want of memory, and drops the
    // errand.
    void run(std::function<void()> errand);

  private:
    struct State;
    static void work(const std::shared_ptr<State>& state);
    const std::shared_ptr<State> state_;
};

// A new thread on which every signal is blocked: they are the host program's. Throws Error(internal) where it cannot be
// started.
std::thread start_thread(const char* name, std::function<void()> body);

}  // namespace pqpool
