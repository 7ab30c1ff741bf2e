#include <catch2/catch.hpp>
#include <cstring>

#include "core/wire/statement.hpp"

using namespace pqpool;

namespace {

struct Case {
    const char* sql;
    bool ordinary;
    std::uint16_t dirt;
};

constexpr bool kOrdinary = true, kOther = false;
constexpr std::uint16_t kSetting = kDirtSettings | kDirtRole | kDirtDefaults | kDirtSeed;
constexpr std::uint16_t kCall = kSetting | kDirtAdvisory | kDirtSequences | kDirtSlots;

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
        {"-- a comment\rSELECT 1", kOrdinary, 0},
        {"--\rSET work_mem = '8MB'", kOther, kDirtSettings},
        {"/* one /* within */ another */ SELECT 1", kOrdinary, 0},
        // What changes data, or runs alone.
        {"INSERT INTO t VALUES (1)", kOther, 0},
        {"UPDATE t SET a = 1", kOther, 0},
        {"DELETE FROM t", kOther, 0},
        {"MERGE INTO t USING s ON true WHEN MATCHED THEN DO NOTHING", kOther, 0},
        {"WITH x AS (INSERT INTO t VALUES (1) RETURNING *) SELECT * FROM x", kOther, 0},
        {"WITH x AS (SELECT 1) DELETE FROM t USING x", kOther, 0},
        {"SELECT 1 INTO t", kOther, kDirtTemp},
        {"SELECT * FROM t FOR SHARE", kOther, 0},
        {"SELECT * FROM t FOR NO KEY UPDATE", kOther, 0},
        {"'x' SELECT 1", kOther, 0},
        {"\"select\" 1", kOther, 0},
        {"SELECT * FROM t FOR UPDATE", kOther, 0},
        {"BEGIN", kOther, 0},
        {"COMMIT", kOther, 0},
        {"VACUUM t", kOther, 0},
        {"EXPLAIN ANALYZE DELETE FROM t", kOther, 0},
        {"SHOW work_mem", kOther, 0},
        {"CREATE TABLE t (i int)", kOther, kDirtTemp},  // the search path may begin with pg_temp
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
        {"SELECT 1 AS e, 'x\\', pg_advisory_lock(1)", kOther, kDirtAdvisory},
        {"SELECT temp, temporary, hold, role FROM t", kOrdinary, 0},
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
        {"SELECT set_config('a.b', 'c', false)", kOther, kDirtSettings},
        {"SELECT pg_catalog.set_config($1, $2, $3)", kOther, kSetting},
        {"SET \"role\" = somebody", kOther, kDirtSettings | kDirtRole},
        {"SET U&\"r\\006fle\" = somebody", kOther, kDirtSettings | kDirtRole},
        {"SET U&\"r!006fle\" UESCAPE '!' = somebody", kOther, kDirtSettings | kDirtRole},
        {"SET session_authorization = somebody", kOther, kDirtSettings | kDirtRole},
        {"SET SESSION Session_Authorization TO somebody", kOther, kDirtSettings | kDirtRole},
        {"SET \"default_transaction_read_only\" = on", kOther, kDirtSettings | kDirtDefaults},
        {"SET SESSION/**/CHARACTERISTICS AS TRANSACTION READ ONLY", kOther, kDirtSettings | kDirtDefaults},
        {"SET LOCAL \"work_mem\" = '8MB'", kOther, 0},
        {"SET LOCAL ROLE somebody", kOther, 0},
        {"SET CONSTRAINTS \"c\" DEFERRED", kOther, 0},
        {"SET local.x = 'y'", kOther, kDirtSettings},
        {"SET local . x = 'y'", kOther, kDirtSettings},
        {"SET transaction.x TO 'y'", kOther, kDirtSettings},
        {"SET constraints.x TO 'y'", kOther, kDirtSettings},
        {"SET \"local\" = 'y'", kOther, kDirtSettings},
        {"SET local TO 'y'", kOther, kDirtSettings},
        {"SELECT \"set_config\"($1, $2, $3)", kOther, kSetting},
        {"SELECT U&\"set\\005fconfig\"($1, $2, $3)", kOther, kSetting},
        {"SELECT U&\"set\\+00005fconfig\"($1, $2, $3)", kOther, kSetting},
        {"SELECT u&\"set?005fconfig\" -- so\n uescape '?' ($1, $2, $3)", kOther, kSetting},
        {"SELECT U&\"set?005fconfig\" UESCAPE E'\\x3f' ($1, $2, $3)", kOther, kCall},  // who knows
        {"SELECT set_config /* so */ ('a.b', 'c', false)", kOther, kDirtSettings},
        {"SELECT SET_CONFIG('a.b', 'c', false)", kOther, kDirtSettings},
        {"SELECT \"SET_CONFIG\" FROM t", kOrdinary, 0},
        {"SELECT \"set_\"\"config\" FROM t", kOrdinary, 0},
        {"SELECT '\\', set_config($1, $2, $3) --'", kOther, kSetting},  // each is what one kind of session reads
        {"SELECT '\\' -- ', set_config($1, $2, $3)", kOther, kSetting},
        {"SELECT E'\\' -- set_config'", kOrdinary, 0},
        {"SELECT set_config('Role', 'x', false)", kOther, kDirtSettings | kDirtRole},
        {"SELECT set_config('session_authorization', 'x', false)", kOther, kDirtSettings | kDirtRole},
        {"SELECT set_config('seed', '0.5', false)", kOther, kDirtSettings | kDirtSeed},
        {"SELECT set_config('DEFAULT_transaction_isolation', $1, false)", kOther, kDirtSettings | kDirtDefaults},
        {"SELECT set_config(-- so\n'work_mem'/* */, $1, false)", kOther, kDirtSettings},
        {"SELECT set_config('ro' || 'le', 'x', false)", kOther, kSetting},
        {"SELECT set_config('ro'\n'le', 'x', false)", kOther, kSetting},
        {"SELECT set_config(E'rol\\x65', 'x', false)", kOther, kSetting},
        {"SELECT set_config('rol\\x65', 'x', false)", kOther, kSetting},
        {"SELECT set_config($$role$$, 'x', false)", kOther, kSetting},
        {"SELECT set_config(setting_name => 'role', new_value => 'x', is_local => false)", kOther, kSetting},
        {"SELECT set_config('a.b', 'c', false), set_config('role', 'x', false)", kOther, kDirtSettings | kDirtRole},
        {"SET LOCAL seed = 0.5", kOther, kDirtSeed},
        {"SET seed = 0.5", kOther, kDirtSettings | kDirtSeed},
        {"SET SESSION \"seed\" TO 0.5", kOther, kDirtSettings | kDirtSeed},
        {"UPDATE pg_settings SET setting = 'x' WHERE name = 'y'", kOther, kSetting},
        {"UPDATE pg_catalog.\"pg_settings\" SET setting = 'x'", kOther, kSetting},
        {"WITH x AS (UPDATE pg_settings SET setting = 'x' RETURNING 1) TABLE x", kOther, kSetting},
        {"SELECT * FROM pg_settings", kOrdinary, 0},
        {"SELECT query_to_xml($1, true, true, '')", kOther, kCall},
        {"SELECT * FROM ts_stat($1)", kOther, kCall},
        {"SELECT setseed(0.5)", kOther, kDirtSeed},
        {"SELECT pg_replication_origin_session_setup('o')", kOther, kDirtOrigin},
        {"SELECT pg_create_physical_replication_slot('s', true, true)", kOther, kDirtSlots},
        {"SELECT nextval('s')", kOther, kDirtSequences},
        {"SELECT \"setval\"('s', 1)", kOther, kDirtSequences},
        {"SELECT currval('s'), lastval()", kOrdinary, 0},
        {"EXECUTE p", kOther, kCall},
        {"EXPLAIN ANALYZE EXECUTE p", kOther, kCall},
        {"EXPLAIN ANALYZE CREATE TEMP TABLE t AS SELECT 1", kOther, kDirtTemp},
        {"EXPLAIN (ANALYZE) SELECT 1 INTO TEMP t", kOther, kDirtTemp},
        {"CREATE TABLE t AS EXECUTE p", kOther, kDirtTemp | kCall},
        {"GRANT EXECUTE ON FUNCTION f TO somebody", kOther, 0},
        {"CREATE TABLE pg_temp_3.t (i int)", kOther, kDirtTemp},
        {"CREATE OR REPLACE TEMP VIEW v AS SELECT 1", kOther, kDirtTemp},
        {"CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'", kOther, kDirtTemp},
        {"WITH x AS (INSERT INTO t VALUES (1) RETURNING *) SELECT * INTO u FROM x", kOther, kDirtTemp},
        {"LISTEN channel", kOther, kDirtListen},
        {"UNLISTEN channel", kOther, 0},
        {"NOTIFY channel", kOther, 0},
        {"DECLARE c CURSOR FOR SELECT 1", kOther, 0},
        {"DECLARE c CURSOR WITH HOLD FOR SELECT 1", kOther, kDirtCursor},
        {"PREPARE p AS SELECT 1", kOther, kDirtPrepared},
        {"PREPARE p AS UPDATE pg_settings SET setting = 'x'", kOther, kDirtPrepared | kSetting},
        {"PREPARE TRANSACTION 'x'", kOther, 0},
        {"PREPARE transaction AS SELECT 1", kOther, kDirtPrepared},
        {"PREPARE transaction (int) AS SELECT 1", kOther, kDirtPrepared},
        {"PREPARE \"transaction\" AS SELECT 1", kOther, kDirtPrepared},
        {"CREATE TEMP TABLE t (i int)", kOther, kDirtTemp},
        {"CREATE TEMPORARY VIEW v AS SELECT 1", kOther, kDirtTemp},
        {"CREATE TABLE pg_temp.t (i int)", kOther, kDirtTemp},
        {"SELECT 1 INTO TEMP t", kOther, kDirtTemp},
        {"SELECT pg_advisory_lock(1)", kOther, kDirtAdvisory},
        {"SELECT pg_try_advisory_lock_shared(1)", kOther, kDirtAdvisory},
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
    CHECK(classify("-- a comment\rCOPY t TO STDOUT").copy);
    CHECK(classify("SELECT E'it''s \\'; COPY t TO STDOUT; --'").copy == false);
    CHECK_FALSE(classify("SELECT 'copy'").copy);
    CHECK(classify("DEALLOCATE ALL").forgets_prepared);
    CHECK(classify("DISCARD ALL").forgets_prepared);
    CHECK(classify("deallocate prepare all").forgets_prepared);
    CHECK(classify("DEALLOCATE pqpool_check").forgets_prepared);
    CHECK(classify("DEALLOCATE PREPARE \"pqpool_1\"").forgets_prepared);
    CHECK_FALSE(classify("PREPARE p AS SELECT 1").forgets_prepared);
    CHECK_FALSE(classify("DEALLOCATE p").forgets_prepared);
    CHECK_FALSE(classify("DEALLOCATE \"all\"").forgets_prepared);
    CHECK_FALSE(classify("DISCARD PLANS").forgets_prepared);
}

