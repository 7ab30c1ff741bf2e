// 100,000 random events in many short lives of pools of every size; all invariants of the machine are checked after
// each event.
#include <catch2/catch.hpp>
#include <random>

#include "tests/core/machine_model.hpp"

using namespace pqpool;
using Answer = AcquireAnswer::Kind;
using SeenState = MachineModel::SeenState;

namespace {

class Life {
  public:
    Life(std::uint32_t seed, int events) : random_(seed), config_(random_config(seed)), events_(events) {}

    int run() {
        machine_.start(now_);
        settle();
        for (; done_ < events_ && !model_.init_failed; done_++) {
            random_event();
            settle();
            if (done_ % 400 == 399 && !model_.init_failed) come_to_rest();
        }
        finish();
        return done_;
    }

    // The same in a world where every session dies as soon as it opens.
    std::size_t run_doomed() {
        machine_.start(now_);
        settle();
        while (!model_.initialized) answer_open(true), settle();
        for (; done_ < events_; done_++) {
            doomed_event();
            settle();
            model_.check_pace(first_failure_);
        }
        return model_.attempts();
    }

    int done() const { return done_; }
    std::int64_t grants() const { return model_.grants; }

  private:
    std::int64_t below(std::int64_t n) { return static_cast<std::int64_t>(random_() % static_cast<std::uint64_t>(n)); }
    bool chance(int percent) { return below(100) < percent; }

    template <class T>
    const T* any(const std::vector<T>& of) {
        return of.empty() ? nullptr : &of[static_cast<std::size_t>(below(static_cast<std::int64_t>(of.size())))];
    }

    PoolMachine::Config random_config(std::uint32_t seed) {
        const std::int64_t max_size = chance(30) ? 1 + below(2) : 1 + below(20);
        return {.min_size = 1 + below(max_size),
                .max_size = max_size,
                .max_queries = 1000,
                .max_waiting = chance(50) ? 0 : 1 + below(10),
                .max_idle_time = 10 * kSecond,
                .max_lifetime = chance(50) ? 60 * kSecond : 3600 * kSecond,
                .leak_limit = kNever,
                .keepalive = chance(50) ? kNever : 5 * kSecond,
                .seed = seed};
    }

    void settle() {
        model_.take_actions(now_);
        model_.check(now_);
    }

    // ---- events ----

    void random_event() {
        let_time_pass();
        const auto choice = below(100);
        if (choice < 24)
            acquire();
        else if (choice < 46)
            release();
        else if (choice < 60)
            answer_open(chance(75));
        else if (choice < 66)
            lose();
        else if (choice < 70)
            replace();
        else if (choice < 74)
            cancel();
        else if (choice < 78)
            answer_check(chance(70));
        else if (choice < 83)
            answer_clean(chance(80));
        else if (choice < 93)
            tick();
        else if (choice < 95)
            resize();
        else if (choice < 96)
            machine_.drain(now_);
        else if (choice < 98)
            pause_or_resume();
        else if (choice < 99)
            machine_.health_asked(now_);
        else
            late_event();
    }

    void doomed_event() {
        for (auto state : {SeenState::idle, SeenState::leased})
            for (const SlotId slot : model_.in_state(state)) die(slot);
        settle();
        now_ += 1 + (chance(90) ? below(30 * kMillisecond) : below(3 * kSecond));
        const auto choice = below(100);
        if (choice < 20)
            acquire();
        else if (choice < 40)
            answer_open(chance(70));
        else if (choice < 50)
            release_broken();
        else if (choice < 55)
            machine_.health_asked(now_);
        else if (choice < 58)
            resize();
        else if (choice < 60)
            machine_.drain(now_);
        else if (choice < 63)
            pause_or_resume();
        else if (machine_.next_deadline() <= now_)
            tick();
    }

    void die(SlotId id) {
        auto& slot = model_.slot_of(id, "");
        if (slot.lost) return;
        if (slot.state == SeenState::idle)
            slot.state = SeenState::returned;
        else
            slot.lost = true;
        const auto retries = model_.retries;
        machine_.lost(id, now_);
        settle();
        if (model_.retries > retries) first_failure_ = std::min(first_failure_, now_);
    }

