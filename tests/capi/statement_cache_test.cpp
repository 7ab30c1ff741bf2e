// Prepared statements behind the caller's back: made on second use, kept within the limit, and never in the way.
#include "capi_fixture.hpp"

using namespace capi_test;

namespace {

// Prepared by the pool in the lease's session; its own check does not count.
std::string prepared(Pool& pool, pqpool_lease lease) {
    return pool.execute(lease, "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%/* cached */'")
        .value();
}

}  // namespace

TEST_CASE("a_statement_is_prepared_on_its_second_use", "[statement cache]") {
    Pool pool({{"min_size", "1"}, {"max_size", "1"}});
    const auto lease = pool.acquire();
    CHECK(pool.execute(lease, "SELECT $1::int /* cached */", {text("1")}).value() == "1");
    CHECK(prepared(pool, lease) == "0");
    CHECK(pool.execute(lease, "SELECT $1::int /* cached */", {text("2")}).value() == "2");
    CHECK(prepared(pool, lease) == "1");
    CHECK(pool.execute(lease, "SELECT $1::int /* cached */", {text("3")}).value() == "3");
    CHECK(prepared(pool, lease) == "1");
    CHECK(pool.release(lease) == PQPOOL_OK);
    // It outlives the lease.
    const auto next = pool.acquire();
    CHECK(prepared(pool, next) == "1");
    CHECK(pool.execute(next, "SELECT $1::int /* cached */", {text("4")}).value() == "4");
    CHECK(pool.release(next) == PQPOOL_OK);
}

TEST_CASE("a_statement_that_cannot_be_prepared_fails_the_same_way_each_time", "[statement cache]") {
    Pool pool({{"min_size", "1"}, {"max_size", "1"}});
    const auto lease = pool.acquire();
    for (int i = 0; i < 4; i++) {
        CHECK(pool.execute(lease, "SELECT * FROM there_is_no_such_table").sqlstate == "42P01");
        CHECK(pool.execute(lease, "SELECT 1").value() == "1");
    }
    REQUIRE(pool.execute(lease, "CREATE TEMP TABLE there_is_no_such_table AS SELECT 8").status == PQPOOL_OK);
    for (int i = 0; i < 3; i++) CHECK(pool.execute(lease, "SELECT * FROM there_is_no_such_table").value() == "8");
    CHECK(pool.release(lease) == PQPOOL_OK);
}

TEST_CASE("a_plan_invalidated_by_ddl_is_made_anew", "[statement cache]") {
    Pool pool({{"min_size", "1"}, {"max_size", "1"}});
    const auto lease = pool.acquire();
    REQUIRE(pool.execute(lease, "CREATE TEMP TABLE t AS SELECT 1 AS a").status == PQPOOL_OK);
    for (int i = 0; i < 3; i++) CHECK(pool.execute(lease, "SELECT * FROM t", {}, PQPOOL_AUTOMATIC).status == PQPOOL_OK);
    REQUIRE(pool.execute(lease, "ALTER TABLE t ADD b point DEFAULT '(1,2)'").status == PQPOOL_OK);
    for (int i = 0; i < 3; i++) {
        const auto done = pool.execute(lease, "SELECT * FROM t", {}, PQPOOL_AUTOMATIC);
        INFO(done.message);
        REQUIRE(done.status == PQPOOL_OK);
        CHECK(pqpool_result_columns(done.result.get()) == 2);
        CHECK(value(done.result, 0, 1) == "(1,2)");
    }
    SECTION("in a transaction it is an error, and it works after") {
        REQUIRE(pool.execute(lease, "BEGIN").status == PQPOOL_OK);
        REQUIRE(pool.execute(lease, "ALTER TABLE t ADD c int").status == PQPOOL_OK);
        CHECK(pool.execute(lease, "SELECT * FROM t", {}, PQPOOL_AUTOMATIC).sqlstate == "0A000");
        REQUIRE(pool.execute(lease, "ROLLBACK").status == PQPOOL_OK);
        CHECK(pqpool_result_columns(pool.execute(lease, "SELECT * FROM t").result.get()) == 2);
    }
    CHECK(pool.release(lease) == PQPOOL_OK);
}

