// Leases and those who wait for one. Time is stepped; there is no server.
#include <catch2/catch.hpp>

#include "tests/core/machine_stage.hpp"

using namespace pqpool;
using Kind = Action::Kind;
using Answer = AcquireAnswer::Kind;

TEST_CASE("a_free_connection_is_granted_at_once", "[machine]") {
    Stage stage(sizes(2, 10));
    stage.start();
    CHECK(stage.statistics().total_acquisitions == 0);  // the pool's own work is no acquisition

    const SlotId slot = stage.lease();
    CHECK(stage.machine.is_leased(slot));
    CHECK(stage.statistics().active_connections == 1);
    CHECK(stage.statistics().idle_connections == 1);
    CHECK(stage.statistics().total_connections == 2);

    stage.release(slot);
    CHECK_FALSE(stage.machine.is_leased(slot));
    CHECK(stage.statistics().total_releases == 1);
    CHECK(stage.statistics().leases_out == 0);
    CHECK(stage.statistics().peak_active_connections == 1);
}

TEST_CASE("the_connection_used_last_is_taken_first", "[machine]") {
    Stage stage(sizes(3, 3));
    stage.start();
    const auto slots = stage.lease_all(3);
    stage.release(slots[1]);
    stage.release(slots[2]);
    stage.release(slots[0]);
    CHECK(stage.lease() == slots[0]);
    CHECK(stage.lease() == slots[2]);
    CHECK(stage.lease() == slots[1]);
}

TEST_CASE("waiters_are_served_in_the_order_they_came", "[machine]") {
    Stage stage(sizes(1, 1));
    stage.start();
    SlotId slot = stage.lease();
    for (std::uintptr_t caller = 1; caller <= 3; caller++) CHECK(stage.acquire(caller).kind == Answer::waiting);
    for (std::uintptr_t caller = 1; caller <= 3; caller++) {
        stage.release(slot);
        REQUIRE(stage.granted(caller));
        CHECK_FALSE(stage.granted(caller + 1));
        slot = *stage.granted(caller);
    }
}

TEST_CASE("a_newcomer_does_not_overtake_a_waiter", "[machine]") {
    Stage stage(sizes(1, 1));
    stage.start();
    const SlotId slot = stage.lease();
    stage.acquire(1);
    stage.release(slot);  // handed over within this event: there is no moment at which it stands free
    CHECK(stage.granted(1));
    CHECK(stage.acquire(2).kind == Answer::waiting);
}

TEST_CASE("a_waiter_takes_a_returned_connection_before_a_new_one", "[machine]") {
    Stage stage(sizes(1, 2));
    stage.start();
    stage.connect_time = 150 * kMillisecond;
    const SlotId slot = stage.lease();
    stage.acquire(1);
    REQUIRE(stage.connecting().size() == 1);

    stage.pass(10 * kMillisecond);
    stage.release(slot);
    REQUIRE(stage.granted(1));
    CHECK(*stage.granted(1) == slot);

    stage.pass(kSecond);  // the new one is not lost either
    CHECK(stage.statistics().idle_connections == 1);
}

TEST_CASE("a_waiter_times_out_on_time", "[machine]") {
    Stage stage(sizes(1, 1));
    stage.start();
    stage.lease();
    stage.acquire(1, 300 * kMillisecond);
    CHECK(stage.machine.next_deadline() == stage.now + 300 * kMillisecond);
    stage.pass(300 * kMillisecond - 1);
    CHECK_FALSE(stage.failed(1));
    stage.pass(1);
    REQUIRE(stage.failed(1) == ErrorKind::timeout);
    CHECK(stage.all(Kind::fail)[0].duration == 300 * kMillisecond);
    CHECK(stage.statistics().total_timeouts == 1);
    CHECK(stage.statistics().waiting_requests == 0);
}

