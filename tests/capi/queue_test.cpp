// The completion queue: acquires and statements on the caller's thread, under one descriptor.
#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <fstream>
#include <map>
#include <thread>

#include "capi_fixture.hpp"

using namespace capi_test;

namespace {

bool is_readable(pqpool_queue* queue) {
    pollfd watched{pqpool_queue_fd(queue), POLLIN, 0};
    return poll(&watched, 1, 0) == 1;
}

}  // namespace

TEST_CASE("a_free_connection_is_granted_without_a_completion", "[queue]") {
    Pool pool;
    Queue queue(pool);
    uint64_t id = 77;
    pqpool_lease lease = 0;
    REQUIRE(pqpool_acquire_async(queue, nullptr, nullptr, &id, &lease) == PQPOOL_OK);
    CHECK(id == 0);
    CHECK(lease != 0);
    CHECK(queue.take().empty());
    CHECK(pool.release(lease) == PQPOOL_OK);
    CHECK(pool.release(lease) == PQPOOL_RELEASED);
}

TEST_CASE("a_statement_completes_once_with_its_id_and_data", "[queue]") {
    Pool pool;
    Queue queue(pool);
    const auto lease = queue.acquire();
    int mine = 0;
    const auto id = queue.execute(lease, "SELECT 42", PQPOOL_DEFAULT, &mine);
    const auto done = queue.wait();
    CHECK(done.id == id);
    CHECK(done.user_data == &mine);
    CHECK(done.status == PQPOOL_OK);
    CHECK(done.lease == 0);
    CHECK(value(done.result) == "42");
    CHECK(queue.wait_for(1, milliseconds(50)).empty());
    CHECK(pool.release(lease) == PQPOOL_OK);
}

TEST_CASE("a_failure_carries_its_own_text_and_fields", "[queue]") {
    Pool pool;
    Queue queue(pool);
    const auto lease = queue.acquire();
    queue.execute(lease, "SELECT 1/0");
    const auto done = queue.wait();
    CHECK(done.status == PQPOOL_QUERY);
    REQUIRE(done.result);
    CHECK_THAT(pqpool_result_error_message(done.result.get()), Catch::Contains("division by zero"));
    CHECK(std::string(pqpool_result_error_sqlstate(done.result.get())) == "22012");
    CHECK(std::string(pqpool_result_error_field(done.result.get(), 'C')) == "22012");
    CHECK(pqpool_result_rows(done.result.get()) == 0);
    CHECK(pqpool_result_command_tag(done.result.get()) == nullptr);
    CHECK(pool.release(lease) == PQPOOL_OK);
}

TEST_CASE("many_statements_progress_at_once_under_one_descriptor", "[queue]") {
    Pool pool({{"min_size", "4"}, {"max_size", "4"}});
    Queue queue(pool);
    std::map<uint64_t, std::string> expected;
    for (int i = 0; i < 40; i++) {
        const std::string number = std::to_string(i);
        const auto id = queue.run(("SELECT pg_sleep(0.02)::text || " + number).c_str());
        REQUIRE(expected.emplace(id, number).second);
    }
    const auto start = Clock::now();
    const auto all = queue.wait_for(40);
    CHECK(since(start) < seconds(5));
    REQUIRE(all.size() == 40);
    for (const auto& done : all) {
        CHECK(done.status == PQPOOL_OK);
        CHECK(value(done.result) == expected.at(done.id));
        expected.erase(done.id);
    }
    CHECK(expected.empty());
    CHECK(pool.statistics().peak_active_connections == 4);
    CHECK(pool.statistics().leases_out == 0);
}

TEST_CASE("run_async_acquires_executes_and_releases", "[queue]") {
    Pool pool({{"min_size", "1"}, {"max_size", "1"}});
    Queue queue(pool);
    for (int i = 0; i < 5; i++) {
        queue.run("SELECT 6");
        CHECK(value(queue.wait().result) == "6");
    }
    queue.run("SELECT 1/0");
    CHECK(queue.wait().status == PQPOOL_QUERY);
    queue.run("BEGIN");
    CHECK(queue.wait().status == PQPOOL_OK);
    CHECK(pool.wait_until_quiet());
    CHECK(pool.statistics().total_acquisitions == 7);
    CHECK(pool.statistics().total_releases == 7);
}

