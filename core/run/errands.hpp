// Threads for calls that block: name resolution, and cancel requests before libpq 17. Another is started where an
// errand finds none free; all but one end when there is nothing left to do.
//
// An errand may hang for as long as the network lets it, so nobody waits for a thread: it shares its state with the
// Errands and ends by itself.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <thread>

namespace pqpool {

class Errands {
  public:
    explicit Errands(std::size_t most_threads);
    ~Errands();  // errands not yet begun are dropped
    Errands(const Errands&) = delete;

    // Any thread. The first thread, where it does not run yet; throws where it cannot be started.
    void start();
    // Any thread; does not block. Throws where no thread can be started, for want of memory, or where very many wait
    // already, and drops the errand.
    void run(std::function<void()> errand);

  private:
    struct State;
    static void work(const std::shared_ptr<State>& state);
    void add_thread();
    const std::shared_ptr<State> state_;
};

// A new thread on which every signal is blocked: they are the host program's. Throws Error(internal) where it cannot be
// started.
std::thread start_thread(const char* name, std::function<void()> body);

}  // namespace pqpool
