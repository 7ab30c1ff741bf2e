// From initialization through outages to shutdown, and what health says meanwhile.
#include <catch2/catch.hpp>
#include <set>

#include "tests/core/machine_stage.hpp"

using namespace pqpool;
using Kind = Action::Kind;
using Answer = AcquireAnswer::Kind;

TEST_CASE("initialization_opens_min_size_and_says_so_once", "[machine][life]") {
    Stage stage(sizes(2, 10));
    stage.connect_time = 5 * kMillisecond;
    stage.start();
    CHECK(stage.machine.state() == PoolState::initializing);
    CHECK(stage.health() == Health::unhealthy);
    stage.machine.start(stage.now);  // a second start opens nothing more
    stage.pass(5 * kMillisecond);
    CHECK(stage.machine.state() == PoolState::healthy);
    CHECK(stage.health() == Health::healthy);
    CHECK(stage.count(Kind::initialized) == 1);
    CHECK(stage.statistics().idle_connections == 2);
    CHECK(stage.statistics().total_connections == 2);
    stage.pass(kSecond);
    CHECK(stage.count(Kind::initialized) == 1);
    CHECK(stage.count(Kind::open) == 2);
}

TEST_CASE("initialization_tries_three_times_and_leaves_nothing", "[machine][life]") {
    const Nanos connect_time = GENERATE(Nanos{0}, Nanos{kMillisecond});
    Stage stage(sizes(4, 10));
    stage.server_up = false;
    stage.connect_time = connect_time;
    const Nanos begin = stage.now;
    stage.start();
    stage.acquire(1);
    stage.pass(2 * kSecond);
    CHECK(stage.count(Kind::init_failed) == 1);
    CHECK(stage.count(Kind::initialized) == 0);
    CHECK(std::set<Nanos>(stage.open_times.begin(), stage.open_times.end()).size() == 3);
    CHECK(stage.open_times.back() - begin < kSecond);
    CHECK(stage.failed(1) == ErrorKind::initialization);
    CHECK(stage.machine.state() == PoolState::terminated);
    CHECK(stage.connecting().empty());
    CHECK(stage.statistics().total_connections == 0);
    CHECK(stage.machine.next_deadline() == kNever);
}

TEST_CASE("an_error_that_trying_again_cannot_cure_ends_initialization_at_once", "[machine][life]") {
    Stage stage(sizes(3, 10));
    stage.answers_connects = false;
    stage.start();
    const auto slots = stage.connecting();
    stage.opened(slots[0]);
    stage.open_failed(slots[1], true);
    CHECK(stage.count(Kind::init_failed) == 1);
    CHECK(stage.count(Kind::close) == 2);  // the open one, and the attempt under way
    CHECK(stage.connecting().empty());
    CHECK(stage.open_connections() == 0);
    CHECK_FALSE(stage.machine.opened(slots[2], 0, stage.now));  // the caller closes a late one
    stage.shut_down();
    CHECK(stage.machine.state() == PoolState::terminated);
}

TEST_CASE("a_lease_given_out_before_initialization_failed_ends_at_its_release", "[machine][life]") {
    Stage stage(sizes(2, 10));
    stage.answers_connects = false;
    stage.start();
    const auto slots = stage.connecting();
    stage.opened(slots[0]);
    const SlotId held = stage.lease(10 * kSecond);
    stage.open_failed(slots[1], true);
    CHECK(stage.count(Kind::init_failed) == 1);
    CHECK(stage.machine.is_leased(held));
    CHECK(stage.machine.next_deadline() == kNever);
    stage.release(held);
    CHECK(stage.open_connections() == 0);
}

TEST_CASE("initialization_survives_a_server_that_comes_up_late", "[machine][life]") {
    Stage stage(sizes(2, 10));
    stage.server_up = false;
    stage.start();
    stage.pass(100 * kMillisecond);
    stage.server_up = true;
    stage.pass(kSecond);
    CHECK(stage.count(Kind::initialized) == 1);
    CHECK(stage.statistics().idle_connections == 2);
    CHECK(stage.health() == Health::healthy);  // what failed on the way is over
}

