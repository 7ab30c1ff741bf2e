#include "core/decide/stuck_openings.hpp"

#include <catch2/catch.hpp>

using namespace pqpool;

namespace {

constexpr Nanos kNow = 1000 * kSecond;

struct Scene {
    std::uint32_t open(Nanos at) {
        const auto index = ledger.add(at);
        openings.began(ledger, at);
        return index;
    }
    SlotState state(std::uint32_t index) const { return ledger[index].state(); }

    SlotLedger ledger;
    StuckOpenings openings;
};

}  // namespace

TEST_CASE("an_opening_is_stuck_after_750_ms_or_twice_as_long_as_the_last_took", "[stuck]") {
    const auto [took, patience] = GENERATE(table<Nanos, Nanos>({{0, 750 * kMillisecond},
                                                                {300 * kMillisecond, 750 * kMillisecond},
                                                                {600 * kMillisecond, 1200 * kMillisecond},
                                                                {9 * kSecond, 2 * kSecond}}));
    Scene scene;
    scene.openings.succeeded(took);
    CHECK(scene.openings.due(scene.ledger) == kNever);
    const auto first = scene.open(kNow), second = scene.open(kNow + 1);
    CHECK(scene.openings.due(scene.ledger) == kNow + patience);
    scene.openings.look(scene.ledger, kNow + patience);
    CHECK(scene.state(first) == SlotState::stuck);
    CHECK(scene.state(second) == SlotState::opening);
    CHECK(scene.openings.due(scene.ledger) == kNow + patience + 1);
    scene.openings.look(scene.ledger, kNow + patience + 1);
    CHECK(scene.state(second) == SlotState::stuck);
    CHECK(scene.openings.due(scene.ledger) == kNever);
}

TEST_CASE("what_was_due_for_openings_that_are_over_is_not_due_for_the_next", "[stuck]") {
    Scene scene;
    scene.ledger.free(scene.open(kNow));
    CHECK(scene.openings.due(scene.ledger) == kNever);
    scene.open(kNow + 500 * kMillisecond);
    CHECK(scene.openings.due(scene.ledger) == kNow + 1250 * kMillisecond);
}

TEST_CASE("of_four_that_hang_the_second_oldest_goes_before_another", "[stuck]") {
    Scene scene;
    std::vector<std::uint32_t> slots;
    for (const Nanos at : {30, 10, 20, 40}) {
        CHECK(scene.openings.surplus(scene.ledger) == SlotLedger::kNone);
        slots.push_back(scene.open(kNow + at));
        scene.openings.look(scene.ledger, kNow + kSecond);
    }
    CHECK(scene.openings.surplus(scene.ledger) == slots[2]);  // the oldest has its whole time
    scene.ledger.free(slots[2]);
    CHECK(scene.openings.surplus(scene.ledger) == SlotLedger::kNone);
}

TEST_CASE("the_newest_beside_those_that_hang_is_the_one_that_has_their_place", "[stuck]") {
    Scene scene;
    scene.open(kNow);
    scene.openings.look(scene.ledger, kNow + kSecond);
    CHECK(scene.openings.newest_beside(scene.ledger) == SlotLedger::kNone);
    scene.open(kNow + kSecond);
    const auto newest = scene.open(kNow + 3 * kSecond);
    scene.open(kNow + 2 * kSecond);
    CHECK(scene.openings.newest_beside(scene.ledger) == newest);
}
