#include "scenario.hpp"

#include <dirent.h>
#include <pqpool.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "failures.hpp"

namespace faults {

namespace {

// The scenario allocates nothing itself, so every allocation that is counted is the product's or that of what it uses.
constexpr int kMaxSize = 2;
constexpr double kPatience = 10;  // of any wait for something that must come

[[noreturn]] void wrong(const char* format, ...) {
    pause();
    va_list arguments;
    va_start(arguments, format);
    std::fputs("  wrong: ", stderr);
    std::vfprintf(stderr, format, arguments);
    std::fputs("\n", stderr);
    va_end(arguments);
    _exit(3);
}

double now() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) / 1e9;
}

void rest() {
    const timespec t = {0, 2'000'000};
    nanosleep(&t, nullptr);
}

template <class Condition>
bool comes_true(Condition&& condition) {
    for (const double until = now() + kPatience; now() < until; rest())
        if (condition()) return true;
    return condition();
}

// What a call may say when something failed beneath it. Anything else would blame the caller.
bool is_excused(int32_t status) {
    switch (status) {
        case PQPOOL_INTERNAL:
        case PQPOOL_CONNECTION_LOST:
        case PQPOOL_VALIDATION:
        case PQPOOL_TIMEOUT:
        case PQPOOL_STATEMENT_TIMEOUT:
        case PQPOOL_INITIALIZATION:
        case PQPOOL_CLOSED:
            return true;
        default:
            return false;
    }
}

bool good(int32_t status, const char* call) {
    if (status == PQPOOL_OK) return true;
    if (!is_excused(status)) wrong("%s gave %d: %s", call, status, pqpool_error_message());
    if (!*pqpool_error_message()) wrong("%s gave %d without a word", call, status);
    // What was never sent whole was not executed, and that is known.
    if (std::strstr(pqpool_error_message(), "cannot allocate memory") && std::strstr(pqpool_error_message(), "unknown"))
        wrong("%s gave %d: %s", call, status, pqpool_error_message());
    return false;
}

pqpool_statement statement_of(const char* sql, int64_t timeout_ms = 5000) {
    pqpool_statement statement = PQPOOL_STATEMENT_INIT(sql);
    statement.timeout_ms = timeout_ms;
    return statement;
}

void expect_value(const pqpool_result* result, const char* wanted, const char* call) {
    const char* value = pqpool_result_value(result, 0, 0);
    if (pqpool_result_rows(result) != 1 || !value || std::strcmp(value, wanted) != 0)
        wrong("%s succeeded with %d rows and '%s', not '%s'", call, pqpool_result_rows(result), value ? value : "NULL",
              wanted);
}

const char* large_text() {
    static char text[2'000'001];
    std::memset(text, 'x', sizeof text - 1);
    return text;
}

// Cancels what runs on a lease, from a thread of its own that was there before.
class Canceller {
  public:
    Canceller() {
        sem_init(&asked_, 0, 0);
        if (pthread_create(&thread_, nullptr, run, this) != 0) wrong("no thread for the test itself");
    }
    ~Canceller() {
        ends_ = true;
        sem_post(&asked_);
        pthread_join(thread_, nullptr);
        sem_destroy(&asked_);
    }
    Canceller(const Canceller&) = delete;

    void begin(pqpool_pool* pool, pqpool_lease lease) {
        pool_ = pool;
        lease_ = lease;
        works_ = true;
        sem_post(&asked_);
    }
    void end() {
        works_ = false;
        while (busy_) rest();
    }

  private:
    static void* run(void* self) {
        static_cast<Canceller*>(self)->work();
        return nullptr;
    }
    void work() {
        while (sem_wait(&asked_) != 0 || !ends_) {
            busy_ = true;
            for (; works_; rest()) good(pqpool_cancel(pool_, lease_), "pqpool_cancel");
            busy_ = false;
        }
    }

