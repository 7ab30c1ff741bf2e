#include "core/run/event_log.hpp"

#include "core/base/text.hpp"

namespace pqpool {

namespace {

struct Line {
    LogLevel level;
    std::string message;
    LogContext context;
    LeaseHandle subject = 0;
};

class Wording {
  public:
    explicit Wording(const std::string& pool) : pool_(pool) {}

    Line operator()(const event::Initialized& e) const {
        return {e.kLevel, "Connection pool initialized: " + available(e.live, e.max_size),
                LogContext().add("min_size", e.min_size).add("max_size", e.max_size)};
    }
    Line operator()(const event::InitializationFailed& e) const {
        return {e.kLevel, "Connection pool initialization failed: " + e.error, {}};
    }
    Line operator()(const event::ShuttingDown& e) const {
        return {e.kLevel, "Connection pool shutting down",
                LogContext()
                    .add("leases_out", e.leases_out)
                    .add("timeout_seconds", e.timeout < 0 ? -1.0 : to_seconds(e.timeout))};
    }
    Line operator()(const event::Terminated& e) const { return {e.kLevel, "Connection pool terminated", {}}; }

    Line operator()(const event::Unhealthy& e) const {
        return {e.kLevel,
                "Connection pool unhealthy: " + available(e.live, e.max_size) +
                    "; reconnecting. Check that PostgreSQL is running",
                LogContext().add("last_error", e.error)};
    }
    Line operator()(const event::AttemptFailed& e) const {
        return {e.kLevel,
                "Reconnection attempt " + std::to_string(e.number) + " failed; the next follows in " +
                    rounded_seconds(to_seconds(e.pause)) + " s",
                LogContext()
                    .add("attempt", e.number)
                    .add("next_attempt_seconds", to_seconds(e.pause))
                    .add("error", e.error)};
    }
    Line operator()(const event::Recovered& e) const {
        return {e.kLevel, "Connection pool recovered: " + available(e.live, e.max_size), {}};
    }

    Line operator()(const event::Opened& e) const { return line(e, "Connection opened", context(e.about)); }
    Line operator()(const event::PoolerFound& e) const {
        return line(e,
                    "The server's sessions are lent out by a pooler in between; where that is in transaction mode, "
                    "LISTEN, session settings and session locks do not hold",
                    context(e.about));
    }
    Line operator()(const event::Acquired& e) const {
        return line(e, "Connection acquired", context(e.about).add("active", e.active).add("idle", e.idle));
    }
    Line operator()(const event::Released& e) const {
        return line(e, "Connection released", context(e.about).add("held_duration_seconds", to_seconds(e.held)));
    }
    Line operator()(const event::LeakSuspected& e) const {
        LogContext known = context(e.about);
        if (e.about.lease)
            known.add("lease", static_cast<std::int64_t>(e.about.lease))
                .add("tag", e.tag)
                .add("last_statement", e.last_statement);
        return line(e, "Potential connection leak detected: " + label(e.about),
                    known.add("held_duration_seconds", to_seconds(e.held)));
    }
    Line operator()(const event::Lost& e) const { return ended(e, "Connection lost: "); }
    Line operator()(const event::CheckFailed& e) const { return ended(e, "Connection validation failed: "); }
    Line operator()(const event::Replaced& e) const { return ended(e, "Connection validation failed; replacing it: "); }
    Line operator()(const event::LostInValidation& e) const {
        return ended(e,
                     "Connection validation failed; whether the statement behind it was executed is unknown, so it is "
                     "not sent again: ");
    }
    Line operator()(const event::BrokenByShutdown& e) const {
        const std::string message = "Connection closed by force: " + label(e.about) +
                                    ": its lease was not released within the shutdown's timeout";
        return line(e, message,
                    context(e.about).add("reason", "shutdown").add("held_duration_seconds", to_seconds(e.held)));
    }
    Line operator()(const event::Recycled& e) const {
        return line(e, "Connection recycled: " + label(e.about) + ": " + text_of(e.reason),
                    context(e.about).add("reason", text_of(e.reason)));
    }
    Line operator()(const event::ClosedByShutdown& e) const {
        return line(e, "Connection closed", context(e.about).add("reason", text_of(CloseReason::shutdown)));
    }
    Line operator()(const event::TroubleInBackground& e) const {
        return {e.kLevel, "A task in the background failed: " + e.error, {}};
    }

  private:
    template <class E>
    static Line line(const E& e, std::string message, const LogContext& context) {
        return {e.kLevel, std::move(message), context, e.about.lease};
    }
    template <class E>
    Line ended(const E& e, const char* what) const {
        return line(e, what + label(e.about) + ": " + e.reason, context(e.about).add("reason", e.reason));
    }

    static std::string available(std::int64_t live, std::int64_t max_size) {
        return std::to_string(live) + "/" + std::to_string(max_size) + " connections available";
    }
    static std::string name_of(SlotId slot) {
        return "conn-" + std::to_string(slot.index) + "." + std::to_string(slot.generation);
    }
    // What every line about a connection holds.
    static LogContext context(const event::About& about) {
        LogContext context;
        context.add("connection_id", name_of(about.slot));
        if (about.backend_pid) context.add("backend_pid", std::int64_t{about.backend_pid});
        return context;
    }
    // The same in words, for who reads messages only: "conn-1.2 (server process 4711, pool db1:5432/app)".
    std::string label(const event::About& about) const {
        return name_of(about.slot) + " (" +
               (about.backend_pid ? "server process " + std::to_string(about.backend_pid) + ", " : "") + "pool " +
               pool_ + ")";
    }

    const std::string& pool_;
};

}  // namespace

void EventLog::write_all(std::mutex& pools) {
    is_writing_ = true;
    for (std::vector<Event> events; !untold_.empty(); events.clear()) {
        events.swap(untold_);
        pools.unlock();
        for (const Event& event : events)
            best_effort([&] {
                Line line = std::visit(Wording(pool_), event);
                log_.write(line.level, std::move(line.message), line.context, line.subject);
            });
        pools.lock();
    }
    is_writing_ = false;
}

}  // namespace pqpool
