// Blocking statements: results, formats, parameters, the server's errors, and the raw connection.
#include <cstring>
#include <thread>

#include "capi_fixture.hpp"

using namespace capi_test;

namespace {

constexpr uint32_t kInt4 = 23, kText = 25, kBytea = 17;

}  // namespace

TEST_CASE("a_result_tells_rows_columns_types_and_values", "[statements]") {
    Pool pool;
    const auto done =
        pool.run("SELECT i AS number, 'row ' || i AS name, NULL::text AS nothing FROM generate_series(1, 3) i");
    REQUIRE(done.status == PQPOOL_OK);
    const auto* result = done.result.get();
    CHECK(pqpool_result_rows(result) == 3);
    CHECK(pqpool_result_columns(result) == 3);
    CHECK(std::string(pqpool_result_column_name(result, 1)) == "name");
    CHECK(pqpool_result_column_type(result, 0) == kInt4);
    CHECK(pqpool_result_column_type(result, 1) == kText);
    CHECK(value(done.result, 2, 1) == "row 3");
    CHECK(pqpool_result_length(result, 2, 1) == 5);
    CHECK(pqpool_result_is_null(result, 0, 2) == 1);
    CHECK(pqpool_result_is_null(result, 0, 1) == 0);
    CHECK(pqpool_result_value(result, 0, 2) == nullptr);
    CHECK(std::string(pqpool_result_command_tag(result)) == "SELECT 3");
    CHECK(pqpool_result_is_binary(result) == 0);
    CHECK(pqpool_result_error_message(result) == nullptr);

    SECTION("out of range gives nothing") {
        CHECK(pqpool_result_value(result, 3, 0) == nullptr);
        CHECK(pqpool_result_value(result, 0, 3) == nullptr);
        CHECK(pqpool_result_value(result, -1, 0) == nullptr);
        CHECK(pqpool_result_column_name(result, -1) == nullptr);
        CHECK(pqpool_result_column_type(result, 9) == 0);
        CHECK(pqpool_result_length(result, 9, 9) == 0);
        CHECK(pqpool_result_is_null(result, 9, 9) == 1);
    }
}

TEST_CASE("a_command_without_rows_gives_its_tag", "[statements]") {
    Pool pool({{"max_size", "2"}});
    const auto lease = pool.acquire();
    CHECK(std::string(pqpool_result_command_tag(pool.execute(lease, "CREATE TEMP TABLE t (i int)").result.get())) ==
          "CREATE TABLE");
    const auto inserted = pool.execute(lease, "INSERT INTO t SELECT generate_series(1, 5)");
    CHECK(std::string(pqpool_result_command_tag(inserted.result.get())) == "INSERT 0 5");
    CHECK(pqpool_result_rows(inserted.result.get()) == 0);
    CHECK(pqpool_result_columns(inserted.result.get()) == 0);
    CHECK(pool.execute(lease, "").status == PQPOOL_OK);
    CHECK(pool.execute(lease, "-- nothing").status == PQPOOL_OK);
    CHECK(pool.execute(lease, "SELECT count(*) FROM t").value() == "5");
    CHECK(pool.release(lease) == PQPOOL_OK);
}

TEST_CASE("results_come_in_the_format_asked_for", "[statements]") {
    Pool pool;
    const auto lease = pool.acquire();
    const char four[] = {0, 0, 0, 4};

    const auto binary = pool.execute(lease, "SELECT 4::int4", {}, PQPOOL_BINARY);
    CHECK(pqpool_result_is_binary(binary.result.get()) == 1);
    REQUIRE(pqpool_result_length(binary.result.get(), 0, 0) == 4);
    CHECK(std::memcmp(pqpool_result_value(binary.result.get(), 0, 0), four, 4) == 0);

    // Automatic turns binary once the columns were seen by the statement's name; a type outside the list keeps it text.
    for (int use = 1; use <= 2; use++) CHECK(pool.execute(lease, "SELECT 4", {}, PQPOOL_AUTOMATIC).value() == "4");
    const auto third = pool.execute(lease, "SELECT 4", {}, PQPOOL_AUTOMATIC);
    CHECK(pqpool_result_is_binary(third.result.get()) == 1);
    CHECK(std::memcmp(pqpool_result_value(third.result.get(), 0, 0), four, 4) == 0);

    // Where text could lose something, from the first use on.
    REQUIRE(pool.execute(lease, "SET extra_float_digits = 0").status == PQPOOL_OK);
    const auto described = pool.execute(lease, "SELECT 4 AS four", {}, PQPOOL_AUTOMATIC);
    CHECK(pqpool_result_is_binary(described.result.get()) == 1);
    CHECK(std::memcmp(pqpool_result_value(described.result.get(), 0, 0), four, 4) == 0);
    for (int i = 0; i < 4; i++)
        CHECK(pool.execute(lease, "SELECT 4, '(1,2)'::point", {}, PQPOOL_AUTOMATIC).value() == "4");
    // The same text asked for as text stays text, also when it is prepared.
    for (int i = 0; i < 3; i++) CHECK(pool.execute(lease, "SELECT 4", {}, PQPOOL_TEXT).value() == "4");
    CHECK(pool.release(lease) == PQPOOL_OK);
}

