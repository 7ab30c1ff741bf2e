#include "core/run/fork.hpp"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <vector>

namespace pqpool {

namespace {

std::atomic<std::uint32_t> epoch{0};
std::mutex register_mutex;
// Reached from the fork handlers until the process ends, so never destroyed.
std::vector<std::mutex*>& locks() {
    static auto* list = new std::vector<std::mutex*>;
    return *list;
}

// In the forking thread, as is what follows.
void before() {
    register_mutex.lock();
    for (std::mutex* lock : locks()) lock->lock();
}

void after() {
    for (std::mutex* lock : locks()) lock->unlock();
    register_mutex.unlock();
}

void in_child() {
    epoch.fetch_add(1, std::memory_order_relaxed);
    after();
}

}  // namespace

std::uint32_t fork_epoch() { return epoch.load(std::memory_order_relaxed); }

void add_to_fork_register(std::mutex& lock) {
    static std::once_flag once;
    std::call_once(once, [] { pthread_atfork(before, after, in_child); });
    std::lock_guard in_register(register_mutex);
    locks().push_back(&lock);
}

void remove_from_fork_register(std::mutex& lock) {
    std::lock_guard in_register(register_mutex);
    std::erase(locks(), &lock);
}

}  // namespace pqpool
