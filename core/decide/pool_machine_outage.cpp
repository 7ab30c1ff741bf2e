// Failures: openings that fail, hang, or give connections that do not last; when to try again, and when the pool is
// well.
#include <algorithm>
#include <utility>

#include "core/decide/pool_machine.hpp"

namespace pqpool {

namespace {

constexpr Nanos kLongestBackoff = 16 * kSecond;
constexpr Nanos kWatchedRetry = kSecond;  // while somebody asks for the health of a pool that has no connection
constexpr int kInitializationAttempts = 3;
constexpr Nanos kInitializationPause = 200 * kMillisecond;
// A connection has proved itself when it has stood for so long. That it has served says little: sessions may end as
// soon as they are idle.
constexpr Nanos kProbation = kSecond;
// So many that have not may end before that is taken for the server's habit: a few may be an administrator's doing.
constexpr int kEarlyEnds = 8;
// After this long, or twice as long as the last opening took, another opening may go beside one that has no answer.
constexpr Nanos kStuck = 750 * kMillisecond;
constexpr Nanos kUsualConnect = kSecond;  // at most
constexpr std::int64_t kStuckAtOnce = 4;
constexpr Nanos kCondemnedMemory = 60 * kSecond;

}  // namespace

bool PoolMachine::opened(SlotId id, Nanos round_trip, Nanos now) {
    Slot* slot = find(id);
    if (!slot || slot->state != SlotState::opening) return false;
    slot->state = SlotState::held;
    opening_--;
    if (std::exchange(slot->overdue, false)) {
        stuck_--;
        if (room() <= 0) give_up_newest_opening();  // the one beside it, which has its place
    } else {
        give_up_all_stuck();
    }
    opened_++;
    slot->opened_at = now;
    usual_connect_ = std::min(now - slot->started_at, kUsualConnect);
    if (dying_) {
        next_try_at_ = now + kProbation;
    } else {
        fill_at_once_ = live() == 0 ? kFillAtOnce : std::min(2 * fill_at_once_, kFillAtOnce);
        failures_ = 0;
        next_try_at_ = kNever;
    }
    last_round_trip_ = round_trip;
    slot->checked_at = now;
    // Less up to 5 %, so that connections opened together do not all end together.
    slot->retire_at = now + static_cast<Nanos>(static_cast<double>(config_.max_lifetime) * (1.0 - 0.05 * random()));
    put_back(id.index, now);
    serve_waiters(now);
    growth_at_once_ = waiters_.empty() ? 1 : std::min(growth_at_once_ + 1, kGrowthAtOnce);
    settle(now);
    return true;
}

void PoolMachine::open_failed(SlotId id, bool final, Nanos now, bool admitted) {
    Slot* slot = find(id);
    if (!slot || slot->state != SlotState::opening) return;
    const Nanos started_at = slot->started_at;
    opening_--;
    if (slot->overdue) stuck_--;
    open_failures_++;
    free_slot(id.index);
    note_error(now);
    if (admitted && ends_since_ != kNoTime) note_early_end();
    failed(started_at, final, now);
    update_state(now);
}

void PoolMachine::failed(Nanos started_at, bool final, Nanos now) {
    back_off(started_at, now);
    if (state_ == PoolState::initializing && (final || failures_ >= kInitializationAttempts)) give_up_initialization();
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
        fill_at_once_ = 1;
        pause = std::min(kLongestBackoff, kSecond << std::min<std::int64_t>(failures_ - 1, 4));
        pause = static_cast<Nanos>(static_cast<double>(pause) * (0.9 + 0.2 * random()));
    }
    next_try_at_ = now + pause;
    demand_retry();
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

void PoolMachine::demand_retry() {
    if (!waiters_.empty()) bring_retry_forward(last_try_at_ + kDemandedRetry);
}

void PoolMachine::give_up_initialization() {
    state_ = PoolState::terminated;
    next_try_at_ = maintenance_at_ = leak_scan_at_ = stuck_at_ = kNever;
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
    slot->ended_at = now;
    if (idle) {
        const Slot ended = *slot;
        unshelve(id.index);
        close_slot(id.index, CloseReason::lost);
        note_end(ended, now);
    } else {
        unwane(*slot);  // it no longer counts as live, so its successor is not asked for twice
        slot->lost = true;
        lost_leased_++;
        if (ends_since_ == kNoTime) ends_since_ = now;  // whether it had proved itself, its lease will tell
    }
    settle(now);
}

// A connection ended before its time.
void PoolMachine::note_end(const Slot& ended, Nanos now) {
    if (!accepts()) return;
    const bool succeeded_another = ends_since_ != kNoTime && ended.opened_at > ends_since_;
    const bool proved = ended.ended_at - ended.opened_at >= kProbation;
    if (succeeded_another && !proved) {
        note_early_end();
        return dying_ ? failed(ended.started_at, false, now) : void();
    }
    if (succeeded_another && dying_) trust();
    if (!succeeded_another && ends_since_ != kNoTime) return;
    ends_since_ = now;
    early_ends_ = 0;
}

void PoolMachine::note_early_end() { dying_ |= ++early_ends_ > kEarlyEnds; }

void PoolMachine::trust() {
    dying_ = false;
    ends_since_ = kNoTime;
    early_ends_ = 0;
    failures_ = 0;
    fill_at_once_ = kFillAtOnce;
    next_try_at_ = kNever;
}

// Whether one that was opened since connections began to end stands yet, or none is missed.
bool PoolMachine::is_calm(Nanos now) const {
    if (live() >= config_.min_size && now - last_failure_at_ >= kProbation) return true;
    return std::any_of(slots_.begin(), slots_.end(), [&](const Slot& slot) {
        return slot.state != SlotState::free && slot.state != SlotState::opening && !slot.lost && !slot.overdue &&
               slot.opened_at > ends_since_ && now - slot.opened_at >= kProbation;
    });
}

// A connection whose server refuses to serve on is replaced, unless there is reason to think that another one would be
// no better: then it serves what it can, and one after the other is replaced, as often as a request may try.
bool PoolMachine::may_close_condemned(const Slot& slot, Nanos now) {
    const bool first = last_condemned_ == kNoTime || now - last_condemned_ >= kCondemnedMemory;
    last_condemned_ = now;
    if (next_try_at_ != kNever) return false;  // nothing would take its place
    if (first) condemned_since_ = next_condemned_at_ = now;
    if (slot.opened_at <= condemned_since_) return true;
    if (now < next_condemned_at_) return false;
    next_condemned_at_ =
        now + kDemandedRetry + static_cast<Nanos>(random() * 0.2 * static_cast<double>(kDemandedRetry));
    return true;
}

Nanos PoolMachine::stuck_after() const { return std::max(kStuck, 2 * usual_connect_); }

void PoolMachine::find_stuck(Nanos now) {
    stuck_at_ = kNever;
    for (Slot& slot : slots_) {
        if (slot.state != SlotState::opening || slot.overdue) continue;
        if (slot.started_at + stuck_after() <= now) {
            slot.overdue = true;
            stuck_++;
        } else {
            stuck_at_ = std::min(stuck_at_, slot.started_at + stuck_after());
        }
    }
    settle(now);
}

// So that a dead host does not collect openings. The oldest is left its whole time, in case the server is but slow; the
// next oldest goes.
void PoolMachine::give_up_one_stuck() {
    if (stuck_ < kStuckAtOnce) return;
    std::uint32_t oldest = kNone, second = kNone;
    for (std::uint32_t i = 0; i < slots_.size(); i++) {
        if (slots_[i].state != SlotState::opening || !slots_[i].overdue) continue;
        const Nanos started_at = slots_[i].started_at;
        if (oldest == kNone || started_at < slots_[oldest].started_at) {
            second = std::exchange(oldest, i);
        } else if (second == kNone || started_at < slots_[second].started_at) {
            second = i;
        }
    }
    close_slot(second, CloseReason::none);
}

void PoolMachine::give_up_newest_opening() {
    std::uint32_t newest = kNone;
    for (std::uint32_t i = 0; i < slots_.size(); i++) {
        if (slots_[i].state != SlotState::opening || slots_[i].overdue) continue;
        if (newest == kNone || slots_[i].started_at > slots_[newest].started_at) newest = i;
    }
    if (newest != kNone) close_slot(newest, CloseReason::none);
}

// A later one has succeeded.
void PoolMachine::give_up_all_stuck() {
    for (std::uint32_t i = 0; stuck_ > 0 && i < slots_.size(); i++)
        if (slots_[i].state == SlotState::opening && slots_[i].overdue) close_slot(i, CloseReason::none);
}

void PoolMachine::update_state(Nanos now) {
    if (!accepts()) return;
    const std::int64_t live = this->live();
    const bool full = live >= config_.min_size;
    const bool well = full && !dying_;
    if (full && dying_ && next_try_at_ == kNever) next_try_at_ = now + kProbation;  // then is_calm() is asked
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
            if (live > 0 && !well) state_ = PoolState::recovering;
            break;
        case PoolState::recovering:
            if (live == 0) state_ = PoolState::unhealthy;
            break;
        default:
            break;
    }
    if (!well) return;
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
    if (live() > 0) return;
    if (next_try_at_ != kNever)
        bring_retry_forward(last_try_at_ + kWatchedRetry);
    else if (last_try_at_ != kNoTime && now - last_try_at_ >= kWatchedRetry)
        fill(now, true);
}

}  // namespace pqpool