    void release_broken() {
        const auto at = any_lease(true);
        if (at == model_.leases.end()) return;
        const SlotId slot = at->second.slot;
        model_.leases.erase(at);
        model_.releases++;
        model_.slot_of(slot, "").state = SeenState::returned;
        model_.releasing(slot);
        machine_.released(slot, {.broken = true}, now_);
        model_.take_actions(now_);
        model_.release_done();
    }

    void let_time_pass() {
        const auto choice = below(1000);
        if (choice < 300) return;
        if (choice < 700)
            now_ += below(200 * kMicrosecond);
        else if (choice < 900)
            now_ += below(60 * kMillisecond);
        else if (choice < 980)
            now_ += below(3 * kSecond);
        else if (choice < 998)
            now_ += below(30 * kSecond);
        else
            now_ += below(4000 * kSecond);
    }

    void acquire() {
        const Nanos deadline = chance(10) ? now_ : chance(10) ? kNever : now_ + below(20 * kSecond);
        const Nanos leak_limit = chance(30) ? kNever : below(10 * kSecond);
        const auto number = ++next_number_;
        const bool full =
            config_.max_waiting > 0 && static_cast<std::int64_t>(model_.waiting.size()) >= config_.max_waiting;
        const auto answer = machine_.acquire(now_, deadline, leak_limit, MachineModel::context_of(number));
        if (answer.kind == Answer::waiting) model_.waiting.push_back({number, answer.waiter, deadline, leak_limit});
        if (answer.kind == Answer::refused) {
            if (model_.shutting_down || model_.init_failed) {
                MachineModel::must(answer.error == ErrorKind::closed, "a pool that ends refuses as closed");
            } else if (deadline <= now_) {
                MachineModel::must(answer.error == ErrorKind::timeout,
                                   "one that may not wait is refused with a timeout");
                model_.timeouts++;
            } else {
                MachineModel::must(answer.error == ErrorKind::too_many_requests && full,
                                   "only a full queue refuses one that may wait");
                model_.rejected++;
            }
        }
        model_.take_actions(now_);
        if (answer.kind == Answer::granted) {
            MachineModel::must(!model_.paused && model_.waiting.empty(), "nobody overtakes");
            model_.became_leased(answer.slot, model_.new_lease(), now_, leak_limit);
        }
    }

    std::map<std::int64_t, MachineModel::Lease>::iterator any_lease(bool with_connection) {
        std::vector<std::int64_t> numbers;
        for (const auto& [number, lease] : model_.leases)
            if (!is_replacing(number) && (!with_connection || lease.has_connection)) numbers.push_back(number);
        const auto* number = any(numbers);
        return number ? model_.leases.find(*number) : model_.leases.end();
    }

    bool is_replacing(std::int64_t lease) const {
        return std::any_of(model_.waiting.begin(), model_.waiting.end(),
                           [&](const auto& waiter) { return waiter.replaces == lease; });
    }

    void release() {
        const auto at = any_lease(false);
        if (at == model_.leases.end()) return;
        const auto lease = at->second;
        model_.leases.erase(at);
        model_.releases++;
        if (!lease.has_connection) {  // its replacement failed, or it was aborted
            if (chance(50))
                machine_.released_without_connection();
            else
                machine_.released(lease.slot, {}, now_);
            return;
        }
        ReturnedConnection condition{
            .broken = chance(10), .dirty = chance(25), .condemned = chance(4), .queries = below(1040)};
        auto& slot = model_.slot_of(lease.slot, "a lease has its slot");
        slot.state = condition.broken || slot.lost || condition.dirty ? SeenState::returned : SeenState::idle;
        model_.releasing(lease.slot);
        machine_.released(lease.slot, condition, now_);
        model_.take_actions(now_);
        model_.release_done();
    }

