// Statistics, health and the log.
#include <algorithm>
#include <cstring>

#include "capi_fixture.hpp"

using namespace capi_test;

namespace {

struct Line {
    int32_t level;
    pqpool_lease lease;
    std::string message, context;
};

std::vector<Line> log_of(pqpool_pool* pool) {
    std::vector<Line> lines;
    for (;;) {
        pqpool_log_line line{};
        line.struct_size = sizeof line;
        int32_t taken = 0;
        REQUIRE(pqpool_log_next(pool, &line, &taken) == PQPOOL_OK);
        if (!taken) return lines;
        CHECK(line.unix_time > 1.6e9);
        lines.push_back({line.level, line.lease, line.message, line.context});
    }
}

const Line* find(const std::vector<Line>& lines, std::string_view message) {
    const auto found = std::find_if(lines.begin(), lines.end(),
                                    [&](const Line& line) { return line.message.find(message) != std::string::npos; });
    return found == lines.end() ? nullptr : &*found;
}

// Lines up to one with this message. They are written outside the pool's lock, so one may come a moment after what it
// tells of.
std::vector<Line> log_until(pqpool_pool* pool, std::string_view message) {
    std::vector<Line> lines;
    wait_until([&] {
        for (auto& line : log_of(pool)) lines.push_back(std::move(line));
        return find(lines, message) != nullptr;
    });
    return lines;
}

pqpool_health health_of(pqpool_pool* pool) {
    pqpool_health health{};
    health.struct_size = sizeof health;
    REQUIRE(pqpool_get_health(pool, &health) == PQPOOL_OK);
    return health;
}

int64_t statistic(const pqpool_statistics& statistics, std::string_view wanted) {
    for (int32_t i = 0; i < pqpool_statistic_count(); i++) {
        pqpool_statistic_info info{};
        info.struct_size = sizeof info;
        REQUIRE(pqpool_statistic_describe(i, &info) == PQPOOL_OK);
        if (info.name != wanted) continue;
        int64_t number;
        std::memcpy(&number, reinterpret_cast<const char*>(&statistics) + info.offset, sizeof number);
        return number;
    }
    FAIL("no statistic is called " << wanted);
    return 0;
}

}  // namespace

