#include "core/run/errands.hpp"

#include <pthread.h>
#include <signal.h>

#include <condition_variable>
#include <list>
#include <mutex>
#include <system_error>

#include "core/base/error.hpp"

namespace pqpool {

namespace {
constexpr std::size_t kMostWaiting = 1000;
}

struct Errands::State {
    std::mutex mutex;
    std::condition_variable changed;
    std::list<std::function<void()>> waiting;  // unlike a deque it needs no memory while it is empty
    std::size_t most_threads = 1;
    std::size_t threads = 0, idle = 0;
    bool stopped = false;
};

Errands::Errands(std::size_t most_threads) : state_(std::make_shared<State>()) { state_->most_threads = most_threads; }

Errands::~Errands() {
    std::list<std::function<void()>> dropped;  // destroyed outside the lock
    {
        std::lock_guard lock(state_->mutex);
        state_->stopped = true;
        dropped.swap(state_->waiting);
    }
    state_->changed.notify_all();
}

void Errands::start() {
    std::lock_guard lock(state_->mutex);
    if (state_->threads == 0) add_thread();
}

void Errands::add_thread() {
    start_thread("pqpool-errands", [state = state_] { work(state); }).detach();
    state_->threads++;
}

void Errands::run(std::function<void()> errand) {
    start();
    std::lock_guard lock(state_->mutex);
    if (state_->waiting.size() >= kMostWaiting)
        throw Error(ErrorKind::internal, "too many calls that block are waiting");
    state_->waiting.push_back(std::move(errand));
    state_->changed.notify_one();
    if (state_->idle >= state_->waiting.size() || state_->threads >= state_->most_threads) return;
    try {
        add_thread();
    } catch (const Error&) {  // then it waits for another to be done
    }
}

void Errands::work(const std::shared_ptr<State>& state) {
    std::unique_lock lock(state->mutex);
    for (;;) {
        if (state->waiting.empty() && state->idle > 0) {  // one is enough to wait
            state->threads--;
            return;
        }
        state->idle++;
        state->changed.wait(lock, [&] { return state->stopped || !state->waiting.empty(); });
        state->idle--;
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
                    std::string("the thread ") + name + " could not be started: " + e.code().message() +
                        ". Suggestion: raise the limit on processes and threads (ulimit -u, or pids.max of the "
                        "control group), or free memory");
    }
}

}  // namespace pqpool
