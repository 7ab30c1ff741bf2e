// Opening, shutting down and freeing a pool.
#include <cstring>
#include <thread>

#include "capi_fixture.hpp"

using namespace capi_test;

namespace {

struct FreeOptions {
    void operator()(pqpool_options* options) const { pqpool_options_free(options); }
};
using Options = std::unique_ptr<pqpool_options, FreeOptions>;

Options options_for(const std::string& url) {
    pqpool_options* options = nullptr;
    REQUIRE(pqpool_options_create(&options) == PQPOOL_OK);
    REQUIRE(pqpool_options_set(options, "database_url", url.c_str()) == PQPOOL_OK);
    return Options(options);
}

int32_t open_fails(const std::string& url) {
    pqpool_pool* untouched = reinterpret_cast<pqpool_pool*>(1);
    pqpool_pool* pool = untouched;
    const int32_t status = pqpool_open(options_for(url).get(), &pool);
    CHECK(pool == untouched);
    return status;
}

// The URL of the tests' server with its host and port, role or database replaced.
std::string url_of(const std::string& user_and_host, const std::string& database) {
    return "postgresql://" + user_and_host + "/" + database;
}

std::string host_and_port() {
    Observer observer;
    return "127.0.0.1:" + observer.ask("SHOW port");
}

}  // namespace

TEST_CASE("a_pool_opens_min_size_connections_and_acquires_nothing", "[life]") {
    Pool pool({{"min_size", "3"}, {"max_size", "5"}});
    const auto s = pool.statistics();
    CHECK(s.total_connections == 3);
    CHECK(s.idle_connections == 3);
    CHECK(s.total_acquisitions == 0);
    CHECK(s.total_releases == 0);
    CHECK(pool.sessions() == 3);
}

TEST_CASE("a_pool_that_was_not_started_says_so", "[life]") {
    pqpool_pool* pool = nullptr;
    REQUIRE(pqpool_create(options_for(database_url()).get(), &pool) == PQPOOL_OK);
    pqpool_lease lease = 0;
    CHECK(pqpool_acquire(pool, nullptr, &lease) == PQPOOL_NOT_INITIALIZED);
    CHECK_THAT(pqpool_error_message(), Catch::Contains("pqpool_open"));
    int32_t state = -1;
    CHECK(pqpool_get_state(pool, &state) == PQPOOL_OK);
    CHECK(state == PQPOOL_INITIALIZING);

    SECTION("started, it serves when its connections stand, and a second start changes nothing") {
        CHECK(pqpool_start(pool) == PQPOOL_OK);
        CHECK(pqpool_start(pool) == PQPOOL_OK);
        CHECK(pqpool_acquire(pool, nullptr, &lease) == PQPOOL_OK);
        CHECK(pqpool_release(pool, lease) == PQPOOL_OK);
    }
    SECTION("it can be shut down") { CHECK(pqpool_shutdown(pool, 1000) == PQPOOL_OK); }
    pqpool_free(pool);
}

TEST_CASE("what_the_server_refuses_for_good_fails_at_once", "[life]") {
    const std::string server = host_and_port();
    const auto start = Clock::now();
    SECTION("a role that does not exist") {
        CHECK(open_fails(url_of("nobody_here:secret@" + server, "postgres")) == PQPOOL_INITIALIZATION);
        CHECK_THAT(pqpool_error_message(), Catch::Contains("nobody_here") && Catch::Contains("Suggestion"));
        CHECK(std::string(pqpool_error_sqlstate()) == "28000");
        CHECK_THAT(pqpool_error_message(), !Catch::Contains("secret"));
    }
    SECTION("a database that does not exist") {
        CHECK(open_fails(url_of("postgres@" + server, "no_such_database")) == PQPOOL_INITIALIZATION);
        CHECK_THAT(pqpool_error_message(), Catch::Contains("no_such_database"));
        CHECK(std::string(pqpool_error_sqlstate()) == "3D000");
    }
    CHECK(since(start) < milliseconds(500));
}