TEST_CASE("a_waiting_acquire_is_granted_by_a_release", "[queue]") {
    Pool pool({{"min_size", "1"}, {"max_size", "1"}});
    Queue queue(pool);
    const auto lease = queue.acquire();
    const auto id = queue.acquire_waiting();
    CHECK(queue.wait_for(1, milliseconds(30)).empty());

    SECTION("on the same thread: the completion is there at once") {
        CHECK(pool.release(lease) == PQPOOL_OK);
        const auto all = queue.take();
        REQUIRE(all.size() == 1);
        CHECK(all[0].id == id);
        CHECK(pool.release(all[0].lease) == PQPOOL_OK);
    }
    SECTION("on another thread: the descriptor turns readable") {
        int32_t status = -1;
        std::thread([&] { status = pool.release(lease); }).join();
        CHECK(status == PQPOOL_OK);
        CHECK(is_readable(queue));
        // Once given back, the handle is dead for everybody, also before the queue has got round to it.
        CHECK(pool.release(lease) == PQPOOL_RELEASED);
        const auto done = queue.wait();
        CHECK(done.id == id);
        CHECK(pool.release(done.lease) == PQPOOL_OK);
    }
    CHECK(pool.wait_until_quiet());
}

TEST_CASE("a_queue_is_told_of_what_another_queue_of_its_thread_grants_it", "[queue]") {
    Pool pool({{"min_size", "1"}, {"max_size", "1"}});
    Queue waits(pool), releases(pool);
    const auto lease = releases.acquire();
    const auto id = waits.acquire_waiting();
    CHECK_FALSE(is_readable(waits));
    CHECK(pool.release(lease) == PQPOOL_OK);
    CHECK(is_readable(waits));
    CHECK_FALSE(is_readable(releases));
    const auto done = waits.wait();
    CHECK(done.id == id);
    CHECK(pool.release(done.lease) == PQPOOL_OK);
}

TEST_CASE("a_grant_that_another_thread_released_and_nobody_took_is_released_once", "[queue]") {
    Pool pool({{"min_size", "1"}, {"max_size", "1"}});
    Queue stalled(pool), lively(pool);
    const auto lease = lively.acquire();
    stalled.acquire_waiting();
    CHECK(pool.release(lease) == PQPOOL_OK);
    std::thread([&] {
        pqpool_holder holder{};
        holder.struct_size = sizeof holder;
        size_t count = 0;
        CHECK(pqpool_holders(pool, &holder, 1, &count) == PQPOOL_OK);
        CHECK(pool.release(holder.lease) == PQPOOL_OK);
    }).join();
    lively.acquire_waiting();
    const auto mine = lively.wait();
    REQUIRE(mine.status == PQPOOL_OK);
    CHECK(stalled.wait_for(1, milliseconds(50)).empty());
    CHECK(pool.statistics().leases_out == 1);
    CHECK(pool.release(mine.lease) == PQPOOL_OK);
    CHECK(pool.release(stalled.wait().lease) == PQPOOL_OK);
    CHECK(pool.wait_until_quiet());
    CHECK(pool.statistics().leases_out == 0);
}

