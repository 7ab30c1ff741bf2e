// How many connections, and when: filling, growth, shrinking, recycling, drain, resize.
#include <catch2/catch.hpp>
#include <deque>
#include <map>

#include "tests/core/machine_stage.hpp"

using namespace pqpool;
using Kind = Action::Kind;
using Answer = AcquireAnswer::Kind;

namespace {

// How many are open at once for a request that waits, before anybody is served by them. Raised while requests keep
// waiting.
constexpr std::int64_t kMostAtOnceForWaiters = 3;

// `count` requests at once, each of which holds its connection for `hold`.
void run_burst(Stage& stage, std::uintptr_t count, Nanos hold) {
    std::multimap<Nanos, SlotId> ends;
    std::uintptr_t done = 0;
    for (std::uintptr_t caller = 1; caller <= count; caller++) {
        const auto answer = stage.acquire(caller);
        if (answer.kind == Answer::granted) ends.emplace(stage.now + hold, answer.slot);
    }
    while (done < count) {
        for (const auto& grant : stage.all(Kind::grant)) ends.emplace(stage.now + hold, grant.slot);
        stage.forget();
        const Nanos next =
            ends.empty() ? stage.now + kMillisecond : std::min(ends.begin()->first, stage.now + kMillisecond);
        stage.pass(next - stage.now);
        while (!ends.empty() && ends.begin()->first <= stage.now) {
            const SlotId slot = ends.begin()->second;
            ends.erase(ends.begin());
            stage.release(slot);
            done++;
        }
    }
}

}  // namespace

TEST_CASE("concurrent_filling_opens_several_at_once", "[machine][sizing]") {
    Stage stage(sizes(5, 10));
    stage.connect_time = 100 * kMillisecond;
    stage.start();
    CHECK(stage.connecting().size() == 5);
    stage.pass(100 * kMillisecond);
    CHECK(stage.statistics().idle_connections == 5);
    CHECK(stage.count(Kind::initialized) == 1);
}

TEST_CASE("filling_a_large_pool_is_bounded", "[machine][sizing]") {
    Stage stage(sizes(100, 100));
    stage.connect_time = 10 * kMillisecond;
    stage.start();
    CHECK(stage.connecting().size() == 32);
    stage.pass(40 * kMillisecond);
    CHECK(stage.statistics().idle_connections == 100);
}

TEST_CASE("requests_that_go_on_waiting_make_the_pool_grow_faster_up_to_max_size", "[machine][sizing]") {
    Stage stage(sizes(2, 10));
    stage.start();
    stage.lease_all(2);
    stage.connect_time = 10 * kMillisecond;
    for (std::uintptr_t caller = 1; caller <= 20; caller++) stage.acquire(caller);
    std::size_t most = 0;
    for (int i = 0; i < 60; i++) {
        most = std::max(most, stage.connecting().size());
        stage.pass(kMillisecond);
    }
    CHECK(most == kMostAtOnceForWaiters);
    CHECK(stage.statistics().active_connections == 10);
    CHECK(stage.connecting().empty());
    CHECK(stage.statistics().waiting_requests == 12);
}

TEST_CASE("growth_begins_with_one_again_once_nobody_waits", "[machine][sizing]") {
    Stage stage(sizes(2, 4));
    stage.start();
    stage.connect_time = 10 * kMillisecond;
    run_burst(stage, 40, 50 * kMillisecond);
    REQUIRE(stage.statistics().idle_connections == 4);
    stage.pass(61 * kSecond);
    stage.lease_all(2);
    for (std::uintptr_t caller = 1; caller <= 5; caller++) stage.acquire(caller);
    CHECK(stage.connecting().size() == 1);
}

TEST_CASE("a_spike_of_short_jobs_ends_with_few_connections", "[machine][sizing]") {
    // psycopg_pool's figures: 50 jobs of 2 ms, a connect takes 150 ms, from 5 connections to under 7.
    const auto min_size = GENERATE(2, 5);
    Stage stage(sizes(min_size, 10));
    stage.start();
    stage.connect_time = 150 * kMillisecond;
    run_burst(stage, 50, 2 * kMillisecond);
    stage.pass(kSecond);
    CHECK(stage.statistics().total_releases == 50);
    CHECK(stage.statistics().total_connections < 7);
    CHECK(stage.statistics().waiting_requests == 0);
}

