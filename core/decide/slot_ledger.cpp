#include "core/decide/slot_ledger.hpp"

namespace pqpool {

std::uint32_t SlotLedger::add(Nanos now) {
    std::uint32_t index;
    if (free_.empty()) {
        index = size();
        if (free_.capacity() <= index) free_.reserve(2 * slots_.size() + 8);  // so that free() cannot fail
        slots_.emplace_back();
        counter(SlotState::free)++;
    } else {
        index = free_.back();
        free_.pop_back();
    }
    slots_[index].life.started_at = now;
    move(index, SlotState::opening);
    return index;
}

void SlotLedger::free(std::uint32_t index) {
    move(index, SlotState::free);
    const std::uint32_t next_generation = slots_[index].generation_ + 1;
    slots_[index] = Slot();
    slots_[index].generation_ = next_generation;
    free_.push_back(index);
}

void SlotLedger::wane(std::uint32_t index) {
    Slot& slot = slots_[index];
    if (slot.waning_ || !is_live(slot.state_)) return;
    slot.waning_ = true;
    waning_++;
}

void SlotLedger::unwane(Slot& slot) {
    if (slot.waning_) waning_--;
    slot.waning_ = false;
}

}  // namespace pqpool
