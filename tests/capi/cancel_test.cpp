// Statements that end before their answer: by timeout, by pqpool_cancel, and by a release.
#include <signal.h>

#include <fstream>
#include <thread>

#include "capi_fixture.hpp"

using namespace capi_test;

namespace {

// A server process that does not run for as long as this stands. Only where the server is on this machine and ours to
// stop.
class Standstill {
  public:
    explicit Standstill(const std::string& pid) : pid_(std::stoi(pid)), works_(kill(pid_, SIGSTOP) == 0) {}
    ~Standstill() { end(); }
    Standstill(const Standstill&) = delete;

    bool works() const { return works_; }
    void end() { kill(pid_, SIGCONT); }
    bool has_pending_interrupt() const {
        std::ifstream status("/proc/" + std::to_string(pid_) + "/status");
        for (std::string line; std::getline(status, line);)
            if (line.starts_with("ShdPnd:")) return std::stoull(line.substr(8), nullptr, 16) & 1u << (SIGINT - 1);
        return false;
    }

  private:
    pid_t pid_;
    bool works_;
};

}  // namespace

TEST_CASE("a_statement_past_its_timeout_ends_and_the_lease_stays_usable", "[cancel]") {
    Pool pool({{"min_size", "1"}, {"max_size", "1"}});
    const auto lease = pool.acquire();
    const bool first = GENERATE(true, false);
    if (!first) REQUIRE(pool.execute(lease, "SELECT 1").status == PQPOOL_OK);
    for (int round = 0; round < 3; round++) {
        const auto start = Clock::now();
        const auto slow = pool.execute(lease, "SELECT pg_sleep(30)", {}, PQPOOL_TEXT, 50);
        CHECK(slow.status == PQPOOL_STATEMENT_TIMEOUT);
        CHECK(since(start) >= milliseconds(50));
        CHECK(since(start) < seconds(2));
        // What follows gets its own answer, not what was left of the statement before it.
        for (int i = 0; i < 3; i++) {
            const std::string expected = std::to_string(round * 10 + i);
            CHECK(pool.execute(lease, "SELECT $1::text", {text(expected.c_str())}).value() == expected);
        }
    }
    CHECK(pool.sessions() == 1);
    CHECK(pool.release(lease) == PQPOOL_OK);
    CHECK(pool.wait_until_quiet());
    CHECK(pool.statistics().connections_lost == 0);
}

TEST_CASE("command_timeout_is_the_default_and_a_call_can_lift_it", "[cancel]") {
    Pool pool({{"command_timeout", "0.1"}});
    const auto lease = pool.acquire();
    CHECK(pool.execute(lease, "SELECT pg_sleep(30)").status == PQPOOL_STATEMENT_TIMEOUT);
    CHECK(pool.execute(lease, "SELECT pg_sleep(0.3), 1", {}, PQPOOL_TEXT, PQPOOL_NO_LIMIT).status == PQPOOL_OK);
    CHECK(pool.execute(lease, "SELECT pg_sleep(0.3), 1", {}, PQPOOL_TEXT, 10000).status == PQPOOL_OK);
    CHECK(pool.release(lease) == PQPOOL_OK);
}

TEST_CASE("the_transaction_of_a_timed_out_statement_has_failed", "[cancel]") {
    Pool pool({{"min_size", "1"}, {"max_size", "1"}});
    const auto lease = pool.acquire();
    REQUIRE(pool.execute(lease, "BEGIN").status == PQPOOL_OK);
    CHECK(pool.execute(lease, "SELECT pg_sleep(30)", {}, PQPOOL_TEXT, 50).status == PQPOOL_STATEMENT_TIMEOUT);
    CHECK(pool.execute(lease, "SELECT 1").sqlstate == "25P02");
    CHECK(pool.execute(lease, "ROLLBACK").status == PQPOOL_OK);
    CHECK(pool.execute(lease, "SELECT 1").value() == "1");
    CHECK(pool.release(lease) == PQPOOL_OK);
}

TEST_CASE("another_thread_can_cancel_the_statement_under_way", "[cancel]") {
    Pool pool({{"min_size", "1"}, {"max_size", "1"}});
    const auto lease = pool.acquire();
    for (int round = 0; round < 3; round++) {
        Outcome slow;
        std::thread busy([&] { slow = pool.execute(lease, "SELECT pg_sleep(30)"); });
        REQUIRE(pool.wait_until_running("pg_sleep(30)"));
        CHECK(pqpool_cancel(pool, lease) == PQPOOL_OK);
        busy.join();
        CHECK(slow.status == PQPOOL_QUERY);
        CHECK(slow.sqlstate == "57014");
        CHECK(pool.execute(lease, "SELECT 1").value() == "1");
    }
    CHECK(pool.release(lease) == PQPOOL_OK);
}

TEST_CASE("a_cancel_without_a_statement_does_nothing", "[cancel]") {
    Pool pool;
    const auto lease = pool.acquire();
    CHECK(pqpool_cancel(pool, lease) == PQPOOL_OK);
    CHECK(pool.execute(lease, "SELECT pg_sleep(0.1), 1").status == PQPOOL_OK);
    CHECK(pqpool_cancel(pool, lease) == PQPOOL_OK);
    CHECK(pool.release(lease) == PQPOOL_OK);
    CHECK(pool.run("SELECT 1").value() == "1");
}

