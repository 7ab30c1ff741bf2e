// A seat for each slot: its connection while the pool holds that, else the lease that has it. Under the pool's lock.
#pragma once

#include <memory>
#include <vector>

#include "core/run/event.hpp"
#include "core/run/lease.hpp"

namespace pqpool {

class Seats {
  public:
    struct Seat {
        std::unique_ptr<Connection> connection;  // idle, or on its way from or to the keeper
        Lease* lease = nullptr;
    };

    // Of a slot that was opened once. Its seat needs no memory from then on.
    Seat& operator[](SlotId slot) { return seats_[slot.index]; }
    Seat& make(SlotId slot) {
        if (slot.index >= seats_.size()) seats_.resize(slot.index + 1);
        return seats_[slot.index];
    }
    // nullptr where the slot has none.
    Seat* find(SlotId slot) { return slot.index < seats_.size() ? &seats_[slot.index] : nullptr; }
    const Seat* find(SlotId slot) const { return const_cast<Seats*>(this)->find(slot); }
    // connection: where it is known and not in its seat.
    event::About about(SlotId slot, const Connection* connection = nullptr) const {
        const Seat* seat = find(slot);
        if (seat && seat->lease) return pqpool::about(*seat->lease);
        if (!connection && seat) connection = seat->connection.get();
        return {slot, connection ? connection->backend_pid() : 0, 0};
    }
    auto begin() { return seats_.begin(); }
    auto end() { return seats_.end(); }

  private:
    std::vector<Seat> seats_;
};

}  // namespace pqpool