TEST_CASE("an_acquire_that_may_not_wait_is_refused_at_once", "[machine]") {
    Stage stage(sizes(1, 1));
    stage.start();
    stage.lease();
    const auto answer = stage.acquire(1, 0);
    CHECK(answer.kind == Answer::refused);
    CHECK(answer.error == ErrorKind::timeout);
    CHECK(stage.statistics().total_timeouts == 1);
}

TEST_CASE("a_full_queue_refuses_at_once", "[machine]") {
    auto config = sizes(1, 1);
    config.max_waiting = 2;
    Stage stage(config);
    stage.start();
    const SlotId slot = stage.lease();
    const auto first = stage.acquire(1);
    CHECK(stage.acquire(2).kind == Answer::waiting);
    const auto third = stage.acquire(3);
    CHECK(third.kind == Answer::refused);
    CHECK(third.error == ErrorKind::too_many_requests);
    CHECK(stage.statistics().total_rejected == 1);

    CHECK(stage.machine.cancel(first.waiter));
    CHECK(stage.acquire(4).kind == Answer::waiting);
    stage.release(slot);
    CHECK(stage.granted(2));
}

TEST_CASE("a_waiter_that_timed_out_loses_no_connection", "[machine]") {
    Stage stage(sizes(1, 1));
    stage.start();
    const SlotId slot = stage.lease();
    const auto waiter = stage.acquire(1, kSecond).waiter;
    stage.pass(kSecond);
    CHECK(stage.failed(1) == ErrorKind::timeout);
    stage.release(slot);
    CHECK_FALSE(stage.granted(1));
    CHECK_FALSE(stage.machine.cancel(waiter));
    CHECK(stage.statistics().idle_connections == 1);
    CHECK(stage.lease() == slot);
}

TEST_CASE("a_hand_off_that_raced_with_a_cancel_is_reclaimed", "[machine]") {
    Stage stage(sizes(1, 1));
    stage.start();
    const SlotId slot = stage.lease();
    const auto waiter = stage.acquire(1).waiter;
    stage.acquire(2);
    stage.release(slot);
    REQUIRE(stage.granted(1));
    CHECK_FALSE(stage.machine.cancel(waiter));  // too late: the caller owns it, and gives it back

    stage.release(*stage.granted(1));
    CHECK(stage.granted(2));
}

TEST_CASE("a_cancelled_waiter_is_never_granted", "[machine]") {
    Stage stage(sizes(1, 1));
    stage.start();
    const SlotId slot = stage.lease();
    const auto waiter = stage.acquire(1).waiter;
    CHECK(stage.machine.cancel(waiter));
    CHECK_FALSE(stage.machine.cancel(waiter));
    stage.acquire(2);
    stage.release(slot);
    CHECK_FALSE(stage.granted(1));
    CHECK_FALSE(stage.failed(1));
    CHECK(stage.granted(2));
}

TEST_CASE("a_connect_made_for_a_cancelled_waiter_is_kept_for_others", "[machine]") {
    Stage stage(sizes(1, 3));
    stage.start();
    stage.answers_connects = false;
    stage.lease();
    const auto waiter = stage.acquire(1).waiter;
    const auto connecting = stage.connecting();
    REQUIRE(connecting.size() == 1);
    CHECK(stage.machine.cancel(waiter));
    CHECK(stage.closes(CloseReason::none) == 0);

    stage.acquire(2);
    CHECK(stage.connecting() == connecting);  // the same attempt serves the next one
    stage.opened(connecting[0]);
    REQUIRE(stage.granted(2));
    CHECK(*stage.granted(2) == connecting[0]);
}

TEST_CASE("a_connection_lost_in_a_lease_is_closed_at_its_release", "[machine]") {
    Stage stage(sizes(2, 10));
    stage.start();
    const SlotId slot = stage.lease();
    stage.lose(slot);
    CHECK(stage.count(Kind::log_lost) == 1);
    CHECK(stage.count(Kind::close) == 0);             // its owner may still be reading from it
    CHECK(stage.statistics().live_connections == 2);  // the pool has not waited with the replacement
    CHECK(stage.statistics().connections_lost == 1);

    stage.release(slot, kBroken);
    CHECK(stage.closes(CloseReason::lost) == 1);
    CHECK(stage.count(Kind::log_lost) == 1);
    CHECK(stage.statistics().connections_lost == 1);
    CHECK(stage.statistics().total_connections == 2);
}

