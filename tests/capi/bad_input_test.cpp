// What a caller can get wrong: each a status with a text, and nothing else happens.
#include <cstring>

#include "capi_fixture.hpp"

using namespace capi_test;

TEST_CASE("null_where_an_object_is_wanted_is_refused", "[bad input]") {
    Pool pool({{"max_size", "2"}});
    Queue queue(pool);
    pqpool_lease lease = 0;
    pqpool_result* result = nullptr;
    pg_conn* raw = nullptr;
    int32_t number = 0;
    uint64_t id = 0;
    std::size_t count = 0;
    const pqpool_statement statement = PQPOOL_STATEMENT_INIT("SELECT 1");
    const pqpool_statement no_text = PQPOOL_STATEMENT_INIT(nullptr);
    pqpool_statistics statistics{};
    statistics.struct_size = sizeof statistics;
    pqpool_completion completion{};
    completion.struct_size = sizeof completion;
    const auto held = pool.acquire();

    const auto refused = [](int32_t status) {
        CHECK(status == PQPOOL_INVALID_ARGUMENT);
        CHECK_THAT(pqpool_error_message(), Catch::Contains("NULL"));
    };
    refused(pqpool_options_create(nullptr));
    refused(pqpool_options_set(nullptr, "min_size", "1"));
    refused(pqpool_options_get(nullptr, "min_size", nullptr, 0, &count));
    refused(pqpool_options_from_env(nullptr));
    refused(pqpool_options_check(nullptr));
    refused(pqpool_option_describe(0, nullptr));
    refused(pqpool_create(nullptr, nullptr));
    refused(pqpool_start(nullptr));
    refused(pqpool_open(nullptr, nullptr));
    refused(pqpool_shutdown(nullptr, 0));
    refused(pqpool_acquire(nullptr, nullptr, &lease));
    refused(pqpool_acquire(pool, nullptr, nullptr));
    refused(pqpool_execute(nullptr, held, &statement, &result));
    refused(pqpool_execute(pool, held, nullptr, &result));
    refused(pqpool_execute(pool, held, &no_text, &result));
    refused(pqpool_execute(pool, held, &statement, nullptr));
    refused(pqpool_run(nullptr, nullptr, &statement, &result));
    refused(pqpool_run(pool, nullptr, &statement, nullptr));
    refused(pqpool_release(nullptr, held));
    refused(pqpool_cancel(nullptr, held));
    refused(pqpool_lease_pgconn(pool, held, nullptr));
    refused(pqpool_lease_pgconn(nullptr, held, &raw));
    refused(pqpool_queue_open(nullptr, nullptr));
    refused(pqpool_queue_open(pool, nullptr));
    refused(pqpool_queue_poll(nullptr, 0));
    refused(pqpool_queue_next(nullptr, &completion, &number));
    refused(pqpool_queue_next(queue, nullptr, &number));
    refused(pqpool_queue_next(queue, &completion, nullptr));
    refused(pqpool_queue_wake(nullptr));
    refused(pqpool_await_open_async(queue, nullptr, nullptr));
    refused(pqpool_acquire_async(queue, nullptr, nullptr, nullptr, &lease));
    refused(pqpool_acquire_async(queue, nullptr, nullptr, &id, nullptr));
    refused(pqpool_execute_async(queue, held, nullptr, nullptr, &id));
    refused(pqpool_execute_async(queue, held, &statement, nullptr, nullptr));
    refused(pqpool_run_async(queue, nullptr, &statement, nullptr, nullptr));
    refused(pqpool_queue_cancel(queue, 1, nullptr));
    refused(pqpool_shutdown_async(queue, 0, nullptr, nullptr));
    refused(pqpool_queue_follow_log(nullptr));
    refused(pqpool_get_statistics(nullptr, &statistics));
    refused(pqpool_get_statistics(pool, nullptr));
    refused(pqpool_statistic_describe(0, nullptr));
    refused(pqpool_get_health(pool, nullptr));
    refused(pqpool_calculate_health(&statistics, 1, 1, 1, nullptr));
    refused(pqpool_calculate_health(nullptr, 1, 1, 1, &number));
    refused(pqpool_get_state(pool, nullptr));
    refused(pqpool_holders(pool, nullptr, 3, &count));
    refused(pqpool_holders(pool, nullptr, 0, nullptr));
    refused(pqpool_log_next(pool, nullptr, &number));
    refused(pqpool_set_log_level(nullptr, 0));
    refused(pqpool_resize(nullptr, 1, 1));
    refused(pqpool_drain(nullptr));
    refused(pqpool_pause(nullptr));
    refused(pqpool_resume(nullptr));

    pqpool_options_free(nullptr);
    pqpool_free(nullptr);
    pqpool_queue_free(nullptr);
    pqpool_result_free(nullptr);
    CHECK(pqpool_queue_fd(nullptr) == -1);
    CHECK(pqpool_result_rows(nullptr) == 0);
    CHECK(pqpool_result_value(nullptr, 0, 0) == nullptr);
    CHECK(pqpool_result_command_tag(nullptr) == nullptr);
    CHECK(pqpool_result_error_message(nullptr) == nullptr);
    CHECK(pqpool_result_error_field(nullptr, 'C') == nullptr);

    // Nothing of all that was begun.
    CHECK(queue.take().empty());
    CHECK(pool.statistics().leases_out == 1);
    CHECK(pool.statistics().total_acquisitions == 1);
    CHECK(pool.execute(held, "SELECT 1").value() == "1");
    CHECK(pool.release(held) == PQPOOL_OK);
}

