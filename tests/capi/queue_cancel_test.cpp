// Requests of a completion queue that end early: each submitted id gets exactly one completion.
#include <random>
#include <set>
#include <thread>

#include "capi_fixture.hpp"

using namespace capi_test;

TEST_CASE("a_waiting_acquire_can_be_cancelled", "[queue][cancel]") {
    Pool pool({{"min_size", "1"}, {"max_size", "1"}});
    Queue queue(pool);
    const auto lease = queue.acquire();
    const auto id = queue.acquire_waiting();
    CHECK(queue.cancel(id));
    CHECK_FALSE(queue.cancel(id));
    const auto done = queue.wait();
    CHECK(done.id == id);
    CHECK(done.status == PQPOOL_CANCELLED);
    CHECK(done.lease == 0);
    CHECK(pool.statistics().waiting_requests == 0);
    CHECK(pool.release(lease) == PQPOOL_OK);
    CHECK(queue.wait_for(1, milliseconds(50)).empty());
    CHECK(pool.statistics().leases_out == 0);
}

TEST_CASE("an_acquire_that_was_granted_already_is_not_cancelled", "[queue][cancel]") {
    Pool pool({{"min_size", "1"}, {"max_size", "1"}});
    Queue queue(pool);
    const auto lease = queue.acquire();
    const auto id = queue.acquire_waiting();
    CHECK(pool.release(lease) == PQPOOL_OK);  // grants it; its completion is not taken yet
    CHECK_FALSE(queue.cancel(id));
    const auto done = queue.wait();
    CHECK(done.status == PQPOOL_OK);
    CHECK(pool.release(done.lease) == PQPOOL_OK);
}

TEST_CASE("a_running_statement_can_be_cancelled_and_its_lease_stays_usable", "[queue][cancel]") {
    Pool pool({{"min_size", "1"}, {"max_size", "1"}});
    Queue queue(pool);
    const auto lease = queue.acquire();
    for (int round = 0; round < 5; round++) {
        const auto id = queue.execute(lease, "SELECT pg_sleep(30)");
        if (round % 2) REQUIRE(pool.wait_until_running("pg_sleep(30)"));
        const auto start = Clock::now();
        CHECK(queue.cancel(id));
        CHECK_FALSE(queue.cancel(id));
        const auto done = queue.wait();
        CHECK(done.id == id);
        CHECK(done.status == PQPOOL_CANCELLED);
        const std::string number = std::to_string(round);
        queue.execute(lease, ("SELECT " + number).c_str());
        const auto next = queue.wait();
        CHECK(next.status == PQPOOL_OK);
        CHECK(value(next.result) == number);
        CHECK(since(start) < seconds(3));
    }
    CHECK(pool.release(lease) == PQPOOL_OK);
    CHECK(pool.wait_until_quiet());
}

TEST_CASE("a_statement_of_a_queue_past_its_timeout_ends", "[queue][cancel]") {
    Pool pool({{"min_size", "1"}, {"max_size", "1"}});
    Queue queue(pool);
    const auto lease = queue.acquire();
    const auto start = Clock::now();
    const auto id = queue.execute(lease, "SELECT pg_sleep(30)", 60);
    const auto done = queue.wait();
    CHECK(done.id == id);
    CHECK(done.status == PQPOOL_STATEMENT_TIMEOUT);
    CHECK(since(start) >= milliseconds(60));
    CHECK(since(start) < seconds(2));
    queue.execute(lease, "SELECT 3");
    CHECK(value(queue.wait().result) == "3");
    CHECK(pool.release(lease) == PQPOOL_OK);

    queue.run("SELECT pg_sleep(30)", nullptr, 60);
    CHECK(queue.wait().status == PQPOOL_STATEMENT_TIMEOUT);
    queue.run("SELECT 4");
    CHECK(value(queue.wait().result) == "4");
    CHECK(pool.wait_until_quiet());
}

TEST_CASE("a_run_can_be_cancelled_while_it_waits_and_while_it_runs", "[queue][cancel]") {
    Pool pool({{"min_size", "1"}, {"max_size", "1"}});
    Queue queue(pool);
    const auto running = queue.run("SELECT pg_sleep(30)");
    const auto waiting = queue.run("SELECT pg_sleep(30)");
    REQUIRE(pool.wait_until_running("pg_sleep(30)"));
    CHECK(queue.cancel(waiting));
    CHECK(queue.cancel(running));
    const auto all = queue.wait_for(2);
    REQUIRE(all.size() == 2);
    for (const auto& done : all) CHECK(done.status == PQPOOL_CANCELLED);
    queue.run("SELECT 5");
    CHECK(value(queue.wait().result) == "5");
    CHECK(pool.wait_until_quiet());
}

