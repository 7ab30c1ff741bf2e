#include "core/wire/protocol.hpp"

#include <algorithm>
#include <catch2/catch.hpp>

#include "tests/core/wire_messages.hpp"

using namespace pqpool;
using namespace pqpool::test;

namespace {

void put(InputBuffer& input, std::string_view bytes) {
    while (!bytes.empty()) {
        const auto room = input.room();
        const auto part = std::min(room.size, bytes.size());
        std::copy_n(bytes.data(), part, room.data);
        input.add(part);
        bytes.remove_prefix(part);
    }
}

Message as_message(const std::string& bytes) { return {bytes[0], std::string_view(bytes).substr(5)}; }

}  // namespace

// ---- to the server ----

TEST_CASE("each_message_to_the_server_has_its_layout", "[protocol]") {
    using namespace std::string_literals;
    OutputBuffer output;
    const auto is = [&](const std::string& bytes) {
        CHECK(output.unsent() == bytes);
        output.clear();
    };
    const std::uint32_t types[] = {23, 0x80000001};
    output.parse("n", "SELECT $1, $2", types, 2);
    is("P\0\0\0\x1en\0SELECT $1, $2\0\0\2\0\0\0\x17\x80\0\0\1"s);
    output.parse("", "", nullptr, 0);
    is("P\0\0\0\x08\0\0\0\0"s);

    const std::string two = "\0\1"s;
    const ParameterValue values[] = {{"abc", 3, false}, {nullptr, 0, false}, {two.data(), 2, true}, {"", 0, false}};
    output.bind("n", values, 4, true);
    is("B\0\0\0\x2c\0n\0\0\4\0\0\0\0\0\1\0\0\0\4\0\0\0\3abc\xff\xff\xff\xff\0\0\0\2\0\1\0\0\0\0\0\1\0\1"s);
    output.bind("", nullptr, 0, false);
    is("B\0\0\0\x0e\0\0\0\0\0\0\0\1\0\0"s);

    output.describe_statement("n");
    is("D\0\0\0\7Sn\0"s);
    output.describe_portal();
    is("D\0\0\0\6P\0"s);
    output.execute();
    is("E\0\0\0\x09\0\0\0\0\0"s);
    output.close_statement("name");
    is("C\0\0\0\x0aSname\0"s);
    output.sync();
    is("S\0\0\0\4"s);
    output.query("a;b");
    is("Q\0\0\0\10a;b\0"s);
}

TEST_CASE("a_count_of_65535_is_carried", "[protocol]") {
    const std::vector<std::uint32_t> types(65535, 23);
    const std::vector<ParameterValue> values(65535, {nullptr, 0, true});
    OutputBuffer output;
    output.parse("", "", types.data(), types.size());
    std::string bytes(output.unsent());
    auto parsed = take_messages(bytes);
    REQUIRE(parsed.size() == 1);
    CHECK(parsed[0].body.size() == 4 + 65535 * 4);
    CHECK(parsed[0].body.substr(2, 2) == "\xff\xff");
    output.clear();
    output.bind("", values.data(), values.size(), false);
    bytes = output.unsent();
    parsed = take_messages(bytes);
    REQUIRE(parsed.size() == 1);
    CHECK(parsed[0].body.size() == 2 + 2 + 65535 * 2 + 2 + 65535 * 4 + 4);
}

TEST_CASE("what_was_sent_is_not_sent_again", "[protocol]") {
    OutputBuffer output;
    CHECK_FALSE(output.is_half_sent());
    output.sync();
    output.sync();
    output.note_sent(3);
    CHECK(output.is_half_sent());
    CHECK(output.unsent().size() == 7);
    output.sync();
    CHECK(output.unsent().size() == 12);
    output.note_sent(12);
    CHECK(output.unsent().empty());
    CHECK_FALSE(output.is_half_sent());
    output.query(std::string(1 << 20, 'x'));
    output.clear();
    CHECK(output.unsent().empty());
}

// ---- what came in, cut into messages ----

