#include "core/wire/result.hpp"

#include <catch2/catch.hpp>
#include <cstring>

#include "core/base/text.hpp"
#include "tests/core/wire_messages.hpp"

using namespace pqpool;
using namespace pqpool::test;

namespace {

Message as_message(const std::string& bytes) { return {bytes[0], std::string_view(bytes).substr(5)}; }

std::shared_ptr<const Columns> described(const std::vector<ColumnWords>& all) {
    const std::string bytes = columns(all);
    return std::make_shared<const Columns>(as_message(bytes));
}

Result with_columns(std::size_t count) {
    Result result;
    result.begin(described(std::vector<ColumnWords>(count, {"c", 25})));
    return result;
}

void add(Result& result, const std::string& row) { result.add_row(as_message(row)); }

std::string value(const Result& result, int row, int column) {
    CHECK(result.value(row, column)[result.length(row, column)] == '\0');
    return {result.value(row, column), static_cast<std::size_t>(result.length(row, column))};
}

}  // namespace

TEST_CASE("columns_are_read_from_their_description", "[result]") {
    const std::string bytes = columns({{"a", 23, 1}, {"", 4294967295, 0}, {"\xff", 25, 1}});
    const Columns columns(as_message(bytes));
    REQUIRE(columns.count() == 3);
    CHECK(columns.name(0) == std::string("a"));
    CHECK(columns.name(1) == std::string());
    CHECK(columns.name(2) == std::string("\xef\xbf\xbd"));
    CHECK(columns.type(1) == 4294967295);
    CHECK(columns.is_binary(0));
    CHECK_FALSE(columns.is_binary(1));
    CHECK(columns.is_described_by(as_message(bytes).body));
    CHECK_FALSE(columns.is_described_by(as_message(bytes).body.substr(1)));
    CHECK_FALSE(columns.all_types_have_binary_form());
    CHECK(described({{"a", 23}, {"b", 1700}})->all_types_have_binary_form());
    CHECK_FALSE(described({{"a", 23}, {"b", 600}})->all_types_have_binary_form());
    CHECK_FALSE(described({})->all_types_have_binary_form());
}

TEST_CASE("a_description_of_another_length_or_form_is_refused", "[result]") {
    const std::string bytes = columns({{"a", 23, 0}, {"b", 25, 0}});
    const auto read = [](const std::string& one) { Columns columns(as_message(one)); };
    CHECK_NOTHROW(read(bytes));
    CHECK_THROWS_AS(read(bytes + '\0'), ProtocolViolation);
    for (std::size_t size = 5; size < bytes.size(); size++)
        CHECK_THROWS_AS(read(bytes.substr(0, size)), ProtocolViolation);
    for (const int format : {2, -1, 256}) CHECK_THROWS_AS(read(columns({{"a", 23, format}})), ProtocolViolation);
    CHECK_THROWS_AS(read(message('T', int16(-1))), ProtocolViolation);
}

TEST_CASE("rows_are_as_they_came", "[result]") {
    Result result = with_columns(3);
    CHECK(result.rows() == 0);
    CHECK(result.columns() == 3);
    const std::string zeros("\0\0", 2);
    const std::vector<std::optional<std::string_view>> rows[] = {{"abc", std::nullopt, ""},
                                                                 {std::nullopt, std::nullopt, std::nullopt},
                                                                 {"", "", "x"},
                                                                 {zeros, "y", std::nullopt}};
    for (int count = 0; count < 4; count++) {
        add(result, row(rows[count]));
        REQUIRE(result.rows() == count + 1);
        for (int i = 0; i <= count; i++)
            for (int column = 0; column < 3; column++) {
                const auto& right = rows[i][static_cast<std::size_t>(column)];
                CHECK(result.is_null(i, column) == !right);
                CHECK(value(result, i, column) == right.value_or(""));
            }
    }
    result.end("SELECT 4");
    CHECK(result.command_tag() == std::string("SELECT 4"));
    CHECK(result.has_value());
    CHECK_FALSE(result.error());
}

TEST_CASE("a_row_that_does_not_fit_its_columns_is_refused", "[result]") {
    const auto refuses = [](std::size_t count, const std::string& row) {
        Result result = with_columns(count);
        CHECK_THROWS_AS(add(result, row), ProtocolViolation);
    };
    const std::string right = row({"abc", std::nullopt});
    for (const std::size_t count : {0, 1, 3}) refuses(count, right);
    for (std::size_t size = 5; size < right.size(); size++) refuses(2, right.substr(0, size));
    refuses(2, right + '\0');
    for (const std::int64_t length : {-2LL, 2LL, 4LL, 7LL, 0x7fffffffLL, -2147483648LL}) {
        std::string wrong = right;
        wrong.replace(7, 4, int32(length));
        refuses(2, wrong);
    }
    for (const std::int64_t length : {-2LL, 1LL, -2147483648LL}) {
        std::string wrong = right;
        wrong.replace(wrong.size() - 4, 4, int32(length));  // of what was NULL
        refuses(2, wrong);
    }
    Result none;
    none.begin(nullptr);
    CHECK_THROWS_AS(add(none, row({})), ProtocolViolation);
    Result nothing;
    CHECK_THROWS_AS(add(nothing, row({})), ProtocolViolation);
}

