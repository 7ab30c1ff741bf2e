#include "core/decide/sizing.hpp"

#include <catch2/catch.hpp>

using namespace pqpool;

namespace {

SlotLedger ledger_of(std::initializer_list<SlotState> states) {
    SlotLedger ledger;
    for (const SlotState state : states) ledger.move(ledger.add(0), state);
    return ledger;
}

constexpr auto kIdle = SlotState::idle, kLeased = SlotState::leased, kLost = SlotState::lost,
               kOpening = SlotState::opening, kStuck = SlotState::stuck, kLate = SlotState::late_cleaning;

}  // namespace

TEST_CASE("what_min_size_misses_is_opened", "[sizing]") {
    Sizing sizing(4, 8);
    CHECK(sizing.plan(ledger_of({}), {.initializing = true, .at_once = 32}).count == 4);
    CHECK(sizing.plan(ledger_of({}), {.initializing = true, .at_once = 3}).count == 3);
    CHECK(sizing.plan(ledger_of({kIdle, kOpening}), {.at_once = 32}).count == 2);
    CHECK(sizing.plan(ledger_of({kIdle, kLeased, kIdle, kIdle}), {.at_once = 32}).count <= 0);
    CHECK(sizing.plan(ledger_of({kIdle, kLeased, kLost, kLate}), {.at_once = 32}).count == 2);  // not live
}

TEST_CASE("a_waning_connection_does_not_count_towards_min_size", "[sizing]") {
    Sizing sizing(1, 2);
    SlotLedger ledger = ledger_of({kIdle});
    CHECK(sizing.plan(ledger, {.at_once = 32}).count <= 0);
    ledger.wane(0);
    CHECK(sizing.plan(ledger, {.at_once = 32}).count == 1);
}

TEST_CASE("max_size_bounds_what_is_opened", "[sizing]") {
    Sizing sizing(1, 3);
    CHECK(sizing.plan(ledger_of({kLeased, kLeased, kLeased}), {.waiting = 9, .at_once = 32}).count <= 0);
    CHECK(sizing.plan(ledger_of({kLeased, kLeased, kLost}), {.waiting = 9, .at_once = 32}).count <= 0);
    CHECK(sizing.plan(ledger_of({kLeased, kLeased, kLate}), {.waiting = 9, .at_once = 32}).count == 1);
}

TEST_CASE("growth_begins_with_one_and_rises_to_three", "[sizing]") {
    Sizing sizing(1, 20);
    SlotLedger ledger = ledger_of({kLeased});
    const Sizing::Demand many{.waiting = 50, .at_once = 32};
    for (const std::int64_t at_once : {1, 2, 3, 3}) {
        CHECK(sizing.plan(ledger, many).count == at_once);
        sizing.grown(true);
    }
    CHECK(sizing.plan(ledger, {.waiting = 2, .at_once = 32}).count == 2);  // no more than wait
    SECTION("all were served") { sizing.grown(false); }
    SECTION("nobody waits any more") { sizing.plan(ledger, {.waiting = 0, .at_once = 32}); }
    CHECK(sizing.plan(ledger, many).count == 1);
}

TEST_CASE("one_tries_whether_a_server_that_was_gone_is_there", "[sizing]") {
    Sizing sizing(8, 10);
    CHECK(sizing.plan(ledger_of({}), {.at_once = 32}).count == 1);
    CHECK(sizing.plan(ledger_of({kOpening}), {.at_once = 32}).count <= 0);
    CHECK(sizing.plan(ledger_of({kLost, kLost}), {.at_once = 32}).count == 1);
    CHECK(sizing.plan(ledger_of({kIdle}), {.at_once = 32}).count == 7);
}

TEST_CASE("another_goes_beside_one_that_hangs_where_somebody_needs_it", "[sizing]") {
    Sizing sizing(2, 2);
    const SlotLedger ledger = ledger_of({kStuck, kStuck});
    CHECK(sizing.plan(ledger, {.at_once = 32}).count <= 0);
    const auto needs = GENERATE(values<Sizing::Demand>(
        {{.waiting = 1, .at_once = 32}, {.initializing = true, .at_once = 32}, {.watched = true, .at_once = 32}}));
    const Sizing::Plan plan = sizing.plan(ledger, needs);
    CHECK(plan.count == 1);
    CHECK(plan.beside_stuck);
}

TEST_CASE("a_connection_fits_where_max_size_has_a_place_for_it", "[sizing]") {
    const Sizing sizing(1, 2);
    CHECK(sizing.fits(ledger_of({kLeased, kLeased}), kLeased));  // it is one of the two
    CHECK_FALSE(sizing.fits(ledger_of({kLeased, kLeased, kLeased}), kLeased));
    CHECK(sizing.fits(ledger_of({kLeased, kLate}), kLate));
    CHECK_FALSE(sizing.fits(ledger_of({kLeased, kLeased, kLate}), kLate));  // it has lost its place
    CHECK_FALSE(sizing.is_too_large(ledger_of({kLeased, kLeased, kLate})));
    CHECK(sizing.is_too_large(ledger_of({kLeased, kLeased, kIdle})));
}

TEST_CASE("spare_is_what_min_size_stands_without", "[sizing]") {
    const Sizing sizing(2, 4);
    const auto is_spare = [&](const SlotLedger& ledger) { return sizing.is_spare(ledger, ledger[0]); };
    CHECK_FALSE(is_spare(ledger_of({kIdle, kLeased})));
    CHECK(is_spare(ledger_of({kIdle, kLeased, kIdle})));
    CHECK(is_spare(ledger_of({kIdle, SlotState::checking, SlotState::cleaning})));
    CHECK_FALSE(is_spare(ledger_of({kIdle, kIdle, kLost})));
    CHECK_FALSE(is_spare(ledger_of({kIdle, kIdle, kOpening, kLate})));
    SlotLedger ledger = ledger_of({kIdle, kIdle, kIdle});
    ledger.wane(1);
    CHECK_FALSE(is_spare(ledger));              // the waning one does not stand for it
    CHECK(sizing.is_spare(ledger, ledger[1]));  // and goes itself
}
