// What the log and the errors say of a pool and its connections.
#include <cstdio>

#include "core/run/pool.hpp"

namespace pqpool {

std::string Pool::seconds_text(Nanos t) {
    char text[32];
    std::snprintf(text, sizeof text, "%.4g", to_seconds(t));
    return text;
}

std::string Pool::name_of_connection(SlotId slot) const {
    return "conn-" + std::to_string(slot.index) + "." + std::to_string(slot.generation);
}

const Connection* Pool::known_connection(SlotId slot) const {
    if (slot.index >= connections_.size()) return nullptr;
    if (connections_[slot.index]) return connections_[slot.index].get();
    const auto lease = lease_of_slot_[slot.index];
    return lease == UINT32_MAX ? nullptr : leases_.at(lease).connection.get();
}

std::string Pool::label(SlotId slot, const Connection* connection) const {
    if (!connection) connection = known_connection(slot);
    return name_of_connection(slot) + " (" +
           (connection ? "server process " + std::to_string(connection->backend_pid()) + ", " : "") + "pool " + name_ +
           ")";
}

LogContext Pool::about(SlotId slot, const Connection* connection) const {
    if (!connection) connection = known_connection(slot);
    LogContext context;
    context.add("connection_id", name_of_connection(slot));
    if (connection) context.add("backend_pid", std::int64_t{connection->backend_pid()});
    return context;
}

void Pool::add_log(LogLevel level, std::string message, LogContext context, LeaseHandle subject) {
    if (log_.is_enabled(level)) lines_.push_back({level, std::move(message), std::move(context), subject});
}

void Pool::log_action(const Action& action) {
    using Kind = Action::Kind;
    const std::string available =
        std::to_string(machine_.live()) + "/" + std::to_string(machine_.max_size()) + " connections available";
    LogContext context;
    if (action.slot.valid()) context = about(action.slot);
    LeaseHandle subject = 0;
    if (action.slot.valid() && action.slot.index < lease_of_slot_.size() &&
        lease_of_slot_[action.slot.index] != UINT32_MAX)
        subject = leases_.at(lease_of_slot_[action.slot.index]).handle.load(std::memory_order_relaxed);
    switch (action.kind) {
        case Kind::initialized:
            add_log(LogLevel::info, "Connection pool initialized: " + available,
                    context.add("min_size", options_.min_size).add("max_size", machine_.max_size()));
            break;
        case Kind::init_failed:
            add_log(LogLevel::error,
                    "Connection pool initialization failed: " + (init_error_ ? init_error_->message : "out of memory"),
                    context);
            break;
        case Kind::log_recovered:
            add_log(LogLevel::info, "Connection pool recovered: " + available, context);
            break;
        case Kind::log_unhealthy:
            add_log(LogLevel::error,
                    "Connection pool unhealthy: " + available + "; reconnecting. Check that PostgreSQL is running",
                    context.add("last_error", last_error_));
            break;
        case Kind::log_retry:
            add_log(LogLevel::warning,
                    "Reconnection attempt " + std::to_string(action.count) + " failed; the next follows in " +
                        seconds_text(action.duration) + " s",
                    context.add("attempt", action.count)
                        .add("next_attempt_seconds", to_seconds(action.duration))
                        .add("error", last_error_));
            break;
        case Kind::log_lost:
            add_log(LogLevel::warning, "Connection lost: " + label(action.slot) + ": " + last_error_,
                    context.add("reason", last_error_), subject);
            break;
        case Kind::log_leak:
            if (subject) {
                const Lease& lease = *leases_.find(subject);
                context.add("lease", static_cast<std::int64_t>(subject))
                    .add("tag", lease.tag)
                    .add("last_statement", lease.last_statement.get());
            }
            add_log(LogLevel::warning, "Potential connection leak detected: " + label(action.slot),
                    context.add("held_duration_seconds", to_seconds(action.duration)), subject);
            break;
        case Kind::abort:
            add_log(LogLevel::warning,
                    "Connection closed by force: " + label(action.slot) +
                        ": its lease was not released within the shutdown's timeout",
                    context.add("reason", "shutdown").add("held_duration_seconds", to_seconds(action.duration)),
                    subject);
            break;
        case Kind::close:
            add_log(action.reason == CloseReason::shutdown ? LogLevel::debug : LogLevel::info,
                    action.reason == CloseReason::shutdown
                        ? "Connection closed"
                        : "Connection recycled: " + label(action.slot) + ": " + text_of(action.reason),
                    context.add("reason", text_of(action.reason)));
            break;
        default:
            break;
    }
}

Error Pool::initialization_error(std::string_view sqlstate) const {
    return {ErrorKind::initialization,
            "could not open the pool's connections to " + plan_.describe() + ": " + last_error_ +
                ". Suggestion: " + last_cure_,
            sqlstate};
}

void Pool::note_loss(std::string message) {
    last_error_ = std::move(message);
    last_cure_ = "find out from the server's log why it ends sessions";
    if (machine_.state() == PoolState::initializing) init_error_.emplace(initialization_error({}));
}

}  // namespace pqpool
