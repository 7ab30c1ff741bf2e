// What the opaque types of pqpool.h are, and how they become the core's objects.
#pragma once

#include <atomic>
#include <cstring>
#include <memory>
#include <mutex>
#include <type_traits>

#include "capi/guard.hpp"
#include "core/base/options.hpp"
#include "core/run/completion_queue.hpp"
#include "core/run/pool.hpp"
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
// A timeout in milliseconds. Negative ones mean something only as PQPOOL_NO_LIMIT, and as PQPOOL_DEFAULT where there is
// an option to take: a computed remainder that went below zero must not wait for ever.
enum class Negative { no_limit, no_limit_or_default };
Nanos timeout_of(std::int64_t ms, const char* name, Negative allowed = Negative::no_limit_or_default);

struct StatementArguments {
    std::string_view sql;
    std::vector<Parameter>& parameters;  // the thread's own, reused
    ResultFormat format;
    Nanos timeout;
};
StatementArguments arguments_of(const pqpool_statement* statement);

void check_size(std::size_t size, std::size_t needed, const char* name);
void check_unused(const char* tail, std::size_t length, const char* name);
void check_reserved(std::int64_t reserved, const char* name);

// The caller's struct holds all that this version of the function needs. A caller of a newer header may have a larger
// one: the tail that is not known here must be zero where we read the struct, and is made zero where we write it.
template <class T>
T& sized(T* argument, const char* name) {
    check_size(wanted(argument, name).struct_size, sizeof(T), name);
    auto* tail = reinterpret_cast<std::conditional_t<std::is_const_v<T>, const char*, char*>>(argument) + sizeof(T);
    const std::size_t length = argument->struct_size - sizeof(T);
    if constexpr (std::is_const_v<T>)
        check_unused(tail, length, name);
    else if (length > 0)
        std::memset(tail, 0, length);
    return *argument;
}

}  // namespace pqpool::capi