    sem_t asked_;
    pthread_t thread_{};
    pqpool_pool* pool_ = nullptr;
    pqpool_lease lease_ = 0;
    std::atomic<bool> works_{false}, busy_{false}, ends_{false};
};

class Life {
  public:
    void begin(const char* database_url, const char* log_file);
    void use();
    void prove();
    void end();

  private:
    void use_blocking();
    void use_queue();
    void look();
    bool run(pqpool_lease lease, const char* sql, const char* wanted, const pqpool_parameter* parameter = nullptr);
    void fails_as(int32_t wanted, int32_t status, const char* call);
    void release(pqpool_lease lease) {
        if (const int32_t status = pqpool_release(pool_, lease); status != PQPOOL_OK)
            wrong("a release gave %d: %s", status, pqpool_error_message());
    }

    // Of the queue: each submitted request is a place here, until its completion has come.
    struct Request {
        uint64_t id;
        int32_t status;
        bool open;
        const char* wanted;  // the value, where it succeeds
    };
    static constexpr int kRequests = 16;
    static constexpr int32_t kNone = 1;  // no status yet

    Request& request() {
        if (requests_ == kRequests) wrong("too many requests");
        return request_[requests_++] = {0, kNone, false, nullptr};
    }
    void submitted(Request& request, int32_t status, const char* call) { request.open = good(status, call); }
    pqpool_lease acquire_async();
    pqpool_lease acquire();
    Request& execute_async(pqpool_lease lease, const char* sql, const char* wanted, int64_t timeout_ms = 5000);
    Request& run_async(const char* sql, const char* wanted, int64_t timeout_ms = 5000);
    bool take();
    template <class Condition>
    void take_until(Condition&& condition);
    void take_all();

    Canceller canceller_;
    pqpool_pool* pool_ = nullptr;
    pqpool_queue* queue_ = nullptr;
    Request request_[kRequests];
    int requests_ = 0;
    pqpool_lease granted_[kRequests];
    int grants_ = 0;
};

void Life::begin(const char* database_url, const char* log_file) {
    // connect_timeout: where libpq has no memory to read an answer, it waits for more of it.
    const char* const settings[][2] = {
        {"database_url", database_url}, {"min_size", "2"},        {"max_size", "2"},
        {"log_level", "debug"},         {"log_file", log_file},   {"timeout", "5"},
        {"statement_cache_size", "2"},  {"connect_timeout", "2"}, {"command_timeout", "5"}};
    pqpool_options* options = nullptr;
    if (!good(pqpool_options_create(&options), "pqpool_options_create")) return;
    for (const auto& [name, value] : settings) {
        // One failure in a row of two calls, so that the second one may well succeed.
        if (good(pqpool_options_set(options, name, value), "pqpool_options_set")) continue;
        if (good(pqpool_options_set(options, name, value), "pqpool_options_set, again")) continue;
        return pqpool_options_free(options);
    }
    const int32_t created = pqpool_create(options, &pool_);
    pqpool_options_free(options);
    // A log file that cannot be opened counts as an option that cannot be.
    if (created == PQPOOL_CONFIGURATION && std::strstr(pqpool_error_message(), "log_file")) return;
    if (!good(created, "pqpool_create")) pool_ = nullptr;
}

void Life::use() {
    if (!pool_) return;
    if (!good(pqpool_start(pool_), "pqpool_start") && !good(pqpool_start(pool_), "pqpool_start, again")) {
        pqpool_lease lease;
        const int32_t status = pqpool_acquire(pool_, nullptr, &lease);
        if (status != PQPOOL_NOT_INITIALIZED && status != PQPOOL_INTERNAL)
            wrong("half a start: acquire gave %d", status);
        return;
    }
    if (!good(pqpool_queue_open(pool_, &queue_), "pqpool_queue_open")) queue_ = nullptr;
    if (queue_) {
        Request& opening = request();
        submitted(opening, pqpool_await_open_async(queue_, &opening, &opening.id), "pqpool_await_open_async");
        take_all();
    }
    use_blocking();
    if (queue_) use_queue();
    look();
}