TEST_CASE("messages_are_whole_however_they_come", "[protocol]") {
    const std::string bytes = ready('T') + row({"abc", std::nullopt}) + bind_complete() + complete("SELECT 1");
    for (std::size_t cut = 0; cut <= bytes.size(); cut++)
        for (std::size_t second = cut; second <= bytes.size(); second++) {
            InputBuffer input;
            std::string seen;
            const auto look = [&] {
                while (const auto one = input.next()) seen += message(one->tag, one->body);
            };
            for (const auto& part : {bytes.substr(0, cut), bytes.substr(cut, second - cut), bytes.substr(second)}) {
                put(input, part);
                look();
            }
            CHECK(seen == bytes);
            CHECK(input.is_empty());
        }
}

TEST_CASE("a_message_of_impossible_length_is_refused_as_soon_as_its_head_is_there", "[protocol]") {
    const auto is_refused = [](char tag, std::int64_t length) {
        InputBuffer input;
        const std::string head = tag + int32(length);
        put(input, head.substr(0, 4));
        CHECK_FALSE(input.next());
        put(input, head.substr(4));
        try {
            input.next();
            return false;
        } catch (const ProtocolViolation&) {
            return true;
        }
    };
    for (const char tag : {'D', 'T', 't', 'd', 'E', 'N', 'A', 'V'}) {
        INFO(tag);
        for (const std::int64_t length : {0, 3, 0x40000004, 0x7fffffff, -1}) CHECK(is_refused(tag, length));
        for (const std::int64_t length : {4, 30000, 30001, 0x40000003}) CHECK_FALSE(is_refused(tag, length));
    }
    for (const char tag : {'Z', 'C', 'S', 'K', 'R', '1', '2', '3', 'n', 'I', 's', 'G', 'H', 'W', 'c', 'v', '?', '\0'}) {
        INFO(tag);
        for (const std::int64_t length : {0, 3, 30001, 0x3fffffff, -1}) CHECK(is_refused(tag, length));
        for (const std::int64_t length : {4, 30000}) CHECK_FALSE(is_refused(tag, length));
    }
}

TEST_CASE("the_buffer_grows_with_what_has_come_not_with_what_was_promised", "[protocol]") {
    InputBuffer input;
    put(input, 'D' + int32(0x3fffffff));
    CHECK_FALSE(input.next());
    CHECK(input.room().size <= 8 << 10);
    std::size_t come = 5;
    while (come < 4 << 20) {
        const auto room = input.room();
        CHECK(room.size >= 4 << 10);
        CHECK(room.size <= 256 << 10);
        std::fill_n(room.data, room.size, 'x');
        input.add(room.size);
        come += room.size;
        CHECK_FALSE(input.next());
    }
}

TEST_CASE("a_huge_message_arrives_whole_and_its_room_is_given_back", "[protocol]") {
    InputBuffer input;
    const std::string value(3 << 20, 'x');
    put(input, row({value}) + "Z");
    const auto one = input.next();
    REQUIRE(one);
    CHECK(one->body.substr(6) == value);
    input.shrink();  // not while something is left
    put(input, ready().substr(1));
    CHECK(input.next()->tag == 'Z');
    CHECK(input.is_empty());
    input.shrink();
    CHECK(input.room().size == 8 << 10);
}

TEST_CASE("many_small_messages_need_little_room", "[protocol]") {
    InputBuffer input;
    const std::string one = row({"abc"});
    for (int i = 0; i < 10000; i++) {
        put(input, one.substr(0, 7));
        CHECK_FALSE(input.next());
        put(input, one.substr(7));
        CHECK(input.next());
    }
    CHECK(input.room().size == 8 << 10);
    put(input, "abc");
    input.reset();
    CHECK(input.is_empty());
    put(input, ready());
    CHECK(input.next()->tag == 'Z');
}

// ---- reading a message ----

