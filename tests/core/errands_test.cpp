// Calls that block, and what goes on beside one that hangs.
#include <atomic>
#include <catch2/catch.hpp>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <set>
#include <thread>

#include "core/run/errands.hpp"
#include "core/run/resolver.hpp"

using namespace pqpool;

namespace {

// Something to wait for, which a test waits for only so long.
class Gate {
  public:
    void open() {
        std::lock_guard lock(mutex_);
        open_ = true;
        changed_.notify_all();
    }
    bool wait(int seconds = 10) {
        std::unique_lock lock(mutex_);
        return changed_.wait_for(lock, std::chrono::seconds(seconds), [this] { return open_; });
    }

  private:
    std::mutex mutex_;
    std::condition_variable changed_;
    bool open_ = false;
};

}  // namespace

TEST_CASE("an_errand_that_hangs_holds_up_no_other", "[errands]") {
    Errands errands(3);
    const auto way_out = std::make_shared<Gate>();
    for (int i = 0; i < 2; i++) errands.run([way_out] { way_out->wait(60); });
    for (int i = 0; i < 5; i++) {
        const auto done = std::make_shared<Gate>();
        errands.run([done] { done->open(); });
        CHECK(done->wait());
    }
    way_out->open();
}

TEST_CASE("no_more_errands_run_at_once_than_there_may_be_threads", "[errands]") {
    Errands errands(2);
    const auto way_out = std::make_shared<Gate>(), last = std::make_shared<Gate>();
    const auto running = std::make_shared<std::atomic<int>>(0), most = std::make_shared<std::atomic<int>>(0);
    for (int i = 0; i < 8; i++)
        errands.run([=] {
            const int now = ++*running;
            if (now > *most) *most = now;
            way_out->wait(60);
            --*running;
            if (i == 7) last->open();
        });
    way_out->open();
    CHECK(last->wait());
    CHECK(*most <= 2);
}

namespace {

// Names that are found, and names whose look-up hangs until the end of the test.
struct Names {
    std::shared_ptr<Gate> way_out = std::make_shared<Gate>();
    std::shared_ptr<std::atomic<int>> look_ups = std::make_shared<std::atomic<int>>(0);

    Resolver::LookUp look_up() const {
        return [way_out = way_out, look_ups = look_ups](const std::string& name) -> std::vector<std::string> {
            ++*look_ups;
            if (name == "hangs") way_out->wait(60);
            if (name == "unknown") throw Error(ErrorKind::connection_lost, "no such host");
            return {"10.0.0." + std::to_string(name.size())};
        };
    }
    ~Names() { way_out->open(); }
};

std::vector<std::string> addresses_of(const ConnectPlan& plan) {
    std::vector<std::string> found;
    for (const auto& host : plan.hosts()) found.push_back(host.address);
    return found;
}

class Asked {
  public:
    explicit Asked(const std::string& hosts)
        : resolver(
              ConnectPlan("host=" + hosts + " dbname=d"), [count = woken] { ++*count; }, names.look_up()) {}

    // What is answered at this time, after so many look-ups in all have come back.
    std::optional<Resolver::Answer> answer(Nanos at, int look_ups) {
        for (int i = 0; i < 10'000 && *woken < look_ups; i++) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        return resolver.take(at);
    }

    Names names;
    std::shared_ptr<std::atomic<int>> woken = std::make_shared<std::atomic<int>>(0);
    Resolver resolver;
};

}  // namespace

TEST_CASE("a_name_whose_look_up_hangs_holds_up_no_other_host", "[resolver]") {
    const auto [hosts, found, expected] = GENERATE(table<std::string, int, std::vector<std::string>>({
        {"hangs,10.1.1.1", 0, {"10.1.1.1"}},
        {"hangs,abc", 1, {"10.0.0.3"}},
        {"abc,hangs,10.1.1.1,defg", 2, {"10.0.0.3", "10.1.1.1", "10.0.0.4"}},
    }));
    Asked asked(hosts);
    asked.resolver.ask(0);
    CHECK_FALSE(asked.resolver.take(kSecond - 1));  // it is given a moment
    CHECK(asked.resolver.due() == kSecond);
    const auto answer = asked.answer(kSecond, found);
    REQUIRE(answer);
    REQUIRE(answer->plan);
    CHECK(addresses_of(*answer->plan) == expected);
    CHECK(asked.resolver.due() == kNever);

    for (int i = 1; i <= 20; i++) {  // and the next time again, with few look-ups of the one that hangs
        asked.resolver.ask(i * 10 * kSecond);
        const auto again = asked.answer((i * 10 + 1) * kSecond, (i + 1) * found);
        REQUIRE(again);
        CHECK(addresses_of(*again->plan) == expected);
    }
}

TEST_CASE("names_are_found_at_once_and_one_that_is_unknown_is_left_out", "[resolver]") {
    Asked asked("abc,unknown,/tmp");
    asked.resolver.ask(0);
    const auto answer = asked.answer(1, 2);
    REQUIRE(answer);
    CHECK(addresses_of(*answer->plan) == std::vector<std::string>{"10.0.0.3", ""});
    CHECK_FALSE(asked.resolver.take(kSecond));  // each answer is taken once
}

TEST_CASE("the_reason_is_told_where_no_host_is_left", "[resolver]") {
    Asked asked("unknown");
    asked.resolver.ask(0);
    const auto answer = asked.answer(1, 1);
    REQUIRE(answer);
    CHECK_FALSE(answer->plan);
    CHECK_THAT(answer->failure, Catch::StartsWith("no such host. Suggestion: "));
}

TEST_CASE("a_look_up_that_hangs_is_taken_over_once", "[resolver]") {
    Asked asked("hangs");
    for (int i = 0; i < 50; i++) {
        asked.resolver.ask(i * kSecond);
        CHECK_FALSE(asked.resolver.take(i * kSecond));
    }
    CHECK(asked.resolver.due() == kNever);  // what comes, wakes
    asked.names.way_out->open();
    const auto answer = asked.answer(60 * kSecond, 1);
    REQUIRE(answer);
    CHECK(addresses_of(*answer->plan) == std::vector<std::string>{"10.0.0.5"});
    CHECK(*asked.names.look_ups <= 2);
}
