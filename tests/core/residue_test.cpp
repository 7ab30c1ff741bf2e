#include "core/wire/residue.hpp"

#include <catch2/catch.hpp>

using namespace pqpool;

namespace {

using Reset = Residue::Reset;
using Undo = std::vector<std::string>;

}  // namespace

TEST_CASE("what_a_lease_left_is_the_next_ones_to_undo", "[residue]") {
    Residue residue("", Reset::automatic);
    residue.add(kDirtTemp);
    residue.add(kDirtListen);
    CHECK(residue.of_lease() == (kDirtTemp | kDirtListen));
    CHECK_FALSE(residue.is_inherited());
    residue.end_lease();
    CHECK(residue.of_lease() == kDirtNone);
    CHECK(residue.is_inherited());
    CHECK(residue.begin_undo() == Undo{"UNLISTEN *", "DISCARD TEMP"});
    CHECK(residue.undoes(kDirtTemp));
    CHECK_FALSE(residue.undoes(kDirtPrepared));
    CHECK(residue.is_inherited());  // until it is answered
    residue.add(kDirtRole);         // of the lease that has it now
    residue.end_undo();
    CHECK_FALSE(residue.is_inherited());
    CHECK_FALSE(residue.undoes(kDirtTemp));
    CHECK(residue.of_lease() == kDirtRole);
    residue.end_lease();
    CHECK(residue.begin_undo() == Undo{"SET SESSION AUTHORIZATION DEFAULT"});
}

TEST_CASE("each_residue_has_its_undoing_and_they_have_an_order", "[residue]") {
    const std::pair<std::uint16_t, const char*> all[] = {
        {kDirtRole, "SET SESSION AUTHORIZATION DEFAULT"},
        {kDirtCursor, "CLOSE ALL"},
        {kDirtListen, "UNLISTEN *"},
        {kDirtAdvisory, "SELECT pg_catalog.pg_advisory_unlock_all()"},
        {kDirtSlots, "SELECT pg_catalog.pg_drop_replication_slot"},
        {kDirtOrigin, "SELECT pg_catalog.pg_replication_origin_session_reset()"},
        {kDirtTemp, "DISCARD TEMP"},
        {kDirtPrepared, "DEALLOCATE ALL"},
        {kDirtSequences, "DISCARD SEQUENCES"},
        {kDirtSettings, "RESET ALL"},
        {kDirtSeed, "SELECT pg_catalog.setseed"},
    };
    std::size_t count = 0;
    for (const auto& [dirt, sql] : all) {
        Residue residue("", Reset::automatic);
        residue.add(dirt);
        residue.end_lease();
        const auto undo = residue.begin_undo();
        REQUIRE(undo.size() == 1);
        CHECK_THAT(undo[0], Catch::Matchers::StartsWith(sql));
        count++;
    }
    Residue residue("", Reset::automatic);
    residue.add(kDirtAll | kDirtOrigin);
    residue.end_lease();
    const auto undo = residue.begin_undo();
    REQUIRE(undo.size() == count);
    for (std::size_t i = 0; i < count; i++) CHECK_THAT(undo[i], Catch::Matchers::StartsWith(all[i].second));
    residue.end_undo();
    CHECK_FALSE(residue.is_inherited());
}

TEST_CASE("an_undo_that_was_not_answered_is_still_to_be_done", "[residue]") {
    Residue residue("", Reset::automatic);
    residue.add(kDirtTemp);
    residue.end_lease();
    residue.begin_undo();
    residue.forget_undo();
    residue.end_undo();
    CHECK(residue.is_inherited());
    CHECK(residue.begin_undo() == Undo{"DISCARD TEMP"});
}

TEST_CASE("where_something_goes_that_the_beginning_made_all_of_it_is_made_anew", "[residue]") {
    Residue residue("SET a = 1; CREATE TEMP TABLE t ()", Reset::automatic);
    CHECK(residue.beginning() == Undo{"SET a = 1", " CREATE TEMP TABLE t ()"});
    CHECK(residue.made_at_beginning() == (kDirtSettings | kDirtTemp));
    residue.add(kDirtListen);
    residue.end_lease();
    CHECK(residue.begin_undo() == Undo{"UNLISTEN *"});
    residue.end_undo();
    for (const std::uint16_t dirt : {kDirtSettings, kDirtTemp}) {
        residue.add(dirt);
        residue.end_lease();
        CHECK(residue.begin_undo() == Undo{"DISCARD TEMP", "RESET ALL", "SET a = 1", " CREATE TEMP TABLE t ()"});
        CHECK(residue.undoes(kDirtTemp));
        residue.end_undo();
    }
    // RESET ALL takes what it did not set itself too.
    Residue other("LISTEN a", Reset::automatic);
    other.add(kDirtSettings);
    other.end_lease();
    CHECK(other.begin_undo() == Undo{"UNLISTEN *", "RESET ALL", "LISTEN a"});
}

TEST_CASE("always_is_after_every_lease_and_never_is_never", "[residue]") {
    Residue always("", Reset::always);
    for (int i = 0; i < 2; i++) {
        always.end_lease();
        CHECK(always.begin_undo().size() == 10);  // all but a replication's origin
        always.end_undo();
    }
    always.abandon_lease();
    CHECK(always.begin_undo().size() == 10);
    Residue never("SET a = 1", Reset::never);
    never.add(kDirtAll);
    never.end_lease();
    CHECK_FALSE(never.is_inherited());
    never.add(kDirtAll);
    never.abandon_lease();
    CHECK_FALSE(never.is_inherited());
    CHECK(never.begin_undo().empty());
}

TEST_CASE("a_lease_that_ended_in_the_midst_leaves_what_it_had_to_the_reset", "[residue]") {
    Residue residue("", Reset::automatic);
    residue.add(kDirtTemp);
    residue.abandon_lease();
    CHECK(residue.of_lease() == kDirtNone);
    CHECK(residue.begin_undo() == Undo{"DISCARD TEMP"});
}