TEST_CASE("a_server_that_is_not_there_is_tried_three_times", "[life]") {
    const auto start = Clock::now();
    SECTION("a refused port") {
        CHECK(open_fails("postgresql://u:secret@127.0.0.1:1/d") == PQPOOL_INITIALIZATION);
        CHECK_THAT(pqpool_error_message(),
                   Catch::Contains("host 127.0.0.1 port 1 database d") && Catch::Contains("refused"));
        CHECK(since(start) >= milliseconds(500));
    }
    SECTION("a host name that does not resolve") {
        CHECK(open_fails("postgresql://u:secret@no-such-host.invalid/d") == PQPOOL_INITIALIZATION);
        CHECK_THAT(pqpool_error_message(), Catch::Contains("no-such-host.invalid"));
    }
    CHECK_THAT(pqpool_error_message(), !Catch::Contains("secret"));
    CHECK(since(start) < seconds(2));
}

TEST_CASE("options_that_cannot_be_are_refused_before_anything_is_opened", "[life]") {
    CHECK(open_fails("invalid://url") == PQPOOL_CONFIGURATION);
    CHECK(open_fails("postgresql://u:secret@[::1/d") == PQPOOL_CONFIGURATION);
    CHECK_THAT(pqpool_error_message(), !Catch::Contains("secret"));
    const auto options = options_for(database_url());
    REQUIRE(pqpool_options_set(options.get(), "min_size", "10") == PQPOOL_OK);
    REQUIRE(pqpool_options_set(options.get(), "max_size", "5") == PQPOOL_OK);
    pqpool_pool* pool = nullptr;
    CHECK(pqpool_create(options.get(), &pool) == PQPOOL_CONFIGURATION);
    CHECK_THAT(pqpool_error_message(), Catch::Contains("max_size (5) must be >= min_size (10)"));
    CHECK(pqpool_options_check(options.get()) == PQPOOL_CONFIGURATION);
    CHECK(pool == nullptr);
}

TEST_CASE("after_shutdown_nothing_is_given_out_and_looking_still_works", "[life]") {
    Pool pool;
    const auto lease = pool.acquire();
    CHECK(pool.release(lease) == PQPOOL_OK);
    REQUIRE(pqpool_shutdown(pool, 1000) == PQPOOL_OK);
    REQUIRE(pqpool_shutdown(pool, 1000) == PQPOOL_OK);
    pqpool_lease none = 0;
    CHECK(pqpool_acquire(pool, nullptr, &none) == PQPOOL_CLOSED);
    CHECK(pool.run("SELECT 1").status == PQPOOL_CLOSED);
    CHECK(pool.execute(lease, "SELECT 1").status == PQPOOL_RELEASED);
    const auto s = pool.statistics();
    CHECK(s.total_connections == 0);
    CHECK(s.total_acquisitions == 1);
    pqpool_health health{};
    health.struct_size = sizeof health;
    CHECK(pqpool_get_health(pool, &health) == PQPOOL_OK);
    CHECK(health.status == PQPOOL_UNHEALTHY);
    CHECK(health.state == PQPOOL_TERMINATED);
    CHECK(wait_until([&] { return pool.sessions() == 0; }));
}

TEST_CASE("shutdown_waits_for_a_statement_under_way", "[life]") {
    Pool pool;
    Outcome slow;
    std::thread busy([&] { slow = pool.run("SELECT pg_sleep(0.7), 'done'"); });
    REQUIRE(pool.wait_until_running("pg_sleep(0.7)"));
    const auto start = Clock::now();
    CHECK(pqpool_shutdown(pool, 20000) == PQPOOL_OK);
    CHECK(since(start) < seconds(5));
    busy.join();
    REQUIRE(slow.status == PQPOOL_OK);
    CHECK(value(slow.result, 0, 1) == "done");
    CHECK(wait_until([&] { return pool.sessions() == 0; }));
}

