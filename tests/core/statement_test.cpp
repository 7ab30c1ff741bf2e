#include <catch2/catch.hpp>
#include <cstring>

#include "core/statement.hpp"

using namespace pqpool;

namespace {

struct Case {
    const char* sql;
    bool ordinary;
    std::uint16_t dirt;
};

constexpr bool kOrdinary = true, kOther = false;

}  // namespace

TEST_CASE("a_statement_is_classified_by_its_keywords", "[statement]") {
    const Case cases[] = {
        // What may share its Sync with the validation in front of it.
        {"SELECT 1", kOrdinary, 0},
        {"select 1", kOrdinary, 0},
        {"  \n\t SELECT 1", kOrdinary, 0},
        {"(SELECT 1) UNION (SELECT 2)", kOrdinary, 0},
        {"VALUES (1), (2)", kOrdinary, 0},
        {"TABLE t", kOrdinary, 0},
        {"WITH x AS (SELECT 1) SELECT * FROM x", kOrdinary, 0},
        {"-- a comment\nSELECT 1", kOrdinary, 0},
        {"/* one /* within */ another */ SELECT 1", kOrdinary, 0},
        // What changes data, or runs alone.
        {"INSERT INTO t VALUES (1)", kOther, 0},
        {"UPDATE t SET a = 1", kOther, 0},
        {"DELETE FROM t", kOther, 0},
        {"MERGE INTO t USING s ON true WHEN MATCHED THEN DO NOTHING", kOther, 0},
        {"WITH x AS (INSERT INTO t VALUES (1) RETURNING *) SELECT * FROM x", kOther, 0},
        {"WITH x AS (SELECT 1) DELETE FROM t USING x", kOther, 0},
        {"SELECT 1 INTO t", kOther, 0},
        {"SELECT * FROM t FOR UPDATE", kOther, 0},
        {"BEGIN", kOther, 0},
        {"COMMIT", kOther, 0},
        {"VACUUM t", kOther, 0},
        {"EXPLAIN ANALYZE DELETE FROM t", kOther, 0},
        {"SHOW work_mem", kOther, 0},
        {"CREATE TABLE t (i int)", kOther, 0},
        {"", kOther, 0},
        {"-- nothing else", kOther, 0},
        // Words within literals, names and comments are no keywords.
        {"SELECT 'insert into t'", kOrdinary, 0},
        {"SELECT 'it''s', 'set_config'", kOrdinary, 0},
        {"SELECT E'\\'', 'x' -- pg_advisory_lock(1)", kOrdinary, 0},
        {"SELECT E'\\' insert ', 1", kOrdinary, 0},
        {"SELECT \"delete\" FROM t", kOrdinary, 0},
        {"SELECT $$ update $$", kOrdinary, 0},
        {"SELECT $tag$ $$ delete $$ $tag$", kOrdinary, 0},
        {"SELECT $1, $2 FROM t", kOrdinary, 0},
        {"SELECT 1 /* INSERT */", kOrdinary, 0},
        {"SELECT inserted, updates FROM t", kOrdinary, 0},
        {"SELECT 'unfinished insert", kOrdinary, 0},
        {"SELECT $$ unfinished insert", kOrdinary, 0},
        {"SELECT 1 /* unfinished insert", kOrdinary, 0},
        {"SELECT a$b$ FROM t FOR UPDATE", kOther, 0},
        {"SELECT 1 AS e, 'x\\', pg_advisory_lock(1)", kOrdinary, kDirtAdvisory},
        // What stays behind in the session.
        {"SET work_mem = '8MB'", kOther, kDirtSettings},
        {"SET SESSION work_mem = '8MB'", kOther, kDirtSettings},
        {"SET search_path TO a, b", kOther, kDirtSettings},
        {"SET TIME ZONE 'UTC'", kOther, kDirtSettings},
        {"SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", kOther, kDirtSettings | kDirtDefaults},
        {"SET default_transaction_read_only = on", kOther, kDirtSettings | kDirtDefaults},
        {"SET SESSION default_transaction_isolation TO serializable", kOther, kDirtSettings | kDirtDefaults},
        {"SET ROLE somebody", kOther, kDirtSettings | kDirtRole},
        {"SET SESSION AUTHORIZATION somebody", kOther, kDirtSettings | kDirtRole},
        {"SET LOCAL work_mem = '8MB'", kOther, 0},
        {"SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", kOther, 0},
        {"SET CONSTRAINTS ALL DEFERRED", kOther, 0},
        {"RESET ALL", kOther, kDirtSettings},
        {"DISCARD ALL", kOther, kDirtSettings},
        {"SELECT set_config('a.b', 'c', false)", kOrdinary, kDirtSettings | kDirtRole},
        {"SELECT pg_catalog.set_config($1, $2, $3)", kOrdinary, kDirtSettings | kDirtRole},
        {"LISTEN channel", kOther, kDirtListen},
        {"UNLISTEN channel", kOther, 0},
        {"NOTIFY channel", kOther, 0},
        {"DECLARE c CURSOR FOR SELECT 1", kOther, 0},
        {"DECLARE c CURSOR WITH HOLD FOR SELECT 1", kOther, kDirtCursor},
        {"PREPARE p AS SELECT 1", kOther, kDirtPrepared},
        {"PREPARE TRANSACTION 'x'", kOther, 0},
        {"CREATE TEMP TABLE t (i int)", kOther, kDirtTemp},
        {"CREATE TEMPORARY VIEW v AS SELECT 1", kOther, kDirtTemp},
        {"CREATE TABLE pg_temp.t (i int)", kOther, kDirtTemp},
        {"SELECT 1 INTO TEMP t", kOther, kDirtTemp},
        {"SELECT pg_advisory_lock(1)", kOrdinary, kDirtAdvisory},
        {"SELECT pg_try_advisory_lock_shared(1)", kOrdinary, kDirtAdvisory},
        {"SELECT pg_advisory_xact_lock(1)", kOrdinary, 0},
        {"DO 'BEGIN NULL; END'", kOther, kDirtAll},
        {"CALL p()", kOther, kDirtAll},
        {"LOAD 'plpgsql'", kOther, kDirtAll},
    };
    for (const auto& expected : cases) {
        INFO(expected.sql);
        const auto traits = classify(expected.sql);
        CHECK(traits.ordinary == expected.ordinary);
        CHECK(traits.dirt == expected.dirt);
    }
}

