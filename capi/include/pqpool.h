/* pqpool: a PostgreSQL connection pool inside your process. The C interface.
 *
 * Conventions
 *  1. Every function that can fail returns an int32_t status: PQPOOL_OK (0), or one of the negative PQPOOL_* statuses
 * below. Any function may return PQPOOL_INTERNAL (out of memory) and PQPOOL_INVALID_ARGUMENT (a NULL where an object is
 * wanted, a struct_size too small).
 *  2. Outputs come last and are left untouched on failure.
 *  3. The text of a thread's last failure is pqpool_error_message(); an asynchronous failure carries its own text in
 * the completion's result.
 *  4. pqpool_*_create/open give an object you own and free with the matching pqpool_*_free. Pointers returned by value
 * are borrowed.
 *  5. Structs that cross start with struct_size, which the caller sets to sizeof; they only ever grow at the end. Where
 * the caller's is larger than the library knows, its tail must be zero in what the library reads and is made zero in
 * what it writes. Fields named reserved must be zero. All else is PQPOOL_INVALID_ARGUMENT.
 *  6. Units are in the names: _ms milliseconds, _us microseconds. A timeout of 0 does not wait, PQPOOL_NO_LIMIT waits
 * for ever, PQPOOL_DEFAULT takes the pool's option, where the timeout has one. Any other negative timeout, such as a
 * remainder that went below zero, is PQPOOL_INVALID_ARGUMENT.
 *  7. Text is UTF-8, ends with a NUL, and is copied by the library where it keeps it. What the library says is UTF-8
 * too, whatever the server or the system spoke: other bytes are replaced by U+FFFD, and what is cut is cut between two
 * characters. Only a result's values are as the server sent them.
 *  8. Thread safety: a pqpool_pool may be used from any thread at once. A lease is one caller's at a time; a second
 * call on it at the same time gets PQPOOL_BUSY. A pqpool_queue belongs to the thread that opened it. Results and
 * options are not locked.
 *  9. After fork() the child may go on using a pqpool_pool: it opens connections of its own. Leases, queues and results
 * of the parent are the parent's; using one gives PQPOOL_FORKED.
 * 10. The library starts no thread before pqpool_open or pqpool_start; its threads block all signals.
 */
#ifndef PQPOOL_H
#define PQPOOL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define PQPOOL_API __attribute__((visibility("default")))
#else
#define PQPOOL_API
#endif

#define PQPOOL_VERSION_MAJOR 0
#define PQPOOL_VERSION_MINOR 1
#define PQPOOL_VERSION_PATCH 0

/* Grows with every incompatible change of this header. */
#define PQPOOL_ABI_VERSION 0

/* ---- statuses ---- */

enum {
    PQPOOL_OK = 0,
    PQPOOL_CONFIGURATION = -1,   /* an option is missing, malformed or out of its bounds */
    PQPOOL_INITIALIZATION = -2,  /* the pool could not open its first connections */
    PQPOOL_TIMEOUT = -3,         /* no connection became free within the acquire's timeout */
    PQPOOL_CLOSED = -4,          /* the pool is shutting down or terminated */
    PQPOOL_VALIDATION = -5,      /* the connection was lost with its validation; whether the statement ran is unknown */
    PQPOOL_NOT_INITIALIZED = -6, /* the pool has not been opened yet */
    PQPOOL_TOO_MANY_REQUESTS = -7,  /* max_waiting requests are waiting already */
    PQPOOL_CONNECTION_LOST = -8,    /* the connection was lost during a lease */
    PQPOOL_QUERY = -9,              /* the server refused the statement; sqlstate and fields tell why */
    PQPOOL_STATEMENT_TIMEOUT = -10, /* the statement took longer than its timeout and was cancelled */
    PQPOOL_CANCELLED = -11,         /* the request was cancelled */
    PQPOOL_RELEASED = -12,          /* the lease was released already */
    PQPOOL_BUSY = -13,              /* another statement is under way on this lease */
    PQPOOL_FORKED = -14,            /* the object belongs to the parent process */
    PQPOOL_INVALID_ARGUMENT = -15,  /* an argument of the call is invalid */
    PQPOOL_UNSUPPORTED = -16,       /* this cannot be done through this call */
    PQPOOL_INTERNAL = -17           /* out of memory, or a defect of the pool */
};

