// fork(): the child uses nothing of the parent's, and the parent loses nothing.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "capi_fixture.hpp"

using namespace capi_test;

namespace {

// Runs the body in a child that ends without the parent's exit handlers. What the body gives is "" for good.
std::string in_child(const std::function<std::string()>& body) {
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        alarm(60);
        std::string answer;
        try {
            answer = body();
        } catch (const std::exception& e) {
            answer = e.what();
        }
        const auto written = write(ends[1], answer.data(), answer.size());
        _exit(written == static_cast<ssize_t>(answer.size()) ? 0 : 1);
    }
    close(ends[1]);
    std::string answer;
    char piece[512];
    for (ssize_t n; (n = read(ends[0], piece, sizeof piece)) > 0;) answer.append(piece, static_cast<std::size_t>(n));
    close(ends[0]);
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    return status == 0 ? answer : answer + " (the child ended with wait status " + std::to_string(status) + ")";
}

}  // namespace

TEST_CASE("in_the_child_leases_and_queues_of_the_parent_are_refused", "[fork]") {
    Pool pool({{"min_size", "2"}, {"max_size", "4"}});
    Queue queue(pool);
    const auto lease = pool.acquire();
    const auto asynchronous = queue.acquire();
    const auto answer = in_child([&]() -> std::string {
        if (pqpool_release(pool, lease) != PQPOOL_FORKED) return "release";
        if (std::string(pqpool_error_message()).find("parent") == std::string::npos) return "message";
        if (pool.execute(lease, "SELECT 1").status != PQPOOL_FORKED) return "execute";
        if (pqpool_cancel(pool, lease) != PQPOOL_FORKED) return "cancel";
        pg_conn* raw = nullptr;
        if (pqpool_lease_pgconn(pool, lease, &raw) != PQPOOL_FORKED) return "raw connection";
        const auto statement = statement_of("SELECT 1");
        uint64_t id = 0;
        if (pqpool_execute_async(queue, asynchronous, &statement, nullptr, &id) != PQPOOL_FORKED)
            return "execute_async";
        if (pqpool_queue_poll(queue, 0) != PQPOOL_FORKED) return "poll";
        queue.free();
        return "";
    });
    CHECK(answer == "");
    // Nothing of all that reached the parent.
    CHECK(pool.execute(lease, "SELECT 1").value() == "1");
    queue.execute(asynchronous, "SELECT 2");
    CHECK(value(queue.wait().result) == "2");
    CHECK(pool.release(lease) == PQPOOL_OK);
    CHECK(pool.release(asynchronous) == PQPOOL_OK);
}

// ThreadSanitizer knows no threads in the child of a process that had several.
#if !defined(__SANITIZE_THREAD__)
TEST_CASE("the_child_uses_the_pool_with_sessions_of_its_own", "[fork]") {
    Pool pool({{"min_size", "2"}, {"max_size", "3"}});
    const auto pid_of_idle = pool.run("SELECT pg_backend_pid()").value();
    const auto lease = pool.acquire();
    REQUIRE(pool.execute(lease, "BEGIN").status == PQPOOL_OK);
    const auto pid_of_lease = pool.execute(lease, "SELECT pg_backend_pid()").value();
    const bool orderly = GENERATE(true, false);
    const auto answer = in_child([&]() -> std::string {
        for (int i = 0; i < 5; i++) {
            const auto pid = pool.run("SELECT pg_backend_pid()").value();
            if (pid == pid_of_idle || pid == pid_of_lease) return "the parent's session";
        }
        pqpool_lease mine = 0;
        if (pqpool_acquire(pool, nullptr, &mine) != PQPOOL_OK) return pqpool_error_message();
        if (pool.execute(mine, "SELECT 9").value() != "9") return "a lease";
        if (pqpool_release(pool, mine) != PQPOOL_OK) return pqpool_error_message();
        if (pool.statistics().total_acquisitions != 6) return "statistics";
        if (orderly) {
            if (pqpool_shutdown(pool, 1000) != PQPOOL_OK) return pqpool_error_message();
            pqpool_free(pool);
        }
        return "";
    });
    CHECK(answer == "");
    // The transaction and the idle sessions of the parent have not noticed.
    CHECK(pool.execute(lease, "SELECT pg_backend_pid()").value() == pid_of_lease);
    CHECK(pool.execute(lease, "COMMIT").status == PQPOOL_OK);
    CHECK(pool.release(lease) == PQPOOL_OK);
    CHECK(pool.statistics().connections_lost == 0);
    CHECK(pool.wait_until_quiet());
}
#endif

TEST_CASE("a_child_that_never_uses_the_pool_disturbs_nobody", "[fork]") {
    Pool pool({{"min_size", "2"}, {"max_size", "2"}});
    const auto lease = pool.acquire();
    const bool frees = GENERATE(false, true);
    const auto answer = in_child([&]() -> std::string {
        if (frees) pqpool_free(pool);
        return "";
    });
    CHECK(answer == "");
    CHECK(pool.execute(lease, "SELECT 1").value() == "1");
    CHECK(pool.release(lease) == PQPOOL_OK);
    CHECK(pool.statistics().connections_lost == 0);
    CHECK(pool.wait_until_quiet());
}

#if !defined(__SANITIZE_THREAD__)
TEST_CASE("several_threads_of_the_child_may_come_first", "[fork]") {
    Pool pool({{"min_size", "1"}, {"max_size", "2"}});
    const auto answer = in_child([&]() -> std::string {
        std::atomic<int> wrong{0};
        std::vector<std::thread> threads;
        for (int i = 0; i < 6; i++)
            threads.emplace_back([&] {
                if (pool.run("SELECT 3").value() != "3") wrong++;
            });
        for (auto& thread : threads) thread.join();
        return wrong ? "wrong answers" : "";
    });
    CHECK(answer == "");
}
#endif

// The sanitizers' own allocators keep their locks over a fork, so a child of a fork amid allocations would hang in
// them.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
TEST_CASE("a_fork_amid_the_parents_traffic_leaves_both_whole", "[fork]") {
    Pool pool({{"min_size", "3"}, {"max_size", "3"}});
    std::atomic<bool> over{false};
    std::atomic<int> wrong{0}, answered{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 3; t++)
        threads.emplace_back([&, t] {
            for (int i = 0; !over; i++) {
                const std::string expected = std::to_string(t * 100000 + i);
                (pool.run("SELECT $1::text", {text(expected.c_str())}).value() == expected ? answered : wrong)++;
            }
        });
    for (int round = 0; round < 10; round++) {
        const auto answer =
            in_child([&]() -> std::string { return pool.run("SELECT 4").value() == "4" ? "" : "the child's answer"; });
        CHECK(answer == "");
    }
    over = true;
    for (auto& thread : threads) thread.join();
    CHECK(wrong == 0);
    CHECK(answered > 0);
    CHECK(pool.wait_until_quiet());
    CHECK(pool.statistics().connections_lost == 0);
}
#endif
