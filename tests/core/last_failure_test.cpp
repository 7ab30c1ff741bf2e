#include "core/run/last_failure.hpp"

#include <catch2/catch.hpp>

using namespace pqpool;

TEST_CASE("a_failed_opening_is_told_with_its_cure_and_without_a_password", "[errors]") {
    const ConnectPlan plan("postgresql://joe:zyx@db1/app");
    LastFailure failure(plan);
    CHECK(failure.message().empty());
    failure.note_opening(Error(ErrorKind::connection_lost, "password authentication failed", "28P01"), true);
    CHECK(failure.message() == "password authentication failed");
    CHECK(failure.cure() == "check the role and the password of database_url, and pg_hba.conf on the server");
    REQUIRE(failure.of_initialization());
    CHECK(failure.of_initialization()->kind == ErrorKind::initialization);
    CHECK(failure.of_initialization()->sqlstate == "28P01");
    CHECK_THAT(failure.of_initialization()->message, Catch::Contains("db1") && Catch::Contains("authentication") &&
                                                         Catch::Contains("Suggestion") && !Catch::Contains("zyx"));
    failure.forget_initialization();
    CHECK_FALSE(failure.of_initialization());
}

TEST_CASE("a_suggestion_of_the_failure_s_own_is_its_cure", "[errors]") {
    const ConnectPlan plan("postgresql://db1/app");
    LastFailure failure(plan);
    failure.note_opening(Error(ErrorKind::connection_lost, "no such host. Suggestion: correct it"), false);
    CHECK(failure.message() == "no such host");
    CHECK(failure.cure() == "correct it");
    CHECK_FALSE(failure.of_initialization());
    failure.note_loss("it hung up", false);
    CHECK(failure.message() == "it hung up");
    CHECK_THAT(failure.cure(), Catch::Contains("server's log"));
}