TEST_CASE("a_queue_that_nobody_polls_keeps_no_connection_from_the_others", "[queue]") {
    Pool pool({{"min_size", "1"}, {"max_size", "1"}});
    auto stalled = std::make_unique<Queue>(pool);
    Queue lively(pool);
    const bool by_itself = GENERATE(false, true);
    INFO("what it is granted it has released itself: " << by_itself);
    const auto lease = by_itself ? stalled->acquire() : lively.acquire();
    std::vector<uint64_t> ids;
    for (int i = 0; i < 5; i++) ids.push_back(stalled->acquire_waiting());
    CHECK(pool.release(lease) == PQPOOL_OK);  // granted to the first of them
    const auto start = Clock::now();
    lively.acquire_waiting();
    const auto mine = lively.wait();  // of one time limit, not of five
    REQUIRE(mine.status == PQPOOL_OK);
    CHECK(since(start) < seconds(4));
    CHECK(pool.statistics().waiting_requests == 0);

    SECTION("polled again, it is served in its order") {
        CHECK(stalled->wait_for(1, milliseconds(50)).empty());
        CHECK(pool.statistics().waiting_requests == 5);
        CHECK(pool.release(mine.lease) == PQPOOL_OK);
        for (const auto id : ids) {
            const auto done = stalled->wait();
            CHECK(done.id == id);
            CHECK(pool.release(done.lease) == PQPOOL_OK);
        }
    }
    SECTION("a request of it can be cancelled, and the others stay") {
        CHECK(stalled->cancel(ids[0]));
        CHECK(stalled->wait().status == PQPOOL_CANCELLED);
        CHECK(pool.release(mine.lease) == PQPOOL_OK);
        const auto done = stalled->wait();
        CHECK(done.id == ids[1]);
        CHECK(pool.release(done.lease) == PQPOOL_OK);
    }
    SECTION("its end takes them along") {
        stalled.reset();
        CHECK(pool.release(mine.lease) == PQPOOL_OK);
    }
    SECTION("shut down meanwhile, they fail") {
        CHECK(pool.release(mine.lease) == PQPOOL_OK);
        CHECK(pqpool_shutdown(pool, 1000) == PQPOOL_OK);
        for (const auto& done : stalled->wait_for(5)) CHECK(done.status == PQPOOL_CLOSED);
        return;
    }
    stalled.reset();
    CHECK(pool.wait_until_quiet());
}

TEST_CASE("an_acquire_past_its_timeout_completes_with_timeout", "[queue]") {
    Pool pool({{"min_size", "1"}, {"max_size", "1"}});
    Queue queue(pool);
    const auto lease = queue.acquire();
    pqpool_acquire_options options = PQPOOL_ACQUIRE_OPTIONS_INIT;
    options.timeout_ms = 50;
    uint64_t id = 0;
    pqpool_lease none = 0;
    REQUIRE(pqpool_acquire_async(queue, &options, nullptr, &id, &none) == PQPOOL_OK);
    const auto done = queue.wait();
    CHECK(done.id == id);
    CHECK(done.status == PQPOOL_TIMEOUT);
    CHECK(done.lease == 0);
    CHECK_THAT(pqpool_result_error_message(done.result.get()), Catch::Contains("0.05 seconds"));
    CHECK(pool.release(lease) == PQPOOL_OK);
}

TEST_CASE("a_second_statement_on_a_busy_lease_is_refused", "[queue]") {
    Pool pool;
    Queue queue(pool);
    const auto lease = queue.acquire();
    queue.execute(lease, "SELECT pg_sleep(0.05), 1");
    const auto statement = statement_of("SELECT 2");
    uint64_t id = 0;
    CHECK(pqpool_execute_async(queue, lease, &statement, nullptr, &id) == PQPOOL_BUSY);
    CHECK(queue.wait().status == PQPOOL_OK);
    queue.execute(lease, "SELECT 2");
    CHECK(value(queue.wait().result) == "2");
    CHECK(pool.release(lease) == PQPOOL_OK);
}

TEST_CASE("a_lease_belongs_to_the_queue_that_acquired_it", "[queue]") {
    Pool pool;
    Queue queue(pool), other(pool);
    const auto lease = queue.acquire(), blocking = pool.acquire();
    const auto statement = statement_of("SELECT 1");
    uint64_t id = 0;
    CHECK(pqpool_execute_async(other, lease, &statement, nullptr, &id) == PQPOOL_INVALID_ARGUMENT);
    CHECK_THAT(pqpool_error_message(), Catch::Contains("queue"));
    CHECK(pqpool_execute_async(queue, blocking, &statement, nullptr, &id) == PQPOOL_INVALID_ARGUMENT);
    CHECK(pool.execute(lease, "SELECT 1").status == PQPOOL_INVALID_ARGUMENT);
    CHECK(pool.release(lease) == PQPOOL_OK);
    CHECK(pqpool_execute_async(queue, lease, &statement, nullptr, &id) == PQPOOL_RELEASED);
    CHECK(pool.release(blocking) == PQPOOL_OK);
}