TEST_CASE("numbers_are_read_with_their_signs", "[protocol]") {
    const std::string bytes = message('x', "\xff" + int16(-2) + int32(-3) + int16(0x1234) + int32(0x12345678) + "abc");
    BodyReader body(as_message(bytes));
    CHECK(body.byte() == 255);
    CHECK(body.int16() == -2);
    CHECK(body.int32() == -3);
    CHECK(body.int16() == 0x1234);
    CHECK(body.int32() == 0x12345678);
    CHECK_THROWS_AS(body.end(), ProtocolViolation);
    CHECK(body.left() == 3);
    CHECK_THROWS_AS(body.int32(), ProtocolViolation);
    CHECK_THROWS_AS(body.text(), ProtocolViolation);
    CHECK(body.bytes(3) == "abc");
    CHECK_NOTHROW(body.end());
    CHECK_THROWS_AS(body.byte(), ProtocolViolation);
    CHECK_THROWS_AS(body.int16(), ProtocolViolation);
    CHECK_THROWS_AS(body.text(), ProtocolViolation);
    CHECK(body.bytes(0).empty());
}

TEST_CASE("what_the_readers_read", "[protocol]") {
    for (const auto& [status, is] : {std::pair('I', TransactionStatus::idle), std::pair('T', TransactionStatus::open),
                                     std::pair('E', TransactionStatus::failed)})
        CHECK(read_ready_for_query(as_message(ready(status))) == is);
    CHECK_THROWS_AS(read_ready_for_query(as_message(ready('x'))), ProtocolViolation);
    const std::string status = parameter("a", "b"), tag = complete("SELECT 1");
    CHECK(read_parameter_status(as_message(status)).name == "a");
    CHECK(read_parameter_status(as_message(status)).value == "b");
    CHECK(read_command_tag(as_message(tag)) == "SELECT 1");
}

// Each is right as it stands; shorter or longer by a byte it is not.
TEST_CASE("each_reader_takes_its_message_and_no_other_length", "[protocol]") {
    const std::pair<std::string, void (*)(const Message&)> all[] = {
        {ready('I'), [](const Message& m) { read_ready_for_query(m); }},
        {parameter("a", "b"), [](const Message& m) { read_parameter_status(m); }},
        {complete("SELECT 1"), [](const Message& m) { read_command_tag(m); }},
        {bind_complete(), read_empty},
        {parameter_types({}), read_parameter_description},
        {parameter_types({1, 2, 3}), read_parameter_description},
        {message('A', int32(7) + text("channel") + text("")), read_notification},
        {error("22012"), check_error_fields},
        {message('E', std::string(1, '\0')), check_error_fields},
    };
    for (const auto& [bytes, read] : all) {
        INFO(bytes[0]);
        CHECK_NOTHROW(read(as_message(bytes)));
        const std::string longer = bytes + '\0';
        CHECK_THROWS_AS(read(as_message(longer)), ProtocolViolation);
        for (std::size_t size = 5; size < bytes.size(); size++) {
            const std::string shorter = bytes.substr(0, size);
            CHECK_THROWS_AS(read(as_message(shorter)), ProtocolViolation);
        }
    }
}

TEST_CASE("the_fields_of_an_error_are_found_by_their_codes", "[protocol]") {
    const std::string bytes = fields('E', {{'S', "ERROR"}, {'C', "22012"}, {'M', ""}, {'M', "second"}});
    const std::string_view body = as_message(bytes).body;
    CHECK(error_field(body, 'C') == std::string_view("22012"));
    CHECK(error_field(body, 'M') == std::string_view());
    CHECK(error_field(body, 'E') == nullptr);  // of a text, not a code
    CHECK(error_field(body, '\0') == nullptr);
    CHECK(error_field({}, 'C') == nullptr);
}

TEST_CASE("a_violation_names_the_message", "[protocol]") {
    for (int tag = 0; tag < 256; tag++) CHECK(*name_of_message(static_cast<char>(tag)) != '\0');
    const std::string bytes = message('Z');
    CHECK_THROWS_WITH(read_ready_for_query(as_message(bytes)), "the end of a batch that is cut off");
    CHECK_THROWS_WITH(read_empty(as_message(complete("x"))), "the end of a command with more than belongs into it");
    CHECK(name_of_message('?') == std::string("an unknown message"));
}
