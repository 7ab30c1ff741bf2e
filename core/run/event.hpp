// What happens to a pool and its connections that somebody outside may want to hear of: facts, without words.
#pragma once

#include <cstdint>
#include <string>
#include <variant>

#include "core/decide/action.hpp"
#include "core/run/lease.hpp"
#include "core/run/log.hpp"

namespace pqpool {

// kLevel: from which level of the log on the event is wanted.
namespace event {

// Which connection, for all time.
struct About {
    SlotId slot;
    int backend_pid = 0;    // 0: not known
    LeaseHandle lease = 0;  // 0: none has it
};

struct Initialized {
    static constexpr auto kLevel = LogLevel::info;
    std::int64_t live, min_size, max_size;
};
struct InitializationFailed {
    static constexpr auto kLevel = LogLevel::error;
    std::string error;
};
struct ShuttingDown {
    static constexpr auto kLevel = LogLevel::info;
    std::int64_t leases_out;
    Nanos timeout;  // negative: none
};
struct Terminated {
    static constexpr auto kLevel = LogLevel::info;
};

struct Unhealthy {
    static constexpr auto kLevel = LogLevel::error;
    std::int64_t live, max_size;
    std::string error;
};
struct AttemptFailed {
    static constexpr auto kLevel = LogLevel::warning;
    std::int64_t number;
    Nanos pause;  // before the next one
    std::string error;
};
struct Recovered {
    static constexpr auto kLevel = LogLevel::info;
    std::int64_t live, max_size;
};

struct Opened {
    static constexpr auto kLevel = LogLevel::debug;
    About about;
};
struct PoolerFound {
    static constexpr auto kLevel = LogLevel::info;
    About about;
};
struct Acquired {
    static constexpr auto kLevel = LogLevel::debug;
    About about;
    std::int64_t active, idle;
};
struct Released {
    static constexpr auto kLevel = LogLevel::debug;
    About about;
    Nanos held;
};
struct LeakSuspected {
    static constexpr auto kLevel = LogLevel::warning;
    About about;
    Nanos held;
    std::string tag, last_statement;
};
struct Lost {
    static constexpr auto kLevel = LogLevel::warning;
    About about;
    std::string reason;
};
struct CheckFailed {  // the pool's own, of an idle connection
    static constexpr auto kLevel = LogLevel::warning;
    About about;
    std::string reason;
};
struct Replaced {  // found dead before the lease's first statement ran
    static constexpr auto kLevel = LogLevel::warning;
    About about;
    std::string reason;
};
struct LostInValidation {
    static constexpr auto kLevel = LogLevel::warning;
    About about;
    std::string reason;
};
struct BrokenByShutdown {
    static constexpr auto kLevel = LogLevel::warning;
    About about;
    Nanos held;
};
struct Recycled {
    static constexpr auto kLevel = LogLevel::info;
    About about;
    CloseReason reason;
};
struct ClosedByShutdown {
    static constexpr auto kLevel = LogLevel::debug;
    About about;
};

struct TroubleInBackground {
    static constexpr auto kLevel = LogLevel::error;
    std::string error;
};

}  // namespace event

inline event::About about(const Lease& lease) {
    return {lease.slot, lease.connection ? lease.connection->backend_pid() : 0, lease.number};
}

using Event = std::variant<event::Initialized, event::InitializationFailed, event::ShuttingDown, event::Terminated,
                           event::Unhealthy, event::AttemptFailed, event::Recovered, event::Opened, event::PoolerFound,
                           event::Acquired, event::Released, event::LeakSuspected, event::Lost, event::CheckFailed,
                           event::Replaced, event::LostInValidation, event::BrokenByShutdown, event::Recycled,
                           event::ClosedByShutdown, event::TroubleInBackground>;

}  // namespace pqpool