TEST_CASE("a_queue_refuses_another_thread", "[queue]") {
    Pool pool;
    Queue queue(pool);
    const auto lease = queue.acquire();
    std::vector<int32_t> statuses;
    std::thread([&] {
        const auto statement = statement_of("SELECT 1");
        uint64_t id = 0;
        pqpool_lease none = 0;
        int32_t cancelled = 0;
        statuses = {pqpool_execute_async(queue, lease, &statement, nullptr, &id),
                    pqpool_run_async(queue, nullptr, &statement, nullptr, &id),
                    pqpool_acquire_async(queue, nullptr, nullptr, &id, &none),
                    pqpool_queue_poll(queue, 0),
                    pqpool_queue_cancel(queue, 1, &cancelled),
                    pqpool_shutdown_async(queue, 0, nullptr, &id),
                    pqpool_await_open_async(queue, nullptr, &id)};
    }).join();
    for (const int32_t status : statuses) CHECK(status == PQPOOL_INVALID_ARGUMENT);
    CHECK(queue.take().empty());
    CHECK(pool.release(lease) == PQPOOL_OK);
}

TEST_CASE("polling_waits_for_the_socket_and_a_wake_ends_it", "[queue]") {
    Pool pool;
    Queue queue(pool);
    const auto start = Clock::now();
    SECTION("at most for the timeout") {
        CHECK(pqpool_queue_poll(queue, 60) == PQPOOL_OK);
        CHECK(since(start) >= milliseconds(59));
    }
    SECTION("until a statement answers") {
        queue.run("SELECT pg_sleep(0.05), 1");
        std::vector<Completion> all;
        while (all.empty() && since(start) < seconds(5)) {
            CHECK(pqpool_queue_poll(queue, 5000) == PQPOOL_OK);
            all = queue.take();
        }
        CHECK(all.size() == 1);
        CHECK(since(start) < seconds(4));
    }
    SECTION("until somebody wakes it") {
        std::thread other([&] { pqpool_queue_wake(queue); });
        CHECK(pqpool_queue_poll(queue, 5000) == PQPOOL_OK);
        CHECK(since(start) < seconds(4));
        other.join();
        CHECK_FALSE(is_readable(queue));
    }
    CHECK(since(start) < seconds(5));
}

TEST_CASE("several_queues_in_several_threads_share_a_pool", "[queue]") {
    Pool pool({{"min_size", "3"}, {"max_size", "3"}});
    std::vector<std::thread> threads;
    std::vector<std::string> failures(4);
    for (std::size_t t = 0; t < 4; t++) {
        threads.emplace_back([&, t] {
            pqpool_queue* queue = nullptr;
            if (pqpool_queue_open(pool, &queue) != PQPOOL_OK) return void(failures[t] = pqpool_error_message());
            int next = 0, done = 0;
            std::map<uint64_t, std::string> expected;
            while (done < 150 && failures[t].empty()) {
                for (; next < 150 && next - done < 5; next++) {
                    const std::string text_of = std::to_string(t * 1000 + static_cast<std::size_t>(next));
                    const std::vector<pqpool_parameter> parameters = {text(text_of.c_str())};
                    const auto statement = statement_of("SELECT $1::text", parameters);
                    uint64_t id = 0;
                    if (pqpool_run_async(queue, nullptr, &statement, nullptr, &id) != PQPOOL_OK)
                        failures[t] = pqpool_error_message();
                    expected[id] = text_of;
                }
                pqpool_completion completion{};
                completion.struct_size = sizeof completion;
                int32_t taken = 0;
                if (pqpool_queue_next(queue, &completion, &taken) != PQPOOL_OK) failures[t] = pqpool_error_message();
                if (!taken) {
                    pqpool_queue_poll(queue, 1000);
                    continue;
                }
                const Result result(completion.result);
                if (completion.status != PQPOOL_OK)
                    failures[t] = pqpool_result_error_message(result.get());
                else if (value(result) != expected[completion.id])
                    failures[t] = "another's answer";
                done++;
            }
            pqpool_queue_free(queue);
        });
    }
    for (auto& thread : threads) thread.join();
    for (const auto& failure : failures) CHECK(failure == "");
    CHECK(pool.statistics().total_acquisitions == 600);
    CHECK(pool.wait_until_quiet());
}

