#include "core/run/lease_table.hpp"

#include <catch2/catch.hpp>
#include <vector>

using namespace pqpool;

namespace {

// As the pool does when it grants the lease and takes it back.
LeaseHandle hand_out(Lease& lease) {
    lease.handle = lease.number;
    return lease.handle;
}
void take_back(LeaseTable& table, Lease& lease) {
    lease.handle = 0;
    table.put_back(lease);
}

ErrorKind refusal_of(const LeaseTable& table, LeaseHandle handle) {
    try {
        table.find(handle);
    } catch (const Error& error) {
        return error.kind;
    }
    FAIL("the lease was found");
    return ErrorKind::internal;
}

}  // namespace

TEST_CASE("a_lease_is_found_by_its_handle_and_stays_where_it_is", "[leases]") {
    LeaseTable table(0);
    std::vector<Lease*> leases;
    std::vector<LeaseHandle> handles;
    for (int i = 0; i < 200; i++) {
        leases.push_back(&table.take());
        handles.push_back(hand_out(*leases.back()));
    }
    CHECK(table.size() == 200);
    for (std::size_t i = 0; i < 200; i++) {
        CHECK(&table.find(handles[i]) == leases[i]);
        CHECK(&table.at(i) == leases[i]);
    }
}

TEST_CASE("the_handle_of_a_lease_that_is_over_stays_refused", "[leases]") {
    LeaseTable table(0);
    CHECK(refusal_of(table, 0) == ErrorKind::released);
    CHECK(refusal_of(table, 1) == ErrorKind::released);
    Lease& lease = table.take();
    const LeaseHandle first = hand_out(lease);
    take_back(table, lease);
    CHECK(refusal_of(table, first) == ErrorKind::released);
    REQUIRE(&table.take() == &lease);
    const LeaseHandle second = hand_out(lease);
    CHECK(second != first);
    CHECK(&table.find(second) == &lease);
    CHECK(refusal_of(table, first) == ErrorKind::released);
}

TEST_CASE("a_handle_tells_the_pool_and_the_process_that_it_is_of", "[leases]") {
    LeaseTable one(0), other(0), of_child(1);
    const LeaseHandle handle = hand_out(one.take());
    hand_out(other.take());
    hand_out(of_child.take());
    CHECK(refusal_of(other, handle) == ErrorKind::invalid_argument);
    CHECK(refusal_of(of_child, handle) == ErrorKind::forked);
}

TEST_CASE("the_table_is_full_at_its_limit", "[leases]") {
    LeaseTable table(0);
    constexpr std::size_t kMany = 100'000;
    std::size_t count = 0;
    while (count < kMany) {
        try {
            table.take();
        } catch (const Error& error) {
            CHECK(error.kind == ErrorKind::internal);
            break;
        }
        count++;
    }
    CHECK(count < kMany);
    CHECK(count == table.size());
    CHECK(count >= 10'000);
    take_back(table, table.at(7));
    CHECK(&table.take() == &table.at(7));
    CHECK_THROWS_AS(table.make_room(), Error);
}

TEST_CASE("the_holders_are_listed_from_the_longest_on", "[leases]") {
    LeaseTable table(0);
    for (const char* tag : {"second", "given back", "first"}) {
        Lease& lease = table.take();
        hand_out(lease);
        lease.tag = tag;
        lease.last_statement.set("SELECT '" + lease.tag + "'");
    }
    table.at(0).leased_at = 2 * kSecond;
    table.at(2).leased_at = 1 * kSecond;
    take_back(table, table.at(1));
    const auto holders = table.holders(3 * kSecond);
    REQUIRE(holders.size() == 2);
    CHECK(holders[0].tag == "first");
    CHECK(holders[0].held_seconds == 2);
    CHECK(holders[0].backend_pid == 0);
    CHECK(holders[1].last_statement == "SELECT 'second'");
    CHECK(holders[1].lease == table.at(0).number);
}
