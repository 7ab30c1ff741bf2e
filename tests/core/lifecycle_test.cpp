#include "core/decide/lifecycle.hpp"

#include <catch2/catch.hpp>

using namespace pqpool;
using Change = Lifecycle::Change;

namespace {

Lifecycle standing() {
    Lifecycle lifecycle;
    lifecycle.update(10, 10, false);
    return lifecycle;
}

}  // namespace

TEST_CASE("a_pool_is_initialized_when_min_size_stand", "[lifecycle]") {
    Lifecycle lifecycle;
    CHECK(lifecycle.is_initializing());
    CHECK(lifecycle.accepts());
    CHECK_FALSE(lifecycle.serves());
    CHECK(lifecycle.update(9, 10, false) == Change::none);
    CHECK(lifecycle.is_initializing());
    CHECK(lifecycle.update(10, 10, false) == Change::initialized);
    CHECK(lifecycle.state() == PoolState::healthy);
    CHECK(lifecycle.serves());
    CHECK(lifecycle.update(10, 10, false) == Change::none);
}

TEST_CASE("a_standing_pool_follows_its_capacity", "[lifecycle]") {
    Lifecycle lifecycle = standing();
    lifecycle.update(8, 10, false);
    CHECK(lifecycle.state() == PoolState::healthy);
    lifecycle.update(7, 10, false);
    CHECK(lifecycle.state() == PoolState::degraded);
    lifecycle.update(5, 10, false);
    CHECK(lifecycle.state() == PoolState::degraded);
    CHECK(lifecycle.update(8, 10, false) == Change::none);
    CHECK(lifecycle.state() == PoolState::healthy);
    CHECK(lifecycle.update(4, 10, false) == Change::unhealthy);
    CHECK(lifecycle.state() == PoolState::unhealthy);
}

TEST_CASE("an_unhealthy_pool_recovers_by_min_size_and_by_nothing_less", "[lifecycle]") {
    Lifecycle lifecycle = standing();
    lifecycle.update(0, 10, false);
    CHECK(lifecycle.update(9, 10, false) == Change::none);
    CHECK(lifecycle.state() == PoolState::recovering);
    CHECK_FALSE(lifecycle.serves());
    CHECK(lifecycle.update(10, 10, true) == Change::none);  // sessions die as soon as they open
    CHECK(lifecycle.state() == PoolState::recovering);
    CHECK(lifecycle.update(0, 10, false) == Change::none);
    CHECK(lifecycle.state() == PoolState::unhealthy);
    CHECK(lifecycle.update(10, 10, false) == Change::recovered);
    CHECK(lifecycle.state() == PoolState::healthy);
}

TEST_CASE("a_shutdown_waits_for_the_leases_until_the_earliest_deadline", "[lifecycle]") {
    Lifecycle lifecycle = standing();
    CHECK(lifecycle.aborts_leases_at() == kNever);
    CHECK_FALSE(lifecycle.finish_shutdown(0));  // there is none
    CHECK(lifecycle.shut_down(20));
    CHECK_FALSE(lifecycle.accepts());
    CHECK_FALSE(lifecycle.shut_down(10));
    CHECK_FALSE(lifecycle.shut_down(30));
    CHECK(lifecycle.aborts_leases_at() == 10);
    CHECK(lifecycle.update(10, 10, false) == Change::none);
    CHECK(lifecycle.state() == PoolState::shutting_down);
    CHECK_FALSE(lifecycle.finish_shutdown(1));
    CHECK(lifecycle.finish_shutdown(0));
    CHECK_FALSE(lifecycle.finish_shutdown(0));
    CHECK(lifecycle.state() == PoolState::terminated);
    CHECK(lifecycle.aborts_leases_at() == kNever);
}

TEST_CASE("what_is_terminated_stays_so", "[lifecycle]") {
    Lifecycle lifecycle;
    lifecycle.give_up_initialization();
    CHECK(lifecycle.state() == PoolState::terminated);
    CHECK_FALSE(lifecycle.shut_down(10));
    CHECK(lifecycle.update(10, 10, false) == Change::none);
    CHECK(lifecycle.state() == PoolState::terminated);
    CHECK(lifecycle.aborts_leases_at() == kNever);
}
