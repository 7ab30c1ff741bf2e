#include "core/decide/statistics.hpp"

#include <algorithm>
#include <bit>

namespace pqpool {

void LatencyHistogram::add(Nanos value) {
    const auto v = static_cast<std::uint64_t>(std::max<Nanos>(value, 1 << kLowestPower));
    const int power = static_cast<int>(std::bit_width(v)) - 1;
    const auto step = (v >> (power - 3)) & 7;
    const auto index = static_cast<std::size_t>(power - kLowestPower) * 8 + step;
    buckets_[std::min(index, buckets_.size() - 1)]++;
    total_++;
}

void LatencyHistogram::percentiles(const double* fractions, double* ms, std::size_t count) const {
    std::size_t next = 0;
    std::uint64_t seen = 0;
    for (std::size_t i = 0; i < buckets_.size() && next < count; i++) {
        seen += buckets_[i];
        while (next < count && total_ && static_cast<double>(seen) >= fractions[next] * static_cast<double>(total_)) {
            const auto power = static_cast<int>(i / 8) + kLowestPower;
            ms[next++] = to_ms(static_cast<Nanos>((8 + i % 8 + 1) << (power - 3)));
        }
    }
    while (next < count) ms[next++] = 0.0;
}

void RecentMean::add(Nanos value) {
    sum_ += value - (count_ == values_.size() ? values_[next_] : 0);
    values_[next_] = value;
    next_ = next_ + 1 == values_.size() ? 0 : next_ + 1;
    count_ = std::min(count_ + 1, values_.size());
}

void Tally::waited(Nanos wait) {
    recent_waits_.add(wait);
    waits_.add(wait);
    peak_wait_ = std::max(peak_wait_, wait);
}

void Tally::fill(Statistics& s, Nanos now) const {
    s.leases_out = acquisitions_ - releases_;
    s.total_acquisitions = acquisitions_;
    s.total_releases = releases_;
    s.total_timeouts = timeouts_;
    s.total_rejected = rejected_;
    s.connections_opened = opened_;
    s.connections_closed = closed_;
    s.connections_lost = lost_;
    s.connection_failures = open_failures_;
    s.peak_active_connections = peak_out_;
    s.avg_acquisition_time_ms = recent_waits_.ms();
    s.peak_wait_time_ms = to_ms(peak_wait_);
    constexpr double kFractions[] = {0.50, 0.95, 0.99};
    double percentiles[3];
    waits_.percentiles(kFractions, percentiles, 3);
    s.acquisition_p50_ms = percentiles[0];
    s.acquisition_p95_ms = percentiles[1];
    s.acquisition_p99_ms = percentiles[2];
    s.latency_ms = to_ms(last_round_trip_);
    s.uptime_ms = to_ms(now - created_at_);
}

}  // namespace pqpool
