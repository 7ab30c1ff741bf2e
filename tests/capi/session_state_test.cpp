// What one lease leaves in its session is not seen by the next.
#include "capi_fixture.hpp"

using namespace capi_test;

namespace {

struct Leftover {
    const char* name;
    std::vector<const char*> left;
    const char* question;  // 't' where nothing is left
};

const Leftover kLeftovers[] = {
    {"a setting", {"SET work_mem = '7MB'"}, "SELECT current_setting('work_mem') <> '7MB'"},
    {"a setting by function",
     {"SELECT set_config('work_mem', '7MB', false)"},
     "SELECT current_setting('work_mem') <> '7MB'"},
    {"a setting of a custom name",
     {"SET app.tenant = 'a'"},
     "SELECT coalesce(current_setting('app.tenant', true), '') = ''"},
    {"a setting in a transaction",
     {"BEGIN", "SET work_mem = '7MB'", "COMMIT"},
     "SELECT current_setting('work_mem') <> '7MB'"},
    {"the search path", {"SET search_path TO pg_catalog"}, "SELECT current_setting('search_path') <> 'pg_catalog'"},
    {"the time zone", {"SET TIME ZONE 'Asia/Kathmandu'"}, "SELECT current_setting('TimeZone') <> 'Asia/Kathmandu'"},
    {"a default isolation level",
     {"SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE"},
     "SELECT current_setting('transaction_isolation') = 'read committed'"},
    {"a role", {"SET ROLE pg_monitor"}, "SELECT current_user = session_user"},
    {"a session authorization", {"SET SESSION AUTHORIZATION pg_monitor"}, "SELECT session_user <> 'pg_monitor'"},
    {"a role and a failed statement", {"SET ROLE pg_monitor", "SELECT 1/0"}, "SELECT current_user = session_user"},
    {"a channel", {"LISTEN somebody"}, "SELECT count(*) = 0 FROM pg_listening_channels()"},
    {"a temporary table", {"CREATE TEMP TABLE leftover (i int)"}, "SELECT to_regclass('pg_temp.leftover') IS NULL"},
    {"a temporary table by query",
     {"SELECT 1 AS i INTO TEMPORARY leftover"},
     "SELECT to_regclass('pg_temp.leftover') IS NULL"},
    {"a temporary table by schema",
     {"CREATE TABLE pg_temp.leftover (i int)"},
     "SELECT to_regclass('pg_temp.leftover') IS NULL"},
    {"an advisory lock",
     {"SELECT pg_advisory_lock(99)"},
     "SELECT count(*) = 0 FROM pg_locks WHERE locktype = 'advisory'"},
    {"an advisory lock in a failed transaction",
     {"BEGIN", "SELECT pg_try_advisory_lock(98)", "SELECT 1/0"},
     "SELECT count(*) = 0 FROM pg_locks WHERE locktype = 'advisory'"},
    {"a cursor WITH HOLD",
     {"BEGIN", "DECLARE held CURSOR WITH HOLD FOR SELECT generate_series(1, 10)", "COMMIT"},
     "SELECT count(*) = 0 FROM pg_cursors WHERE name = 'held'"},
    {"an open transaction",
     {"BEGIN", "CREATE TABLE never_committed (i int)"},
     "SELECT to_regclass('never_committed') IS NULL"},
    {"a failed transaction", {"BEGIN", "SELECT 1/0"}, "SELECT true"},
    {"a prepared statement",
     {"PREPARE mine AS SELECT 1"},
     "SELECT count(*) = 0 FROM pg_prepared_statements WHERE name = 'mine'"},
    {"a setting by a DO block",
     {"DO $$ BEGIN SET work_mem = '7MB'; END $$"},
     "SELECT current_setting('work_mem') <> '7MB'"},
    {"a RESET of what init_sql set", {"RESET ALL"}, "SELECT current_setting('app.init') = 'yes'"},
    {"a DISCARD of what init_sql set", {"DISCARD ALL"}, "SELECT current_setting('app.init') = 'yes'"},
};

}  // namespace

