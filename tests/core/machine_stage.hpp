// A PoolMachine on a stage: time is stepped, and the server is a few variables that a test sets.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <vector>

#include "core/decide/pool_machine.hpp"

namespace pqpool {

inline PoolMachine::Config sizes(std::int64_t min_size, std::int64_t max_size) {
    return {.min_size = min_size,
            .max_size = max_size,
            .max_queries = 50'000,
            .max_waiting = 0,
            .max_idle_time = 60 * kSecond,
            .max_lifetime = 3600 * kSecond,
            .leak_limit = kNever,
            .keepalive = kNever,
            .seed = 7};
}

inline constexpr ReturnedConnection kClean{};
inline constexpr ReturnedConnection kBroken{.broken = true};
inline constexpr ReturnedConnection kDirty{.dirty = true};

class Stage {
  public:
    using Kind = Action::Kind;
    using Answer = AcquireAnswer::Kind;

    explicit Stage(const PoolMachine::Config& config) : machine(config, now) {}

    Nanos now = 1000 * kSecond;
    PoolMachine machine;

    bool server_up = true;
    bool final_errors = false;     // what a server that is down says, cannot be cured by trying again
    bool answers_connects = true;  // else a connect hangs until the test answers it
    Nanos connect_time = 0;
    std::vector<Action> seen;  // every action since the last forget()
    std::vector<Nanos> open_times;

    // ---- events ----

    Stage& start() {
        machine.start(now);
        settle();
        return *this;
    }

    // Waiters are known by a number.
    AcquireAnswer acquire(std::uintptr_t caller = 0, Nanos timeout = 30 * kSecond, Nanos leak_limit = kNever) {
        const auto answer = machine.acquire(now, now + timeout, leak_limit, as_context(caller));
        settle();
        return answer;
    }

    // An acquire that must be served at once.
    SlotId lease(Nanos leak_limit = kNever) {
        const auto answer = acquire(0, 0, leak_limit);
        if (answer.kind != Answer::granted) throw std::logic_error("no idle connection to lease");
        return answer.slot;
    }

    std::vector<SlotId> lease_all(std::int64_t count) {
        std::vector<SlotId> slots;
        while (static_cast<std::int64_t>(slots.size()) < count) slots.push_back(lease());
        return slots;
    }

    AcquireAnswer replace(SlotId dead, std::uintptr_t caller, Nanos timeout = 30 * kSecond) {
        const auto answer = machine.replace(dead, now, now + timeout, as_context(caller));
        settle();
        return answer;
    }

    void release(SlotId slot, const ReturnedConnection& condition = kClean) {
        machine.released(slot, condition, now);
        settle();
    }

    void opened(SlotId slot) {
        forget_connect(slot);
        machine.opened(slot, kMillisecond, now);
        settle();
    }

    void open_failed(SlotId slot, bool final = false) {
        forget_connect(slot);
        machine.open_failed(slot, final, now);
        settle();
    }

    // Calls any other event, `event(machine, now)`.
    template <class Event>
    void then(Event event) {
        event(machine, now);
        settle();
    }

    void lose(SlotId slot) {
        then([&](PoolMachine& m, Nanos t) { m.lost(slot, t); });
    }

    void clean_ended(SlotId slot, bool usable = true) {
        then([&](PoolMachine& m, Nanos t) { m.cleaned(slot, usable, t); });
    }

    void check_ended(SlotId slot, bool alive) {
        then([&](PoolMachine& m, Nanos t) { m.checked(slot, alive, kMillisecond, t); });
    }

    void shut_down(Nanos timeout = 30 * kSecond) {
        then([&](PoolMachine& m, Nanos t) { m.shutdown(t + timeout); });
    }

    // Lets time pass; everything that falls due on the way happens on time.
    void pass(Nanos length) {
        const Nanos end = now + length;
        for (int steps = 0;; steps++) {
            if (steps > 1'000'000) throw std::logic_error("the machine is due again and again without time passing");
            const Nanos next = std::min(machine.next_deadline(), next_connect());
            if (next > end) break;
            now = std::max(now, next);
            if (machine.next_deadline() <= now) machine.tick(now);
            settle();
        }
        now = end;
        settle();
    }

    // ---- looking ----

    void forget() { seen.clear(); }

    std::vector<Action> all(Kind kind) const {
        std::vector<Action> found;
        std::copy_if(seen.begin(), seen.end(), std::back_inserter(found),
                     [&](const Action& a) { return a.kind == kind; });
        return found;
    }

    std::size_t count(Kind kind) const { return all(kind).size(); }

    std::size_t closes(CloseReason reason) const {
        return static_cast<std::size_t>(std::count_if(
            seen.begin(), seen.end(), [&](const Action& a) { return a.kind == Kind::close && a.reason == reason; }));
    }

    std::optional<SlotId> granted(std::uintptr_t caller) const {
        for (const auto& a : seen)
            if (a.kind == Kind::grant && a.context == as_context(caller)) return a.slot;
        return {};
    }

    std::optional<ErrorKind> failed(std::uintptr_t caller) const {
        for (const auto& a : seen)
            if (a.kind == Kind::fail && a.context == as_context(caller)) return a.error;
        return {};
    }

    std::vector<SlotId> connecting() const {
        std::vector<SlotId> slots;
        for (const auto& connect : connects_) slots.push_back(connect.slot);
        return slots;
    }

    Statistics statistics() const {
        Statistics s;
        machine.fill_statistics(s, now, 0);
        return s;
    }

    Health health() const { return machine.health(now); }
    std::int64_t open_connections() const {
        const auto s = statistics();
        return s.connections_opened - s.connections_closed;
    }

  private:
    struct Connect {
        SlotId slot;
        Nanos due;
    };

    static void* as_context(std::uintptr_t caller) { return reinterpret_cast<void*>(caller); }

    Nanos next_connect() const {
        Nanos next = kNever;
        if (answers_connects)
            for (const auto& connect : connects_) next = std::min(next, connect.due);
        return next;
    }

    void forget_connect(SlotId slot) {
        std::erase_if(connects_, [&](const Connect& c) { return c.slot == slot; });
    }

    void collect() {
        for (const auto& action : std::exchange(machine.actions(), {})) {
            if (action.kind == Kind::open) {
                connects_.push_back({action.slot, now + connect_time});
                open_times.push_back(now);
            }
            if (action.kind == Kind::close) forget_connect(action.slot);
            seen.push_back(action);
        }
    }

    void settle() {
        collect();
        while (next_connect() <= now) {
            const SlotId slot =
                std::find_if(connects_.begin(), connects_.end(), [&](const Connect& c) { return c.due <= now; })->slot;
            forget_connect(slot);
            if (server_up)
                machine.opened(slot, kMillisecond, now);
            else
                machine.open_failed(slot, final_errors, now);
            collect();
        }
    }

    std::vector<Connect> connects_;
};

// Every connection that nobody has leased is lost, and the server refuses new ones.
inline void stop_server(Stage& stage) {
    stage.server_up = false;
    std::vector<SlotId> idle;
    while (stage.machine.idle() > 0) idle.push_back(stage.lease());
    for (const SlotId slot : idle) stage.release(slot);
    for (const SlotId slot : idle) stage.lose(slot);
}

}  // namespace pqpool
