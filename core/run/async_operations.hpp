// What was submitted to a completion queue, from the submit until its completion is taken. One thread's own.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>

#include "core/run/operation.hpp"
#include "core/run/waiting.hpp"

namespace pqpool {

struct Completion {
    std::uint64_t id = 0;
    void* user_data = nullptr;
    LeaseHandle lease = 0;  // of a granted acquire
    Result result;          // of a statement; on failure the error
};

// Holds its own completion, so that what was submitted can always be completed.
struct AsyncOperation {
    enum class Kind { acquire, execute, run, opening, shutdown };
    Kind kind = Kind::acquire;
    bool active = false;          // under way: neither free nor completed
    bool waits_for_pool = false;  // its Waiting is registered with the pool
    bool settles = false;
    std::uint32_t index = 0;
    std::uint32_t generation = 0;
    Completion completion;
    AsyncOperation* next = nullptr;  // among the free ones, or among the completed
    std::optional<Waiting> waiting;
    Nanos statement_timeout = 0;  // of a run, until it has its lease
    Operation operation;
};

class AsyncOperations {
  public:
    AsyncOperation& add(AsyncOperation::Kind kind, void* user_data);  // throws for want of memory
    AsyncOperation* find(std::uint64_t id);                           // nullptr where it is not under way
    void free(AsyncOperation& operation) {
        operation.active = operation.waits_for_pool = false;
        operation.next = free_;
        free_ = &operation;
    }
    void complete(AsyncOperation& operation, LeaseHandle lease, Result result) {
        set_settles(operation, false);
        operation.active = operation.waits_for_pool = false;
        operation.completion.lease = lease;
        operation.completion.result = std::move(result);
        operation.next = nullptr;
        (last_completed_ ? last_completed_->next : first_completed_) = &operation;
        last_completed_ = &operation;
    }
    AsyncOperation* first_completed() const { return first_completed_; }
    void free_first_completed() {
        AsyncOperation& operation = *first_completed_;
        first_completed_ = operation.next;
        if (!first_completed_) last_completed_ = nullptr;
        free(operation);
    }

    // It waits until an earlier statement's cancel request is sent.
    void set_settles(AsyncOperation& operation, bool settles) {
        if (operation.settles == settles) return;
        operation.settles = settles;
        settling_ += settles ? 1 : -1;
    }
    bool any_settles() const { return settling_ > 0; }

    // Those that are free among them. Stand where they are while others are added.
    auto begin() { return operations_.begin(); }
    auto end() { return operations_.end(); }

  private:
    static constexpr std::uint64_t kIndexBits = 24;  // of an id; above them stands the generation

    std::deque<AsyncOperation> operations_;
    AsyncOperation* free_ = nullptr;
    AsyncOperation *first_completed_ = nullptr, *last_completed_ = nullptr;
    std::size_t settling_ = 0;
};

}  // namespace pqpool