TEST_CASE("a_hundred_jobs_on_ten_connections_all_run", "[machine][sizing]") {
    Stage stage(sizes(2, 10));
    stage.start();
    stage.connect_time = 5 * kMillisecond;
    run_burst(stage, 100, 10 * kMillisecond);
    CHECK(stage.statistics().total_releases == 100);
    CHECK(stage.statistics().peak_active_connections <= 10);
    CHECK(stage.statistics().waiting_requests == 0);
}

TEST_CASE("an_overload_that_subsides_leaves_a_pool_that_serves_at_once", "[machine][sizing]") {
    Stage stage(sizes(2, 10));
    stage.start();
    stage.connect_time = 5 * kMillisecond;
    run_burst(stage, 2000, 3 * kMillisecond);
    CHECK(stage.statistics().waiting_requests == 0);
    CHECK(stage.statistics().idle_connections == stage.statistics().total_connections);
    CHECK(stage.acquire(0, 0).kind == Answer::granted);
}

TEST_CASE("idle_connections_above_min_are_closed_after_max_idle_time", "[machine][sizing]") {
    Stage stage(sizes(2, 6));
    stage.start();
    stage.lease_all(2);
    for (std::uintptr_t caller = 1; caller <= 4; caller++) stage.acquire(caller);
    for (std::uintptr_t caller = 1; caller <= 4; caller++) stage.release(stage.granted(caller).value());
    REQUIRE(stage.statistics().idle_connections == 4);

    stage.pass(60 * kSecond - 1);
    CHECK(stage.closes(CloseReason::max_idle_time) == 0);
    stage.pass(1);
    CHECK(stage.closes(CloseReason::max_idle_time) == 4);  // two are leased, so min_size stands without these
    CHECK(stage.statistics().total_connections == 2);
    stage.pass(600 * kSecond);
    CHECK(stage.statistics().total_connections == 2);
}

TEST_CASE("shrinking_stops_at_min_size", "[machine][sizing]") {
    Stage stage(sizes(3, 8));
    stage.start();
    run_burst(stage, 60, 20 * kMillisecond);
    REQUIRE(stage.statistics().idle_connections > 3);
    stage.pass(61 * kSecond);
    CHECK(stage.statistics().idle_connections == 3);
    stage.pass(1000 * kSecond);
    CHECK(stage.statistics().idle_connections == 3);
    CHECK(stage.count(Kind::open) == 0);  // nothing is opened only to be closed
}

TEST_CASE("a_connection_in_use_is_not_idle", "[machine][sizing]") {
    Stage stage(sizes(1, 2));
    stage.start();
    const SlotId first = stage.lease();
    stage.acquire(1);
    const SlotId second = stage.granted(1).value();
    for (int i = 0; i < 30; i++) {
        stage.pass(10 * kSecond);
        stage.release(first);
        stage.release(second);
        CHECK(stage.lease() == second);
        CHECK(stage.lease() == first);
    }
    CHECK(stage.closes(CloseReason::max_idle_time) == 0);
}

TEST_CASE("a_connection_at_the_end_of_its_life_is_replaced_before_it_is_missed", "[machine][sizing]") {
    Stage stage(sizes(1, 2));
    stage.start();
    const Nanos born = stage.now;
    stage.pass(3400 * kSecond);  // no jitter shortens a life by more than 5 %
    CHECK(stage.count(Kind::close) == 0);
    while (stage.closes(CloseReason::max_lifetime) == 0) {
        stage.pass(kSecond / 2);
        CHECK(stage.statistics().idle_connections >= 1);
        REQUIRE(stage.now - born <= 3601 * kSecond);
    }
    CHECK(stage.statistics().total_connections == 1);
    CHECK(stage.statistics().connections_opened == 2);
}

TEST_CASE("connections_opened_together_do_not_end_together", "[machine][sizing]") {
    Stage stage(sizes(10, 20));
    stage.start();
    std::vector<std::size_t> closed;
    for (int i = 0; i < 3600; i++) {
        stage.pass(kSecond);
        if (closed.empty() || stage.count(Kind::close) != closed.back()) closed.push_back(stage.count(Kind::close));
    }
    CHECK(closed.back() == 10);
    CHECK(closed.size() > 6);
}

TEST_CASE("a_life_that_ends_in_a_lease_is_replaced_before_and_closed_after", "[machine][sizing]") {
    Stage stage(sizes(1, 2));
    stage.start();
    const SlotId slot = stage.lease();
    stage.pass(3600 * kSecond);
    CHECK(stage.machine.is_leased(slot));
    CHECK(stage.statistics().idle_connections == 1);  // its successor
    stage.release(slot);
    CHECK(stage.closes(CloseReason::max_lifetime) == 1);
    CHECK(stage.statistics().total_connections == 1);
}

