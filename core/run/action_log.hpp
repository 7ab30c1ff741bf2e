// Tells the log of what the machine decided, by what the pool's tables know of it then. Under the pool's lock.
#pragma once

#include "core/base/options.hpp"
#include "core/decide/pool_machine.hpp"
#include "core/run/event_log.hpp"
#include "core/run/last_failure.hpp"
#include "core/run/seats.hpp"

namespace pqpool {

class ActionLog {
  public:
    ActionLog(EventLog& events, const Options& options, const PoolMachine& machine, const Seats& seats,
              const LastFailure& last_failure)
        : events_(events), options_(options), machine_(machine), seats_(seats), last_failure_(last_failure) {}

    void tell(const Action& action) noexcept;

  private:
    EventLog& events_;
    const Options& options_;
    const PoolMachine& machine_;
    const Seats& seats_;
    const LastFailure& last_failure_;
};

}  // namespace pqpool
