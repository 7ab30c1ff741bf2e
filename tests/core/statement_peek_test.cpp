#include "core/run/statement_peek.hpp"

#include <catch2/catch.hpp>

using namespace pqpool;

TEST_CASE("the_last_statement_is_cut_to_its_first_bytes", "[leases]") {
    StatementPeek peek;
    CHECK(peek.get().empty());
    peek.set("SELECT 1");
    CHECK(peek.get() == "SELECT 1");
    const std::string large(1000, 'x');
    peek.set(large);
    CHECK(peek.get() == large.substr(0, 95));
    peek.set("");
    CHECK(peek.get().empty());
}
