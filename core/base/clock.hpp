// The two clocks of the pool. Only the I/O side reads them; the state machine is given the time with each event.
#pragma once

#include <time.h>

#include <cstdint>
#include <limits>

namespace pqpool {

using Nanos = std::int64_t;  // on the monotonic clock, or a length of time

inline constexpr Nanos kMicrosecond = 1'000;
inline constexpr Nanos kMillisecond = 1'000'000;
inline constexpr Nanos kSecond = 1'000'000'000;
inline constexpr Nanos kNever = std::numeric_limits<Nanos>::max();
inline constexpr Nanos kNoTime = std::numeric_limits<Nanos>::min();  // of what has not happened

inline Nanos read_clock(clockid_t clock) {
    timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * kSecond + t.tv_nsec;
}

inline Nanos monotonic_now() { return read_clock(CLOCK_MONOTONIC); }

// The same clock as of its last tick, up to 4 ms ago, for a quarter of the price.
inline Nanos coarse_now() { return read_clock(CLOCK_MONOTONIC_COARSE); }

inline Nanos from_seconds(double seconds) { return static_cast<Nanos>(seconds * 1e9); }
inline double to_seconds(Nanos t) { return static_cast<double>(t) / 1e9; }
inline double to_ms(Nanos t) { return static_cast<double>(t) / 1e6; }

// now + wait, where a negative wait has no limit.
inline Nanos deadline_after(Nanos now, Nanos wait) { return wait < 0 || wait > kNever - now ? kNever : now + wait; }

}  // namespace pqpool
