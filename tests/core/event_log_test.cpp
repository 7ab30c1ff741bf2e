#include "core/run/event_log.hpp"

#include <catch2/catch.hpp>
#include <vector>

using namespace pqpool;

namespace {

const event::About kIdle{{1, 2}, 4711, 0}, kLeased{{1, 2}, 4711, 99}, kUnknown{{1, 2}, 0, 0};

// As the pool does at the end of each of its calls.
void write(EventLog& events, std::mutex& lock) {
    std::lock_guard locked(lock);
    events.write(lock);
}

std::vector<LogRecord> take_all(EventLog& events) {
    std::vector<LogRecord> lines;
    for (LogRecord record; events.log().take(record);) lines.push_back(record);
    return lines;
}

template <class E>
LogRecord line_of(const E& e) {
    EventLog events(LogLevel::debug, "", "db1:5432/app");
    std::mutex lock;
    events.tell([&] { return e; });
    write(events, lock);
    const auto lines = take_all(events);
    REQUIRE(lines.size() == 1);
    CHECK(lines[0].level == E::kLevel);
    return lines[0];
}

}  // namespace

TEST_CASE("an_event_about_a_connection_names_it_in_words_and_in_the_context", "[log]") {
    const LogRecord lost = line_of(event::Lost{kLeased, "it went"});
    CHECK(lost.message == "Connection lost: conn-1.2 (server process 4711, pool db1:5432/app): it went");
    CHECK(lost.context ==
          R"({"connection_id": "conn-1.2", "backend_pid": 4711, "reason": "it went", "pool": "db1:5432/app"})");
    CHECK(lost.subject == 99);
    const LogRecord closed = line_of(event::Recycled{kUnknown, CloseReason::max_queries});
    CHECK(closed.message == "Connection recycled: conn-1.2 (pool db1:5432/app): max_queries reached");
    CHECK(closed.context ==
          R"({"connection_id": "conn-1.2", "reason": "max_queries reached", "pool": "db1:5432/app"})");
    CHECK(closed.subject == 0);
}

TEST_CASE("a_suspected_leak_tells_of_the_lease_where_one_is_known", "[log]") {
    CHECK_THAT(
        line_of(event::LeakSuspected{kLeased, 2 * kSecond, "me", "SELECT 1"}).context,
        Catch::Contains(R"("lease": 99, "tag": "me", "last_statement": "SELECT 1", "held_duration_seconds": 2)"));
    CHECK_THAT(line_of(event::LeakSuspected{kIdle, 2 * kSecond, "", ""}).context,
               Catch::Contains("held_duration_seconds") && !Catch::Contains("tag"));
}

TEST_CASE("lengths_of_time_are_rounded_in_words_only", "[log]") {
    const LogRecord failed = line_of(event::AttemptFailed{3, 1'234'567'890, "refused"});
    CHECK(failed.message == "Reconnection attempt 3 failed; the next follows in 1.235 s");
    CHECK_THAT(failed.context, Catch::Contains(R"("next_attempt_seconds": 1.23456789)"));
    CHECK_THAT(line_of(event::ShuttingDown{1, -1}).context, Catch::Contains(R"("timeout_seconds": -1)"));
}

TEST_CASE("an_event_that_the_log_does_not_want_is_not_made", "[log]") {
    EventLog events(LogLevel::warning, "", "");
    std::mutex lock;
    events.tell([]() -> event::Opened {
        FAIL("made");
        return {};
    });
    events.tell([] { return event::Lost{kIdle, "x"}; });
    write(events, lock);
    CHECK(take_all(events).size() == 1);
}

TEST_CASE("an_event_that_finds_no_memory_is_left_out", "[log]") {
    EventLog events(LogLevel::debug, "", "");
    std::mutex lock;
    events.tell([]() -> event::Lost { throw std::bad_alloc(); });
    events.tell([] { return event::Terminated{}; });
    write(events, lock);
    CHECK(take_all(events).size() == 1);
}

TEST_CASE("lines_are_written_without_the_lock_and_in_their_order", "[log]") {
    EventLog events(LogLevel::debug, "", "");
    std::mutex lock;
    bool told_more = false;
    // A listener stands for another thread, which comes while the first line is written.
    events.log().listen(&events, [&] {
        if (std::exchange(told_more, true)) return;
        REQUIRE(lock.try_lock());
        events.tell([] { return event::Terminated{}; });
        events.write(lock);  // leaves it to who is at it
        lock.unlock();
    });
    events.tell([] { return event::Opened{kIdle}; });
    events.tell([] { return event::Released{kLeased, kSecond}; });
    write(events, lock);
    const auto lines = take_all(events);
    REQUIRE(lines.size() == 3);
    CHECK(lines[0].message == "Connection opened");
    CHECK(lines[1].message == "Connection released");
    CHECK(lines[2].message == "Connection pool terminated");
}