TEST_CASE("the_slot_of_a_killed_lease_is_free_at_its_release", "[machine]") {
    Stage stage(sizes(1, 1));
    stage.start();
    const SlotId slot = stage.lease();
    stage.acquire(1);
    stage.lose(slot);
    CHECK_FALSE(stage.granted(1));  // max_size allows no second one yet
    stage.release(slot);
    REQUIRE(stage.granted(1));
    CHECK_FALSE(*stage.granted(1) == slot);
}

TEST_CASE("a_broken_connection_comes_back_while_the_pool_has_room", "[machine]") {
    // The loss is news: the replacement is opened, and the table of slots grows, in the middle of the release.
    Stage stage(sizes(1, 50));
    stage.start();
    for (int i = 0; i < 20; i++) {
        const SlotId slot = stage.lease();
        stage.release(slot, kBroken);
        CHECK(stage.statistics().total_connections == 1);
        CHECK(stage.statistics().live_connections == 1);
    }
    CHECK(stage.closes(CloseReason::lost) == 20);
}

TEST_CASE("a_connection_whose_server_will_not_serve_on_is_not_handed_out_again", "[machine]") {
    Stage stage(sizes(1, 2));
    stage.start();
    stage.release(stage.lease(), {.condemned = true});
    CHECK(stage.closes(CloseReason::condemned) == 1);
    CHECK(stage.statistics().idle_connections == 1);
}

TEST_CASE("a_dead_lease_gets_another_connection_ahead_of_all_who_wait", "[machine]") {
    Stage stage(sizes(1, 1));
    stage.start();
    const SlotId slot = stage.lease();
    stage.acquire(1);
    stage.answers_connects = false;
    CHECK(stage.replace(slot, 2).kind == Answer::waiting);
    CHECK(stage.closes(CloseReason::lost) == 1);
    CHECK(stage.statistics().leases_out == 1);

    stage.opened(stage.connecting().at(0));
    REQUIRE(stage.granted(2));
    CHECK_FALSE(stage.granted(1));
    CHECK(stage.statistics().total_acquisitions == 1);  // one lease, counted once
    stage.release(*stage.granted(2));
    CHECK(stage.granted(1));
    CHECK(stage.statistics().leases_out == 1);
}

TEST_CASE("a_dead_lease_takes_an_idle_connection_at_once", "[machine]") {
    Stage stage(sizes(2, 2));
    stage.start();
    const SlotId dead = stage.lease();
    const auto answer = stage.replace(dead, 1);
    CHECK(answer.kind == Answer::granted);
    CHECK(stage.statistics().total_acquisitions == 1);
    CHECK(stage.statistics().active_connections == 1);
    stage.release(answer.slot);
    CHECK(stage.statistics().leases_out == 0);
    CHECK(stage.statistics().idle_connections == 2);
}

TEST_CASE("a_replacement_that_timed_out_still_counts_as_a_lease_until_released", "[machine]") {
    Stage stage(sizes(1, 1));
    stage.start();
    stage.server_up = false;
    const SlotId slot = stage.lease();
    CHECK(stage.replace(slot, 1, kSecond).kind == Answer::waiting);
    stage.pass(kSecond);
    CHECK(stage.failed(1) == ErrorKind::timeout);
    CHECK(stage.statistics().leases_out == 1);
    CHECK(stage.statistics().active_connections == 0);
    stage.machine.released_without_connection();
    CHECK(stage.statistics().leases_out == 0);
}

