#include "core/run/pool.hpp"

#include <algorithm>
#include <random>

#include "core/base/text.hpp"
#include "core/run/refusal.hpp"

namespace pqpool {

namespace {

Options checked(const Options& options) {
    if (const std::string problems = options.problems(); !problems.empty())
        throw Error(ErrorKind::configuration, problems);
    return options;
}

std::uint64_t random_seed() {
    std::random_device device;
    return std::uint64_t{device()} << 32 | device();
}

}  // namespace

// Holds the pool's lock. At its end: carries out what the machine decided, wakes the keeper where it must come earlier,
// and writes the log lines after the lock is released.
class Pool::Locked {
  public:
    explicit Locked(Pool& pool) : pool_(pool) { pool.mutex_.lock(); }
    ~Locked() {  // fails in nothing: what it needs was had when the slot was opened, or is left out
        if (!pool_.machine_.actions().empty()) pool_.carry_out();
        if (const Nanos next = pool_.next_tick(); next < pool_.keeper_wakes_at_) {
            pool_.keeper_wakes_at_ = next;
            pool_.keeper_.wake();
        }
        pool_.events_.write(pool_.mutex_);
        pool_.mutex_.unlock();
    }
    Locked(const Locked&) = delete;

  private:
    Pool& pool_;
};

// ---- life ----

Pool::Pool(const Options& options)
    : options_(checked(options)),
      validation_(options),
      timeout_(from_seconds(options.timeout)),
      leak_limit_(PoolMachine::config_of(options, 0).leak_limit),
      command_timeout_(from_seconds(options.command_timeout)),
      plan_(options.database_url),
      unix_us_at_zero_((read_clock(CLOCK_REALTIME) - monotonic_now()) / kMicrosecond),
      machine_(PoolMachine::config_of(options, random_seed()), monotonic_now()),
      events_(log_level_of(options.log_level), options.log_file,
              options.name.empty() ? plan_.name() : mask_text(options.name)),
      keeper_(*this, plan_, Keeper::settings_of(options)) {}

Pool::~Pool() {
    if (!started_) return;
    remove_from_fork_register(mutex_);
    shutdown(0);
    keeper_.stop();
}

void Pool::start() {
    std::lock_guard once(start_mutex_);
    if (started_) return;
    add_to_fork_register(mutex_);
    try {
        keeper_.start();
    } catch (...) {
        remove_from_fork_register(mutex_);
        throw;
    }
    Locked locked(*this);
    started_ = true;
    machine_.start(monotonic_now());
}

void Pool::ask_opened(Waiting& waiting) {
    Locked locked(*this);
    const auto& failed = last_failure_.of_initialization();
    if (!machine_.accepts()) return fail(waiting, failed ? *failed : refused(ErrorKind::closed, 0));
    if (opened_) return answer(waiting);
    opening_waiters_.push(waiting);
}

void Pool::ask_shutdown(Nanos timeout, Waiting& waiting) {
    Locked locked(*this);
    if (closed_down_ || !started_) return answer(waiting);
    const Nanos now = monotonic_now();
    const bool first = machine_.accepts();
    shutdown_waiters_.push(waiting);
    if (first) events_.tell([&] { return event::ShuttingDown{machine_.leased(), timeout}; });
    machine_.shutdown(deadline_after(now, timeout));
    machine_.tick(now);  // a timeout of 0 is over already
}

void Pool::shutdown(Nanos timeout) {
    Waiting waiting;
    waiting.what = Waiting::For::shutdown;
    ask_shutdown(timeout, waiting);
    waiting.wait();
}

// ---- leases ----

bool Pool::ask(const AcquireRequest& request, Waiting& waiting) {
    const Nanos now = monotonic_now();
    request.put_into(waiting, timeout_, leak_limit_, now);
    Locked locked(*this);
    if (!started_)
        throw Error(ErrorKind::not_initialized,
                    "the pool has not been opened. Suggestion: call initialize(config), or pqpool_open, first");
    leases_.make_room();  // before a connection is taken for it
    const AcquireAnswer answer = machine_.acquire(now, waiting.deadline, waiting.leak_limit, &waiting);
    switch (answer.kind) {
        case AcquireAnswer::Kind::granted:
            waiting.lease = &new_lease(answer.slot, waiting, now);
            machine_.record_wait(monotonic_now() - now);
            return true;
        case AcquireAnswer::Kind::refused:
            throw refused(answer.error, waiting.patience);
        case AcquireAnswer::Kind::waiting:
            break;
    }
    waiting.waiter = answer.waiter;
    stalled_.note_waiter(now);
    return false;
}

bool Pool::ask_replacement(Lease& lease, Waiting& waiting, Nanos deadline) {
    const Nanos now = monotonic_now();
    waiting.what = Waiting::For::replacement;
    waiting.lease = &lease;
    waiting.deadline = std::min(deadline, deadline_after(now, lease.patience));
    waiting.patience = waiting.deadline == kNever ? -1 : std::max<Nanos>(0, waiting.deadline - now);
    Locked locked(*this);
    if (lease.aborted.load()) throw refused(ErrorKind::closed, 0);
    if (lease.connection) {
        events_.tell([&] { return event::Replaced{about(lease), lease.connection->loss_message()}; });
        keeper_.close(std::move(lease.connection));
        seats_[lease.slot].lease = nullptr;
    }
    const AcquireAnswer answer = machine_.replace(lease.slot, now, waiting.deadline, &waiting);
    if (answer.kind == AcquireAnswer::Kind::refused) throw refused(answer.error, waiting.patience);
    if (answer.kind == AcquireAnswer::Kind::granted) put(answer.slot, lease, now);
    waiting.waiter = answer.waiter;
    return answer.kind == AcquireAnswer::Kind::granted;
}

bool Pool::take_back(Waiting& waiting) {
    Locked locked(*this);
    if (waiting.what == Waiting::For::opening) return opening_waiters_.remove(waiting);
    if (waiting.what == Waiting::For::shutdown) return shutdown_waiters_.remove(waiting);
    return stalled_.take_back(waiting) || machine_.cancel(waiting.waiter);
}

void Pool::release(LeaseHandle handle) {
    Lease& lease = find_lease(handle);
    LeaseHandle expected = handle;
    if (Inbox* queue = lease.queue) {
        if (!lease.handle.compare_exchange_strong(expected, 0)) find_lease(handle);  // throws
        if (lease.queue_thread == this_thread()) return queue->release(lease);
        // Unless another thread is freeing the queue, and this lease with it.
        std::lock_guard lock(mutex_);
        if (lease.queue == queue && lease.number == handle) queue->release(lease);
        return;
    }
    auto use = Lease::Use::none;
    if (!lease.use.compare_exchange_strong(use, Lease::Use::release, std::memory_order_acquire))
        throw Error(ErrorKind::busy,
                    "a statement is under way on this lease in another thread. Suggestion: wait for it, or call "
                    "pqpool_cancel, before releasing");
    if (!lease.handle.compare_exchange_strong(expected, 0)) {
        lease.use.store(Lease::Use::none, std::memory_order_release);
        find_lease(handle);  // throws
    }
    release_owned(lease);
}

// The caller has the lease to itself; its handle may still stand.
void Pool::release_owned(Lease& lease) {
    const ReturnedConnection condition = lease.condition();
    Locked locked(*this);
    // When nobody waits, the time only says since when the connection is idle.
    give_back(lease, condition, machine_.waiting() > 0 ? monotonic_now() : coarse_now());
}

void Pool::give_back(Lease& lease, const ReturnedConnection& condition, Nanos now) {
    if (lease.connection && !condition.broken && !condition.dirty) lease.connection->end_lease(now);
    lease.handle.store(0, std::memory_order_release);
    lease.operation = nullptr;
    events_.tell([&] { return event::Released{about(lease), std::max<Nanos>(now - lease.leased_at, 0)}; });
    if (!lease.connection) {
        machine_.released_without_connection();
    } else if (lease.aborted.load()) {
        keeper_.close(std::move(lease.connection));  // its slot went with the shutdown
        machine_.released_without_connection();
    } else {
        auto& seat = seats_[lease.slot];
        seat.connection = std::move(lease.connection);
        seat.lease = nullptr;
        machine_.released(lease.slot, condition, now);
    }
    lease.queue = nullptr;
    lease.use.store(Lease::Use::none, std::memory_order_release);
    leases_.put_back(lease);
}

// Throws where there is no place for it, with nothing taken.
Lease& Pool::new_lease(SlotId slot, Waiting& waiting, Nanos now) {
    Lease& lease = leases_.take();
    lease.queue = waiting.queue;
    if (waiting.queue) lease.queue_thread = waiting.queue->thread();
    lease.patience = waiting.patience;
    lease.leased_at = now;
    if (!waiting.tag.empty() || !lease.tag.empty()) lease.tag = std::move(waiting.tag);
    lease.operation = nullptr;
    lease.last_statement.clear();  // it was the last holder's
    lease.aborted.store(false, std::memory_order_relaxed);
    put(slot, lease, now);
    lease.handle.store(lease.number, std::memory_order_release);
    events_.tell([&] { return event::Acquired{about(lease), machine_.leased(), machine_.idle()}; });
    return lease;
}

// Hands the slot's connection over to the lease.
void Pool::put(SlotId slot, Lease& lease, Nanos now) {
    auto& seat = seats_[slot];
    seat.lease = &lease;
    lease.take(slot, std::move(seat.connection), validation_, now);
}

void Pool::cancel(LeaseHandle handle) {
    Lease& lease = find_lease(handle);
    keeper_.be_ready_to_cancel();
    Locked locked(*this);
    if (lease.handle.load() != handle || !lease.connection) return;
    auto use = Lease::Use::call;
    if (!lease.use.compare_exchange_strong(use, Lease::Use::cancel_asked) && use != Lease::Use::cancel_asked) return;
    if (lease.foreign_cancel) return;  // under way, and repeated until it hits
    lease.foreign_cancel = lease.connection->cancel_from_outside();
    keeper_.send_cancel(lease.foreign_cancel);
}

// The other thread has to be done with it. Where its request is being sent, the connection takes no other statement
// before.
void Pool::end_foreign_cancel(Lease& lease) {
    Locked locked(*this);
    if (lease.foreign_cancel && !lease.foreign_cancel->call_off() && lease.connection)
        lease.connection->adopt_cancel(std::move(lease.foreign_cancel));
    lease.foreign_cancel.reset();
    lease.use.store(Lease::Use::none, std::memory_order_release);
}

void Pool::note_lost(const Lease& lease, bool in_validation) {
    Locked locked(*this);
    best_effort([&] { last_failure_.note_loss(lease.connection->loss_message(), is_initializing()); });
    if (in_validation) events_.tell([&] { return event::LostInValidation{about(lease), last_failure_.message()}; });
    machine_.lost(lease.slot, monotonic_now());
}

TransactionStatus Pool::transaction_status(LeaseHandle handle) const {
    const Lease& lease = find_lease(handle);
    return lease.connection ? lease.connection->transaction_status() : TransactionStatus::idle;
}

Nanos Pool::statement_deadline(Nanos timeout) const {
    return deadline_after(monotonic_now(), timeout == AcquireRequest::kByOption ? command_timeout_ : timeout);
}

Error Pool::acquire_timeout(Nanos patience) noexcept {
    Locked locked(*this);
    const Nanos now = monotonic_now();
    machine_.timed_out(now - patience, now);
    return refused_or_less(ErrorKind::timeout, patience);
}

Error Pool::refused(ErrorKind kind, Nanos patience) const {
    return refusal(kind, patience, machine_, leases_, last_failure_);
}

Error Pool::refused_or_less(ErrorKind kind, Nanos patience) const noexcept {
    return refusal_or_less(kind, patience, machine_, leases_, last_failure_);
}

Lease* Pool::next_lease_of(const Inbox& queue, std::size_t& at) const {
    std::lock_guard lock(mutex_);
    while (at < leases_.size())
        if (Lease& lease = leases_.at(at++); lease.queue == &queue) return &lease;
    return nullptr;
}

void Pool::unpark(const Inbox& queue) {
    Locked locked(*this);
    const Nanos now = monotonic_now();
    WaitingList requests = stalled_.unpark(queue);
    while (Waiting* waiting = requests.pop()) {
        try {
            leases_.make_room();
            const AcquireAnswer given = machine_.acquire(now, waiting->deadline, waiting->leak_limit, waiting);
            waiting->waiter = given.waiter;
            if (given.kind == AcquireAnswer::Kind::refused) fail(*waiting, refused(given.error, waiting->patience));
            if (given.kind == AcquireAnswer::Kind::granted) grant(given.slot, *waiting);
        } catch (...) {
            fail(*waiting, error_under_way());
        }
    }
}

void Pool::forget(const Inbox& queue) {
    std::lock_guard lock(mutex_);
    stalled_.forget(queue);
}

// ---- looking, steering, fork ----

Statistics Pool::statistics() {
    std::lock_guard lock(mutex_);
    Statistics s;
    machine_.fill_statistics(s, monotonic_now(), unix_us_at_zero_);
    return s;
}

HealthReport Pool::health() {
    Locked locked(*this);
    HealthReport report;
    const Nanos now = monotonic_now();
    machine_.health_asked(now);
    machine_.fill_statistics(report.statistics, now, unix_us_at_zero_);
    report.health = machine_.health(now);
    report.state = machine_.state();
    report.last_error = last_failure_.message();
    report.behind_pooler = behind_pooler_;
    return report;
}

PoolState Pool::state() {
    std::lock_guard lock(mutex_);
    return machine_.state();
}

std::string Pool::last_error() {
    std::lock_guard lock(mutex_);
    return last_failure_.message();
}

std::vector<Holder> Pool::holders() {
    std::lock_guard lock(mutex_);
    return leases_.holders(monotonic_now());
}

void Pool::resize(std::int64_t min_size, std::int64_t max_size) {
    Options wanted = options_;
    wanted.min_size = min_size;
    wanted.max_size = max_size;
    checked(wanted);
    Locked locked(*this);
    machine_.resize(min_size, max_size, monotonic_now());
}

void Pool::drain() {
    Locked locked(*this);
    machine_.drain(monotonic_now());
}

void Pool::pause() {
    Locked locked(*this);
    machine_.pause(monotonic_now());
}

void Pool::resume() {
    Locked locked(*this);
    machine_.resume(monotonic_now());
}

void Pool::abandon_after_fork() {
    remove_from_fork_register(mutex_);
    for (auto& seat : seats_)
        if (seat.connection) seat.connection->abandon_after_fork(false);
    for (std::size_t i = 0; i < leases_.size(); i++)
        if (leases_.at(i).connection) leases_.at(i).connection->abandon_after_fork(true);
}

// ---- what the keeper reports ----

void Pool::on_opened(SlotId slot, std::unique_ptr<Connection> connection, Nanos round_trip) {
    Locked locked(*this);
    connection->end_lease(monotonic_now());
    if (connection->is_behind_pooler() && !std::exchange(behind_pooler_, true))
        events_.tell([&] { return event::PoolerFound{seats_.about(slot, connection.get())}; });
    auto& seat = seats_[slot];
    seat.connection = std::move(connection);
    if (machine_.opened(slot, round_trip, monotonic_now()))
        events_.tell([&] { return event::Opened{seats_.about(slot)}; });
    else
        keeper_.close(std::move(seat.connection));  // nobody wants it any more
}

void Pool::on_open_failed(SlotId slot, const Error& error, bool admitted) {
    Locked locked(*this);
    const bool final = is_final_for_connect(error.sqlstate);
    last_failure_.note_opening(error, is_initializing());
    machine_.open_failed(slot, final, monotonic_now(), admitted);
}

void Pool::on_checked(SlotId slot, std::unique_ptr<Connection> connection, bool alive, Nanos round_trip) {
    Locked locked(*this);
    if (!alive) {
        best_effort([&] {
            const std::string words = connection->loss_message();
            last_failure_.note_check(words.empty() ? "no answer to the check" : words);
        });
        events_.tell([&] { return event::CheckFailed{seats_.about(slot, connection.get()), last_failure_.message()}; });
    }
    seats_[slot].connection = std::move(connection);
    machine_.checked(slot, alive, round_trip, monotonic_now());
}

void Pool::on_cleaned(SlotId slot, std::unique_ptr<Connection> connection, bool usable) {
    Locked locked(*this);
    connection->forget_cancel();
    connection->end_lease(monotonic_now());
    seats_[slot].connection = std::move(connection);
    machine_.cleaned(slot, usable, monotonic_now());
}

void Pool::on_hang_up(SlotId slot) {
    Locked locked(*this);
    const Seats::Seat* seat = seats_.find(slot);
    if (seat && seat->lease && seat->lease->slot == slot) seat->lease->hung_up.store(true, std::memory_order_relaxed);
    best_effort([&] {
        Connection* idle = seat ? seat->connection.get() : nullptr;
        if (idle) idle->hear_farewell();
        const std::string words = idle ? idle->loss_message() : "";
        last_failure_.note_loss(words.empty() ? "the server closed the connection" : words, is_initializing());
    });
    machine_.lost(slot, monotonic_now());
}

void Pool::on_fence() {
    {
        Locked locked(*this);  // before the answer, so that who waited for it finds the line
        events_.tell([] { return event::Terminated{}; });
    }
    Locked locked(*this);
    closed_down_ = true;
    answer_all(shutdown_waiters_);
}

Nanos Pool::on_tick() {
    Locked locked(*this);
    const Nanos now = monotonic_now();
    if (machine_.next_deadline() <= now) machine_.tick(now);
    if (stalled_.look_at() <= now)
        stalled_.look(now, machine_, [&](Lease& lease) { give_back(lease, lease.condition(), now); });
    carry_out();
    return keeper_wakes_at_ = next_tick();
}

void Pool::on_trouble(const Error& error) {
    Locked locked(*this);
    events_.tell([&] { return event::TroubleInBackground{mask_password(error.message)}; });
}

// ---- what the machine decides ----

void Pool::carry_out() noexcept {
    // Actions may bring forth actions: one that fails gives its connection up.
    while (!machine_.actions().empty()) {
        const auto& actions = machine_.take_actions();
        for (std::size_t i = 0; i < actions.size(); i++) {
            const Action action = actions[i];
            try {
                carry_out(action);
            } catch (...) {
                give_up(action);
            }
        }
    }
}

// For want of memory.
void Pool::give_up(const Action& action) {
    using Kind = Action::Kind;
    const Nanos now = monotonic_now();
    if (action.kind == Kind::open) {
        last_failure_.note_no_memory();
        machine_.open_failed(action.slot, false, now);
    } else if (action.kind == Kind::check) {
        machine_.checked(action.slot, false, 0, now);
    } else if (action.kind == Kind::clean) {
        machine_.cleaned(action.slot, false, now);
    }
}

void Pool::carry_out(const Action& action) {
    using Kind = Action::Kind;
    switch (action.kind) {
        case Kind::open:
            seats_.make(action.slot);
            keeper_.open(action.slot);
            break;
        case Kind::check:
            keeper_.check(action.slot, std::move(seats_[action.slot].connection));
            break;
        case Kind::clean:
            keeper_.clean(action.slot, std::move(seats_[action.slot].connection));
            break;
        case Kind::close:
            close(action);
            break;
        case Kind::grant:
            grant(action.slot, *static_cast<Waiting*>(action.context));
            break;
        case Kind::fail: {
            auto& waiting = *static_cast<Waiting*>(action.context);
            fail(waiting, refused_or_less(action.error, waiting.patience));
            break;
        }
        case Kind::abort:
            break_lease(action);
            break;
        case Kind::initialized:
            opened_ = true;
            last_failure_.forget_initialization();
            action_log_.tell(action);
            answer_all(opening_waiters_);
            break;
        case Kind::init_failed:
            action_log_.tell(action);
            fail_all(opening_waiters_, ErrorKind::initialization);
            keeper_.fence();
            break;
        case Kind::terminated:
            last_failure_.forget_initialization();  // of an attempt that others would have followed
            fail_all(opening_waiters_, ErrorKind::closed);
            keeper_.fence();
            break;
        default:
            action_log_.tell(action);
            break;
    }
}

void Pool::close(const Action& action) {
    Seats::Seat* seat = seats_.find(action.slot);
    if (!seat || !seat->connection) return keeper_.drop(action.slot);
    action_log_.tell(action);
    keeper_.close(std::move(seat->connection));
}

void Pool::break_lease(const Action& action) {
    action_log_.tell(action);
    Lease* lease = std::exchange(seats_[action.slot].lease, nullptr);
    if (!lease) return;
    lease->aborted.store(true);
    best_effort([&] { keeper_.send_cancel(lease->connection->cancel_from_outside()); });
    lease->connection->hang_up();
}

void Pool::grant(SlotId slot, Waiting& waiting) {
    const Nanos now = monotonic_now();
    if (waiting.what == Waiting::For::replacement) {
        put(slot, *waiting.lease, now);
        return answer(waiting);
    }
    try {
        waiting.lease = &new_lease(slot, waiting, now);
    } catch (...) {
        machine_.released(slot, {.queries = seats_[slot].connection->queries()}, now);
        return fail(waiting, error_under_way());
    }
    Inbox* const queue = waiting.queue;
    answer(waiting);  // and it is gone
    if (queue) stalled_.note_grant(*queue, now, machine_.waiting() > 0);
}

void Pool::answer_all(WaitingList& list) {
    while (Waiting* waiting = list.pop()) answer(*waiting);
}

void Pool::fail_all(WaitingList& list, ErrorKind kind) {
    while (Waiting* waiting = list.pop()) fail(*waiting, refused_or_less(kind, 0));
}

}  // namespace pqpool
