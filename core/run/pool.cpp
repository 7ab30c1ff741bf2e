// The pool's tables and its talk with the machine and the keeper. What happens on a lease: pool_lease.cpp.
#include "core/run/pool.hpp"

#include <algorithm>
#include <atomic>
#include <random>

#include "core/run/completion_queue.hpp"

namespace pqpool {

namespace {

constexpr std::string_view kSuggestion = ". Suggestion: ";

const Options& checked(const Options& options) {
    if (const std::string problems = options.problems(); !problems.empty())
        throw Error(ErrorKind::configuration, problems);
    return options;
}

std::uint64_t random_seed() {
    std::random_device device;
    return std::uint64_t{device()} << 32 | device();
}

Keeper::Settings keeper_settings(const Options& o) {
    return {{.statement_cache_size = o.statement_cache_size,
             .init_sql = o.init_sql,
             .reset = o.reset == "always"  ? Residue::Reset::always
                      : o.reset == "never" ? Residue::Reset::never
                                           : Residue::Reset::automatic},
            from_seconds(o.connect_timeout)};
}

LeaseHandle bits_of_handles(std::uint32_t epoch) {
    static std::atomic<LeaseHandle> pools{0};
    const LeaseHandle number = 1 + pools++ % ((LeaseHandle{1} << kLeasePoolBits) - 1);  // never 0, as no handle is
    return (epoch & kLeaseEpochMask) << kLeaseEpochShift | number << kLeasePoolShift;
}

// A failure whose cause its message does not tell to everyone ends with a suggestion of its own.
std::string cure_of(const Error& error) {
    const std::string_view sqlstate = error.sqlstate;
    if (const auto own = error.message.find(kSuggestion); own != std::string::npos)
        return error.message.substr(own + kSuggestion.size());
    if (sqlstate.starts_with("28"))
        return "check the role and the password of database_url, and pg_hba.conf on the server";
    if (sqlstate == "3D000") return "create the database, or correct its name in database_url";
    if (sqlstate == "53300") return "raise max_connections on the server or lower max_size";
    if (sqlstate == "57P03") return "wait until the server has started";
    if (!sqlstate.empty()) return "see the server's message and its log";
    return "check that PostgreSQL is running and accepts connections at that host and port";
}

const char* database_status(Health health, PoolState state, std::int64_t live) {
    if (state == PoolState::initializing) return "connecting";
    if (live == 0) return "disconnected";
    return health == Health::healthy ? "connected" : "degraded";
}

}  // namespace

Pool::Pool(const Options& options)
    : handle_bits_(bits_of_handles(epoch_)),
      options_(checked(options)),
      validation_(options.validation == "always"     ? Validation::always
                  : options.validation == "blocking" ? Validation::blocking
                  : options.validation == "idle"     ? Validation::idle
                                                     : Validation::never),
      timeout_(from_seconds(options.timeout)),
      leak_limit_(PoolMachine::config_of(options, 0).leak_limit),
      command_timeout_(from_seconds(options.command_timeout)),
      validation_idle_(from_seconds(options.validation_idle_time)),
      validation_await_(from_seconds(options.validation_await_time)),
      plan_(options.database_url),
      name_(options.name.empty() ? plan_.name() : mask_text(options.name)),
      unix_us_at_zero_((read_clock(CLOCK_REALTIME) - monotonic_now()) / kMicrosecond),
      log_(log_level_of(options.log_level), options.log_file, name_),
      machine_(PoolMachine::config_of(options, random_seed()), monotonic_now()),
      keeper_(*this, plan_, keeper_settings(options)) {}

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
    if (!machine_.accepts()) return fail(waiting, init_error_ ? *init_error_ : refusal(ErrorKind::closed, 0));
    if (opened_) return answer(waiting);
    opening_waiters_.push(waiting);
}

void Pool::wait_opened() {
    Waiting waiting;
    waiting.what = Waiting::For::opening;
    ask_opened(waiting);
    waiting.wait();
    if (waiting.error) throw *waiting.error;
}

void Pool::ask_shutdown(Nanos timeout, Waiting& waiting) {
    Locked locked(*this);
    if (closed_down_ || !started_) return answer(waiting);
    const Nanos now = monotonic_now();
    const bool first = machine_.accepts();
    shutdown_waiters_.push(waiting);
    if (first)
        best_effort([&] {
            add_log(LogLevel::info, "Connection pool shutting down",
                    LogContext()
                        .add("leases_out", machine_.leased())
                        .add("timeout_seconds", timeout < 0 ? -1.0 : to_seconds(timeout)));
        });
    machine_.shutdown(deadline_after(now, timeout));
    machine_.tick(now);  // a timeout of 0 is over already
}

void Pool::shutdown(Nanos timeout) {
    Waiting waiting;
    waiting.what = Waiting::For::shutdown;
    ask_shutdown(timeout, waiting);
    waiting.wait();
}

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
    report.database = database_status(report.health, report.state, report.statistics.live_connections);
    report.last_error = last_error_;
    report.behind_pooler = behind_pooler_;
    return report;
}

