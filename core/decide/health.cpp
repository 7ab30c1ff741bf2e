#include "core/decide/health.hpp"

#include <algorithm>

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

Health capacity_of(std::int64_t live, std::int64_t min_size) {
    if (live == 0 || live * 2 < min_size) return Health::unhealthy;
    return live * 5 < min_size * 4 ? Health::degraded : Health::healthy;
}

bool error_stands(Nanos last_error, Nanos last_recovery) {
    return last_error != kNoTime && last_recovery <= last_error;  // kNoTime is earlier than any time
}

Health judge_health(const HealthFacts& f) {
    const bool running =
        f.state != PoolState::initializing && f.state != PoolState::shutting_down && f.state != PoolState::terminated;
    const Health capacity = capacity_of(f.live, f.min_size);
    if (!running || capacity == Health::unhealthy) return Health::unhealthy;

    auto recent = [&](Nanos time) { return time != kNoTime && f.now - time < kHealthMemory; };
    const bool starved = f.waiting > 0 && f.idle == 0;
    const bool degraded = capacity == Health::degraded || starved ||
                          (recent(f.last_error) && error_stands(f.last_error, f.last_recovery)) ||
                          recent(f.last_slow_acquisition) || recent(f.last_leak) || f.state == PoolState::recovering;
    return degraded ? Health::degraded : Health::healthy;
}

void HealthRecord::slow(Nanos asked_at, Nanos now) {
    if (asked_at > last_recovery_) last_slow_ = now;
}

// Errors and recoveries are told apart by their times alone, also in the statistics, which are in microseconds. So a
// recovery is at least one of these later than its error, and an error no earlier than the recovery that it follows.
void HealthRecord::error(Nanos now) { last_error_ = std::max(now, last_recovery_); }

void HealthRecord::stands(Nanos now) {
    if (error_stands(last_error_, last_recovery_)) last_recovery_ = std::max(now, last_error_ + kMicrosecond);
}

}  // namespace pqpool
