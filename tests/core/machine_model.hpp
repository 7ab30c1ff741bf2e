// What must be true of a PoolMachine whatever happens: a plain record of every slot, lease and waiter, kept from the
// machine's actions alone, and compared with what the machine says about itself after each event. A violation throws,
// with the event's number.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/decide/pool_machine.hpp"

namespace pqpool {

class MachineModel {
  public:
    using Kind = Action::Kind;

    enum class SeenState {
        opening,
        idle,
        leased,
        checking,
        cleaning,
        returned
    };  // returned: must be gone or elsewhere after this event
    struct Slot {
        SlotId id;
        SeenState state;
        bool lost = false;
        Nanos since = 0;  // of opening, checking or cleaning
    };

    // A lease is one of: with a connection, waiting for another one (replacing), or without (slot gone).
    struct Lease {
        SlotId slot;
        bool has_connection = true;
        Nanos leased_at = 0;
        Nanos leak_limit = kNever;
        bool leak_reported = false;
    };

    struct Waiting {
        std::uintptr_t number;
        WaiterId id;
        Nanos deadline;
        Nanos leak_limit;
        std::int64_t replaces = -1;  // the lease
    };

    MachineModel(PoolMachine& machine, const PoolMachine::Config& config)
        : machine_(machine),
          min_size(config.min_size),
          max_size(config.max_size),
          allowed_(config.max_size),
          allowed_active_(config.max_size) {}

    std::map<std::uint32_t, Slot> slots;
    std::map<std::int64_t, Lease> leases;
    std::deque<Waiting> waiting;  // in the order of service
    std::vector<SlotId> past;     // slots that are gone
    bool paused = false, shutting_down = false, terminated = false, init_failed = false;
    bool initialized = false;
    std::int64_t acquisitions = 0, releases = 0, timeouts = 0, rejected = 0, grants = 0, retries = 0;

    [[noreturn]] static void violated(const std::string& rule) { throw std::logic_error(rule); }
    static void must(bool holds, const char* rule) {
        if (!holds) violated(rule);
    }

    static void* context_of(std::uintptr_t number) { return reinterpret_cast<void*>(number); }

    std::vector<SlotId> in_state(SeenState state) const {
        std::vector<SlotId> found;
        for (const auto& [index, slot] : slots)
            if (slot.state == state) found.push_back(slot.id);
        return found;
    }

    Slot& slot_of(SlotId id, const char* rule) {
        const auto at = slots.find(id.index);
        must(at != slots.end() && at->second.id == id, rule);
        return at->second;
    }

    void became_leased(SlotId id, std::int64_t lease, Nanos leased_at, Nanos leak_limit) {
        Slot& slot = slot_of(id, "a lease is of a slot that stands");
        must(slot.state == SeenState::idle && !slot.lost, "only an idle connection is leased");
        slot.state = SeenState::leased;
        if (const auto at = leases.find(lease); at != leases.end()) {
            at->second.slot = id;
            at->second.has_connection = true;
        } else {
            leases[lease] = {.slot = id, .leased_at = leased_at, .leak_limit = leak_limit};
            acquisitions++;
        }
    }

    std::int64_t new_lease() { return next_lease_++; }

    // Takes in what the machine wants done, as the pool would, and holds it against the rules.
    void take_actions(Nanos now) {
        std::vector<Action> actions;
        actions.swap(machine_.actions());
        for (const auto& action : actions) take(action, now);
    }

