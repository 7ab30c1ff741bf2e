// What is to be done: the decisions' only way out. The caller carries actions out in their order.
#pragma once

#include <cstddef>
#include <vector>

#include "core/base/clock.hpp"
#include "core/base/error.hpp"
#include "core/decide/slot.hpp"

namespace pqpool {

struct Action {
    enum class Kind {
        open,       // open a connection for this slot
        close,      // close the slot's connection (or stop opening it); the slot is gone
        check,      // the pool's own check of an idle connection
        clean,      // cancel, drain and reset after a lease
        grant,      // give the slot to the waiter behind `context`
        fail,       // end the waiter behind `context` with `error`
        abort,      // shutdown's patience is over: break the connection under its lease; the slot is gone
        log_leak,   // held for `duration`
        log_lost,   // a live connection was found dead
        log_retry,  // attempt `count` failed; the next one is due after `duration`
        log_recovered,
        log_unhealthy,
        initialized,  // min_size connections stand for the first time
        init_failed,  // they could not be had; every slot has been closed
        terminated,   // after a shutdown; every slot has been closed or aborted
    };
    Kind kind;
    SlotId slot{};
    void* context = nullptr;
    ErrorKind error = ErrorKind::internal;
    CloseReason reason = CloseReason::none;
    Nanos duration = 0;
    std::int64_t count = 0;
};

// Events must not fail half-way, so the room for all that one can bring forth is made when a slot or a waiter comes,
// where failing is ordinary.
class ActionList {
  public:
    ActionList() { make_room(0, 0); }
    void make_room(std::size_t slots, std::size_t waiters);
    Action& emit(Action::Kind kind) { return pending_.emplace_back(Action{kind}); }
    std::vector<Action>& pending() { return pending_; }
    // Stand until the next call; what is emitted meanwhile comes with that.
    const std::vector<Action>& take();

  private:
    std::vector<Action> pending_, taken_;
};

}  // namespace pqpool