TEST_CASE("parameters_go_as_text_binary_or_null", "[statements]") {
    Pool pool;
    const auto lease = pool.acquire();
    for (int use = 0; use < 4; use++) {  // unprepared, being prepared, and prepared
        const char seven[] = {0, 0, 0, 7};
        const char bytes[] = {'a', 0, 'b'};
        const std::vector<pqpool_parameter> parameters = {
            text("35"), {seven, kInt4, 4, 1, 0}, text(nullptr), {bytes, kBytea, 3, 1, 0}, text("it's; --")};
        const auto done =
            pool.execute(lease, "SELECT $1::int + $2, $3::text IS NULL, encode($4, 'hex'), $5::text", parameters);
        REQUIRE(done.value() == "42");
        CHECK(value(done.result, 0, 1) == "t");
        CHECK(value(done.result, 0, 2) == "610062");
        CHECK(value(done.result, 0, 3) == "it's; --");
    }
    // The same text with other types is another statement.
    for (int i = 0; i < 3; i++) {
        CHECK(pool.execute(lease, "SELECT pg_typeof($1)", {text("1", kInt4)}).value() == "integer");
        CHECK(pool.execute(lease, "SELECT pg_typeof($1)", {text("1", kText)}).value() == "text");
    }
    CHECK(pool.release(lease) == PQPOOL_OK);
}

TEST_CASE("a_large_statement_and_a_large_result_pass_through", "[statements]") {
    Pool pool;
    const std::string large(8 << 20, 'x');
    const auto done = pool.run("SELECT $1::text || $1::text", {text(large.c_str())});
    REQUIRE(done.status == PQPOOL_OK);
    CHECK(pqpool_result_length(done.result.get(), 0, 0) == 16 << 20);
}

TEST_CASE("the_servers_error_comes_with_its_sqlstate_and_fields", "[statements]") {
    Pool pool({{"max_size", "2"}});
    const auto lease = pool.acquire();
    REQUIRE(pool.execute(lease, "CREATE TEMP TABLE t (i int CONSTRAINT only_once PRIMARY KEY)").status == PQPOOL_OK);
    REQUIRE(pool.execute(lease, "INSERT INTO t VALUES (1)").status == PQPOOL_OK);
    for (int use = 0; use < 3; use++) {
        const auto failed = pool.execute(lease, "INSERT INTO t VALUES (1)");
        CHECK(failed.status == PQPOOL_QUERY);
        CHECK(failed.sqlstate == "23505");
        CHECK_THAT(failed.message, Catch::Contains("only_once"));
        CHECK(std::string(pqpool_error_field('n')) == "only_once");
        CHECK(std::string(pqpool_error_field('C')) == "23505");
        CHECK_THAT(pqpool_error_field('D'), Catch::Contains("already exists"));
        CHECK(pqpool_error_field('H') == nullptr);
        CHECK(failed.result == nullptr);
    }
    CHECK(pool.execute(lease, "SELEC 1").sqlstate == "42601");
    const auto two = pool.execute(lease, "SELECT $1::int; SELECT 2", {text("1")});
    CHECK(two.sqlstate == "42601");
    CHECK_THAT(two.message, Catch::Contains("one statement per call"));
    CHECK(pool.execute(lease, "SELECT $1::int", {text("x")}).sqlstate == "22P02");
    // A success clears what the failure before it left.
    CHECK(pool.execute(lease, "SELECT 1").value() == "1");
    CHECK(std::string(pqpool_error_message()).empty());
    CHECK(std::string(pqpool_error_sqlstate()).empty());
    CHECK(pqpool_error_field('C') == nullptr);
    CHECK(pool.release(lease) == PQPOOL_OK);
}

TEST_CASE("the_text_of_a_failure_is_the_threads_own", "[statements]") {
    Pool pool;
    REQUIRE(pool.run("SELECT 1/0").sqlstate == "22012");
    std::string elsewhere = "untouched";
    std::thread([&] { elsewhere = pqpool_error_message(); }).join();
    CHECK(elsewhere.empty());
    CHECK_FALSE(std::string(pqpool_error_message()).empty());
}

