#include "core/decide/leak_watch.hpp"

namespace pqpool {

bool LeakWatch::look(LeaseTerms& lease, Nanos now) {
    if (lease.leak_reported) return false;
    if (lease.leak_at() > now) {
        scan_at_ = std::min(scan_at_, lease.leak_at());
        return false;
    }
    lease.leak_reported = true;
    reported_++;
    return true;
}

}  // namespace pqpool
