// The completion queue.
#include "capi/handles.hpp"

namespace pqpool::capi {

CompletionQueue& queue_of(::pqpool_queue* handle) {
    CompletionQueue& queue = wanted(handle, "queue").queue;
    if (queue.pool().is_of_parent())
        throw Error(ErrorKind::forked,
                    "the completion queue belongs to the parent process. Suggestion: open one in this process");
    return queue;
}

}  // namespace pqpool::capi

using namespace pqpool::capi;
using pqpool::Error;
using pqpool::ErrorKind;

extern "C" {

int32_t pqpool_queue_open(pqpool_pool* pool, pqpool_queue** queue) {
    return guarded([&] {
        wanted(queue, "queue");
        pool_of(pool);
        *queue = new pqpool_queue(pool->pool);
    });
}

void pqpool_queue_free(pqpool_queue* queue) {
    // The parent's epoll set is shared with the child, which must not touch it: there the queue is left as it is.
    if (!queue || queue->queue.pool().is_of_parent()) return;
    guarded([&] {
        if (queue->queue.in_call())
            throw Error(ErrorKind::busy,
                        "the completion queue is in use by its thread and was not freed. Suggestion: wake it with "
                        "pqpool_queue_wake, wait until its thread has left, and free it then");
        delete queue;
    });
}

int32_t pqpool_queue_fd(const pqpool_queue* queue) { return queue ? queue->queue.fd() : -1; }

int32_t pqpool_queue_poll(pqpool_queue* queue, int64_t timeout_ms) {
    return guarded([&] {
        const pqpool::Nanos timeout = timeout_of(timeout_ms, "timeout_ms", Negative::no_limit);
        queue_of(queue).poll(timeout == 0 ? 0 : pqpool::deadline_after(pqpool::monotonic_now(), timeout));
    });
}

int32_t pqpool_queue_next(pqpool_queue* queue, pqpool_completion* completion, int32_t* taken) {
    return guarded([&] {
        sized(completion, "completion");
        wanted(taken, "taken");
        pqpool::Completion* done = queue_of(queue).first();
        if (!done) return void(*taken = 0);
        auto& result = done->result;
        // Before it is taken, so that for want of memory it is still there.
        auto owned = result.has_value() ? std::make_unique<pqpool_result>() : nullptr;
        *taken = 1;
        completion->status = result.error() ? static_cast<int32_t>(result.error()->kind) : PQPOOL_OK;
        completion->id = done->id;
        completion->user_data = done->user_data;
        completion->lease = done->lease;
        if (owned) owned->result = std::move(result);
        completion->result = owned.release();
        queue->queue.take_first();
    });
}

int32_t pqpool_queue_wake(pqpool_queue* queue) {
    return guarded([&] { queue_of(queue).wake(); });
}

int32_t pqpool_await_open_async(pqpool_queue* queue, void* user_data, uint64_t* id) {
    return guarded([&] {
        wanted(id, "id");
        *id = queue_of(queue).await_opened(user_data);
    });
}

int32_t pqpool_acquire_async(pqpool_queue* queue, const pqpool_acquire_options* options, void* user_data, uint64_t* id,
                             pqpool_lease* lease) {
    return guarded([&] {
        wanted(id, "id");
        wanted(lease, "lease");
        pqpool::LeaseHandle granted = 0;
        *id = queue_of(queue).acquire(request_of(options), user_data, granted);
        *lease = granted;
    });
}

int32_t pqpool_execute_async(pqpool_queue* queue, pqpool_lease lease, const pqpool_statement* statement,
                             void* user_data, uint64_t* id) {
    return guarded([&] {
        wanted(id, "id");
        const auto s = arguments_of(statement);
        *id = queue_of(queue).execute(lease, s.sql, s.parameters.data(), s.parameters.size(), s.format, s.timeout,
                                      user_data);
    });
}

int32_t pqpool_run_async(pqpool_queue* queue, const pqpool_acquire_options* options, const pqpool_statement* statement,
                         void* user_data, uint64_t* id) {
    return guarded([&] {
        wanted(id, "id");
        const auto s = arguments_of(statement);
        *id = queue_of(queue).run(request_of(options), s.sql, s.parameters.data(), s.parameters.size(), s.format,
                                  s.timeout, user_data);
    });
}

int32_t pqpool_queue_cancel(pqpool_queue* queue, uint64_t id, int32_t* cancelled) {
    return guarded([&] {
        wanted(cancelled, "cancelled");
        *cancelled = queue_of(queue).cancel(id) ? 1 : 0;
    });
}

int32_t pqpool_shutdown_async(pqpool_queue* queue, int64_t timeout_ms, void* user_data, uint64_t* id) {
    return guarded([&] {
        wanted(id, "id");
        *id = queue_of(queue).shut_down(timeout_of(timeout_ms, "timeout_ms", Negative::no_limit), user_data);
    });
}

int32_t pqpool_queue_follow_log(pqpool_queue* queue) {
    return guarded([&] { queue_of(queue).follow_log(); });
}

}  // extern "C"