    void take(const Action& action, Nanos now) {
        must(!terminated || action.kind == Kind::close, "nothing happens after the end");
        switch (action.kind) {
            case Kind::open:
                must(!slots.count(action.slot.index), "a slot is opened once");
                must(!shutting_down, "nothing is opened in a shutdown");
                slots[action.slot.index] = {action.slot, SeenState::opening, false, now};
                openings_.push_back(now);
                break;
            case Kind::close:
                must(slot_of(action.slot, "a slot is closed once").state != SeenState::leased ||
                         in_release_ == action.slot,
                     "a lease's connection is not closed under it");
                forget(action.slot);
                break;
            case Kind::check: {
                Slot& slot = slot_of(action.slot, "a check is of a slot that stands");
                must(slot.state == SeenState::idle, "only an idle connection is checked");
                slot.state = SeenState::checking;
                slot.since = now;
                break;
            }
            case Kind::clean: {
                Slot& slot = slot_of(action.slot, "cleaning is of a slot that stands");
                must(slot.state == SeenState::returned, "only a returned connection is cleaned");
                slot.state = SeenState::cleaning;
                slot.since = now;
                break;
            }
            case Kind::grant: {
                must(!paused, "nothing is granted in a pause");
                must(!waiting.empty() && context_of(waiting.front().number) == action.context,
                     "grants are first in, first out, one each");
                const Waiting waiter = waiting.front();
                waiting.pop_front();
                must(waiter.deadline > now || waiter.deadline >= last_tick_,
                     "a waiter past its deadline is failed by the tick");
                grants++;
                became_leased(action.slot, waiter.replaces >= 0 ? waiter.replaces : new_lease(), now,
                              waiter.leak_limit);
                break;
            }
            case Kind::fail: {
                const auto at = std::find_if(waiting.begin(), waiting.end(),
                                             [&](const Waiting& w) { return context_of(w.number) == action.context; });
                must(at != waiting.end(), "a failure is of one that waits");
                if (action.error == ErrorKind::timeout) {
                    must(at->deadline <= now, "no waiter fails before its deadline");
                    timeouts++;
                } else {
                    must(shutting_down || action.error == ErrorKind::initialization,
                         "waiters fail otherwise only at the end");
                }
                waiting.erase(at);
                break;
            }
            case Kind::abort:
                must(shutting_down, "only a shutdown aborts");
                must(slot_of(action.slot, "an abort is of a slot that stands").state == SeenState::leased,
                     "only leases are aborted");
                for (auto& [number, lease] : leases)
                    if (lease.has_connection && lease.slot == action.slot) lease.has_connection = false;
                forget(action.slot);
                break;
            case Kind::log_leak: {
                must(slot_of(action.slot, "a leak is of a slot that stands").state == SeenState::leased,
                     "only leases leak");
                for (auto& [number, lease] : leases) {
                    if (!lease.has_connection || !(lease.slot == action.slot)) continue;
                    must(!lease.leak_reported, "a leak is reported once");
                    must(lease.leak_limit != kNever && now - lease.leased_at >= lease.leak_limit,
                         "a leak is reported past its limit");
                    lease.leak_reported = true;
                }
                break;
            }
            case Kind::log_lost:
                slot_of(action.slot, "a loss is of a slot that stands");
                break;
            case Kind::initialized:
                must(!initialized, "the pool is initialized once");
                initialized = true;
                break;
            case Kind::init_failed:
                must(!initialized, "initialization fails before it succeeds, or not");
                init_failed = true;
                for (const auto& [index, slot] : slots)
                    must(slot.state == SeenState::leased, "a failed initialization leaves nothing");
                must(waiting.empty(), "a failed initialization leaves no waiter");
                break;
            case Kind::terminated:
                must(shutting_down, "only a shutdown terminates");
                must(slots.empty() && waiting.empty(), "nothing is left at the end");
                terminated = true;
                break;
            case Kind::log_retry:
                retries++;
                must(action.duration >= 0 && action.duration <= 18 * kSecond, "a retry is due within 16 s and jitter");
                break;
            case Kind::log_recovered:
                must(action.count >= min_size, "recovered means min_size connections");
                break;
            case Kind::log_unhealthy:
                break;
        }
    }

