#include "core/decide/statistics.hpp"

#include <algorithm>
#include <bit>

namespace pqpool {

void LatencyHistogram::add(Nanos value) {
    const auto v = static_cast<std::uint64_t>(std::max<Nanos>(value, 1 << kLowestPower));
    const int power = std::bit_width(v) - 1;
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

}  // namespace pqpool