#define PQPOOL_DEFAULT  (-2)
#define PQPOOL_NO_LIMIT (-1)

/* The text of this thread's last failed call: what happened, then what to do. Borrowed until the thread's next call. ""
 * where none failed. */
PQPOOL_API const char* pqpool_error_message(void);
/* The server's SQLSTATE of this thread's last failure, "" where no server spoke. Borrowed likewise. */
PQPOOL_API const char* pqpool_error_sqlstate(void);
/* A field of the server's last error by its code in the protocol ('D' detail, 'H' hint, 'n' constraint, ...), NULL
 * where it has none. */
PQPOOL_API const char* pqpool_error_field(int32_t code);
/* The name of a status, as in "timeout"; "ok" for PQPOOL_OK, NULL for an unknown one. Static. */
PQPOOL_API const char* pqpool_status_name(int32_t status);
PQPOOL_API int32_t pqpool_abi_version(void);
/* "0.1.0". Static. */
PQPOOL_API const char* pqpool_version(void);

/* ---- options ---- */

typedef struct pqpool_options pqpool_options;

typedef enum pqpool_option_type {
    PQPOOL_OPTION_INTEGER = 0,
    PQPOOL_OPTION_SECONDS = 1,
    PQPOOL_OPTION_BOOLEAN = 2,
    PQPOOL_OPTION_TEXT = 3,
    PQPOOL_OPTION_CHOICE = 4
} pqpool_option_type;

typedef struct pqpool_option_info {
    uint32_t struct_size;
    int32_t type;     /* pqpool_option_type */
    const char* name; /* all texts are static */
    const char* default_value;
    const char* choices; /* of a choice, separated by '|' */
    const char* meaning;
    double minimum, maximum; /* of a number */
    int32_t minimum_is_open; /* nonzero: the value must be greater than the minimum */
    int32_t maximum_is_open;
} pqpool_option_info;

/* Options with their defaults. Every option is set by name, as text; see pqpool_option_describe for the list. */
PQPOOL_API int32_t pqpool_options_create(pqpool_options** options);
PQPOOL_API void pqpool_options_free(pqpool_options* options);
/* PQPOOL_CONFIGURATION: no such option, or the value has not its type. Bounds are judged by pqpool_options_check. */
PQPOOL_API int32_t pqpool_options_set(pqpool_options* options, const char* name, const char* value);
/* Writes the value, cut to size with its NUL; *length is its whole length. */
PQPOOL_API int32_t pqpool_options_get(const pqpool_options* options, const char* name, char* value, size_t size,
                                      size_t* length);
/* Takes POOL_<NAME> for every option, and DATABASE_URL, from the environment. An empty variable counts as not set, and
 * blanks around a number, a boolean or a choice do not count. */
PQPOOL_API int32_t pqpool_options_from_env(pqpool_options* options);
/* PQPOOL_CONFIGURATION with every broken rule, one a line. */
PQPOOL_API int32_t pqpool_options_check(const pqpool_options* options);
PQPOOL_API int32_t pqpool_option_count(void);
PQPOOL_API int32_t pqpool_option_describe(int32_t index, pqpool_option_info* info);

/* ---- life ---- */

typedef struct pqpool_pool pqpool_pool;

/* A pool that has opened nothing. The options are copied. PQPOOL_CONFIGURATION. Does not block. */
PQPOOL_API int32_t pqpool_create(const pqpool_options* options, pqpool_pool** pool);
/* Begins to open min_size connections. Does not block; acquires wait until a connection is there. A second call does
 * nothing. PQPOOL_INTERNAL where its thread cannot be started: the pool is as before, and the call can be repeated. */
PQPOOL_API int32_t pqpool_start(pqpool_pool* pool);
/* pqpool_create, pqpool_start, and waits until min_size connections stand. PQPOOL_CONFIGURATION; PQPOOL_INITIALIZATION
 * after three attempts, or at once where the server refuses for good (password, role, database): nothing is left open
 * then and no pool is given. Blocks. */