TEST_CASE("opening_and_shutdown_complete_through_the_queue", "[queue]") {
    pqpool_options* options = nullptr;
    REQUIRE(pqpool_options_create(&options) == PQPOOL_OK);
    pqpool_pool* pool = nullptr;
    SECTION("a server that is there") {
        REQUIRE(pqpool_options_set(options, "database_url", database_url().c_str()) == PQPOOL_OK);
        REQUIRE(pqpool_create(options, &pool) == PQPOOL_OK);
        REQUIRE(pqpool_start(pool) == PQPOOL_OK);
        Queue queue(pool);
        uint64_t opened = 0, down = 0;
        int mine = 0;
        REQUIRE(pqpool_await_open_async(queue, &mine, &opened) == PQPOOL_OK);
        auto done = queue.wait();
        CHECK(done.id == opened);
        CHECK(done.status == PQPOOL_OK);
        CHECK(done.user_data == &mine);

        const auto lease = queue.acquire();
        REQUIRE(pqpool_shutdown_async(queue, 10000, nullptr, &down) == PQPOOL_OK);
        CHECK(queue.wait_for(1, milliseconds(50)).empty());
        CHECK(pqpool_release(pool, lease) == PQPOOL_OK);
        done = queue.wait();
        CHECK(done.id == down);
        CHECK(done.status == PQPOOL_OK);
        int32_t state = 0;
        CHECK(pqpool_get_state(pool, &state) == PQPOOL_OK);
        CHECK(state == PQPOOL_TERMINATED);
        REQUIRE(pqpool_await_open_async(queue, nullptr, &opened) == PQPOOL_OK);
        CHECK(queue.wait().status == PQPOOL_CLOSED);
    }
    SECTION("a server that is not") {
        REQUIRE(pqpool_options_set(options, "database_url", "postgresql://u@127.0.0.1:1/d") == PQPOOL_OK);
        REQUIRE(pqpool_create(options, &pool) == PQPOOL_OK);
        REQUIRE(pqpool_start(pool) == PQPOOL_OK);
        Queue queue(pool);
        uint64_t opened = 0;
        REQUIRE(pqpool_await_open_async(queue, nullptr, &opened) == PQPOOL_OK);
        const auto done = queue.wait();
        CHECK(done.status == PQPOOL_INITIALIZATION);
        CHECK_THAT(pqpool_result_error_message(done.result.get()), Catch::Contains("port 1"));
    }
    pqpool_options_free(options);
    pqpool_free(pool);
}

namespace {

bool is_asleep(pid_t thread) {
    std::ifstream file("/proc/self/task/" + std::to_string(thread) + "/stat");
    std::string text;
    std::getline(file, text);
    const auto end = text.rfind(')');
    return end != std::string::npos && text.substr(end, 3) == ") S";
}

// Takes completions as an edge-triggered event loop does: told once of what is ready, one poll for each time.
std::size_t taken_by_edges(pqpool_queue* queue, std::size_t count, milliseconds limit) {
    const int loop = epoll_create1(EPOLL_CLOEXEC);
    REQUIRE(loop >= 0);
    epoll_event event{};
    event.events = EPOLLIN | EPOLLET;
    REQUIRE(epoll_ctl(loop, EPOLL_CTL_ADD, pqpool_queue_fd(queue), &event) == 0);
    std::size_t taken = 0;
    const auto start = Clock::now();
    while (taken < count && since(start) < limit) {
        if (epoll_wait(loop, &event, 1, static_cast<int>((limit - since(start)).count())) <= 0) continue;
        REQUIRE(pqpool_queue_poll(queue, 0) == PQPOOL_OK);
        for (int32_t one = 1; one;) {
            pqpool_completion completion{};
            completion.struct_size = sizeof completion;
            REQUIRE(pqpool_queue_next(queue, &completion, &one) == PQPOOL_OK);
            taken += one && completion.status == PQPOOL_OK;
            if (one) pqpool_result_free(completion.result);
        }
    }
    close(loop);
    return taken;
}

}  // namespace

