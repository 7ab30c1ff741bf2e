#include "capi_fixture.hpp"

#include <poll.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <thread>

namespace capi_test {

bool wait_until(const std::function<bool()>& condition, milliseconds limit) {
    const auto until = Clock::now() + limit;
    for (;;) {
        if (condition()) return true;
        if (Clock::now() > until) return false;
        std::this_thread::sleep_for(milliseconds(2));
    }
}

milliseconds since(Clock::time_point start) { return std::chrono::duration_cast<milliseconds>(Clock::now() - start); }

std::string database_url() {
    const char* url = std::getenv("DATABASE_URL");
    if (!url) throw std::runtime_error("DATABASE_URL is not set; run this under ./dev with-db");
    return url;
}

std::string with_setting(const std::string& url, const std::string& name, const std::string& value) {
    return url + (url.find('?') == std::string::npos ? "?" : "&") + name + "=" + value;
}

std::string value(const Result& result, int row, int column) {
    const char* found = pqpool_result_value(result.get(), row, column);
    return found ? found : "NULL";
}

Observer::Observer() : connection_(PQconnectdb(with_setting(database_url(), "application_name", "observer").c_str())) {
    if (PQstatus(connection_) != CONNECTION_OK) throw std::runtime_error(PQerrorMessage(connection_));
}

std::string Observer::ask(const std::string& sql) {
    const std::unique_ptr<PGresult, decltype(&PQclear)> result(PQexec(connection_, sql.c_str()), PQclear);
    const auto status = PQresultStatus(result.get());
    if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK) throw std::runtime_error(PQerrorMessage(connection_));
    return PQntuples(result.get()) > 0 ? PQgetvalue(result.get(), 0, 0) : "";
}

pqpool_parameter text(const char* value, uint32_t type) { return {value, type, 0, 0, 0}; }

pqpool_statement statement_of(const char* sql, const std::vector<pqpool_parameter>& parameters, int32_t format,
                              int64_t timeout_ms) {
    pqpool_statement statement = PQPOOL_STATEMENT_INIT(sql);
    statement.parameters = parameters.data();
    statement.parameter_count = parameters.size();
    statement.result_format = format;
    statement.timeout_ms = timeout_ms;
    return statement;
}

// ---- the pool ----

Pool::Pool(Settings settings) {
    static std::atomic<int> number{0};
    application_ = "test-" + std::to_string(getpid()) + "-" + std::to_string(++number);
    pqpool_options* options = nullptr;
    REQUIRE(pqpool_options_create(&options) == PQPOOL_OK);
    const std::string url = with_setting(database_url(), "application_name", application_);
    REQUIRE(pqpool_options_set(options, "database_url", url.c_str()) == PQPOOL_OK);
    for (const auto& [name, text] : settings) {
        INFO(name << " = " << text);
        REQUIRE(pqpool_options_set(options, name, text) == PQPOOL_OK);
    }
    const int32_t status = pqpool_open(options, &pool_);
    INFO(pqpool_error_message());
    pqpool_options_free(options);
    REQUIRE(status == PQPOOL_OK);
}

pqpool_lease Pool::acquire(int64_t timeout_ms, const char* tag) {
    pqpool_acquire_options options = PQPOOL_ACQUIRE_OPTIONS_INIT;
    options.timeout_ms = timeout_ms;
    options.tag = tag;
    pqpool_lease lease = 0;
    const int32_t status = pqpool_acquire(pool_, &options, &lease);
    INFO(pqpool_error_message());
    REQUIRE(status == PQPOOL_OK);
    REQUIRE(lease != 0);
    return lease;
}

static Outcome outcome(int32_t status, pqpool_result* result) {
    return {status, Result(result), pqpool_error_message(), pqpool_error_sqlstate()};
}

Outcome Pool::execute(pqpool_lease lease, const char* sql, const std::vector<pqpool_parameter>& parameters,
                      int32_t format, int64_t timeout_ms) {
    const auto statement = statement_of(sql, parameters, format, timeout_ms);
    pqpool_result* result = nullptr;
    const int32_t status = pqpool_execute(pool_, lease, &statement, &result);
    return outcome(status, result);
}

Outcome Pool::run(const char* sql, const std::vector<pqpool_parameter>& parameters) {
    const auto statement = statement_of(sql, parameters);
    pqpool_result* result = nullptr;
    const int32_t status = pqpool_run(pool_, nullptr, &statement, &result);
    return outcome(status, result);
}

pqpool_statistics Pool::statistics() const {
    pqpool_statistics statistics{};
    statistics.struct_size = sizeof statistics;
    if (pqpool_get_statistics(pool_, &statistics) != PQPOOL_OK) throw std::runtime_error(pqpool_error_message());
    return statistics;
}

int Pool::sessions(const std::string& condition) const {
    return std::stoi(Observer().ask("SELECT count(*) FROM pg_stat_activity WHERE application_name = '" + application_ +
                                    "' AND " + condition));
}