TEST_CASE("the_place_of_a_lease_that_may_not_wait_for_its_replacement_goes_to_the_next", "[machine]") {
    Stage stage(sizes(1, 1));
    stage.start();
    const SlotId slot = stage.lease();
    stage.acquire(1);
    CHECK(stage.replace(slot, 2, 0).kind == Answer::refused);
    CHECK(stage.granted(1));
    CHECK(stage.statistics().total_timeouts == 1);  // as of one that waited for it
}

TEST_CASE("a_lease_held_too_long_is_reported_once", "[machine]") {
    Stage stage(sizes(1, 2));
    stage.start();
    const SlotId slot = stage.lease(10 * kSecond);
    stage.pass(10 * kSecond - 1);
    CHECK(stage.count(Kind::log_leak) == 0);
    stage.pass(kSecond);
    REQUIRE(stage.count(Kind::log_leak) == 1);
    CHECK(stage.all(Kind::log_leak)[0].slot == slot);
    CHECK(stage.all(Kind::log_leak)[0].duration >= 10 * kSecond);
    CHECK(stage.statistics().leak_count == 1);
    CHECK(stage.health() == Health::degraded);

    stage.pass(100 * kSecond);
    CHECK(stage.count(Kind::log_leak) == 1);
    CHECK(stage.machine.is_leased(slot));  // nothing is cut off

    stage.release(slot);
    CHECK(stage.statistics().leak_count == 0);
    CHECK(stage.health() == Health::healthy);
}

TEST_CASE("each_lease_has_its_own_leak_limit", "[machine]") {
    Stage stage(sizes(3, 3));
    stage.start();
    const SlotId longer = stage.lease(60 * kSecond), shorter = stage.lease(5 * kSecond);
    stage.lease(kNever);
    stage.pass(6 * kSecond);
    REQUIRE(stage.count(Kind::log_leak) == 1);
    CHECK(stage.all(Kind::log_leak)[0].slot == shorter);
    stage.pass(55 * kSecond);
    REQUIRE(stage.count(Kind::log_leak) == 2);
    CHECK(stage.all(Kind::log_leak)[1].slot == longer);
    stage.pass(3600 * kSecond);
    CHECK(stage.count(Kind::log_leak) == 2);
}

TEST_CASE("a_lease_that_came_by_waiting_is_watched_for_leaks_too", "[machine]") {
    Stage stage(sizes(1, 1));
    stage.start();
    const SlotId slot = stage.lease();
    stage.acquire(1, 30 * kSecond, 2 * kSecond);
    stage.pass(5 * kSecond);
    stage.release(slot);
    stage.pass(2 * kSecond - 1);
    CHECK(stage.count(Kind::log_leak) == 0);  // the wait does not count as holding
    stage.pass(1);
    CHECK(stage.count(Kind::log_leak) == 1);
}

TEST_CASE("a_lease_reported_as_a_leak_is_not_reported_again_after_a_replacement", "[machine]") {
    Stage stage(sizes(2, 2));
    stage.start();
    const SlotId slot = stage.lease(kSecond);
    stage.pass(2 * kSecond);
    CHECK(stage.count(Kind::log_leak) == 1);
    const auto replaced = stage.replace(slot, 1);
    REQUIRE(replaced.kind == Answer::granted);
    stage.pass(10 * kSecond);
    CHECK(stage.count(Kind::log_leak) == 1);
    CHECK(stage.statistics().leak_count == 1);
    stage.release(replaced.slot);
    CHECK(stage.statistics().leak_count == 0);
}

