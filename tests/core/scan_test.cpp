#include <catch2/catch.hpp>

#include "core/wire/statement.hpp"

using namespace pqpool;

TEST_CASE("a_script_is_split_at_the_semicolons_that_end_a_statement", "[scan]") {
    using Pieces = std::vector<std::string_view>;
    const struct {
        const char* sql;
        Pieces pieces;
    } cases[] = {
        {"", {}},
        {" ; ;\n-- nothing\n;/* nothing */", {}},
        {"SELECT 1; /* unfinished", {"SELECT 1", " /* unfinished"}},
        {"/* /* */ unfinished;", {"/* /* */ unfinished;"}},
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
        {"CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1 AS end; SELECT 2 end; END; SELECT 3",
         {"CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1 AS end; SELECT 2 end; END", " SELECT 3"}},
        {"CREATE FUNCTION f(begin int) RETURNS int BEGIN ATOMIC; /* ; */ END; SELECT 3",
         {"CREATE FUNCTION f(begin int) RETURNS int BEGIN ATOMIC; /* ; */ END", " SELECT 3"}},
        {"CREATE FUNCTION begin() RETURNS int LANGUAGE sql AS 'SELECT 1'; SELECT 2",
         {"CREATE FUNCTION begin() RETURNS int LANGUAGE sql AS 'SELECT 1'", " SELECT 2"}},
        {"CREATE PROCEDURE case() BEGIN ATOMIC END; SELECT 2",
         {"CREATE PROCEDURE case() BEGIN ATOMIC END", " SELECT 2"}},
        {"SELECT 1 -- one\r; SELECT 2 -- two;\n; SELECT 3", {"SELECT 1 -- one\r", " SELECT 2 -- two;\n", " SELECT 3"}},
        {"SELECT E'it''s \\'; y', 'it''s \\'; SELECT 2", {"SELECT E'it''s \\'; y', 'it''s \\'", " SELECT 2"}},
        {"SELECT e'a'\n'\\';', e'a' '\\'; SELECT 2", {"SELECT e'a'\n'\\';', e'a' '\\'", " SELECT 2"}},
        {"SELECT e'a' -- b'\r\t-- c\n'\\';'; SELECT 2", {"SELECT e'a' -- b'\r\t-- c\n'\\';'", " SELECT 2"}},
        {"SELECT e'a' /* b */\n'\\'; SELECT 2", {"SELECT e'a' /* b */\n'\\'", " SELECT 2"}},
        {"SELECT U&'\\'; SELECT x'\\'; SELECT n'\\'; SELECT ne'\\'",
         {"SELECT U&'\\'", " SELECT x'\\'", " SELECT n'\\'", " SELECT ne'\\'"}},
        {"SELECT a$b$; SELECT $1$b$;$b$; SELECT 1$b$;$b$; SELECT $1a$;$1a$",
         {"SELECT a$b$", " SELECT $1$b$;$b$", " SELECT 1$b$;$b$", " SELECT $1a$", "$1a$"}},
        {"SELECT 2 *-- ;\n 3; SELECT 2 */* ; */ 3; SELECT 1 <--;\n 2",
         {"SELECT 2 *-- ;\n 3", " SELECT 2 */* ; */ 3", " SELECT 1 <--;\n 2"}},
    };
    for (const auto& one : cases) {
        INFO(one.sql);
        CHECK(split_script(one.sql) == one.pieces);
        CHECK(classify(one.sql).script == (one.pieces.size() > 1));
        for (const auto piece : one.pieces) CHECK(split_script(piece) == Pieces{piece});
    }
}

TEST_CASE("a_long_text_is_read_in_a_bounded_depth_and_in_linear_time", "[scan]") {
    for (const char* one : {"U&\"a\"", "U&\"a\" UESCAPE ", "set_config(", "E'a'\n'b'--\n", "/* ", "/**/", "$a$ $b",
                            "((", "''", "CREATE FUNCTION f() BEGIN ATOMIC ", ";"}) {
        INFO(one);
        std::string sql;
        while (sql.size() < 3'000'000) sql += one;
        classify(sql);
        split_script(sql);
    }
}
