#include "core/decide/condemnation.hpp"

#include "core/decide/back_off.hpp"

namespace pqpool {

bool Condemnation::may_close(Nanos opened_at, bool replaceable, Nanos now, Random& random) {
    const bool is_first = last_ == kNoTime || now - last_ >= kMemory;
    last_ = now;
    if (is_first) first_ = next_close_at_ = now;
    if (!replaceable) return false;
    if (opened_at <= first_) return true;
    if (now < next_close_at_) return false;
    next_close_at_ = now + BackOff::demanded_pause(random);
    return true;
}

}  // namespace pqpool
