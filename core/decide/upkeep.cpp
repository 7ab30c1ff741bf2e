#include "core/decide/upkeep.hpp"

namespace pqpool {

// Less up to 5 %, so that connections opened together do not all end together.
Nanos Upkeep::end_of_life(Nanos opened_at, Random& random) const {
    return opened_at + static_cast<Nanos>(static_cast<double>(limits_.max_lifetime) * (1.0 - 0.05 * random()));
}

Upkeep::Task Upkeep::look(SlotLedger& ledger, const Sizing& sizing, std::uint32_t index, Nanos now) {
    switch (ledger[index].state()) {
        case SlotState::idle:
            return look_at_idle(ledger, sizing, index, now);
        case SlotState::leased:
        case SlotState::lost:
            look_at_age(ledger, index, now);
            break;
        case SlotState::checking:
            look_at_grace(ledger, index, SlotState::late_checking, now);
            break;
        case SlotState::cleaning:
            look_at_grace(ledger, index, SlotState::late_cleaning, now);
            break;
        default:
            break;
    }
    return {};
}

void Upkeep::look_at_age(SlotLedger& ledger, std::uint32_t index, Nanos now) {
    const Nanos wanes_at = ledger[index].retire_at - kWaningTime;
    if (wanes_at <= now)
        ledger.wane(index);
    else
        due_by(wanes_at);
}

Upkeep::Task Upkeep::look_at_idle(SlotLedger& ledger, const Sizing& sizing, std::uint32_t index, Nanos now) {
    const Slot& slot = ledger[index];
    if (const CloseReason reason = retired(slot, now); reason != CloseReason::none) return {.close = reason};
    if (sizing.is_spare(ledger, slot)) {
        const Nanos too_long_at = slot.idle_since + limits_.max_idle_time;
        if (too_long_at <= now) return {.close = CloseReason::max_idle_time};
        due_by(too_long_at);
    }
    due_by(slot.retire_at);
    look_at_age(ledger, index, now);
    if (limits_.keepalive == kNever) return {};
    if (check_at(slot) <= now) return {.check = true};
    due_by(check_at(slot));
    return {};
}

void Upkeep::look_at_grace(SlotLedger& ledger, std::uint32_t index, SlotState late, Nanos now) {
    const Nanos ends_at = ledger[index].in_hand_since + kGrace;
    if (ends_at <= now)
        ledger.move(index, late);
    else
        due_by(ends_at);
}

}  // namespace pqpool
