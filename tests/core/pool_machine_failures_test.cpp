// Connections that do not last, servers that refuse to serve on, openings that hang, and what health says of them.
#include <catch2/catch.hpp>

#include "tests/core/machine_stage.hpp"

using namespace pqpool;
using Kind = Action::Kind;
using Answer = AcquireAnswer::Kind;

// ---- connections that do not last ----

namespace {

// Opens what is asked for, and lets each die at once, for so long.
void let_all_die(Stage& stage, Nanos length) {
    const Nanos end = stage.now + length;
    while (stage.now < end) {
        stage.pass(5 * kMillisecond);
        while (stage.machine.idle() > 0) {
            const SlotId slot = stage.lease();
            stage.release(slot);
            stage.lose(slot);
        }
    }
}

}  // namespace

TEST_CASE("sessions_that_die_as_soon_as_they_open_are_backed_off_from", "[machine][dying]") {
    Stage stage(sizes(4, 10));
    stage.connect_time = kMillisecond;
    stage.start();
    stage.pass(10 * kSecond);
    stage.open_times.clear();
    let_all_die(stage, kSecond / 2);
    stage.forget();
    let_all_die(stage, 30 * kSecond);
    // Each once, some successors, then after 1, 2, 4, 8 and 16 s.
    CHECK(stage.open_times.size() <= 4 + 8 + 4 + 6);
    CHECK(stage.open_times.size() >= 10);
    CHECK(stage.health() == Health::unhealthy);
    CHECK(stage.count(Kind::log_recovered) == 0);
    CHECK(stage.count(Kind::log_unhealthy) == 0);

    SECTION("one that lives for a second ends it") {
        stage.forget();
        stage.pass(20 * kSecond);
        CHECK(stage.count(Kind::log_recovered) == 1);
        CHECK(stage.statistics().idle_connections == 4);
        CHECK(stage.health() == Health::healthy);
    }
    SECTION("who waits is served meanwhile") {
        stage.acquire(1);
        stage.pass(310 * kMillisecond);
        REQUIRE(stage.granted(1));
        stage.release(*stage.granted(1), {.queries = 1});
        stage.pass(500 * kMillisecond);
        CHECK(stage.statistics().total_connections == 1);
        CHECK(stage.machine.state() == PoolState::recovering);
        stage.pass(510 * kMillisecond);
        CHECK(stage.statistics().total_connections == 4);
        CHECK(stage.machine.state() == PoolState::healthy);
    }
}

TEST_CASE("waiting_requests_try_sessions_that_die_at_once_four_times_a_second", "[machine][dying]") {
    Stage stage(sizes(4, 10));
    stage.connect_time = kMillisecond;
    stage.start();
    let_all_die(stage, kSecond);
    stage.open_times.clear();
    for (std::uintptr_t caller = 1; caller <= 8; caller++) stage.acquire(caller, 60 * kSecond);
    const Nanos end = stage.now + 10 * kSecond;
    std::uintptr_t served = 0;
    while (stage.now < end) {
        stage.pass(5 * kMillisecond);
        if (served < 8 && stage.granted(served + 1)) stage.release(*stage.granted(++served), kBroken);
    }
    CHECK(stage.open_times.size() <= 41);
    CHECK(stage.open_times.size() >= 8);
    for (std::size_t i = 1; i < stage.open_times.size(); i++)
        CHECK(stage.open_times[i] - stage.open_times[i - 1] >= 250 * kMillisecond);
}

TEST_CASE("a_killed_connection_and_its_neighbours_are_replaced_at_once", "[machine][dying]") {
    Stage stage(sizes(4, 4));
    stage.connect_time = kMillisecond;
    stage.start();
    stage.pass(2 * kMillisecond);
    for (const SlotId slot : stage.lease_all(4)) {
        stage.lose(slot);
        stage.release(slot, kBroken);
    }
    stage.pass(2 * kMillisecond);
    CHECK(stage.statistics().idle_connections == 4);
    CHECK(stage.health() == Health::healthy);
    CHECK(stage.count(Kind::log_retry) == 0);
}

TEST_CASE("sessions_that_die_during_initialization_end_it", "[machine][dying]") {
    Stage stage(sizes(2, 4));
    stage.answers_connects = false;
    stage.start();
    for (int i = 0; i < 100 && stage.machine.state() == PoolState::initializing; i++) {
        const auto connecting = stage.connecting();
        if (connecting.empty()) {
            stage.pass(50 * kMillisecond);
            continue;
        }
        stage.now += kMillisecond;
        stage.opened(connecting[0]);
        stage.now += kMillisecond;
        stage.lose(connecting[0]);
    }
    CHECK(stage.count(Kind::init_failed) == 1);
    CHECK(stage.open_times.size() <= 2 + 8 + 2 + 3);
    CHECK(stage.connecting().empty());
}

