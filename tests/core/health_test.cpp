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