TEST_CASE("a_struct_without_its_size_is_refused", "[bad input]") {
    Pool pool({{"max_size", "2"}});
    pqpool_acquire_options acquire_options{};
    pqpool_statement statement{};
    statement.sql = "SELECT 1";
    pqpool_option_info option{};
    pqpool_statistic_info statistic{};
    pqpool_statistics statistics{};
    pqpool_health health{};
    pqpool_holder holder{};
    pqpool_log_line line{};
    pqpool_completion completion{};
    Queue queue(pool);
    pqpool_lease lease = 0;
    pqpool_result* result = nullptr;
    int32_t taken = 0;
    std::size_t count = 0;
    const auto refused = [](int32_t status) {
        CHECK(status == PQPOOL_INVALID_ARGUMENT);
        CHECK_THAT(pqpool_error_message(), Catch::Contains("struct_size"));
    };
    refused(pqpool_acquire(pool, &acquire_options, &lease));
    refused(pqpool_run(pool, nullptr, &statement, &result));
    refused(pqpool_option_describe(0, &option));
    refused(pqpool_statistic_describe(0, &statistic));
    refused(pqpool_get_statistics(pool, &statistics));
    refused(pqpool_get_health(pool, &health));
    refused(pqpool_holders(pool, &holder, 1, &count));
    refused(pqpool_log_next(pool, &line, &taken));
    refused(pqpool_queue_next(queue, &completion, &taken));
    statement.struct_size = sizeof statement - 1;
    refused(pqpool_run(pool, nullptr, &statement, &result));
}