TEST_CASE("session_state_left_behind_is_not_seen_by_the_next_lease", "[session state]") {
    const char* validation = GENERATE("always", "blocking", "never");
    for (const auto& leftover : kLeftovers) {
        // The next lease's first statement may share its packet with the reset, or not.
        for (const char* before : {"", "BEGIN", "SET LOCAL work_mem = '5MB'"}) {
            INFO(leftover.name << ", validation " << validation << ", first '" << before << "'");
            Pool pool({{"min_size", "1"},
                       {"max_size", "1"},
                       {"validation", validation},
                       {"init_sql", "SET app.init = 'yes'"}});
            const auto lease = pool.acquire();
            const auto pid = pool.execute(lease, "SELECT pg_backend_pid()").value();
            for (const char* sql : leftover.left) {
                const auto done = pool.execute(lease, sql);
                INFO(sql << ": " << done.message);
                REQUIRE((done.status == PQPOOL_OK || done.sqlstate == "22012"));
            }
            REQUIRE(pool.release(lease) == PQPOOL_OK);

            const auto next = pool.acquire();
            if (*before) REQUIRE(pool.execute(next, before).status == PQPOOL_OK);
            CHECK(pool.execute(next, leftover.question).value() == "t");
            CHECK(pool.execute(next, "SELECT current_setting('app.init')").value() == "yes");
            CHECK(pool.execute(next, "SELECT pg_backend_pid()").value() == pid);  // it was cleaned, not replaced
            REQUIRE(pool.release(next) == PQPOOL_OK);
        }
    }
}

TEST_CASE("what_other_sessions_could_feel_ends_with_the_release_not_with_the_next_lease", "[session state]") {
    Pool pool({{"min_size", "1"}, {"max_size", "1"}});
    const auto lease = pool.acquire();
    REQUIRE(pool.execute(lease, "SELECT pg_advisory_lock(4242)").status == PQPOOL_OK);
    REQUIRE(pool.execute(lease, "BEGIN").status == PQPOOL_OK);
    REQUIRE(pool.execute(lease, "LOCK TABLE pg_description IN ACCESS EXCLUSIVE MODE").status == PQPOOL_OK);
    REQUIRE(pool.release(lease) == PQPOOL_OK);
    Observer observer;
    CHECK(wait_until([&] {
        return observer.ask("SELECT count(*) FROM pg_locks WHERE objid = 4242 OR mode = 'AccessExclusiveLock'") == "0";
    }));
}

TEST_CASE("a_failing_first_statement_does_not_keep_the_reset_from_the_next", "[session state]") {
    Pool pool({{"min_size", "1"}, {"max_size", "1"}});
    auto lease = pool.acquire();
    REQUIRE(pool.execute(lease, "SET work_mem = '7MB'").status == PQPOOL_OK);
    REQUIRE(pool.release(lease) == PQPOOL_OK);
    lease = pool.acquire();
    CHECK(pool.execute(lease, "SELECT 1/0").sqlstate ==
          "22012");  // the reset in the same packet is rolled back with it
    CHECK(pool.execute(lease, "SELECT current_setting('work_mem') <> '7MB'").value() == "t");
    REQUIRE(pool.execute(lease, "SET work_mem = '6MB'").status == PQPOOL_OK);
    CHECK(pool.execute(lease, "SELECT current_setting('work_mem')").value() == "6MB");
    CHECK(pool.execute(lease, "SELECT current_setting('work_mem')").value() == "6MB");
    REQUIRE(pool.release(lease) == PQPOOL_OK);
    CHECK(pool.run("SELECT current_setting('work_mem') IN ('6MB', '7MB')").value() == "f");
}

TEST_CASE("reset_can_be_switched_off_or_made_certain", "[session state]") {
    SECTION("never leaves settings, and still ends transactions") {
        Pool pool({{"min_size", "1"}, {"max_size", "1"}, {"reset", "never"}});
        const auto lease = pool.acquire();
        REQUIRE(pool.execute(lease, "SET work_mem = '7MB'").status == PQPOOL_OK);
        REQUIRE(pool.execute(lease, "BEGIN").status == PQPOOL_OK);
        REQUIRE(pool.release(lease) == PQPOOL_OK);
        CHECK(pool.run("SELECT current_setting('work_mem')").value() == "7MB");
        CHECK(pool.wait_until_quiet());
        CHECK(pool.sessions("state = 'idle'") == 1);
    }
    SECTION("always undoes what no text told") {
        Observer observer;
        observer.ask(
            "CREATE OR REPLACE FUNCTION set_in_secret() RETURNS void LANGUAGE sql AS $$ SELECT "
            "pg_catalog.set_config('work_mem', '7MB', false) $$");
        Pool pool({{"min_size", "1"}, {"max_size", "1"}, {"reset", "always"}});
        const auto lease = pool.acquire();
        REQUIRE(pool.execute(lease, "SELECT set_in_secret()").status == PQPOOL_OK);
        REQUIRE(pool.release(lease) == PQPOOL_OK);
        CHECK(pool.run("SELECT current_setting('work_mem') <> '7MB'").value() == "t");
        observer.ask("DROP FUNCTION set_in_secret()");
    }
}
