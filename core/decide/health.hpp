// The health rule, a pure function of what the pool counts; and the record of what it remembers.
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

// By capacity alone, which is live / min_size: unhealthy under a half, degraded under four fifths.
Health capacity_of(std::int64_t live, std::int64_t min_size);

// Whether no recovery came after the error.
bool error_stands(Nanos last_error, Nanos last_recovery);

// Times are on any one clock; kNoTime where the event never happened.
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

// What happened last of each kind that health remembers.
class HealthRecord {
  public:
    void error(Nanos now);
    void leak(Nanos now) { last_leak_ = now; }
    void asked(Nanos now) { last_asked_ = now; }
    // An acquire that began at `asked_at` was slow. Waiting for the server's return says nothing about the pool's size:
    // only waits that began after the last recovery count.
    void slow(Nanos asked_at, Nanos now);
    // min_size connections stand, and last: an error is over.
    void stands(Nanos now);
    void forget_slow() { last_slow_ = kNoTime; }

    Nanos last_error() const { return last_error_; }
    Nanos last_recovery() const { return last_recovery_; }
    Nanos last_slow() const { return last_slow_; }
    Nanos last_leak() const { return last_leak_; }
    Nanos last_asked() const { return last_asked_; }

  private:
    Nanos last_error_ = kNoTime, last_recovery_ = kNoTime;
    Nanos last_slow_ = kNoTime, last_leak_ = kNoTime, last_asked_ = kNoTime;
};

}  // namespace pqpool
