#include <catch2/catch.hpp>

#include "core/decide/health.hpp"

using namespace pqpool;

namespace {

constexpr Nanos kNow = 1000 * kSecond;

HealthFacts standing() { return {.state = PoolState::healthy, .min_size = 10, .live = 10, .idle = 10, .now = kNow}; }

template <class Change>
Health judged(Change change) {
    HealthFacts facts = standing();
    change(facts);
    return judge_health(facts);
}

}  // namespace

TEST_CASE("health_is_judged_by_the_rule", "[health]") {
    CHECK(judge_health(standing()) == Health::healthy);

    SECTION("capacity is live connections over min_size") {
        const auto [live, expected] = GENERATE(table<std::int64_t, Health>({{0, Health::unhealthy},
                                                                            {4, Health::unhealthy},
                                                                            {5, Health::degraded},
                                                                            {7, Health::degraded},
                                                                            {8, Health::healthy},
                                                                            {10, Health::healthy},
                                                                            {50, Health::healthy}}));
        CHECK(judged([&](HealthFacts& f) { f.live = live; }) == expected);
    }
    SECTION("a pool that is not running is unhealthy") {
        const auto [state, expected] = GENERATE(table<PoolState, Health>({{PoolState::initializing, Health::unhealthy},
                                                                          {PoolState::healthy, Health::healthy},
                                                                          {PoolState::degraded, Health::healthy},
                                                                          {PoolState::unhealthy, Health::healthy},
                                                                          {PoolState::recovering, Health::degraded},
                                                                          {PoolState::shutting_down, Health::unhealthy},
                                                                          {PoolState::terminated, Health::unhealthy}}));
        CHECK(judged([&](HealthFacts& f) { f.state = state; }) == expected);
    }
    SECTION("a busy pool without waiters is healthy") {
        CHECK(judged([](HealthFacts& f) { f.idle = 0; }) == Health::healthy);
    }
    SECTION("a busy pool with waiters is degraded") {
        CHECK(judged([](HealthFacts& f) { f.idle = 0, f.waiting = 1; }) == Health::degraded);
        CHECK(judged([](HealthFacts& f) { f.idle = 1, f.waiting = 1; }) == Health::healthy);
    }
    SECTION("a slow acquire or a leak is remembered for 60 s") {
        for (auto member : {&HealthFacts::last_slow_acquisition, &HealthFacts::last_leak, &HealthFacts::last_error}) {
            CHECK(judged([&](HealthFacts& f) { f.*member = kNow; }) == Health::degraded);
            CHECK(judged([&](HealthFacts& f) { f.*member = kNow - 60 * kSecond + 1; }) == Health::degraded);
            CHECK(judged([&](HealthFacts& f) { f.*member = kNow - 60 * kSecond; }) == Health::healthy);
        }
    }
    SECTION("an error that a recovery came after is forgotten") {
        CHECK(judged([](HealthFacts& f) { f.last_error = kNow - 2, f.last_recovery = kNow - 1; }) == Health::healthy);
        CHECK(judged([](HealthFacts& f) { f.last_error = kNow - 1, f.last_recovery = kNow - 2; }) == Health::degraded);
    }
    SECTION("no connection is worse than anything else is good") {
        CHECK(judged([](HealthFacts& f) { f.live = 0, f.min_size = 1, f.last_recovery = kNow; }) == Health::unhealthy);
    }
}

TEST_CASE("a_pool_of_one_is_healthy_or_not", "[health]") {
    CHECK(judged([](HealthFacts& f) { f.min_size = 1, f.live = 1; }) == Health::healthy);
    CHECK(judged([](HealthFacts& f) { f.min_size = 1, f.live = 0; }) == Health::unhealthy);
}

TEST_CASE("states_and_health_have_the_documents_names", "[health]") {
    CHECK(std::string(name_of(PoolState::shutting_down)) == "shutting_down");
    CHECK(std::string(name_of(PoolState::terminated)) == "terminated");
    CHECK(std::string(name_of(Health::healthy)) == "healthy");
    CHECK(std::string(name_of(Health::degraded)) == "degraded");
    CHECK(std::string(name_of(Health::unhealthy)) == "unhealthy");
}

TEST_CASE("capacity_is_judged_in_one_place", "[health]") {
    CHECK(capacity_of(0, 1) == Health::unhealthy);
    CHECK(capacity_of(4, 10) == Health::unhealthy);
    CHECK(capacity_of(5, 10) == Health::degraded);
    CHECK(capacity_of(7, 10) == Health::degraded);
    CHECK(capacity_of(8, 10) == Health::healthy);
}

TEST_CASE("errors_and_recoveries_are_told_apart_in_whatever_instant_they_come", "[health]") {
    HealthRecord record;
    const auto health = [&](Nanos unit) {  // as the pool sees it, and as its statistics tell it
        return judged([&](HealthFacts& f) {
            f.now = (kNow + kSecond) / unit;
            f.last_error = record.last_error() / unit;
            f.last_recovery = record.last_recovery() == kNoTime ? kNoTime : record.last_recovery() / unit;
        });
    };
    record.error(kNow);
    CHECK(health(1) == Health::degraded);
    for (const Nanos later : {0, 1, 2, 500, 1500}) {  // ns; faster than the clock of the statistics
        record.stands(kNow + later);
        CHECK(health(1) == Health::healthy);
        CHECK(health(kMicrosecond) == Health::healthy);
        record.error(kNow + later + 1);
        CHECK(health(1) == Health::degraded);
        CHECK(health(kMicrosecond) == Health::degraded);
    }
}

TEST_CASE("waits_that_began_before_the_last_recovery_are_not_slow", "[health]") {
    HealthRecord record;
    record.slow(kNow - kSecond, kNow);
    CHECK(record.last_slow() == kNow);
    record.forget_slow();
    record.stands(kNow);  // without an error this is no recovery
    CHECK(record.last_recovery() == kNoTime);
    record.error(kNow);
    record.stands(kNow + kSecond);
    record.slow(kNow, kNow + 2 * kSecond);
    CHECK(record.last_slow() == kNoTime);
    record.slow(kNow + 2 * kSecond, kNow + 3 * kSecond);
    CHECK(record.last_slow() == kNow + 3 * kSecond);
}
