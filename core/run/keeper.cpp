#include "core/run/keeper.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <utility>

namespace pqpool {

namespace {

constexpr std::uint64_t kWakeKey = UINT64_MAX;
// Nothing a server does not answer may hold anything of the pool.
constexpr Nanos kCheckTimeout = 5 * kSecond;
constexpr Nanos kCleanTimeout = 5 * kSecond;
// An opening that has had no answer for so long lets others begin with the next host.
constexpr Nanos kHostPatience = 700 * kMillisecond;
constexpr Nanos kHostMemory = 30 * kSecond;

std::string in_seconds(Nanos t) {
    char text[32];
    std::snprintf(text, sizeof text, "%.4g s", to_seconds(t));
    return text;
}

std::string in_one_line(std::string text) {
    for (char& c : text)
        if (c == '\n' || c == '\t') c = ' ';
    while (!text.empty() && text.back() == ' ') text.pop_back();
    return text;
}

}  // namespace

Keeper::Settings Keeper::settings_of(const Options& o) {
    return {{.statement_cache_size = o.statement_cache_size,
             .init_sql = o.init_sql,
             .reset = o.reset == "always"  ? Residue::Reset::always
                      : o.reset == "never" ? Residue::Reset::never
                                           : Residue::Reset::automatic},
            from_seconds(o.connect_timeout)};
}

Keeper::Keeper(KeeperClient& client, const ConnectPlan& plan, const Settings& settings)
    : client_(client),
      plan_(plan),
      settings_(settings),
      canceller_([mailbox = mailbox_] { mailbox->wakeup.wake(); }),
      resolver_(plan, [mailbox = mailbox_] { mailbox->wakeup.wake(); }) {
    poller_.watch(mailbox_->wakeup.fd(), Poller::kRead, kWakeKey);
}

Keeper::~Keeper() { stop(); }

void Keeper::start() {
    thread_ = start_thread("pqpool-keeper", [this] { run(); });
}

void Keeper::stop() {
    {
        std::lock_guard lock(mailbox_->mutex);
        stopping_ = true;
    }
    wake();
    if (thread_.joinable()) thread_.join();
    jobs_.clear();
    taken_.clear();
    mailbox_->commands.clear();
}

void Keeper::submit(Command command) {
    {
        std::lock_guard lock(mailbox_->mutex);
        mailbox_->commands.push_back(std::move(command));
    }
    wake();
}

// More commands than these cannot stand for a slot at once: its last connection's end in two, and a new one's beginning
// and end.
void Keeper::open(SlotId slot) {
    constexpr std::size_t kCommandsPerSlot = 5;
    {
        std::lock_guard lock(mailbox_->mutex);
        const std::size_t wanted = kCommandsPerSlot * (slot.index + 1);
        if (mailbox_->commands.capacity() < wanted) mailbox_->commands.reserve(2 * wanted);
    }
    submit({Task::open, slot, nullptr});
}
void Keeper::check(SlotId slot, std::unique_ptr<Connection> connection) {
    submit({Task::check, slot, std::move(connection)});
}
void Keeper::clean(SlotId slot, std::unique_ptr<Connection> connection) {
    submit({Task::clean, slot, std::move(connection)});
}
void Keeper::close(std::unique_ptr<Connection> connection) { submit({Task::close, {}, std::move(connection)}); }
void Keeper::drop(SlotId slot) { submit({Task::drop, slot, nullptr}); }
void Keeper::be_ready_to_cancel() { canceller_.start(); }

void Keeper::send_cancel(std::shared_ptr<CancelRequest> request, std::shared_ptr<Wakeup> also_wake) noexcept {
    canceller_.send(std::move(request), std::move(also_wake));
}

void Keeper::fence() {
    {
        std::lock_guard lock(mailbox_->mutex);
        mailbox_->fence = true;
    }
    wake();
}

// A job that fails ends by itself, in step(). What is caught here is the keeper's own want of memory: it rests, and
// what is left undone is done in the next round.
void Keeper::run() {
    Nanos next = 0;
    while (!stopped_) {
        try {
            go_round(next);
        } catch (...) {
            client_.on_trouble(error_under_way());
            wake();
            std::this_thread::sleep_for(std::chrono::milliseconds(10));
        }
    }
}

void Keeper::go_round(Nanos& next) {
    std::uint64_t keys[64];
    Nanos deadline = next;
    deadline = std::min({deadline, resolver_.due(), canceller_.due()});
    for (const auto& [index, job] : jobs_) deadline = std::min({deadline, job.deadline, job.host_deadline});
    const int count = poller_.wait(keys, 64, deadline);
    bool woken = false;
    for (int i = 0; i < count; i++) {
        if (keys[i] == kWakeKey) {
            mailbox_->wakeup.clear();
            woken = true;
            continue;
        }
        const SlotId slot{static_cast<std::uint32_t>(keys[i] >> 32), static_cast<std::uint32_t>(keys[i])};
        if (const auto job = jobs_.find(slot.index); job != jobs_.end() && job->second.slot == slot) {
            step(slot.index);
        } else if (const auto watched = watched_.find(slot.index);
                   watched != watched_.end() && watched->second.first == slot.generation) {
            poller_.forget(watched->second.second);
            watched_.erase(watched);
            client_.on_hang_up(slot);
        }
    }
    if (woken) {
        {
            std::lock_guard lock(mailbox_->mutex);
            if (stopping_) {
                stopped_ = true;
                return;
            }
        }
        take_commands();
        // A cancel request may have been sent: whoever waits for that goes on.
        std::vector<std::uint32_t> settling;
        for (const auto& [index, job] : jobs_)
            if (job.phase == Phase::settling) settling.push_back(index);
        for (const auto index : settling) step(index);
    }
    take_resolution(monotonic_now());
    canceller_.go_on(monotonic_now());
    expire(monotonic_now());
    next = client_.on_tick();
}

void Keeper::take_commands() {
    bool fence;
    {
        std::lock_guard lock(mailbox_->mutex);
        taken_.reserve(mailbox_->commands.capacity());  // the mailbox keeps the room that open() made
        taken_.swap(mailbox_->commands);
        fence = std::exchange(mailbox_->fence, false);
    }
    for (auto& command : taken_) begin(std::move(command));
    taken_.clear();
    if (fence) client_.on_fence();
}

void Keeper::begin(Command command) {
    try {
        begin_job(command);
    } catch (...) {  // there is no job yet; else step() would have ended it
        const Error error = error_under_way();
        if (command.task == Task::open)
            client_.on_open_failed(command.slot, error, false);
        else if (command.task == Task::check)
            client_.on_checked(command.slot, std::move(command.connection), false, 0);
        else if (command.task == Task::clean)
            client_.on_cleaned(command.slot, std::move(command.connection), false);
    }
}

void Keeper::begin_job(Command& command) {
    const Nanos now = monotonic_now();
    const auto index = command.slot.index;
    switch (command.task) {
        case Task::close:
            return close_now(std::move(command.connection));
        case Task::drop:
            if (const auto job = jobs_.find(index); job != jobs_.end() && job->second.slot == command.slot) {
                auto connection = std::move(job->second.connection);
                jobs_.erase(job);
                close_now(std::move(connection));
            }
            return;
        case Task::open: {
            Job& job = jobs_[index];
            job = {command.task, command.slot, Phase::resolving, nullptr,
                   deadline_after(now, settings_.connect_timeout)};
            return plan_.needs_resolution() ? ask_resolver(job) : connect(job, plan_);
        }
        case Task::check: {
            Job& job = jobs_[index];  // before the connection leaves the command
            job = {command.task,        command.slot, Phase::beginning, std::move(command.connection),
                   now + kCheckTimeout, now};
            return step(index);
        }
        case Task::clean: {
            Job& job = jobs_[index];
            job = {command.task, command.slot, Phase::beginning, std::move(command.connection), now + kCleanTimeout};
            return step(index);
        }
    }
}

void Keeper::ask_resolver(Job& job) {
    try {
        resolver_.ask(monotonic_now());
    } catch (...) {
        fail_opening(job, error_under_way());
    }
}

void Keeper::take_resolution(Nanos now) {
    const auto found = resolver_.take(now);
    if (!found) return;
    const auto waits = [](const auto& entry) { return entry.second.phase == Phase::resolving; };
    for (auto at = jobs_.begin(); (at = std::find_if(jobs_.begin(), jobs_.end(), waits)) != jobs_.end();) {
        if (found->plan)
            connect(at->second, *found->plan);
        else
            fail_opening(at->second, error_of(ErrorKind::connection_lost, found->failure.c_str()));
    }
}

void Keeper::connect(Job& job, const ConnectPlan& plan) {
    const Nanos now = monotonic_now();
    job.phase = Phase::connecting;
    try {
        job.plan = in_order(plan, now);
        job.host_since = now;
        // libpq goes on to the next host where one refuses, not where one does not answer.
        const Nanos hosts_left = static_cast<Nanos>(job.plan->host_count()) - job.hosts_given_up;
        job.host_deadline = hosts_left > 1 && job.deadline != kNever ? now + (job.deadline - now) / hosts_left : kNever;
        job.connection = std::make_unique<Connection>(*job.plan, settings_.connection);
        // libpq asks to be treated as if it had returned "writing" at first; a socket that failed at once says so on
        // the first step.
        if (job.connection->fd() < 0) return step(job.slot.index);
        await(job, Progress::write);
    } catch (...) {
        fail_opening(job, error_under_way());
    }
}

ConnectPlan Keeper::in_order(const ConnectPlan& plan, Nanos now) {
    const auto hosts = plan.hosts();
    if (hosts.size() < 2) return plan;
    for (const auto& [index, job] : jobs_)
        if (job.task == Task::open && job.connection && now - job.host_since >= kHostPatience) avoid_host_of(job, now);
    const auto avoided = std::find(hosts.begin(), hosts.end(), avoided_);
    if (avoided == hosts.end() || now >= avoided_until_) return plan;
    return plan.beginning_with(static_cast<std::size_t>(avoided - hosts.begin()) + 1);
}

void Keeper::avoid_host_of(const Job& job, Nanos now) {
    avoided_ = job.plan->hosts()[job.connection->host_in(*job.plan)];
    avoided_until_ = now + kHostMemory;
}

std::string Keeper::host_of(const Job& job) {
    const auto host = job.plan->hosts()[job.connection ? job.connection->host_in(*job.plan) : 0];
    std::string text = "host " + (host.name.empty() ? host.address : host.name);
    if (host.name != host.address && !host.name.empty() && !host.address.empty()) text += " (" + host.address + ")";
    return text + " port " + host.port;
}

void Keeper::await(Job& job, Progress progress) {
    const std::uint32_t what = progress == Progress::write ? Poller::kWrite | Poller::kRead : Poller::kRead;
    const bool connecting = job.phase == Phase::connecting;
    poller_.watch(job.connection->fd(),
                  (connecting && progress == Progress::write ? Poller::kWrite : what) | Poller::kHangUp,
                  key_of(job.slot));
    if (!connecting) watched_[job.slot.index] = {job.slot.generation, job.connection->fd()};
}

// An exception ends its job, and no other.
void Keeper::step(std::uint32_t index) {
    try {
        step_job(jobs_.at(index));
    } catch (...) {
        give_up(index, error_under_way());
    }
}

void Keeper::give_up(std::uint32_t index, const Error& error) {
    const auto job = jobs_.find(index);
    if (job == jobs_.end()) return;
    if (job->second.task == Task::open) return fail_opening(job->second, error);
    client_.on_trouble(error);
    job->second.connection->break_off();
    finish(job->second, false);
}

void Keeper::step_job(Job& job) {
    if (job.task == Task::open) return void(step_connect(job));
    Connection& connection = *job.connection;
    if (job.task == Task::clean) {
        if (job.phase == Phase::beginning) {
            job.phase = Phase::settling;
            if (connection.is_busy() && !connection.has_cancel()) send_cancel(connection.make_cancel());
        }
        step_clean(job);
    } else {
        if (job.phase == Phase::beginning) {
            job.phase = Phase::checking;
            connection.begin(nullptr, Connection::Check::pipelined);
        }
        const Progress progress = connection.advance();
        if (progress != Progress::done) return await(job, progress);
        finish(job, connection.verdict() == Verdict::answered);
    }
}

bool Keeper::step_connect(Job& job) {
    if (job.phase == Phase::resolving) return false;
    try {
        if (job.phase == Phase::connecting) {
            const Progress progress = job.connection->connect_step();
            if (progress != Progress::done) return await(job, progress), false;
            poller_.forget(job.connection->fd());  // the session has a descriptor of its own
            job.phase = Phase::session;
            job.host_deadline = kNever;
            job.sent_at = monotonic_now();
            job.connection->begin_session();
        }
        const Progress progress = job.connection->advance();
        if (progress != Progress::done) return await(job, progress), false;
        if (job.connection->verdict() != Verdict::answered)
            throw Error(ErrorKind::connection_lost,
                        "the session could not be set up (init_sql, then SELECT 1): " +
                            in_one_line(job.connection->loss_message()) +
                            ". Suggestion: correct init_sql, or find out from the server's log why it ends sessions");
    } catch (...) {
        return fail_opening(job, error_under_way()), true;
    }
    return finish(job, true), true;
}

bool Keeper::step_clean(Job& job) {
    Connection& connection = *job.connection;
    if (job.phase == Phase::settling) {
        if (connection.is_busy()) {
            const Progress progress = connection.advance();
            if (progress != Progress::done) return await(job, progress), false;
        }
        // A cancel request that is being sent could hit the next statement.
        if (!connection.settle()) return await(job, Progress::read), false;
        if (connection.is_lost() || !connection.take_back()) return finish(job, false), true;
        job.phase = Phase::resetting;
        connection.begin_reset();
    }
    const Progress progress = connection.advance();
    if (progress != Progress::done) return await(job, progress), false;
    return finish(job, connection.verdict() == Verdict::answered), true;
}

void Keeper::fail_opening(Job& job, const Error& error) {
    const SlotId slot = job.slot;
    const Error told = explained(job, error);
    const bool admitted = job.phase == Phase::session;
    auto connection = std::move(job.connection);
    jobs_.erase(slot.index);
    connection.reset();
    client_.on_open_failed(slot, told, admitted);
}

// Whatever libpq and the server say, or do not, the error tells what happened, and where.
Error Keeper::explained(const Job& job, const Error& error) noexcept {
    try {
        std::string message = in_one_line(error.message);
        if (message.empty() || message.back() == ':') message += " the connection was closed without a word";
        if (job.plan && message.find("connection to server") == std::string::npos)
            message = host_of(job) + ": " + message;
        return Error(error.kind, message, error.sqlstate);
    } catch (...) {
        return error_under_way();
    }
}

void Keeper::finish(Job& job, bool good) {
    Job done = std::move(job);
    jobs_.erase(done.slot.index);
    try {
        if (good) watch_for_hang_up(*done.connection, done.slot);
    } catch (...) {  // its end would not be seen
        if (done.task == Task::open) return client_.on_open_failed(done.slot, error_under_way(), false);
        done.connection->break_off();
        good = false;
    }
    const Nanos round_trip = monotonic_now() - done.sent_at;
    if (done.task == Task::open)
        client_.on_opened(done.slot, std::move(done.connection), round_trip);
    else if (done.task == Task::check)
        client_.on_checked(done.slot, std::move(done.connection), good, round_trip);
    else
        client_.on_cleaned(done.slot, std::move(done.connection), good);
}

void Keeper::watch_for_hang_up(const Connection& connection, SlotId slot) {
    poller_.watch(connection.fd(), Poller::kHangUp, key_of(slot));
    watched_[slot.index] = {slot.generation, connection.fd()};
}

void Keeper::expire(Nanos now) {
    const auto is_late = [now](const auto& entry) {
        return std::min(entry.second.deadline, entry.second.host_deadline) <= now;
    };
    for (auto at = jobs_.begin(); (at = std::find_if(jobs_.begin(), jobs_.end(), is_late)) != jobs_.end();) {
        Job& job = at->second;
        if (job.task != Task::open) {
            finish(job, false);
        } else if (job.deadline <= now) {
            fail_opening(job, too_late(job));
        } else {
            avoid_host_of(job, now);
            job.hosts_given_up++;
            const ConnectPlan plan = std::move(*job.plan);
            job.connection.reset();
            connect(job, plan);
        }
    }
}

Error Keeper::too_late(const Job& job) const noexcept {
    try {
        const std::string limit = " within connect_timeout (" + in_seconds(settings_.connect_timeout) + ")";
        if (job.phase == Phase::resolving)
            return Error(ErrorKind::connection_lost,
                         "no address was found for " + plan_.describe() + limit +
                             ". Suggestion: check the system's resolver, or name the server by its address");
        if (job.phase == Phase::session)
            return Error(ErrorKind::connection_lost,
                         "the server let the session in, but did not answer its first statements" + limit +
                             ". Suggestion: look for init_sql that takes long, or a server that hangs");
        return Error(
            ErrorKind::connection_lost,
            "no answer" + limit +
                ". Suggestion: check host and port of database_url, and firewalls; raise connect_timeout where "
                "the server is slow");
    } catch (...) {
        return error_under_way();
    }
}

// A statement that is still under way would go on on the server, so it is cancelled; the request does not need the
// connection.
void Keeper::close_now(std::unique_ptr<Connection> connection) {
    if (!connection) return;
    if (connection->is_busy() && !connection->is_lost() && !connection->has_cancel())
        send_cancel(connection->make_cancel());
    connection.reset();
}

}  // namespace pqpool
