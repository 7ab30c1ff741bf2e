// A connection as the pool's decisions know it: a slot. Whose state changes through SlotLedger only.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/base/clock.hpp"

namespace pqpool {

// An index and a generation, so that a late event about a slot that is gone is recognized.
struct SlotId {
    std::uint32_t index = UINT32_MAX;
    std::uint32_t generation = 0;
    bool operator==(const SlotId&) const = default;
    bool valid() const { return index != UINT32_MAX; }
};

// Why a connection was closed. X(enumerator, what the log says)
#define PQPOOL_CLOSE_REASONS(X)                               \
    X(none, "")                                               \
    X(lost, "lost")                                           \
    X(max_queries, "max_queries reached")                     \
    X(max_lifetime, "max_connection_lifetime reached")        \
    X(max_idle_time, "max_idle_time reached")                 \
    X(not_cleaned, "could not be cancelled or reset in time") \
    X(condemned, "its server is shutting down or read-only")  \
    X(drained, "drained")                                     \
    X(surplus, "more than max_size")                          \
    X(shutdown, "shutdown")

enum class CloseReason : std::int32_t {
#define X(name, text) name,
    PQPOOL_CLOSE_REASONS(X)
#undef X
};
inline const char* text_of(CloseReason reason) {
    constexpr const char* kTexts[] = {
#define X(name, text) text,
        PQPOOL_CLOSE_REASONS(X)
#undef X
    };
    return kTexts[static_cast<std::size_t>(reason)];
}

// In such an order that what a slot counts as is one comparison.
enum class SlotState : std::uint8_t {
    free,           // gone, its place in the table is to be had
    stuck,          // opening for so long that another goes beside it
    late_checking,  // in the pool's own hands for longer than a check or a clean-up usually takes
    late_cleaning,
    opening,  // from here on: has one of the max_size places
    lost,     // leased, and known to be dead
    idle,     // from here on: live
    leased,
    checking,
    cleaning,
};
inline constexpr std::size_t kSlotStates = static_cast<std::size_t>(SlotState::cleaning) + 1;

constexpr bool has_place(SlotState state) { return state >= SlotState::opening; }
constexpr bool is_live(SlotState state) { return state >= SlotState::idle; }
constexpr bool is_opening(SlotState state) { return state == SlotState::opening || state == SlotState::stuck; }
constexpr bool is_out(SlotState state) { return state == SlotState::leased || state == SlotState::lost; }
constexpr bool is_checking(SlotState state) {
    return state == SlotState::checking || state == SlotState::late_checking;
}
constexpr bool is_cleaning(SlotState state) {
    return state == SlotState::cleaning || state == SlotState::late_cleaning;
}

// What is known of a lease. It goes with the lease: where a dead connection is replaced, to the waiter for another one,
// and on to that one's slot.
struct LeaseTerms {
    Nanos since = kNoTime;
    Nanos leak_limit = kNever;  // kNever: not watched
    bool leak_reported = false;

    Nanos leak_at() const { return deadline_after(since, leak_limit); }
};

class Slot {
  public:
    SlotState state() const { return state_; }
    bool is_waning() const { return waning_; }

    // When the session began to open, stood, and was found dead or unfit.
    struct Life {
        Nanos started_at = kNoTime, opened_at = kNoTime, ended_at = kNoTime;
        bool stood() const { return opened_at != kNoTime; }
    };
    Life life;
    Nanos retire_at = kNever;                   // the end of its lifetime
    Nanos idle_since = 0;                       // a check does not make it younger
    Nanos checked_at = 0;                       // last proved alive by the pool itself
    Nanos in_hand_since = 0;                    // checked or cleaned since then
    std::int64_t queries = 0;                   // run on it in its life
    CloseReason condemned = CloseReason::none;  // not to be handed out again, and why
    LeaseTerms lease;                           // while it is out

  private:
    friend class SlotLedger;
    SlotState state_ = SlotState::free;
    bool waning_ = false;
    std::uint32_t generation_ = 0;
    std::uint32_t newer_ = UINT32_MAX, older_ = UINT32_MAX;  // on the shelf of idle connections
};

}  // namespace pqpool