PQPOOL_API int32_t pqpool_open(const pqpool_options* options, pqpool_pool** pool);
/* Refuses new acquires, fails waiting ones with PQPOOL_CLOSED, waits for leases out up to the timeout, then breaks
 * their connections. Blocks at most for the timeout and a moment. Idempotent; two at once are one. */
PQPOOL_API int32_t pqpool_shutdown(pqpool_pool* pool, int64_t timeout_ms); /* PQPOOL_DEFAULT means nothing here */
/* Shuts down at once where that was not done, and frees. Free the pool's queues first. NULL is allowed. */
PQPOOL_API void pqpool_free(pqpool_pool* pool);

/* ---- leases ---- */

/* Names a lease for good: a handle that was released is recognized, and never names another lease, of this pool or of
 * another one (PQPOOL_INVALID_ARGUMENT). 0 is none. */
typedef uint64_t pqpool_lease;

typedef struct pqpool_acquire_options {
    uint32_t struct_size;
    uint32_t reserved;       /* 0 */
    int64_t timeout_ms;      /* wait for a connection, at most; PQPOOL_DEFAULT: the option `timeout` */
    int64_t leak_timeout_ms; /* hold time before a leak warning; 0 or PQPOOL_NO_LIMIT: none; PQPOOL_DEFAULT: the option
                                leak_detection_timeout */
    const char* tag;         /* who you are, for leak warnings and pqpool_holders; may be NULL */
} pqpool_acquire_options;

#define PQPOOL_ACQUIRE_OPTIONS_INIT \
    { sizeof(pqpool_acquire_options), 0, PQPOOL_DEFAULT, PQPOOL_DEFAULT, NULL }

typedef struct pqpool_parameter {
    const char* value; /* NULL is SQL's NULL. Text ends with a NUL */
    uint32_t type;     /* OID; 0 lets the server infer it */
    int32_t length;    /* of a binary value */
    int32_t binary;    /* nonzero: the value is in the type's binary form */
    int32_t reserved;  /* 0 */
} pqpool_parameter;

typedef enum pqpool_result_format {
    PQPOOL_TEXT = 0,
    PQPOOL_BINARY = 1,
    /* Text on the statement's first two uses on its connection; binary from then on where every column is of a type
     * among those below. In a session whose settings the lease has changed, so that text could lose something, such a
     * statement is described first, in a round trip of its own, and is binary from its first use on. Always text with
     * statement_cache_size 0. The types: bool,
     * bytea, "char", name, int2, int4, int8, oid, float4, float8, numeric, text, varchar, bpchar, json, jsonb, uuid,
     * date, time, timetz, timestamp, timestamptz, interval, void, and arrays of these; inet, cidr, macaddr, macaddr8,
     * bit, varbit, pg_lsn, tid, xid, xid8, cid, int2vector, oidvector, jsonpath. */
    PQPOOL_AUTOMATIC = 2
} pqpool_result_format;

typedef struct pqpool_statement {
    uint32_t struct_size;
    int32_t result_format;              /* pqpool_result_format */
    const char* sql;                    /* one statement, with $1, $2, ... */
    const pqpool_parameter* parameters; /* all is copied */
    size_t parameter_count;             /* no more than the text has places for */
    int64_t timeout_ms;                 /* the statement, at most; PQPOOL_DEFAULT: the option command_timeout */
} pqpool_statement;

#define PQPOOL_STATEMENT_INIT(sql) \
    { sizeof(pqpool_statement), PQPOOL_TEXT, (sql), NULL, 0, PQPOOL_DEFAULT }

typedef struct pqpool_result pqpool_result;

/* A connection for you alone, until pqpool_release. First come, first served. options may be NULL. Blocks until there
 * is one, at most for the timeout. PQPOOL_TIMEOUT (the message names who holds the connections), PQPOOL_CLOSED,
 * PQPOOL_TOO_MANY_REQUESTS, PQPOOL_NOT_INITIALIZED. */