TEST_CASE("a_connection_being_cleaned_keeps_its_place_for_100_ms", "[machine]") {
    Stage stage(sizes(1, 1));
    stage.start();
    stage.answers_connects = false;
    const SlotId slot = stage.lease();
    stage.acquire(1);
    stage.release(slot, kDirty);
    CHECK(stage.count(Kind::clean) == 1);
    CHECK(stage.statistics().total_connections == 0);
    CHECK(stage.statistics().cleaning_connections == 1);
    stage.pass(99 * kMillisecond);
    CHECK(stage.connecting().empty());

    SECTION("clean in time: it serves the waiter") {
        stage.clean_ended(slot);
        REQUIRE(stage.granted(1));
        CHECK(*stage.granted(1) == slot);
        CHECK(stage.connecting().empty());
    }
    SECTION("later: another is opened, and the late one has lost its place") {
        stage.pass(kMillisecond);
        REQUIRE(stage.connecting().size() == 1);
        stage.opened(stage.connecting()[0]);
        CHECK(stage.granted(1));
        stage.clean_ended(slot);
        CHECK(stage.closes(CloseReason::surplus) == 1);
        CHECK(stage.open_connections() == 1);
    }
    SECTION("beyond cleaning: replaced") {
        stage.clean_ended(slot, false);
        CHECK(stage.closes(CloseReason::not_cleaned) == 1);
        REQUIRE(stage.connecting().size() == 1);
        stage.opened(stage.connecting()[0]);
        CHECK(stage.granted(1));
    }
}

TEST_CASE("a_late_cleaned_connection_respects_the_places_of_others_being_cleaned", "[machine]") {
    Stage stage(sizes(1, 2));
    stage.start();
    const SlotId slow = stage.lease();
    stage.release(slow, kDirty);
    stage.pass(200 * kMillisecond);
    const SlotId successor = stage.lease();
    stage.acquire(1);
    REQUIRE(stage.granted(1));
    stage.release(successor, kDirty);
    stage.clean_ended(slow);  // one is leased and one is being cleaned: max_size is reached without it
    CHECK(stage.closes(CloseReason::surplus) == 1);
    CHECK(stage.open_connections() == 2);
}

TEST_CASE("a_paused_pool_lets_acquires_wait", "[machine]") {
    Stage stage(sizes(2, 2));
    stage.start();
    const SlotId held = stage.lease();
    stage.then([](PoolMachine& m, Nanos t) { m.pause(t); });
    CHECK(stage.acquire(1).kind == Answer::waiting);
    CHECK(stage.acquire(2, kSecond).kind == Answer::waiting);
    CHECK(stage.acquire(3).kind == Answer::waiting);
    stage.release(held);
    CHECK(stage.count(Kind::grant) == 0);
    CHECK(stage.statistics().idle_connections == 2);
    stage.pass(2 * kSecond);
    CHECK(stage.failed(2) == ErrorKind::timeout);

    stage.then([](PoolMachine& m, Nanos t) { m.resume(t); });
    CHECK(stage.granted(1));
    CHECK(stage.granted(3));
}

TEST_CASE("waits_are_measured", "[machine]") {
    Stage stage(sizes(1, 1));
    stage.start();
    stage.machine.record_wait(2 * kMillisecond);
    const SlotId slot = stage.lease();
    stage.acquire(1);
    stage.pass(50 * kMillisecond);
    stage.release(slot);
    const auto s = stage.statistics();
    CHECK(s.avg_acquisition_time_ms == Approx(26.0));
    CHECK(s.peak_wait_time_ms == Approx(50.0));
    CHECK(s.peak_waiting_requests == 1);
    CHECK(s.acquisition_p99_ms == Approx(50.0).epsilon(0.13));
}

TEST_CASE("a_late_event_about_a_slot_that_is_gone_changes_nothing", "[machine]") {
    Stage stage(sizes(2, 4));
    stage.start();
    const SlotId gone = stage.lease();
    stage.release(gone, kBroken);
    stage.lease();  // its place in the table is used again
    stage.forget();
    const auto before = stage.statistics();
    CHECK_FALSE(stage.machine.opened(gone, 0, stage.now));
    stage.open_failed(gone, true);
    stage.lose(gone);
    stage.clean_ended(gone);
    stage.check_ended(gone, false);
    CHECK(stage.seen.empty());
    CHECK(stage.statistics().total_connections == before.total_connections);
    CHECK(stage.statistics().connections_lost == before.connections_lost);
    CHECK(stage.statistics().connection_failures == before.connection_failures);
}
