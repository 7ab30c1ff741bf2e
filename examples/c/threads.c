/* One pool, several threads: each thread takes a connection, runs statements on it and gives it back.
 *
 *   cc threads.c $(pkg-config --cflags --libs pqpool) -pthread
 *   ./a.out postgresql://user@host/database      (or set DATABASE_URL)
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "pqpool.h"

enum { THREADS = 8, ROUNDS = 100 };

struct worker {
    pthread_t thread;
    pqpool_pool* pool;
    int number;
    int failures;
    long long sum;
};

/* Says what failed, to what, and why: every failing call leaves its text behind for the thread that made it. */
static void complain(const char* what, int32_t status) {
    fprintf(stderr, "%s: %s: %s\n", what, pqpool_status_name(status), pqpool_error_message());
}

/* A lease that lasts for one statement: pqpool_run acquires, executes and releases in one call. */
static int add_one(struct worker* worker, int round) {
    char number[16];
    snprintf(number, sizeof number, "%d", round);
    /* Parameters travel beside the statement and never become part of its text, so nothing has to be quoted. */
    const pqpool_parameter parameter = {.value = number};
    pqpool_statement statement = PQPOOL_STATEMENT_INIT("SELECT $1::int8 * 2");
    statement.parameters = &parameter;
    statement.parameter_count = 1;

    pqpool_result* result;
    const int32_t status = pqpool_run(worker->pool, NULL, &statement, &result);
    if (status != PQPOOL_OK) {
        complain("SELECT", status);
        return 0;
    }
    worker->sum += atoll(pqpool_result_value(result, 0, 0));
    pqpool_result_free(result);
    return 1;
}

static int execute(pqpool_pool* pool, pqpool_lease lease, const char* sql) {
    pqpool_statement statement = PQPOOL_STATEMENT_INIT(sql);
    pqpool_result* result;
    const int32_t status = pqpool_execute(pool, lease, &statement, &result);
    if (status != PQPOOL_OK) {
        complain(sql, status);
        return 0;
    }
    pqpool_result_free(result);
    return 1;
}

/* A lease that lasts longer: a transaction needs the same connection throughout. */
static int in_a_transaction(struct worker* worker) {
    char tag[32];
    snprintf(tag, sizeof tag, "worker %d", worker->number);
    pqpool_acquire_options options = PQPOOL_ACQUIRE_OPTIONS_INIT;
    options.timeout_ms = 10000;
    options.tag = tag; /* shown where somebody asks who holds the connections */

    pqpool_lease lease;
    const int32_t status = pqpool_acquire(worker->pool, &options, &lease);
    if (status != PQPOOL_OK) {
        complain("acquire", status);
        return 0;
    }
    const int done =
        execute(worker->pool, lease, "BEGIN") && execute(worker->pool, lease, "SET LOCAL statement_timeout = '5s'") &&
        execute(worker->pool, lease, "SELECT count(*) FROM pg_class") && execute(worker->pool, lease, "COMMIT");
    /* Always, also after a failure: a transaction that is still open is rolled back here. */
    const int32_t released = pqpool_release(worker->pool, lease);
    if (released != PQPOOL_OK) complain("release", released);
    return done && released == PQPOOL_OK;
}

static void* work(void* argument) {
    struct worker* worker = argument;
    for (int round = 1; round <= ROUNDS; round++)
        if (!add_one(worker, round)) worker->failures++;
    if (!in_a_transaction(worker)) worker->failures++;
    return NULL;
}

static int print_statistics(pqpool_pool* pool) {
    pqpool_statistics statistics = {.struct_size = sizeof statistics};
    const int32_t status = pqpool_get_statistics(pool, &statistics);
    if (status != PQPOOL_OK) {
        complain("statistics", status);
        return 0;
    }
    /* Each statistic says its name, its unit and its place, so that a program can show those it has never heard of. */
    for (int32_t i = 0; i < pqpool_statistic_count(); i++) {
        pqpool_statistic_info info = {.struct_size = sizeof info};
        if (pqpool_statistic_describe(i, &info) != PQPOOL_OK || info.type == PQPOOL_STATISTIC_TIME) continue;
        const char* at = (const char*)&statistics + info.offset;
        if (info.type == PQPOOL_STATISTIC_MS)
            printf("  %-26s %10.3f %s\n", info.name, *(const double*)(const void*)at, info.unit);
        else
            printf("  %-26s %10" PRId64 " %s\n", info.name, *(const int64_t*)(const void*)at, info.unit);
    }
    return 1;
}

/* Options are set by name, as text; here over what the environment says (POOL_MAX_SIZE and its like, DATABASE_URL). */
static pqpool_pool* open_pool(const char* url) {
    pqpool_options* options;
    int32_t status = pqpool_options_create(&options);
    if (status != PQPOOL_OK) {
        complain("options", status);
        return NULL;
    }
    pqpool_pool* pool = NULL;
    if ((status = pqpool_options_from_env(options)) != PQPOOL_OK ||
        (url && (status = pqpool_options_set(options, "database_url", url)) != PQPOOL_OK) ||
        (status = pqpool_options_set(options, "max_size", "4")) != PQPOOL_OK ||
        (status = pqpool_open(options, &pool)) != PQPOOL_OK)
        complain("open", status);
    pqpool_options_free(options); /* the pool has its own copy */
    return pool;
}

int main(int argc, char** argv) {
    pqpool_pool* pool = open_pool(argc > 1 ? argv[1] : NULL);
    if (!pool) return 1;

    struct worker workers[THREADS];
    int started = 0, failures = 0;
    for (; started < THREADS; started++) {
        workers[started] = (struct worker){.pool = pool, .number = started};
        if (pthread_create(&workers[started].thread, NULL, work, &workers[started]) != 0) {
            perror("pthread_create");
            failures++;
            break;
        }
    }
    long long sum = 0;
    for (int i = 0; i < started; i++) {
        pthread_join(workers[i].thread, NULL);
        failures += workers[i].failures;
        sum += workers[i].sum;
    }
    const long long expected = (long long)started * ROUNDS * (ROUNDS + 1);
    printf("%d threads, sum %lld (expected %lld), %d failures\n", started, sum, expected, failures);

    if (!print_statistics(pool)) failures++;
    /* Leases out would be waited for, ten seconds at most. */
    const int32_t status = pqpool_shutdown(pool, 10000);
    if (status != PQPOOL_OK) {
        complain("shutdown", status);
        failures++;
    }
    pqpool_free(pool);
    return failures == 0 && sum == expected ? 0 : 1;
}
