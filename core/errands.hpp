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

    void run(std::function<void()> errand);  // any thread; does not block

  private:
    struct State;
    static void work(const std::shared_ptr<State>& state);
    const std::shared_ptr<State> state_;
};

// A new thread on which every signal is blocked: they are the host program's.
std::thread start_thread(const char* name, std::function<void()> body);

}  // namespace pqpool
