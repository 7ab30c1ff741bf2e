#include "core/decide/stuck_openings.hpp"

#include <algorithm>
#include <utility>

namespace pqpool {

Nanos StuckOpenings::patience() const { return std::max(kStuck, 2 * usual_); }

void StuckOpenings::began(const SlotLedger& ledger, Nanos now) {
    const bool is_alone = ledger.count(SlotState::opening) == 1;  // what look_at_ was for is over
    look_at_ = std::min(is_alone ? kNever : look_at_, now + patience());
}

void StuckOpenings::succeeded(Nanos took) { usual_ = std::min(took, kUsualAtMost); }

void StuckOpenings::look(SlotLedger& ledger, Nanos now) {
    look_at_ = kNever;
    for (std::uint32_t i = 0; i < ledger.size(); i++) {
        if (ledger[i].state() != SlotState::opening) continue;
        const Nanos stuck_at = ledger[i].life.started_at + patience();
        if (stuck_at <= now)
            ledger.move(i, SlotState::stuck);
        else
            look_at_ = std::min(look_at_, stuck_at);
    }
}

// So that a dead host does not collect openings. The oldest is left its whole time, in case the server is but slow; the
// next oldest goes.
std::uint32_t StuckOpenings::surplus(const SlotLedger& ledger) const {
    if (ledger.count(SlotState::stuck) < kAtOnce) return SlotLedger::kNone;
    std::uint32_t oldest = SlotLedger::kNone, second = SlotLedger::kNone;
    for (std::uint32_t i = 0; i < ledger.size(); i++) {
        if (ledger[i].state() != SlotState::stuck) continue;
        const Nanos started_at = ledger[i].life.started_at;
        if (oldest == SlotLedger::kNone || started_at < ledger[oldest].life.started_at) {
            second = std::exchange(oldest, i);
        } else if (second == SlotLedger::kNone || started_at < ledger[second].life.started_at) {
            second = i;
        }
    }
    return second;
}

std::uint32_t StuckOpenings::newest_beside(const SlotLedger& ledger) const {
    std::uint32_t newest = SlotLedger::kNone;
    for (std::uint32_t i = 0; i < ledger.size(); i++) {
        if (ledger[i].state() != SlotState::opening) continue;
        if (newest == SlotLedger::kNone || ledger[i].life.started_at > ledger[newest].life.started_at) newest = i;
    }
    return newest;
}

}  // namespace pqpool
