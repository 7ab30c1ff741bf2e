#include <catch2/catch.hpp>
#include <set>
#include <string>

#include "core/decide/statistics.hpp"

using namespace pqpool;

namespace {

double percentile(const LatencyHistogram& histogram, double fraction) {
    double ms = -1;
    histogram.percentiles(&fraction, &ms, 1);
    return ms;
}

}  // namespace

TEST_CASE("an_empty_histogram_says_zero", "[statistics]") {
    const LatencyHistogram histogram;
    CHECK(percentile(histogram, 0.5) == 0.0);
    CHECK(percentile(histogram, 0.99) == 0.0);
}

TEST_CASE("a_percentile_is_an_upper_bound_within_an_eighth", "[statistics]") {
    for (Nanos value = 64; value < 3600 * kSecond; value = value * 9 / 7 + 1) {
        LatencyHistogram histogram;
        histogram.add(value);
        const double bound = percentile(histogram, 0.5);
        CHECK(bound > to_ms(value));
        CHECK(bound <= to_ms(value) * 1.125);
    }
}

TEST_CASE("percentiles_are_found_in_one_pass", "[statistics]") {
    LatencyHistogram histogram;
    for (int i = 1; i <= 1000; i++) histogram.add(i * kMillisecond);
    constexpr double fractions[] = {0.0, 0.5, 0.95, 0.99, 1.0};
    double ms[5];
    histogram.percentiles(fractions, ms, 5);
    CHECK(ms[1] == Approx(500).epsilon(0.125));
    CHECK(ms[2] == Approx(950).epsilon(0.125));
    CHECK(ms[3] == Approx(990).epsilon(0.125));
    CHECK(ms[4] >= 1000.0);
    for (int i = 1; i < 5; i++) CHECK(ms[i] >= ms[i - 1]);
}

TEST_CASE("values_out_of_range_fall_into_the_outer_buckets", "[statistics]") {
    LatencyHistogram histogram;
    histogram.add(-5);
    histogram.add(0);
    CHECK(percentile(histogram, 1.0) < 0.001);
    for (int i = 0; i < 10; i++) histogram.add(kNever);
    CHECK(percentile(histogram, 1.0) > to_ms(3600 * kSecond));
}

TEST_CASE("the_mean_of_nothing_is_zero", "[statistics]") { CHECK(RecentMean().ms() == 0.0); }

TEST_CASE("the_mean_is_over_the_last_1000", "[statistics]") {
    RecentMean mean;
    mean.add(2 * kMillisecond);
    mean.add(4 * kMillisecond);
    CHECK(mean.ms() == Approx(3.0));
    for (int i = 0; i < 999; i++) mean.add(4 * kMillisecond);
    CHECK(mean.ms() == Approx(4.0));  // the 2 has just left
    for (int i = 0; i < 500; i++) mean.add(8 * kMillisecond);
    CHECK(mean.ms() == Approx(6.0));
    for (int i = 0; i < 2500; i++) mean.add(0);
    CHECK(mean.ms() == 0.0);
}

TEST_CASE("the_list_of_statistics_names_the_documents_fields", "[statistics]") {
    std::set<std::string> names;
    std::set<std::size_t> offsets;
    for (const auto& info : kStatisticList) {
        names.insert(info.name);
        offsets.insert(info.offset);
        CHECK(std::string(info.meaning).size() > 5);
    }
    CHECK(offsets.size() == std::size(kStatisticList));
    for (const char* name :
         {"total_connections", "idle_connections", "active_connections", "waiting_requests", "total_acquisitions",
          "total_releases", "avg_acquisition_time_ms", "peak_active_connections", "peak_wait_time_ms",
          "pool_created_at", "last_health_check", "last_error_time"})
        CHECK(names.count(name) == 1);
}

TEST_CASE("the_tally_tells_what_was_counted_and_measured", "[statistics]") {
    Tally tally(5 * kSecond);
    Statistics s;
    tally.fill(s, 5 * kSecond);
    CHECK(s.latency_ms < 0);  // no round trip yet
    for (int i = 0; i < 3; i++) tally.acquired();
    tally.released();
    tally.out(2);
    tally.out(1);
    tally.waited(3 * kMillisecond);
    tally.waited(kMillisecond);
    tally.opened();
    tally.closed();
    tally.lost();
    tally.open_failed();
    tally.timed_out();
    tally.rejected();
    tally.round_trip(2 * kMillisecond);
    tally.fill(s, 8 * kSecond);
    CHECK(s.total_acquisitions == 3);
    CHECK(s.total_releases == 1);
    CHECK(s.leases_out == 2);
    CHECK(s.peak_active_connections == 2);
    CHECK(s.peak_wait_time_ms == Approx(3.0));
    CHECK(s.avg_acquisition_time_ms == Approx(2.0));
    CHECK(s.acquisition_p99_ms == Approx(3.0).epsilon(0.13));
    CHECK(s.connections_opened == 1);
    CHECK(s.connections_closed == 1);
    CHECK(s.connections_lost == 1);
    CHECK(s.connection_failures == 1);
    CHECK(s.total_timeouts == 1);
    CHECK(s.total_rejected == 1);
    CHECK(s.latency_ms == Approx(2.0));
    CHECK(s.uptime_ms == Approx(3000.0));
}
