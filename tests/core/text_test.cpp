#include "core/base/text.hpp"

#include <catch2/catch.hpp>
#include <string>

#include "core/base/error.hpp"

using namespace pqpool;

namespace {

const std::string kReplacement = "\xef\xbf\xbd", kEllipsis = "\xe2\x80\xa6";

std::string copied(std::size_t size, const std::string& from, Cut cut) {
    std::string to(size + 1, '#');
    copy_text(to.data(), size, from, cut);
    CHECK(to[size] == '#');  // nothing behind the end
    return to.c_str();
}

std::string json(const std::string& text) {
    std::string out;
    append_json(out, text);
    return out;
}

}  // namespace

TEST_CASE("well_formed_text_is_utf8", "[text]") {
    for (const char* text : {"", "plain", "é", "€", "\xf0\x9f\x90\x98", "\xc2\x80", "\xed\x9f\xbf", "\xee\x80\x80",
                             "\xf4\x8f\xbf\xbf", "a long text of more than eight bytes, then é, and again plain"})
        CHECK(is_utf8(text));
    // A lone continuation, cut characters, overlong forms, a surrogate, too high, bytes that never occur.
    for (const char* text : {"\x80", "a\xbf", "\xc3", "\xe2\x82", "\xf0\x9f\x90", "\xc0\x80", "\xc1\xbf",
                             "\xe0\x9f\xbf", "\xf0\x8f\xbf\xbf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80",
                             "\xfe", "\xff", "f\xfcr", "12345678\xff", "1234567\xc3"})
        CHECK_FALSE(is_utf8(text));
}

TEST_CASE("what_is_not_utf8_is_replaced_and_the_rest_stays", "[text]") {
    CHECK(valid_utf8("für €") == "für €");
    CHECK(valid_utf8("f\xfcr") == "f" + kReplacement + "r");
    CHECK(valid_utf8("\xc3") == kReplacement);
    CHECK(valid_utf8("\xe2\x82") == kReplacement);  // one broken character
    CHECK(valid_utf8("\xe2\x82z") == kReplacement + "z");
    CHECK(valid_utf8("\xed\xa0\x80") == kReplacement + kReplacement + kReplacement);
    CHECK(valid_utf8("\xff\xfe€") == kReplacement + kReplacement + "€");
    CHECK(valid_utf8(std::string("a\0\xff", 3)) == std::string("a\0", 2) + kReplacement);
    for (int first = 0; first < 256; first++)
        for (int second = 0; second < 256; second++) {
            const std::string two{static_cast<char>(first), static_cast<char>(second)};
            REQUIRE(is_utf8(valid_utf8(two)));
            REQUIRE(is_utf8(valid_utf8("€" + two + "€")));
        }
}

TEST_CASE("a_cut_falls_between_two_characters", "[text]") {
    CHECK(cut_utf8("abc", 3) == "abc");
    CHECK(cut_utf8("abc", 2) == "ab");
    CHECK(cut_utf8("", 0).empty());
    for (const std::string character : {"é", "€", "\xf0\x9f\x90\x98"})
        for (std::size_t before = 0; before < 9; before++) {
            const std::string text = std::string(before, 'x') + character + character;
            for (std::size_t limit = 0; limit <= text.size(); limit++) {
                const auto cut = cut_utf8(text, limit);
                REQUIRE(is_utf8(cut));
                REQUIRE(cut.size() <= limit);
                REQUIRE(limit - cut.size() < character.size());
                REQUIRE(without_cut_end(text.substr(0, limit)) == cut);
            }
        }
    CHECK(cut_utf8("\x80\x80\x80\x80", 2) == "\x80\x80");  // no characters at all
    CHECK(without_cut_end("f\xfc") == "f\xfc");
    CHECK(shortened("12345678", 8) == "12345678");
    CHECK(shortened("123456789", 8) == "12345" + kEllipsis);
    CHECK(shortened("1234é6789", 8) == "1234" + kEllipsis);
    CHECK(shortened("123456789", 2) == "12");
}

TEST_CASE("a_copy_into_an_array_is_utf8_and_ends_within_it", "[text]") {
    CHECK(copied(8, "1234567", Cut::plain) == "1234567");
    CHECK(copied(8, "12345678", Cut::plain) == "1234567");
    CHECK(copied(8, "12345678", Cut::with_ellipsis) == "1234" + kEllipsis);
    CHECK(copied(8, "1234567", Cut::with_ellipsis) == "1234567");
    CHECK(copied(1, "x", Cut::with_ellipsis).empty());
    CHECK(copied(8, "a\xff", Cut::plain) == "a" + kReplacement);
    CHECK(copied(5, "ab\xff", Cut::plain) == "ab");
    const std::string mixed = "a€é\xff\xf0\x9f\x90\x98\xe2\x82";
    for (std::size_t size = 1; size < 24; size++)
        for (const Cut cut : {Cut::plain, Cut::with_ellipsis}) {
            const std::string copy = copied(size, mixed, cut);
            CHECK(is_utf8(copy));
            CHECK(copy.size() < size);
        }
    char none = '#';
    copy_text(&none, 0, "text", Cut::plain);
    CHECK(none == '#');
}

TEST_CASE("text_on_one_line_has_no_controls", "[text]") {
    CHECK(on_one_line("plain é") == "plain é");
    CHECK(on_one_line("one\n\ttwo\r\nthree\n") == "one two three");
    CHECK(on_one_line("\n a") == "a");
    CHECK(on_one_line("a\tb") == "a b");
    CHECK(on_one_line("\x1b[31mred\x07\x7f") == "\\x1b[31mred\\x07\\x7f");
    CHECK(on_one_line("\xc2\x9b"
                      "31m\xc2\x85") == "\\x9b31m\\x85");
    CHECK(on_one_line("a\xe2\x80\xa8z") == "a z");
    CHECK(on_one_line("f\xfcr") == "f" + kReplacement + "r");
}

TEST_CASE("text_in_json_is_escaped_and_utf8", "[text]") {
    CHECK(json("a\"\\\b\f\n\r\t") == R"("a\"\\\b\f\n\r\t")");
    CHECK(json("\x01\x1b\x7f") == R"("\u0001\u001b\u007f")");
    CHECK(json("\xc2\x85\xe2\x80\xa8\xe2\x80\xa9é€") == R"("\u0085\u2028\u2029é€")");
    CHECK(json("f\xfcr") == "\"f" + kReplacement + "r\"");
    CHECK(json(std::string("a\0z", 3)) == R"("a\u0000z")");
}

TEST_CASE("an_errors_texts_are_sound", "[text]") {
    CHECK(Error(ErrorKind::query, "f\xfcr", "22000").message == "f" + kReplacement + "r");
    CHECK(Error(ErrorKind::query, "m", "22000").sqlstate == "22000");
    for (const char* odd : {"", "2200", "220000",
                            "22\xff"
                            "00",
                            "22 00"})
        CHECK(Error(ErrorKind::query, "m", odd).sqlstate.empty());
}
