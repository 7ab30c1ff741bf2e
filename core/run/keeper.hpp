// The background thread. It owns each connection while that is being opened, checked, cleaned or closed, watches every
// socket for hang-up, and runs the state machine's timers. Asleep when nothing is due: an idle pool costs no CPU.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "core/base/error.hpp"
#include "core/base/options.hpp"
#include "core/decide/pool_machine.hpp"
#include "core/run/canceller.hpp"
#include "core/run/poller.hpp"
#include "core/run/resolver.hpp"
#include "core/wire/connection.hpp"

namespace pqpool {

// What the keeper reports. Called on its thread, with no lock held.
class KeeperClient {
  public:
    virtual ~KeeperClient() = default;
    virtual void on_opened(SlotId slot, std::unique_ptr<Connection> connection, Nanos round_trip) = 0;
    // admitted: the server had let the session in.
    virtual void on_open_failed(SlotId slot, const Error& error, bool admitted) = 0;
    virtual void on_checked(SlotId slot, std::unique_ptr<Connection> connection, bool alive, Nanos round_trip) = 0;
    virtual void on_cleaned(SlotId slot, std::unique_ptr<Connection> connection, bool usable) = 0;
    virtual void on_hang_up(SlotId slot) = 0;
    virtual void on_fence() = 0;
    virtual Nanos on_tick() = 0;                      // runs what is due; when to come next
    virtual void on_trouble(const Error& error) = 0;  // a task of the keeper's own ended so
};

class Keeper {
  public:
    struct Settings {
        Connection::Settings connection;
        Nanos connect_timeout;
    };
    static Settings settings_of(const Options& options);

    Keeper(KeeperClient& client, const ConnectPlan& plan, const Settings& settings);
    ~Keeper();  // stop()
    Keeper(const Keeper&) = delete;

    void start();  // throws where the thread cannot be started
    void stop();   // closes what it owns and joins the thread; not on the keeper's own thread

    // ---- any thread; none blocks ----
    // Throws for want of memory, with nothing begun. All that follows for the slot finds the memory it needs.
    void open(SlotId slot);
    void check(SlotId slot, std::unique_ptr<Connection> connection);
    void clean(SlotId slot, std::unique_ptr<Connection> connection);
    void close(std::unique_ptr<Connection> connection);
    void drop(SlotId slot);  // stops what it does for the slot and closes its connection
    void fence();            // on_fence() follows once all that was asked for before is done
    void wake() { mailbox_->wakeup.wake(); }
    // Sends the request from an errands thread, and again after a while unless it is called off; whoever listens on
    // the wake-up is told each time. Where it cannot be sent now, that is its first attempt.
    void send_cancel(std::shared_ptr<CancelRequest> request, std::shared_ptr<Wakeup> also_wake = nullptr) noexcept;
    void be_ready_to_cancel();  // throws where the thread for that cannot be started

  private:
    enum class Task { open, check, clean, close, drop };
    enum class Phase { resolving, connecting, session, beginning, settling, resetting, checking };

    struct Command {
        Task task;
        SlotId slot;
        std::unique_ptr<Connection> connection;
    };
    struct Job {
        Task task;
        SlotId slot;
        Phase phase;
        std::unique_ptr<Connection> connection;
        Nanos deadline;
        Nanos sent_at = 0;
        // Of an opening.
        std::optional<ConnectPlan> plan{};
        Nanos host_since = 0;
        Nanos hosts_given_up = 0;
        Nanos host_deadline = kNever;  // then the next host is tried
    };
    // Outlives the keeper in the hands of errands.
    struct Mailbox {
        Wakeup wakeup;
        std::mutex mutex;
        std::vector<Command> commands;
        bool fence = false;  // after the commands
    };

    void run();
    void go_round(Nanos& next);
    void submit(Command command);
    void take_commands();
    void begin(Command command);
    void begin_job(Command& command);
    void ask_resolver(Job& job);
    void take_resolution(Nanos now);
    void connect(Job& job, const ConnectPlan& plan);
    ConnectPlan in_order(const ConnectPlan& plan, Nanos now);
    void avoid_host_of(const Job& job, Nanos now);
    static std::string host_of(const Job& job);
    Error too_late(const Job& job) const noexcept;
    static Error explained(const Job& job, const Error& error) noexcept;
    void step(std::uint32_t index);
    void step_job(Job& job);
    void give_up(std::uint32_t index, const Error& error);
    bool step_connect(Job& job);
    bool step_clean(Job& job);
    void fail_opening(Job& job, const Error& error);
    void finish(Job& job, bool good);
    void expire(Nanos now);
    void await(Job& job, Progress progress);
    void watch_for_hang_up(const Connection& connection, SlotId slot);
    void close_now(std::unique_ptr<Connection> connection);
    static std::uint64_t key_of(SlotId slot) { return std::uint64_t{slot.index} << 32 | slot.generation; }

    KeeperClient& client_;
    const ConnectPlan plan_;
    const Settings settings_;
    const std::shared_ptr<Mailbox> mailbox_ = std::make_shared<Mailbox>();
    Poller poller_;
    Canceller canceller_;
    std::thread thread_;
    bool stopping_ = false;  // guarded by mailbox_->mutex

    // The keeper thread's own.
    std::vector<Command> taken_;
    bool stopped_ = false;
    std::unordered_map<std::uint32_t, Job> jobs_;                               // by slot
    std::unordered_map<std::uint32_t, std::pair<std::uint32_t, int>> watched_;  // slot -> generation, descriptor
    Resolver resolver_;
    // The last host that had no answer for an opening: for a while others begin with the one after it.
    ConnectPlan::Host avoided_;
    Nanos avoided_until_ = 0;
};

}  // namespace pqpool
