#include "core/run/blocking.hpp"

#include "core/base/thread_own.hpp"
#include "core/run/operation.hpp"

namespace pqpool::blocking {

namespace {

// Of the round trip that tells libpq where the session stands.
constexpr Nanos kLoanPatience = 5 * kSecond;

// Each thread's own, so that a statement after the first allocates nothing.
Operation& operation_of_thread() { return ThreadOwn<Operation>::get(); }

// The lease is this thread's for the length of one call.
class InUse {
  public:
    InUse(Pool& pool, LeaseHandle handle) : pool_(pool), lease_(begin(pool, handle)) {}
    ~InUse() {
        auto use = Lease::Use::call;
        if (!lease_.use.compare_exchange_strong(use, Lease::Use::none, std::memory_order_release))
            pool_.end_foreign_cancel(lease_);
    }
    InUse(const InUse&) = delete;
    Lease& lease() const { return lease_; }

  private:
    static Lease& begin(Pool& pool, LeaseHandle handle) {
        Lease& lease = pool.find_lease(handle);
        if (lease.queue)
            throw Error(ErrorKind::invalid_argument,
                        "the lease was acquired through a completion queue. Suggestion: use pqpool_execute_async on "
                        "that queue");
        auto use = Lease::Use::none;
        if (!lease.use.compare_exchange_strong(use, Lease::Use::call, std::memory_order_acquire))
            throw Error(ErrorKind::busy,
                        "another statement is under way on this lease. Suggestion: await it, or acquire one lease for "
                        "each concurrent statement");
        if (lease.handle.load(std::memory_order_relaxed) == handle) return lease;
        lease.use.store(Lease::Use::none, std::memory_order_release);
        return pool.find_lease(handle);  // throws: released just now
    }

    Pool& pool_;
    Lease& lease_;
};

// False at the deadline.
bool wait_for(Pool& pool, Operation& operation, Need need) {
    Lease& lease = operation.lease();
    if (need == Need::replacement) {
        Waiting waiting;
        if (!pool.ask_replacement(lease, waiting, operation.deadline())) waiting.wait();
        if (waiting.error) throw *waiting.error;
        return true;
    }
    Connection& connection = *lease.connection;
    if (need == Need::settle && !connection.is_busy()) return connection.wait_until_settled(operation.deadline());
    const std::uint32_t what = Poller::kRead | (need == Need::write ? Poller::kWrite : 0);
    return wait_for_socket(connection.fd(), what, operation.deadline());
}

Result drive(Pool& pool, Operation& operation) {
    for (;;) {
        const Need need = operation.resume();
        if (need == Need::nothing) return operation.take_result();
        try {
            if (!wait_for(pool, operation, need)) {
                Connection& connection = *operation.lease().connection;
                if (!connection.has_cancel()) pool.keeper().send_cancel(connection.make_cancel());
                operation.fail(statement_timeout());
            }
        } catch (...) {
            const Connection* connection = operation.lease().connection.get();
            if (connection && connection->is_busy())
                operation.break_off(error_under_way());
            else
                operation.fail(error_under_way());
            return operation.take_result();
        }
        if (operation.is_done()) return operation.take_result();
    }
}

}  // namespace

void wait_opened(Pool& pool) {
    Waiting waiting;
    waiting.what = Waiting::For::opening;
    pool.ask_opened(waiting);
    waiting.wait();
    if (waiting.error) throw *waiting.error;
}

LeaseHandle acquire(Pool& pool, const AcquireRequest& request) {
    Waiting waiting;
    if (!pool.ask(request, waiting)) waiting.wait();
    if (waiting.error) throw *waiting.error;
    Lease& lease = *waiting.lease;
    const LeaseHandle handle = lease.handle.load(std::memory_order_relaxed);
    if (!pool.checks_before_grant() || !lease.needs_check) return handle;
    try {
        Operation& operation = operation_of_thread();
        operation.begin(lease, false, waiting.deadline);
        const Result result = drive(pool, operation);
        if (!result.error()) return handle;
        if (result.error()->kind == ErrorKind::statement_timeout) throw pool.acquire_timeout(waiting.patience);
        throw *result.error();
    } catch (...) {
        pool.release(handle);
        throw;
    }
}

Result execute(Pool& pool, LeaseHandle handle, std::string_view sql, const Parameter* parameters, std::size_t count,
               ResultFormat format, Nanos timeout) {
    const InUse in_use(pool, handle);
    Lease& lease = in_use.lease();
    Operation& operation = operation_of_thread();
    operation.statement().assign(sql, parameters, count, format);
    operation.begin(lease, true, pool.statement_deadline(timeout));
    Result result = drive(pool, operation);
    if (lease.connection && lease.connection->is_lost())
        pool.note_lost(lease, result.error() && result.error()->kind == ErrorKind::validation);
    if (result.error() && result.error()->kind != ErrorKind::query) throw *result.error();
    return result;
}

Result run(Pool& pool, const AcquireRequest& request, std::string_view sql, const Parameter* parameters,
           std::size_t count, ResultFormat format, Nanos timeout) {
    const LeaseHandle lease = acquire(pool, request);
    try {
        Result result = execute(pool, lease, sql, parameters, count, format, timeout);
        pool.release(lease);
        return result;
    } catch (...) {
        pool.release(lease);
        throw;
    }
}

pg_conn* raw_connection(Pool& pool, LeaseHandle handle) {
    const InUse in_use(pool, handle);
    Lease& lease = in_use.lease();
    Operation& operation = operation_of_thread();
    operation.begin(lease, false, deadline_after(monotonic_now(), lease.patience));
    const Result result = drive(pool, operation);  // the raw connection is validated before anything else
    if (result.error()) throw *result.error();
    lease.is_fresh = false;  // what the caller does on it is not known
    if (pg_conn* raw = lease.connection->lend(kLoanPatience)) return raw;
    throw Error(ErrorKind::connection_lost, "the connection is lost: " + lease.connection->loss_message());
}

}  // namespace pqpool::blocking
