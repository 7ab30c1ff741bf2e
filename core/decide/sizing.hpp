// How many connections there are to be: how many to open now, and which are too many.
#pragma once

#include <cstdint>

#include "core/decide/slot_ledger.hpp"

namespace pqpool {

class Sizing {
  public:
    Sizing(std::int64_t min_size, std::int64_t max_size) : min_size_(min_size), max_size_(max_size) {}
    void resize(std::int64_t min_size, std::int64_t max_size);
    std::int64_t min_size() const { return min_size_; }
    std::int64_t max_size() const { return max_size_; }

    // Why connections are opened.
    struct Demand {
        std::int64_t waiting = 0;   // requests that may be served
        bool initializing = false;  // the pool has not stood yet
        bool watched = false;       // somebody asked for the health of a pool that has no connection
        std::int64_t at_once = 1;   // at most, to reach min_size
    };
    struct Plan {
        std::int64_t count = 0;
        bool beside_stuck = false;  // they go beside openings that hang
    };
    Plan plan(const SlotLedger& ledger, const Demand& demand);

    // A connection stands, and has served whom it could.
    void grown(bool others_wait);

    // Whether a connection in `state` has a place among max_size, or would have one if it stood.
    bool fits(const SlotLedger& ledger, SlotState state) const {
        return ledger.places() - (has_place(state) ? 1 : 0) < max_size_;
    }
    bool is_too_large(const SlotLedger& ledger) const { return ledger.places() > max_size_; }
    // Whether min_size connections stand without this one. A waning connection does not stand for another: where its
    // successor makes one too many, the waning one goes.
    bool is_spare(const SlotLedger& ledger, const Slot& slot) const {
        return ledger.live() - (slot.is_waning() ? 0 : ledger.waning()) > min_size_;
    }

  private:
    // Opened at once because requests wait, at most. A burst of short leases is served by returns long before a slow
    // connect ends, so a pool that opened one connection for each waiter would end at max_size after every burst. It
    // begins with one, and with one more each time that a connection stands and others still wait.
    static constexpr std::int64_t kGrowthAtOnce = 3;

    std::int64_t min_size_, max_size_;
    std::int64_t growth_at_once_ = 1;
};

}  // namespace pqpool
