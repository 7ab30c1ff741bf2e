#include "core/decide/probation.hpp"

namespace pqpool {

void Probation::suspect(Nanos now) {
    if (ends_since_ == kNoTime) ends_since_ = now;
}

Probation::Verdict Probation::ended(const Slot::Life& life, Nanos now) {
    const bool is_successor = ends_since_ != kNoTime && life.opened_at > ends_since_;
    if (!is_successor) {
        suspect(now);
        return Verdict::replace;
    }
    if (life.ended_at - life.opened_at < kTerm) {
        count_early_end();
        return dying_ ? Verdict::fail : Verdict::replace;
    }
    const bool was_dying = dying_;
    trust();
    ends_since_ = now;  // it is an end itself
    return was_dying ? Verdict::trust : Verdict::replace;
}

void Probation::failed_after_admission() {
    if (ends_since_ != kNoTime) count_early_end();
}

void Probation::trust() {
    dying_ = false;
    ends_since_ = kNoTime;
    early_ends_ = 0;
}

}  // namespace pqpool
