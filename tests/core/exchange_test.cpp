#include "core/wire/exchange.hpp"

#include <catch2/catch.hpp>
#include <map>

#include "tests/core/wire_messages.hpp"

using namespace pqpool;
using namespace pqpool::test;

namespace {

using Meaning = Exchange::Meaning;

// Each message once, in its right form.
const std::map<char, std::string>& all_messages() {
    static const std::map<char, std::string> all = [] {
        std::map<char, std::string> made;
        for (const auto& one : {parse_complete(),
                                bind_complete(),
                                close_complete(),
                                parameter_types({23}),
                                no_data(),
                                columns({{"n"}}),
                                row({"7"}),
                                complete("SELECT 1"),
                                message('I'),
                                message('s'),
                                ready(),
                                error("22012"),
                                message('G', std::string(3, '\0')),
                                message('H', std::string(3, '\0')),
                                message('W', std::string(3, '\0')),
                                message('d', "x"),
                                message('c'),
                                message('V', int32(-1)),
                                message('R', int32(0)),
                                message('K', int32(1) + int32(2)),
                                message('v', int32(0) + int32(0)),
                                message('?'),
                                message('\0'),
                                message('N', std::string(1, '\0')),
                                message('S', text("a") + text("b")),
                                message('A', int32(1) + text("a") + text("b"))})
            made[one[0]] = one;
        return made;
    }();
    return all;
}

Meaning take(Exchange& exchange, const std::string& bytes) {
    return exchange.take({bytes[0], std::string_view(bytes).substr(5)});
}

// What an item takes where it stands after the messages before; everything else is refused.
void takes_only(Purpose purpose, Steps steps, const std::string& before, const std::map<char, Meaning>& fitting) {
    for (const auto& [tag, bytes] : all_messages()) {
        Exchange exchange;
        exchange.expect(purpose, steps);
        exchange.expect(Purpose::sync, kSync);
        for (const char one : before) take(exchange, all_messages().at(one));
        INFO("after '" << before << "' comes '" << tag << '\'');
        const auto found = fitting.find(tag);
        if (found == fitting.end()) {
            CHECK_THROWS_AS(take(exchange, bytes), ProtocolViolation);
        } else {
            CHECK(take(exchange, bytes) == found->second);
            CHECK(exchange.purpose() == purpose);
        }
    }
}

}  // namespace

TEST_CASE("an_item_takes_each_answer_in_its_place_and_nothing_else", "[exchange]") {
    constexpr auto part = Meaning::part, done = Meaning::done, failed = Meaning::failed;
    for (const Purpose purpose : {Purpose::reset, Purpose::check, Purpose::floats, Purpose::pid, Purpose::statement}) {
        constexpr Steps whole = kParse | kBind | kColumns | kRows;
        takes_only(purpose, whole, "", {{'1', part}, {'E', failed}});
        takes_only(purpose, whole, "1", {{'2', part}, {'E', failed}});
        takes_only(purpose, whole, "12", {{'T', part}, {'n', part}, {'E', failed}});
        takes_only(purpose, whole, "12T", {{'D', part}, {'C', done}, {'I', done}, {'E', failed}});
        takes_only(purpose, whole, "12TD", {{'D', part}, {'C', done}, {'I', done}, {'E', failed}});
        takes_only(purpose, whole, "12n", {{'C', done}, {'I', done}, {'E', failed}});
        takes_only(purpose, kBind | kColumns | kRows, "", {{'2', part}, {'E', failed}});
    }
    takes_only(Purpose::evict, kClose, "", {{'3', done}, {'E', failed}});
    takes_only(Purpose::prepare_check, kParse, "", {{'1', done}, {'E', failed}});
    constexpr Steps description = kParse | kParameters | kColumns;
    takes_only(Purpose::describe, description, "", {{'1', part}, {'E', failed}});
    takes_only(Purpose::describe, description, "1", {{'t', part}, {'E', failed}});
    takes_only(Purpose::describe, description, "1t", {{'T', done}, {'n', done}, {'E', failed}});
}

