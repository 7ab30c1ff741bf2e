// When the next opening may be tried after one that failed, and how many then go at once.
#pragma once

#include <cstdint>

#include "core/base/clock.hpp"
#include "core/decide/random.hpp"

namespace pqpool {

class BackOff {
  public:
    // As often as a request that waits may have the server tried.
    static Nanos demanded_pause(Random& random) { return kDemanded + jitter(random); }

    // How many may be opened at once to reach min_size.
    std::int64_t at_once() const { return at_once_; }
    bool holds() const { return next_try_at_ != kNever; }  // nothing is opened before due()
    Nanos due() const { return next_try_at_; }
    std::int64_t failures() const { return failures_; }  // in a row
    // Three attempts with no success: the pool will not come to stand.
    bool is_initialization_hopeless() const { return failures_ >= kInitializationAttempts; }

    void tried(Nanos now) { last_try_at_ = now; }
    // An attempt that began at `started_at`. False where it only shared the fate of one that has failed already.
    bool failed(Nanos started_at, bool initializing, Nanos now, Random& random);
    bool failed_since(Nanos time) const { return last_failure_at_ != kNoTime && last_failure_at_ > time; }
    void succeeded(std::int64_t live_before);
    void forget_failures();

    void hold_until(Nanos time) { next_try_at_ = time; }
    void out_of_memory(Nanos now) { hold_until(now + kDemanded); }
    void lift() { next_try_at_ = kNever; }

    // Somebody waits, or asks for the health of a pool without connections: the next attempt is brought forward.
    void demand(Random& random) { bring_forward(kDemanded, random); }
    void watch(Random& random) { bring_forward(kWatched, random); }
    bool may_try_for_watcher(Nanos now) const { return last_try_at_ != kNoTime && now - last_try_at_ >= kWatched; }

  private:
    static constexpr Nanos kShortest = kSecond, kLongest = 16 * kSecond;
    static constexpr Nanos kDemanded = 250 * kMillisecond;
    static constexpr Nanos kWatched = kSecond;
    static constexpr std::int64_t kInitializationAttempts = 3;
    static constexpr Nanos kInitializationPause = 200 * kMillisecond;
    static constexpr std::int64_t kAtOnce = 32;  // bounds what a large pool does to a server that has just come back

    static Nanos jitter(Random& random) { return static_cast<Nanos>(random() * 0.2 * static_cast<double>(kDemanded)); }
    void bring_forward(Nanos pause, Random& random);

    std::int64_t failures_ = 0;
    std::int64_t at_once_ = kAtOnce;  // 1 after a failure, then 2, 4, …
    Nanos last_try_at_ = kNoTime;
    Nanos last_failure_at_ = kNoTime;
    Nanos next_try_at_ = kNever;
};

}  // namespace pqpool
