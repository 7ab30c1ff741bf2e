// Leases and those who wait for one. How many connections there are, and when: pool_machine_sizing.cpp.
#include "core/decide/pool_machine.hpp"

#include <algorithm>

namespace pqpool {

const char* text_of(CloseReason reason) {
    switch (reason) {
#define X(name, text)       \
    case CloseReason::name: \
        return text;
        PQPOOL_CLOSE_REASONS(X)
#undef X
    }
    return "";
}

PoolMachine::Config PoolMachine::config_of(const Options& o, std::uint64_t seed) {
    auto or_never = [](double seconds) { return seconds > 0 ? from_seconds(seconds) : kNever; };
    return {
        .min_size = o.min_size,
        .max_size = o.max_size,
        .max_queries = o.max_queries,
        .max_waiting = o.max_waiting,
        .max_idle_time = from_seconds(o.max_idle_time),
        .max_lifetime = from_seconds(o.max_connection_lifetime),
        .leak_limit = o.enable_leak_detection ? or_never(o.leak_detection_timeout) : kNever,
        .keepalive = or_never(o.keepalive_interval),
        .seed = seed,
    };
}

PoolMachine::PoolMachine(const Config& config, Nanos now)
    : config_(config), created_at_(now), fill_at_once_(kFillAtOnce), random_(config.seed | 1) {
    make_room(0, 0);
}

// Events must not fail half-way, so the room for all that one can bring forth is made when a slot or a waiter comes,
// where failing is ordinary. A slot has at most a report, an end, a beginning and an end again; a waiter one answer.
void PoolMachine::make_room(std::size_t slots, std::size_t waiters) {
    const std::size_t wanted = 5 * slots + waiters + 16;
    for (auto* list : {&actions_, &taken_})
        if (list->capacity() < wanted) list->reserve(2 * wanted);
    if (free_.capacity() < slots) free_.reserve(2 * slots);
}

const std::vector<Action>& PoolMachine::take_actions() {
    taken_.clear();
    taken_.swap(actions_);
    return taken_;
}

const PoolMachine::Slot* PoolMachine::find(SlotId id) const {
    if (id.index >= slots_.size()) return nullptr;
    const Slot& slot = slots_[id.index];
    return slot.generation == id.generation && slot.state != SlotState::free ? &slot : nullptr;
}

PoolMachine::Slot* PoolMachine::find(SlotId id) { return const_cast<Slot*>(std::as_const(*this).find(id)); }

AcquireAnswer PoolMachine::acquire(Nanos now, Nanos deadline, Nanos leak_limit, void* context) {
    using Kind = AcquireAnswer::Kind;
    if (!accepts()) return {.kind = Kind::refused, .error = ErrorKind::closed};
    if (!paused_ && waiters_.empty()) {
        if (const auto index = take_idle(now); index != kNone) {
            lease(index, now, leak_limit);
            return {.kind = Kind::granted, .slot = id_of(index)};
        }
    }
    if (deadline <= now) {
        timed_out(now, now);
        return {.kind = Kind::refused, .error = ErrorKind::timeout};
    }
    if (config_.max_waiting > 0 && waiters_.size() >= config_.max_waiting) {
        rejected_++;
        return {.kind = Kind::refused, .error = ErrorKind::too_many_requests};
    }
    make_room(slots_.size(), static_cast<std::size_t>(waiters_.size()) + 1);
    const WaiterId waiter =
        waiters_.push_back({.context = context, .asked_at = now, .deadline = deadline, .leak_limit = leak_limit});
    settle(now);
    return {.kind = Kind::waiting, .waiter = waiter};
}

AcquireAnswer PoolMachine::replace(SlotId dead, Nanos now, Nanos deadline, void* context) {
    using Kind = AcquireAnswer::Kind;
    Slot* slot = find(dead);
    Nanos leased_at = now, leak_limit = kNever;
    bool leak_reported = false;
    if (slot && slot->state == SlotState::leased) {
        leased_at = slot->leased_at;
        if (slot->leak_at != kNever) leak_limit = slot->leak_at - slot->leased_at;
        leak_reported = slot->leak_reported;
        if (!slot->lost) {
            lost(dead, now);
            slot = find(dead);  // the table may have moved
        }
        const Slot ended = *slot;
        close_slot(dead.index, CloseReason::lost);
        note_end(ended, now);
    }
    // The place of the dead one is free, whatever becomes of this lease.
    const auto refuse = [&](ErrorKind error) -> AcquireAnswer {
        settle(now);
        return {.kind = Kind::refused, .error = error};
    };
    if (!accepts()) return refuse(ErrorKind::closed);
    if (const auto index = paused_ ? kNone : take_idle(now); index != kNone) {
        lease(index, leased_at, leak_limit, leak_reported);
        acquisitions_--;
        settle(now);
        return {.kind = Kind::granted, .slot = id_of(index)};
    }
    if (deadline <= now) return refuse(ErrorKind::timeout);
    make_room(slots_.size(), static_cast<std::size_t>(waiters_.size()) + 1);
    const WaiterId waiter = waiters_.push_front({.context = context,
                                                 .asked_at = now,
                                                 .deadline = deadline,
                                                 .leak_limit = leak_limit,
                                                 .leased_at = leased_at,
                                                 .leak_reported = leak_reported});
    settle(now);
    return {.kind = Kind::waiting, .waiter = waiter};
}

// A connection attempt that was made for the waiter goes on: others may need it.
bool PoolMachine::cancel(WaiterId waiter) { return waiters_.remove(waiter); }

void PoolMachine::lease(std::uint32_t index, Nanos leased_at, Nanos leak_limit, bool leak_reported) {
    Slot& slot = slots_[index];
    slot.state = SlotState::leased;
    slot.leased_at = leased_at;
    slot.leak_at = deadline_after(leased_at, leak_limit);
    slot.leak_reported = leak_reported;
    if (leak_reported)
        leaks_out_++;
    else
        leak_scan_at_ = std::min(leak_scan_at_, slot.leak_at);
    peak_leased_ = std::max(peak_leased_, ++leased_);
    acquisitions_++;
}

void PoolMachine::record_wait(Nanos wait) {
    recent_waits_.add(wait);
    waits_.add(wait);
    peak_wait_ = std::max(peak_wait_, wait);
}

void PoolMachine::record_wait_of_waiter(Nanos asked_at, Nanos now) {
    record_wait(now - asked_at);
    if (now - asked_at > kSlowAcquisition) note_slow(asked_at, now);
}

void PoolMachine::timed_out(Nanos asked_at, Nanos now) {
    timeouts_++;
    note_slow(asked_at, now);
}

// Waiting for the server's return says nothing about the pool's size: only waits that began after the last recovery
// count as slow.
void PoolMachine::note_slow(Nanos asked_at, Nanos now) {
    const bool running = state_ == PoolState::healthy || state_ == PoolState::degraded;
    if (running && (last_recovery_ == kNoTime || asked_at > last_recovery_)) last_slow_ = now;
}

// The most recently used connection that has not expired, off the shelf; kNone where there is none.
std::uint32_t PoolMachine::take_idle(Nanos now) {
    while (newest_idle_ != kNone) {
        const std::uint32_t index = newest_idle_;
        unshelve(index);
        const CloseReason reason = expired(slots_[index], now);
        if (reason == CloseReason::none) return index;
        close_slot(index, reason);
    }
    return kNone;
}

void PoolMachine::shelve(std::uint32_t index, Nanos now) {
    Slot& slot = slots_[index];
    slot.state = SlotState::idle;
    slot.idle_since = now;
    slot.older = newest_idle_;
    slot.newer = kNone;
    (newest_idle_ == kNone ? oldest_idle_ : slots_[newest_idle_].newer) = index;
    newest_idle_ = index;
    idle_++;
    maintenance_at_ = std::min(maintenance_at_, slot.waning ? slot.retire_at : slot.retire_at - kWaningTime);
    if (idle_ + leased_ > config_.min_size) maintenance_at_ = std::min(maintenance_at_, now + config_.max_idle_time);
    if (config_.keepalive != kNever)
        maintenance_at_ = std::min(maintenance_at_, std::max(now, slot.checked_at) + config_.keepalive);
}

// Takes the slot off the shelf; its state is the caller's to set at once.
void PoolMachine::unshelve(std::uint32_t index) {
    Slot& slot = slots_[index];
    (slot.newer == kNone ? newest_idle_ : slots_[slot.newer].older) = slot.older;
    (slot.older == kNone ? oldest_idle_ : slots_[slot.older].newer) = slot.newer;
    slot.newer = slot.older = kNone;
    slot.state = SlotState::held;
    idle_--;
}

// Where a connection goes that was in the pool's own hands: to the shelf, unless its time or its place was lost
// meanwhile.
void PoolMachine::put_back(std::uint32_t index, Nanos now) {
    CloseReason reason = expired(slots_[index], now);
    if (reason == CloseReason::none && room() <= 0) reason = CloseReason::surplus;
    if (reason == CloseReason::none)
        shelve(index, now);
    else
        close_slot(index, reason);
}

CloseReason PoolMachine::expired(const Slot& slot, Nanos now) const {
    if (slot.condemned != CloseReason::none) return slot.condemned;
    if (slot.queries >= config_.max_queries) return CloseReason::max_queries;
    if (slot.retire_at <= now) return CloseReason::max_lifetime;
    return CloseReason::none;
}

void PoolMachine::serve_waiters(Nanos now) {
    while (!paused_ && !waiters_.empty()) {
        const auto index = take_idle(now);
        if (index == kNone) return;
        const Waiter waiter = waiters_.pop_front();
        if (waiter.replaces()) {
            lease(index, waiter.leased_at, waiter.leak_limit, waiter.leak_reported);
            acquisitions_--;  // the lease was counted when it was first given out
        } else {
            lease(index, now, waiter.leak_limit);
            record_wait_of_waiter(waiter.asked_at, now);
        }
        Action& grant = emit(Action::Kind::grant);
        grant.slot = id_of(index);
        grant.context = waiter.context;
    }
}

void PoolMachine::released(SlotId id, const ReturnedConnection& condition, Nanos now) {
    Slot* slot = find(id);
    if (!slot || slot->state != SlotState::leased) return released_without_connection();
    releases_++;
    slot->queries = condition.queries;
    if (condition.condemned && !condition.broken && may_close_condemned(*slot, now))
        slot->condemned = CloseReason::condemned;
    if (slot->leak_reported) {
        slot->leak_reported = false;
        leaks_out_--;
    }
    if (condition.broken && !slot->lost) {
        lost(id, now);
        slot = find(id);  // a replacement may have been opened, and the table moved
    }
    CloseReason reason = slot->lost ? CloseReason::lost : expired(*slot, now);
    if (reason == CloseReason::none && room() < 0) reason = CloseReason::surplus;
    if (reason == CloseReason::none && !accepts()) reason = CloseReason::shutdown;
    if (reason != CloseReason::none) {
        const Slot ended = *slot;
        close_slot(id.index, reason);
        if (reason == CloseReason::lost) note_end(ended, now);
        return settle(now);
    }
    leased_--;
    if (slot->queries >= config_.max_queries - config_.max_queries / 20) wane(*slot);
    if (condition.dirty) {
        take_in_hand(*slot, SlotState::cleaning, now);
        emit(Action::Kind::clean).slot = id;
        return settle(now);
    }
    shelve(id.index, now);
    if (!waiters_.empty() || waning_ > 0) settle(now);
}

void PoolMachine::released_without_connection() { releases_++; }

void PoolMachine::cleaned(SlotId id, bool usable, Nanos now) {
    Slot* slot = find(id);
    if (!slot || slot->state != SlotState::cleaning) return;
    let_go(*slot);
    if (usable) {
        put_back(id.index, now);
    } else {
        slot->ended_at = now;
        const Slot ended = *slot;
        close_slot(id.index, CloseReason::not_cleaned);
        note_end(ended, now);
    }
    settle(now);
}

void PoolMachine::expire_waiters(Nanos now) {
    while (waiters_.next_deadline() <= now) {
        const Waiter waiter = waiters_.pop_earliest();
        timed_out(waiter.asked_at, now);
        Action& fail = emit(Action::Kind::fail);
        fail.context = waiter.context;
        fail.error = ErrorKind::timeout;
        fail.duration = now - waiter.asked_at;
    }
}

void PoolMachine::fail_all_waiters(ErrorKind error) {
    while (!waiters_.empty()) {
        const Waiter waiter = waiters_.pop_front();
        Action& fail = emit(Action::Kind::fail);
        fail.context = waiter.context;
        fail.error = error;
    }
}

// One report a lease. The scan is due at the earliest limit of any lease that was out since the last one, so under
// steady load it runs about once per limit, whatever the number of leases in between.
void PoolMachine::report_leaks(Nanos now) {
    leak_scan_at_ = kNever;
    if (leased_ == 0) return;
    for (std::uint32_t i = 0; i < slots_.size(); i++) {
        Slot& slot = slots_[i];
        if (slot.state != SlotState::leased || slot.leak_reported) continue;
        if (slot.leak_at > now) {
            leak_scan_at_ = std::min(leak_scan_at_, slot.leak_at);
            continue;
        }
        slot.leak_reported = true;
        leaks_out_++;
        last_leak_ = now;
        Action& report = emit(Action::Kind::log_leak);
        report.slot = id_of(i);
        report.duration = now - slot.leased_at;
    }
}

Nanos PoolMachine::next_deadline() const {
    const Nanos stuck_at = opening_ > stuck_ ? stuck_at_ : kNever;
    return std::min({waiters_.next_deadline(), next_try_at_, maintenance_at_, leak_scan_at_, stuck_at, shutdown_at_});
}

std::int64_t PoolMachine::live() const { return idle_ + leased_ - lost_leased_ + cleaning_ + checking_ - over_grace_; }

void PoolMachine::fill_statistics(Statistics& s, Nanos now, std::int64_t unix_us_at_zero) const {
    auto unix_us = [&](Nanos time) { return time == kNoTime ? 0 : unix_us_at_zero + time / kMicrosecond; };
    s.total_connections = idle_ + leased_;
    s.idle_connections = idle_;
    s.active_connections = leased_;
    s.live_connections = live();
    s.opening_connections = opening_ + checking_;
    s.cleaning_connections = cleaning_;
    s.waiting_requests = waiters_.size();
    s.leases_out = acquisitions_ - releases_;
    s.total_acquisitions = acquisitions_;
    s.total_releases = releases_;
    s.total_timeouts = timeouts_;
    s.total_rejected = rejected_;
    s.connections_opened = opened_;
    s.connections_closed = closed_;
    s.connections_lost = lost_;
    s.connection_failures = open_failures_;
    s.leak_count = leaks_out_;
    s.peak_active_connections = peak_leased_;
    s.peak_waiting_requests = waiters_.peak();
    s.avg_acquisition_time_ms = recent_waits_.ms();
    s.peak_wait_time_ms = to_ms(peak_wait_);
    constexpr double kFractions[] = {0.50, 0.95, 0.99};
    double percentiles[3];
    waits_.percentiles(kFractions, percentiles, 3);
    s.acquisition_p50_ms = percentiles[0];
    s.acquisition_p95_ms = percentiles[1];
    s.acquisition_p99_ms = percentiles[2];
    s.latency_ms = to_ms(last_round_trip_);
    s.uptime_ms = to_ms(now - created_at_);
    s.pool_created_at = unix_us(created_at_);
    s.last_health_check = unix_us(last_health_check_);
    s.last_error_time = unix_us(last_error_);
    s.last_recovery_time = unix_us(last_recovery_);
    s.last_slow_acquisition_time = unix_us(last_slow_);
    s.last_leak_time = unix_us(last_leak_);
}

Health PoolMachine::health(Nanos now) const {
    return judge_health({
        .state = state_,
        .min_size = config_.min_size,
        .live = live(),
        .idle = idle_,
        .waiting = waiters_.size(),
        .now = now,
        .last_error = last_error_,
        .last_recovery = last_recovery_,
        .last_slow_acquisition = last_slow_,
        .last_leak = last_leak_,
    });
}

}  // namespace pqpool