TEST_CASE("rows_may_have_no_columns", "[result]") {
    Result result = with_columns(0);
    for (int i = 0; i < 3; i++) add(result, row({}));
    result.end("SELECT 3");
    CHECK(result.rows() == 3);
    CHECK(result.columns() == 0);
    CHECK_FALSE(result.is_binary());
}

TEST_CASE("65535_columns_are_read", "[result]") {
    Result result = with_columns(65535);
    add(result, row(std::vector<std::optional<std::string_view>>(65535, "x")));
    CHECK(result.columns() == 65535);
    CHECK(value(result, 0, 65534) == "x");
}

TEST_CASE("rows_of_every_size_stand_side_by_side", "[result]") {
    Result result = with_columns(2);
    std::vector<std::string> values;
    for (std::size_t size = 0; size < 3000; size += size < 400 ? 1 : 37)
        values.emplace_back(size, static_cast<char>('a' + size % 26));
    for (const std::size_t size : {256 << 10, (256 << 10) - 40, 5 << 20, 1, 300 << 10}) values.emplace_back(size, 'z');
    for (const auto& one : values) add(result, row({one, "x"}));
    REQUIRE(result.rows() == static_cast<int>(values.size()));
    for (int i = 0; i < result.rows(); i++) {
        CHECK((value(result, i, 0) == values[static_cast<std::size_t>(i)]));
        CHECK(value(result, i, 1) == "x");
        CHECK(reinterpret_cast<std::uintptr_t>(result.value(i, 0)) > 0);
    }
    const char* const first = result.value(0, 0);
    const Result moved = std::move(result);
    CHECK(moved.value(0, 0) == first);
    CHECK_FALSE(result.has_value());
}

TEST_CASE("of_a_script_the_last_statement_counts", "[result]") {
    Result result = with_columns(1);
    add(result, row({"a"}));
    result.end("SELECT 1");
    result.begin(nullptr);
    CHECK(result.rows() == 0);
    CHECK(result.columns() == 0);
    result.end("UPDATE 3");
    CHECK(result.command_tag() == std::string("UPDATE 3"));
    result.begin(described({{"b", 23, 1}, {"c", 23, 1}}));
    CHECK(result.command_tag() == std::string());
    add(result, row({int32(1), int32(2)}));
    CHECK(result.rows() == 1);
    CHECK(result.is_binary());
    CHECK(result.column_type(1) == 23);
    CHECK(result.column_name(1) == std::string("c"));
}

TEST_CASE("texts_of_the_server_are_utf_8_whatever_it_sent", "[result]") {
    const std::string bytes =
        fields('E', {{'S', "FEHLER"}, {'V', "ERROR"}, {'C', "22012"}, {'M', "f\xfcr"}, {'D', "\xe4"}, {'H', "gut"}});
    const Result result = Result::of_error(as_message(bytes).body);
    CHECK(result.field('M') == std::string("f\xef\xbf\xbdr"));
    CHECK(result.field('M') == result.field('M'));  // the same place, as long as the result lives
    CHECK(result.message() == "FEHLER:  f\xef\xbf\xbdr\nDETAIL:  \xef\xbf\xbd\nHINT:  gut");
    CHECK_FALSE(is_fatal(as_message(bytes).body));
    for (const int code : {0, -1, 128, 256 + 'M', int{'X'}}) CHECK(result.field(code) == nullptr);
    Result tagged;
    tagged.end("\xff");
    CHECK(tagged.command_tag() == std::string("\xef\xbf\xbd"));
    CHECK(Result().field('M') == nullptr);
    CHECK(Result::of_error(std::string_view("\0", 1)).message().empty());
}

TEST_CASE("an_error_keeps_the_servers_fields", "[result]") {
    const std::string bytes = error("22012", "division by zero");
    Result result = Result::of_error(as_message(bytes).body);
    CHECK(result.has_value());
    CHECK_FALSE(result.error());
    result.set_error(Error(ErrorKind::query, "words", "22012"));
    REQUIRE(result.error());
    Result other;
    other = std::move(result);
    CHECK(other.error()->sqlstate == "22012");
    CHECK(other.field('M') == std::string("division by zero"));
    CHECK_FALSE(result.error());
    other = Result();
    CHECK_FALSE(other.error());
    CHECK_FALSE(other.has_value());
    CHECK(other.rows() == 0);
    CHECK(other.columns() == 0);
    CHECK(other.command_tag() == std::string());
}

TEST_CASE("a_last_word_is_known_by_its_severity", "[result]") {
    for (const auto& [severity, is_last] :
         {std::pair("FATAL", true), std::pair("PANIC", true), std::pair("ERROR", false), std::pair("FATALE", false)}) {
        const std::string untranslated = fields('E', {{'S', "?"}, {'V', severity}});
        CHECK(is_fatal(as_message(untranslated).body) == is_last);
        const std::string old = fields('E', {{'S', severity}});
        CHECK(is_fatal(as_message(old).body) == is_last);
    }
}