TEST_CASE("shutdown_breaks_a_lease_that_nobody_returns", "[life]") {
    Pool pool;
    const auto lease = pool.acquire(PQPOOL_DEFAULT, "forgotten");
    REQUIRE(pool.execute(lease, "BEGIN").status == PQPOOL_OK);
    const auto start = Clock::now();
    CHECK(pqpool_shutdown(pool, 300) == PQPOOL_OK);
    CHECK(since(start) >= milliseconds(300));
    CHECK(since(start) < milliseconds(1300));
    CHECK(wait_until([&] { return pool.sessions() == 0; }, seconds(1)));
    CHECK(pool.execute(lease, "SELECT 1").status == PQPOOL_CLOSED);
    CHECK(pool.release(lease) == PQPOOL_OK);
    CHECK(pool.release(lease) == PQPOOL_RELEASED);
    CHECK(pool.statistics().leases_out == 0);
}

TEST_CASE("shutdown_past_its_timeout_ends_a_statement_under_way", "[life]") {
    Pool pool;
    Outcome slow;
    std::thread busy([&] { slow = pool.run("SELECT pg_sleep(30)"); });
    REQUIRE(pool.wait_until_running("pg_sleep(30)"));
    const auto start = Clock::now();
    CHECK(pqpool_shutdown(pool, 200) == PQPOOL_OK);
    CHECK(since(start) < milliseconds(1200));
    busy.join();
    CHECK(since(start) < seconds(3));
    CHECK(slow.status == PQPOOL_CLOSED);
    CHECK(wait_until([&] { return pool.sessions() == 0; }));
}

TEST_CASE("shutdown_fails_those_who_wait", "[life]") {
    Pool pool({{"min_size", "1"}, {"max_size", "1"}});
    const auto lease = pool.acquire();
    int32_t status = 0;
    std::string message;
    std::thread waiting([&] {
        pqpool_lease none = 0;
        status = pqpool_acquire(pool, nullptr, &none);
        message = pqpool_error_message();
    });
    REQUIRE(wait_until([&] { return pool.statistics().waiting_requests == 1; }));
    std::thread other([&] { pqpool_shutdown(pool, 5000); });
    waiting.join();
    CHECK(status == PQPOOL_CLOSED);
    CHECK_THAT(message, Catch::Contains("shutting down"));
    // The lease that is out may still be used and given back, which ends the shutdown.
    CHECK(pool.execute(lease, "SELECT 1").value() == "1");
    const auto start = Clock::now();
    CHECK(pool.release(lease) == PQPOOL_OK);
    other.join();
    CHECK(since(start) < seconds(2));
}

TEST_CASE("two_shutdowns_at_once_are_one_and_the_shorter_patience_counts", "[life]") {
    Pool pool;
    const auto lease = pool.acquire();
    const auto start = Clock::now();
    std::thread patient([&] { pqpool_shutdown(pool, PQPOOL_NO_LIMIT); });
    CHECK(pqpool_shutdown(pool, 200) == PQPOOL_OK);
    patient.join();
    CHECK(since(start) < milliseconds(1500));
    CHECK(pool.release(lease) == PQPOOL_OK);
}

TEST_CASE("a_pool_can_be_freed_with_leases_out", "[life]") {
    std::string application;
    {
        Pool pool;
        application = pool.application();
        pool.acquire();
        REQUIRE(pool.execute(pool.acquire(), "BEGIN").status == PQPOOL_OK);
    }
    Observer observer;
    CHECK(wait_until([&] {
        return observer.ask("SELECT count(*) FROM pg_stat_activity WHERE application_name = '" + application + "'") ==
               "0";
    }));
}

TEST_CASE("pools_come_and_go", "[life]") {
    for (int i = 0; i < 20; i++) {
        Pool pool({{"min_size", "2"}, {"max_size", "2"}});
        if (i % 2) CHECK(pool.run("SELECT 1").value() == "1");
        if (i % 3) CHECK(pqpool_shutdown(pool, 0) == PQPOOL_OK);
    }
}
