// What the tests of the C interface share: a pool of their own on the server behind DATABASE_URL, owned results, and a
// second way to that server to see what the pool did there.
#pragma once

#include <libpq-fe.h>
#include <pqpool.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace capi_test {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using std::chrono::seconds;

// Until the condition holds, at most for the limit; whether it came to hold.
bool wait_until(const std::function<bool()>& condition, milliseconds limit = seconds(10));

milliseconds since(Clock::time_point start);

std::string database_url();
// The URL with one more setting.
std::string with_setting(const std::string& url, const std::string& name, const std::string& value);

struct FreeResult {
    void operator()(pqpool_result* result) const { pqpool_result_free(result); }
};
using Result = std::unique_ptr<pqpool_result, FreeResult>;

// The value, or "NULL".
std::string value(const Result& result, int row = 0, int column = 0);

// A session beside the pool's, for looking at the server and for interfering.
class Observer {
  public:
    Observer();
    ~Observer() { PQfinish(connection_); }
    Observer(const Observer&) = delete;

    // The first value of the result, or "".
    std::string ask(const std::string& sql);

  private:
    PGconn* connection_;
};

struct Outcome {
    int32_t status;
    Result result;
    std::string message, sqlstate;

    std::string value() const {
        return status == PQPOOL_OK ? capi_test::value(result) : "status " + std::to_string(status) + ": " + message;
    }
};

// A parameter in text, or NULL.
pqpool_parameter text(const char* value, uint32_t type = 0);

pqpool_statement statement_of(const char* sql, const std::vector<pqpool_parameter>& parameters = {},
                              int32_t format = PQPOOL_TEXT, int64_t timeout_ms = PQPOOL_DEFAULT);

class Pool {
  public:
    using Settings = std::initializer_list<std::pair<const char*, const char*>>;

    explicit Pool(Settings settings = {});
    ~Pool() { pqpool_free(pool_); }
    Pool(const Pool&) = delete;

    operator pqpool_pool*() const { return pool_; }
    const std::string& application() const { return application_; }

    pqpool_lease acquire(int64_t timeout_ms = PQPOOL_DEFAULT, const char* tag = nullptr);
    int32_t release(pqpool_lease lease) { return pqpool_release(pool_, lease); }
    Outcome execute(pqpool_lease lease, const char* sql, const std::vector<pqpool_parameter>& parameters = {},
                    int32_t format = PQPOOL_TEXT, int64_t timeout_ms = PQPOOL_DEFAULT);
    Outcome run(const char* sql, const std::vector<pqpool_parameter>& parameters = {});
    pqpool_statistics statistics() const;

    // The pool's sessions as the server counts them.
    int sessions(const std::string& condition = "true") const;
    // Sessions that run this statement right now.
    bool wait_until_running(const std::string& part_of_statement) const;
    // Nothing is leased, opened or cleaned, and every session is the pool's: within the limit.
    bool wait_until_quiet(milliseconds limit = seconds(10)) const;

  private:
    std::string application_;
    pqpool_pool* pool_ = nullptr;
};

// Ends the session behind the lease or, without one, all idle ones of the pool; waits until the server has.
void terminate_backend(const std::string& pid);
void terminate_idle_backends(const Pool& pool);

struct Completion {
    int32_t status = -1000;
    uint64_t id = 0;
    void* user_data = nullptr;
    pqpool_lease lease = 0;
    Result result;
};

class Queue {
  public:
    explicit Queue(pqpool_pool* pool) { REQUIRE(pqpool_queue_open(pool, &queue_) == PQPOOL_OK); }
    ~Queue() { pqpool_queue_free(queue_); }
    Queue(const Queue&) = delete;

    operator pqpool_queue*() const { return queue_; }
    void free() { pqpool_queue_free(std::exchange(queue_, nullptr)); }

    // What has completed, without waiting.
    std::vector<Completion> take();
    // The next completion; fails the test where none comes within the limit.
    Completion wait(milliseconds limit = seconds(10));
    // As many as come, until the limit.
    std::vector<Completion> wait_for(std::size_t count, milliseconds limit = seconds(10));

    // The lease, at once or by completion.
    pqpool_lease acquire();
    uint64_t execute(pqpool_lease lease, const char* sql, int64_t timeout_ms = PQPOOL_DEFAULT,
                     void* user_data = nullptr);
    uint64_t run(const char* sql, void* user_data = nullptr, int64_t timeout_ms = PQPOOL_DEFAULT);
    uint64_t acquire_waiting();  // where no connection is free
    bool cancel(uint64_t id);

  private:
    pqpool_queue* queue_ = nullptr;
    std::vector<Completion> kept_;
};

}  // namespace capi_test