TEST_CASE("with_the_server_down_delays_double_to_16_s", "[machine][life]") {
    Stage stage(sizes(2, 10));
    stage.start();
    stop_server(stage);
    stage.pass(100 * kSecond);
    const auto retries = stage.all(Kind::log_retry);
    REQUIRE(retries.size() >= 7);
    const double expected[] = {1, 2, 4, 8, 16, 16, 16};
    std::set<Nanos> jittered;
    for (std::size_t i = 0; i < 7; i++) {
        CHECK(retries[i].count == static_cast<std::int64_t>(i + 1));
        CHECK(to_seconds(retries[i].duration) >= expected[i] * 0.9);
        CHECK(to_seconds(retries[i].duration) <= expected[i] * 1.1);
        jittered.insert(retries[i].duration);
    }
    CHECK(jittered.size() == 7);
    for (std::size_t i = 4; i < stage.open_times.size(); i++)  // 0 and 1 filled the pool, 2 and on are the tries
        CHECK(stage.open_times[i] - stage.open_times[i - 1] == retries[i - 3].duration);

    stage.pass(3600 * kSecond);
    CHECK(stage.count(Kind::log_retry) > 200);  // for ever
}

TEST_CASE("with_the_server_back_the_pool_recovers", "[machine][life]") {
    Stage stage(sizes(2, 10));
    stage.start();
    stop_server(stage);
    CHECK(stage.machine.state() == PoolState::unhealthy);
    CHECK(stage.count(Kind::log_unhealthy) == 1);
    CHECK(stage.health() == Health::unhealthy);
    stage.pass(200 * kSecond);

    stage.server_up = true;
    stage.pass(18 * kSecond);
    CHECK(stage.machine.state() == PoolState::healthy);
    CHECK(stage.health() == Health::healthy);
    REQUIRE(stage.count(Kind::log_recovered) == 1);
    CHECK(stage.all(Kind::log_recovered)[0].count == 2);
    CHECK(stage.statistics().idle_connections == 2);
    CHECK(stage.count(Kind::initialized) == 1);

    stage.forget();
    stop_server(stage);  // the next outage starts from the first delay again
    REQUIRE(stage.count(Kind::log_retry) == 1);
    CHECK(stage.all(Kind::log_retry)[0].count == 1);
    CHECK(stage.all(Kind::log_retry)[0].duration <= 1100 * kMillisecond);
}

TEST_CASE("one_connection_probes_a_server_that_was_gone", "[machine][life]") {
    Stage stage(sizes(8, 10));
    stage.start();
    stop_server(stage);
    stage.pass(60 * kSecond);
    stage.answers_connects = false;
    stage.pass(18 * kSecond);
    REQUIRE(stage.connecting().size() == 1);
    stage.opened(stage.connecting()[0]);
    CHECK(stage.machine.state() == PoolState::recovering);
    CHECK(stage.connecting().size() == 7);
    for (const SlotId slot : stage.connecting()) stage.opened(slot);
    CHECK(stage.machine.state() == PoolState::healthy);
}

TEST_CASE("a_request_during_reconnection_brings_it_forward", "[machine][life]") {
    Stage stage(sizes(2, 10));
    stage.start();
    stop_server(stage);
    stage.pass(60 * kSecond);
    stage.server_up = true;
    stage.acquire(1);
    stage.pass(300 * kMillisecond);
    CHECK(stage.granted(1));
}

TEST_CASE("requests_try_at_most_four_times_a_second", "[machine][life]") {
    Stage stage(sizes(2, 10));
    stage.start();
    stop_server(stage);
    stage.open_times.clear();
    for (std::uintptr_t caller = 1; caller <= 1000; caller++) {
        stage.acquire(caller, 20 * kSecond);
        stage.pass(10 * kMillisecond);
    }
    CHECK(stage.open_times.size() <= 41);
    CHECK(stage.open_times.size() >= 30);
    for (std::size_t i = 1; i < stage.open_times.size(); i++)
        CHECK(stage.open_times[i] - stage.open_times[i - 1] >= 250 * kMillisecond);
}