// True where it ran. On a success the value is the one wanted.
bool Life::run(pqpool_lease lease, const char* sql, const char* wanted, const pqpool_parameter* parameter) {
    pqpool_statement statement = statement_of(sql);
    statement.parameters = parameter;
    statement.parameter_count = parameter ? 1 : 0;
    pqpool_result* result = nullptr;
    const bool ran = good(pqpool_execute(pool_, lease, &statement, &result), sql);
    if (ran && wanted) expect_value(result, wanted, sql);
    pqpool_result_free(result);
    return ran;
}

void Life::fails_as(int32_t wanted, int32_t status, const char* call) {
    if (status != wanted && !is_excused(status))
        wrong("%s gave %d, not %d: %s", call, status, wanted, pqpool_error_message());
}

void Life::use_blocking() {
    pqpool_acquire_options options = PQPOOL_ACQUIRE_OPTIONS_INIT;
    options.tag = "somebody whose name is long enough to want memory";
    pqpool_lease lease = 0;
    if (!good(pqpool_acquire(pool_, &options, &lease), "pqpool_acquire")) return;
    const pqpool_parameter parameter = {"41", 0, 0, 0, 0};
    for (int i = 0; i < 3; i++) run(lease, "SELECT $1::int + 1 AS answer", "42", &parameter);
    run(lease, "SELECT repeat('x', 100000)::text AS wide, 1 LIMIT 0", nullptr);
    run(lease, "SELECT length(string_agg(g::text, ',')) FROM generate_series(1, 9999) g", "48887");
    const pqpool_parameter large = {large_text(), 0, 0, 0, 0};
    run(lease, "SELECT length($1::text)", "2000000", &large);
    run(lease, "SET search_path TO pg_catalog; SELECT 5", "5");

    pqpool_result* result = nullptr;
    const pqpool_statement broken = statement_of("SELECT 1 / 0");
    fails_as(PQPOOL_QUERY, pqpool_execute(pool_, lease, &broken, &result), "a division by zero");
    const pqpool_statement late = statement_of("SELECT pg_sleep(3)", 20);
    fails_as(PQPOOL_STATEMENT_TIMEOUT, pqpool_execute(pool_, lease, &late, &result), "a late statement");
    run(lease, "SELECT 6", "6");
    const pqpool_statement cancelled = statement_of("SELECT pg_sleep(3)");
    canceller_.begin(pool_, lease);
    const int32_t status = pqpool_execute(pool_, lease, &cancelled, &result);
    canceller_.end();
    if (status == PQPOOL_OK)  // where the request could not be sent
        pqpool_result_free(result);
    else
        fails_as(PQPOOL_QUERY, status, "a cancelled statement");
    run(lease, "BEGIN", nullptr);
    release(lease);

    const pqpool_statement whole = statement_of("SELECT 7");
    result = nullptr;
    if (good(pqpool_run(pool_, &options, &whole, &result), "pqpool_run")) expect_value(result, "7", "pqpool_run");
    pqpool_result_free(result);
}

// The lease where it came at once, else 0.
pqpool_lease Life::acquire_async() {
    Request& acquiring = request();
    pqpool_lease lease = 0;
    submitted(acquiring, pqpool_acquire_async(queue_, nullptr, &acquiring, &acquiring.id, &lease),
              "pqpool_acquire_async");
    if (lease) acquiring.open = false;
    return lease;
}

// The lease, or 0 where it failed.
pqpool_lease Life::acquire() {
    const pqpool_lease lease = acquire_async();
    const Request& acquiring = request_[requests_ - 1];
    take_until([&] { return !acquiring.open; });
    return lease ? lease : grants_ > 0 ? granted_[--grants_] : 0;
}

