#include "core/run/fork.hpp"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <vector>

#include "core/run/pool.hpp"

namespace pqpool {

namespace {

std::atomic<std::uint32_t> epoch{0};
std::mutex mutex;
// Reached from the fork handlers until the process ends, so never destroyed.
std::vector<Pool*>& pools() {
    static auto* list = new std::vector<Pool*>;
    return *list;
}

void before() {
    mutex.lock();
    for (Pool* pool : pools()) pool->lock_for_fork();
}

void after() {
    for (Pool* pool : pools()) pool->unlock_after_fork();
    mutex.unlock();
}

void in_child() {
    epoch.fetch_add(1, std::memory_order_relaxed);
    after();
}

}  // namespace

std::uint32_t fork_epoch() { return epoch.load(std::memory_order_relaxed); }

void add_to_fork_register(Pool& pool) {
    static std::once_flag once;
    std::call_once(once, [] { pthread_atfork(before, after, in_child); });
    std::lock_guard lock(mutex);
    pools().push_back(&pool);
}

void remove_from_fork_register(Pool& pool) {
    std::lock_guard lock(mutex);
    std::erase(pools(), &pool);
}

}  // namespace pqpool
