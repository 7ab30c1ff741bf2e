// What reaches a completion queue from the pool and from other threads: grants, failures, and its leases given back.
// The pool knows a queue by this alone.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>

#include "core/base/thread_own.hpp"
#include "core/run/lease.hpp"
#include "core/run/poller.hpp"
#include "core/run/waiting.hpp"

namespace pqpool {

class Inbox {
  public:
    class Owner {
      public:
        virtual ~Owner() = default;
        virtual void on_release(Lease& lease) = 0;  // on its own thread: at once, not through the inbox
    };

    explicit Inbox(Owner& owner) : owner_(owner), thread_(this_thread()) {}
    Inbox(const Inbox&) = delete;

    // ---- any thread ----
    ThreadNumber thread() const { return thread_; }  // the owner's
    void release(Lease& lease);                      // its handle is dead already, so that no two release it
    const std::shared_ptr<Wakeup>& wakeup() const { return wakeup_; }  // readable when there is something in it

    // ---- the pool, under its lock ----
    void deliver(Waiting& waiting);  // it has its answer
    // What was granted before then and has not been taken is in `grants`, and the owner is told to ask again when it
    // looks. False where it has taken all.
    bool take_stale(Nanos before, WaitingList& grants);
    struct Told {
        Inbox* next = nullptr;
        bool is_listed = false;
    } told;  // see StalledQueues

    // ---- the owner ----
    struct Contents {
        WaitingList answers;
        Lease* releases = nullptr;  // linked by next_to_release
        bool is_parked = false;     // the other requests are with the pool until it is told that the owner looks again
    };
    bool is_empty() const { return !is_full_.load(std::memory_order_relaxed); }
    Contents take();
    // While it stands, this thread releases a lease of the owner's, which looks by itself for what that grants it.
    class OwnRelease {
      public:
        explicit OwnRelease(const Inbox& inbox);
        ~OwnRelease();
        OwnRelease(const OwnRelease&) = delete;

      private:
        const Inbox* const outer_;
    };

  private:
    void forget_release(const Lease& lease);

    Owner& owner_;
    const ThreadNumber thread_;
    const std::shared_ptr<Wakeup> wakeup_ = std::make_shared<Wakeup>();
    std::mutex mutex_;  // guards all below; taken under the pool's lock
    Contents contents_;
    Nanos untaken_since_ = 0;  // the first of the answers
    std::atomic<bool> is_full_{false};
};

// Tells who waits that the answer is there: a queue, or a thread. From then on `waiting` is its own.
void answer(Waiting& waiting);
inline void fail(Waiting& waiting, Error error) {
    waiting.error.emplace(std::move(error));
    answer(waiting);
}

}  // namespace pqpool
