// How many connections the pool has, and when: growth, recycling, shutdown. Failures: pool_machine_outage.cpp.
#include <algorithm>
#include <new>

#include "core/decide/pool_machine.hpp"

namespace pqpool {

double PoolMachine::random() {  // in [0, 1), xorshift64*
    random_ ^= random_ >> 12;
    random_ ^= random_ << 25;
    random_ ^= random_ >> 27;
    return static_cast<double>((random_ * 0x2545F4914F6CDD1DULL) >> 11) * 0x1.0p-53;
}

void PoolMachine::start(Nanos now) { fill(now); }

std::int64_t PoolMachine::room() const {
    return config_.max_size - (idle_ + leased_ + opening_ - stuck_ + checking_ + cleaning_ - over_grace_);
}

// watched: somebody asked for the health of a pool that has no connection.
void PoolMachine::fill(Nanos now, bool watched) {
    if (!accepts() || next_try_at_ != kNever) return;
    const auto waiting = paused_ ? 0 : waiters_.size();
    if (waiting == 0) growth_at_once_ = 1;
    // Beside an opening that hangs another may go, where somebody needs it.
    const bool beside = stuck_ > 0 && (waiting > 0 || watched || state_ == PoolState::initializing);
    const std::int64_t under_way = beside ? opening_ - stuck_ : opening_;
    const std::int64_t missing = config_.min_size - (live() - waning_ + under_way);
    const std::int64_t growth = std::min(waiting, growth_at_once_) - under_way;
    // One tries whether the server is there, then the rest follow.
    const bool probing = (live() == 0 && state_ != PoolState::initializing) || dying_ || beside;
    const std::int64_t at_once = probing ? 1 : fill_at_once_;
    const std::int64_t count = std::min({std::max(missing, growth), room(), at_once - under_way});
    try {
        for (std::int64_t i = 0; i < count; i++) {
            if (beside) give_up_one_stuck();
            open_one(now);
        }
    } catch (const std::bad_alloc&) {
        next_try_at_ = now + kDemandedRetry;
    }
}

// Throws for want of memory, with nothing begun.
void PoolMachine::open_one(Nanos now) {
    std::uint32_t index;
    if (free_.empty()) {
        index = static_cast<std::uint32_t>(slots_.size());
        make_room(slots_.size() + 1, static_cast<std::size_t>(waiters_.size()));
        slots_.emplace_back();
    } else {
        index = free_.back();
        free_.pop_back();
    }
    Slot& slot = slots_[index];
    slot = Slot{.state = SlotState::opening, .generation = slot.generation, .started_at = now};
    if (opening_ == stuck_) stuck_at_ = kNever;
    opening_++;
    last_try_at_ = now;
    stuck_at_ = std::min(stuck_at_, now + stuck_after());
    emit(Action::Kind::open).slot = id_of(index);
}

void PoolMachine::checked(SlotId id, bool alive, Nanos round_trip, Nanos now) {
    Slot* slot = find(id);
    if (!slot || slot->state != SlotState::checking) return;
    let_go(*slot);
    if (alive) {
        last_round_trip_ = round_trip;
        slot->checked_at = now;
        const Nanos idle_since = slot->idle_since;
        put_back(id.index, now);
        if (slot->state == SlotState::idle) slot->idle_since = idle_since;
    } else {
        lost_++;
        note_error(now);
        emit(Action::Kind::log_lost).slot = id;
        slot->ended_at = now;
        const Slot ended = *slot;
        close_slot(id.index, CloseReason::lost);
        note_end(ended, now);
    }
    settle(now);
}

// The pool does something itself with a connection: it checks it, or cleans it after a lease.
void PoolMachine::take_in_hand(Slot& slot, SlotState state, Nanos now) {
    slot.state = state;
    slot.in_hand_since = now;
    (state == SlotState::cleaning ? cleaning_ : checking_)++;
    maintenance_at_ = std::min(maintenance_at_, now + kGrace);
}

void PoolMachine::let_go(Slot& slot) {
    (slot.state == SlotState::cleaning ? cleaning_ : checking_)--;
    if (slot.overdue) over_grace_--;
    slot.overdue = false;
    slot.state = SlotState::held;
}

void PoolMachine::wane(Slot& slot) {
    if (slot.waning || slot.lost) return;
    slot.waning = true;
    waning_++;
}

void PoolMachine::unwane(Slot& slot) {
    if (!slot.waning) return;
    slot.waning = false;
    waning_--;
}

// The slot's connection goes, whatever it was doing. The slot must not stand on the shelf.
void PoolMachine::close_slot(std::uint32_t index, CloseReason reason) {
    Slot& slot = slots_[index];
    if (slot.state == SlotState::leased) leased_--;
    if (slot.state == SlotState::opening) {
        opening_--;
        if (slot.overdue) stuck_--;
    } else {
        closed_++;
    }
    if (slot.state == SlotState::cleaning || slot.state == SlotState::checking) let_go(slot);
    Action& close = emit(Action::Kind::close);
    close.slot = id_of(index);
    close.reason = reason;
    free_slot(index);
}

void PoolMachine::free_slot(std::uint32_t index) {
    Slot& slot = slots_[index];
    unwane(slot);
    if (slot.lost) lost_leased_--;
    if (slot.leak_reported) leaks_out_--;
    slot = Slot{.generation = slot.generation + 1};
    free_.push_back(index);
}

void PoolMachine::settle(Nanos now) {
    serve_waiters(now);
    demand_retry();
    fill(now);
    update_state(now);
    finish_shutdown();
}

void PoolMachine::maintain(Nanos now) {
    Nanos next = kNever;
    maintenance_at_ = kNever;
    for (std::uint32_t i = 0; i < slots_.size(); i++) {
        Slot& slot = slots_[i];
        switch (slot.state) {
            case SlotState::idle:
                next = std::min(next, look_at_idle(i, now));
                break;
            case SlotState::leased:
                if (slot.retire_at - kWaningTime <= now)
                    wane(slot);
                else
                    next = std::min(next, slot.retire_at - kWaningTime);
                break;
            case SlotState::cleaning:
            case SlotState::checking:
                if (slot.overdue) break;
                if (slot.in_hand_since + kGrace <= now) {
                    slot.overdue = true;
                    over_grace_++;
                } else {
                    next = std::min(next, slot.in_hand_since + kGrace);
                }
                break;
            default:
                break;
        }
    }
    maintenance_at_ = std::min(maintenance_at_, next);
    settle(now);
}

// What is due for an idle connection is done; returns when to look again.
Nanos PoolMachine::look_at_idle(std::uint32_t index, Nanos now) {
    Slot& slot = slots_[index];
    // A waning connection does not stand for another: where its successor makes one too many, the waning one goes.
    const bool above_min = idle_ + leased_ - (slot.waning ? 0 : waning_) > config_.min_size;
    CloseReason reason = expired(slot, now);
    if (reason == CloseReason::none && above_min && slot.idle_since + config_.max_idle_time <= now)
        reason = CloseReason::max_idle_time;
    if (reason != CloseReason::none) {
        unshelve(index);
        close_slot(index, reason);
        return kNever;
    }
    Nanos next = slot.retire_at;
    if (slot.retire_at - kWaningTime <= now)
        wane(slot);
    else
        next = slot.retire_at - kWaningTime;
    if (above_min) next = std::min(next, slot.idle_since + config_.max_idle_time);
    if (config_.keepalive == kNever) return next;
    const Nanos check_at = std::max(slot.idle_since, slot.checked_at) + config_.keepalive;
    if (check_at > now) return std::min(next, check_at);
    unshelve(index);
    take_in_hand(slot, SlotState::checking, now);
    emit(Action::Kind::check).slot = id_of(index);
    return next;
}

void PoolMachine::tick(Nanos now) {
    expire_waiters(now);
    if (leak_scan_at_ <= now) report_leaks(now);
    if (maintenance_at_ <= now) maintain(now);
    if (opening_ > stuck_ && stuck_at_ <= now) find_stuck(now);
    if (next_try_at_ <= now) {
        next_try_at_ = kNever;
        if (dying_ && is_calm(now)) trust();
        settle(now);
    }
    if (shutdown_at_ <= now) {
        for (std::uint32_t i = 0; i < slots_.size(); i++) {
            if (slots_[i].state != SlotState::leased) continue;
            Action& abort = emit(Action::Kind::abort);
            abort.slot = id_of(i);
            abort.duration = now - slots_[i].leased_at;
            leased_--;
            closed_++;
            free_slot(i);
        }
        finish_shutdown();
    }
}

void PoolMachine::resize(std::int64_t min_size, std::int64_t max_size, Nanos now) {
    config_.min_size = min_size;
    config_.max_size = max_size;
    while (oldest_idle_ != kNone && room() < 0) {
        const auto index = oldest_idle_;
        unshelve(index);
        close_slot(index, CloseReason::surplus);
    }
    maintenance_at_ = std::min(maintenance_at_, now + config_.max_idle_time);
    settle(now);
}

void PoolMachine::drain(Nanos now) {
    for (std::uint32_t i = 0; i < slots_.size(); i++) {
        if (slots_[i].state == SlotState::idle) {
            unshelve(i);
            close_slot(i, CloseReason::drained);
        } else if (slots_[i].state == SlotState::leased || slots_[i].state == SlotState::cleaning ||
                   slots_[i].state == SlotState::checking) {
            slots_[i].condemned = CloseReason::drained;
        }
    }
    settle(now);
}

void PoolMachine::pause(Nanos) { paused_ = true; }

void PoolMachine::resume(Nanos now) {
    paused_ = false;
    settle(now);
}

void PoolMachine::close_all_but_leased(CloseReason reason) {
    for (std::uint32_t i = 0; i < slots_.size(); i++) {
        const SlotState state = slots_[i].state;
        if (state == SlotState::free || state == SlotState::leased) continue;
        if (state == SlotState::idle) unshelve(i);
        close_slot(i, reason);
    }
}

void PoolMachine::shutdown(Nanos deadline) {
    if (state_ == PoolState::terminated) return;
    const bool first = accepts();
    state_ = PoolState::shutting_down;
    shutdown_at_ = std::min(shutdown_at_, deadline);
    if (!first) return;
    next_try_at_ = maintenance_at_ = leak_scan_at_ = stuck_at_ = kNever;
    fail_all_waiters(ErrorKind::closed);
    close_all_but_leased(CloseReason::shutdown);
    finish_shutdown();
}

// Ends a shutdown that has nothing left to wait for.
void PoolMachine::finish_shutdown() {
    if (leased_ > 0 || state_ != PoolState::shutting_down) return;
    state_ = PoolState::terminated;
    shutdown_at_ = kNever;
    emit(Action::Kind::terminated);
}

}  // namespace pqpool
