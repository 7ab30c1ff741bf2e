// Many threads at once, with cancels and timeouts among them: the counts must agree, here and on the server.
#include <atomic>
#include <random>
#include <thread>

#include "capi_fixture.hpp"

using namespace capi_test;

namespace {

// What must hold in every snapshot, whenever it is taken.
std::string broken_rule(const pqpool_statistics& s, int64_t max_size) {
    if (s.total_connections != s.idle_connections + s.active_connections) return "total = idle + active";
    if (s.total_acquisitions - s.total_releases != s.leases_out) return "acquisitions - releases = leases out";
    if (s.active_connections > s.peak_active_connections || s.peak_active_connections > max_size)
        return "active <= peak <= max_size";
    if (s.total_connections > max_size) return "total <= max_size";
    for (const int64_t count :
         {s.total_connections, s.idle_connections, s.active_connections, s.live_connections, s.opening_connections,
          s.cleaning_connections, s.waiting_requests, s.leases_out, s.connections_opened, s.connections_closed})
        if (count < 0) return "nothing is negative";
    return "";
}

}  // namespace

TEST_CASE("under_mixed_load_with_cancels_the_counts_agree", "[load]") {
    constexpr int kThreads = 12, kRounds = 300, kMaxSize = 5;
    Pool pool({{"min_size", "2"}, {"max_size", "5"}, {"timeout", "20"}});
    std::atomic<int> wrong{0}, answered{0}, cancelled{0}, timed_out{0}, unserved{0};
    std::atomic<bool> over{false};
    std::atomic<pqpool_lease> target{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; t++)
        threads.emplace_back([&, t] {
            std::mt19937 random(static_cast<unsigned>(t));
            for (int i = 0; i < kRounds; i++) {
                pqpool_acquire_options options = PQPOOL_ACQUIRE_OPTIONS_INIT;
                if (random() % 10 == 0) options.timeout_ms = random() % 3;
                pqpool_lease lease = 0;
                const int32_t status = pqpool_acquire(pool, &options, &lease);
                if (status == PQPOOL_TIMEOUT) {
                    unserved++;
                    continue;
                }
                if (status != PQPOOL_OK) {
                    wrong++;
                    continue;
                }
                if (random() % 4 == 0) target = lease;
                for (unsigned n = random() % 4; n > 0; n--) {
                    const std::string expected = std::to_string(t * kRounds + i);
                    const bool slow = random() % 8 == 0;
                    const auto done =
                        pool.execute(lease, slow ? "SELECT $1::text, pg_sleep(0.01)" : "SELECT $1::text",
                                     {text(expected.c_str())}, PQPOOL_TEXT, slow && random() % 2 ? 3 : PQPOOL_DEFAULT);
                    if (done.status == PQPOOL_OK)
                        (done.value() == expected ? answered : wrong)++;
                    else if (done.sqlstate == "57014")
                        cancelled++;
                    else if (done.status == PQPOOL_STATEMENT_TIMEOUT)
                        timed_out++;
                    else
                        wrong++;
                }
                if (random() % 8 == 0 && pool.execute(lease, "BEGIN").status != PQPOOL_OK) cancelled++;
                if (pool.release(lease) != PQPOOL_OK) wrong++;
            }
        });
    std::string broken;
    std::thread canceller([&] {
        while (!over) {
            if (const auto lease = target.exchange(0)) pqpool_cancel(pool, lease);
            if (broken.empty()) broken = broken_rule(pool.statistics(), kMaxSize);
            std::this_thread::yield();
        }
    });
    for (auto& thread : threads) thread.join();
    over = true;
    canceller.join();
    CHECK(wrong == 0);
    CHECK(broken == "");
    CHECK(answered > kRounds);
    CHECK(timed_out > 0);
    CHECK(pool.wait_until_quiet());
    const auto s = pool.statistics();
    CHECK(broken_rule(s, kMaxSize) == "");
    CHECK(s.total_acquisitions == s.total_releases);
    CHECK(s.total_acquisitions + unserved == kThreads * kRounds);
    CHECK(s.total_timeouts == unserved);
    CHECK(s.connections_lost == 0);
    CHECK(s.peak_waiting_requests > 0);
    CHECK(s.connections_opened - s.connections_closed == s.total_connections);
    CHECK(pool.sessions() == s.total_connections);
    CHECK(pool.sessions("state = 'idle'") == s.total_connections);
}

TEST_CASE("blocking_callers_and_queues_share_the_connections", "[load]") {
    Pool pool({{"min_size", "2"}, {"max_size", "3"}});
    std::atomic<int> wrong{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 3; t++)
        threads.emplace_back([&] {
            for (int i = 0; i < 200; i++)
                if (pool.run("SELECT 1").value() != "1") wrong++;
        });
    Queue queue(pool);
    std::size_t answered = 0;
    for (int i = 0; i < 200; i++) {
        queue.run("SELECT 2");
        for (const auto& done : i % 5 == 4 ? queue.wait_for(5) : queue.take()) {
            if (done.status != PQPOOL_OK || value(done.result) != "2") wrong++;
            answered++;
        }
    }
    answered += queue.wait_for(200 - answered).size();
    for (auto& thread : threads) thread.join();
    CHECK(answered == 200);
    CHECK(wrong == 0);
    CHECK(pool.wait_until_quiet());
    CHECK(pool.statistics().total_acquisitions == 800);
}

TEST_CASE("resize_drain_and_pause_amid_traffic_lose_nothing", "[load]") {
    Pool pool({{"min_size", "2"}, {"max_size", "4"}});
    std::atomic<bool> over{false};
    std::atomic<int> wrong{0}, answered{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; t++)
        threads.emplace_back([&] {
            while (!over) (pool.run("SELECT 1").value() == "1" ? answered : wrong)++;
        });
    const auto go_on = [&] {
        const int before = answered;
        CHECK(wait_until([&] { return answered > before + 20; }));
    };
    for (int i = 0; i < 5; i++) {
        CHECK(pqpool_resize(pool, 1, 1) == PQPOOL_OK);
        go_on();
        CHECK(pqpool_drain(pool) == PQPOOL_OK);
        go_on();
        CHECK(pqpool_pause(pool) == PQPOOL_OK);
        CHECK(wait_until([&] { return pool.statistics().waiting_requests == 4; }));
        CHECK(pqpool_resize(pool, 3, 4) == PQPOOL_OK);
        CHECK(pqpool_resume(pool) == PQPOOL_OK);
        go_on();
    }
    CHECK(pqpool_resize(pool, 5, 4) == PQPOOL_CONFIGURATION);
    over = true;
    for (auto& thread : threads) thread.join();
    CHECK(wrong == 0);
    CHECK(pool.wait_until_quiet());
    CHECK(pool.statistics().total_connections >= 3);
    CHECK(pool.statistics().connections_lost == 0);
}
