/* One thread, many statements at once: the completion queue under poll(2).
 *
 * The queue is one descriptor that poll, epoll or an event loop can watch for reading. Whenever it turns readable,
 * pqpool_queue_poll makes progress without waiting, and pqpool_queue_next hands out what has completed. Here a fixed
 * number of jobs is kept under way; each acquires a connection, runs two statements on it and gives it back.
 *
 *   cc event_loop.c $(pkg-config --cflags --libs pqpool)
 *   ./a.out postgresql://user@host/database      (or set DATABASE_URL)
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pqpool.h"

enum { JOBS = 200, AT_ONCE = 20 };

enum step { OPENING, ACQUIRING, SLEEPING, COUNTING };

/* What a completion is about: its address goes out as user_data with the request and comes back with the completion. */
struct job {
    enum step step;
    int number;
    pqpool_lease lease;
};

struct loop {
    pqpool_pool* pool;
    pqpool_queue* queue;
    int started, finished, failures;
    int stopping, stopped;
};

static void complain(const char* what, int32_t status, const char* message) {
    fprintf(stderr, "%s: %s: %s\n", what, pqpool_status_name(status), message ? message : "");
}

static void finish(struct loop* loop, struct job* job, int failed) {
    if (job->lease != 0) {
        const int32_t status = pqpool_release(loop->pool, job->lease);
        if (status != PQPOOL_OK) {
            complain("release", status, pqpool_error_message());
            failed = 1;
        }
    }
    free(job);
    loop->finished++;
    loop->failures += failed;
}

/* Submits a statement of the job. The text and the parameters are copied, so they need not outlive the call. */
static void execute(struct loop* loop, struct job* job, enum step step, const char* sql) {
    char number[16];
    snprintf(number, sizeof number, "%d", job->number);
    const pqpool_parameter parameter = {.value = number};
    pqpool_statement statement = PQPOOL_STATEMENT_INIT(sql);
    statement.parameters = &parameter;
    statement.parameter_count = 1;
    statement.timeout_ms = 5000;

    uint64_t id;
    job->step = step;
    const int32_t status = pqpool_execute_async(loop->queue, job->lease, &statement, job, &id);
    if (status != PQPOOL_OK) {
        complain(sql, status, pqpool_error_message());
        finish(loop, job, 1);
    }
}

static void leased(struct loop* loop, struct job* job, pqpool_lease lease) {
    job->lease = lease;
    execute(loop, job, SLEEPING, "SELECT pg_sleep(0.001 * ($1::int % 5))");
}

static void start_jobs(struct loop* loop) {
    while (loop->started < JOBS && loop->started - loop->finished < AT_ONCE) {
        struct job* job = calloc(1, sizeof *job);
        if (!job) {
            perror("calloc");
            exit(1);
        }
        job->step = ACQUIRING;
        job->number = loop->started++;
        uint64_t id;
        pqpool_lease lease;
        const int32_t status = pqpool_acquire_async(loop->queue, NULL, job, &id, &lease);
        if (status != PQPOOL_OK) {
            complain("acquire", status, pqpool_error_message());
            finish(loop, job, 1);
        } else if (lease != 0) {
            leased(loop, job, lease); /* a connection was free: granted at once, and no completion follows */
        }
    }
}

static void on_completion(struct loop* loop, const pqpool_completion* done) {
    struct job* job = done->user_data;
    const int failed = done->status != PQPOOL_OK;
    /* An asynchronous failure brings its own text along. */
    if (failed) complain("request", done->status, pqpool_result_error_message(done->result));
    if (!job) { /* the shutdown */
        loop->stopped = 1;
        loop->failures += failed;
    } else if (job->step == OPENING) {
        loop->stopping = loop->stopped = failed;
        loop->failures += failed;
        free(job);
    } else if (failed) {
        finish(loop, job, 1);
    } else if (job->step == ACQUIRING) {
        leased(loop, job, done->lease);
    } else if (job->step == SLEEPING) {
        execute(loop, job, COUNTING, "SELECT $1::int + 1");
    } else {
        const char* value = pqpool_result_value(done->result, 0, 0);
        finish(loop, job, !value || atoi(value) != job->number + 1);
    }
    pqpool_result_free(done->result); /* NULL is allowed */
}

/* Takes completions until there is none: what the program's own calls complete does not make the descriptor readable.
 */
static int take_completions(struct loop* loop) {
    for (;;) {
        pqpool_completion done = {.struct_size = sizeof done};
        int32_t taken;
        const int32_t status = pqpool_queue_next(loop->queue, &done, &taken);
        if (status != PQPOOL_OK) {
            complain("queue", status, pqpool_error_message());
            return 0;
        }
        if (!taken) return 1;
        on_completion(loop, &done);
        if (!loop->stopping) start_jobs(loop);
    }
}

static int run(struct loop* loop) {
    while (!loop->stopped) {
        if (!take_completions(loop)) return 0;
        if (loop->finished == JOBS && !loop->stopping) {
            uint64_t id;
            loop->stopping = 1;
            const int32_t status = pqpool_shutdown_async(loop->queue, 10000, NULL, &id);
            if (status != PQPOOL_OK) {
                complain("shutdown", status, pqpool_error_message());
                return 0;
            }
            continue; /* it may have completed at once */
        }
        if (loop->stopped) break;
        /* The program's other descriptors would stand in the same array. */
        struct pollfd watched = {.fd = pqpool_queue_fd(loop->queue), .events = POLLIN};
        const int ready = poll(&watched, 1, 30000);
        if (ready < 0 && errno == EINTR) continue;
        if (ready <= 0) {
            fprintf(stderr, "poll: %s\n", ready == 0 ? "nothing happened for 30 seconds" : strerror(errno));
            return 0;
        }
        const int32_t status = pqpool_queue_poll(loop->queue, 0);
        if (status != PQPOOL_OK) {
            complain("queue", status, pqpool_error_message());
            return 0;
        }
    }
    return 1;
}

/* Opens without waiting: the first completion tells that the connections stand. */
static int32_t start(struct loop* loop, const char* url) {
    pqpool_options* options;
    int32_t status = pqpool_options_create(&options);
    if (status != PQPOOL_OK) return status;
    if ((status = pqpool_options_from_env(options)) == PQPOOL_OK &&
        (!url || (status = pqpool_options_set(options, "database_url", url)) == PQPOOL_OK) &&
        (status = pqpool_options_set(options, "max_size", "8")) == PQPOOL_OK)
        status = pqpool_create(options, &loop->pool);
    pqpool_options_free(options);
    if (status != PQPOOL_OK) return status;

    if ((status = pqpool_start(loop->pool)) != PQPOOL_OK) return status;
    if ((status = pqpool_queue_open(loop->pool, &loop->queue)) != PQPOOL_OK) return status;
    struct job* job = calloc(1, sizeof *job);
    if (!job) return PQPOOL_INTERNAL;
    uint64_t id;
    if ((status = pqpool_await_open_async(loop->queue, job, &id)) != PQPOOL_OK) free(job);
    return status;
}

int main(int argc, char** argv) {
    struct loop loop = {0};
    const int32_t status = start(&loop, argc > 1 ? argv[1] : NULL);
    int good = status == PQPOOL_OK;
    if (good)
        good = run(&loop);
    else
        complain("start", status, pqpool_error_message());
    printf("%d of %d jobs finished, %d failures\n", loop.finished, JOBS, loop.failures);
    /* The queue before its pool. */
    pqpool_queue_free(loop.queue);
    pqpool_free(loop.pool);
    return good && loop.finished == JOBS && loop.failures == 0 ? 0 : 1;
}
