#include "core/decide/upkeep.hpp"

#include <catch2/catch.hpp>

using namespace pqpool;

namespace {

struct Scene {
    explicit Scene(Nanos keepalive = kNever)
        : upkeep({.max_queries = 1000,
                  .max_idle_time = 60 * kSecond,
                  .max_lifetime = 3600 * kSecond,
                  .keepalive = keepalive}) {
        slot().retire_at = 3600 * kSecond;
    }
    Slot& slot() { return ledger[index]; }
    void be(SlotState state) { ledger.move(index, state); }
    Upkeep::Task look(Nanos now) {
        upkeep.begin_round();
        return upkeep.look(ledger, sizing, index, now);
    }

    SlotLedger ledger;
    std::uint32_t index = ledger.add(0);
    Sizing sizing{1, 4};
    Upkeep upkeep;
};

}  // namespace

TEST_CASE("a_connection_is_retired_by_age_use_or_condemnation", "[upkeep]") {
    Scene scene;
    CHECK(scene.upkeep.retired(scene.slot(), 3600 * kSecond - 1) == CloseReason::none);
    CHECK(scene.upkeep.retired(scene.slot(), 3600 * kSecond) == CloseReason::max_lifetime);
    scene.slot().queries = 949;
    CHECK_FALSE(scene.upkeep.is_worn(scene.slot()));
    scene.slot().queries = 950;  // at 95 % its successor is opened
    CHECK(scene.upkeep.is_worn(scene.slot()));
    CHECK(scene.upkeep.retired(scene.slot(), 0) == CloseReason::none);
    scene.slot().queries = 1000;
    CHECK(scene.upkeep.retired(scene.slot(), 0) == CloseReason::max_queries);
    scene.slot().condemned = CloseReason::drained;
    CHECK(scene.upkeep.retired(scene.slot(), 0) == CloseReason::drained);
}

TEST_CASE("lives_end_up_to_a_twentieth_early", "[upkeep]") {
    const Scene scene;
    Random random(3);
    Nanos least = kNever, most = 0;
    for (int i = 0; i < 1000; i++) {
        const Nanos end = scene.upkeep.end_of_life(kSecond, random) - kSecond;
        least = std::min(least, end);
        most = std::max(most, end);
    }
    CHECK(least >= 3420 * kSecond);
    CHECK(least < 3425 * kSecond);
    CHECK(most <= 3600 * kSecond);
    CHECK(most > 3595 * kSecond);
}

TEST_CASE("a_connection_wanes_five_seconds_before_its_life_ends", "[upkeep]") {
    Scene scene;
    scene.be(GENERATE(SlotState::idle, SlotState::leased));
    scene.look(3595 * kSecond - 1);
    CHECK_FALSE(scene.slot().is_waning());
    CHECK(scene.upkeep.due() == 3595 * kSecond);
    scene.look(3595 * kSecond);
    CHECK(scene.slot().is_waning());
    CHECK(scene.upkeep.due() == (scene.slot().state() == SlotState::idle ? 3600 * kSecond : kNever));
}

TEST_CASE("an_idle_connection_ends_when_it_is_spare_and_has_been_idle_for_long", "[upkeep]") {
    Scene scene;
    scene.be(SlotState::idle);
    scene.slot().idle_since = 7 * kSecond;
    CHECK(scene.look(100 * kSecond).close == CloseReason::none);  // min_size is 1
    scene.ledger.move(scene.ledger.add(0), SlotState::leased);
    CHECK(scene.look(67 * kSecond - 1).close == CloseReason::none);
    CHECK(scene.upkeep.due() == 67 * kSecond);
    CHECK(scene.look(67 * kSecond).close == CloseReason::max_idle_time);
}

TEST_CASE("a_round_is_due_when_the_first_thing_is_that_may_happen_to_an_idle_connection", "[upkeep]") {
    Scene scene(10 * kSecond);
    scene.slot().checked_at = 2 * kSecond;
    SECTION("a check, by the last check") {
        CHECK((scene.upkeep.shelved(scene.slot()), scene.upkeep.due()) == 12 * kSecond);
    }
    SECTION("a check, by the last use") {
        scene.slot().idle_since = 3 * kSecond;
        CHECK((scene.upkeep.shelved(scene.slot()), scene.upkeep.due()) == 13 * kSecond);
    }
    SECTION("the end of its idle time") {
        scene.slot().idle_since = -55 * kSecond;
        CHECK((scene.upkeep.shelved(scene.slot()), scene.upkeep.due()) == 5 * kSecond);
    }
    SECTION("its waning") {
        scene.slot().retire_at = 9 * kSecond;
        CHECK((scene.upkeep.shelved(scene.slot()), scene.upkeep.due()) == 4 * kSecond);
    }
    SECTION("its end, once it wanes") {
        scene.slot().retire_at = 9 * kSecond;
        scene.be(SlotState::idle);
        scene.ledger.wane(scene.index);
        CHECK((scene.upkeep.shelved(scene.slot()), scene.upkeep.due()) == 9 * kSecond);
    }
}

TEST_CASE("an_idle_connection_is_checked_at_its_time", "[upkeep]") {
    Scene scene(10 * kSecond);
    scene.be(SlotState::idle);
    scene.slot().idle_since = kSecond;
    CHECK_FALSE(scene.look(11 * kSecond - 1).check);
    CHECK(scene.upkeep.due() == 11 * kSecond);
    CHECK(scene.look(11 * kSecond).check);
    scene.slot().checked_at = 5 * kSecond;
    CHECK_FALSE(scene.look(11 * kSecond).check);
}

TEST_CASE("what_is_long_in_the_pools_hands_is_late", "[upkeep]") {
    Scene scene;
    const bool cleaning = GENERATE(true, false);
    scene.be(cleaning ? SlotState::cleaning : SlotState::checking);
    scene.slot().in_hand_since = kSecond;
    scene.upkeep.taken_in_hand(kSecond);
    CHECK(scene.upkeep.due() == kSecond + 100 * kMillisecond);
    scene.look(kSecond + 100 * kMillisecond - 1);
    CHECK(is_live(scene.slot().state()));
    CHECK(scene.upkeep.due() == kSecond + 100 * kMillisecond);
    scene.look(kSecond + 100 * kMillisecond);
    CHECK(scene.slot().state() == (cleaning ? SlotState::late_cleaning : SlotState::late_checking));
    CHECK(scene.upkeep.due() == kNever);
}