TEST_CASE("connections_that_cannot_be_cleaned_are_not_replaced_at_full_speed", "[machine][dying]") {
    Stage stage(sizes(1, 1));
    stage.connect_time = kMillisecond;
    stage.start();
    stage.pass(2 * kMillisecond);
    stage.open_times.clear();
    for (std::uintptr_t caller = 1; caller <= 100; caller++) {
        stage.acquire(caller, 40 * kMillisecond);
        stage.pass(50 * kMillisecond);
        if (const auto slot = stage.granted(caller)) {
            stage.release(*slot, {.dirty = true, .queries = 1});
            stage.now += kMillisecond;
            stage.clean_ended(*slot, false);
        }
    }
    CHECK(stage.open_times.size() <= 8 + 22);
}

TEST_CASE("a_full_server_is_asked_for_one_connection_at_a_time", "[machine][dying]") {
    Stage stage(sizes(20, 40));
    stage.connect_time = kMillisecond;
    stage.start();
    stage.pass(2 * kSecond);
    const auto held = stage.lease_all(20);
    for (std::size_t i = 0; i < 10; i++) stage.lose(held[i]);
    stage.server_up = false;  // it has ten places left, and we have them
    for (std::size_t i = 0; i < 10; i++) stage.release(held[i], kBroken);
    stage.pass(kSecond);
    stage.open_times.clear();
    for (std::uintptr_t caller = 1; caller <= 10; caller++) stage.acquire(caller, 60 * kSecond);
    stage.pass(10 * kSecond);
    CHECK(stage.open_times.size() <= 41);
    CHECK(stage.open_times.size() >= 30);
    stage.server_up = true;
    stage.pass(400 * kMillisecond);
    for (std::uintptr_t caller = 1; caller <= 10; caller++) CHECK(stage.granted(caller));
}

// ---- a server that refuses to serve on ----

TEST_CASE("a_server_that_refuses_writes_goes_on_serving_reads", "[machine][condemned]") {
    Stage stage(sizes(4, 4));
    stage.connect_time = kMillisecond;
    stage.start();
    stage.pass(2 * kSecond);
    stage.open_times.clear();
    constexpr ReturnedConnection kRefused{.condemned = true, .queries = 1};
    for (int i = 0; i < 1000; i++) {  // ten seconds of writes
        stage.release(stage.lease(), kRefused);
        stage.pass(10 * kMillisecond);
    }
    CHECK(stage.closes(CloseReason::condemned) <= 4 + 40);
    CHECK(stage.open_times.size() <= 4 + 40);
    CHECK(stage.closes(CloseReason::condemned) >= 20);  // but it is tried again
    CHECK(stage.statistics().total_connections >= 3);
}

TEST_CASE("every_connection_from_before_a_failover_is_replaced_at_once", "[machine][condemned]") {
    Stage stage(sizes(4, 4));
    stage.connect_time = kMillisecond;
    stage.start();
    stage.pass(2 * kSecond);
    for (const SlotId slot : stage.lease_all(4)) {
        stage.release(slot, {.condemned = true, .queries = 1});
        stage.pass(2 * kMillisecond);
    }
    CHECK(stage.closes(CloseReason::condemned) == 4);
    CHECK(stage.statistics().idle_connections == 4);
    CHECK(stage.statistics().connections_opened == 8);
}

TEST_CASE("a_condemned_connection_is_kept_while_nothing_would_take_its_place", "[machine][condemned]") {
    Stage stage(sizes(2, 4));
    stage.start();
    stage.pass(2 * kSecond);
    stage.server_up = false;
    const auto held = stage.lease_all(2);
    stage.lose(held[0]);
    stage.release(held[0], kBroken);  // an attempt follows, and fails
    stage.release(held[1], {.condemned = true, .queries = 1});
    CHECK(stage.closes(CloseReason::condemned) == 0);
    CHECK(stage.statistics().idle_connections == 1);
}

// ---- openings that hang ----

TEST_CASE("an_opening_that_hangs_does_not_hold_up_those_who_wait", "[machine][stuck]") {
    Stage stage(sizes(2, 4));
    stage.start();
    stop_server(stage);
    stage.pass(60 * kSecond);
    stage.server_up = true;
    stage.answers_connects = false;  // a black hole
    stage.acquire(1, 300 * kSecond);
    stage.pass(300 * kMillisecond);
    REQUIRE(stage.connecting().size() == 1);
    const SlotId first = stage.connecting()[0];
    stage.open_times.clear();
    stage.pass(60 * kSecond);
    SECTION("another is tried every second at the latest, and few stand at once") {
        CHECK(stage.open_times.size() >= 60);
        CHECK(stage.open_times.size() <= 80);
        CHECK(stage.connecting().size() <= 5);
        CHECK(stage.connecting()[0] == first);  // which may be slow only
    }
    SECTION("when the way is free the next one serves, and those that hang are given up") {
        const auto stuck = stage.connecting();
        stage.pass(750 * kMillisecond);
        stage.opened(stage.connecting().back());
        CHECK(stage.granted(1));
        for (const SlotId slot : stuck) CHECK_FALSE(stage.machine.opened(slot, 0, stage.now));
        for (const SlotId slot : stage.connecting()) stage.opened(slot);
        CHECK(stage.machine.state() == PoolState::healthy);
    }
    SECTION("when the first answers after all it is taken, and max_size holds") {
        stage.opened(first);
        CHECK(stage.granted(1));
        while (!stage.connecting().empty()) stage.opened(stage.connecting()[0]);
        CHECK(stage.open_connections() <= 4);
        CHECK(stage.machine.state() == PoolState::healthy);
    }
}