PQPOOL_API int32_t pqpool_acquire(pqpool_pool* pool, const pqpool_acquire_options* options, pqpool_lease* lease);
/* Runs one statement; or, without parameters and with results as text, several that semicolons separate, as one
 * simple query (an implicit transaction, where they hold no BEGIN or COMMIT), with the last one's result. The lease's
 * first statement carries the connection's validation in the same packet; a connection that proves dead is replaced and
 * the statement sent again, where it is certain that it was not executed. Blocks until the result is whole, at most for
 * the timeout. PQPOOL_QUERY (see pqpool_error_field), PQPOOL_STATEMENT_TIMEOUT, PQPOOL_VALIDATION and
 * PQPOOL_CONNECTION_LOST (whether it ran may be unknown; the message says), PQPOOL_TIMEOUT (no replacement),
 * PQPOOL_RELEASED, PQPOOL_BUSY, PQPOOL_UNSUPPORTED (COPY), PQPOOL_FORKED. */
PQPOOL_API int32_t pqpool_execute(pqpool_pool* pool, pqpool_lease lease, const pqpool_statement* statement,
                                  pqpool_result** result);
/* pqpool_acquire, pqpool_execute and pqpool_release in one; statuses of all three. */
PQPOOL_API int32_t pqpool_run(pqpool_pool* pool, const pqpool_acquire_options* options,
                              const pqpool_statement* statement, pqpool_result** result);
/* Gives the connection back: an open transaction is rolled back, session state that the lease changed is undone before
 * the next one. Does not block. Any thread, also for leases of a queue. PQPOOL_RELEASED for a second release,
 * PQPOOL_BUSY while another thread runs a statement on it. */
PQPOOL_API int32_t pqpool_release(pqpool_pool* pool, pqpool_lease lease);
/* From another thread: asks the server to cancel the statement under way, which then ends with PQPOOL_QUERY and
 * SQLSTATE 57014, if it has not ended by then. It can never hit another statement. Does not block. For a lease of a
 * queue see pqpool_queue_cancel. */
PQPOOL_API int32_t pqpool_cancel(pqpool_pool* pool, pqpool_lease lease);

typedef enum pqpool_transaction_status {
    PQPOOL_TRANSACTION_NONE = 0,
    PQPOOL_TRANSACTION_OPEN = 1,
    PQPOOL_TRANSACTION_FAILED = 2 /* open, and the server takes nothing more but its end */
} pqpool_transaction_status;

/* *status: pqpool_transaction_status, by the server's last word, whatever began or ended the transaction. While a
 * statement is under way, as before it. For the lease's own thread. Does not block. PQPOOL_RELEASED, PQPOOL_FORKED. */
PQPOOL_API int32_t pqpool_lease_transaction_status(pqpool_pool* pool, pqpool_lease lease, int32_t* status);

struct pg_conn; /* libpq's PGconn */
/* The lease's libpq connection, validated, for anything libpq can do (COPY, notifications, large objects). Borrowed
 * until the lease's next statement or its release; leave no command and no pipeline under way. In blocking mode.
 * Everything a session can hold is reset at release. Blocks for the validation and a round trip. PQPOOL_UNSUPPORTED
 * in a transaction that has failed, where client_encoding or standard_conforming_strings has changed, of which libpq's
 * escaping functions could not be told; PQPOOL_CONNECTION_LOST; the statuses of pqpool_execute. */
PQPOOL_API int32_t pqpool_lease_pgconn(pqpool_pool* pool, pqpool_lease lease, struct pg_conn** connection);

/* ---- results ---- */

PQPOOL_API void pqpool_result_free(pqpool_result* result);
PQPOOL_API int32_t pqpool_result_rows(const pqpool_result* result);
PQPOOL_API int32_t pqpool_result_columns(const pqpool_result* result);
/* Texts and values are borrowed for the life of the result. Rows and columns count from 0; out of range gives NULL or
 * 0. */