    void replace() {
        const auto at = any_lease(true);
        if (at == model_.leases.end()) return;
        const auto number = at->first;
        const Nanos deadline = chance(20) ? now_ : now_ + below(10 * kSecond);
        const auto waiter = ++next_number_;
        const SlotId dead = at->second.slot;
        at->second.has_connection = false;
        model_.releasing(dead);
        const auto answer = machine_.replace(dead, now_, deadline, MachineModel::context_of(waiter));
        if (answer.kind == Answer::waiting)
            model_.waiting.push_front({waiter, answer.waiter, deadline, kNever, number});
        if (answer.kind == Answer::refused && answer.error == ErrorKind::timeout) model_.timeouts++;
        if (answer.kind == Answer::granted) {
            take_actions_until_close_of(dead);
            model_.became_leased(answer.slot, number, now_, kNever);
        }
        model_.take_actions(now_);
        model_.release_done();
    }

    // What the pool does about the dead connection comes before the grant of the other one.
    void take_actions_until_close_of(SlotId dead) {
        auto& actions = machine_.actions();
        const auto close = std::find_if(actions.begin(), actions.end(), [&](const Action& a) {
            return a.kind == Action::Kind::close && a.slot == dead;
        });
        MachineModel::must(close != actions.end(), "a replaced connection is closed");
        for (auto at = actions.begin(); at <= close; ++at) model_.take(*at, now_);
        actions.erase(actions.begin(), close + 1);
    }

    void cancel() {
        if (model_.waiting.empty()) return;
        const auto at = model_.waiting.begin() + below(static_cast<std::int64_t>(model_.waiting.size()));
        const WaiterId id = at->id;
        MachineModel::must(machine_.cancel(id), "one that waits can be cancelled");
        MachineModel::must(!machine_.cancel(id), "and only once");
        model_.waiting.erase(at);
    }

    void answer_open(bool success) {
        const auto slots = model_.in_state(SeenState::opening);
        const auto* slot = any(slots);
        if (!slot) return;
        if (success) {
            model_.slot_of(*slot, "").state = SeenState::idle;
            MachineModel::must(machine_.opened(*slot, kMillisecond, now_), "an open that was asked for is welcome");
        } else {
            model_.slots.erase(slot->index);
            model_.past.push_back(*slot);
            machine_.open_failed(*slot, !model_.initialized && chance(2), now_);
        }
    }

    void lose() {
        const auto idle = model_.in_state(SeenState::idle), leased = model_.in_state(SeenState::leased);
        if (const auto* slot = any(idle); slot && chance(60)) {
            model_.slot_of(*slot, "").state = SeenState::returned;
            machine_.lost(*slot, now_);
        } else if (const auto* held = any(leased)) {
            model_.slot_of(*held, "").lost = true;
            machine_.lost(*held, now_);
        }
    }

    void answer_check(bool alive) {
        const auto slots = model_.in_state(SeenState::checking);
        const auto* slot = any(slots);
        if (!slot) return;
        model_.slot_of(*slot, "").state = alive ? SeenState::idle : SeenState::returned;
        machine_.checked(*slot, alive, kMillisecond, now_);
    }

    void answer_clean(bool usable) {
        const auto slots = model_.in_state(SeenState::cleaning);
        const auto* slot = any(slots);
        if (!slot) return;
        model_.slot_of(*slot, "").state = usable ? SeenState::idle : SeenState::returned;
        machine_.cleaned(*slot, usable, now_);
    }

    void tick() {
        machine_.tick(now_);
        settle();
        model_.ticked(now_);
    }

    void resize() {
        const std::int64_t high = 1 + below(20), low = 1 + below(high);
        model_.resized(low, high);
        machine_.resize(low, high, now_);
    }

    void pause_or_resume() {
        model_.paused = !model_.paused && chance(60);
        if (model_.paused)
            machine_.pause(now_);
        else
            machine_.resume(now_);
    }

    // About slots that are gone: nothing may come of it.
    void late_event() {
        const auto* slot = any(model_.past);
        if (!slot) return;
        MachineModel::must(!machine_.opened(*slot, 0, now_), "a slot that is gone is not opened");
        machine_.open_failed(*slot, true, now_);
        machine_.lost(*slot, now_);
        machine_.checked(*slot, chance(50), 0, now_);
        machine_.cleaned(*slot, chance(50), now_);
        MachineModel::must(machine_.actions().empty(), "a late event changes nothing");
    }

    // ---- phases ----

