#include "core/decide/pool_machine.hpp"

#include <algorithm>
#include <new>

namespace pqpool {

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
    : upkeep_({.max_queries = config.max_queries,
               .max_idle_time = config.max_idle_time,
               .max_lifetime = config.max_lifetime,
               .keepalive = config.keepalive}),
      sizing_(config.min_size, config.max_size),
      max_waiting_(config.max_waiting),
      random_(config.seed),
      tally_(now) {}

void PoolMachine::start(Nanos now) { fill(now); }

// After any event that changed what there is or who wants it.
void PoolMachine::settle(Nanos now) {
    serve_waiters(now);
    demand_retry();
    fill(now);
    update_state(now);
    finish_shutdown();
}

// ---- leases and those who wait for one ----

AcquireAnswer PoolMachine::acquire(Nanos now, Nanos deadline, Nanos leak_limit, void* context) {
    using Kind = AcquireAnswer::Kind;
    if (!accepts()) return {.kind = Kind::refused, .error = ErrorKind::closed};
    if (!paused_ && waiters_.empty()) {
        if (const auto index = take_idle(now); index != kNone) {
            lease(index, {.since = now, .leak_limit = leak_limit});
            tally_.acquired();
            return {.kind = Kind::granted, .slot = ledger_.id_of(index)};
        }
    }
    if (deadline <= now) {
        timed_out(now, now);
        return {.kind = Kind::refused, .error = ErrorKind::timeout};
    }
    if (max_waiting_ > 0 && waiters_.size() >= max_waiting_) {
        tally_.rejected();
        return {.kind = Kind::refused, .error = ErrorKind::too_many_requests};
    }
    return wait({.context = context, .asked_at = now, .deadline = deadline, .lease = {.leak_limit = leak_limit}}, now);
}

AcquireAnswer PoolMachine::replace(SlotId dead, Nanos now, Nanos deadline, void* context) {
    using Kind = AcquireAnswer::Kind;
    LeaseTerms terms{.since = now};
    if (const Slot* slot = ledger_.find(dead); slot && is_out(slot->state())) {
        terms = slot->lease;
        lost(dead, now);
        end_session(dead.index, CloseReason::lost, now);
    }
    // The place of the dead one is free, whatever becomes of this lease.
    const auto refuse = [&](ErrorKind error) -> AcquireAnswer {
        settle(now);
        return {.kind = Kind::refused, .error = error};
    };
    if (!accepts()) return refuse(ErrorKind::closed);
    if (const auto index = paused_ ? kNone : take_idle(now); index != kNone) {
        lease(index, terms);
        settle(now);
        return {.kind = Kind::granted, .slot = ledger_.id_of(index)};
    }
    if (deadline <= now) {
        timed_out(now, now);
        return refuse(ErrorKind::timeout);
    }
    return wait({.context = context, .asked_at = now, .deadline = deadline, .lease = terms}, now);
}

AcquireAnswer PoolMachine::wait(const Waiter& waiter, Nanos now) {
    actions_.make_room(ledger_.size(), static_cast<std::size_t>(waiters_.size()) + 1);
    const WaiterId id = waiter.replaces() ? waiters_.push_front(waiter) : waiters_.push_back(waiter);
    settle(now);
    return {.kind = AcquireAnswer::Kind::waiting, .waiter = id};
}

// A connection attempt that was made for the waiter goes on: others may need it.
bool PoolMachine::cancel(WaiterId waiter) { return waiters_.remove(waiter); }

// The most recently used connection that may be handed out, for the caller to do so; kNone where there is none.
std::uint32_t PoolMachine::take_idle(Nanos now) {
    for (std::uint32_t index; (index = ledger_.newest_idle()) != kNone;) {
        const CloseReason reason = upkeep_.retired(ledger_[index], now);
        if (reason == CloseReason::none) return index;
        close_slot(index, reason);
    }
    return kNone;
}

// Inline, as shelve(): each lease passes through both.
inline void PoolMachine::lease(std::uint32_t index, const LeaseTerms& terms) {
    ledger_.move(index, SlotState::leased);
    ledger_[index].lease = terms;
    leaks_.begin(terms);
    tally_.out(ledger_.out());
}

void PoolMachine::serve_waiters(Nanos now) {
    while (!paused_ && !waiters_.empty()) {
        const auto index = take_idle(now);
        if (index == kNone) return;
        Waiter waiter = waiters_.pop_front();
        if (!waiter.replaces()) {  // else it was counted when it was first given out
            waiter.lease.since = now;
            tally_.acquired();
            tally_.waited(now - waiter.asked_at);
            if (now - waiter.asked_at > kSlowAcquisition) note_slow(waiter.asked_at, now);
        }
        lease(index, waiter.lease);
        Action& grant = actions_.emit(Action::Kind::grant);
        grant.slot = ledger_.id_of(index);
        grant.context = waiter.context;
    }
}

void PoolMachine::timed_out(Nanos asked_at, Nanos now) {
    tally_.timed_out();
    note_slow(asked_at, now);
}

void PoolMachine::note_slow(Nanos asked_at, Nanos now) {
    if (lifecycle_.serves()) record_.slow(asked_at, now);
}

void PoolMachine::expire_waiters(Nanos now) {
    while (waiters_.next_deadline() <= now) {
        const Waiter waiter = waiters_.pop_earliest();
        timed_out(waiter.asked_at, now);
        fail_waiter(waiter, ErrorKind::timeout, now - waiter.asked_at);
    }
}

void PoolMachine::fail_all_waiters(ErrorKind error) {
    while (!waiters_.empty()) fail_waiter(waiters_.pop_front(), error, 0);
}

void PoolMachine::fail_waiter(const Waiter& waiter, ErrorKind error, Nanos waited) {
    Action& fail = actions_.emit(Action::Kind::fail);
    fail.context = waiter.context;
    fail.error = error;
    fail.duration = waited;
}

void PoolMachine::released(SlotId id, const ReturnedConnection& condition, Nanos now) {
    released_without_connection();
    Slot* slot = ledger_.find(id);
    if (!slot || !is_out(slot->state())) return;
    slot->queries = condition.queries;
    if (condition.condemned && !condition.broken &&
        condemnation_.may_close(slot->life.opened_at, !back_off_.holds(), now, random_))
        slot->condemned = CloseReason::condemned;
    if (condition.broken) {
        lost(id, now);
        slot = ledger_.find(id);  // a replacement may have been opened, and the table moved
    }
    if (slot->state() == SlotState::lost) {
        end_session(id.index, CloseReason::lost, now);
        return settle(now);
    }
    if (const CloseReason reason = unfit(*slot, now); reason != CloseReason::none) {
        close_slot(id.index, reason);
        return settle(now);
    }
    leaks_.end(slot->lease);
    if (upkeep_.is_worn(*slot)) ledger_.wane(id.index);
    if (condition.dirty) {
        take_in_hand(id.index, SlotState::cleaning, Action::Kind::clean, now);
        return settle(now);
    }
    shelve(id.index, now);
    if (!waiters_.empty() || ledger_.waning() > 0) settle(now);
}

void PoolMachine::released_without_connection() { tally_.released(); }

void PoolMachine::report_leaks(Nanos now) {
    leaks_.begin_scan();
    for (std::uint32_t i = 0; i < ledger_.size(); i++) {
        if (!is_out(ledger_[i].state()) || !leaks_.look(ledger_[i].lease, now)) continue;
        record_.leak(now);
        Action& report = actions_.emit(Action::Kind::log_leak);
        report.slot = ledger_.id_of(i);
        report.duration = now - ledger_[i].lease.since;
    }
}

// ---- where a connection goes ----

// Why the connection, which is not on the shelf, is not to go there.
CloseReason PoolMachine::unfit(const Slot& slot, Nanos now) const {
    if (const CloseReason reason = upkeep_.retired(slot, now); reason != CloseReason::none) return reason;
    if (!sizing_.fits(ledger_, slot.state())) return CloseReason::surplus;
    return accepts() ? CloseReason::none : CloseReason::shutdown;
}

// From the pool's own hands.
void PoolMachine::put_back(std::uint32_t index, Nanos idle_since, Nanos now) {
    if (const CloseReason reason = unfit(ledger_[index], now); reason != CloseReason::none)
        close_slot(index, reason);
    else
        shelve(index, idle_since);
}

inline void PoolMachine::shelve(std::uint32_t index, Nanos idle_since) {
    ledger_.move(index, SlotState::idle);
    ledger_[index].idle_since = idle_since;
    upkeep_.shelved(ledger_[index]);
}

// The pool does something itself with a connection: it checks it, or cleans it after a lease.
void PoolMachine::take_in_hand(std::uint32_t index, SlotState state, Action::Kind what, Nanos now) {
    ledger_.move(index, state);
    ledger_[index].in_hand_since = now;
    upkeep_.taken_in_hand(now);
    actions_.emit(what).slot = ledger_.id_of(index);
}

void PoolMachine::cleaned(SlotId id, bool usable, Nanos now) {
    Slot* slot = ledger_.find(id);
    if (!slot || !is_cleaning(slot->state())) return;
    if (usable) {
        put_back(id.index, now, now);
    } else {
        slot->life.ended_at = now;
        end_session(id.index, CloseReason::not_cleaned, now);
    }
    settle(now);
}

void PoolMachine::checked(SlotId id, bool alive, Nanos round_trip, Nanos now) {
    Slot* slot = ledger_.find(id);
    if (!slot || !is_checking(slot->state())) return;
    if (alive) {
        tally_.round_trip(round_trip);
        slot->checked_at = now;
        put_back(id.index, slot->idle_since, now);
    } else {
        note_death(id.index, now);
        end_session(id.index, CloseReason::lost, now);
    }
    settle(now);
}

void PoolMachine::lost(SlotId id, Nanos now) {
    const Slot* slot = ledger_.find(id);
    if (!slot) return;
    if (slot->state() == SlotState::idle) {
        note_death(id.index, now);
        end_session(id.index, CloseReason::lost, now);
    } else if (slot->state() == SlotState::leased) {
        note_death(id.index, now);
        ledger_.move(id.index, SlotState::lost);
        probation_.suspect(now);
    } else {
        return;  // it is known, or the pool's own work on it will tell
    }
    settle(now);
}

void PoolMachine::note_death(std::uint32_t index, Nanos now) {
    ledger_[index].life.ended_at = now;
    tally_.lost();
    if (!accepts()) return;
    record_.error(now);
    actions_.emit(Action::Kind::log_lost).slot = ledger_.id_of(index);
}

// The slot's connection goes, whatever it was doing.
void PoolMachine::close_slot(std::uint32_t index, CloseReason reason) {
    const Slot& slot = ledger_[index];
    if (is_out(slot.state())) leaks_.end(slot.lease);
    if (slot.life.stood()) tally_.closed();
    Action& close = actions_.emit(Action::Kind::close);
    close.slot = ledger_.id_of(index);
    close.reason = reason;
    ledger_.free(index);
}

// It goes because it ended before its time.
void PoolMachine::end_session(std::uint32_t index, CloseReason reason, Nanos now) {
    const Slot::Life life = ledger_[index].life;
    close_slot(index, reason);
    if (!accepts()) return;
    switch (probation_.ended(life, now)) {
        case Probation::Verdict::replace:
            break;
        case Probation::Verdict::fail:
            attempt_failed(life.started_at, false, now);
            break;
        case Probation::Verdict::trust:
            back_off_.forget_failures();
            break;
    }
}

// ---- openings, and what becomes of them ----

// watched: somebody asked for the health of a pool that has no connection.
void PoolMachine::fill(Nanos now, bool watched) {
    if (!accepts() || back_off_.holds()) return;
    const Sizing::Plan plan = sizing_.plan(ledger_, {.waiting = paused_ ? 0 : waiters_.size(),
                                                     .initializing = lifecycle_.is_initializing(),
                                                     .watched = watched,
                                                     .at_once = probation_.is_dying() ? 1 : back_off_.at_once()});
    try {
        for (std::int64_t i = 0; i < plan.count; i++) {
            const auto surplus = plan.beside_stuck ? stuck_.surplus(ledger_) : kNone;
            if (surplus != kNone) close_slot(surplus, CloseReason::none);
            open_one(now);
        }
    } catch (const std::bad_alloc&) {
        back_off_.out_of_memory(now);
    }
}

// Throws for want of memory, with nothing begun.
void PoolMachine::open_one(Nanos now) {
    actions_.make_room(ledger_.size() + 1, static_cast<std::size_t>(waiters_.size()));
    const std::uint32_t index = ledger_.add(now);
    back_off_.tried(now);
    stuck_.began(ledger_, now);
    actions_.emit(Action::Kind::open).slot = ledger_.id_of(index);
}

bool PoolMachine::opened(SlotId id, Nanos round_trip, Nanos now) {
    Slot* slot = ledger_.find(id);
    if (!slot || !is_opening(slot->state())) return false;
    if (slot->state() == SlotState::stuck) {  // the one beside it has its place
        const auto beside = sizing_.fits(ledger_, slot->state()) ? kNone : stuck_.newest_beside(ledger_);
        if (beside != kNone) close_slot(beside, CloseReason::none);
    } else {  // a later one has succeeded
        for (std::uint32_t i = 0; ledger_.count(SlotState::stuck) > 0 && i < ledger_.size(); i++)
            if (ledger_[i].state() == SlotState::stuck) close_slot(i, CloseReason::none);
    }
    if (probation_.is_dying())
        back_off_.hold_until(now + Probation::kTerm);
    else
        back_off_.succeeded(live());
    stuck_.succeeded(now - slot->life.started_at);
    tally_.opened();
    tally_.round_trip(round_trip);
    slot->life.opened_at = slot->checked_at = now;
    slot->retire_at = upkeep_.end_of_life(now, random_);
    put_back(id.index, now, now);
    serve_waiters(now);
    sizing_.grown(!waiters_.empty());
    settle(now);
    return true;
}

void PoolMachine::open_failed(SlotId id, bool final, Nanos now, bool admitted) {
    const Slot* slot = ledger_.find(id);
    if (!slot || !is_opening(slot->state())) return;
    const Nanos started_at = slot->life.started_at;
    ledger_.free(id.index);
    tally_.open_failed();
    record_.error(now);
    if (admitted) probation_.failed_after_admission();
    attempt_failed(started_at, final, now);
    update_state(now);
}

void PoolMachine::attempt_failed(Nanos started_at, bool final, Nanos now) {
    const bool initializing = lifecycle_.is_initializing();
    if (back_off_.failed(started_at, initializing, now, random_)) {
        demand_retry();
        Action& retry = actions_.emit(Action::Kind::log_retry);
        retry.count = back_off_.failures();
        // A try that took long may have used up the pause before the next.
        retry.duration = std::max<Nanos>(0, back_off_.due() - now);
    }
    if (initializing && (final || back_off_.is_initialization_hopeless())) give_up_initialization();
}

void PoolMachine::demand_retry() {
    if (!waiters_.empty() && !lifecycle_.is_initializing()) back_off_.demand(random_);
}

void PoolMachine::health_asked(Nanos now) {
    record_.asked(now);
    if (live() > 0) return;
    if (!back_off_.holds()) {
        if (back_off_.may_try_for_watcher(now)) fill(now, true);
    } else if (!lifecycle_.is_initializing()) {
        back_off_.watch(random_);
    }
}

void PoolMachine::end_hold(Nanos now) {
    back_off_.lift();
    if (probation_.is_dying() && sessions_last(now)) {
        probation_.trust();
        back_off_.forget_failures();
    }
    settle(now);
}

// Whether one that was opened since connections began to end has proved itself, or none is missed.
bool PoolMachine::sessions_last(Nanos now) const {
    if (live() >= sizing_.min_size() && !back_off_.failed_since(now - Probation::kTerm)) return true;
    for (std::uint32_t i = 0; i < ledger_.size(); i++)
        if (is_live(ledger_[i].state()) && probation_.is_proof(ledger_[i].life, now)) return true;
    return false;
}

// ---- upkeep, life and end ----

void PoolMachine::tick(Nanos now) {
    expire_waiters(now);
    if (leaks_.due() <= now) report_leaks(now);
    if (upkeep_.due() <= now) maintain(now);
    if (stuck_.due(ledger_) <= now) {
        stuck_.look(ledger_, now);
        settle(now);
    }
    if (back_off_.due() <= now) end_hold(now);
    if (lifecycle_.aborts_leases_at() <= now) abort_leases(now);
}

Nanos PoolMachine::next_deadline() const {
    return std::min({waiters_.next_deadline(), leaks_.due(), upkeep_.due(), stuck_.due(ledger_), back_off_.due(),
                     lifecycle_.aborts_leases_at()});
}

void PoolMachine::maintain(Nanos now) {
    upkeep_.begin_round();
    for (std::uint32_t i = 0; i < ledger_.size(); i++) {
        const Upkeep::Task task = upkeep_.look(ledger_, sizing_, i, now);
        if (task.close != CloseReason::none)
            close_slot(i, task.close);
        else if (task.check)
            take_in_hand(i, SlotState::checking, Action::Kind::check, now);
    }
    settle(now);
}

void PoolMachine::update_state(Nanos now) {
    if (!accepts()) return;
    const bool full = live() >= sizing_.min_size(), dying = probation_.is_dying();
    // Nothing is missed, and yet it has to be seen whether sessions last: see end_hold().
    if (full && dying && !back_off_.holds()) back_off_.hold_until(now + Probation::kTerm);
    switch (lifecycle_.update(live(), sizing_.min_size(), dying)) {
        case Lifecycle::Change::none:
            break;
        case Lifecycle::Change::initialized:
            actions_.emit(Action::Kind::initialized);
            break;
        case Lifecycle::Change::unhealthy:
            actions_.emit(Action::Kind::log_unhealthy);
            break;
        case Lifecycle::Change::recovered:
            record_.forget_slow();
            actions_.emit(Action::Kind::log_recovered).count = live();
            break;
    }
    if (full && !dying) record_.stands(now);
}

void PoolMachine::resize(std::int64_t min_size, std::int64_t max_size, Nanos now) {
    sizing_.resize(min_size, max_size);
    while (ledger_.oldest_idle() != kNone && sizing_.is_too_large(ledger_))
        close_slot(ledger_.oldest_idle(), CloseReason::surplus);
    upkeep_.resized(now);
    settle(now);
}

void PoolMachine::drain(Nanos now) {
    for (std::uint32_t i = 0; i < ledger_.size(); i++) {
        const SlotState state = ledger_[i].state();
        if (state == SlotState::idle)
            close_slot(i, CloseReason::drained);
        else if (state != SlotState::free)  // also one that is being opened: its session may stand already
            ledger_[i].condemned = CloseReason::drained;
    }
    settle(now);
}

void PoolMachine::pause(Nanos) { paused_ = true; }

void PoolMachine::resume(Nanos now) {
    paused_ = false;
    settle(now);
}

void PoolMachine::give_up_initialization() {
    lifecycle_.give_up_initialization();
    fail_all_waiters(ErrorKind::initialization);
    close_all_but_leased();
    actions_.emit(Action::Kind::init_failed);
}

void PoolMachine::shutdown(Nanos deadline) {
    if (!lifecycle_.shut_down(deadline)) return;
    fail_all_waiters(ErrorKind::closed);
    close_all_but_leased();
    finish_shutdown();
}

// Nothing is due any more, but the end of leases.
void PoolMachine::close_all_but_leased() {
    back_off_.lift();
    upkeep_.stop();
    leaks_.stop();
    for (std::uint32_t i = 0; i < ledger_.size(); i++) {
        const SlotState state = ledger_[i].state();
        if (state != SlotState::free && !is_out(state)) close_slot(i, CloseReason::shutdown);
    }
}

// Shutdown's patience is over.
void PoolMachine::abort_leases(Nanos now) {
    for (std::uint32_t i = 0; i < ledger_.size(); i++) {
        const Slot& slot = ledger_[i];
        if (!is_out(slot.state())) continue;
        Action& abort = actions_.emit(Action::Kind::abort);
        abort.slot = ledger_.id_of(i);
        abort.duration = now - slot.lease.since;
        leaks_.end(slot.lease);
        tally_.closed();
        ledger_.free(i);
    }
    finish_shutdown();
}

void PoolMachine::finish_shutdown() {
    if (lifecycle_.finish_shutdown(leased())) actions_.emit(Action::Kind::terminated);
}

// ---- looking ----

void PoolMachine::fill_statistics(Statistics& s, Nanos now, std::int64_t unix_us_at_zero) const {
    auto unix_us = [&](Nanos time) { return time == kNoTime ? 0 : unix_us_at_zero + time / kMicrosecond; };
    tally_.fill(s, now);
    s.total_connections = idle() + leased();
    s.idle_connections = idle();
    s.active_connections = leased();
    s.live_connections = live();
    s.opening_connections = ledger_.opening() + ledger_.checking();
    s.cleaning_connections = ledger_.cleaning();
    s.waiting_requests = waiters_.size();
    s.peak_waiting_requests = waiters_.peak();
    s.leak_count = leaks_.reported();
    s.pool_created_at = unix_us(tally_.created_at());
    s.last_health_check = unix_us(record_.last_asked());
    s.last_error_time = unix_us(record_.last_error());
    s.last_recovery_time = unix_us(record_.last_recovery());
    s.last_slow_acquisition_time = unix_us(record_.last_slow());
    s.last_leak_time = unix_us(record_.last_leak());
}

Health PoolMachine::health(Nanos now) const {
    return judge_health({
        .state = state(),
        .min_size = sizing_.min_size(),
        .live = live(),
        .idle = idle(),
        .waiting = waiters_.size(),
        .now = now,
        .last_error = record_.last_error(),
        .last_recovery = record_.last_recovery(),
        .last_slow_acquisition = record_.last_slow(),
        .last_leak = record_.last_leak(),
    });
}

}  // namespace pqpool
