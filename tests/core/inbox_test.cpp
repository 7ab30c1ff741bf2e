#include "core/run/inbox.hpp"

#include <catch2/catch.hpp>
#include <thread>
#include <vector>

#include "core/run/stalled_queues.hpp"

using namespace pqpool;

namespace {

struct Owner final : Inbox::Owner {
    void on_release(Lease& lease) override { released.push_back(&lease); }
    std::vector<Lease*> released;
};

struct Queue {
    Owner owner;
    Inbox inbox{owner};
};

bool is_readable(const Inbox& inbox) { return wait_for_socket(inbox.wakeup()->fd(), Poller::kRead, 0); }

void grant(Queue& queue, Waiting& waiting, Lease& lease) {
    waiting.queue = &queue.inbox;
    waiting.lease = &lease;
    answer(waiting);
}

// With one connection, which somebody holds.
struct BusyMachine {
    BusyMachine() {
        machine.start(0);
        REQUIRE(machine.actions().size() == 1);
        machine.opened(SlotId(machine.actions()[0].slot), 0, 0);
        const auto given = machine.acquire(0, kNever, kNever, nullptr);
        REQUIRE(given.kind == AcquireAnswer::Kind::granted);
        slot = given.slot;
        machine.actions().clear();
    }
    void queue_up(Waiting& waiting, Queue& queue) {
        waiting.queue = &queue.inbox;
        const auto answer = machine.acquire(0, kNever, kNever, &waiting);
        REQUIRE(answer.kind == AcquireAnswer::Kind::waiting);
        waiting.waiter = answer.waiter;
    }

    static PoolMachine::Config config() {
        Options options;
        options.min_size = options.max_size = 1;
        return PoolMachine::config_of(options, 0);
    }
    PoolMachine machine{config(), 0};
    SlotId slot;
};

}  // namespace

TEST_CASE("an_answer_wakes_the_queue_and_is_taken_once", "[queue]") {
    Queue queue;
    Waiting waiting;
    Lease lease;
    CHECK(queue.inbox.is_empty());
    grant(queue, waiting, lease);
    CHECK_FALSE(queue.inbox.is_empty());
    CHECK(is_readable(queue.inbox));
    Inbox::Contents contents = queue.inbox.take();
    CHECK(contents.answers.pop() == &waiting);
    CHECK_FALSE(contents.answers.pop());
    CHECK(queue.inbox.is_empty());
}

TEST_CASE("what_a_release_of_the_queue_s_own_grants_it_wakes_nobody", "[queue]") {
    Queue queue, other;
    Waiting mine, theirs;
    Lease lease;
    {
        const Inbox::OwnRelease own(queue.inbox);
        grant(queue, mine, lease);
        grant(other, theirs, lease);
    }
    CHECK_FALSE(is_readable(queue.inbox));
    CHECK_FALSE(queue.inbox.is_empty());
    CHECK(is_readable(other.inbox));
}

TEST_CASE("a_lease_is_released_at_once_on_the_queue_s_thread_and_through_the_inbox_from_others", "[queue]") {
    Queue queue;
    Lease here, elsewhere;
    queue.inbox.release(here);
    CHECK(queue.owner.released == std::vector<Lease*>{&here});
    CHECK(queue.inbox.is_empty());
    std::thread([&] { queue.inbox.release(elsewhere); }).join();
    CHECK(queue.owner.released.size() == 1);
    CHECK(is_readable(queue.inbox));
    CHECK(queue.inbox.take().releases == &elsewhere);
}

TEST_CASE("grants_that_are_not_taken_in_time_are_given_back_and_failures_stay", "[queue]") {
    Queue queue;
    Waiting granted, failed;
    Lease lease, other;
    grant(queue, granted, lease);
    failed.queue = &queue.inbox;
    fail(failed, Error(ErrorKind::closed, "x"));
    std::thread([&] { queue.inbox.release(lease); }).join();  // its last owner, before this one has seen the grant
    std::thread([&] { queue.inbox.release(other); }).join();

    WaitingList grants;
    CHECK(queue.inbox.take_stale(0, grants));  // not yet
    CHECK(grants.empty());
    CHECK_FALSE(queue.inbox.take_stale(kNever, grants));
    CHECK(grants.pop() == &granted);
    CHECK(grants.empty());

    Inbox::Contents contents = queue.inbox.take();
    CHECK(contents.is_parked);
    CHECK(contents.answers.pop() == &failed);
    CHECK(contents.answers.empty());
    CHECK(contents.releases == &other);
    CHECK_FALSE(other.next_to_release);
    CHECK_FALSE(queue.inbox.take().is_parked);
}

TEST_CASE("a_queue_that_does_not_take_its_grant_waits_aside_with_all_its_requests", "[queue]") {
    BusyMachine busy;
    StalledQueues stalled;
    Queue stuck, lively;
    Waiting granted, stuck_too, waits;
    Lease lease;
    busy.queue_up(stuck_too, stuck);
    busy.queue_up(waits, lively);
    CHECK(stalled.look_at() == kNever);
    grant(stuck, granted, lease);
    const Nanos now = monotonic_now();
    stalled.note_grant(stuck.inbox, now, true);
    REQUIRE(stalled.look_at() > now);
    REQUIRE(stalled.look_at() < kNever);

    std::vector<Lease*> given_back;
    const auto give_back = [&](Lease& one) { given_back.push_back(&one); };
    stalled.look(now, busy.machine, give_back);
    CHECK(given_back.empty());
    CHECK(busy.machine.waiting() == 2);
    stalled.look(now + 10 * kSecond, busy.machine, give_back);
    CHECK(given_back == std::vector<Lease*>{&lease});
    CHECK(busy.machine.waiting() == 1);
    CHECK_FALSE(granted.lease);
    CHECK(stalled.look_at() == kNever);

    CHECK(stalled.unpark(lively.inbox).empty());
    WaitingList requests = stalled.unpark(stuck.inbox);
    CHECK(requests.pop() == &granted);
    CHECK(requests.pop() == &stuck_too);
    CHECK(requests.empty());
}

TEST_CASE("a_request_that_waits_aside_can_be_taken_back_and_forgotten_with_its_queue", "[queue]") {
    BusyMachine busy;
    StalledQueues stalled;
    Queue one, other;
    Waiting first, second, third;
    Lease lease;
    grant(one, first, lease);
    grant(one, second, lease);
    grant(other, third, lease);
    const Nanos now = monotonic_now();
    stalled.note_grant(one.inbox, now, true);
    stalled.note_grant(other.inbox, now, true);
    stalled.look(now + 10 * kSecond, busy.machine, [](Lease&) {});
    CHECK(stalled.take_back(first));
    CHECK_FALSE(stalled.take_back(first));
    stalled.forget(one.inbox);
    CHECK(stalled.unpark(one.inbox).empty());
    CHECK(stalled.unpark(other.inbox).pop() == &third);
}
