// The one table of connections, and the only writer of what state each is in: move() keeps the numbers of each state
// and the shelf of idle connections, so neither can disagree with the slots.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "core/decide/slot.hpp"

namespace pqpool {

class SlotLedger {
  public:
    static constexpr std::uint32_t kNone = UINT32_MAX;

    // ---- looking ----
    std::uint32_t size() const { return static_cast<std::uint32_t>(slots_.size()); }  // free ones included
    Slot& operator[](std::uint32_t index) { return slots_[index]; }
    const Slot& operator[](std::uint32_t index) const { return slots_[index]; }
    SlotId id_of(std::uint32_t index) const { return {index, slots_[index].generation_}; }
    const Slot* find(SlotId id) const;
    Slot* find(SlotId id) { return const_cast<Slot*>(static_cast<const SlotLedger&>(*this).find(id)); }

    std::int64_t count(SlotState state) const { return counts_[static_cast<std::size_t>(state)]; }
    std::int64_t idle() const { return count(SlotState::idle); }
    std::int64_t out() const { return count(SlotState::leased) + count(SlotState::lost); }
    std::int64_t opening() const { return count(SlotState::opening) + count(SlotState::stuck); }
    std::int64_t checking() const { return count(SlotState::checking) + count(SlotState::late_checking); }
    std::int64_t cleaning() const { return count(SlotState::cleaning) + count(SlotState::late_cleaning); }
    std::int64_t live() const { return sum_from(SlotState::idle); }
    std::int64_t places() const { return sum_from(SlotState::opening); }  // of max_size, that are taken
    std::int64_t waning() const { return waning_; }

    // The shelf. The one used last is taken first, so that those that are too many grow cold.
    std::uint32_t newest_idle() const { return newest_idle_; }
    std::uint32_t oldest_idle() const { return oldest_idle_; }

    // ---- changing ----
    // A slot that is opening. Throws for want of memory, with nothing changed.
    std::uint32_t add(Nanos now);
    void move(std::uint32_t index, SlotState to);
    void free(std::uint32_t index);
    // Waning: live but near its end, so it does not stand for another and its successor is opened first.
    void wane(std::uint32_t index);

  private:
    std::int64_t& counter(SlotState state) { return counts_[static_cast<std::size_t>(state)]; }
    std::int64_t sum_from(SlotState first) const {
        std::int64_t sum = 0;
        for (auto state = static_cast<std::size_t>(first); state < kSlotStates; state++) sum += counts_[state];
        return sum;
    }
    void shelve(std::uint32_t index);
    void unshelve(std::uint32_t index);
    void unwane(Slot& slot);

    std::vector<Slot> slots_;
    std::vector<std::uint32_t> free_;
    std::array<std::int64_t, kSlotStates> counts_{};
    std::int64_t waning_ = 0;
    std::uint32_t newest_idle_ = kNone, oldest_idle_ = kNone;
};

// Inline is what each lease passes through.

inline const Slot* SlotLedger::find(SlotId id) const {
    if (id.index >= slots_.size()) return nullptr;
    const Slot& slot = slots_[id.index];
    return slot.generation_ == id.generation && slot.state_ != SlotState::free ? &slot : nullptr;
}

inline void SlotLedger::move(std::uint32_t index, SlotState to) {
    Slot& slot = slots_[index];
    if (slot.state_ == SlotState::idle) unshelve(index);
    counter(slot.state_)--;
    counter(to)++;
    slot.state_ = to;
    if (to == SlotState::idle) shelve(index);
    if (!is_live(to)) unwane(slot);
}

inline void SlotLedger::shelve(std::uint32_t index) {
    Slot& slot = slots_[index];
    slot.older_ = newest_idle_;
    slot.newer_ = kNone;
    (newest_idle_ == kNone ? oldest_idle_ : slots_[newest_idle_].newer_) = index;
    newest_idle_ = index;
}

inline void SlotLedger::unshelve(std::uint32_t index) {
    const Slot& slot = slots_[index];
    (slot.newer_ == kNone ? newest_idle_ : slots_[slot.newer_].older_) = slot.older_;
    (slot.older_ == kNone ? oldest_idle_ : slots_[slot.older_].newer_) = slot.newer_;
}

}  // namespace pqpool
