#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "core/error.hpp"
#include "core/log.hpp"

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
          R"({"name": "a \"quoted\"\\ line\u000aand\u0009tab"})");
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

TEST_CASE("the_ring_keeps_the_newest_thousand_lines_in_order", "[log]") {
    Log log(LogLevel::info, "");
    int told = 0;
    log.listen(&told, [&] { told++; });
    for (int i = 0; i < 1200; i++) log.write(LogLevel::info, "line " + std::to_string(i), LogContext(), 7);
    CHECK(told == 1200);
    LogRecord record;
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
