#include "core/keeper.hpp"

#include <algorithm>
#include <chrono>
#include <utility>

namespace pqpool {

namespace {

constexpr std::uint64_t kWakeKey = UINT64_MAX;
// Nothing a server does not answer may hold anything of the pool.
constexpr Nanos kCheckTimeout = 5 * kSecond;
constexpr Nanos kCleanTimeout = 5 * kSecond;
// A cancel request that hit nothing is sent again after 0.1, 0.4 and 1.6 s.
constexpr Nanos kCancelPause = 100 * kMillisecond;
constexpr Nanos kLongestCancelPause = 1600 * kMillisecond;

}  // namespace

Keeper::Keeper(KeeperClient& client, const ConnectPlan& plan, const Settings& settings)
    : client_(client),
      plan_(plan),
      settings_(settings),
      too_late_("no answer within connect_timeout (" + std::to_string(to_seconds(settings.connect_timeout)) + " s)") {
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
    send({std::move(request), std::move(also_wake), kCancelPause});
}

void Keeper::send(Cancel cancel) noexcept {
    // Whatever fails here: who waits for the request goes on, and the statement's own deadline decides.
    const auto sent = [mailbox = mailbox_, cancel] {
        try {
            std::lock_guard lock(mailbox->mutex);
            if (!cancel.request->is_called_off()) mailbox->sent_cancels.push_back(cancel);
        } catch (const std::bad_alloc&) {
        }
        mailbox->wakeup.wake();
        if (cancel.also_wake) cancel.also_wake->wake();
    };
    try {
        canceller_.run([cancel, sent] {
            cancel.request->send();
            sent();
        });
    } catch (...) {
        sent();
    }
}

void Keeper::take_sent_cancels() {
    std::vector<Cancel> sent;
    {
        std::lock_guard lock(mailbox_->mutex);
        sent.swap(mailbox_->sent_cancels);
    }
    const Nanos now = monotonic_now();
    for (auto& cancel : sent) {
        if (cancel.pause > kLongestCancelPause) continue;
        cancel.due = now + cancel.pause;
        cancels_.push_back(std::move(cancel));
    }
}

void Keeper::repeat_cancels(Nanos now) {
    std::erase_if(cancels_, [&](Cancel& cancel) {
        if (cancel.due > now) return false;
        cancel.pause *= 4;
        if (!cancel.request->is_called_off()) send(std::move(cancel));
        return true;
    });
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
    Poller::Event events[64];
    Nanos deadline = next;
    for (const auto& [index, job] : jobs_) deadline = std::min(deadline, job.deadline);
    for (const auto& cancel : cancels_) deadline = std::min(deadline, cancel.due);
    const int count = poller_.wait(events, 64, deadline);
    bool woken = false;
    for (int i = 0; i < count; i++) {
        if (events[i].key == kWakeKey) {
            mailbox_->wakeup.clear();
            woken = true;
            continue;
        }
        const SlotId slot{static_cast<std::uint32_t>(events[i].key >> 32), static_cast<std::uint32_t>(events[i].key)};
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
        take_resolution();
        take_sent_cancels();
        // A cancel request may have been sent: whoever waits for that goes on.
        std::vector<std::uint32_t> settling;
        for (const auto& [index, job] : jobs_)
            if (job.phase == Phase::settling) settling.push_back(index);
        for (const auto index : settling) step(index);
    }
    repeat_cancels(monotonic_now());
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
            client_.on_open_failed(command.slot, error);
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

// Openings that come while the resolver works share its answer, so that a slow resolver is asked once, not once per
// connection.
void Keeper::ask_resolver(Job& job) {
    if (resolving_) return;
    const auto errand = [plan = plan_, mailbox = mailbox_] {
        Resolution found;
        found.done = true;
        try {
            found.plan = std::make_unique<ConnectPlan>(plan.resolve());
        } catch (...) {
            found.failure = std::move(error_under_way().message);
        }
        {
            std::lock_guard lock(mailbox->mutex);
            mailbox->resolution = std::move(found);
        }
        mailbox->wakeup.wake();
    };
    try {
        resolver_.run(errand);
        resolving_ = true;
    } catch (...) {
        fail_opening(job, error_under_way());
    }
}

void Keeper::take_resolution() {
    Resolution found;
    {
        std::lock_guard lock(mailbox_->mutex);
        if (!mailbox_->resolution.done) return;
        found = std::exchange(mailbox_->resolution, {});
    }
    resolving_ = false;
    const auto waits = [](const auto& entry) { return entry.second.phase == Phase::resolving; };
    for (auto at = jobs_.begin(); (at = std::find_if(jobs_.begin(), jobs_.end(), waits)) != jobs_.end();) {
        if (found.plan)
            connect(at->second, *found.plan);
        else
            fail_opening(at->second, error_of(ErrorKind::connection_lost, found.failure.c_str()));
    }
}

void Keeper::connect(Job& job, const ConnectPlan& plan) {
    job.phase = Phase::connecting;
    try {
        job.connection = std::make_unique<Connection>(plan, settings_.connection);
        // libpq asks to be treated as if it had returned "writing" at first; a socket that failed at once says so on
        // the first step.
        if (job.connection->fd() < 0) return step(job.slot.index);
        await(job, Progress::write);
    } catch (...) {
        fail_opening(job, error_under_way());
    }
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
            job.sent_at = monotonic_now();
            job.connection->begin_session();
        }
        const Progress progress = job.connection->advance();
        if (progress != Progress::done) return await(job, progress), false;
        if (job.connection->verdict() != Verdict::answered)
            throw Error(ErrorKind::connection_lost, job.connection->loss_message());
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
        if (connection.is_lost() || !connection.end_raw()) return finish(job, false), true;
        job.phase = Phase::resetting;
        connection.begin_reset();
    }
    const Progress progress = connection.advance();
    if (progress != Progress::done) return await(job, progress), false;
    return finish(job, connection.verdict() == Verdict::answered), true;
}

void Keeper::fail_opening(Job& job, const Error& error) {
    const SlotId slot = job.slot;
    auto connection = std::move(job.connection);
    jobs_.erase(slot.index);
    connection.reset();
    client_.on_open_failed(slot, error);
}

void Keeper::finish(Job& job, bool good) {
    Job done = std::move(job);
    jobs_.erase(done.slot.index);
    try {
        if (good) watch_for_hang_up(*done.connection, done.slot);
    } catch (...) {  // its end would not be seen
        if (done.task == Task::open) return client_.on_open_failed(done.slot, error_under_way());
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
    const auto is_late = [now](const auto& entry) { return entry.second.deadline <= now; };
    for (auto at = jobs_.begin(); (at = std::find_if(jobs_.begin(), jobs_.end(), is_late)) != jobs_.end();) {
        Job& job = at->second;
        if (job.task == Task::open)
            fail_opening(job, error_of(ErrorKind::connection_lost, too_late_.c_str()));
        else
            finish(job, false);
    }
}

// A statement that is still under way would go on on the server, so it is cancelled; the request does not need the
// connection.
void Keeper::close_now(std::unique_ptr<Connection> connection) {
    if (!connection) return;
    if (connection->is_busy() && connection->cancel_handle() && !connection->is_lost() && !connection->has_cancel())
        send_cancel(connection->make_cancel());
    connection.reset();
}

}  // namespace pqpool