    // The server is well, nobody does anything, time passes: what was missing is made up for, and nobody waits who
    // could be served.
    void come_to_rest() {
        model_.paused = false;
        machine_.resume(now_);
        settle();
        const Nanos end = now_ + 20 * kSecond;
        for (int steps = 0; steps < 100'000 && now_ < end; steps++) {
            answer_open(true);
            settle();
            answer_check(true);
            settle();
            answer_clean(true);
            settle();
            if (machine_.next_deadline() <= now_)
                tick();
            else if (model_.in_state(SeenState::opening).empty() && model_.in_state(SeenState::checking).empty() &&
                     model_.in_state(SeenState::cleaning).empty())
                now_ = std::min(end, machine_.next_deadline());
        }
        Statistics s;
        machine_.fill_statistics(s, now_, 0);
        const bool full = s.total_connections + s.opening_connections + s.cleaning_connections >= model_.max_size;
        MachineModel::must(now_ >= end, "a pool at rest comes to rest");
        MachineModel::must(full || s.live_connections >= model_.min_size, "a pool at rest has min_size connections");
        MachineModel::must(full || model_.waiting.empty(), "nobody waits while there is room");
        if (s.live_connections >= model_.min_size)
            MachineModel::must(machine_.state() == PoolState::healthy,
                               "a pool at rest with min_size connections is healthy");
    }

    void finish() {
        const Nanos deadline = now_ + below(10 * kSecond);
        if (!model_.init_failed) {
            model_.shutting_down = true;
            machine_.shutdown(deadline);
            settle();
            MachineModel::must(model_.waiting.empty(), "a shutdown answers every waiter");
        }
        for (int i = 0; i < 20; i++) {
            let_time_pass();
            if (now_ >= deadline) break;
            if (chance(20))
                acquire();
            else if (chance(20))
                replace();
            else if (chance(20))
                lose();
            else
                release();
            settle();
        }
        now_ = std::max(now_, deadline);
        tick();
        while (!model_.leases.empty()) release(), settle();
        MachineModel::must(model_.terminated || model_.init_failed, "a shutdown ends");
        MachineModel::must(machine_.state() == PoolState::terminated, "the state says so");
        MachineModel::must(model_.slots.empty(), "no slot is left");
        Statistics s;
        machine_.fill_statistics(s, now_, 0);
        MachineModel::must(s.total_connections == 0 && s.leases_out == 0 && s.waiting_requests == 0,
                           "everything is at zero");
        MachineModel::must(s.connections_opened == s.connections_closed, "everything that was opened was closed");
        MachineModel::must(machine_.next_deadline() == kNever, "nothing is due any more");
    }

    std::mt19937_64 random_;
    PoolMachine::Config config_;
    int events_, done_ = 0;
    Nanos now_ = 1000 * kSecond;
    PoolMachine machine_{config_, now_};
    MachineModel model_{machine_, config_};
    std::uintptr_t next_number_ = 0;
    Nanos first_failure_ = kNever;  // by a session that died
};

}  // namespace

TEST_CASE("every_invariant_holds_through_100_000_random_events", "[machine][random]") {
    constexpr int kEvents = 100'000, kEventsOfALife = 2'000;
    int events = 0;
    std::int64_t grants = 0;
    for (std::uint32_t seed = 1; events < kEvents; seed++) {
        Life life(seed, kEventsOfALife);
        try {
            events += life.run();
        } catch (const std::logic_error& violation) {
            FAIL("seed " << seed << ", event " << life.done() << ": violated: " << violation.what());
        }
        grants += life.grants();
    }
    CHECK(grants > kEvents / 50);  // enough of them waited for what they got
}

TEST_CASE("sessions_that_die_at_once_are_opened_no_faster_than_four_a_second_whatever_happens", "[machine][random]") {
    std::size_t attempts = 0;
    for (std::uint32_t seed = 1; seed <= 30; seed++) {
        Life life(seed, 2'000);
        try {
            attempts += life.run_doomed();
        } catch (const std::logic_error& violation) {
            FAIL("seed " << seed << ", event " << life.done() << ": violated: " << violation.what());
        }
    }
    CHECK(attempts > 1'000);  // they are tried again all the same
}