PQPOOL_API const char* pqpool_result_column_name(const pqpool_result* result, int32_t column);
PQPOOL_API uint32_t pqpool_result_column_type(const pqpool_result* result, int32_t column);
/* Nonzero: all values are in their types' binary form. */
PQPOOL_API int32_t pqpool_result_is_binary(const pqpool_result* result);
/* NULL for SQL's NULL. */
PQPOOL_API const char* pqpool_result_value(const pqpool_result* result, int32_t row, int32_t column);
PQPOOL_API int32_t pqpool_result_length(const pqpool_result* result, int32_t row, int32_t column);
PQPOOL_API int32_t pqpool_result_is_null(const pqpool_result* result, int32_t row, int32_t column);
/* "SELECT 3", "INSERT 0 1". */
PQPOOL_API const char* pqpool_result_command_tag(const pqpool_result* result);
/* Of a completion's result: the failure's text, SQLSTATE ("" where no server spoke) and fields; NULL where it is no
 * failure. */
PQPOOL_API const char* pqpool_result_error_message(const pqpool_result* result);
PQPOOL_API const char* pqpool_result_error_sqlstate(const pqpool_result* result);
PQPOOL_API const char* pqpool_result_error_field(const pqpool_result* result, int32_t code);

/* ---- the completion queue: for event loops ---- */

/* Acquires and statements that make progress on your thread, under one descriptor that poll(2), epoll or an event loop
 * can watch for reading. Every submitted id gets exactly one completion, also on cancel, timeout and shutdown. What
 * your own calls complete does not make the descriptor readable: take completions with pqpool_queue_next until there is
 * none before you wait. */
typedef struct pqpool_queue pqpool_queue;

typedef struct pqpool_completion {
    uint32_t struct_size;
    int32_t status; /* of the request */
    uint64_t id;
    void* user_data;
    pqpool_lease lease;    /* of a granted acquire, else 0 */
    pqpool_result* result; /* yours to free; NULL where there is none. On failure it holds the error */
} pqpool_completion;

/* For the calling thread. The pool must outlive the queue. */
PQPOOL_API int32_t pqpool_queue_open(pqpool_pool* pool, pqpool_queue** queue);
/* Releases its leases; what is under way is cancelled and gets no completion. NULL is allowed. Any thread, a
 * finalizer's too: where the queue's own thread is in a call on it, pqpool_queue_poll say, nothing is freed, and
 * pqpool_error_message() tells so. */
PQPOOL_API void pqpool_queue_free(pqpool_queue* queue);
PQPOOL_API int32_t pqpool_queue_fd(const pqpool_queue* queue);
/* Makes progress on every socket that is ready, after waiting for one at most for the timeout (0 or PQPOOL_NO_LIMIT
 * among them). Then call pqpool_queue_next until it gives none. All that is ready is taken, or the descriptor made
 * readable anew: an edge-triggered loop needs one poll for each time it is told. */
PQPOOL_API int32_t pqpool_queue_poll(pqpool_queue* queue, int64_t timeout_ms);
/* *taken is 1 and the completion is filled, or 0 where there is none. Does not block. Where it fails for want of
 * memory, the completion is still there. */
PQPOOL_API int32_t pqpool_queue_next(pqpool_queue* queue, pqpool_completion* completion, int32_t* taken);
/* Makes the descriptor readable. Any thread. */
PQPOOL_API int32_t pqpool_queue_wake(pqpool_queue* queue);
/* Completes when min_size connections stand, or with PQPOOL_INITIALIZATION or PQPOOL_CLOSED. Call pqpool_start before.
 */
PQPOOL_API int32_t pqpool_await_open_async(pqpool_queue* queue, void* user_data, uint64_t* id);
/* As pqpool_acquire. Where a connection is free it is granted at once: *lease is set, *id is 0 and no completion
 * follows; else *lease is 0. */
PQPOOL_API int32_t pqpool_acquire_async(pqpool_queue* queue, const pqpool_acquire_options* options, void* user_data,
                                        uint64_t* id, pqpool_lease* lease);
/* As pqpool_execute, on a lease of this queue. PQPOOL_BUSY where a statement is under way on it. One that was cancelled
 * or timed out is waited for first. */
PQPOOL_API int32_t pqpool_execute_async(pqpool_queue* queue, pqpool_lease lease, const pqpool_statement* statement,
                                        void* user_data, uint64_t* id);
