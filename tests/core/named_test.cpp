#include "core/wire/named.hpp"

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
    one.described = one.on_server = true;
    one.form = NamedStatement::Form::text;
    one.miss();
    CHECK_FALSE((one.on_server || one.described));
    CHECK(one.form == NamedStatement::Form::unknown);  // another server's may be other ones
    CHECK_FALSE(one.unnamed);
    one.miss();
    CHECK(one.unnamed);
}

TEST_CASE("with_a_capacity_of_none_nothing_is_kept", "[named]") {
    NamedStatements names(0);
    CHECK(names.look_up(statement("SELECT 1")) == nullptr);
    CHECK_FALSE(names.keeps_any());
}

TEST_CASE("the_hash_is_sha_256_whatever_the_length", "[named]") {
    const std::pair<std::size_t, const char*> known[] = {
        {0, "e3b0c44298fc1c149afbf4c8996fb924"},    {1, "2d711642b726b04401627ca9fbac32f5"},
        {55, "d5e285683cd4efc02d021a5c62014694"},   {56, "04c26261370ee7541549d16dee320c72"},
        {63, "75220b47218278e656f2013bb8f0c455"},   {64, "7ce100971f64e7001e8fe5a51973ecdf"},
        {119, "000b48d4edf0fa7bee3c6236ecd2785b"},  {120, "13f05a0b594787f5ecd315edc96141bd"},
        {1000, "44f8354494a5ba03ba1792a8d3e9c534"},
    };
    for (const auto& [length, digits] : known)
        CHECK(name_of_statement(std::string(length, 'x')) == std::string("pqpool_") + digits);
}
