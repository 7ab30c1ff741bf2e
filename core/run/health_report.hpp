// How a pool is, for who watches it.
#pragma once

#include <string>

#include "core/decide/health.hpp"
#include "core/decide/statistics.hpp"

namespace pqpool {

struct HealthReport {
    Health health = Health::unhealthy;
    PoolState state = PoolState::initializing;
    Statistics statistics;
    std::string last_error;
    bool behind_pooler = false;

    const char* database() const {
        if (state == PoolState::initializing) return "connecting";
        if (statistics.live_connections == 0) return "disconnected";
        return health == Health::healthy ? "connected" : "degraded";
    }
};

}  // namespace pqpool
