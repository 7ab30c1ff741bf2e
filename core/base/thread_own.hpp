// One T for each thread, made at its first use there. A C++ thread_local would be destroyed while callers may still
// come: from destructors of pthread keys and, on the main thread, from atexit handlers and static objects' destructors.
// Here the main thread's lives to the end, and whoever comes late in another thread gets a new one, which goes after
// it.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstdint>
#include <memory>

namespace pqpool {

// Names a thread for good: unlike its std::thread::id, which goes to another thread when it has ended.
using ThreadNumber = std::uint64_t;

inline ThreadNumber this_thread() {
    static constinit std::atomic<ThreadNumber> threads{0};
    static constinit thread_local ThreadNumber own = 0;
    return own ? own : own = ++threads;
}

template <class T>
class ThreadOwn {
  public:
    // Throws std::bad_alloc, at a thread's first use only.
    static T& get() { return own_ ? *own_ : make(); }

  private:
    static T& make() {
        auto made = std::make_unique<T>();
        static const Key key;
        // Without a place for it, it outlives its thread.
        if (key.exists && pthread_setspecific(key.value, made.get()) != 0) throw std::bad_alloc();
        return *(own_ = made.release());
    }

    static void drop(void* own) {
        own_ = nullptr;
        delete static_cast<T*>(own);
    }

    struct Key {
        pthread_key_t value{};
        const bool exists = pthread_key_create(&value, drop) == 0;
    };

    static inline constinit thread_local T* own_ = nullptr;
};

}  // namespace pqpool