    // Every rule that holds between events.
    void check(Nanos now) {
        Statistics s;
        machine_.fill_statistics(s, now, 0);
        std::int64_t idle = 0, leased = 0, opening = 0, checking = 0, cleaning = 0, lost = 0;
        std::int64_t late = 0, in_grace = 0, stuck = 0;
        for (const auto& [index, slot] : slots) {
            must(slot.state != SeenState::returned, "a returned connection ends up somewhere");
            idle += slot.state == SeenState::idle;
            leased += slot.state == SeenState::leased;
            opening += slot.state == SeenState::opening;
            checking += slot.state == SeenState::checking;
            cleaning += slot.state == SeenState::cleaning;
            const bool in_hand = slot.state == SeenState::checking || slot.state == SeenState::cleaning;
            late += in_hand && now - slot.since >= 100 * kMillisecond;
            in_grace += in_hand && now - slot.since < 100 * kMillisecond;
            stuck += slot.state == SeenState::opening && now - slot.since >= 750 * kMillisecond;
            lost += slot.lost;
        }
        must(s.idle_connections == idle, "idle is what stands free");
        must(s.active_connections == leased, "active is what is leased");
        must(s.total_connections == s.idle_connections + s.active_connections, "total = idle + active");
        must(s.opening_connections == opening + checking, "opening is what the pool has in its hands");
        must(s.cleaning_connections == cleaning, "cleaning is counted");
        must(s.live_connections >= idle + leased - lost + in_grace &&
                 s.live_connections <= idle + leased + checking + cleaning - lost,
             "live is what is open, not lost, and not in the pool's hands for long");
        live_if_in_time_ = idle + leased - lost + in_grace;
        must(s.connections_opened - s.connections_closed == idle + leased + checking + cleaning,
             "opened - closed = open");
        must(s.waiting_requests == static_cast<std::int64_t>(waiting.size()), "waiting is who waits");
        must(s.total_acquisitions == acquisitions, "each lease is one acquisition");
        must(s.total_releases == releases, "each return is one release");
        must(s.total_acquisitions - s.total_releases == static_cast<std::int64_t>(leases.size()),
             "acquisitions - releases = leases out");
        must(s.leases_out == static_cast<std::int64_t>(leases.size()), "leases out are counted");
        must(s.total_rejected == rejected && s.total_timeouts == timeouts, "refusals are counted");
        must(s.peak_active_connections >= s.active_connections, "peak >= active");
        must(s.peak_waiting_requests >= s.waiting_requests, "peak waiting >= waiting");
        check_nothing_negative(s);

        std::int64_t leaks = 0;
        for (const auto& [number, lease] : leases) leaks += lease.has_connection && lease.leak_reported;
        must(s.leak_count == leaks, "leak_count is leases out that were reported");

        must(waiting.empty() || idle == 0 || paused, "nobody waits while an idle connection stands");

        // A lowered max_size is approached, never departed from.
        const std::int64_t counted = idle + leased + opening - stuck + checking + cleaning - late;
        must(counted <= allowed_, "open and opening <= max_size");
        must(leased <= allowed_active_, "active <= max_size");
        allowed_ = std::max(max_size, std::min(allowed_, counted));
        allowed_active_ = std::max(max_size, std::min(allowed_active_, leased));
    }

    void resized(std::int64_t low, std::int64_t high) {
        allowed_ = std::max({allowed_, high, max_size});
        allowed_active_ = std::max({allowed_active_, high, max_size});
        min_size = low;
        max_size = high;
    }

    void ticked(Nanos now) {
        last_tick_ = now;
        for (const auto& waiter : waiting) must(waiter.deadline > now, "a tick fails every waiter whose time is over");
        must(machine_.next_deadline() > now, "after a tick nothing is due");
        must(machine_.live() == live_if_in_time_, "what is in the pool's hands for long is not live");
    }

    // A connection that is about to be released or replaced may be closed in this event.
    void releasing(SlotId slot) { in_release_ = slot; }
    void release_done() { in_release_ = {}; }

    // Where every session dies as soon as it opens, attempts follow one another no faster than four a second, from the
    // first death on that the machine calls a failure.
    void check_pace(Nanos first_failure) {
        std::erase_if(openings_, [first_failure](Nanos at) { return at <= first_failure; });
        for (std::size_t i = 4; i < openings_.size(); i++)
            must(openings_[i] - openings_[i - 4] >= kSecond, "at most four attempts a second");
    }
    std::size_t attempts() const { return openings_.size(); }

  private:
    void forget(SlotId id) {
        slots.erase(id.index);
        past.push_back(id);
    }

    static void check_nothing_negative(const Statistics& s) {
        for (const auto& info : kStatisticList) {
            const char* at = reinterpret_cast<const char*>(&s) + info.offset;
            const bool real = info.type == StatisticType::ms;
            const double value = real ? *reinterpret_cast<const double*>(at)
                                      : static_cast<double>(*reinterpret_cast<const std::int64_t*>(at));
            if (value < 0 && std::string(info.name) != "latency_ms") violated(std::string(info.name) + " is negative");
        }
    }

    PoolMachine& machine_;
    SlotId in_release_;
    Nanos last_tick_ = 0;
    std::int64_t next_lease_ = 0;
    std::int64_t live_if_in_time_ = 0;
    std::vector<Nanos> openings_;

  public:
    std::int64_t min_size, max_size;

  private:
    std::int64_t allowed_, allowed_active_;
};

}  // namespace pqpool