Life::Request& Life::execute_async(pqpool_lease lease, const char* sql, const char* wanted, int64_t timeout_ms) {
    Request& executing = request();
    executing.wanted = wanted;
    const pqpool_statement statement = statement_of(sql, timeout_ms);
    submitted(executing, pqpool_execute_async(queue_, lease, &statement, &executing, &executing.id), sql);
    return executing;
}

Life::Request& Life::run_async(const char* sql, const char* wanted, int64_t timeout_ms) {
    Request& running = request();
    running.wanted = wanted;
    const pqpool_statement statement = statement_of(sql, timeout_ms);
    submitted(running, pqpool_run_async(queue_, nullptr, &statement, &running, &running.id), sql);
    return running;
}

// One completion; false where there is none.
bool Life::take() {
    pqpool_completion done{};
    done.struct_size = sizeof done;
    int32_t taken = 0;
    while (!good(pqpool_queue_next(queue_, &done, &taken), "pqpool_queue_next")) rest();
    if (!taken) return false;
    auto* request = static_cast<Request*>(done.user_data);
    if (request < request_ || request >= request_ + requests_ || !request->open || request->id != done.id)
        wrong("a completion for id %llu, which is not under way", static_cast<unsigned long long>(done.id));
    request->open = false;
    request->status = done.status;
    if (done.status == PQPOOL_OK && request->wanted) expect_value(done.result, request->wanted, request->wanted);
    if (done.status != PQPOOL_OK && !done.result) wrong("a failure without its text");
    if (done.lease) granted_[grants_++] = done.lease;
    pqpool_result_free(done.result);
    return true;
}

template <class Condition>
void Life::take_until(Condition&& condition) {
    for (const double until = now() + kPatience;;) {
        while (take()) {
        }
        if (condition()) return;
        if (now() > until) wrong("a completion has not come within %.0f s", kPatience);
        good(pqpool_queue_poll(queue_, 100), "pqpool_queue_poll");
    }
}

// Every request under way has its completion, within the patience.
void Life::take_all() {
    take_until(
        [this] { return std::none_of(request_, request_ + requests_, [](const Request& r) { return r.open; }); });
    for (int i = 0; i < requests_; i++)
        if (const Request& r = request_[i];
            r.wanted && r.status != kNone && r.status != PQPOOL_OK && !is_excused(r.status))
            wrong("'%s' was wanted, and status %d came", r.wanted, r.status);
    requests_ = 0;
}

void Life::use_queue() {
    const pqpool_lease first = acquire(), second = acquire();
    Request *waiting = nullptr, *answer = nullptr;
    if (first && second) {
        acquire_async();
        waiting = &request_[requests_ - 1];
        execute_async(second, "SELECT pg_sleep(3)", nullptr, 20);
    }
    if (first) answer = &execute_async(first, "SELECT 11", "11");
    Request& cancelled = run_async("SELECT 13", nullptr);  // waits too
    int32_t was = 0;
    if (cancelled.open) good(pqpool_queue_cancel(queue_, cancelled.id, &was), "pqpool_queue_cancel");
    if (answer) take_until([answer] { return !answer->open; });
    if (first) release(first);
    run_async("SELECT 12", "12");
    if (waiting) take_until([waiting] { return !waiting->open; });
    while (grants_ > 0) release(granted_[--grants_]);
    take_all();
    if (second) {
        execute_async(second, "SELECT 1 / 0", nullptr);
        take_all();
        Request& running = execute_async(second, "SELECT pg_sleep(3)", nullptr);
        good(pqpool_queue_poll(queue_, 0), "pqpool_queue_poll");
        if (running.open) good(pqpool_queue_cancel(queue_, running.id, &was), "pqpool_queue_cancel");
        take_all();
        execute_async(second, "SELECT 14", "14");
        take_all();
        execute_async(second, "SELECT pg_sleep(3)", nullptr);
        release(second);  // in the midst
        take_all();
    }
    for (int i = 0; i < 3; i++) run_async("SELECT 15 AS fifteen", "15");
    take_all();
}

