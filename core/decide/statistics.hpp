// What the pool counts, in one list; the snapshot, its C struct, Python's dataclass and the exporters expand it. And
// the counters themselves.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "core/base/clock.hpp"

namespace pqpool {

// X(type, name, unit, meaning). gauge and counter are int64; ms is a double; time is an int64 of microseconds since
// 1970 (UTC), 0 = never.
#define PQPOOL_STATISTICS(X)                                                                                \
    X(gauge, total_connections, "connections", "idle + active")                                             \
    X(gauge, idle_connections, "connections", "open and free")                                              \
    X(gauge, active_connections, "connections", "leased")                                                   \
    X(gauge, live_connections, "connections", "open, not lost, and not checked or cleaned for over 100 ms") \
    X(gauge, opening_connections, "connections", "being opened, checked or replaced by the pool itself")    \
    X(gauge, cleaning_connections, "connections", "being cancelled, drained or reset after a lease")        \
    X(gauge, waiting_requests, "requests", "acquires that wait for a connection")                           \
    X(gauge, leases_out, "leases", "acquired and not released")                                             \
    X(counter, total_acquisitions, "acquisitions", "leases given out")                                      \
    X(counter, total_releases, "releases", "leases given back")                                             \
    X(counter, total_timeouts, "requests", "acquires that ended by their timeout")                          \
    X(counter, total_rejected, "requests", "acquires refused because max_waiting were waiting")             \
    X(counter, connections_opened, "connections", "opened since the start")                                 \
    X(counter, connections_closed, "connections", "closed since the start, lost ones included")             \
    X(counter, connections_lost, "connections", "found dead, by hang-up or by validation")                  \
    X(counter, connection_failures, "attempts", "attempts to open a connection that failed")                \
    X(counter, leak_count, "leases", "leases out that are held past their leak limit")                      \
    X(counter, peak_active_connections, "connections", "most leased at once")                               \
    X(counter, peak_waiting_requests, "requests", "most waiting at once")                                   \
    X(ms, avg_acquisition_time_ms, "ms", "mean wait of the last 1000 acquisitions")                         \
    X(ms, peak_wait_time_ms, "ms", "longest wait of an acquisition")                                        \
    X(ms, acquisition_p50_ms, "ms", "median wait since the start, within 12.5 %")                           \
    X(ms, acquisition_p95_ms, "ms", "95th percentile of the wait since the start")                          \
    X(ms, acquisition_p99_ms, "ms", "99th percentile of the wait since the start")                          \
    X(ms, latency_ms, "ms", "round trip of the last check the pool made itself; negative = none yet")       \
    X(ms, uptime_ms, "ms", "since the pool was created")                                                    \
    X(time, pool_created_at, "us", "when the pool was created")                                             \
    X(time, last_health_check, "us", "when its health was last asked for")                                  \
    X(time, last_error_time, "us", "when a connection was last lost or could not be opened")                \
    X(time, last_recovery_time, "us", "when min_size connections were last reached again")                  \
    X(time, last_slow_acquisition_time, "us", "when an acquire last waited over 100 ms or timed out")       \
    X(time, last_leak_time, "us", "when a leak was last reported")

using StatisticGauge = std::int64_t;
using StatisticCounter = std::int64_t;
using StatisticMs = double;
using StatisticTime = std::int64_t;

struct Statistics {
#define PQPOOL_STATISTIC_gauge       StatisticGauge
#define PQPOOL_STATISTIC_counter     StatisticCounter
#define PQPOOL_STATISTIC_ms          StatisticMs
#define PQPOOL_STATISTIC_time        StatisticTime
#define X(type, name, unit, meaning) PQPOOL_STATISTIC_##type name = 0;
    PQPOOL_STATISTICS(X)
#undef X
};

enum class StatisticType { gauge, counter, ms, time };

struct StatisticInfo {
    const char* name;
    StatisticType type;
    const char* unit;
    const char* meaning;
    std::size_t offset;  // in Statistics
};

inline constexpr StatisticInfo kStatisticList[] = {
#define X(type, name, unit, meaning) {#name, StatisticType::type, unit, meaning, offsetof(Statistics, name)},
    PQPOOL_STATISTICS(X)
#undef X
};

// Log-linear: eight steps to each power of two, from under a microsecond to over an hour; a percentile is right
// within 12.5 %.
class LatencyHistogram {
  public:
    void add(Nanos value);
    // The upper bounds of the buckets that hold the given fractions (ascending), in one pass.
    void percentiles(const double* fractions, double* ms, std::size_t count) const;

  private:
    static constexpr int kLowestPower = 6;  // 64 ns
    static constexpr int kPowers = 36;
    std::array<std::uint64_t, std::size_t{kPowers} * 8> buckets_{};
    std::uint64_t total_ = 0;
};

// The mean over the last 1000 values, exact, in constant time.
class RecentMean {
  public:
    void add(Nanos value);
    double ms() const { return count_ ? to_ms(sum_) / static_cast<double>(count_) : 0.0; }

  private:
    std::array<Nanos, 1000> values_{};
    std::size_t next_ = 0, count_ = 0;
    Nanos sum_ = 0;
};

// What the pool has counted and measured since it was created.
class Tally {
  public:
    explicit Tally(Nanos created_at) : created_at_(created_at) {}

    void acquired() { acquisitions_++; }
    void released() { releases_++; }
    void out(std::int64_t connections) { peak_out_ = std::max(peak_out_, connections); }
    void waited(Nanos wait);  // an acquire that was served
    void timed_out() { timeouts_++; }
    void rejected() { rejected_++; }
    void opened() { opened_++; }
    void closed() { closed_++; }
    void lost() { lost_++; }
    void open_failed() { open_failures_++; }
    void round_trip(Nanos time) { last_round_trip_ = time; }

    void fill(Statistics& out, Nanos now) const;
    Nanos created_at() const { return created_at_; }

  private:
    const Nanos created_at_;
    std::int64_t acquisitions_ = 0, releases_ = 0, timeouts_ = 0, rejected_ = 0;
    std::int64_t opened_ = 0, closed_ = 0, lost_ = 0, open_failures_ = 0;
    std::int64_t peak_out_ = 0;
    Nanos peak_wait_ = 0;
    Nanos last_round_trip_ = -kMillisecond;  // negative: none yet
    RecentMean recent_waits_;
    LatencyHistogram waits_;
};

}  // namespace pqpool