TEST_CASE("copy_and_what_forgets_prepared_statements_are_told", "[statement]") {
    CHECK(classify("COPY t FROM STDIN").copy);
    CHECK(classify("copy (select 1) to stdout").copy);
    CHECK_FALSE(classify("SELECT 'copy'").copy);
    CHECK(classify("DEALLOCATE ALL").forgets_prepared);
    CHECK(classify("DISCARD ALL").forgets_prepared);
    CHECK_FALSE(classify("PREPARE p AS SELECT 1").forgets_prepared);
}

TEST_CASE("a_statement_owns_copies_of_what_it_was_given", "[statement]") {
    Statement statement;
    std::string sql = "SELECT $1, $2, $3";
    std::string one = "one";
    const char bytes[] = {'a', 0, 'b'};
    const Parameter parameters[] = {
        {.value = one.c_str()}, {.type = 17, .binary = true, .length = 3, .value = bytes}, {.type = 25}};
    statement.assign(sql, parameters, 3, ResultFormat::binary);
    sql = one = "overwritten";
    CHECK(statement.text() == "SELECT $1, $2, $3");
    CHECK(std::string(statement.sql()) == "SELECT $1, $2, $3");
    REQUIRE(statement.count() == 3);
    CHECK(std::string(statement.values()[0]) == "one");
    CHECK(std::memcmp(statement.values()[1], bytes, 3) == 0);
    CHECK(statement.lengths()[1] == 3);
    CHECK(statement.formats()[0] == 0);
    CHECK(statement.formats()[1] == 1);
    CHECK(statement.values()[2] == nullptr);
    CHECK(statement.format() == ResultFormat::binary);

    SECTION("used again, nothing of before is left") {
        statement.assign("SELECT 1", nullptr, 0, ResultFormat::text);
        CHECK(statement.count() == 0);
        CHECK(statement.text() == "SELECT 1");
    }
}

