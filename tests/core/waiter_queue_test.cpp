#include <catch2/catch.hpp>
#include <list>
#include <random>

#include "core/decide/waiter_queue.hpp"

using namespace pqpool;

namespace {

Waiter numbered(std::uintptr_t number, Nanos deadline = kNever) {
    return {.context = reinterpret_cast<void*>(number), .deadline = deadline};
}
std::uintptr_t number_of(const Waiter& waiter) { return reinterpret_cast<std::uintptr_t>(waiter.context); }

}  // namespace

TEST_CASE("first_in_is_first_out", "[waiters]") {
    WaiterQueue queue;
    for (std::uintptr_t i = 1; i <= 5; i++) queue.push_back(numbered(i));
    for (std::uintptr_t i = 1; i <= 5; i++) CHECK(number_of(queue.pop_front()) == i);
    CHECK(queue.empty());
    CHECK(queue.size() == 0);
    CHECK(queue.peak() == 5);
}

TEST_CASE("one_pushed_to_the_front_is_served_next", "[waiters]") {
    WaiterQueue queue;
    queue.push_front(numbered(3));
    queue.push_back(numbered(4));
    queue.push_front(numbered(2));
    queue.push_front(numbered(1));
    for (std::uintptr_t i = 1; i <= 4; i++) CHECK(number_of(queue.pop_front()) == i);
}

TEST_CASE("removal_keeps_the_order_of_the_rest", "[waiters]") {
    const std::size_t gone = GENERATE(0u, 2u, 4u);
    WaiterQueue queue;
    std::vector<WaiterId> ids;
    for (std::uintptr_t i = 0; i < 5; i++) ids.push_back(queue.push_back(numbered(i, static_cast<Nanos>(50 - i))));
    Waiter removed;
    REQUIRE(queue.remove(ids[gone], &removed));
    CHECK(number_of(removed) == gone);
    CHECK_FALSE(queue.remove(ids[gone]));
    for (std::uintptr_t i = 0; i < 5; i++)
        if (i != gone) CHECK(number_of(queue.pop_front()) == i);
    CHECK(queue.empty());
}

TEST_CASE("those_that_leave_keep_the_order_and_the_deadlines_of_the_rest", "[waiters]") {
    WaiterQueue queue;
    for (std::uintptr_t i = 0; i < 6; i++) queue.push_back(numbered(i, static_cast<Nanos>(50 - i)));
    std::vector<std::uintptr_t> left;
    queue.take_if([&](const Waiter& waiter) {
        if (number_of(waiter) % 2 == 0) return false;
        left.push_back(number_of(waiter));
        return true;
    });
    CHECK(left == std::vector<std::uintptr_t>{1, 3, 5});
    CHECK(queue.size() == 3);
    CHECK(queue.next_deadline() == 46);
    for (const std::uintptr_t i : {0, 2, 4}) CHECK(number_of(queue.pop_front()) == i);
    CHECK(queue.empty());
}

TEST_CASE("an_id_does_not_name_a_later_waiter_in_the_same_place", "[waiters]") {
    WaiterQueue queue;
    const WaiterId first = queue.push_back(numbered(1));
    queue.pop_front();
    const WaiterId second = queue.push_back(numbered(2));
    CHECK(first.index == second.index);
    CHECK_FALSE(queue.remove(first));
    CHECK_FALSE(queue.remove(WaiterId{}));
    CHECK_FALSE(queue.remove(WaiterId{99, 0}));
    CHECK(queue.size() == 1);
    CHECK(queue.remove(second));
}

TEST_CASE("the_next_deadline_is_the_earliest", "[waiters]") {
    WaiterQueue queue;
    CHECK(queue.next_deadline() == kNever);
    queue.push_back(numbered(1, 30));
    queue.push_back(numbered(2, 10));
    queue.push_back(numbered(3, 20));
    queue.push_back(numbered(4));
    CHECK(queue.next_deadline() == 10);
    CHECK(number_of(queue.pop_earliest()) == 2);
    CHECK(queue.next_deadline() == 20);
    CHECK(number_of(queue.pop_front()) == 1);
    CHECK(number_of(queue.pop_earliest()) == 3);
    CHECK(queue.next_deadline() == kNever);
}

TEST_CASE("the_queue_agrees_with_a_plain_list", "[waiters]") {
    std::mt19937 random(3);
    WaiterQueue queue;
    struct Entry {
        WaiterId id;
        std::uintptr_t number;
        Nanos deadline;
    };
    std::list<Entry> list;
    std::uintptr_t next_number = 1;
    for (int step = 0; step < 20'000; step++) {
        const auto choice = random() % 8;
        if (choice < 4 || list.empty()) {
            const Nanos deadline = random() % 5 ? static_cast<Nanos>(random() % 1000) : kNever;
            const Waiter waiter = numbered(next_number, deadline);
            if (choice == 0)
                list.push_front({queue.push_front(waiter), next_number++, deadline});
            else
                list.push_back({queue.push_back(waiter), next_number++, deadline});
        } else if (choice < 6) {
            REQUIRE(number_of(queue.pop_front()) == list.front().number);
            list.pop_front();
        } else if (choice < 7) {
            const auto at = std::next(list.begin(), static_cast<std::ptrdiff_t>(random() % list.size()));
            REQUIRE(queue.remove(at->id));
            list.erase(at);
        } else {
            const auto number = number_of(queue.pop_earliest());
            const auto at = std::find_if(list.begin(), list.end(), [&](const Entry& e) { return e.number == number; });
            REQUIRE(at != list.end());
            for (const auto& entry : list) REQUIRE(entry.deadline >= at->deadline);
            list.erase(at);
        }
        REQUIRE(queue.size() == static_cast<std::int64_t>(list.size()));
        Nanos earliest = kNever;
        for (const auto& entry : list) earliest = std::min(earliest, entry.deadline);
        REQUIRE(queue.next_deadline() == earliest);
    }
}