TEST_CASE("a_script_takes_its_statements_and_the_end_of_the_batch", "[exchange]") {
    constexpr auto part = Meaning::part, failed = Meaning::failed, before = Meaning::done_before;
    const std::map<char, Meaning> next = {{'T', part}, {'C', part}, {'I', part}, {'Z', before}, {'E', failed}};
    takes_only(Purpose::statement, kScript, "", {{'T', part}, {'C', part}, {'I', part}, {'E', failed}});
    takes_only(Purpose::statement, kScript, "T", {{'T', part}, {'D', part}, {'C', part}, {'I', part}, {'E', failed}});
    takes_only(Purpose::statement, kScript, "TD", {{'T', part}, {'D', part}, {'C', part}, {'I', part}, {'E', failed}});
    takes_only(Purpose::statement, kScript, "TDC", next);
    takes_only(Purpose::statement, kScript, "C", next);
    takes_only(Purpose::statement, kScript, "I", next);
    takes_only(Purpose::statement, kScript, "CTC", next);
}

TEST_CASE("a_sync_takes_its_answer_and_an_error_of_its_own", "[exchange]") {
    for (const auto& [tag, bytes] : all_messages()) {
        Exchange exchange;
        exchange.expect(Purpose::sync, kSync);
        INFO(tag);
        if (tag == 'Z') {
            CHECK(take(exchange, bytes) == Meaning::synced);
            CHECK(exchange.is_done());
        } else if (tag == 'E') {
            CHECK(take(exchange, bytes) == Meaning::failed);
            CHECK(exchange.purpose() == Purpose::sync);
            CHECK_THROWS_AS(take(exchange, bytes), ProtocolViolation);
        } else {
            CHECK_THROWS_AS(take(exchange, bytes), ProtocolViolation);
        }
    }
}

TEST_CASE("nothing_is_taken_where_nothing_is_due", "[exchange]") {
    for (const auto& [tag, bytes] : all_messages()) {
        Exchange exchange;
        CHECK(exchange.is_empty());
        CHECK(exchange.is_done());
        CHECK_THROWS_AS(take(exchange, bytes), ProtocolViolation);
        exchange.expect(Purpose::sync, kSync);
        CHECK_FALSE(exchange.is_done());
        take(exchange, ready('E'));
        CHECK(exchange.is_done());
        CHECK_FALSE(exchange.is_empty());
        CHECK(exchange.status() == TransactionStatus::failed);
        CHECK_THROWS_AS(take(exchange, bytes), ProtocolViolation);
    }
}

TEST_CASE("an_error_passes_over_all_up_to_the_sync_and_the_next_batch_is_whole", "[exchange]") {
    Exchange exchange;
    exchange.expect(Purpose::check, kBind | kColumns | kRows);
    exchange.expect(Purpose::statement, kBind | kColumns | kRows);
    exchange.expect(Purpose::sync, kSync);
    exchange.expect(Purpose::statement, kBind);
    exchange.expect(Purpose::sync, kSync);
    CHECK(exchange.ends_with_sync());
    CHECK(take(exchange, error("22012", "first")) == Meaning::failed);
    CHECK(exchange.purpose() == Purpose::check);
    CHECK(exchange.step() == kBind);
    CHECK(exchange.result().field('M') == std::string("first"));
    CHECK_THROWS_AS(take(exchange, error("22012")), ProtocolViolation);
    CHECK_THROWS_AS(take(exchange, bind_complete()), ProtocolViolation);
    CHECK(take(exchange, ready()) == Meaning::synced);
    CHECK_FALSE(exchange.is_done());
    CHECK(take(exchange, error("22012", "second")) == Meaning::failed);
    CHECK(exchange.purpose() == Purpose::statement);
    CHECK(take(exchange, ready('T')) == Meaning::synced);
    CHECK(exchange.is_done());
    CHECK(exchange.status() == TransactionStatus::open);
}

TEST_CASE("what_stands_before_a_sync_is_known", "[exchange]") {
    Exchange exchange;
    exchange.expect(Purpose::reset, kBind);
    exchange.expect(Purpose::sync, kSync);
    exchange.expect(Purpose::check, kBind);
    exchange.expect(Purpose::statement, kBind);
    exchange.expect(Purpose::sync, kSync);
    take(exchange, bind_complete());
    CHECK(exchange.is_since_sync(Purpose::reset));
    CHECK_FALSE(exchange.is_since_sync(Purpose::check));
    take(exchange, ready());
    CHECK_FALSE(exchange.is_since_sync(Purpose::reset));
    take(exchange, bind_complete());
    CHECK(exchange.is_since_sync(Purpose::check));
    CHECK_FALSE(exchange.is_since_sync(Purpose::statement));
    take(exchange, bind_complete());
    CHECK(exchange.is_since_sync(Purpose::check));
    CHECK(exchange.is_since_sync(Purpose::statement));
    CHECK_FALSE(exchange.is_since_sync(Purpose::reset));
}