TEST_CASE("statistics_are_of_this_instant", "[looking]") {
    Pool pool({{"min_size", "2"}, {"max_size", "3"}});
    CHECK(pool.statistics().latency_ms > 0);
    const auto first = pool.acquire(), second = pool.acquire();
    auto s = pool.statistics();
    CHECK(s.active_connections == 2);
    CHECK(s.idle_connections == 0);
    CHECK(s.leases_out == 2);
    CHECK(statistic(s, "active_connections") == 2);
    CHECK(statistic(s, "total_acquisitions") == 2);
    CHECK(pool.release(first) == PQPOOL_OK);
    CHECK(pool.statistics().active_connections == 1);
    CHECK(pool.release(second) == PQPOOL_OK);
    s = pool.statistics();
    CHECK(s.active_connections == 0);
    CHECK(s.total_releases == 2);
    CHECK(s.peak_active_connections == 2);
    CHECK(s.avg_acquisition_time_ms > 0);
    CHECK(s.uptime_ms > 0);
    CHECK(s.pool_created_at > 1'600'000'000'000'000);
    CHECK(s.last_error_time == 0);
    CHECK(s.struct_size == sizeof s);
}

TEST_CASE("every_statistic_is_described", "[looking]") {
    std::size_t end = offsetof(pqpool_statistics, total_connections);
    for (int32_t i = 0; i < pqpool_statistic_count(); i++) {
        pqpool_statistic_info info{};
        info.struct_size = sizeof info;
        REQUIRE(pqpool_statistic_describe(i, &info) == PQPOOL_OK);
        CHECK(info.offset == end);
        CHECK_FALSE(std::string(info.meaning).empty());
        CHECK_FALSE(std::string(info.unit).empty());
        end += sizeof(int64_t);
    }
    CHECK(end == sizeof(pqpool_statistics));
    pqpool_statistic_info info{};
    info.struct_size = sizeof info;
    CHECK(pqpool_statistic_describe(pqpool_statistic_count(), &info) == PQPOOL_INVALID_ARGUMENT);
}

TEST_CASE("health_follows_the_pool", "[looking]") {
    Pool pool({{"min_size", "1"}, {"max_size", "1"}});
    auto health = health_of(pool);
    CHECK(health.status == PQPOOL_HEALTHY);
    CHECK(health.state == PQPOOL_STATE_HEALTHY);
    CHECK(std::string(health.database) == "connected");
    CHECK(health.total_connections == 1);
    CHECK(health.latency_ms > 0);
    CHECK(std::string(health.last_error).empty());
    CHECK(pool.statistics().last_health_check > 0);

    const auto lease = pool.acquire();
    CHECK(health_of(pool).status == PQPOOL_HEALTHY);  // busy is not ill
    CHECK(pool.release(lease) == PQPOOL_OK);

    int32_t status = -1;
    auto statistics = pool.statistics();
    const int64_t now = statistics.last_health_check;
    REQUIRE(pqpool_calculate_health(&statistics, PQPOOL_STATE_HEALTHY, 1, now, &status) == PQPOOL_OK);
    CHECK(status == PQPOOL_HEALTHY);
    statistics.live_connections = 0;
    REQUIRE(pqpool_calculate_health(&statistics, PQPOOL_STATE_HEALTHY, 1, now, &status) == PQPOOL_OK);
    CHECK(status == PQPOOL_UNHEALTHY);
    CHECK(pqpool_calculate_health(&statistics, 99, 1, now, &status) == PQPOOL_INVALID_ARGUMENT);
}

TEST_CASE("a_terminated_session_shows_in_health_without_traffic_and_passes", "[looking]") {
    Pool pool({{"min_size", "1"}, {"max_size", "2"}});
    terminate_idle_backends(pool);
    CHECK(wait_until([&] { return *health_of(pool).last_error != '\0'; }, seconds(1)));
    CHECK(wait_until([&] { return health_of(pool).status == PQPOOL_HEALTHY; }, seconds(3)));
    CHECK(pool.statistics().last_recovery_time >= pool.statistics().last_error_time);
    const auto lines = log_until(pool, "Connection pool recovered");
    const auto* lost = find(lines, "Connection lost");
    REQUIRE(lost);
    CHECK(lost->level == 2);
    CHECK_THAT(lost->context, Catch::Contains("connection_id"));
    CHECK(find(lines, "Connection pool recovered: 1/2 connections available"));
}

TEST_CASE("the_log_tells_of_the_pools_life", "[looking][log]") {
    Pool pool({{"min_size", "2"}, {"max_size", "5"}});
    const auto opened = log_until(pool, "Connection pool initialized");
    const auto* initialized = find(opened, "Connection pool initialized: 2/5 connections available");
    REQUIRE(initialized);
    CHECK(initialized->level == 1);
    CHECK_THAT(initialized->context,
               Catch::StartsWith("{") && Catch::EndsWith("}") && Catch::Contains("\"max_size\": 5"));
    CHECK(log_of(pool).empty());

    REQUIRE(pqpool_set_log_level(pool, 0) == PQPOOL_OK);
    const auto lease = pool.acquire();
    CHECK(pool.release(lease) == PQPOOL_OK);
    const auto used = log_until(pool, "Connection released");
    REQUIRE(find(used, "Connection acquired"));
    CHECK(find(used, "Connection acquired")->lease == lease);
    REQUIRE(find(used, "Connection released"));
    CHECK_THAT(find(used, "Connection released")->context, Catch::Contains("held_duration_seconds"));

    REQUIRE(pqpool_set_log_level(pool, 1) == PQPOOL_OK);
    CHECK(pool.run("SELECT 1").status == PQPOOL_OK);
    CHECK(log_of(pool).empty());
    const auto forgotten = pool.acquire();
    REQUIRE(pqpool_shutdown(pool, 0) == PQPOOL_OK);
    const auto ended = log_until(pool, "Connection pool terminated");
    CHECK(find(ended, "Connection pool shutting down"));
    const auto* forced = find(ended, "Connection closed by force");
    REQUIRE(forced);
    CHECK(forced->lease == forgotten);
    CHECK(find(ended, "Connection pool terminated"));
    CHECK(pool.release(forgotten) == PQPOOL_OK);
}

TEST_CASE("a_lease_held_too_long_is_reported_once", "[looking][log]") {
    Pool pool;
    pqpool_acquire_options options = PQPOOL_ACQUIRE_OPTIONS_INIT;
    options.leak_timeout_ms = 50;
    options.tag = "the forgetful one";
    pqpool_lease lease = 0, unwatched = 0;
    REQUIRE(pqpool_acquire(pool, &options, &lease) == PQPOOL_OK);
    options.leak_timeout_ms = 0;
    REQUIRE(pqpool_acquire(pool, &options, &unwatched) == PQPOOL_OK);
    REQUIRE(wait_until([&] { return health_of(pool).leak_count == 1; }, seconds(2)));
    const auto lines = log_until(pool, "leak");
    const auto* leak = find(lines, "Potential connection leak detected");
    REQUIRE(leak);
    CHECK(leak->level == 2);
    CHECK(leak->lease == lease);
    CHECK_THAT(leak->context, Catch::Contains("the forgetful one") && Catch::Contains("held_duration_seconds"));
    CHECK(pool.execute(lease, "SELECT 1").value() == "1");  // nothing is cut off
    CHECK(pool.release(lease) == PQPOOL_OK);
    CHECK(pool.release(unwatched) == PQPOOL_OK);
    CHECK(health_of(pool).leak_count == 0);
    CHECK(find(log_of(pool), "leak") == nullptr);
}

TEST_CASE("a_queue_that_follows_the_log_turns_readable", "[looking][log][queue]") {
    Pool pool;
    Queue queue(pool);
    log_until(pool, "Connection pool initialized");
    REQUIRE(pqpool_queue_follow_log(queue) == PQPOOL_OK);
    REQUIRE(pqpool_queue_poll(queue, 0) == PQPOOL_OK);
    terminate_idle_backends(pool);
    const auto start = Clock::now();
    REQUIRE(wait_until([&] {
        REQUIRE(pqpool_queue_poll(queue, 1000) == PQPOOL_OK);
        return find(log_of(pool), "Connection lost") != nullptr;
    }));
    CHECK(since(start) < seconds(2));
    Queue second(pool);
    REQUIRE(pqpool_queue_follow_log(second) == PQPOOL_OK);
    REQUIRE(pqpool_queue_poll(second, 0) == PQPOOL_OK);
    queue.free();
    REQUIRE(wait_until([&] { return pool.statistics().idle_connections > 0; }));
    terminate_idle_backends(pool);
    REQUIRE(pqpool_queue_poll(second, 5000) == PQPOOL_OK);  // the end of one follower leaves the other its wake-up
    second.free();
    CHECK(pool.run("SELECT 1").value() == "1");  // lines after the listener's end reach nobody, and harm nobody
}