TEST_CASE("a_failed_transaction_stays_failed_until_it_is_ended", "[statements]") {
    Pool pool;
    const auto lease = pool.acquire();
    REQUIRE(pool.execute(lease, "BEGIN").status == PQPOOL_OK);
    CHECK(pool.execute(lease, "SELECT 1/0").sqlstate == "22012");
    CHECK(pool.execute(lease, "SELECT 1").sqlstate == "25P02");
    CHECK(pool.execute(lease, "ROLLBACK").status == PQPOOL_OK);
    CHECK(pool.execute(lease, "SELECT 1").value() == "1");
    CHECK(pool.release(lease) == PQPOOL_OK);
}

TEST_CASE("statements_that_refuse_company_run_as_a_leases_first", "[statements]") {
    Pool pool({{"max_size", "2"}});
    for (const char* sql :
         {"VACUUM pg_class", "BEGIN ISOLATION LEVEL SERIALIZABLE", "CHECKPOINT", "SET work_mem = '8MB'", "VALUES (1)",
          "TABLE pg_database", "SHOW work_mem", "EXPLAIN SELECT 1", "DO 'BEGIN NULL; END'"}) {
        INFO(sql);
        const auto lease = pool.acquire();
        const auto done = pool.execute(lease, sql);
        INFO(done.message);
        CHECK(done.status == PQPOOL_OK);
        CHECK(pool.release(lease) == PQPOOL_OK);
    }
}

TEST_CASE("copy_is_refused_and_the_lease_stays_usable", "[statements]") {
    Pool pool;
    const auto lease = pool.acquire();
    const auto refused = pool.execute(lease, "COPY (SELECT 1) TO STDOUT");
    CHECK(refused.status == PQPOOL_UNSUPPORTED);
    CHECK_THAT(refused.message, Catch::Contains("raw connection"));
    CHECK(pool.execute(lease, "SELECT 1").value() == "1");
    CHECK(pool.release(lease) == PQPOOL_OK);
}

TEST_CASE("the_raw_connection_takes_copy_and_returns_to_the_pool_clean", "[statements][raw]") {
    Pool pool({{"min_size", "1"}, {"max_size", "1"}});
    const auto lease = pool.acquire();
    pg_conn* raw = nullptr;
    REQUIRE(pqpool_lease_pgconn(pool, lease, &raw) == PQPOOL_OK);
    REQUIRE(PQpipelineStatus(raw) == PQ_PIPELINE_OFF);
    REQUIRE(PQisnonblocking(raw) == 0);

    const std::unique_ptr<PGresult, decltype(&PQclear)> created(PQexec(raw, "CREATE TEMP TABLE t (i int, name text)"),
                                                                PQclear);
    REQUIRE(PQresultStatus(created.get()) == PGRES_COMMAND_OK);
    const std::unique_ptr<PGresult, decltype(&PQclear)> copy(PQexec(raw, "COPY t FROM STDIN"), PQclear);
    REQUIRE(PQresultStatus(copy.get()) == PGRES_COPY_IN);
    const std::string rows = "1\tone\n2\ttwo\n";
    REQUIRE(PQputCopyData(raw, rows.data(), static_cast<int>(rows.size())) == 1);
    REQUIRE(PQputCopyEnd(raw, nullptr) == 1);
    const std::unique_ptr<PGresult, decltype(&PQclear)> copied(PQgetResult(raw), PQclear);
    REQUIRE(std::string(PQcmdTuples(copied.get())) == "2");
    REQUIRE(PQgetResult(raw) == nullptr);

    SECTION("statements of the lease go on beside it") {
        for (int i = 0; i < 3; i++)
            CHECK(pool.execute(lease, "SELECT string_agg(name, ',' ORDER BY i) FROM t").value() == "one,two");
        REQUIRE(pqpool_lease_pgconn(pool, lease, &raw) == PQPOOL_OK);
        const std::unique_ptr<PGresult, decltype(&PQclear)> again(PQexec(raw, "SELECT count(*) FROM t"), PQclear);
        CHECK(std::string(PQgetvalue(again.get(), 0, 0)) == "2");
        CHECK(pool.execute(lease, "SELECT count(*) FROM t").value() == "2");
    }
    SECTION("whatever it changed is undone") {
        const std::unique_ptr<PGresult, decltype(&PQclear)> left(
            PQexec(raw, "SET work_mem = '9MB'; LISTEN something; PREPARE mine AS SELECT 1; BEGIN"), PQclear);
        REQUIRE(PQresultStatus(left.get()) == PGRES_COMMAND_OK);
    }
    CHECK(pool.release(lease) == PQPOOL_OK);

    const auto next = pool.acquire();
    CHECK(pool.execute(next, "SELECT to_regclass('pg_temp.t') IS NULL AND current_setting('work_mem') <> '9MB'")
              .value() == "t");
    CHECK(pool.execute(next, "SELECT count(*) FROM pg_listening_channels()").value() == "0");
    CHECK(pool.execute(next, "SELECT count(*) FROM pg_prepared_statements WHERE name = 'mine'").value() == "0");
    CHECK(pool.release(next) == PQPOOL_OK);
    CHECK(pool.sessions() == 1);
}

