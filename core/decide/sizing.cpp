#include "core/decide/sizing.hpp"

#include <algorithm>

namespace pqpool {

void Sizing::resize(std::int64_t min_size, std::int64_t max_size) {
    min_size_ = min_size;
    max_size_ = max_size;
}

Sizing::Plan Sizing::plan(const SlotLedger& ledger, const Demand& demand) {
    if (demand.waiting == 0) growth_at_once_ = 1;
    // Beside an opening that hangs another may go, where somebody needs it.
    const bool beside =
        ledger.count(SlotState::stuck) > 0 && (demand.waiting > 0 || demand.watched || demand.initializing);
    const std::int64_t under_way = beside ? ledger.count(SlotState::opening) : ledger.opening();
    const std::int64_t missing = min_size_ - (ledger.live() - ledger.waning() + under_way);
    const std::int64_t growth = std::min(demand.waiting, growth_at_once_) - under_way;
    // One tries whether the server is there, then the rest follow.
    const bool probing = (ledger.live() == 0 && !demand.initializing) || beside;
    const std::int64_t at_once = probing ? 1 : demand.at_once;
    const std::int64_t room = max_size_ - ledger.places();
    return {.count = std::min({std::max(missing, growth), room, at_once - under_way}), .beside_stuck = beside};
}

void Sizing::grown(bool others_wait) {
    growth_at_once_ = others_wait ? std::min(growth_at_once_ + 1, kGrowthAtOnce) : 1;
}

}  // namespace pqpool
