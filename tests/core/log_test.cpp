#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <vector>

#include "core/base/error.hpp"
#include "core/base/text.hpp"
#include "core/run/log.hpp"

using namespace pqpool;

namespace {

std::string content_of(const std::string& path) {
    std::ifstream file(path);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
}

}  // namespace

TEST_CASE("a_context_is_a_json_object_in_the_order_of_its_members", "[log]") {
    CHECK(LogContext().json() == "{}");
    CHECK(LogContext().add("name", "text").add("count", std::int64_t{3}).json() == R"({"name": "text", "count": 3})");
    CHECK_THAT(LogContext().add("seconds", 0.25).json(), Catch::Contains("0.25"));
    CHECK(LogContext().add("name", "a \"quoted\"\\ line\nand\ttab").json() ==
          R"({"name": "a \"quoted\"\\ line\nand\ttab"})");
    CHECK_THAT(LogContext().add("name", std::string_view("\x01", 1)).json(), Catch::Contains("\\u0001"));
}

TEST_CASE("lines_below_the_level_are_not_made", "[log]") {
    Log log(LogLevel::warning, "");
    CHECK_FALSE(log.is_enabled(LogLevel::info));
    CHECK(log.is_enabled(LogLevel::warning));
    log.set_level(LogLevel::debug);
    CHECK(log.is_enabled(LogLevel::debug));
    for (const char* name : {"debug", "info", "warning", "error"})
        CHECK(std::string(name_of(log_level_of(name))) == name);
}

TEST_CASE("numbers_in_a_context_are_json", "[log]") {
    CHECK(LogContext().add("s", 1234567.5).json() == R"({"s": 1234567.5})");
    CHECK(LogContext().add("s", std::nan("")).json() == R"({"s": null})");
}

TEST_CASE("the_ring_keeps_the_newest_thousand_lines_in_order", "[log]") {
    Log log(LogLevel::info, "");
    int told = 0;
    log.listen(&told, [&] { told++; });
    for (int i = 0; i < 1200; i++) log.write(LogLevel::info, "line " + std::to_string(i), LogContext(), 7);
    CHECK(told == 1200);
    LogRecord record;
    REQUIRE(log.take(record));
    CHECK(record.level == LogLevel::warning);
    CHECK_THAT(record.message, Catch::StartsWith("200 log lines were dropped"));
    CHECK(record.context == R"({"info": 200})");
    REQUIRE(log.take(record));
    CHECK(record.message == "line 200");
    CHECK(record.subject == 7);
    CHECK(record.unix_time > 1.6e9);
    int taken = 1;
    while (log.take(record)) taken++;
    CHECK(taken == 1000);
    CHECK(record.message == "line 1199");
}

TEST_CASE("each_listener_is_told_of_each_line_until_it_stops", "[log]") {
    Log log(LogLevel::info, "");
    int first = 0, second = 0;
    log.listen(&first, [&] { first++; });
    log.listen(&second, [&] { second++; });
    log.listen(&second, [&] { second++; });  // instead of its other one
    log.write(LogLevel::info, "line", LogContext());
    log.stop_listening(&first);
    log.write(LogLevel::info, "line", LogContext());
    CHECK(first == 1);
    CHECK(second == 2);
}

TEST_CASE("lines_of_a_lesser_level_make_room_for_others", "[log]") {
    Log log(LogLevel::debug, "", "shop");
    log.write(LogLevel::warning, "first warning", LogContext());
    for (int i = 0; i < 3000; i++) log.write(LogLevel::debug, "detail", LogContext());
    log.write(LogLevel::info, "an info", LogContext());
    log.write(LogLevel::warning, "second warning", LogContext());
    LogRecord record;
    REQUIRE(log.take(record));
    CHECK_THAT(record.message, Catch::StartsWith("2003 log lines were dropped"));
    CHECK(record.context == R"({"debug": 2003, "pool": "shop"})");
    REQUIRE(log.take(record));
    CHECK(record.message == "first warning");
    CHECK(record.context == R"({"pool": "shop"})");
    std::vector<std::string> rest;
    while (log.take(record)) rest.push_back(record.message);
    REQUIRE(rest.size() == 999);
    CHECK(rest[997] == "an info");
    CHECK(rest[998] == "second warning");

    for (int i = 0; i < 1001; i++) log.write(LogLevel::error, "error " + std::to_string(i), LogContext());
    REQUIRE(log.take(record));
    CHECK(record.context == R"({"error": 1, "pool": "shop"})");
    REQUIRE(log.take(record));
    CHECK(record.message == "error 1");
}

TEST_CASE("a_file_that_cannot_be_written_any_more_is_told_of_once", "[log]") {
    Log log(LogLevel::info, "/dev/full");
    for (int i = 0; i < 3; i++) log.write(LogLevel::info, "line", LogContext());
    LogRecord record;
    int told = 0, lines = 0;
    while (log.take(record)) (record.message.starts_with("log_file cannot be written") ? told : lines)++;
    CHECK(told == 1);
    CHECK(lines == 3);
}

TEST_CASE("a_line_stays_one_line_of_json_whatever_the_server_said", "[log]") {
    char path[] = "/tmp/pqpool-log-XXXXXX";
    const int made = mkstemp(path);
    REQUIRE(made >= 0);
    close(made);
    Log log(LogLevel::info, path);
    log.write(LogLevel::warning, "a\n{\"level\": \"ERROR\"}\x1b[31m\x7f\xc2\x85 f\xfcr",
              LogContext().add("reason", "\x1b\xc2\x9b\xe2\x80\xa8\n\xff"));
    const std::string text = content_of(path);
    std::remove(path);
    CHECK(std::count(text.begin(), text.end(), '\n') == 1);
    CHECK(is_utf8(text));
    CHECK(std::none_of(text.begin(), text.end() - 1, [](char c) { return (c >= 0 && c < 0x20) || c == 0x7f; }));
    CHECK(text.find("\xc2\x85") == std::string::npos);
    CHECK(text.find("\xe2\x80\xa8") == std::string::npos);
    LogRecord record;
    REQUIRE(log.take(record));
    CHECK_THAT(record.message, Catch::StartsWith("a {\"level\": \"ERROR\"}\\x1b[31m\\x7f\\x85 f"));
    CHECK(is_utf8(record.message));
}

TEST_CASE("the_file_holds_one_json_object_a_line", "[log]") {
    char path[] = "/tmp/pqpool-log-XXXXXX";
    const int made = mkstemp(path);
    REQUIRE(made >= 0);
    close(made);
    {
        Log log(LogLevel::info, path);
        log.write(LogLevel::warning, "something \"happened\"", LogContext().add("connection_id", "conn-1"));
        log.write(LogLevel::info, "and went on", LogContext());
    }
    const std::string text = content_of(path);
    std::remove(path);
    CHECK(std::count(text.begin(), text.end(), '\n') == 2);
    CHECK_THAT(text, Catch::Contains(R"("message": "something \"happened\"")"));
    CHECK_THAT(text, Catch::Contains("conn-1") && Catch::Contains("connection_pool") && Catch::Contains("timestamp"));
    CHECK_THAT(text, Catch::StartsWith("{"));
}

TEST_CASE("a_file_that_cannot_be_opened_is_a_configuration_error", "[log]") {
    try {
        Log log(LogLevel::info, "/proc/no/such/folder/log");
        FAIL("it was opened");
    } catch (const Error& e) {
        CHECK(e.kind == ErrorKind::configuration);
        CHECK_THAT(e.message, Catch::Contains("/proc/no/such/folder/log"));
    }
}
