// How many connections the pool has, and when: growth, recycling, reconnection, shutdown.
#include <algorithm>
#include <cmath>
#include <new>

#include "core/pool_machine.hpp"

namespace pqpool {

namespace {

// Opened at once to reach min_size. Bounds what a large pool does to a server that has just come back.
constexpr std::int64_t kFillAtOnce = 32;
// Opened at once because requests wait, at most. A burst of short leases is served by returns long before a slow
// connect ends, so a pool that opened one connection for each waiter would end at max_size after every burst. It begins
// with one, and with one more each time that a connection stands and others still wait.
constexpr std::int64_t kGrowthAtOnce = 3;

constexpr Nanos kLongestBackoff = 16 * kSecond;
constexpr Nanos kDemandedRetry = 250 * kMillisecond;  // while somebody waits
constexpr Nanos kWatchedRetry = kSecond;  // while somebody asks for the health of a pool that has no connection
constexpr int kInitializationAttempts = 3;
constexpr Nanos kInitializationPause = 200 * kMillisecond;

}  // namespace

double PoolMachine::random() {  // in [0, 1), xorshift64*
    random_ ^= random_ >> 12;
    random_ ^= random_ << 25;
    random_ ^= random_ >> 27;
    return static_cast<double>((random_ * 0x2545F4914F6CDD1DULL) >> 11) * 0x1.0p-53;
}

void PoolMachine::start(Nanos now) { fill(now); }

std::int64_t PoolMachine::room() const {
    return config_.max_size - (idle_ + leased_ + opening_ + checking_ + cleaning_ - over_grace_);
}

void PoolMachine::fill(Nanos now) {
    if (!accepts() || next_try_at_ != kNever) return;
    const std::int64_t missing = config_.min_size - (live() - waning_ + opening_);
    const auto waiting = paused_ ? 0 : waiters_.size();
    if (waiting == 0) growth_at_once_ = 1;
    const std::int64_t growth = std::min(waiting, growth_at_once_) - opening_;
    const bool probing =
        live() == 0 &&
        state_ != PoolState::initializing;  // one tries whether the server is there, then the rest follow
    const std::int64_t at_once = probing ? 1 : kFillAtOnce;
    const std::int64_t count = std::min({std::max(missing, growth), room(), at_once - opening_});
    try {
        for (std::int64_t i = 0; i < count; i++) open_one(now);
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
    opening_++;
    last_try_at_ = now;
    emit(Action::Kind::open).slot = id_of(index);
}

bool PoolMachine::opened(SlotId id, Nanos round_trip, Nanos now) {
    Slot* slot = find(id);
    if (!slot || slot->state != SlotState::opening) return false;
    opening_--;
    opened_++;
    failures_ = 0;
    next_try_at_ = kNever;
    last_round_trip_ = round_trip;
    slot->checked_at = now;
    // Less up to 5 %, so that connections opened together do not all end together.
    slot->retire_at = now + static_cast<Nanos>(static_cast<double>(config_.max_lifetime) * (1.0 - 0.05 * random()));
    slot->state = SlotState::held;
    put_back(id.index, now);
    serve_waiters(now);
    growth_at_once_ = waiters_.empty() ? 1 : std::min(growth_at_once_ + 1, kGrowthAtOnce);
    settle(now);
    return true;
}

void PoolMachine::open_failed(SlotId id, bool final, Nanos now) {
    Slot* slot = find(id);
    if (!slot || slot->state != SlotState::opening) return;
    const Nanos started_at = slot->started_at;
    opening_--;
    open_failures_++;
    free_slot(id.index);
    note_error(now);
    back_off(started_at, now);
    if (state_ == PoolState::initializing && (final || failures_ >= kInitializationAttempts))
        return give_up_initialization();
    update_state(now);
}

// Attempts that were under way together count as one.
void PoolMachine::back_off(Nanos started_at, Nanos now) {
    if (last_failure_at_ != kNoTime && started_at <= last_failure_at_) {
        if (next_try_at_ == kNever) next_try_at_ = now + kDemandedRetry;
        return;
    }
    last_failure_at_ = now;
    failures_++;
    Nanos pause = kInitializationPause * failures_;
    if (state_ != PoolState::initializing) {
        pause = std::min(kLongestBackoff, kSecond << std::min<std::int64_t>(failures_ - 1, 4));
        pause = static_cast<Nanos>(static_cast<double>(pause) * (0.9 + 0.2 * random()));
    }
    next_try_at_ = now + pause;
    if (!waiters_.empty()) bring_retry_forward(last_try_at_ + kDemandedRetry);
    Action& retry = emit(Action::Kind::log_retry);
    retry.count = failures_;
    retry.duration =
        std::max<Nanos>(0, next_try_at_ - now);  // a try that took long may have used up the pause before the next
}

void PoolMachine::bring_retry_forward(Nanos earliest) {
    if (next_try_at_ == kNever || state_ == PoolState::initializing) return;
    next_try_at_ =
        std::min(next_try_at_, earliest + static_cast<Nanos>(random() * 0.2 * static_cast<double>(kDemandedRetry)));
}

void PoolMachine::give_up_initialization() {
    state_ = PoolState::terminated;
    next_try_at_ = maintenance_at_ = leak_scan_at_ = kNever;
    fail_all_waiters(ErrorKind::initialization);
    close_all_but_leased(CloseReason::shutdown);
    emit(Action::Kind::init_failed);
}

void PoolMachine::note_error(Nanos now) { last_error_ = now; }

void PoolMachine::lost(SlotId id, Nanos now) {
    Slot* slot = find(id);
    if (!slot || slot->lost) return;
    const bool idle = slot->state == SlotState::idle;
    if (!idle && slot->state != SlotState::leased) return;  // the pool's own work on it will tell
    lost_++;
    if (accepts()) {
        note_error(now);
        emit(Action::Kind::log_lost).slot = id;
    }
    if (idle) {
        unshelve(id.index);
        close_slot(id.index, CloseReason::lost);
    } else {
        unwane(*slot);  // it no longer counts as live, so its successor is not asked for twice
        slot->lost = true;
        lost_leased_++;
    }
    settle(now);
}

void PoolMachine::checked(SlotId id, bool alive, Nanos round_trip, Nanos now) {
    Slot* slot = find(id);
    if (!slot || slot->state != SlotState::checking) return;
    checking_--;
    slot->state = SlotState::held;
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
        close_slot(id.index, CloseReason::lost);
    }
    settle(now);
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
    if (slot.state == SlotState::opening) opening_--;
    if (slot.state == SlotState::checking) checking_--;
    if (slot.state == SlotState::cleaning) {
        cleaning_--;
        if (slot.over_grace) over_grace_--;
    }
    if (slot.state != SlotState::opening) closed_++;
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
    if (!waiters_.empty() && next_try_at_ != kNever) bring_retry_forward(last_try_at_ + kDemandedRetry);
    fill(now);
    update_state(now);
    finish_shutdown();
}

void PoolMachine::update_state(Nanos now) {
    if (!accepts()) return;
    const std::int64_t live = this->live();
    const bool full = live >= config_.min_size;
    switch (state_) {
        case PoolState::initializing:
            if (!full) return;
            state_ = PoolState::healthy;
            emit(Action::Kind::initialized);
            return;
        case PoolState::healthy:
        case PoolState::degraded:
            if (live == 0 || live * 2 < config_.min_size) {
                state_ = PoolState::unhealthy;
                emit(Action::Kind::log_unhealthy);
            } else {
                state_ = live * 5 < config_.min_size * 4 ? PoolState::degraded : PoolState::healthy;
            }
            break;
        case PoolState::unhealthy:
            if (live > 0 && !full) state_ = PoolState::recovering;
            break;
        case PoolState::recovering:
            if (live == 0) state_ = PoolState::unhealthy;
            break;
        default:
            break;
    }
    if (!full) return;
    const bool was_out = state_ == PoolState::unhealthy || state_ == PoolState::recovering;
    const bool error_stands = last_error_ != kNoTime && (last_recovery_ == kNoTime || last_recovery_ <= last_error_);
    if (error_stands) last_recovery_ = now + 1;  // after the error, even in the same instant
    if (was_out) {
        state_ = PoolState::healthy;
        last_slow_ = kNoTime;
        emit(Action::Kind::log_recovered).count = live;
    }
}

void PoolMachine::health_asked(Nanos now) {
    last_health_check_ = now;
    if (next_try_at_ != kNever && live() == 0) bring_retry_forward(last_try_at_ + kWatchedRetry);
}

void PoolMachine::maintain(Nanos now) {
    Nanos next = kNever;
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
                if (slot.over_grace) break;
                if (slot.cleaning_since + kCleaningGrace <= now) {
                    slot.over_grace = true;
                    over_grace_++;
                } else {
                    next = std::min(next, slot.cleaning_since + kCleaningGrace);
                }
                break;
            default:
                break;
        }
    }
    maintenance_at_ = next;
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
    slot.state = SlotState::checking;
    checking_++;
    emit(Action::Kind::check).slot = id_of(index);
    return next;
}

void PoolMachine::tick(Nanos now) {
    expire_waiters(now);
    if (leak_scan_at_ <= now) report_leaks(now);
    if (maintenance_at_ <= now) maintain(now);
    if (next_try_at_ <= now) {
        next_try_at_ = kNever;
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
    next_try_at_ = maintenance_at_ = leak_scan_at_ = kNever;
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
