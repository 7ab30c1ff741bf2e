#include <catch2/catch.hpp>

#include "core/run/lease.hpp"

using namespace pqpool;

TEST_CASE("a_lease_is_found_by_its_index_and_stays_where_it_is", "[leases]") {
    LeaseTable table;
    CHECK(table.find(0) == nullptr);
    CHECK(table.find(1) == nullptr);
    std::vector<Lease*> leases;
    for (int i = 0; i < 200; i++) leases.push_back(table.add());
    CHECK(table.size() == 200);
    for (std::uint32_t i = 0; i < 200; i++) {
        REQUIRE(leases[i]);
        CHECK(leases[i]->index == i);
        CHECK(&table.at(i) == leases[i]);
        const LeaseHandle any_generation = LeaseHandle{7} << kLeaseIndexBits | i;
        CHECK(table.find(any_generation) == leases[i]);
    }
    CHECK(table.find(LeaseHandle{1} << kLeaseIndexBits | kLeaseIndexMask) == nullptr);
}

TEST_CASE("the_table_is_full_at_its_limit", "[leases]") {
    LeaseTable table;
    std::size_t count = 0;
    while (table.add()) count++;
    CHECK(count == table.size());
    CHECK(count >= 10'000);
    CHECK(table.add() == nullptr);
}

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
