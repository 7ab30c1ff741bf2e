// What a request ends with that the pool does not serve.
#pragma once

#include "core/decide/pool_machine.hpp"
#include "core/run/last_failure.hpp"
#include "core/run/lease_table.hpp"

namespace pqpool {

// patience: how long the request would have waited. Under the pool's lock.
Error refusal(ErrorKind kind, Nanos patience, const PoolMachine& machine, const LeaseTable& leases,
              const LastFailure& last_failure);

// The same, or for want of memory less than that.
Error refusal_or_less(ErrorKind kind, Nanos patience, const PoolMachine& machine, const LeaseTable& leases,
                      const LastFailure& last_failure) noexcept;

}  // namespace pqpool