TEST_CASE("statements_share_a_key_where_text_and_types_are_the_same", "[statement]") {
    const auto key_of = [](std::string_view sql, std::vector<Parameter> parameters) {
        Statement statement;
        statement.assign(sql, parameters.data(), parameters.size(), ResultFormat::text);
        return std::string(statement.key());
    };
    CHECK(key_of("SELECT $1", {{.type = 23, .value = "1"}}) == key_of("SELECT $1", {{.type = 23, .value = "2"}}));
    CHECK(key_of("SELECT $1", {{.type = 23}}) != key_of("SELECT $1", {{.type = 25}}));
    CHECK(key_of("SELECT $1", {{.type = 23}}) != key_of("SELECT $1 ", {{.type = 23}}));
}

TEST_CASE("a_script_is_split_at_the_semicolons_that_end_a_statement", "[statement]") {
    using Pieces = std::vector<std::string_view>;
    const struct {
        const char* sql;
        Pieces pieces;
    } cases[] = {
        {"", {}},
        {" ; ;\n-- nothing\n;/* nothing */", {}},
        {"SELECT 1", {"SELECT 1"}},
        {"SELECT 1;", {"SELECT 1"}},
        {"SELECT 1; -- the end\n", {"SELECT 1"}},
        {"SELECT 1;SELECT 2", {"SELECT 1", "SELECT 2"}},
        {"SELECT 1;;SELECT 2;", {"SELECT 1", "SELECT 2"}},
        {"SELECT ';', E'\\';', \"a;b\", $$;$$, $x$;$$;$x$ -- ;\n/* ; /* ; */ ; */;+",
         {"SELECT ';', E'\\';', \"a;b\", $$;$$, $x$;$$;$x$ -- ;\n/* ; /* ; */ ; */", "+"}},
        {"'x';\"y\";$$z$$", {"'x'", "\"y\"", "$$z$$"}},
        {"CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2); SELECT 3",
         {"CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2)", " SELECT 3"}},
        {"create or replace procedure p() begin atomic select case when true then 1 end; select 2; end; SELECT 3",
         {"create or replace procedure p() begin atomic select case when true then 1 end; select 2; end", " SELECT 3"}},
        {"CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END",
         {"CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END"}},
        {"BEGIN; SELECT 1; END; SELECT 2", {"BEGIN", " SELECT 1", " END", " SELECT 2"}},
        {"CREATE TABLE function (begin int); SELECT 1", {"CREATE TABLE function (begin int)", " SELECT 1"}},
        {"SELECT 1) ; SELECT 2", {"SELECT 1) ", " SELECT 2"}},
    };
    for (const auto& one : cases) {
        INFO(one.sql);
        CHECK(split_script(one.sql) == one.pieces);
        CHECK(classify(one.sql).script == (one.pieces.size() > 1));
    }
}

TEST_CASE("a_script_leaves_behind_what_its_statements_leave", "[statement]") {
    CHECK(classify("SELECT 1; SET work_mem = '1MB'").dirt == kDirtSettings);
    CHECK(classify("CREATE TEMP TABLE t (i int); LISTEN x").dirt == (kDirtTemp | kDirtListen));
    CHECK(classify("SELECT 1; DEALLOCATE ALL").forgets_prepared);
    CHECK(classify("SELECT 1; COPY t TO STDOUT").copy);
    CHECK_FALSE(classify("SELECT 1; SELECT 2").ordinary);
    CHECK(classify("SELECT 1;").ordinary);
}
