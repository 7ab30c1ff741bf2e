// Blocking leases: who may use one, until when, and what everybody else is told.
#include <atomic>
#include <thread>

#include "capi_fixture.hpp"

using namespace capi_test;

TEST_CASE("a_released_lease_is_recognized_for_good", "[leases]") {
    Pool pool({{"min_size", "1"}, {"max_size", "1"}});
    const auto lease = pool.acquire();
    REQUIRE(pool.release(lease) == PQPOOL_OK);
    const auto check_refused = [&] {
        CHECK(pool.release(lease) == PQPOOL_RELEASED);
        CHECK(pool.execute(lease, "SELECT 1").status == PQPOOL_RELEASED);
        pg_conn* raw = nullptr;
        CHECK(pqpool_lease_pgconn(pool, lease, &raw) == PQPOOL_RELEASED);
        CHECK(pqpool_cancel(pool, lease) == PQPOOL_RELEASED);
        CHECK_THAT(pqpool_error_message(), Catch::Contains("released already"));
    };
    check_refused();
    // Another lease of the same connection is not harmed by the stale handle.
    const auto next = pool.acquire();
    CHECK(next != lease);
    check_refused();
    CHECK(pool.execute(next, "SELECT 1").value() == "1");
    CHECK(pool.release(next) == PQPOOL_OK);
    CHECK(pool.release(0) == PQPOOL_RELEASED);
    CHECK(pool.release(12345678) == PQPOOL_RELEASED);
    const auto s = pool.statistics();
    CHECK(s.total_releases == 2);
    CHECK(s.idle_connections == 1);
}

TEST_CASE("of_two_threads_that_release_one_lease_one_is_refused", "[leases]") {
    Pool pool({{"max_size", "4"}});
    for (int round = 0; round < 200; round++) {
        const auto lease = pool.acquire();
        int32_t statuses[2] = {};
        std::thread other([&] { statuses[0] = pool.release(lease); });
        statuses[1] = pool.release(lease);
        other.join();
        const bool first = statuses[0] == PQPOOL_OK, second = statuses[1] == PQPOOL_OK;
        REQUIRE(first != second);
        const int32_t refused = first ? statuses[1] : statuses[0];
        REQUIRE((refused == PQPOOL_RELEASED || refused == PQPOOL_BUSY));
    }
    const auto s = pool.statistics();
    CHECK(s.total_acquisitions == 200);
    CHECK(s.total_releases == 200);
    CHECK(s.leases_out == 0);
}

TEST_CASE("a_second_call_on_a_lease_in_use_is_busy", "[leases]") {
    Pool pool;
    const auto lease = pool.acquire();
    Outcome slow;
    std::thread other([&] { slow = pool.execute(lease, "SELECT pg_sleep(30)"); });
    REQUIRE(pool.wait_until_running("pg_sleep(30)"));
    CHECK(pool.execute(lease, "SELECT 1").status == PQPOOL_BUSY);
    CHECK(pool.release(lease) == PQPOOL_BUSY);
    pg_conn* raw = nullptr;
    CHECK(pqpool_lease_pgconn(pool, lease, &raw) == PQPOOL_BUSY);
    CHECK(pqpool_cancel(pool, lease) == PQPOOL_OK);
    other.join();
    CHECK(slow.sqlstate == "57014");
    CHECK(pool.release(lease) == PQPOOL_OK);
}

TEST_CASE("a_lease_may_move_between_threads", "[leases]") {
    Pool pool;
    const auto lease = pool.acquire();
    REQUIRE(pool.execute(lease, "BEGIN").status == PQPOOL_OK);
    std::string answer;
    int32_t released = -1;
    std::thread([&] {
        answer = pool.execute(lease, "SELECT 7").value();
        released = pool.release(lease);
    }).join();
    CHECK(answer == "7");
    CHECK(released == PQPOOL_OK);
}