PoolState Pool::state() {
    std::lock_guard lock(mutex_);
    return machine_.state();
}

std::string Pool::last_error() {
    std::lock_guard lock(mutex_);
    return last_error_;
}

std::vector<Holder> Pool::holders() {
    std::lock_guard lock(mutex_);
    return holders_locked();
}

std::vector<Holder> Pool::holders_locked() const {
    const Nanos now = monotonic_now();
    std::vector<Holder> list;
    for (std::size_t i = 0; i < leases_.size(); i++) {
        const Lease& lease = leases_.at(i);
        const LeaseHandle handle = lease.handle.load(std::memory_order_relaxed);
        if (handle == 0) continue;
        list.push_back({handle, to_seconds(now - lease.leased_at),
                        lease.connection ? lease.connection->backend_pid() : 0, lease.tag, lease.last_statement.get()});
    }
    std::sort(list.begin(), list.end(),
              [](const Holder& a, const Holder& b) { return a.held_seconds > b.held_seconds; });
    return list;
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

// ---- what the keeper reports ----

std::unique_ptr<Connection>& Pool::connection_of(SlotId slot) {
    if (slot.index >= connections_.size()) {
        lease_of_slot_.resize(slot.index + 1, UINT32_MAX);
        connections_.resize(slot.index + 1);
    }
    return connections_[slot.index];
}

void Pool::on_opened(SlotId slot, std::unique_ptr<Connection> connection, Nanos round_trip) {
    Locked locked(*this);
    connection->end_lease(monotonic_now());
    if (connection->is_behind_pooler() && !std::exchange(behind_pooler_, true))
        add_log(LogLevel::info,
                "The server's sessions are lent out by a pooler in between; where that is in transaction mode, LISTEN, "
                "session settings and session locks do not hold",
                about(slot, connection.get()));
    connection_of(slot) = std::move(connection);
    if (machine_.opened(slot, round_trip, monotonic_now()))
        best_effort([&] { add_log(LogLevel::debug, "Connection opened", about(slot)); });
    else
        keeper_.close(std::move(connection_of(slot)));  // nobody wants it any more
}

void Pool::on_open_failed(SlotId slot, const Error& error, bool admitted) {
    Locked locked(*this);
    const bool final = is_final_for_connect(error.sqlstate);
    best_effort([&] {
        last_error_ = plan_.masked(error.message.substr(0, error.message.find(kSuggestion)));
        last_cure_ = cure_of(error);
        if (machine_.state() == PoolState::initializing) init_error_.emplace(initialization_error(error.sqlstate));
    });
    machine_.open_failed(slot, final, monotonic_now(), admitted);
}

void Pool::on_checked(SlotId slot, std::unique_ptr<Connection> connection, bool alive, Nanos round_trip) {
    Locked locked(*this);
    if (!alive)
        best_effort([&] {
            last_error_ = connection->loss_message();
            if (last_error_.empty()) last_error_ = "no answer to the check";
            add_log(LogLevel::warning,
                    "Connection validation failed: " + label(slot, connection.get()) + ": " + last_error_,
                    about(slot, connection.get()).add("reason", last_error_));
        });
    connection_of(slot) = std::move(connection);
    machine_.checked(slot, alive, round_trip, monotonic_now());
}

void Pool::on_cleaned(SlotId slot, std::unique_ptr<Connection> connection, bool usable) {
    Locked locked(*this);
    connection->forget_cancel();
    connection->end_lease(monotonic_now());
    connection_of(slot) = std::move(connection);
    machine_.cleaned(slot, usable, monotonic_now());
}

void Pool::on_hang_up(SlotId slot) {
    Locked locked(*this);
    if (slot.index < lease_of_slot_.size() && lease_of_slot_[slot.index] != UINT32_MAX) {
        Lease& lease = leases_.at(lease_of_slot_[slot.index]);
        if (lease.slot == slot) lease.hung_up.store(true, std::memory_order_relaxed);
    }
    best_effort([&] {
        Connection* idle = slot.index < connections_.size() ? connections_[slot.index].get() : nullptr;
        if (idle) idle->hear_farewell();
        const std::string words = idle ? idle->loss_message() : "";
        note_loss(words.empty() ? "the server closed the connection" : words);
    });
    machine_.lost(slot, monotonic_now());
}

void Pool::on_fence() {
    {
        Locked locked(*this);  // before the answer, so that who waited for it finds the line
        best_effort([&] { add_log(LogLevel::info, "Connection pool terminated", LogContext()); });
    }
    Locked locked(*this);
    closed_down_ = true;
    answer_all(shutdown_waiters_);
}

Nanos Pool::on_tick() {
    Locked locked(*this);
    const Nanos now = monotonic_now();
    if (machine_.next_deadline() <= now) machine_.tick(now);
    if (look_for_stalled_at_ <= now) park_stalled(now);
    carry_out();
    return keeper_wakes_at_ = next_tick();
}

void Pool::on_trouble(const Error& error) {
    Locked locked(*this);
    best_effort([&] {
        add_log(LogLevel::error, "A task in the background failed: " + mask_password(error.message), LogContext());
    });
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
        best_effort([&] { last_error_ = "out of memory"; });
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
            connection_of(action.slot);  // its place in the tables
            keeper_.open(action.slot);
            break;
        case Kind::check:
            keeper_.check(action.slot, std::move(connection_of(action.slot)));
            break;
        case Kind::clean:
            keeper_.clean(action.slot, std::move(connection_of(action.slot)));
            break;
        case Kind::close:
            if (auto& connection = connection_of(action.slot)) {
                best_effort([&] { log_action(action); });
                keeper_.close(std::move(connection));
            } else {
                keeper_.drop(action.slot);
            }
            break;
        case Kind::grant:
            grant(action.slot, *static_cast<Waiting*>(action.context));
            break;
        case Kind::fail: {
            auto& waiting = *static_cast<Waiting*>(action.context);
            fail(waiting, refusal_or_less(action.error, waiting.patience));
            break;
        }
        case Kind::abort:
            best_effort([&] { log_action(action); });
            if (const auto index = lease_of_slot_[action.slot.index]; index != UINT32_MAX) {
                Lease& lease = leases_.at(index);
                lease.aborted.store(true);
                lease_of_slot_[action.slot.index] = UINT32_MAX;
                best_effort([&] { keeper_.send_cancel(lease.connection->cancel_from_outside()); });
                lease.connection->hang_up();
            }
            break;
        case Kind::initialized:
            opened_ = true;
            init_error_.reset();
            best_effort([&] { log_action(action); });
            answer_all(opening_waiters_);
            break;
        case Kind::init_failed:
            best_effort([&] { log_action(action); });
            fail_all(opening_waiters_, ErrorKind::initialization);
            keeper_.fence();
            break;
        case Kind::terminated:
            init_error_.reset();  // of an attempt that others would have followed
            fail_all(opening_waiters_, ErrorKind::closed);
            keeper_.fence();
            break;
        default:
            best_effort([&] { log_action(action); });
            break;
    }
}

