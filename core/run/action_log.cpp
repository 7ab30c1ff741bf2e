#include "core/run/action_log.hpp"

namespace pqpool {

void ActionLog::tell(const Action& action) noexcept {
    using Kind = Action::Kind;
    const auto slot = action.slot;
    switch (action.kind) {
        case Kind::initialized:
            events_.tell([&] { return event::Initialized{machine_.live(), options_.min_size, machine_.max_size()}; });
            break;
        case Kind::init_failed:
            events_.tell([&] {
                const auto& failed = last_failure_.of_initialization();
                return event::InitializationFailed{failed ? failed->message : "out of memory"};
            });
            break;
        case Kind::log_recovered:
            events_.tell([&] { return event::Recovered{machine_.live(), machine_.max_size()}; });
            break;
        case Kind::log_unhealthy:
            events_.tell([&] {
                return event::Unhealthy{machine_.live(), machine_.max_size(), last_failure_.message()};
            });
            break;
        case Kind::log_retry:
            events_.tell([&] { return event::AttemptFailed{action.count, action.duration, last_failure_.message()}; });
            break;
        case Kind::log_lost:
            events_.tell([&] { return event::Lost{seats_.about(slot), last_failure_.message()}; });
            break;
        case Kind::log_leak:
            events_.tell([&] {
                const Lease* lease = seats_.find(slot)->lease;
                return event::LeakSuspected{seats_.about(slot), action.duration, lease ? lease->tag : "",
                                            lease ? lease->last_statement.get() : ""};
            });
            break;
        case Kind::abort:
            events_.tell([&] { return event::BrokenByShutdown{seats_.about(slot), action.duration}; });
            break;
        case Kind::close:
            if (action.reason == CloseReason::shutdown)
                events_.tell([&] { return event::ClosedByShutdown{seats_.about(slot)}; });
            else
                events_.tell([&] { return event::Recycled{seats_.about(slot), action.reason}; });
            break;
        default:
            break;
    }
}

}  // namespace pqpool