TEST_CASE("columns_that_look_as_before_are_kept", "[exchange]") {
    std::shared_ptr<const Columns> kept;
    Exchange exchange;
    const auto describe = [&](const std::string& bytes) {
        exchange.clear();
        exchange.expect(Purpose::statement, kColumns, &kept);
        exchange.expect(Purpose::sync, kSync);
        take(exchange, bytes);
        return exchange.result().description();
    };
    const auto first = describe(columns({{"a"}}));
    CHECK(kept == first);
    CHECK(describe(columns({{"a"}})) == first);
    const auto second = describe(columns({{"b"}}));
    CHECK(second != first);
    CHECK(second->name(0) == std::string("b"));
    CHECK(kept == second);
    CHECK(describe(no_data()) == nullptr);
    CHECK(kept == second);
}

TEST_CASE("rows_that_are_not_described_have_the_columns_that_were_kept", "[exchange]") {
    std::shared_ptr<const Columns> kept;
    Exchange exchange;
    const auto begin = [&](Steps steps, std::shared_ptr<const Columns>* columns) {
        exchange.clear();
        exchange.expect(Purpose::statement, steps, columns);
        exchange.expect(Purpose::sync, kSync);
    };
    begin(kColumns | kRows, &kept);
    take(exchange, columns({{"a"}}));
    begin(kRows, &kept);
    CHECK(take(exchange, row({"7"})) == Meaning::part);
    CHECK(take(exchange, row({"8"})) == Meaning::part);
    CHECK(take(exchange, complete("SELECT 2")) == Meaning::done);
    CHECK(exchange.result().rows() == 2);
    CHECK(exchange.result().description() == kept);
    begin(kRows, &kept);
    CHECK_THROWS_AS(take(exchange, row({"7", "8"})), ProtocolViolation);
    begin(kRows, &kept);
    CHECK(take(exchange, complete("SELECT 0")) == Meaning::done);
    CHECK(exchange.result().columns() == 1);
    begin(kRows, nullptr);
    CHECK_THROWS_AS(take(exchange, row({})), ProtocolViolation);
    begin(kRows, &kept);
    CHECK(take(exchange, columns({{"b"}, {"c"}})) == Meaning::part);  // it speaks for itself
    CHECK(take(exchange, row({"7", "8"})) == Meaning::part);
    CHECK_THROWS_AS(take(exchange, columns({{"a"}})), ProtocolViolation);
    CHECK(kept->count() == 2);
}

TEST_CASE("each_items_rows_begin_anew", "[exchange]") {
    std::shared_ptr<const Columns> one, other;
    for (const bool fails : {false, true}) {
        Exchange exchange;
        exchange.expect(Purpose::check, kColumns | kRows, &one);
        if (fails) exchange.expect(Purpose::sync, kSync);
        exchange.expect(Purpose::statement, kRows, &other);
        exchange.expect(Purpose::sync, kSync);
        other = std::make_shared<const Columns>(Message{'T', std::string_view(columns({{"b"}, {"c"}})).substr(5)});
        take(exchange, columns({{"a"}}));
        take(exchange, row({"1"}));
        take(exchange, fails ? error("22012") : complete("SELECT 1"));
        if (fails) take(exchange, ready());
        take(exchange, row({"7", "8"}));
        CHECK(take(exchange, complete("SELECT 1")) == Meaning::done);
        CHECK(exchange.result().rows() == 1);
        CHECK(exchange.result().description() == other);
    }
}

TEST_CASE("what_was_under_way_is_forgotten_when_it_is_cleared", "[exchange]") {
    Exchange exchange;
    exchange.expect(Purpose::statement, kScript);
    exchange.expect(Purpose::sync, kSync);
    take(exchange, columns({{"n"}}));
    exchange.clear();
    CHECK(exchange.is_empty());
    CHECK_FALSE(exchange.result().has_value());
    exchange.expect(Purpose::statement, kScript);
    exchange.expect(Purpose::sync, kSync);
    CHECK_THROWS_AS(take(exchange, row({"7"})), ProtocolViolation);
    take(exchange, complete("SELECT 1"));
    exchange.clear();
    exchange.expect(Purpose::statement, kScript);
    exchange.expect(Purpose::sync, kSync);
    CHECK_THROWS_AS(take(exchange, ready()), ProtocolViolation);
    take(exchange, error("22012"));
    exchange.clear();
    exchange.expect(Purpose::sync, kSync);
    CHECK(take(exchange, error("22012")) == Meaning::failed);
}