// A place for one more lease, also in the list that it comes to when it is free again.
void Pool::add_lease() {
    if (free_leases_.capacity() <= leases_.size()) free_leases_.reserve(2 * leases_.size() + 8);
    Lease* lease = leases_.add();
    if (!lease) throw Error(ErrorKind::internal, "too many leases are out");
    free_leases_.push_back(lease->index);
}

// Throws where there is no place for it, with nothing taken.
Lease& Pool::new_lease(SlotId slot, Waiting& waiting, Nanos now) {
    if (free_leases_.empty()) add_lease();
    Lease& lease = leases_.at(free_leases_.back());
    free_leases_.pop_back();
    lease.generation = (lease.generation + 1) & kLeaseGenerationMask;
    lease.queue = waiting.queue;
    if (waiting.queue) lease.queue_thread = waiting.queue->thread();
    lease.patience = waiting.patience;
    lease.leased_at = now;
    if (!waiting.tag.empty() || !lease.tag.empty()) lease.tag = std::move(waiting.tag);
    lease.operation = nullptr;
    lease.last_statement.clear();  // it was the last holder's
    lease.aborted.store(false, std::memory_order_relaxed);
    put(slot, lease, now);
    const LeaseHandle handle = handle_of(lease);
    lease.handle.store(handle, std::memory_order_release);
    if (log_.is_enabled(LogLevel::debug))
        best_effort([&] {
            add_log(LogLevel::debug, "Connection acquired",
                    about(slot, lease.connection.get()).add("active", machine_.leased()).add("idle", machine_.idle()),
                    handle);
        });
    return lease;
}

// Hands the slot's connection over to the lease.
void Pool::put(SlotId slot, Lease& lease, Nanos now) {
    lease.connection = std::move(connections_[slot.index]);
    lease.slot = slot;
    lease.hung_up.store(false, std::memory_order_relaxed);
    lease_of_slot_[slot.index] = lease.index;
    const Nanos unused = now - lease.connection->last_used();
    lease.is_fresh = true;
    lease.needs_check = validation_ == Validation::idle ? unused > validation_idle_ : validation_ != Validation::never;
    lease.awaits_check = unused > validation_await_;
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
        machine_.released(slot, {.queries = connections_[slot.index]->queries()}, now);
        return fail(waiting, error_under_way());
    }
    CompletionQueue* const queue = waiting.queue;
    answer(waiting);  // and it is gone
    if (queue) watch_grant(*queue, now);
}

void Pool::fail(Waiting& waiting, Error error) {
    waiting.error.emplace(std::move(error));
    answer(waiting);
}

void Pool::answer(Waiting& waiting) {
    if (waiting.queue)
        waiting.queue->deliver(waiting);
    else
        waiting.post();
}

void Pool::answer_all(WaitingList& list) {
    while (Waiting* waiting = list.pop()) answer(*waiting);
}

void Pool::fail_all(WaitingList& list, ErrorKind kind) {
    while (Waiting* waiting = list.pop()) fail(*waiting, refusal_or_less(kind, 0));
}

}  // namespace pqpool
