#include "core/errands.hpp"

#include <pthread.h>
#include <signal.h>

#include <condition_variable>
#include <deque>
#include <mutex>

namespace pqpool {

struct Errands::State {
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<std::function<void()>> waiting;
    bool started = false;
    bool stopped = false;
};

Errands::Errands() : state_(std::make_shared<State>()) {}

Errands::~Errands() {
    std::deque<std::function<void()>> dropped;  // destroyed outside the lock
    {
        std::lock_guard lock(state_->mutex);
        state_->stopped = true;
        dropped.swap(state_->waiting);
    }
    state_->changed.notify_one();
}

void Errands::run(std::function<void()> errand) {
    std::lock_guard lock(state_->mutex);
    if (!state_->started) start_thread("pqpool-errands", [state = state_] { work(state); }).detach();
    state_->started = true;
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
        errand();
        errand = nullptr;
        lock.lock();
    }
}

std::thread start_thread(const char* name, std::function<void()> body) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    std::thread thread([name, body = std::move(body)] {
        pthread_setname_np(pthread_self(), name);
        body();
    });
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return thread;
}

}  // namespace pqpool
