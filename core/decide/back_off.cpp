#include "core/decide/back_off.hpp"

#include <algorithm>

namespace pqpool {

bool BackOff::failed(Nanos started_at, bool initializing, Nanos now, Random& random) {
    // Attempts that were under way together count as one.
    if (last_failure_at_ != kNoTime && started_at <= last_failure_at_) {
        if (!holds()) hold_until(now + kDemanded);
        return false;
    }
    last_failure_at_ = now;
    failures_++;
    Nanos pause = kInitializationPause * failures_;  // somebody waits for the pool to stand
    if (!initializing) {
        at_once_ = 1;
        // 1, 2, 4, 8, 16, 16, … s; ±10 %, so that the pools of many processes do not come back in step.
        pause = std::min(kLongest, kShortest << std::min<std::int64_t>(failures_ - 1, 4));
        pause = static_cast<Nanos>(static_cast<double>(pause) * (0.9 + 0.2 * random()));
    }
    hold_until(now + pause);
    return true;
}

// A server that is full is not asked for all that is missing at once; one that was gone is, as soon as it is back.
void BackOff::succeeded(std::int64_t live_before) {
    at_once_ = live_before == 0 ? kAtOnce : std::min(2 * at_once_, kAtOnce);
    failures_ = 0;
    lift();
}

void BackOff::forget_failures() {
    at_once_ = kAtOnce;
    failures_ = 0;
    lift();
}

void BackOff::bring_forward(Nanos pause, Random& random) {
    if (holds()) next_try_at_ = std::min(next_try_at_, last_try_at_ + pause + jitter(random));
}

}  // namespace pqpool
