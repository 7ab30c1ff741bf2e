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

Health capacity_of(std::int64_t live, std::int64_t min_size) {
    if (live == 0 || live * 2 < min_size) return Health::unhealthy;
    return live * 5 < min_size * 4 ? Health::degraded : Health::healthy;
}

Health judge_health(const HealthFacts& f) {
    const bool running =
        f.state != PoolState::initializing && f.state != PoolState::shutting_down && f.state != PoolState::terminated;
    const Health capacity = capacity_of(f.live, f.min_size);
    if (!running || capacity == Health::unhealthy) return Health::unhealthy;

    auto recent = [&](Nanos time) { return time != kNoTime && f.now - time < kHealthMemory; };
    const bool error_stands = recent(f.last_error) && (f.last_recovery == kNoTime || f.last_recovery < f.last_error);
    const bool starved = f.waiting > 0 && f.idle == 0;
    const bool degraded = capacity == Health::degraded || starved || error_stands || recent(f.last_slow_acquisition) ||
                          recent(f.last_leak) || f.state == PoolState::recovering;
    return degraded ? Health::degraded : Health::healthy;
}

void HealthRecord::slow(Nanos asked_at, Nanos now) {
    if (last_recovery_ == kNoTime || asked_at > last_recovery_) last_slow_ = now;
}

void HealthRecord::stands(Nanos now) {
    const bool error_stands = last_error_ != kNoTime && (last_recovery_ == kNoTime || last_recovery_ <= last_error_);
    if (error_stands) last_recovery_ = now + 1;  // after the error, even in the same instant
}

}  // namespace pqpool
