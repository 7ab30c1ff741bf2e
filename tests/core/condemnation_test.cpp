#include "core/decide/condemnation.hpp"

#include <catch2/catch.hpp>

using namespace pqpool;

namespace {

constexpr Nanos kNow = 1000 * kSecond;

}  // namespace

TEST_CASE("those_from_before_the_first_refusal_go_at_once_their_successors_four_a_second", "[condemnation]") {
    Condemnation condemnation;
    Random random(5);
    for (int i = 0; i < 10; i++) CHECK(condemnation.may_close(kNow, true, kNow + i, random));
    int closed = 0;
    for (Nanos now = kNow + 10; now < kNow + 10 * kSecond; now += 10 * kMillisecond)
        closed += condemnation.may_close(kNow + 1, true, now, random);
    CHECK(closed >= 33);
    CHECK(closed <= 40);
}

TEST_CASE("a_refusal_a_minute_after_the_last_has_another_cause", "[condemnation]") {
    Condemnation condemnation;
    Random random(5);
    condemnation.may_close(kNow, true, kNow, random);
    const Nanos opened_at = kNow + 1;
    CHECK(condemnation.may_close(opened_at, true, kNow + 1, random));  // a successor
    CHECK_FALSE(condemnation.may_close(opened_at, true, kNow + 2, random));
    const Nanos later = kNow + 2 + 60 * kSecond;
    SECTION("not yet") {
        CHECK(condemnation.may_close(opened_at, true, later - 1, random));
        CHECK_FALSE(condemnation.may_close(opened_at, true, later, random));
    }
    SECTION("after the minute") {
        CHECK(condemnation.may_close(opened_at, true, later, random));
        CHECK(condemnation.may_close(opened_at, true, later, random));
    }
}

TEST_CASE("nothing_is_closed_where_no_other_would_take_its_place", "[condemnation]") {
    Condemnation condemnation;
    Random random(5);
    CHECK_FALSE(condemnation.may_close(kNow, false, kNow, random));
    // That was the first refusal all the same.
    CHECK(condemnation.may_close(kNow, true, kNow + kSecond, random));
    CHECK(condemnation.may_close(kNow, true, kNow + kSecond, random));
}