TEST_CASE("a_raw_connection_left_busy_is_replaced", "[statements][raw]") {
    Pool pool({{"min_size", "1"}, {"max_size", "1"}});
    const auto lease = pool.acquire();
    pg_conn* raw = nullptr;
    REQUIRE(pqpool_lease_pgconn(pool, lease, &raw) == PQPOOL_OK);
    const int pid = PQbackendPID(raw);
    const std::unique_ptr<PGresult, decltype(&PQclear)> copy(PQexec(raw, "COPY (SELECT 1) TO STDOUT"), PQclear);
    REQUIRE(PQresultStatus(copy.get()) == PGRES_COPY_OUT);
    CHECK(pool.execute(lease, "SELECT 1").status == PQPOOL_BUSY);
    CHECK(pool.release(lease) == PQPOOL_OK);

    CHECK(pool.run("SELECT pg_backend_pid()").value() != std::to_string(pid));
    CHECK(pool.wait_until_quiet());
}

TEST_CASE("a_lost_raw_connection_is_named_as_such", "[statements][raw]") {
    Pool pool({{"min_size", "1"}, {"max_size", "1"}});
    const auto lease = pool.acquire();
    pg_conn* raw = nullptr;
    REQUIRE(pqpool_lease_pgconn(pool, lease, &raw) == PQPOOL_OK);
    terminate_backend(std::to_string(PQbackendPID(raw)));
    const std::unique_ptr<PGresult, decltype(&PQclear)> failed(PQexec(raw, "SELECT 1"), PQclear);
    REQUIRE(PQstatus(raw) == CONNECTION_BAD);
    CHECK(pool.execute(lease, "SELECT 1").status == PQPOOL_CONNECTION_LOST);
    CHECK(pqpool_lease_pgconn(pool, lease, &raw) == PQPOOL_CONNECTION_LOST);
    CHECK(pool.release(lease) == PQPOOL_OK);
    CHECK(pool.run("SELECT 1").value() == "1");
}

TEST_CASE("an_error_that_comes_at_the_end_of_a_statement_is_its_own", "[statements]") {
    Pool pool({{"min_size", "1"}, {"max_size", "1"}});
    for (const char* sql : {"DROP TABLE IF EXISTS orphans, parents", "CREATE TABLE parents (id int PRIMARY KEY)",
                            "CREATE TABLE orphans (p int REFERENCES parents DEFERRABLE INITIALLY DEFERRED)"})
        REQUIRE(pool.run(sql).status == PQPOOL_OK);
    for (int use = 0; use < 4; use++) {
        CHECK(pool.run("INSERT INTO orphans VALUES (99)").sqlstate == "23503");
        CHECK(pool.run("SELECT 'mine'").value() == "mine");
        CHECK(pool.run("SELECT 1/0").sqlstate == "22012");
        CHECK(pool.run("INSERT INTO parents VALUES (1), (1)").sqlstate == "23505");
    }
    CHECK(pool.run("DROP TABLE orphans, parents").status == PQPOOL_OK);
    CHECK(pool.statistics().connections_lost == 0);
}

TEST_CASE("the_transaction_status_is_the_servers_word", "[statements]") {
    Pool pool({{"min_size", "1"}, {"max_size", "1"}});
    const auto lease = pool.acquire();
    const auto status = [&] {
        int32_t found = -1;
        CHECK(pqpool_lease_transaction_status(pool, lease, &found) == PQPOOL_OK);
        return found;
    };
    CHECK(status() == PQPOOL_TRANSACTION_NONE);
    REQUIRE(pool.execute(lease, "SELECT 1; BEGIN").status == PQPOOL_OK);
    CHECK(status() == PQPOOL_TRANSACTION_OPEN);
    REQUIRE(pool.execute(lease, "SELECT 1/0").status == PQPOOL_QUERY);
    CHECK(status() == PQPOOL_TRANSACTION_FAILED);
    CHECK(pool.execute(lease, "COMMIT").status == PQPOOL_OK);
    CHECK(status() == PQPOOL_TRANSACTION_NONE);
    CHECK(pool.release(lease) == PQPOOL_OK);
    int32_t untouched = 7;
    CHECK(pqpool_lease_transaction_status(pool, lease, &untouched) == PQPOOL_RELEASED);
    CHECK(untouched == 7);
}