bool Pool::wait_until_running(const std::string& part_of_statement) const {
    return wait_until([&] { return sessions("state = 'active' AND query LIKE '%" + part_of_statement + "%'") > 0; });
}

bool Pool::wait_until_quiet(milliseconds limit) const {
    return wait_until(
        [this] {
            const auto s = statistics();
            return s.active_connections == 0 && s.opening_connections == 0 && s.cleaning_connections == 0 &&
                   s.leases_out == 0 && s.waiting_requests == 0 && s.total_connections == s.idle_connections &&
                   sessions() == s.idle_connections;
        },
        limit);
}

void terminate_backend(const std::string& pid) {
    Observer observer;
    observer.ask("SELECT pg_terminate_backend(" + pid + ")");
    REQUIRE(
        wait_until([&] { return observer.ask("SELECT count(*) FROM pg_stat_activity WHERE pid = " + pid) == "0"; }));
}

void terminate_idle_backends(const Pool& pool) {
    Observer observer;
    const std::string those =
        " FROM pg_stat_activity WHERE application_name = '" + pool.application() + "' AND state = 'idle'";
    // Those of now: the pool opens others at once.
    const std::string pids = observer.ask("SELECT array_to_string(array_agg(pid), ',')" + those);
    observer.ask("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid IN (" + pids + ")");
    REQUIRE(wait_until(
        [&] { return observer.ask("SELECT count(*) FROM pg_stat_activity WHERE pid IN (" + pids + ")") == "0"; }));
}

// ---- the queue ----

std::vector<Completion> Queue::take() {
    std::vector<Completion> all = std::exchange(kept_, {});
    for (;;) {
        pqpool_completion done{};
        done.struct_size = sizeof done;
        int32_t taken = 0;
        if (const int32_t status = pqpool_queue_next(queue_, &done, &taken); status != PQPOOL_OK)
            throw std::runtime_error(pqpool_error_message());
        if (!taken) return all;
        all.push_back({done.status, done.id, done.user_data, done.lease, Result(done.result)});
    }
}

std::vector<Completion> Queue::wait_for(std::size_t count, milliseconds limit) {
    const auto until = Clock::now() + limit;
    std::vector<Completion> all = take();
    while (all.size() < count) {
        const auto left = std::chrono::duration_cast<milliseconds>(until - Clock::now()).count();
        if (left <= 0) break;
        // As an event loop does it: wait for the descriptor, then poll without waiting.
        pollfd watched{pqpool_queue_fd(queue_), POLLIN, 0};
        poll(&watched, 1, static_cast<int>(left));
        if (pqpool_queue_poll(queue_, 0) != PQPOOL_OK) throw std::runtime_error(pqpool_error_message());
        for (auto& completion : take()) all.push_back(std::move(completion));
    }
    return all;
}

Completion Queue::wait(milliseconds limit) {
    auto all = wait_for(1, limit);
    REQUIRE(!all.empty());
    Completion first = std::move(all.front());
    for (std::size_t i = 1; i < all.size(); i++) kept_.push_back(std::move(all[i]));
    return first;
}

pqpool_lease Queue::acquire() {
    uint64_t id = 0;
    pqpool_lease lease = 0;
    REQUIRE(pqpool_acquire_async(queue_, nullptr, nullptr, &id, &lease) == PQPOOL_OK);
    if (id == 0) {
        REQUIRE(lease != 0);
        return lease;
    }
    REQUIRE(lease == 0);
    const auto done = wait();
    REQUIRE(done.status == PQPOOL_OK);
    REQUIRE(done.id == id);
    REQUIRE(done.lease != 0);
    return done.lease;
}

uint64_t Queue::acquire_waiting() {
    uint64_t id = 0;
    pqpool_lease lease = 0;
    REQUIRE(pqpool_acquire_async(queue_, nullptr, nullptr, &id, &lease) == PQPOOL_OK);
    REQUIRE(id != 0);
    REQUIRE(lease == 0);
    return id;
}

uint64_t Queue::execute(pqpool_lease lease, const char* sql, int64_t timeout_ms, void* user_data) {
    const auto statement = statement_of(sql, {}, PQPOOL_TEXT, timeout_ms);
    uint64_t id = 0;
    const int32_t status = pqpool_execute_async(queue_, lease, &statement, user_data, &id);
    INFO(pqpool_error_message());
    REQUIRE(status == PQPOOL_OK);
    REQUIRE(id != 0);
    return id;
}

uint64_t Queue::run(const char* sql, void* user_data, int64_t timeout_ms) {
    const auto statement = statement_of(sql, {}, PQPOOL_TEXT, timeout_ms);
    uint64_t id = 0;
    REQUIRE(pqpool_run_async(queue_, nullptr, &statement, user_data, &id) == PQPOOL_OK);
    REQUIRE(id != 0);
    return id;
}

bool Queue::cancel(uint64_t id) {
    int32_t cancelled = -1;
    REQUIRE(pqpool_queue_cancel(queue_, id, &cancelled) == PQPOOL_OK);
    return cancelled == 1;
}

}  // namespace capi_test
