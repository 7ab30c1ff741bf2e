/* What the blocking C interface costs, on a pool of 10 connections.
 *
 *   DATABASE_URL=... blocking_c statements|acquire THREADS SECONDS VALIDATION
 *
 * statements: each thread runs SELECT 1 through pqpool_run, one lease for each; prints statements per second.
 * acquire: each thread acquires and releases without a statement; prints nanoseconds per cycle, which is the time
 * that passed divided by the cycles of all threads. Either as one JSON object.
 */
#define _POSIX_C_SOURCE 200809L
#include <pqpool.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { kMostThreads = 64, kWarmUp = 500 };

static pqpool_pool* pool;
static atomic_bool over;
static pthread_barrier_t at_start;

typedef struct worker {
    pthread_t thread;
    int32_t (*operation)(void);
    long long done;
} worker;

static void must(int32_t status, const char* what) {
    if (status == PQPOOL_OK) return;
    fprintf(stderr, "%s: %s: %s\n", what, pqpool_status_name(status), pqpool_error_message());
    exit(1);
}

static int32_t run_statement(void) {
    pqpool_statement statement = PQPOOL_STATEMENT_INIT("SELECT 1");
    pqpool_result* result = NULL;
    int32_t status = pqpool_run(pool, NULL, &statement, &result);
    if (status != PQPOOL_OK) return status;
    const char* value = pqpool_result_value(result, 0, 0);
    if (value == NULL || strcmp(value, "1") != 0) {
        fprintf(stderr, "SELECT 1 returned %s\n", value == NULL ? "nothing" : value);
        exit(1);
    }
    pqpool_result_free(result);
    return PQPOOL_OK;
}

static int32_t acquire_and_release(void) {
    pqpool_lease lease;
    int32_t status = pqpool_acquire(pool, NULL, &lease);
    return status != PQPOOL_OK ? status : pqpool_release(pool, lease);
}

static void* work(void* argument) {
    worker* self = argument;
    for (int i = 0; i < kWarmUp; i++) must(self->operation(), "warm-up");
    pthread_barrier_wait(&at_start);
    long long done = 0;
    while (!atomic_load_explicit(&over, memory_order_relaxed)) {
        must(self->operation(), "operation");
        done++;
    }
    self->done = done;
    return NULL;
}

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void wait_s(double seconds) {
    struct timespec t = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&t, NULL);
}

static void open_pool(const char* url, const char* validation) {
    pqpool_options* options = NULL;
    must(pqpool_options_create(&options), "options");
    must(pqpool_options_set(options, "database_url", url), "database_url");
    must(pqpool_options_set(options, "min_size", "10"), "min_size");
    must(pqpool_options_set(options, "max_size", "10"), "max_size");
    must(pqpool_options_set(options, "validation", validation), "validation");
    must(pqpool_open(options, &pool), "open");
    pqpool_options_free(options);
}

int main(int argc, char** argv) {
    static worker workers[kMostThreads];
    const char* url = getenv("DATABASE_URL");
    int statements = argc == 5 && strcmp(argv[1], "statements") == 0;
    int threads = argc == 5 ? atoi(argv[2]) : 0;
    double seconds = argc == 5 ? atof(argv[3]) : 0;
    if (url == NULL || (!statements && (argc != 5 || strcmp(argv[1], "acquire") != 0)) || threads < 1 ||
        threads > kMostThreads || seconds <= 0 || seconds > 600) {
        fprintf(stderr, "usage: DATABASE_URL=... blocking_c statements|acquire THREADS SECONDS VALIDATION\n");
        return 2;
    }
    open_pool(url, argv[4]);

    pthread_barrier_init(&at_start, NULL, (unsigned)threads + 1);
    for (int i = 0; i < threads; i++) {
        workers[i].operation = statements ? run_statement : acquire_and_release;
        if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0) {
            fprintf(stderr, "no thread could be started\n");
            return 1;
        }
    }
    pthread_barrier_wait(&at_start);
    double start = now_s();
    wait_s(seconds);
    atomic_store(&over, true);
    long long done = 0;
    for (int i = 0; i < threads; i++) {
        pthread_join(workers[i].thread, NULL);
        done += workers[i].done;
    }
    double took = now_s() - start;
    double value = statements ? (double)done / took : took * 1e9 / (double)done;
    printf("{\"value\": %.2f, \"operations\": %lld, \"seconds\": %.3f}\n", value, done, took);
    must(pqpool_shutdown(pool, 5000), "shutdown");
    pqpool_free(pool);
    return 0;
}
