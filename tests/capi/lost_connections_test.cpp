// Sessions that the server ends while the pool holds them, lends them or runs a statement on them.
#include <thread>

#include "capi_fixture.hpp"

using namespace capi_test;

TEST_CASE("an_idle_connection_that_was_terminated_is_replaced_silently", "[lost]") {
    Pool pool({{"min_size", "2"}, {"max_size", "4"}});
    for (int round = 0; round < 5; round++) {
        terminate_idle_backends(pool);
        const char* sql = round % 2 ? "SELECT 1" : "SET LOCAL work_mem = '8MB'";
        CHECK(pool.run(sql).status == PQPOOL_OK);
    }
    CHECK(pool.wait_until_quiet());
    const auto s = pool.statistics();
    CHECK(s.total_connections >= 2);
    CHECK(s.connections_lost >= 5);  // in each round at least one; the other may still have been on its way back
    CHECK(s.total_acquisitions == s.total_releases);
}

TEST_CASE("a_lease_whose_connection_died_before_its_first_statement_gets_another", "[lost]") {
    Pool pool({{"min_size", "1"}, {"max_size", "2"}});
    const auto pid = pool.run("SELECT pg_backend_pid()").value();
    const auto lease = pool.acquire();
    terminate_backend(pid);
    SECTION("blocking") {
        const auto done = pool.execute(lease, "SELECT pg_backend_pid()");
        REQUIRE(done.status == PQPOOL_OK);
        CHECK(done.value() != pid);
    }
    SECTION("through the raw connection") {
        pg_conn* raw = nullptr;
        REQUIRE(pqpool_lease_pgconn(pool, lease, &raw) == PQPOOL_OK);
        CHECK(std::to_string(PQbackendPID(raw)) != pid);
    }
    CHECK(pool.release(lease) == PQPOOL_OK);
    CHECK(pool.wait_until_quiet());
    CHECK(pool.statistics().total_acquisitions == 2);
}

TEST_CASE("a_queues_lease_whose_connection_died_gets_another", "[lost][queue]") {
    Pool pool({{"min_size", "1"}, {"max_size", "2"}});
    Queue queue(pool);
    const auto pid = pool.run("SELECT pg_backend_pid()").value();
    const auto lease = queue.acquire();
    terminate_backend(pid);
    queue.execute(lease, "SELECT pg_backend_pid()");
    const auto done = queue.wait();
    REQUIRE(done.status == PQPOOL_OK);
    CHECK(value(done.result) != pid);
    CHECK(pool.release(lease) == PQPOOL_OK);
    CHECK(pool.wait_until_quiet());
}

TEST_CASE("a_session_terminated_under_its_statement_is_a_lost_connection", "[lost]") {
    Pool pool({{"min_size", "1"}, {"max_size", "2"}});
    const auto lease = pool.acquire();
    const auto pid = pool.execute(lease, "SELECT pg_backend_pid()").value();
    Outcome slow;
    std::thread busy([&] { slow = pool.execute(lease, "SELECT pg_sleep(30)"); });
    REQUIRE(pool.wait_until_running("pg_sleep(30)"));
    terminate_backend(pid);
    busy.join();
    CHECK(slow.status == PQPOOL_CONNECTION_LOST);
    CHECK_THAT(slow.message, Catch::Contains(pid) && Catch::Contains("unknown") && Catch::Contains("Suggestion"));
    CHECK(pool.execute(lease, "SELECT 1").status == PQPOOL_CONNECTION_LOST);
    CHECK(pool.release(lease) == PQPOOL_OK);
    CHECK(pool.run("SELECT 1").value() == "1");
    CHECK(pool.wait_until_quiet());
}

TEST_CASE("a_session_terminated_between_two_statements_is_a_lost_connection", "[lost]") {
    Pool pool({{"min_size", "1"}, {"max_size", "2"}});
    const auto lease = pool.acquire();
    const auto pid = pool.execute(lease, "SELECT pg_backend_pid()").value();
    REQUIRE(pool.execute(lease, "BEGIN").status == PQPOOL_OK);
    terminate_backend(pid);
    const auto lost = pool.execute(lease, "COMMIT");
    CHECK(lost.status == PQPOOL_CONNECTION_LOST);
    CHECK_THAT(lost.message, Catch::Contains(pid));
    CHECK(pool.release(lease) == PQPOOL_OK);
    CHECK(pool.wait_until_quiet());
}

TEST_CASE("a_statement_that_an_administrator_kills_stays_killed", "[lost]") {
    Pool pool({{"min_size", "1"}, {"max_size", "2"}});
    Outcome slow;
    std::thread busy([&] { slow = pool.run("SELECT pg_sleep(30), 'answered'"); });
    REQUIRE(pool.wait_until_running("pg_sleep(30)"));
    Observer observer;
    terminate_backend(observer.ask("SELECT pid FROM pg_stat_activity WHERE state = 'active' AND application_name = '" +
                                   pool.application() + "'"));
    busy.join();
    CHECK((slow.status == PQPOOL_VALIDATION || slow.status == PQPOOL_CONNECTION_LOST));
    CHECK_THAT(slow.message, Catch::Contains("unknown"));
    CHECK(pool.wait_until_quiet());
}