TEST_CASE("what_changes_settings_is_told_though_it_ends_with_the_transaction", "[statement]") {
    for (const char* sql : {"SET LOCAL work_mem = '8MB'", "SET LOCAL \"work_mem\" = 1", "SET work_mem = 1", "RESET ALL",
                            "SET local.x = 1", "SELECT set_config('a.b', 'c', true)", "BEGIN; SET LOCAL x.y = 1"}) {
        INFO(sql);
        CHECK(classify(sql).changes_settings);
    }
    for (const char* sql :
         {"SET TRANSACTION READ ONLY", "SET CONSTRAINTS ALL DEFERRED", "SELECT 1", "CREATE TABLE t ()"}) {
        INFO(sql);
        CHECK_FALSE(classify(sql).changes_settings);
    }
}

TEST_CASE("the_greatest_number_of_a_parameter_is_told", "[statement]") {
    CHECK(classify("SELECT 1").parameters == 0);
    CHECK(classify("SELECT $1, $3::int, $2").parameters == 3);
    CHECK(classify("SELECT ($12), a$13, \"$14\", '$15', $$ $16 $$, $a$ $17 $a$ -- $18\n /* $19 */").parameters == 12);
    CHECK(classify("SELECT $02+$1").parameters == 2);
    CHECK(classify("SELECT 1; SELECT $1").parameters == 1);
    CHECK(classify("SELECT $99999999999999999999").parameters > 65535);
    CHECK(classify("CREATE FUNCTION f(int) RETURNS int BEGIN ATOMIC SELECT $1; END").parameters == 1);
    // With standard_conforming_strings off the string ends later, and the parameter stands outside of it.
    CHECK(classify(R"(SELECT 'it\'s', $1 WHERE a = 'b')").parameters == 1);
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
    REQUIRE(statement.count() == 3);
    const ParameterValue* values = statement.values();
    CHECK(std::string_view(values[0].data, 3) == "one");
    CHECK(values[0].length == 3);
    CHECK_FALSE(values[0].binary);
    CHECK(std::memcmp(values[1].data, bytes, 3) == 0);
    CHECK(values[1].length == 3);
    CHECK(values[1].binary);
    CHECK(values[2].data == nullptr);
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

TEST_CASE("a_script_leaves_behind_what_its_statements_leave", "[statement]") {
    CHECK(classify("SELECT 1; SET work_mem = '1MB'").dirt == kDirtSettings);
    CHECK(classify("CREATE TEMP TABLE t (i int); LISTEN x").dirt == (kDirtTemp | kDirtListen));
    CHECK(classify("SELECT 1; DEALLOCATE ALL").forgets_prepared);
    CHECK(classify("SELECT 1; COPY t TO STDOUT").copy);
    CHECK_FALSE(classify("SELECT 1; SELECT 2").ordinary);
    CHECK(classify("SELECT 1;").ordinary);
}