TEST_CASE("asking_for_the_health_of_an_empty_pool_brings_reconnection_forward_to_once_a_second", "[machine][life]") {
    Stage stage(sizes(2, 10));
    stage.start();
    stop_server(stage);
    stage.pass(60 * kSecond);
    stage.open_times.clear();
    for (int i = 0; i < 1000; i++) {
        stage.then([](PoolMachine& m, Nanos t) { m.health_asked(t); });
        stage.pass(10 * kMillisecond);
    }
    CHECK(stage.open_times.size() >= 9);
    CHECK(stage.open_times.size() <= 11);
    stage.server_up = true;
    stage.then([](PoolMachine& m, Nanos t) { m.health_asked(t); });
    stage.pass(1100 * kMillisecond);
    CHECK(stage.health() == Health::healthy);
}

TEST_CASE("a_pool_whose_growth_failed_still_refills_to_min", "[machine][life]") {
    Stage stage(sizes(4, 10));
    stage.start();
    stop_server(stage);
    stage.acquire(1, kSecond);
    stage.pass(2 * kSecond);
    CHECK(stage.failed(1) == ErrorKind::timeout);
    stage.server_up = true;
    stage.acquire(2, 2 * kSecond);
    stage.pass(2 * kSecond);
    CHECK(stage.granted(2));
    CHECK(stage.statistics().total_connections >= 4);
}

TEST_CASE("a_growth_that_failed_leaves_a_standing_pool_healthy", "[machine][life]") {
    Stage stage(sizes(2, 10));
    stage.start();
    stage.server_up = false;  // say, the server has no connection slots left
    const auto held = stage.lease_all(2);
    stage.acquire(1);
    stage.pass(10 * kMillisecond);
    stage.release(held[0]);
    CHECK(stage.granted(1));
    CHECK(stage.machine.state() == PoolState::healthy);
    CHECK(stage.health() == Health::healthy);
    CHECK(stage.statistics().connection_failures >= 1);
}

TEST_CASE("waiters_keep_waiting_through_an_outage_until_their_timeout", "[machine][life]") {
    Stage stage(sizes(2, 10));
    stage.start();
    stop_server(stage);
    stage.acquire(1, 5 * kSecond);
    stage.acquire(2, 30 * kSecond);
    stage.pass(5 * kSecond - 1);
    CHECK_FALSE(stage.failed(1));
    stage.pass(1);
    CHECK(stage.failed(1) == ErrorKind::timeout);
    CHECK_FALSE(stage.failed(2));
    stage.server_up = true;
    stage.pass(kSecond);
    CHECK(stage.granted(2));
}

TEST_CASE("abrupt_loss_with_nine_workers_on_three_slots_is_over_soon", "[machine][life]") {
    Stage stage(sizes(3, 3));
    stage.start();
    auto held = stage.lease_all(3);
    for (std::uintptr_t caller = 1; caller <= 6; caller++) stage.acquire(caller);
    stage.connect_time = 5 * kMillisecond;
    for (const SlotId slot : held) stage.lose(slot);
    CHECK(stage.health() == Health::unhealthy);
    for (const SlotId slot : held) stage.release(slot, kBroken);
    stage.pass(100 * kMillisecond);
    for (std::uintptr_t caller = 1; caller <= 3; caller++) {
        REQUIRE(stage.granted(caller));
        stage.release(*stage.granted(caller));
    }
    for (std::uintptr_t caller = 4; caller <= 6; caller++) CHECK(stage.granted(caller));
    CHECK(stage.open_connections() == 3);
}