TEST_CASE("parameters_that_make_no_sense_are_refused", "[bad input]") {
    Pool pool({{"max_size", "2"}});
    pqpool_result* result = nullptr;
    pqpool_statement statement = PQPOOL_STATEMENT_INIT("SELECT $1::bytea");
    statement.parameter_count = 1;
    CHECK(pqpool_run(pool, nullptr, &statement, &result) == PQPOOL_INVALID_ARGUMENT);  // no array
    const pqpool_parameter negative = {"x", 17, -1, 1, 0};
    statement.parameters = &negative;
    CHECK(pqpool_run(pool, nullptr, &statement, &result) == PQPOOL_INVALID_ARGUMENT);
    CHECK_THAT(pqpool_error_message(), Catch::Contains("length"));
    const pqpool_parameter too_long = {"x", 17, 0x40000000, 1, 0};  // nobody reads so far
    statement.parameters = &too_long;
    CHECK(pqpool_run(pool, nullptr, &statement, &result) == PQPOOL_INVALID_ARGUMENT);
    CHECK_THAT(pqpool_error_message(), Catch::Contains("PostgreSQL takes 1073741823"));
    const pqpool_parameter too_long_together[] = {{"x", 17, 0x20000000, 1, 0}, {"x", 17, 0x20000000, 1, 0}};
    statement.parameters = too_long_together;
    statement.parameter_count = 2;
    CHECK(pqpool_run(pool, nullptr, &statement, &result) == PQPOOL_INVALID_ARGUMENT);
    CHECK_THAT(pqpool_error_message(), Catch::Contains("PostgreSQL takes 1073741823"));
    statement.parameter_count = 65536;
    CHECK(pqpool_run(pool, nullptr, &statement, &result) == PQPOOL_INVALID_ARGUMENT);
    statement.parameter_count = 0;
    statement.result_format = 3;
    CHECK(pqpool_run(pool, nullptr, &statement, &result) == PQPOOL_INVALID_ARGUMENT);
    CHECK(pqpool_set_log_level(pool, 4) == PQPOOL_INVALID_ARGUMENT);
    CHECK(pqpool_set_log_level(pool, -1) == PQPOOL_INVALID_ARGUMENT);
    CHECK(pool.run("SELECT $1::int").sqlstate == "08P01");  // the server's own word for a missing one
    CHECK(pool.run("SELECT 1").value() == "1");
}

TEST_CASE("a_negative_timeout_that_means_nothing_is_refused", "[bad input]") {
    Pool pool({{"min_size", "1"}, {"max_size", "1"}});
    Queue queue(pool);
    const auto held = pool.acquire();
    pqpool_lease lease = 0;
    pqpool_result* result = nullptr;
    uint64_t id = 0;
    const auto refused = [](int32_t status, const std::string& field, const char* value) {
        CHECK(status == PQPOOL_INVALID_ARGUMENT);
        CHECK_THAT(pqpool_error_message(), Catch::StartsWith(field + " ") && Catch::Contains(value));
    };
    pqpool_statement statement = PQPOOL_STATEMENT_INIT("SELECT 1");
    pqpool_acquire_options options = PQPOOL_ACQUIRE_OPTIONS_INIT;
    options.timeout_ms = -7;
    refused(pqpool_acquire(pool, &options, &lease), "options->timeout_ms", "-7");
    refused(pqpool_run(pool, &options, &statement, &result), "options->timeout_ms", "-7");
    refused(pqpool_acquire_async(queue, &options, nullptr, &id, &lease), "options->timeout_ms", "-7");
    refused(pqpool_run_async(queue, &options, &statement, nullptr, &id), "options->timeout_ms", "-7");
    options = PQPOOL_ACQUIRE_OPTIONS_INIT;
    options.leak_timeout_ms = INT64_MIN;
    refused(pqpool_acquire(pool, &options, &lease), "options->leak_timeout_ms", "-9223372036854775808");
    statement.timeout_ms = -3;
    refused(pqpool_execute(pool, held, &statement, &result), "statement->timeout_ms", "-3");
    refused(pqpool_run(pool, nullptr, &statement, &result), "statement->timeout_ms", "-3");
    refused(pqpool_run_async(queue, nullptr, &statement, nullptr, &id), "statement->timeout_ms", "-3");
    refused(pqpool_execute_async(queue, held, &statement, nullptr, &id), "statement->timeout_ms", "-3");
    // No option stands behind these.
    refused(pqpool_queue_poll(queue, PQPOOL_DEFAULT), "timeout_ms", "-2");
    refused(pqpool_shutdown(pool, PQPOOL_DEFAULT), "timeout_ms", "-2");
    refused(pqpool_shutdown_async(queue, -7, nullptr, &id), "timeout_ms", "-7");

    options = PQPOOL_ACQUIRE_OPTIONS_INIT;
    options.leak_timeout_ms = PQPOOL_NO_LIMIT;
    statement.timeout_ms = PQPOOL_NO_LIMIT;
    CHECK(pqpool_release(pool, held) == PQPOOL_OK);
    REQUIRE(pqpool_run(pool, &options, &statement, &result) == PQPOOL_OK);
    pqpool_result_free(result);
    CHECK(pool.statistics().total_acquisitions == 2);
}

