#include "core/decide/back_off.hpp"

#include <catch2/catch.hpp>

using namespace pqpool;

namespace {

constexpr Nanos kNow = 1000 * kSecond;

}  // namespace

TEST_CASE("pauses_double_to_16_s", "[back_off]") {
    BackOff back_off;
    Random random(5);
    Nanos now = kNow;
    CHECK_FALSE(back_off.holds());
    for (const int seconds : {1, 2, 4, 8, 16, 16, 16}) {
        CHECK(back_off.failed(now, false, now, random));
        CHECK(back_off.holds());
        CHECK(to_seconds(back_off.due() - now) >= 0.9 * seconds);
        CHECK(to_seconds(back_off.due() - now) <= 1.1 * seconds);
        now = back_off.due();
    }
    CHECK(back_off.failures() == 7);
    back_off.succeeded(1);
    CHECK_FALSE(back_off.holds());
    CHECK(back_off.failures() == 0);
}

TEST_CASE("initialization_pauses_briefly_and_gives_up_after_three", "[back_off]") {
    BackOff back_off;
    Random random(5);
    for (int i = 1; i <= 3; i++) {
        CHECK_FALSE(back_off.is_initialization_hopeless());
        back_off.failed(kNow + i, true, kNow + i, random);
        CHECK(back_off.due() == kNow + i + i * 200 * kMillisecond);
    }
    CHECK(back_off.is_initialization_hopeless());
    CHECK(back_off.at_once() == 32);
}

TEST_CASE("attempts_that_were_under_way_together_count_as_one", "[back_off]") {
    BackOff back_off;
    Random random(5);
    CHECK(back_off.failed(kNow, false, kNow + kSecond, random));
    const Nanos due = back_off.due();
    CHECK_FALSE(back_off.failed(kNow + kSecond, false, kNow + 2 * kSecond, random));
    CHECK(back_off.failures() == 1);
    CHECK(back_off.due() == due);
    back_off.lift();
    CHECK_FALSE(back_off.failed(kNow + kSecond, false, kNow + 2 * kSecond, random));
    CHECK(back_off.due() == kNow + 2 * kSecond + 250 * kMillisecond);  // but the next is not tried at once
    CHECK(back_off.failed(kNow + kSecond + 1, false, kNow + 2 * kSecond, random));
}

TEST_CASE("after_a_failure_one_goes_at_once_then_two_then_four", "[back_off]") {
    BackOff back_off;
    Random random(5);
    CHECK(back_off.at_once() == 32);
    back_off.failed(kNow, false, kNow, random);
    for (const std::int64_t at_once : {1, 2, 4, 8, 16, 32}) {
        CHECK(back_off.at_once() == at_once);
        back_off.succeeded(1);
    }
    CHECK(back_off.at_once() == 32);
    back_off.failed(kNow + 1, false, kNow + 1, random);
    SECTION("a pool that had none left fills at once") { back_off.succeeded(0); }
    SECTION("sessions last again") { back_off.forget_failures(); }
    CHECK(back_off.at_once() == 32);
    CHECK_FALSE(back_off.holds());
}

TEST_CASE("a_request_brings_the_next_attempt_forward_and_never_back", "[back_off]") {
    BackOff back_off;
    Random random(5);
    back_off.demand(random);
    back_off.watch(random);
    CHECK_FALSE(back_off.holds());  // there is nothing to bring forward

    back_off.tried(kNow);
    for (int i = 0; i < 4; i++) back_off.failed(kNow + i, false, kNow + i, random);
    SECTION("one that waits, to four a second") {
        back_off.demand(random);
        CHECK(back_off.due() >= kNow + 250 * kMillisecond);
        CHECK(back_off.due() <= kNow + 300 * kMillisecond);
        const Nanos due = back_off.due();
        back_off.watch(random);
        CHECK(back_off.due() == due);
    }
    SECTION("one for the pool's health, to one a second") {
        back_off.watch(random);
        CHECK(back_off.due() >= kNow + kSecond);
        CHECK(back_off.due() <= kNow + 1050 * kMillisecond);
    }
}

TEST_CASE("somebody_who_watches_has_the_server_tried_once_a_second", "[back_off]") {
    BackOff back_off;
    CHECK_FALSE(back_off.may_try_for_watcher(kNow));  // it has not begun
    back_off.tried(kNow);
    CHECK_FALSE(back_off.may_try_for_watcher(kNow + kSecond - 1));
    CHECK(back_off.may_try_for_watcher(kNow + kSecond));
}
