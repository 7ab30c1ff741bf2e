// What is asked in the recorded conversations with real servers.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/wire/session.hpp"

namespace pqpool::test {

struct Step {
    enum class Kind : std::uint8_t { ask, end_lease, reset, kill_server } kind = Kind::ask;
    std::string sql;
    ResultFormat format = ResultFormat::text;
    Session::Check check = Session::Check::none;
    std::vector<Parameter> parameters;
};

struct Workload {
    std::string name;
    std::vector<Step> steps;
    std::string init_sql = {};
    std::int64_t statement_cache_size = 100;
};

inline Step ask(std::string sql, ResultFormat format = ResultFormat::text, Session::Check check = Session::Check::none,
                std::vector<Parameter> parameters = {}) {
    return {Step::Kind::ask, std::move(sql), format, check, std::move(parameters)};
}

inline std::vector<Workload> workloads() {
    constexpr auto text = ResultFormat::text, binary = ResultFormat::binary, automatic = ResultFormat::automatic;
    constexpr auto pipelined = Session::Check::pipelined, awaited = Session::Check::awaited;
    Step end_lease, reset, kill_server;
    end_lease.kind = Step::Kind::end_lease;
    reset.kind = Step::Kind::reset;
    kill_server.kind = Step::Kind::kill_server;
    const Parameter seven{.type = 23, .binary = true, .length = 4, .value = "\0\0\0\7"};
    const Parameter words{.type = 25, .value = "words"}, null{.type = 25};
    const Step sum = ask("SELECT 1000 + 1 AS n"),
               row = ask("SELECT $1 + 1000, $2, $3", automatic, pipelined, {seven, words, null});
    Step binary_sum = sum;
    binary_sum.format = binary;
    return {
        {"reads",
         {sum, sum, sum, binary_sum, sum, row, row, row, row,
          ask("SELECT g, repeat('x', g) FROM generate_series(1, 20) g"), ask("SELECT"), ask(""),
          ask("SELECT 1 WHERE false", automatic), ask("SELECT point(1, 2), 3", automatic),
          ask("SELECT point(1, 2), 3", automatic)}},
        {"errors",
         {ask("SELECT 1/0", text, pipelined), ask("SELECT 1/0"), ask("SELECT 1/0"), ask("SELEC 1", text, pipelined),
          ask("DO $$ BEGIN RAISE NOTICE 'so'; RAISE EXCEPTION 'no' USING DETAIL = 'd', HINT = 'h'; END $$"),
          ask("CREATE TEMP TABLE d (a int UNIQUE DEFERRABLE INITIALLY DEFERRED)"),
          ask("INSERT INTO d VALUES (1), (1)", text, pipelined), ask("INSERT INTO d VALUES (1), (1)"), ask("BEGIN"),
          ask("SELECT nothing"), sum, ask("ROLLBACK", text, pipelined), sum}},
        {"names",
         {ask("CREATE TEMP TABLE t (a int)"), ask("INSERT INTO t VALUES (1000)"), ask("SELECT * FROM t", automatic),
          ask("SELECT * FROM t", automatic), ask("SELECT * FROM t", automatic), ask("ALTER TABLE t ADD b text"),
          ask("SELECT * FROM t", automatic), ask("SELECT * FROM t", automatic), ask("EXECUTE nothing"),
          ask("EXECUTE nothing"), ask("PREPARE p AS SELECT * FROM t"), ask("EXECUTE p"), ask("EXECUTE p"),
          ask("ALTER TABLE t DROP b"), ask("EXECUTE p"), ask("EXECUTE p"), ask("DEALLOCATE ALL"),
          ask("SELECT * FROM t", automatic, pipelined), ask("SELECT * FROM t", automatic, pipelined)}},
        {"evictions", {sum, sum, ask("SELECT 2000"), ask("SELECT 2000"), sum, sum}, {}, 1},
        {"leases",
         {ask("SET work_mem = '5MB'", text, pipelined), ask("LISTEN a"), ask("NOTIFY a, 'b'"), sum, end_lease,
          ask("SELECT 1000", text, pipelined), ask("SHOW work_mem"), end_lease, ask("SELECT 1000", text, awaited),
          ask("BEGIN"), ask("PREPARE q AS SELECT 1"), reset, sum},
         "SET search_path = public; SET TimeZone = 'UTC'"},
        {"scripts",
         {ask("SELECT 1; SELECT 1000", text, pipelined), ask("SELECT 1; SELECT 1/0; SELECT 2"),
          ask("BEGIN; SELECT 1000; COMMIT"), ask("SET DateStyle = 'ISO'; SELECT date '2026-01-02'"),
          ask("SELECT 1; SELECT 2", automatic), ask("CREATE TEMP TABLE r (); INSERT INTO r DEFAULT VALUES; TABLE r")}},
        {"settings",
         {ask("SET DateStyle = 'German'"), ask("SELECT date '2026-01-02'", automatic),
          ask("SELECT date '2026-01-02'", automatic), ask("SET client_encoding = 'LATIN1'"), sum, ask("SELECT 'ä'"),
          ask("SET lc_messages = 'C'")}},
        {"an end before the check",
         {ask("SELECT 1000", text, pipelined), kill_server, ask("UPDATE t SET a = 1", text, pipelined)}},
        {"an end without a check", {sum, kill_server, sum}},
        {"an end in the statement",
         {ask("SELECT pg_terminate_backend(pg_backend_pid()), pg_sleep(5)", text, pipelined)}},
    };
}

}  // namespace pqpool::test
