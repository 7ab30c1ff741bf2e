// What the opaque types of pqpool.h are, and how they become the core's objects.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>

#include "capi/guard.hpp"
#include "core/completion_queue.hpp"
#include "core/options.hpp"
#include "core/pool.hpp"
#include "pqpool.h"

struct pqpool_options {
    pqpool::Options options;
};

struct pqpool_pool {
    explicit pqpool_pool(std::shared_ptr<pqpool::Pool> pool) : pool(std::move(pool)), current(this->pool.get()) {}

    std::mutex mutex;  // guards the exchange after a fork
    std::shared_ptr<pqpool::Pool> pool;
    std::atomic<pqpool::Pool*> current;  // the same, for those who have not come for the exchange
};

struct pqpool_queue {
    explicit pqpool_queue(std::shared_ptr<pqpool::Pool> pool) : queue(std::move(pool)) {}
    pqpool::CompletionQueue queue;
};

struct pqpool_result {
    pqpool::Result result;
};

namespace pqpool::capi {

// The pool of this process. In the child of a fork the parent's is let go of and one with the same options takes its
// place.
Pool& pool_of(::pqpool_pool* handle);
CompletionQueue& queue_of(::pqpool_queue* handle);

AcquireRequest request_of(const pqpool_acquire_options* options);
Nanos nanos_of(std::int64_t ms);

struct StatementArguments {
    std::string_view sql;
    std::vector<Parameter>& parameters;  // the thread's own, reused
    ResultFormat format;
    Nanos timeout;
};
StatementArguments arguments_of(const pqpool_statement* statement);

// Checks that the caller's struct holds all that this version of the function needs.
template <class T>
T& sized(T* argument, std::size_t needed, const char* name) {
    if (wanted(argument, name).struct_size < needed)
        throw Error(ErrorKind::invalid_argument, std::string(name) +
                                                     "->struct_size is too small. Suggestion: set it to sizeof(*" +
                                                     name + ") before the call");
    return *argument;
}

}  // namespace pqpool::capi
