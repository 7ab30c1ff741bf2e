#include "core/named.hpp"

#include <catch2/catch.hpp>

using namespace pqpool;

namespace {

Statement statement(std::string_view sql, std::vector<std::uint32_t> types = {}) {
    std::vector<Parameter> parameters;
    for (const auto type : types) parameters.push_back({.type = type});
    Statement made;
    made.assign(sql, parameters.data(), parameters.size(), ResultFormat::text);
    return made;
}

}  // namespace

TEST_CASE("a_statements_name_is_made_from_its_text_and_types", "[named]") {
    NamedStatements one(10), other(10);
    const auto name = [](NamedStatements& names, const Statement& s) { return names.look_up(s)->name; };
    const std::string first = name(one, statement("SELECT $1", {23}));
    CHECK(first == name(other, statement("SELECT $1", {23})));
    CHECK(first != name(one, statement("SELECT $1", {20})));
    CHECK(first != name(one, statement("SELECT $1", {23, 23})));
    CHECK(first != name(one, statement("SELECT  $1", {23})));
    CHECK(first.size() == 7 + 32);  // PostgreSQL keeps 63 bytes of a name
    // The same in every version of the library, because servers behind poolers remember.
    CHECK(name_of_statement("SELECT 1") == "pqpool_e004ebd5b5532a4b85984a62f8ad48a8");
}

TEST_CASE("the_least_recently_used_statement_gives_way", "[named]") {
    NamedStatements names(2);
    for (const char* sql : {"SELECT 1", "SELECT 2", "SELECT 1", "SELECT 3"})
        names.look_up(statement(sql))->on_server = true;
    CHECK(names.take_discarded() == std::vector<std::string>{name_of_statement(statement("SELECT 2").key())});
    CHECK(names.look_up(statement("SELECT 1"))->on_server);
    CHECK(names.take_discarded().empty());
}

TEST_CASE("a_statement_that_comes_back_before_the_server_was_told_is_still_there", "[named]") {
    NamedStatements names(1);
    names.look_up(statement("SELECT 1"))->on_server = true;
    names.look_up(statement("SELECT 2"));  // was never on the server
    NamedStatement& back = *names.look_up(statement("SELECT 1"));
    CHECK(back.on_server);
    CHECK_FALSE(back.described);
    CHECK(names.take_discarded().empty());
}

TEST_CASE("what_the_server_forgot_is_not_removed_again", "[named]") {
    NamedStatements names(1);
    NamedStatement& first = *names.look_up(statement("SELECT 1"));
    first.on_server = first.described = true;
    names.discard(first);
    CHECK_FALSE(first.on_server);
    names.forget_all();
    CHECK(names.take_discarded().empty());
    CHECK_FALSE(names.look_up(statement("SELECT 1"))->described);
}

TEST_CASE("a_name_that_is_missing_twice_is_used_no_longer", "[named]") {
    NamedStatements names(1);
    NamedStatement& one = *names.look_up(statement("SELECT 1"));
    one.miss();
    CHECK_FALSE(one.unnamed);
    one.miss();
    CHECK(one.unnamed);
}

TEST_CASE("with_a_capacity_of_none_nothing_is_kept", "[named]") {
    NamedStatements names(0);
    CHECK(names.look_up(statement("SELECT 1")) == nullptr);
    CHECK_FALSE(names.keeps_any());
}