TEST_CASE("a_life_ends_on_time_however_the_connection_came_to_be_idle", "[machine][sizing]") {
    Stage stage(sizes(1, 1));  // no room for a successor beside it
    stage.start();
    const SlotId slot = stage.lease();
    SECTION("released in its last seconds") {
        while (stage.machine.next_deadline() != kNever) stage.pass(stage.machine.next_deadline() - stage.now);
        stage.release(slot);
    }
    SECTION("cleaned for long") {
        stage.release(slot, kDirty);
        stage.pass(kSecond);
        stage.clean_ended(slot);
    }
    CHECK(stage.closes(CloseReason::max_lifetime) == 0);
    stage.pass(3601 * kSecond);
    CHECK(stage.closes(CloseReason::max_lifetime) >= 1);
    CHECK(stage.statistics().idle_connections == 1);
}

TEST_CASE("the_last_seconds_of_a_life_do_not_wake_the_pool_at_each_release", "[machine][sizing]") {
    Stage stage(sizes(1, 1));
    stage.start();
    const SlotId slot = stage.lease();
    while (stage.machine.next_deadline() != kNever) stage.pass(stage.machine.next_deadline() - stage.now);
    stage.release(slot);
    CHECK(stage.machine.next_deadline() > stage.now + kSecond);
}

TEST_CASE("a_connection_near_max_queries_is_replaced_before_it_is_missed", "[machine][sizing]") {
    auto config = sizes(1, 2);
    config.max_queries = 1000;
    Stage stage(config);
    stage.start();
    const SlotId slot = stage.lease();
    stage.release(slot, {.queries = 949});
    CHECK(stage.statistics().total_connections == 1);
    CHECK(stage.lease() == slot);
    stage.release(slot, {.queries = 960});
    CHECK(stage.statistics().idle_connections == 2);  // the successor stands

    const auto both = stage.lease_all(2);
    stage.release(slot, {.queries = 1000});
    CHECK(stage.closes(CloseReason::max_queries) == 1);
    CHECK(stage.statistics().total_connections == 1);
}

TEST_CASE("a_quiet_pool_keeps_the_successor_and_not_the_connection_near_its_end", "[machine][sizing]") {
    auto config = sizes(2, 4);
    config.max_queries = 1000;
    config.max_lifetime = 100'000 * kSecond;
    Stage stage(config);
    stage.start();
    const auto slots = stage.lease_all(2);
    const SlotId old = GENERATE(0, 1) ? slots[0] : slots[1];
    for (const SlotId slot : slots) stage.release(slot, {.queries = slot == old ? 960 : 0});
    REQUIRE(stage.statistics().idle_connections == 3);
    stage.pass(1000 * kSecond);
    CHECK(stage.statistics().idle_connections == 2);
    CHECK(stage.statistics().connections_opened == 3);  // and no connection is opened and closed in turn
}

TEST_CASE("a_lost_lease_near_the_end_of_its_life_is_replaced_by_one", "[machine][sizing]") {
    auto config = sizes(2, 10);
    config.max_queries = 1000;
    Stage stage(config);
    stage.start();
    const SlotId slot = stage.lease();
    stage.release(slot, {.queries = 960});
    const auto held = stage.lease_all(3);
    stage.lose(slot);
    CHECK(stage.statistics().live_connections == 2);
    stage.release(slot, kBroken);
    CHECK(stage.statistics().total_connections == 2);
}

TEST_CASE("a_connection_near_its_end_that_is_long_in_cleaning_is_replaced_by_one", "[machine][sizing]") {
    auto config = sizes(2, 10);
    config.max_queries = 1000;
    Stage stage(config);
    stage.start();
    stage.release(stage.lease(), {.dirty = true, .queries = 960});
    CHECK(stage.statistics().connections_opened == 3);  // its successor
    stage.pass(kSecond);
    CHECK(stage.statistics().cleaning_connections == 1);
    CHECK(stage.statistics().connections_opened == 3);
}

TEST_CASE("a_lease_whose_connection_is_dead_does_not_stand_for_an_idle_one", "[machine][sizing]") {
    Stage stage(sizes(2, 4));
    stage.start();
    const SlotId dead = stage.lease();
    stage.lose(dead);
    REQUIRE(stage.statistics().idle_connections == 2);  // its successor stands
    stage.pass(600 * kSecond);                          // and the lease is kept for long
    CHECK(stage.closes(CloseReason::max_idle_time) == 0);
    CHECK(stage.statistics().connections_opened == 3);  // no connection is closed and opened in turn
}