TEST_CASE("a_lease_released_with_its_statement_under_way_frees_its_place_at_once", "[queue][cancel]") {
    Pool pool({{"min_size", "1"}, {"max_size", "1"}});
    Queue queue(pool);
    const auto lease = queue.acquire();
    const auto id = queue.execute(lease, "SELECT pg_sleep(30)");
    REQUIRE(pool.wait_until_running("pg_sleep(30)"));
    const bool from_another_thread = GENERATE(false, true);
    int32_t status = -1;
    if (from_another_thread)
        std::thread([&] { status = pool.release(lease); }).join();
    else
        status = pool.release(lease);
    CHECK(status == PQPOOL_OK);
    const auto done = queue.wait();
    CHECK(done.id == id);
    CHECK(done.status == PQPOOL_CANCELLED);
    const auto start = Clock::now();
    queue.run("SELECT 1");
    CHECK(value(queue.wait().result) == "1");
    CHECK(since(start) < seconds(2));
    CHECK(wait_until([&] { return pool.sessions("state = 'active'") == 0; }, seconds(5)));
    CHECK(pool.wait_until_quiet());
}

TEST_CASE("a_queue_can_be_freed_with_everything_under_way", "[queue][cancel]") {
    Pool pool({{"min_size", "3"}, {"max_size", "3"}});
    {
        Queue queue(pool);
        queue.acquire();
        queue.execute(queue.acquire(), "SELECT pg_sleep(30)");
        queue.run("SELECT pg_sleep(30)");
        queue.run("SELECT 1");  // waits
        queue.acquire_waiting();
        REQUIRE(pool.statistics().waiting_requests == 2);
    }
    CHECK(pool.statistics().waiting_requests == 0);
    CHECK(pool.statistics().leases_out == 0);
    CHECK(pool.wait_until_quiet());
    CHECK(pool.run("SELECT 1").value() == "1");
}

TEST_CASE("a_queue_can_be_freed_with_grants_and_completions_not_taken", "[queue][cancel]") {
    Pool pool({{"min_size", "2"}, {"max_size", "2"}});
    {
        Queue queue(pool);
        const auto first = queue.acquire(), second = queue.acquire();
        queue.acquire_waiting();
        queue.run("SELECT 1");
        CHECK(pool.release(first) == PQPOOL_OK);
        std::thread([&] { pool.release(second); }).join();
    }
    CHECK(pool.statistics().leases_out == 0);
    CHECK(pool.wait_until_quiet());
}

TEST_CASE("shutdown_completes_everything_that_is_under_way", "[queue][cancel]") {
    Pool pool({{"min_size", "1"}, {"max_size", "1"}});
    Queue queue(pool);
    const auto lease = queue.acquire();
    std::set<uint64_t> expected = {queue.execute(lease, "SELECT pg_sleep(30)"), queue.acquire_waiting(),
                                   queue.run("SELECT 1")};
    uint64_t down = 0;
    REQUIRE(pqpool_shutdown_async(queue, 100, nullptr, &down) == PQPOOL_OK);
    expected.insert(down);
    const auto start = Clock::now();
    for (const auto& done : queue.wait_for(4)) {
        INFO("id " << done.id << ", shutdown " << down);
        CHECK(done.status == (done.id == down ? PQPOOL_OK : PQPOOL_CLOSED));
        CHECK(expected.erase(done.id) == 1);
    }
    CHECK(expected.empty());
    CHECK(since(start) < seconds(3));
    CHECK(pool.release(lease) == PQPOOL_OK);
}

TEST_CASE("under_cancels_at_random_every_id_completes_once_with_its_own_answer", "[queue][cancel]") {
    Pool pool({{"min_size", "3"}, {"max_size", "3"}});
    Queue queue(pool);
    std::mt19937 random(5);
    std::set<uint64_t> under_way;
    std::vector<uint64_t> ids;
    int cancelled = 0, answered = 0;
    const auto take = [&](std::vector<Completion> all) {
        for (auto& done : all) {
            REQUIRE(under_way.erase(done.id) == 1);
            if (done.status == PQPOOL_CANCELLED) {
                cancelled++;
                continue;
            }
            REQUIRE(done.status == PQPOOL_OK);
            REQUIRE(value(done.result) == std::to_string(reinterpret_cast<uintptr_t>(done.user_data)));
            answered++;
        }
    };
    for (uintptr_t i = 1; i <= 1000; i++) {
        const std::string sleep = random() % 4 ? "" : ", pg_sleep(0.001)";
        const std::string sql = "SELECT " + std::to_string(i) + sleep;
        const auto id = queue.run(sql.c_str(), reinterpret_cast<void*>(i));
        REQUIRE(under_way.insert(id).second);
        ids.push_back(id);
        for (unsigned n = random() % 3; n > 0; n--) queue.cancel(ids[random() % ids.size()]);
        if (random() % 3 == 0) queue.cancel(id);
        if (random() % 2) REQUIRE(pqpool_queue_poll(queue, 0) == PQPOOL_OK);
        take(queue.take());
        if (under_way.size() > 20) take(queue.wait_for(10));
    }
    take(queue.wait_for(under_way.size()));
    CHECK(under_way.empty());
    CHECK(cancelled > 50);
    CHECK(answered > 50);
    CHECK(pool.wait_until_quiet());
    const auto s = pool.statistics();
    CHECK(s.total_acquisitions == s.total_releases);
    CHECK(s.total_connections == 3);
    CHECK(s.connections_lost == 0);
}
