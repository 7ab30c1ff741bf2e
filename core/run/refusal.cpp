#include "core/run/refusal.hpp"

#include <cinttypes>
#include <cstdio>

#include "core/base/text.hpp"

namespace pqpool {

namespace {

std::string counts_of(const Statistics& s, std::int64_t max_size) {
    char counts[160];
    std::snprintf(counts, sizeof counts,
                  "total %" PRId64 ", active %" PRId64 ", idle %" PRId64 ", waiting %" PRId64 ", max_size %" PRId64,
                  s.total_connections, s.active_connections, s.idle_connections, s.waiting_requests, max_size);
    return counts;
}

std::string held_longest(const std::vector<Holder>& holders) {
    std::string text;
    for (std::size_t i = 0; i < holders.size() && i < 3; i++) {
        const Holder& holder = holders[i];
        text += i == 0 ? ". Held longest: " : "; ";
        text += (holder.tag.empty() ? "lease " + std::to_string(holder.lease) : holder.tag) + " for " +
                rounded_seconds(holder.held_seconds) + " s";
        if (!holder.last_statement.empty()) text += " (last statement: " + holder.last_statement + ")";
    }
    return text;
}

}  // namespace

Error refusal(ErrorKind kind, Nanos patience, const PoolMachine& machine, const LeaseTable& leases,
              const LastFailure& last_failure) {
    if (const auto& failed = last_failure.of_initialization(); failed && kind == ErrorKind::initialization)
        return *failed;
    const Nanos now = monotonic_now();
    Statistics s;
    machine.fill_statistics(s, now, 0);
    const std::string counts = counts_of(s, machine.max_size());
    switch (kind) {
        case ErrorKind::timeout: {
            const std::string message = "no connection became free within the timeout of " +
                                        rounded_seconds(to_seconds(patience)) + " seconds (" + counts + ")";
            if (s.live_connections == 0 && !last_failure.message().empty())
                return {kind, message + ". The server is not reachable: " + last_failure.message() +
                                  ". Suggestion: " + last_failure.cure()};
            return {kind, message + held_longest(leases.holders(now)) +
                              ". Suggestion: Increase POOL_MAX_SIZE, shorten what is done on a connection, or look for "
                              "leases that are not released"};
        }
        case ErrorKind::too_many_requests:
            return {kind, "the pool's queue is full: max_waiting requests are waiting already (" + counts +
                              "). Suggestion: Increase POOL_MAX_WAITING or shed load earlier"};
        case ErrorKind::closed:
            return {kind, std::string("the pool is ") +
                              (machine.state() == PoolState::terminated ? "closed" : "shutting down") +
                              ". Suggestion: open a new pool"};
        case ErrorKind::cancelled:
            return {kind, "the request was cancelled"};
        default:
            return {kind, "the request could not be served"};
    }
}

Error refusal_or_less(ErrorKind kind, Nanos patience, const PoolMachine& machine, const LeaseTable& leases,
                      const LastFailure& last_failure) noexcept {
    try {
        return refusal(kind, patience, machine, leases, last_failure);
    } catch (const std::bad_alloc&) {
        return error_of(kind, "out of memory");
    }
}

}  // namespace pqpool
