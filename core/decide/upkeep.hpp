// What a standing connection is due for: its end by age, use or idleness, a successor before that, a check while it is
// idle, and the end of its grace while the pool has it in hand.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/decide/random.hpp"
#include "core/decide/sizing.hpp"
#include "core/decide/slot_ledger.hpp"

namespace pqpool {

class Upkeep {
  public:
    struct Limits {
        std::int64_t max_queries;
        Nanos max_idle_time, max_lifetime;
        Nanos keepalive;  // kNever: no checks
    };
    explicit Upkeep(const Limits& limits) : limits_(limits) {}

    // Why the connection is not to be handed out again; none: it may be.
    CloseReason retired(const Slot& slot, Nanos now) const {
        if (slot.condemned != CloseReason::none) return slot.condemned;
        if (slot.queries >= limits_.max_queries) return CloseReason::max_queries;
        if (slot.retire_at <= now) return CloseReason::max_lifetime;
        return CloseReason::none;
    }
    // So near max_queries that its successor is opened.
    bool is_worn(const Slot& slot) const { return slot.queries >= worn_at_; }
    Nanos end_of_life(Nanos opened_at, Random& random) const;

    // A round over all connections is due then, at the latest; it may turn out to be early.
    Nanos due() const { return round_at_; }
    void shelved(const Slot& slot) {
        Nanos due = slot.is_waning() ? slot.retire_at : slot.retire_at - kWaningTime;
        due = std::min(due, slot.idle_since + limits_.max_idle_time);  // others may make it one too many till then
        if (limits_.keepalive != kNever) due = std::min(due, check_at(slot));
        due_by(due);
    }
    void taken_in_hand(Nanos now) { due_by(now + kGrace); }
    void resized(Nanos now) { due_by(now + limits_.max_idle_time); }
    void stop() { round_at_ = kNever; }

    struct Task {
        CloseReason close = CloseReason::none;
        bool check = false;
    };
    void begin_round() { round_at_ = kNever; }
    // What is to be done about the connection. What changes but how it counts (waning, late) is done.
    Task look(SlotLedger& ledger, const Sizing& sizing, std::uint32_t index, Nanos now);

  private:
    // A connection given back with a statement under way is usually drained within a millisecond, so for this long it
    // keeps its place and the pool does not replace it; after that its place is free, whatever the server does. The
    // same holds for a connection that is checked. Meanwhile it is live; after that it is not.
    static constexpr Nanos kGrace = 100 * kMillisecond;
    static constexpr Nanos kWaningTime = 5 * kSecond;  // a successor is opened this long before the lifetime ends

    Nanos check_at(const Slot& slot) const {  // use is as good as a check
        return std::max(slot.idle_since, slot.checked_at) + limits_.keepalive;
    }
    void due_by(Nanos time) { round_at_ = std::min(round_at_, time); }
    void look_at_age(SlotLedger& ledger, std::uint32_t index, Nanos now);
    Task look_at_idle(SlotLedger& ledger, const Sizing& sizing, std::uint32_t index, Nanos now);
    void look_at_grace(SlotLedger& ledger, std::uint32_t index, SlotState late, Nanos now);

    const Limits limits_;
    const std::int64_t worn_at_ = limits_.max_queries - limits_.max_queries / 20;
    Nanos round_at_ = kNever;
};

}  // namespace pqpool