TEST_CASE("a_cancel_that_reached_the_server_before_its_statement_is_repeated", "[cancel][queue]") {
    Pool pool({{"min_size", "1"}, {"max_size", "1"}});
    Queue queue(pool);
    const auto lease = queue.acquire();
    queue.execute(lease, "SELECT pg_backend_pid()");
    const auto pid = value(queue.wait().result);
    Standstill server(pid);
    if (!server.works()) return;
    const auto id = queue.execute(lease, "SELECT pg_sleep(30)");
    CHECK(queue.cancel(id));
    CHECK(queue.wait().status == PQPOOL_CANCELLED);
    REQUIRE(wait_until([&] { return server.has_pending_interrupt(); }));
    server.end();
    const auto start = Clock::now();
    SECTION("for the lease's next statement") {
        queue.execute(lease, "SELECT 'next'");
        CHECK(value(queue.wait().result) == "next");
        queue.execute(lease, "SELECT pg_backend_pid()");
        CHECK(value(queue.wait().result) == pid);
        CHECK(pool.release(lease) == PQPOOL_OK);
    }
    SECTION("for the next lease") {
        CHECK(pool.release(lease) == PQPOOL_OK);
        queue.run("SELECT 'next'");
        CHECK(value(queue.wait().result) == "next");
        CHECK(pool.wait_until_quiet());
    }
    CHECK(since(start) < seconds(3));
}

TEST_CASE("a_blocking_statements_cancel_is_repeated_too", "[cancel]") {
    Pool pool({{"min_size", "1"}, {"max_size", "1"}});
    const auto lease = pool.acquire();
    const auto pid = pool.execute(lease, "SELECT pg_backend_pid()").value();
    Standstill server(pid);
    if (!server.works()) return;
    Outcome slow;
    const auto start = Clock::now();
    std::thread busy([&] { slow = pool.execute(lease, "SELECT pg_sleep(30)"); });
    REQUIRE(wait_until([&] { return pqpool_cancel(pool, lease) == PQPOOL_OK && server.has_pending_interrupt(); }));
    server.end();
    busy.join();
    CHECK(slow.sqlstate == "57014");
    CHECK(since(start) < seconds(5));
    CHECK(pool.execute(lease, "SELECT 1").value() == "1");
    CHECK(pool.release(lease) == PQPOOL_OK);
}

TEST_CASE("a_cancel_never_hits_a_later_statement", "[cancel]") {
    Pool pool({{"min_size", "1"}, {"max_size", "1"}});
    // The canceller aims at statements that are about to end, so that many requests come late.
    std::atomic<pqpool_lease> target{0};
    std::atomic<bool> over{false};
    std::thread canceller([&] {
        while (!over)
            if (const auto lease = target.load()) pqpool_cancel(pool, lease);
    });
    int cancelled = 0, wrong = 0, failed = 0;
    for (int round = 0; round < 150; round++) {
        const auto lease = pool.acquire();
        target = lease;
        const auto aimed_at = pool.execute(lease, "SELECT pg_sleep(0.002)");
        if (aimed_at.sqlstate == "57014")
            cancelled++;
        else if (aimed_at.status != PQPOOL_OK)
            failed++;
        target = 0;
        if (round % 2) {
            const std::string expected = std::to_string(round);
            // A canceller that has read the target may still fire once; its request is aimed at a statement by the time
            // it is made.
            const auto next = pool.execute(lease, "SELECT $1::text", {text(expected.c_str())});
            if (next.sqlstate != "57014" && next.value() != expected) wrong++;
        }
        if (pool.release(lease) != PQPOOL_OK) failed++;
        const auto untouched = pool.acquire();
        if (pool.execute(untouched, "SELECT pg_sleep(0.003), 'mine'").status != PQPOOL_OK) wrong++;
        if (pool.release(untouched) != PQPOOL_OK) failed++;
    }
    over = true;
    canceller.join();
    CHECK(cancelled > 0);
    CHECK(wrong == 0);
    CHECK(failed == 0);
    CHECK(pool.wait_until_quiet());
}

TEST_CASE("a_busy_lease_that_is_released_frees_its_place_and_its_statement_is_cancelled", "[cancel]") {
    Pool pool({{"min_size", "1"}, {"max_size", "1"}});
    const auto lease = pool.acquire();
    // The timed-out statement is still under way on the server when the lease ends.
    CHECK(pool.execute(lease, "SELECT pg_sleep(30)", {}, PQPOOL_TEXT, 50).status == PQPOOL_STATEMENT_TIMEOUT);
    CHECK(pool.release(lease) == PQPOOL_OK);
    const auto start = Clock::now();
    CHECK(pool.run("SELECT 1").value() == "1");
    CHECK(since(start) < seconds(2));
    CHECK(wait_until([&] { return pool.sessions("state = 'active'") == 0; }, seconds(3)));
    CHECK(pool.wait_until_quiet());
}

TEST_CASE("an_advisory_lock_of_a_cancelled_statement_is_given_up", "[cancel]") {
    Pool pool({{"min_size", "1"}, {"max_size", "1"}});
    const auto lease = pool.acquire();
    CHECK(pool.execute(lease, "SELECT pg_advisory_lock(4711), pg_sleep(30)", {}, PQPOOL_TEXT, 100).status ==
          PQPOOL_STATEMENT_TIMEOUT);
    CHECK(pool.execute(lease, "SELECT pg_advisory_lock(4712), 1/0").sqlstate == "22012");
    CHECK(pool.release(lease) == PQPOOL_OK);
    CHECK(wait_until([&] {
        return Observer().ask("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid IN (4711, 4712)") ==
               "0";
    }));
}