TEST_CASE("a_connection_that_others_make_one_too_many_ends_when_it_has_been_idle_for_long", "[machine][sizing]") {
    Stage stage(sizes(1, 2));
    stage.start();
    const SlotId first = stage.lease();
    stage.answers_connects = false;
    const auto waiter = stage.acquire(1).waiter;
    stage.machine.cancel(waiter);
    const Nanos idle_since = stage.now;
    stage.release(first);
    stage.pass(500 * kMillisecond);
    REQUIRE(stage.connecting().size() == 1);
    stage.opened(stage.connecting()[0]);
    stage.pass(idle_since + 60 * kSecond - 1 - stage.now);
    CHECK(stage.closes(CloseReason::max_idle_time) == 0);
    stage.pass(1);
    CHECK(stage.closes(CloseReason::max_idle_time) == 1);
}

TEST_CASE("keepalive_checks_idle_connections", "[machine][sizing]") {
    auto config = sizes(2, 4);
    config.keepalive = 10 * kSecond;
    config.max_idle_time = 60 * kSecond;
    Stage stage(config);
    stage.start();
    stage.pass(10 * kSecond - 1);
    CHECK(stage.count(Kind::check) == 0);
    stage.pass(1);
    const auto checks = stage.all(Kind::check);
    REQUIRE(checks.size() == 2);
    CHECK(stage.statistics().idle_connections == 0);
    CHECK(stage.statistics().opening_connections == 2);
    CHECK(stage.health() == Health::healthy);
    CHECK(stage.acquire(1).kind == Answer::waiting);  // for less than a round trip

    stage.check_ended(checks[0].slot, true);
    CHECK(stage.granted(1));
    CHECK(stage.statistics().latency_ms == Approx(1.0));
    stage.check_ended(checks[1].slot, false);
    CHECK(stage.closes(CloseReason::lost) == 1);
    CHECK(stage.count(Kind::log_lost) == 1);
    CHECK(stage.statistics().live_connections >= 2);

    stage.release(*stage.granted(1));
    stage.forget();
    stage.pass(9 * kSecond);
    CHECK(stage.count(Kind::check) == 0);  // use is as good as a check
    stage.pass(kSecond);
    CHECK(stage.count(Kind::check) >= 1);
}

TEST_CASE("a_check_does_not_make_an_idle_connection_younger", "[machine][sizing]") {
    auto config = sizes(1, 2);
    config.keepalive = 25 * kSecond;
    Stage stage(config);
    stage.start();
    const SlotId first = stage.lease();
    stage.acquire(1);
    stage.release(first);
    stage.release(stage.granted(1).value());
    for (int i = 0; i < 61; i++) {
        stage.pass(kSecond);
        for (const auto& check : stage.all(Kind::check)) stage.check_ended(check.slot, true);
    }
    CHECK(stage.closes(CloseReason::max_idle_time) == 1);
}

TEST_CASE("drain_replaces_idle_and_leased_connections", "[machine][sizing]") {
    auto config = sizes(4, 4);
    config.keepalive = 10 * kSecond;
    Stage stage(config);
    stage.start();
    const SlotId leased = stage.lease(), cleaning = stage.lease();
    SECTION("with two being checked") {
        stage.pass(10 * kSecond);
        REQUIRE(stage.count(Kind::check) == 2);
        stage.release(cleaning, kDirty);
        stage.then([](PoolMachine& m, Nanos t) { m.drain(t); });
        for (const auto& check : stage.all(Kind::check)) stage.check_ended(check.slot, true);
    }
    SECTION("with two idle") {
        stage.release(cleaning, kDirty);
        stage.pass(50 * kMillisecond);
        stage.then([](PoolMachine& m, Nanos t) { m.drain(t); });
    }
    CHECK(stage.closes(CloseReason::drained) == 2);
    CHECK(stage.machine.is_leased(leased));
    stage.clean_ended(cleaning);
    CHECK(stage.closes(CloseReason::drained) == 3);
    stage.release(leased);
    CHECK(stage.closes(CloseReason::drained) == 4);
    CHECK(stage.closes(CloseReason::condemned) == 0);
    CHECK(stage.statistics().idle_connections == 4);
    CHECK(stage.statistics().connections_opened == 8);

    const SlotId fresh = stage.lease();  // drained were those of then, not those of now
    stage.release(fresh);
    CHECK(stage.statistics().connections_opened == 8);
}

