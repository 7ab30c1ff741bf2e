#include "core/errands.hpp"

#include <pthread.h>
#include <signal.h>

#include <condition_variable>
#include <cstring>
#include <list>
#include <mutex>
#include <system_error>

#include "core/error.hpp"

namespace pqpool {

struct Errands::State {
    std::mutex mutex;
    std::condition_variable changed;
    std::list<std::function<void()>> waiting;  // unlike a deque it needs no memory while it is empty
    bool started = false;
    bool stopped = false;
};

Errands::Errands() : state_(std::make_shared<State>()) {}

Errands::~Errands() {
    std::list<std::function<void()>> dropped;  // destroyed outside the lock
    {
        std::lock_guard lock(state_->mutex);
        state_->stopped = true;
        dropped.swap(state_->waiting);
    }
    state_->changed.notify_one();
}

void Errands::start() {
    std::lock_guard lock(state_->mutex);
    if (!state_->started) start_thread("pqpool-errands", [state = state_] { work(state); }).detach();
    state_->started = true;
}

void Errands::run(std::function<void()> errand) {
    start();
    std::lock_guard lock(state_->mutex);
    state_->waiting.push_back(std::move(errand));
    state_->changed.notify_one();
}

void Errands::work(const std::shared_ptr<State>& state) {
    std::unique_lock lock(state->mutex);
    for (;;) {
        state->changed.wait(lock, [&] { return state->stopped || !state->waiting.empty(); });
        if (state->stopped) return;
        auto errand = std::move(state->waiting.front());
        state->waiting.pop_front();
        lock.unlock();
        try {
            errand();
        } catch (...) {  // an errand tells its own failures; one that cannot must not end the others
        }
        errand = nullptr;
        lock.lock();
    }
}

namespace {

// A new thread inherits the mask of the one that makes it.
class AllSignalsBlocked {
  public:
    AllSignalsBlocked() {
        sigset_t all;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before_);
    }
    ~AllSignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
    AllSignalsBlocked(const AllSignalsBlocked&) = delete;

  private:
    sigset_t before_;
};

}  // namespace

std::thread start_thread(const char* name, std::function<void()> body) {
    const AllSignalsBlocked blocked;
    try {
        return std::thread([name, body = std::move(body)] {
            pthread_setname_np(pthread_self(), name);
            body();
        });
    } catch (const std::system_error& e) {
        throw Error(ErrorKind::internal,
                    std::string("the thread ") + name + " could not be started: " + std::strerror(e.code().value()) +
                        ". Suggestion: raise the limit on processes and threads (ulimit -u, or pids.max of the "
                        "control group), or free memory");
    }
}

}  // namespace pqpool