TEST_CASE("health_follows_an_outage_at_once_both_ways", "[machine][life]") {
    Stage stage(sizes(2, 10));
    stage.start();
    const SlotId held = stage.lease();
    stop_server(stage);
    stage.lose(held);
    CHECK(stage.health() == Health::unhealthy);
    stage.pass(10 * kSecond);
    CHECK(stage.health() == Health::unhealthy);
    stage.release(held, kBroken);
    stage.server_up = true;
    stage.pass(17 * kSecond);
    CHECK(stage.machine.state() == PoolState::healthy);
    CHECK(stage.health() == Health::healthy);
}

TEST_CASE("slow_acquires_of_an_outage_do_not_degrade_the_pool_after_it", "[machine][life]") {
    Stage stage(sizes(2, 4));
    stage.start();
    stop_server(stage);
    for (std::uintptr_t caller = 1; caller <= 8; caller++) stage.acquire(caller);
    stage.pass(5 * kSecond);
    stage.server_up = true;
    stage.pass(kSecond);
    for (std::uintptr_t caller = 1; caller <= 8; caller++) {
        REQUIRE(stage.granted(caller));
        stage.release(*stage.granted(caller));
    }
    CHECK(stage.statistics().waiting_requests == 0);
    CHECK(stage.health() == Health::healthy);
}

TEST_CASE("what_was_slow_before_an_outage_or_during_initialization_is_forgotten", "[machine][life]") {
    Stage stage(sizes(1, 1));
    SECTION("before an outage") {
        stage.start();
        const SlotId slot = stage.lease();
        stage.acquire(1);
        stage.pass(kSecond);
        stage.release(slot);
        stage.release(*stage.granted(1));
        CHECK(stage.health() == Health::degraded);
        stop_server(stage);
        stage.server_up = true;
        stage.pass(2 * kSecond);
    }
    SECTION("during initialization") {
        stage.connect_time = kSecond;
        stage.start();
        stage.acquire(1);
        stage.pass(kSecond);
        stage.release(*stage.granted(1));
    }
    CHECK(stage.health() == Health::healthy);
}

TEST_CASE("a_slow_acquire_with_the_server_up_degrades_the_pool_for_60_s", "[machine][life]") {
    Stage stage(sizes(1, 1));
    stage.start();
    const SlotId slot = stage.lease();
    stage.acquire(1);
    CHECK(stage.health() == Health::degraded);  // somebody waits and every connection is out
    stage.pass(101 * kMillisecond);
    stage.release(slot);
    stage.release(*stage.granted(1));
    CHECK(stage.health() == Health::degraded);
    stage.pass(59 * kSecond);
    CHECK(stage.health() == Health::degraded);
    stage.pass(kSecond);
    CHECK(stage.health() == Health::healthy);
}

TEST_CASE("a_partial_loss_degrades_and_heals", "[machine][life]") {
    Stage stage(sizes(4, 8));
    stage.start();
    stage.server_up = false;
    const auto held = stage.lease_all(4);
    stage.lose(held[0]);
    CHECK(stage.machine.state() == PoolState::degraded);  // three of four
    CHECK(stage.health() == Health::degraded);
    stage.lose(held[1]);
    CHECK(stage.health() == Health::degraded);
    stage.lose(held[2]);
    CHECK(stage.health() == Health::unhealthy);
    stage.server_up = true;
    stage.pass(2 * kSecond);
    CHECK(stage.health() == Health::healthy);
    CHECK(stage.machine.state() == PoolState::healthy);
}

TEST_CASE("shutdown_fails_the_waiters_and_refuses_newcomers", "[machine][life]") {
    Stage stage(sizes(1, 1));
    stage.start();
    const SlotId slot = stage.lease();
    stage.acquire(1);
    stage.acquire(2);
    stage.shut_down();
    CHECK(stage.machine.state() == PoolState::shutting_down);
    CHECK(stage.failed(1) == ErrorKind::closed);
    CHECK(stage.failed(2) == ErrorKind::closed);
    const auto answer = stage.acquire(3);
    CHECK(answer.kind == Answer::refused);
    CHECK(answer.error == ErrorKind::closed);
    CHECK(stage.health() == Health::unhealthy);

    stage.pass(5 * kSecond);
    CHECK(stage.machine.is_leased(slot));
    stage.release(slot);  // ends as soon as the last lease is back
    CHECK(stage.closes(CloseReason::shutdown) == 1);
    CHECK(stage.count(Kind::terminated) == 1);
    CHECK(stage.machine.state() == PoolState::terminated);
    CHECK(stage.statistics().total_connections == 0);
    CHECK(stage.machine.next_deadline() == kNever);
}