TEST_CASE("drain_replaces_connections_that_were_being_opened", "[machine][sizing]") {
    // Their sessions may have begun before what the drain is for.
    Stage stage(sizes(2, 4));
    stage.answers_connects = false;
    stage.start();
    const auto old = stage.connecting();
    stage.then([](PoolMachine& m, Nanos t) { m.drain(t); });
    for (const SlotId slot : old) stage.opened(slot);
    CHECK(stage.closes(CloseReason::drained) == 2);
    CHECK(stage.count(Kind::initialized) == 0);
    const auto fresh = stage.connecting();
    REQUIRE(fresh.size() == 2);
    for (const SlotId slot : fresh) stage.opened(slot);
    CHECK(stage.closes(CloseReason::drained) == 2);
    CHECK(stage.count(Kind::initialized) == 1);
    CHECK(stage.statistics().idle_connections == 2);
}

TEST_CASE("an_emptied_pool_refills", "[machine][sizing]") {
    Stage stage(sizes(4, 10));
    stage.start();
    const auto slots = stage.lease_all(4);
    for (const SlotId slot : slots) stage.release(slot);
    stage.connect_time = 20 * kMillisecond;
    for (const SlotId slot : slots) stage.lose(slot);
    CHECK(stage.statistics().total_connections == 0);
    stage.pass(kSecond);
    CHECK(stage.statistics().idle_connections == 4);
}

TEST_CASE("evictions_among_many_acquires_fail_none", "[machine][sizing]") {
    Stage stage(sizes(2, 5));
    stage.start();
    std::deque<SlotId> held;
    for (std::uintptr_t i = 1; i <= 10'000; i++) {
        const auto answer = stage.acquire(i);
        held.push_back(answer.kind == Answer::granted ? answer.slot : stage.granted(i).value());
        stage.forget();
        if (i % 7 == 0) stage.then([](PoolMachine& m, Nanos t) { m.drain(t); });
        if (held.size() == 5) {
            stage.release(held.front(), i % 11 == 0 ? kBroken : kClean);
            held.pop_front();
        }
    }
    CHECK(stage.statistics().total_acquisitions == 10'000);
    CHECK(stage.statistics().total_timeouts == 0);
    CHECK(stage.open_connections() <= 5);
}

TEST_CASE("resize_raises_and_lowers", "[machine][sizing]") {
    Stage stage(sizes(2, 2));
    stage.start();
    stage.lease_all(2);
    stage.acquire(1);
    CHECK_FALSE(stage.granted(1));
    stage.then([](PoolMachine& m, Nanos t) { m.resize(4, 8, t); });
    CHECK(stage.granted(1));
    CHECK(stage.statistics().total_connections >= 4);

    SECTION("idle ones above max_size go at once, leased ones at their release") {
        const auto idle = stage.statistics().idle_connections;
        stage.then([](PoolMachine& m, Nanos t) { m.resize(1, 1, t); });
        CHECK(stage.statistics().idle_connections == 0);
        CHECK(stage.closes(CloseReason::surplus) == static_cast<std::size_t>(idle));
        CHECK(stage.statistics().active_connections == 3);
        stage.release(*stage.granted(1));
        CHECK(stage.statistics().total_connections == 2);
    }
    SECTION("idle ones above min_size go when idle for long") {
        stage.release(*stage.granted(1));
        stage.then([](PoolMachine& m, Nanos t) { m.resize(2, 8, t); });
        CHECK(stage.statistics().total_connections == 4);
        stage.pass(61 * kSecond);
        CHECK(stage.statistics().total_connections == 2);
    }
}

TEST_CASE("a_lowered_max_size_holds_for_connections_in_the_pools_own_hands", "[machine][sizing]") {
    auto config = sizes(6, 6);
    config.keepalive = 10 * kSecond;
    Stage stage(config);
    const auto lower = [](PoolMachine& m, Nanos t) { m.resize(1, 2, t); };
    SECTION("opening") {
        stage.answers_connects = false;
        stage.start();
        stage.then(lower);
        for (const SlotId slot : stage.connecting()) stage.opened(slot);
    }
    SECTION("being checked") {
        stage.start();
        stage.pass(10 * kSecond);
        stage.then(lower);
        for (const auto& check : stage.all(Kind::check)) stage.check_ended(check.slot, true);
    }
    SECTION("being cleaned") {
        stage.start();
        const auto slots = stage.lease_all(6);
        for (const SlotId slot : slots) stage.release(slot, kDirty);
        stage.then(lower);
        for (const SlotId slot : slots) stage.clean_ended(slot);
    }
    CHECK(stage.open_connections() <= 2);
    CHECK(stage.statistics().idle_connections >= 1);
}
