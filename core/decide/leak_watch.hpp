// Leases that are held for long: when to look for them, and how many of those that are out have been reported.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/decide/slot_ledger.hpp"

namespace pqpool {

// One report a lease. The scan is due at the earliest limit of any lease that was out since the last one, so under
// steady load it runs about once per limit, whatever the number of leases in between.
class LeakWatch {
  public:
    Nanos due() const { return scan_at_; }
    std::int64_t reported() const { return reported_; }  // of the leases that are out

    // A lease got a connection, or lost it.
    void begin(const LeaseTerms& lease) {
        if (lease.leak_reported)
            reported_++;
        else
            scan_at_ = std::min(scan_at_, lease.leak_at());
    }
    void end(const LeaseTerms& lease) { reported_ -= lease.leak_reported; }

    void begin_scan() { scan_at_ = kNever; }
    // Whether the lease is to be reported now.
    bool look(LeaseTerms& lease, Nanos now);
    void stop() { scan_at_ = kNever; }

  private:
    Nanos scan_at_ = kNever;
    std::int64_t reported_ = 0;
};

}  // namespace pqpool