TEST_CASE("shutdown_is_bounded_then_by_force", "[machine][life]") {
    Stage stage(sizes(2, 2));
    stage.start();
    const auto held = stage.lease_all(2);
    stage.shut_down(3 * kSecond);
    stage.pass(kSecond);
    stage.release(held[0], kDirty);
    CHECK(stage.closes(CloseReason::shutdown) == 1);  // nothing is cleaned for nobody
    stage.pass(2 * kSecond - 1);
    CHECK(stage.count(Kind::abort) == 0);
    stage.pass(1);
    REQUIRE(stage.count(Kind::abort) == 1);
    CHECK(stage.all(Kind::abort)[0].slot == held[1]);
    CHECK(stage.all(Kind::abort)[0].duration == 3 * kSecond);
    CHECK(stage.count(Kind::terminated) == 1);
    CHECK(stage.statistics().total_connections == 0);
    CHECK(stage.statistics().leases_out == 1);

    stage.release(held[1]);  // the lease that nobody returned, returned at last
    CHECK(stage.statistics().leases_out == 0);
    CHECK(stage.open_connections() == 0);
}

TEST_CASE("two_shutdowns_are_one", "[machine][life]") {
    Stage stage(sizes(2, 2));
    stage.start();
    stage.lease();
    stage.shut_down(30 * kSecond);
    stage.pass(kSecond);
    stage.shut_down(5 * kSecond);  // the less patient of the two decides
    stage.shut_down(60 * kSecond);
    stage.pass(5 * kSecond);
    CHECK(stage.count(Kind::terminated) == 1);
    CHECK(stage.count(Kind::abort) == 1);
    stage.shut_down();
    stage.pass(100 * kSecond);
    CHECK(stage.count(Kind::terminated) == 1);
    CHECK(stage.count(Kind::close) + stage.count(Kind::abort) == 2);
}

TEST_CASE("shutdown_during_slow_connects_leaves_none", "[machine][life]") {
    Stage stage(sizes(4, 10));
    stage.answers_connects = false;
    stage.start();
    const auto slots = stage.connecting();
    REQUIRE(slots.size() == 4);
    stage.shut_down();
    CHECK(stage.connecting().empty());
    CHECK(stage.count(Kind::terminated) == 1);
    for (const SlotId slot : slots) CHECK_FALSE(stage.machine.opened(slot, 0, stage.now));
    CHECK(stage.open_connections() == 0);
}

TEST_CASE("shutdown_in_an_outage_stops_the_tries", "[machine][life]") {
    Stage stage(sizes(2, 10));
    stage.start();
    stop_server(stage);
    stage.shut_down();
    stage.open_times.clear();
    stage.pass(100 * kSecond);
    CHECK(stage.open_times.empty());
    CHECK(stage.machine.state() == PoolState::terminated);
}

TEST_CASE("shutdown_does_not_wait_for_a_lease_that_has_lost_its_connection", "[machine][life]") {
    Stage stage(sizes(1, 1));
    stage.start();
    const SlotId slot = stage.lease();
    stage.shut_down();
    const auto answer = stage.replace(slot, 1);
    CHECK(answer.kind == Answer::refused);
    CHECK(answer.error == ErrorKind::closed);
    CHECK(stage.count(Kind::terminated) == 1);
    stage.machine.released_without_connection();
    CHECK(stage.statistics().leases_out == 0);
}
