// Openings without an answer: when another may go beside one that hangs, and which of them are given up.
#pragma once

#include <cstdint>

#include "core/decide/slot_ledger.hpp"

namespace pqpool {

class StuckOpenings {
  public:
    // When to look().
    Nanos due(const SlotLedger& ledger) const { return ledger.count(SlotState::opening) > 0 ? look_at_ : kNever; }
    void began(const SlotLedger& ledger, Nanos now);
    void succeeded(Nanos took);
    // Those that have had their time are stuck from now on, and have a place no more.
    void look(SlotLedger& ledger, Nanos now);

    // What must go before another goes beside those that are stuck; kNone where there are few.
    std::uint32_t surplus(const SlotLedger& ledger) const;
    // The one beside a stuck one that has answered after all; kNone where there is none.
    std::uint32_t newest_beside(const SlotLedger& ledger) const;

  private:
    // An opening is stuck after so long, or after twice as long as the last one took, which is taken for at most a
    // second.
    static constexpr Nanos kStuck = 750 * kMillisecond;
    static constexpr Nanos kUsualAtMost = kSecond;
    static constexpr std::int64_t kAtOnce = 4;

    Nanos patience() const;

    Nanos usual_ = 0;  // how long the last opening took
    Nanos look_at_ = kNever;
};

}  // namespace pqpool