void Life::look() {
    pqpool_statistics statistics{};
    statistics.struct_size = sizeof statistics;
    good(pqpool_get_statistics(pool_, &statistics), "pqpool_get_statistics");
    pqpool_health health{};
    health.struct_size = sizeof health;
    good(pqpool_get_health(pool_, &health), "pqpool_get_health");
    pqpool_holder holders[kMaxSize]{};
    holders[0].struct_size = sizeof holders[0];
    std::size_t count = 0;
    good(pqpool_holders(pool_, holders, kMaxSize, &count), "pqpool_holders");
    pqpool_log_line line{};
    line.struct_size = sizeof line;
    int32_t taken = 1;
    while (good(pqpool_log_next(pool_, &line, &taken), "pqpool_log_next") && taken) {
    }
    good(pqpool_drain(pool_), "pqpool_drain");
}

// Nothing was lost on the way: both connections can be had at once, by threads and by the queue, and give right
// answers.
void Life::prove() {
    if (!pool_) return;
    if (const int32_t status = pqpool_start(pool_); status != PQPOOL_OK)
        wrong("the pool cannot be started after all: %d: %s", status, pqpool_error_message());
    pqpool_statistics s{};
    s.struct_size = sizeof s;
    int32_t state = 0;
    pqpool_get_state(pool_, &state);
    if (state == PQPOOL_TERMINATED) return;  // its first connections could not be opened, three times
    const auto is_quiet = [&] {
        pqpool_get_statistics(pool_, &s);
        return s.leases_out == 0 && s.waiting_requests == 0;
    };
    if (!comes_true(is_quiet))
        wrong("%lld leases are out and %lld requests wait", static_cast<long long>(s.leases_out),
              static_cast<long long>(s.waiting_requests));
    pqpool_acquire_options options = PQPOOL_ACQUIRE_OPTIONS_INIT;
    options.timeout_ms = static_cast<int64_t>(kPatience * 1000);
    pqpool_lease leases[kMaxSize];
    for (auto& lease : leases)
        if (const int32_t status = pqpool_acquire(pool_, &options, &lease); status != PQPOOL_OK)
            wrong("a connection is gone: %d: %s", status, pqpool_error_message());
    for (const auto lease : leases)
        if (!run(lease, "SELECT 21", "21")) wrong("a statement fails for ever: %s", pqpool_error_message());
    for (const auto lease : leases) release(lease);
    if (!queue_) return;
    for (int i = 0; i < 2 * kMaxSize; i++) run_async("SELECT 22", "22");
    Request* const submitted = request_;
    const int count = requests_;
    take_all();
    for (int i = 0; i < count; i++)
        if (submitted[i].status != PQPOOL_OK) wrong("the queue fails for ever: %d", submitted[i].status);
}

void Life::end() {
    if (queue_) {
        run_async("SELECT pg_sleep(3)", nullptr);  // freed in the midst
        good(pqpool_queue_poll(queue_, 0), "pqpool_queue_poll");
    }
    pqpool_queue_free(queue_);
    if (pool_) good(pqpool_shutdown(pool_, 100), "pqpool_shutdown");
    pqpool_free(pool_);
}

}  // namespace

void live_through(const char* database_url, const char* log_file) {
    Life life;
    resume();
    life.begin(database_url, log_file);
    life.use();
    pause();
    life.prove();
    resume();
    life.end();
    pause();
}

int open_descriptors() {
    int count = 0;
    DIR* directory = opendir("/proc/self/fd");
    while (readdir(directory)) count++;
    closedir(directory);
    return count;
}

void check_what_is_left(int descriptors_before) {
    sigset_t blocked;
    pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
    for (int signal = 1; signal < 32; signal++)
        if (sigismember(&blocked, signal) == 1) wrong("signal %d is blocked", signal);
    if (!comes_true([&] { return open_descriptors() == descriptors_before; }))
        wrong("%d descriptors are open, %d were before", open_descriptors(), descriptors_before);
}

}  // namespace faults