TEST_CASE("a_write_that_was_under_way_is_reported_as_unknown_and_not_repeated", "[lost]") {
    Pool pool({{"min_size", "1"}, {"max_size", "2"}});
    Observer observer;
    observer.ask("CREATE TABLE IF NOT EXISTS written (i int)");
    observer.ask("TRUNCATE written");
    Outcome slow;
    std::thread busy([&] { slow = pool.run("INSERT INTO written SELECT 1 FROM pg_sleep(30)"); });
    REQUIRE(pool.wait_until_running("INSERT INTO written"));
    terminate_backend(observer.ask("SELECT pid FROM pg_stat_activity WHERE state = 'active' AND application_name = '" +
                                   pool.application() + "'"));
    busy.join();
    CHECK((slow.status == PQPOOL_VALIDATION || slow.status == PQPOOL_CONNECTION_LOST));
    CHECK_THAT(slow.message, Catch::Contains("unknown"));
    CHECK(observer.ask("SELECT count(*) FROM written") == "0");
    observer.ask("DROP TABLE written");
    CHECK(pool.wait_until_quiet());
}

TEST_CASE("no_replacement_within_the_timeout_is_a_timeout", "[lost]") {
    Pool pool({{"min_size", "1"}, {"max_size", "2"}});
    const auto pid = pool.run("SELECT pg_backend_pid()").value();
    const auto other = pool.acquire();
    const auto lease = pool.acquire(200);
    REQUIRE(pqpool_pause(pool) == PQPOOL_OK);  // nobody gets a connection for now
    Observer observer;
    const auto pids =
        observer.ask("SELECT array_to_string(array_agg(pid), ',') FROM pg_stat_activity WHERE application_name = '" +
                     pool.application() + "'");
    observer.ask("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid IN (" + pids + ")");
    REQUIRE(wait_until(
        [&] { return observer.ask("SELECT count(*) FROM pg_stat_activity WHERE pid IN (" + pids + ")") == "0"; }));
    const auto start = Clock::now();
    CHECK(pool.execute(lease, "SELECT 1").status == PQPOOL_TIMEOUT);
    CHECK(since(start) < seconds(2));
    CHECK(pqpool_resume(pool) == PQPOOL_OK);
    // The lease is not at its end: it tries again with the next statement.
    CHECK(pool.execute(lease, "SELECT 1").value() == "1");
    CHECK(pool.release(lease) == PQPOOL_OK);
    CHECK(pool.release(other) == PQPOOL_OK);
    CHECK(pool.wait_until_quiet());
}

TEST_CASE("a_queue_can_be_freed_while_a_replacement_is_awaited_or_was_refused", "[lost][queue]") {
    Pool pool({{"min_size", "2"}, {"max_size", "2"}});
    const bool refused = GENERATE(false, true);
    {
        Queue queue(pool);
        const auto lease = queue.acquire();
        pqpool_acquire_options options = PQPOOL_ACQUIRE_OPTIONS_INIT;
        options.timeout_ms = refused ? 50 : 20000;
        REQUIRE(pqpool_pause(pool) == PQPOOL_OK);
        REQUIRE(pqpool_resume(pool) == PQPOOL_OK);
        pqpool_lease second = 0;
        uint64_t id = 0;
        REQUIRE(pqpool_acquire_async(queue, &options, nullptr, &id, &second) == PQPOOL_OK);
        REQUIRE(second != 0);
        REQUIRE(pqpool_pause(pool) == PQPOOL_OK);
        terminate_idle_backends(pool);
        queue.execute(lease, "SELECT 1");
        queue.execute(second, "SELECT 1");
        REQUIRE(wait_until([&] {
            queue.wait_for(1, milliseconds(5));
            return pool.statistics().waiting_requests == (refused ? 1 : 2);
        }));
    }
    CHECK(pool.statistics().waiting_requests == 0);
    CHECK(pool.statistics().leases_out == 0);
    CHECK(pqpool_resume(pool) == PQPOOL_OK);
    CHECK(pool.run("SELECT 1").value() == "1");
    CHECK(pool.wait_until_quiet());
}

TEST_CASE("terminations_under_load_lose_nothing_of_the_pools_count", "[lost]") {
    Pool pool({{"min_size", "4"}, {"max_size", "4"}});
    std::atomic<bool> over{false};
    std::atomic<int> answered{0}, lost{0}, wrong{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 6; t++)
        threads.emplace_back([&, t] {
            for (int i = 0; !over; i++) {
                const std::string expected = std::to_string(t * 100000 + i);
                const auto done = pool.run("SELECT $1::text, pg_sleep(0.002)", {text(expected.c_str())});
                if (done.status == PQPOOL_OK)
                    (done.value() == expected ? answered : wrong)++;
                else if (done.status == PQPOOL_CONNECTION_LOST || done.status == PQPOOL_VALIDATION ||
                         done.sqlstate.starts_with("57P0"))
                    lost++;
                else
                    wrong++;
            }
        });
    Observer observer;
    for (int i = 0; i < 10; i++) {
        const int before = answered;
        observer.ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '" +
                     pool.application() + "' ORDER BY random() LIMIT 2");
        CHECK(wait_until([&] { return answered > before + 20; }));
    }
    over = true;
    for (auto& thread : threads) thread.join();
    CHECK(wrong == 0);
    // Sessions that ended so early are replaced one by one, until one has stood for a second.
    CHECK(wait_until([&] { return pool.statistics().total_connections == 4; }, seconds(30)));
    CHECK(pool.wait_until_quiet());
    const auto s = pool.statistics();
    CHECK(s.total_acquisitions == s.total_releases);
}