TEST_CASE("an_acquire_past_its_timeout_names_who_holds_the_connections", "[leases]") {
    Pool pool({{"min_size", "1"}, {"max_size", "1"}});
    const auto lease = pool.acquire(PQPOOL_DEFAULT, "the nightly report");
    REQUIRE(pool.execute(lease, "SELECT 'of the report'").status == PQPOOL_OK);
    pqpool_acquire_options options = PQPOOL_ACQUIRE_OPTIONS_INIT;
    pqpool_lease none = 77;
    SECTION("after waiting") {
        options.timeout_ms = 50;
        const auto start = Clock::now();
        CHECK(pqpool_acquire(pool, &options, &none) == PQPOOL_TIMEOUT);
        CHECK(since(start) >= milliseconds(50));
        CHECK(since(start) < seconds(2));
        CHECK_THAT(pqpool_error_message(), Catch::Contains("0.05 seconds"));
    }
    SECTION("without waiting") {
        options.timeout_ms = 0;
        CHECK(pqpool_acquire(pool, &options, &none) == PQPOOL_TIMEOUT);
    }
    CHECK(none == 77);
    CHECK_THAT(pqpool_error_message(), Catch::Contains("the nightly report") && Catch::Contains("of the report") &&
                                           Catch::Contains("max_size 1"));
    CHECK(pool.statistics().total_timeouts == 1);
    CHECK(pool.statistics().waiting_requests == 0);
    CHECK(pool.release(lease) == PQPOOL_OK);
}

TEST_CASE("more_than_max_waiting_requests_are_refused", "[leases]") {
    Pool pool({{"min_size", "1"}, {"max_size", "1"}, {"max_waiting", "1"}});
    const auto lease = pool.acquire();
    pqpool_lease second = 0;
    int32_t status = -1;
    std::thread waiting([&] { status = pqpool_acquire(pool, nullptr, &second); });
    REQUIRE(wait_until([&] { return pool.statistics().waiting_requests == 1; }));
    pqpool_lease none = 0;
    CHECK(pqpool_acquire(pool, nullptr, &none) == PQPOOL_TOO_MANY_REQUESTS);
    CHECK(pool.statistics().total_rejected == 1);
    CHECK(pool.release(lease) == PQPOOL_OK);
    waiting.join();
    CHECK(status == PQPOOL_OK);
    CHECK(pool.release(second) == PQPOOL_OK);
}

TEST_CASE("who_waits_first_is_served_first", "[leases]") {
    Pool pool({{"min_size", "1"}, {"max_size", "1"}});
    const auto lease = pool.acquire();
    std::atomic<int> served{0};
    std::vector<int> place(5, -1);
    std::vector<std::thread> threads;
    for (int i = 0; i < 5; i++) {
        threads.emplace_back([&, i] {
            pqpool_lease mine = 0;
            if (pqpool_acquire(pool, nullptr, &mine) != PQPOOL_OK) return;
            place[static_cast<std::size_t>(i)] = served++;
            pqpool_release(pool, mine);
        });
        REQUIRE(wait_until([&] { return pool.statistics().waiting_requests == i + 1; }));
    }
    CHECK(pool.release(lease) == PQPOOL_OK);
    for (auto& thread : threads) thread.join();
    CHECK(place == std::vector<int>{0, 1, 2, 3, 4});
}

