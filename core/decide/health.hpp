// The health rule: a pure function of what the pool counts.
#pragma once

#include <cstdint>

#include "core/base/clock.hpp"

namespace pqpool {

// X(enumerator): the pool's lifecycle. initializing -> healthy <-> degraded <-> unhealthy -> recovering -> healthy; the
// last two from any.
#define PQPOOL_STATES(X) \
    X(initializing) X(healthy) X(degraded) X(unhealthy) X(recovering) X(shutting_down) X(terminated)

enum class PoolState : std::int32_t {
#define X(name) name,
    PQPOOL_STATES(X)
#undef X
};
const char* name_of(PoolState state);

enum class Health : std::int32_t { healthy, degraded, unhealthy };
const char* name_of(Health health);

// Times are on any one clock; kNoTime where the event never happened.
inline constexpr Nanos kNoTime = std::numeric_limits<Nanos>::min();

struct HealthFacts {
    PoolState state = PoolState::initializing;
    std::int64_t min_size = 1;
    // Idle or leased and not known to be lost, or for up to 100 ms in the pool's own hands, being checked or cleaned.
    std::int64_t live = 0;
    std::int64_t idle = 0;
    std::int64_t waiting = 0;
    Nanos now = 0;
    Nanos last_error = kNoTime;
    Nanos last_recovery = kNoTime;
    Nanos last_slow_acquisition = kNoTime;  // an acquire that waited over kSlowAcquisition, or timed out
    Nanos last_leak = kNoTime;
};

inline constexpr Nanos kSlowAcquisition = 100 * kMillisecond;
inline constexpr Nanos kHealthMemory = 60 * kSecond;

Health judge_health(const HealthFacts& facts);

}  // namespace pqpool
