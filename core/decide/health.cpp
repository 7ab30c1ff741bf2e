#include "core/decide/health.hpp"

namespace pqpool {

const char* name_of(PoolState state) {
    switch (state) {
#define X(name)           \
    case PoolState::name: \
        return #name;
        PQPOOL_STATES(X)
#undef X
    }
    return "terminated";
}

const char* name_of(Health health) {
    return health == Health::healthy ? "healthy" : health == Health::degraded ? "degraded" : "unhealthy";
}

Health judge_health(const HealthFacts& f) {
    const bool running =
        f.state != PoolState::initializing && f.state != PoolState::shutting_down && f.state != PoolState::terminated;
    // Capacity is live connections / min_size: unhealthy under a half, degraded under four fifths.
    if (!running || f.live == 0 || f.live * 2 < f.min_size) return Health::unhealthy;

    auto recent = [&](Nanos time) { return time != kNoTime && f.now - time < kHealthMemory; };
    const bool error_stands = recent(f.last_error) && (f.last_recovery == kNoTime || f.last_recovery < f.last_error);
    const bool starved = f.waiting > 0 && f.idle == 0;
    if (f.live * 5 < f.min_size * 4 || starved || recent(f.last_slow_acquisition) || error_stands ||
        recent(f.last_leak) || f.state == PoolState::recovering)
        return Health::degraded;
    return Health::healthy;
}

}  // namespace pqpool