/* As pqpool_run. */
PQPOOL_API int32_t pqpool_run_async(pqpool_queue* queue, const pqpool_acquire_options* options,
                                    const pqpool_statement* statement, void* user_data, uint64_t* id);
/* The request completes with PQPOOL_CANCELLED; a statement is cancelled on the server as well, and its lease stays
 * usable. *cancelled is 0 where the request has completed already. */
PQPOOL_API int32_t pqpool_queue_cancel(pqpool_queue* queue, uint64_t id, int32_t* cancelled);
/* As pqpool_shutdown, with a completion at its end. */
PQPOOL_API int32_t pqpool_shutdown_async(pqpool_queue* queue, int64_t timeout_ms, void* user_data, uint64_t* id);
/* From now on the queue's descriptor becomes readable when there are log lines to take with pqpool_log_next. Where
 * several queues of a pool follow its log, each is woken, and the first to come takes the lines. */
PQPOOL_API int32_t pqpool_queue_follow_log(pqpool_queue* queue);

/* ---- looking ---- */

/* Meanings and units: pqpool_statistic_describe. Times are microseconds since 1970 (UTC), 0 = never. */
typedef struct pqpool_statistics {
    uint32_t struct_size;
    uint32_t reserved; /* 0 */
    int64_t total_connections, idle_connections, active_connections, live_connections;
    int64_t opening_connections, cleaning_connections;
    int64_t waiting_requests, leases_out;
    int64_t total_acquisitions, total_releases, total_timeouts, total_rejected;
    int64_t connections_opened, connections_closed, connections_lost, connection_failures;
    int64_t leak_count, peak_active_connections, peak_waiting_requests;
    double avg_acquisition_time_ms, peak_wait_time_ms;
    double acquisition_p50_ms, acquisition_p95_ms, acquisition_p99_ms;
    double latency_ms; /* negative: none yet */
    double uptime_ms;
    int64_t pool_created_at, last_health_check, last_error_time, last_recovery_time, last_slow_acquisition_time,
        last_leak_time;
} pqpool_statistics;

typedef enum pqpool_statistic_type {
    PQPOOL_STATISTIC_GAUGE = 0,   /* int64_t */
    PQPOOL_STATISTIC_COUNTER = 1, /* int64_t */
    PQPOOL_STATISTIC_MS = 2,      /* double */
    PQPOOL_STATISTIC_TIME = 3     /* int64_t */
} pqpool_statistic_type;

typedef struct pqpool_statistic_info {
    uint32_t struct_size;
    int32_t type;     /* pqpool_statistic_type */
    const char* name; /* all texts are static */
    const char* unit;
    const char* meaning;
    size_t offset; /* in pqpool_statistics */
} pqpool_statistic_info;

typedef enum pqpool_state {
    PQPOOL_INITIALIZING = 0,
    PQPOOL_STATE_HEALTHY = 1,
    PQPOOL_STATE_DEGRADED = 2,
    PQPOOL_STATE_UNHEALTHY = 3,
    PQPOOL_RECOVERING = 4,
    PQPOOL_SHUTTING_DOWN = 5,
    PQPOOL_TERMINATED = 6
} pqpool_state;

typedef enum pqpool_health_status {
    PQPOOL_HEALTHY = 0,
    PQPOOL_DEGRADED = 1,
    PQPOOL_UNHEALTHY = 2
} pqpool_health_status;

typedef struct pqpool_health {
    uint32_t struct_size;
    int32_t status;        /* pqpool_health_status */
    int32_t state;         /* pqpool_state */
    int32_t behind_pooler; /* nonzero: a pooler such as PgBouncer lends out the server's sessions. In its transaction
                              mode LISTEN, session settings and session locks do not hold */
    const char* database;  /* static: connected, connecting, degraded or disconnected */
    int64_t total_connections, idle_connections, active_connections, waiting_requests, leak_count;
    double latency_ms; /* round trip of the pool's own last check; negative: none yet */
    double uptime_ms;
    char last_error[256]; /* cut where longer, as messages are: with U+2026 at its end; "" for none */
} pqpool_health;

