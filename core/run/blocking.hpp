// What blocks the calling thread until the pool has answered: acquires, and statements, which are driven on the lease's
// own socket. The other way to wait is the completion queue.
#pragma once

#include "core/run/pool.hpp"

namespace pqpool::blocking {

void wait_opened(Pool& pool);  // throws Error(initialization), and the pool is terminated then

LeaseHandle acquire(Pool& pool, const AcquireRequest& request);
// timeout: kByOption, or negative for none. The result may hold the server's error; all else is thrown.
Result execute(Pool& pool, LeaseHandle lease, std::string_view sql, const Parameter* parameters, std::size_t count,
               ResultFormat format, Nanos timeout);
// Acquires, executes and releases.
Result run(Pool& pool, const AcquireRequest& request, std::string_view sql, const Parameter* parameters,
           std::size_t count, ResultFormat format, Nanos timeout);
pg_conn* raw_connection(Pool& pool, LeaseHandle lease);

}  // namespace pqpool::blocking
