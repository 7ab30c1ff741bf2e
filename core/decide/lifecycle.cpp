#include "core/decide/lifecycle.hpp"

#include <algorithm>

namespace pqpool {

Lifecycle::Change Lifecycle::update(std::int64_t live, std::int64_t min_size, bool dying) {
    const bool full = live >= min_size;
    const bool recovers = full && !dying;
    switch (state_) {
        case PoolState::initializing:
            if (!full) return Change::none;
            state_ = PoolState::healthy;
            return Change::initialized;
        case PoolState::healthy:
        case PoolState::degraded: {
            const Health capacity = capacity_of(live, min_size);
            state_ = capacity == Health::unhealthy  ? PoolState::unhealthy
                     : capacity == Health::degraded ? PoolState::degraded
                                                    : PoolState::healthy;
            return state_ == PoolState::unhealthy ? Change::unhealthy : Change::none;
        }
        case PoolState::unhealthy:
        case PoolState::recovering:
            state_ = recovers ? PoolState::healthy : live > 0 ? PoolState::recovering : PoolState::unhealthy;
            return recovers ? Change::recovered : Change::none;
        case PoolState::shutting_down:
        case PoolState::terminated:
            break;
    }
    return Change::none;
}

bool Lifecycle::shut_down(Nanos deadline) {
    if (state_ == PoolState::terminated) return false;
    abort_at_ = std::min(abort_at_, deadline);
    if (state_ == PoolState::shutting_down) return false;
    state_ = PoolState::shutting_down;
    return true;
}

bool Lifecycle::finish_shutdown(std::int64_t out) {
    if (out > 0 || state_ != PoolState::shutting_down) return false;
    state_ = PoolState::terminated;
    abort_at_ = kNever;
    return true;
}

}  // namespace pqpool
