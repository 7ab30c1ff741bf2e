// The pool's life from its opening through outages to its end: which state it is in, and what each change of it means.
#pragma once

#include <cstdint>

#include "core/base/clock.hpp"
#include "core/decide/health.hpp"

namespace pqpool {

class Lifecycle {
  public:
    PoolState state() const { return state_; }
    bool accepts() const { return state_ != PoolState::shutting_down && state_ != PoolState::terminated; }
    bool is_initializing() const { return state_ == PoolState::initializing; }
    // It serves, and whoever waits waits for its connections, not for the server's return.
    bool serves() const { return state_ == PoolState::healthy || state_ == PoolState::degraded; }

    enum class Change { none, initialized, unhealthy, recovered };
    // live connections of the min_size that there are to be; sessions that die as soon as they open make no recovery.
    Change update(std::int64_t live, std::int64_t min_size, bool dying);

    // Leases have until `deadline`; of several deadlines the earliest holds. False where it had begun.
    bool shut_down(Nanos deadline);
    Nanos aborts_leases_at() const { return abort_at_; }
    // Whether this ended it.
    bool finish_shutdown(std::int64_t out);
    void give_up_initialization() { state_ = PoolState::terminated; }

  private:
    PoolState state_ = PoolState::initializing;
    Nanos abort_at_ = kNever;
};

}  // namespace pqpool