TEST_CASE("prepared_statements_that_the_caller_threw_away_are_made_anew", "[statement cache]") {
    const char* away = GENERATE("DEALLOCATE ALL", "DISCARD ALL", "DISCARD PLANS");
    INFO(away);
    Pool pool({{"min_size", "1"}, {"max_size", "1"}});
    auto lease = pool.acquire();
    for (int i = 0; i < 3; i++) CHECK(pool.execute(lease, "SELECT 1 /* cached */").value() == "1");
    CHECK(pool.execute(lease, away).status == PQPOOL_OK);
    for (int i = 0; i < 3; i++) CHECK(pool.execute(lease, "SELECT 1 /* cached */").value() == "1");
    SECTION("also those thrown away where the text does not tell") {
        CHECK(pool.execute(lease, "DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$").status == PQPOOL_OK);
        for (int i = 0; i < 3; i++) CHECK(pool.execute(lease, "SELECT 1 /* cached */").value() == "1");
    }
    SECTION("also in the lease after") {
        CHECK(pool.execute(lease, away).status == PQPOOL_OK);
        CHECK(pool.release(lease) == PQPOOL_OK);
        lease = pool.acquire();
        for (int i = 0; i < 3; i++) CHECK(pool.execute(lease, "SELECT 1 /* cached */").value() == "1");
    }
    CHECK(pool.release(lease) == PQPOOL_OK);
    for (int i = 0; i < 3; i++) CHECK(pool.run("SELECT 1 /* cached */").value() == "1");
    CHECK(pool.statistics().connections_lost == 0);
}

TEST_CASE("a_statement_of_the_callers_own_that_is_removed_takes_no_other_along", "[statement cache]") {
    Pool pool({{"min_size", "1"}, {"max_size", "1"}});
    const auto lease = pool.acquire();
    for (int i = 0; i < 3; i++) CHECK(pool.execute(lease, "SELECT 1 /* cached */").value() == "1");
    const std::string kept =
        pool.execute(lease, "SELECT name FROM pg_prepared_statements WHERE statement LIKE '%/* cached */'").value();
    CHECK(pool.execute(lease, "PREPARE own AS SELECT 2").status == PQPOOL_OK);
    CHECK(pool.execute(lease, "BEGIN").status == PQPOOL_OK);
    const std::string removes =
        GENERATE_COPY(std::string("DEALLOCATE own"), "DEALLOCATE PREPARE \"own\"", std::string("DISCARD PLANS"),
                      "DEALLOCATE pqpool_check", "DEALLOCATE " + kept);
    INFO(removes);
    CHECK(pool.execute(lease, removes.c_str()).status == PQPOOL_OK);
    for (int i = 0; i < 3; i++) CHECK(pool.execute(lease, "SELECT 1 /* cached */").value() == "1");
    CHECK(pool.execute(lease, "COMMIT").status == PQPOOL_OK);
    CHECK(pool.release(lease) == PQPOOL_OK);
    for (int i = 0; i < 3; i++) CHECK(pool.run("SELECT 1 /* cached */").value() == "1");
    CHECK(pool.statistics().connections_lost == 0);
}

TEST_CASE("no_more_statements_are_kept_than_the_option_says", "[statement cache]") {
    Pool pool({{"min_size", "1"}, {"max_size", "1"}, {"statement_cache_size", "2"}});
    const auto lease = pool.acquire();
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 5; i++) {
            const std::string sql = "SELECT " + std::to_string(i) + " /* cached */";
            for (int use = 0; use < 3; use++) CHECK(pool.execute(lease, sql.c_str()).value() == std::to_string(i));
        }
    }
    CHECK(pool.execute(lease, "SELECT 1").status == PQPOOL_OK);  // its packet carries the last eviction
    CHECK(std::stoi(pool.execute(lease, "SELECT count(*) FROM pg_prepared_statements WHERE name <> 'pqpool_check'")
                        .value()) <= 2);

    SECTION("evictions wait for the end of a transaction, and do not fail it") {
        REQUIRE(pool.execute(lease, "BEGIN").status == PQPOOL_OK);
        for (int i = 0; i < 5; i++)
            for (int use = 0; use < 2; use++)
                CHECK(pool.execute(lease, ("SELECT " + std::to_string(i) + " /* cached too */").c_str()).value() ==
                      std::to_string(i));
        REQUIRE(pool.execute(lease, "COMMIT").status == PQPOOL_OK);
        CHECK(pool.execute(lease, "SELECT 1").status == PQPOOL_OK);
        CHECK(std::stoi(pool.execute(lease, "SELECT count(*) FROM pg_prepared_statements WHERE name <> 'pqpool_check'")
                            .value()) <= 2);
    }
    CHECK(pool.release(lease) == PQPOOL_OK);
}

TEST_CASE("with_a_cache_of_none_the_server_keeps_nothing", "[statement cache]") {
    Pool pool({{"min_size", "1"}, {"max_size", "1"}, {"statement_cache_size", "0"}});
    for (int i = 0; i < 4; i++) CHECK(pool.run("SELECT $1::text", {text("x")}).value() == "x");
    const auto lease = pool.acquire();
    for (int i = 0; i < 4; i++)
        CHECK(pool.execute(lease, "SELECT count(*) FROM pg_prepared_statements", {}, PQPOOL_AUTOMATIC).value() == "0");
    CHECK(pool.execute(lease, "SELECT pg_sleep(30)", {}, PQPOOL_TEXT, 50).status == PQPOOL_STATEMENT_TIMEOUT);
    CHECK(pool.execute(lease, "SELECT 2").value() == "2");
    CHECK(pool.release(lease) == PQPOOL_OK);
}
