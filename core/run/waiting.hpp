// Somebody who waits for an answer from the pool: a connection, the end of opening, the end of shutdown. Lives with who
// waits.
#pragma once

#include <semaphore.h>

#include <optional>
#include <string>

#include "core/base/clock.hpp"
#include "core/base/error.hpp"
#include "core/decide/waiter_queue.hpp"

namespace pqpool {

class Inbox;
struct AsyncOperation;
struct Lease;

struct Waiting {
    Waiting() { sem_init(&answered_, 0, 0); }
    ~Waiting() { sem_destroy(&answered_); }
    Waiting(const Waiting&) = delete;

    // For a thread; the deadline is the state machine's business.
    void wait() {
        while (sem_wait(&answered_) != 0) {
        }
    }
    void post() { sem_post(&answered_); }

    enum class For { acquire, replacement, opening, shutdown };
    For what = For::acquire;
    Nanos patience = 0, deadline = 0, leak_limit = 0;
    std::string tag;
    Inbox* queue = nullptr;  // who is told; none: the thread in wait()
    AsyncOperation* operation = nullptr;
    WaiterId waiter;
    Waiting* next = nullptr;  // in a WaitingList

    // The answer.
    Lease* lease = nullptr;
    std::optional<Error> error;

  private:
    sem_t answered_;
};

// Takes in without memory of its own, so that whoever waits can always be answered. A Waiting stands in one at most.
class WaitingList {
  public:
    bool empty() const { return !first_; }
    void push(Waiting& waiting) {
        waiting.next = nullptr;
        (last_ ? last_->next : first_) = &waiting;
        last_ = &waiting;
    }
    Waiting* pop() {
        Waiting* waiting = first_;
        if (!waiting) return nullptr;
        first_ = waiting->next;
        if (!first_) last_ = nullptr;
        return waiting;
    }
    bool remove(const Waiting& waiting) {
        Waiting* before = nullptr;
        for (Waiting* at = first_; at; before = at, at = at->next) {
            if (at != &waiting) continue;
            (before ? before->next : first_) = at->next;
            if (last_ == at) last_ = before;
            return true;
        }
        return false;
    }

  private:
    Waiting *first_ = nullptr, *last_ = nullptr;
};

}  // namespace pqpool