TEST_CASE("holders_tell_who_holds_what_since_when", "[leases]") {
    Pool pool;
    const auto first = pool.acquire(PQPOOL_DEFAULT, "first");
    const auto second = pool.acquire(PQPOOL_DEFAULT, "second");
    const auto pid = pool.execute(second, "SELECT pg_backend_pid() AS mine").value();
    pqpool_holder holders[4] = {};
    holders[0].struct_size = sizeof holders[0];
    std::size_t count = 0;
    REQUIRE(pqpool_holders(pool, holders, 4, &count) == PQPOOL_OK);
    REQUIRE(count == 2);
    CHECK(holders[0].lease == first);
    CHECK(std::string(holders[0].tag) == "first");
    CHECK(holders[0].held_ms >= holders[1].held_ms);
    CHECK(holders[1].lease == second);
    CHECK(std::to_string(holders[1].backend_pid) == pid);
    CHECK(std::string(holders[1].last_statement) == "SELECT pg_backend_pid() AS mine");

    SECTION("fewer are filled where there is less room") {
        holders[1].tag[0] = 'X';
        REQUIRE(pqpool_holders(pool, holders, 1, &count) == PQPOOL_OK);
        CHECK(count == 2);
        CHECK(holders[1].tag[0] == 'X');
        REQUIRE(pqpool_holders(pool, nullptr, 0, &count) == PQPOOL_OK);
        CHECK(count == 2);
    }
    SECTION("long texts are cut") {
        const std::string tag(500, 't'), sql = "SELECT '" + std::string(500, 's') + "'";
        const auto third = pool.acquire(PQPOOL_DEFAULT, tag.c_str());
        REQUIRE(pool.execute(third, sql.c_str()).status == PQPOOL_OK);
        REQUIRE(pqpool_holders(pool, holders, 4, &count) == PQPOOL_OK);
        CHECK(std::string(holders[2].tag) == tag.substr(0, sizeof holders[2].tag - 1));
        CHECK(std::string(holders[2].last_statement) == sql.substr(0, sizeof holders[2].last_statement - 1));
        CHECK(pool.release(third) == PQPOOL_OK);
    }
    CHECK(pool.release(first) == PQPOOL_OK);
    CHECK(pool.release(second) == PQPOOL_OK);
    REQUIRE(pqpool_holders(pool, holders, 4, &count) == PQPOOL_OK);
    CHECK(count == 0);
}

TEST_CASE("validation_policies_serve_alike", "[leases]") {
    const char* policy = GENERATE("always", "blocking", "idle", "never");
    INFO(policy);
    Pool pool({{"validation", policy}, {"validation_idle_time", "0"}, {"min_size", "1"}, {"max_size", "2"}});
    for (int i = 0; i < 5; i++) CHECK(pool.run("SELECT 5").value() == "5");
    const auto lease = pool.acquire();
    CHECK(pool.execute(lease, "BEGIN").status == PQPOOL_OK);
    CHECK(pool.execute(lease, "SELECT 6").value() == "6");
    CHECK(pool.release(lease) == PQPOOL_OK);
    CHECK(pool.wait_until_quiet());
}

TEST_CASE("a_lease_that_has_run_nothing_shows_no_statement", "[leases]") {
    Pool pool({{"min_size", "1"}, {"max_size", "1"}});
    const auto alice = pool.acquire(PQPOOL_DEFAULT, "alice");
    REQUIRE(pool.execute(alice, "SELECT 'alice was here'").status == PQPOOL_OK);
    CHECK(pool.release(alice) == PQPOOL_OK);
    const auto bob = pool.acquire(PQPOOL_DEFAULT, "bob");
    pqpool_holder holder{};
    holder.struct_size = sizeof holder;
    std::size_t count = 0;
    REQUIRE(pqpool_holders(pool, &holder, 1, &count) == PQPOOL_OK);
    CHECK(std::string(holder.tag) == "bob");
    CHECK(std::string(holder.last_statement).empty());
    pqpool_acquire_options at_once = PQPOOL_ACQUIRE_OPTIONS_INIT;
    at_once.timeout_ms = 0;
    pqpool_lease none = 0;
    CHECK(pqpool_acquire(pool, &at_once, &none) == PQPOOL_TIMEOUT);
    CHECK_THAT(pqpool_error_message(), Catch::Contains("bob") && !Catch::Contains("alice"));
    CHECK(pool.release(bob) == PQPOOL_OK);
}

TEST_CASE("a_lease_of_another_pool_is_refused", "[leases]") {
    Pool pool({{"max_size", "2"}}), other({{"max_size", "2"}});
    const auto mine = pool.acquire(), others = other.acquire();
    CHECK(mine != others);
    CHECK(other.execute(mine, "SELECT 1").status == PQPOOL_INVALID_ARGUMENT);
    CHECK(other.release(mine) == PQPOOL_INVALID_ARGUMENT);
    CHECK_THAT(pqpool_error_message(), Catch::Contains("not of this pool"));
    CHECK(pqpool_cancel(other, mine) == PQPOOL_INVALID_ARGUMENT);
    CHECK(other.execute(others, "SELECT 2").value() == "2");
    CHECK(other.release(others) == PQPOOL_OK);
    CHECK(pool.release(mine) == PQPOOL_OK);
    CHECK(pool.release(mine) == PQPOOL_RELEASED);
}
