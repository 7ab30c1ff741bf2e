#include "core/decide/action.hpp"

#include <catch2/catch.hpp>

using namespace pqpool;

TEST_CASE("actions_that_are_taken_stand_while_others_are_emitted", "[action]") {
    ActionList actions;
    actions.emit(Action::Kind::open).count = 1;
    actions.emit(Action::Kind::close).count = 2;
    const auto& taken = actions.take();
    CHECK(actions.pending().empty());
    for (int i = 0; i < 100; i++) actions.emit(Action::Kind::grant);
    REQUIRE(taken.size() == 2);
    CHECK(taken[0].kind == Action::Kind::open);
    CHECK(taken[1].count == 2);
    CHECK(actions.take().size() == 100);
    CHECK(actions.take().empty());
}

TEST_CASE("room_for_actions_is_made_before_they_come", "[action]") {
    ActionList actions;
    actions.make_room(100, 50);
    for (int turn = 0; turn < 2; turn++) {
        const std::size_t room = actions.pending().capacity();
        CHECK(room >= 5 * 100 + 50);
        for (int i = 0; i < 550; i++) actions.emit(Action::Kind::close);
        CHECK(actions.pending().capacity() == room);
        actions.take();
    }
}

TEST_CASE("each_reason_for_a_close_has_its_words", "[action]") {
    CHECK(std::string(text_of(CloseReason::none)).empty());
    CHECK(std::string(text_of(CloseReason::lost)) == "lost");
    CHECK(std::string(text_of(CloseReason::shutdown)) == "shutdown");
}