typedef struct pqpool_holder {
    uint32_t struct_size;
    int32_t backend_pid; /* 0 while the connection is being replaced */
    pqpool_lease lease;
    double held_ms;
    char tag[96];
    char last_statement[96]; /* its beginning; where it speaks of a password or the like, without its literals */
} pqpool_holder;

typedef struct pqpool_log_line {
    uint32_t struct_size;
    int32_t level;       /* 0 debug, 1 info, 2 warning, 3 error */
    double unix_time;    /* seconds */
    pqpool_lease lease;  /* the lease it is about, or 0 */
    const char* message; /* borrowed until this thread's next call */
    const char* context; /* a JSON object; borrowed likewise */
} pqpool_log_line;

/* A consistent snapshot, of this instant. Never waits for a statement. */
PQPOOL_API int32_t pqpool_get_statistics(pqpool_pool* pool, pqpool_statistics* statistics);
PQPOOL_API int32_t pqpool_statistic_count(void);
PQPOOL_API int32_t pqpool_statistic_describe(int32_t index, pqpool_statistic_info* info);
/* From what the pool knows; asks the database nothing. Asking for the health of a pool without connections also brings
 * its next attempt forward, to one a second at most. */
PQPOOL_API int32_t pqpool_get_health(pqpool_pool* pool, pqpool_health* health);
/* The rule behind it, on its own. now_us: microseconds since 1970. *status: pqpool_health_status. */
PQPOOL_API int32_t pqpool_calculate_health(const pqpool_statistics* statistics, int32_t state, int64_t min_size,
                                           int64_t now_us, int32_t* status);
/* Writes what went wrong last with a connection, cut to size with its NUL; "" for nothing. */
PQPOOL_API int32_t pqpool_get_last_error(pqpool_pool* pool, char* text, size_t size);
PQPOOL_API int32_t pqpool_get_state(pqpool_pool* pool, int32_t* state);
/* "healthy" for PQPOOL_STATE_HEALTHY; NULL for an unknown one. Static. */
PQPOOL_API const char* pqpool_state_name(int32_t state);
/* Who holds a connection, longest first, with the last statement of this lease. Fills up to capacity holders, each as
 * long as struct_size says in the first; *count is how many there are in all. */
PQPOOL_API int32_t pqpool_holders(pqpool_pool* pool, pqpool_holder* holders, size_t capacity, size_t* count);
/* The pool keeps its last 1000 log lines until somebody takes them; where more come, those of the least level are
 * dropped first, and a line tells how many. *taken is 1 and the line is filled, or 0 where there is none. */
PQPOOL_API int32_t pqpool_log_next(pqpool_pool* pool, pqpool_log_line* line, int32_t* taken);
/* 0 debug, 1 info, 2 warning, 3 error: lines below are not made. */
PQPOOL_API int32_t pqpool_set_log_level(pqpool_pool* pool, int32_t level);

/* For logs of your own: the text with every password that it holds as ***. conninfo: a text that as a whole is a URL or
 * keyword string, however broken; statement: one that speaks of a password or the like, or holds a URL, ends at its
 * first literal; text: any other. Written cut to size with its NUL; *length is its whole length. */
PQPOOL_API int32_t pqpool_mask_conninfo(const char* conninfo, char* masked, size_t size, size_t* length);
PQPOOL_API int32_t pqpool_mask_statement(const char* sql, char* masked, size_t size, size_t* length);
PQPOOL_API int32_t pqpool_mask_text(const char* text, char* masked, size_t size, size_t* length);

/* ---- steering ---- */

/* PQPOOL_CONFIGURATION. Surplus connections are closed when they are idle. */
PQPOOL_API int32_t pqpool_resize(pqpool_pool* pool, int64_t min_size, int64_t max_size);
/* Every connection of now is replaced: idle ones at once, leased ones at their release. */
PQPOOL_API int32_t pqpool_drain(pqpool_pool* pool);
/* Acquires wait, until pqpool_resume. Leases out are not touched. */
PQPOOL_API int32_t pqpool_pause(pqpool_pool* pool);
PQPOOL_API int32_t pqpool_resume(pqpool_pool* pool);

#ifdef __cplusplus
}
#endif

#endif /* PQPOOL_H */