TEST_CASE("the_first_of_two_openings_for_one_place_has_it", "[machine][stuck]") {
    Stage stage(sizes(1, 1));
    stage.answers_connects = false;
    stage.start();
    stage.acquire(1);
    const SlotId slow = stage.connecting()[0];
    stage.pass(800 * kMillisecond);
    REQUIRE(stage.connecting().size() == 2);
    const SlotId answering = GENERATE(0, 1) == 0 ? slow : stage.connecting()[1];
    stage.opened(answering);
    CHECK(stage.granted(1) == answering);
    CHECK(stage.connecting().empty());
    CHECK(stage.open_connections() == 1);
}

TEST_CASE("an_opening_that_hangs_is_left_alone_where_nobody_needs_it", "[machine][stuck]") {
    Stage stage(sizes(2, 4));
    stage.start();
    stop_server(stage);
    stage.pass(60 * kSecond);
    stage.answers_connects = false;
    stage.pass(18 * kSecond);
    REQUIRE(stage.connecting().size() == 1);
    stage.open_times.clear();
    SECTION("nobody asks") {
        stage.pass(60 * kSecond);
        CHECK(stage.open_times.empty());
    }
    SECTION("somebody asks for its health") {
        for (int i = 0; i < 100; i++) {
            stage.then([](PoolMachine& m, Nanos t) { m.health_asked(t); });
            stage.pass(100 * kMillisecond);
        }
        CHECK(stage.open_times.size() >= 8);
        CHECK(stage.open_times.size() <= 11);
        CHECK(stage.connecting().size() <= 5);
    }
}

TEST_CASE("growth_goes_on_beside_an_opening_that_hangs", "[machine][stuck]") {
    Stage stage(sizes(1, 4));
    stage.start();
    const SlotId held = stage.lease();
    stage.answers_connects = false;
    stage.acquire(1);
    REQUIRE(stage.connecting().size() == 1);
    stage.pass(800 * kMillisecond);
    REQUIRE(stage.connecting().size() == 2);
    stage.opened(stage.connecting()[1]);
    CHECK(stage.granted(1));
    CHECK(stage.connecting().empty());
    CHECK(stage.machine.is_leased(held));
    CHECK(stage.count(Kind::log_retry) == 0);
}

// ---- what health says of a server that does not answer ----

TEST_CASE("an_acquire_that_timed_out_degrades_the_pool_for_60_s", "[machine][health]") {
    Stage stage(sizes(1, 1));
    stage.start();
    const SlotId held = stage.lease();
    SECTION("after it waited") {
        stage.acquire(1, 50 * kMillisecond);
        stage.pass(50 * kMillisecond);
        REQUIRE(stage.failed(1) == ErrorKind::timeout);
    }
    SECTION("without waiting") { CHECK(stage.acquire(1, 0).kind == Answer::refused); }
    SECTION("in its check") {
        stage.then([](PoolMachine& m, Nanos t) { m.timed_out(t - 1, t); });
    }
    CHECK(stage.health() == Health::degraded);
    CHECK(stage.statistics().total_timeouts == 1);
    stage.release(held);
    CHECK(stage.health() == Health::degraded);
    stage.pass(60 * kSecond);
    CHECK(stage.health() == Health::healthy);
}

TEST_CASE("acquires_that_timed_out_in_an_outage_are_forgotten_with_it", "[machine][health]") {
    Stage stage(sizes(2, 4));
    stage.start();
    stop_server(stage);
    stage.acquire(1, kSecond);
    stage.acquire(2, 0);
    stage.pass(5 * kSecond);
    stage.server_up = true;
    stage.pass(20 * kSecond);
    CHECK(stage.statistics().total_timeouts == 2);
    CHECK(stage.health() == Health::healthy);
}

TEST_CASE("connections_long_in_the_pools_hands_are_not_live", "[machine][health]") {
    auto config = sizes(2, 4);
    config.keepalive = 10 * kSecond;
    Stage stage(config);
    stage.start();
    const bool cleaning = GENERATE(true, false);
    if (cleaning)
        for (const SlotId slot : stage.lease_all(2)) stage.release(slot, kDirty);
    else
        stage.pass(10 * kSecond);
    stage.answers_connects = false;  // a frozen server
    CHECK(stage.health() == Health::healthy);
    CHECK(stage.machine.state() == PoolState::healthy);
    stage.pass(100 * kMillisecond);
    CHECK(stage.health() == Health::unhealthy);
    CHECK(stage.machine.state() == PoolState::unhealthy);
    CHECK(stage.statistics().live_connections == 0);
    CHECK(stage.connecting().size() == 1);

    // It thaws.
    for (const auto& action : stage.all(cleaning ? Kind::clean : Kind::check))
        cleaning ? stage.clean_ended(action.slot) : stage.check_ended(action.slot, true);
    CHECK(stage.health() == Health::healthy);
    CHECK(stage.machine.state() == PoolState::healthy);
}
