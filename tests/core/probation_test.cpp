#include "core/decide/probation.hpp"

#include <catch2/catch.hpp>

using namespace pqpool;
using Verdict = Probation::Verdict;

namespace {

constexpr Nanos kNow = 1000 * kSecond;

Slot::Life lasted(Nanos opened_at, Nanos length) { return {opened_at - 1, opened_at, opened_at + length}; }

// The first end, and eight successors that do not last.
Probation tried() {
    Probation probation;
    probation.ended(lasted(kNow - kSecond, kSecond), kNow);
    for (int i = 1; i <= 8; i++) {
        CHECK(probation.ended(lasted(kNow + i, 0), kNow + i) == Verdict::replace);
        CHECK_FALSE(probation.is_dying());
    }
    return probation;
}

}  // namespace

TEST_CASE("eight_successors_may_end_early_the_ninth_is_a_failure", "[probation]") {
    Probation probation = tried();
    CHECK(probation.ended(lasted(kNow + 9, kSecond - 1), kNow + 2 * kSecond) == Verdict::fail);
    CHECK(probation.is_dying());
    CHECK(probation.ended(lasted(kNow + 10, 0), kNow + 2 * kSecond) == Verdict::fail);
}

TEST_CASE("ends_of_connections_from_before_the_first_say_nothing", "[probation]") {
    Probation probation = tried();
    for (int i = 0; i < 100; i++) CHECK(probation.ended(lasted(kNow, 0), kNow + 9) == Verdict::replace);
    CHECK_FALSE(probation.is_dying());
}

TEST_CASE("one_that_lasted_restores_trust", "[probation]") {
    Probation probation = tried();
    SECTION("before sessions were said to be dying") {
        CHECK(probation.ended(lasted(kNow + 9, kSecond), kNow + 2 * kSecond) == Verdict::replace);
    }
    SECTION("after that") {
        probation.ended(lasted(kNow + 9, 0), kNow + 9);
        CHECK(probation.ended(lasted(kNow + 10, kSecond), kNow + 2 * kSecond) == Verdict::trust);
    }
    CHECK_FALSE(probation.is_dying());
    CHECK(probation.ended(lasted(kNow + 3 * kSecond, 0), kNow + 3 * kSecond) == Verdict::replace);
    CHECK_FALSE(probation.is_dying());
}

TEST_CASE("a_session_that_the_server_let_in_and_ended_counts_as_an_early_end", "[probation]") {
    Probation fresh;
    for (int i = 0; i < 100; i++) fresh.failed_after_admission();
    CHECK_FALSE(fresh.is_dying());  // no session has ended yet

    Probation probation = tried();
    probation.failed_after_admission();
    CHECK(probation.is_dying());
}

TEST_CASE("the_end_of_a_leases_connection_begins_the_probation_of_its_successors", "[probation]") {
    Probation probation;
    probation.suspect(kNow);
    probation.suspect(kNow + 5 * kSecond);  // the first one counts
    for (int i = 1; i <= 9; i++) probation.ended(lasted(kNow + i, 0), kNow + i);
    CHECK(probation.is_dying());
}

TEST_CASE("proof_is_a_successor_that_has_stood_for_a_second", "[probation]") {
    Probation probation;
    probation.suspect(kNow);
    CHECK_FALSE(probation.is_proof(lasted(kNow, 0), kNow + 10 * kSecond));
    CHECK_FALSE(probation.is_proof(lasted(kNow + 1, 0), kNow + kSecond));
    CHECK(probation.is_proof(lasted(kNow + 1, 0), kNow + kSecond + 1));
}