TEST_CASE("reserved_fields_must_be_zero", "[bad input]") {
    Pool pool({{"max_size", "2"}});
    pqpool_lease lease = 0;
    pqpool_result* result = nullptr;
    pqpool_acquire_options options = PQPOOL_ACQUIRE_OPTIONS_INIT;
    options.reserved = 0xdeadbeef;
    CHECK(pqpool_acquire(pool, &options, &lease) == PQPOOL_INVALID_ARGUMENT);
    CHECK_THAT(pqpool_error_message(), Catch::Contains("options->reserved"));
    pqpool_parameter parameters[2] = {{"1", 0, 0, 0, 0}, {"7", 0, 0, 0, 12345}};
    pqpool_statement statement = PQPOOL_STATEMENT_INIT("SELECT $1::int + $2::int");
    statement.parameters = parameters;
    statement.parameter_count = 2;
    CHECK(pqpool_run(pool, nullptr, &statement, &result) == PQPOOL_INVALID_ARGUMENT);
    CHECK_THAT(pqpool_error_message(), Catch::Contains("statement->parameters[1].reserved"));
    pqpool_statistics statistics{};
    statistics.struct_size = sizeof statistics;
    statistics.reserved = 1;
    int32_t status = 0;
    CHECK(pqpool_calculate_health(&statistics, 1, 1, 1, &status) == PQPOOL_INVALID_ARGUMENT);
    REQUIRE(pqpool_get_statistics(pool, &statistics) == PQPOOL_OK);
    CHECK(statistics.reserved == 0);
}

TEST_CASE("a_larger_struct_of_a_newer_header_keeps_its_promises", "[bad input]") {
    Pool pool({{"max_size", "3"}});
    struct {
        pqpool_statement statement;
        uint64_t added;
    } newer = {PQPOOL_STATEMENT_INIT("SELECT 1"), 42};
    newer.statement.struct_size = sizeof newer;
    pqpool_result* result = nullptr;
    CHECK(pqpool_run(pool, nullptr, &newer.statement, &result) == PQPOOL_INVALID_ARGUMENT);
    CHECK_THAT(pqpool_error_message(), Catch::Contains("does not know"));
    newer.added = 0;
    REQUIRE(pqpool_run(pool, nullptr, &newer.statement, &result) == PQPOOL_OK);
    pqpool_result_free(result);
    newer.statement.struct_size = UINT32_MAX;
    CHECK(pqpool_run(pool, nullptr, &newer.statement, &result) == PQPOOL_INVALID_ARGUMENT);
    CHECK_THAT(pqpool_error_message(), Catch::Contains("too large"));

    struct {
        pqpool_health health;
        double added;
    } health{};
    health.health.struct_size = sizeof health;
    health.added = 5;
    REQUIRE(pqpool_get_health(pool, &health.health) == PQPOOL_OK);
    CHECK(health.health.struct_size == sizeof health);
    CHECK(health.added == 0);

    struct Holder {
        pqpool_holder holder;
        char added[24];
    } holders[3];
    std::memset(holders, 0x55, sizeof holders);
    holders[0].holder.struct_size = sizeof holders[0];
    const auto first = pool.acquire(PQPOOL_DEFAULT, "first"), second = pool.acquire(PQPOOL_DEFAULT, "second");
    std::size_t count = 0;
    REQUIRE(pqpool_holders(pool, &holders[0].holder, 3, &count) == PQPOOL_OK);
    REQUIRE(count == 2);
    CHECK(std::string(holders[0].holder.tag) == "first");
    CHECK(std::string(holders[1].holder.tag) == "second");
    CHECK(holders[1].holder.struct_size == sizeof holders[1]);
    CHECK(std::string(holders[1].added, sizeof holders[1].added) == std::string(sizeof holders[1].added, '\0'));
    CHECK(pool.release(first) == PQPOOL_OK);
    CHECK(pool.release(second) == PQPOOL_OK);
}
