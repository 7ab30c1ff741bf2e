#include "core/decide/slot_ledger.hpp"

#include <catch2/catch.hpp>
#include <deque>
#include <random>

using namespace pqpool;

namespace {

std::uint32_t stand(SlotLedger& ledger, SlotState state = SlotState::idle) {
    const std::uint32_t index = ledger.add(0);
    ledger.move(index, state);
    return index;
}

}  // namespace

TEST_CASE("a_slot_that_is_gone_is_not_found_by_its_old_name", "[ledger]") {
    SlotLedger ledger;
    const SlotId first = ledger.id_of(ledger.add(7));
    REQUIRE(ledger.find(first));
    CHECK(ledger.find(first)->state() == SlotState::opening);
    CHECK(ledger.find(first)->life.started_at == 7);
    ledger.free(first.index);
    CHECK_FALSE(ledger.find(first));
    const SlotId second = ledger.id_of(ledger.add(8));
    CHECK(second.index == first.index);  // its place is used again
    CHECK_FALSE(ledger.find(first));
    CHECK(ledger.find(second)->life.started_at == 8);
    CHECK_FALSE(ledger.find(SlotId{}));
}

TEST_CASE("what_a_slot_knew_goes_with_it", "[ledger]") {
    SlotLedger ledger;
    const auto index = stand(ledger, SlotState::leased);
    ledger[index].queries = 5;
    ledger[index].condemned = CloseReason::drained;
    ledger[index].lease.leak_reported = true;
    ledger.free(index);
    REQUIRE(ledger.add(0) == index);
    CHECK(ledger[index].queries == 0);
    CHECK(ledger[index].condemned == CloseReason::none);
    CHECK_FALSE(ledger[index].lease.leak_reported);
}

TEST_CASE("each_state_counts_as_what_it_is", "[ledger]") {
    struct Counts {
        SlotState state;
        std::int64_t idle, out, opening, checking, cleaning, live, places;
    };
    const auto expected = GENERATE(values<Counts>({
        {SlotState::opening, 0, 0, 1, 0, 0, 0, 1},
        {SlotState::stuck, 0, 0, 1, 0, 0, 0, 0},
        {SlotState::idle, 1, 0, 0, 0, 0, 1, 1},
        {SlotState::leased, 0, 1, 0, 0, 0, 1, 1},
        {SlotState::lost, 0, 1, 0, 0, 0, 0, 1},
        {SlotState::checking, 0, 0, 0, 1, 0, 1, 1},
        {SlotState::late_checking, 0, 0, 0, 1, 0, 0, 0},
        {SlotState::cleaning, 0, 0, 0, 0, 1, 1, 1},
        {SlotState::late_cleaning, 0, 0, 0, 0, 1, 0, 0},
    }));
    SlotLedger ledger;
    const auto index = stand(ledger, expected.state);
    CHECK(ledger.idle() == expected.idle);
    CHECK(ledger.out() == expected.out);
    CHECK(ledger.opening() == expected.opening);
    CHECK(ledger.checking() == expected.checking);
    CHECK(ledger.cleaning() == expected.cleaning);
    CHECK(ledger.live() == expected.live);
    CHECK(ledger.places() == expected.places);
    ledger.free(index);
    CHECK(ledger.live() + ledger.places() + ledger.out() + ledger.opening() == 0);
}

TEST_CASE("the_shelf_gives_the_one_used_last_and_knows_the_one_unused_for_longest", "[ledger]") {
    SlotLedger ledger;
    CHECK(ledger.newest_idle() == SlotLedger::kNone);
    const auto a = stand(ledger), b = stand(ledger), c = stand(ledger);
    CHECK(ledger.newest_idle() == c);
    CHECK(ledger.oldest_idle() == a);
    ledger.move(b, SlotState::leased);  // from the middle
    ledger.move(c, SlotState::leased);
    CHECK(ledger.newest_idle() == a);
    ledger.move(b, SlotState::idle);
    CHECK(ledger.newest_idle() == b);
    ledger.free(a);
    CHECK(ledger.oldest_idle() == b);
}

TEST_CASE("only_what_is_live_wanes", "[ledger]") {
    SlotLedger ledger;
    const auto index = stand(ledger);
    ledger.wane(index);
    ledger.wane(index);
    CHECK(ledger.waning() == 1);
    ledger.move(index, SlotState::leased);
    CHECK(ledger.waning() == 1);
    SECTION("until it is no more") {
        ledger.move(index, GENERATE(SlotState::lost, SlotState::late_cleaning, SlotState::late_checking));
        CHECK(ledger.waning() == 0);
        CHECK_FALSE(ledger[index].is_waning());
        ledger.wane(index);
        CHECK(ledger.waning() == 0);
    }
    SECTION("until it is gone") {
        ledger.free(index);
        CHECK(ledger.waning() == 0);
    }
}

TEST_CASE("numbers_and_shelf_agree_with_the_slots_after_any_moves", "[ledger][random]") {
    std::mt19937 random(11);
    SlotLedger ledger;
    std::deque<std::uint32_t> shelf;  // newest first
    for (int i = 0; i < 20'000; i++) {
        if (ledger.size() < 12 || random() % 8 == 0) ledger.add(i);
        const auto index = static_cast<std::uint32_t>(random() % ledger.size());
        if (ledger[index].state() == SlotState::free) continue;
        const auto to = static_cast<SlotState>(random() % kSlotStates);
        std::erase(shelf, index);
        if (random() % 4 == 0) ledger.wane(index);
        if (to == SlotState::free)
            ledger.free(index);
        else
            ledger.move(index, to);
        if (to == SlotState::idle) shelf.push_front(index);
        std::int64_t live = 0, places = 0, waning = 0;
        for (std::uint32_t j = 0; j < ledger.size(); j++) {
            live += is_live(ledger[j].state());
            places += has_place(ledger[j].state());
            waning += ledger[j].is_waning();
        }
        REQUIRE(ledger.live() == live);
        REQUIRE(ledger.places() == places);
        REQUIRE(ledger.waning() == waning);
        REQUIRE(ledger.idle() == static_cast<std::int64_t>(shelf.size()));
        REQUIRE(ledger.newest_idle() == (shelf.empty() ? SlotLedger::kNone : shelf.front()));
        REQUIRE(ledger.oldest_idle() == (shelf.empty() ? SlotLedger::kNone : shelf.back()));
    }
}