TEST_CASE("an_edge_triggered_loop_gets_all_that_is_ready", "[queue]") {
    SECTION("many sockets at once") {
        constexpr int kConnections = 80;
        Pool pool({{"min_size", "80"}, {"max_size", "80"}});
        Queue queue(pool);
        for (int i = 0; i < kConnections; i++) queue.run("SELECT 1 AS mine");
        // The loop is busy with something else until every answer is there.
        REQUIRE(wait_until([&] { return pool.sessions("state = 'idle' AND query LIKE '%AS mine'") == kConnections; }));
        CHECK(taken_by_edges(queue, kConnections, seconds(5)) == kConnections);
    }
    SECTION("one answer that takes many reads") {
        Pool pool({{"min_size", "1"}, {"max_size", "1"}});
        Queue queue(pool);
        queue.run("SELECT repeat('x', 100000) FROM generate_series(1, 200)");
        CHECK(taken_by_edges(queue, 1, seconds(5)) == 1);
    }
}

TEST_CASE("a_queue_is_freed_by_another_thread_while_its_own_is_not_in_it", "[queue]") {
    Pool pool({{"min_size", "1"}, {"max_size", "4"}});
    SECTION("one that was left with a statement under way and a lease out") {
        for (int i = 0; i < 20; i++) {
            pqpool_queue* queue = nullptr;
            std::thread([&] {
                const pqpool_statement statement = PQPOOL_STATEMENT_INIT("SELECT pg_sleep(0.01)");
                uint64_t id = 0;
                pqpool_lease lease = 0;
                if (pqpool_queue_open(pool, &queue) != PQPOOL_OK) return;
                pqpool_run_async(queue, nullptr, &statement, nullptr, &id);
                pqpool_acquire_async(queue, nullptr, nullptr, &id, &lease);
            }).join();
            REQUIRE(queue);
            pqpool_queue_free(queue);
            CHECK(std::string(pqpool_error_message()).empty());
        }
        CHECK(pool.wait_until_quiet());
        CHECK(pool.statistics().leases_out == 0);
    }
    SECTION("one that is in use is kept") {
        pqpool_queue* queue = nullptr;
        REQUIRE(pqpool_queue_open(pool, &queue) == PQPOOL_OK);
        bool refused = false;
        std::thread finalizer([&, owner = gettid()] {
            if (!wait_until([&] { return is_asleep(owner); })) return;
            pqpool_queue_free(queue);
            refused = std::string(pqpool_error_message()).find("in use") != std::string::npos;
            pqpool_queue_wake(queue);
        });
        CHECK(pqpool_queue_poll(queue, 5000) == PQPOOL_OK);
        finalizer.join();
        CHECK(refused);
        CHECK(pqpool_queue_poll(queue, 0) == PQPOOL_OK);
        pqpool_queue_free(queue);
    }
    SECTION("while others release its leases") {
        for (int i = 0; i < 50; i++) {
            pqpool_queue* queue = nullptr;
            pqpool_lease leases[3] = {};
            std::thread([&] {
                uint64_t id = 0;
                if (pqpool_queue_open(pool, &queue) != PQPOOL_OK) return;
                for (auto& lease : leases) pqpool_acquire_async(queue, nullptr, nullptr, &id, &lease);
            }).join();
            REQUIRE(queue);
            std::thread releasing([&] {
                for (const auto lease : leases)
                    if (lease) pqpool_release(pool, lease);
            });
            pqpool_queue_free(queue);
            releasing.join();
        }
        CHECK(pool.wait_until_quiet());
        CHECK(pool.statistics().leases_out == 0);
    }
}
