/* The floor under every pool: the round trip of one prepared SELECT 1 through bare libpq.
 *
 *   DATABASE_URL=… floor [STATEMENTS]
 *
 * Prints one JSON object: the median and the 95th percentile in microseconds. The connection is non-blocking
 * and waits in poll(2), as any event loop does; the result is asked for in binary.
 */
#define _POSIX_C_SOURCE 200809L
#include <libpq-fe.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { kWarmUp = 500, kDefault = 20000, kMost = 1000000, kWaitMs = 10000 };

static double now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int by_value(const void* a, const void* b) {
    double x = *(const double*)a, y = *(const double*)b;
    return (x > y) - (x < y);
}

static int fail(PGconn* conn, const char* what) {
    fprintf(stderr, "floor: %s: %s", what, PQerrorMessage(conn));
    PQfinish(conn);
    return 1;
}

/* One statement, to the end of its results. 0 on success. */
static int round_trip(PGconn* conn) {
    int rows = 0;
    if (!PQsendQueryPrepared(conn, "one", 0, NULL, NULL, NULL, 1) || PQflush(conn) < 0) return -1;
    for (;;) {
        while (PQisBusy(conn)) {
            struct pollfd wait = {PQsocket(conn), POLLIN, 0};
            if (poll(&wait, 1, kWaitMs) <= 0 || !PQconsumeInput(conn)) return -1;
        }
        PGresult* result = PQgetResult(conn);
        if (result == NULL) return rows == 1 ? 0 : -1;
        if (PQresultStatus(result) == PGRES_TUPLES_OK) rows += PQntuples(result);
        PQclear(result);
    }
}

int main(int argc, char** argv) {
    const char* url = getenv("DATABASE_URL");
    long statements = argc > 1 ? strtol(argv[1], NULL, 10) : kDefault;
    if (url == NULL || statements < 1 || statements > kMost) {
        fprintf(stderr, "usage: DATABASE_URL=... floor [STATEMENTS, 1 to %d]\n", kMost);
        return 2;
    }
    PGconn* conn = PQconnectdb(url);
    if (PQstatus(conn) != CONNECTION_OK) return fail(conn, "connect");
    PGresult* prepared = PQprepare(conn, "one", "SELECT 1", 0, NULL);
    int ready = PQresultStatus(prepared) == PGRES_COMMAND_OK;
    PQclear(prepared);
    if (!ready || PQsetnonblocking(conn, 1) != 0) return fail(conn, "prepare");

    double* took = malloc((size_t)statements * sizeof *took);
    if (took == NULL) return fail(conn, "out of memory");
    for (long i = -kWarmUp; i < statements; i++) {
        double start = now_us();
        if (round_trip(conn) != 0) {
            free(took);
            return fail(conn, "statement");
        }
        if (i >= 0) took[i] = now_us() - start;
    }
    qsort(took, (size_t)statements, sizeof *took, by_value);
    printf("{\"p50_us\": %.2f, \"p95_us\": %.2f, \"statements\": %ld}\n", took[statements / 2],
           took[statements * 95 / 100], statements);
    free(took);
    PQfinish(conn);
    return 0;
}
