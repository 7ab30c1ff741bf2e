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
    if (queue && !queue->queue.pool().is_of_parent()) guarded([&] { delete queue; });
}

int32_t pqpool_queue_fd(const pqpool_queue* queue) { return queue ? queue->queue.fd() : -1; }

int32_t pqpool_queue_poll(pqpool_queue* queue, int64_t timeout_ms) {
    return guarded([&] {
        queue_of(queue).poll(timeout_ms == 0 ? 0
                                             : pqpool::deadline_after(pqpool::monotonic_now(), nanos_of(timeout_ms)));
    });
}

int32_t pqpool_queue_next(pqpool_queue* queue, pqpool_completion* completion, int32_t* taken) {
    return guarded([&] {
        sized(completion, sizeof(pqpool_completion), "completion");
        wanted(taken, "taken");
        pqpool::Completion done;
        *taken = queue_of(queue).next(done) ? 1 : 0;
        if (!*taken) return;
        completion->status = done.result.error() ? static_cast<int32_t>(done.result.error()->kind) : PQPOOL_OK;
        completion->id = done.id;
        completion->user_data = done.user_data;
        completion->lease = done.lease;
        completion->result = done.result.has_value() ? new pqpool_result{std::move(done.result)} : nullptr;
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
        *id = queue_of(queue).shut_down(nanos_of(timeout_ms), user_data);
    });
}

int32_t pqpool_queue_follow_log(pqpool_queue* queue) {
    return guarded([&] { queue_of(queue).follow_log(); });
}

}  // extern "C"
