#include "core/decide/leak_watch.hpp"

#include <catch2/catch.hpp>

using namespace pqpool;

TEST_CASE("a_scan_is_due_at_the_earliest_limit", "[leaks]") {
    LeakWatch watch;
    watch.begin({.since = 100});
    CHECK(watch.due() == kNever);
    watch.begin({.since = 100, .leak_limit = 50});
    watch.begin({.since = 110, .leak_limit = 60});
    CHECK(watch.due() == 150);
}

TEST_CASE("a_lease_is_reported_once_and_counted_until_it_ends", "[leaks]") {
    LeakWatch watch;
    LeaseTerms lease{.since = 100, .leak_limit = 50}, other{.since = 120, .leak_limit = 50}, unwatched{.since = 0};
    watch.begin(lease);
    watch.begin_scan();
    CHECK_FALSE(watch.look(lease, 149));
    CHECK(watch.due() == 150);
    watch.begin_scan();
    CHECK(watch.look(lease, 150));
    CHECK_FALSE(watch.look(other, 150));
    CHECK_FALSE(watch.look(unwatched, 150));
    CHECK_FALSE(watch.look(lease, 1000));
    CHECK(watch.due() == 170);
    CHECK(watch.reported() == 1);

    watch.end(lease);  // its connection is dead; the lease goes on with another
    CHECK(watch.reported() == 0);
    watch.begin(lease);
    CHECK(watch.reported() == 1);
    CHECK(watch.due() == 170);  // it is not reported again
    watch.end(lease);
    watch.end(other);
    CHECK(watch.reported() == 0);
}
