// The caller-driven side: one pollable descriptor, under which acquires and statements make progress on the caller's
// own thread.
//
// A queue belongs to the thread that uses it; only wake() may come from others, what reaches its inbox, and the
// destructor, while no call is under way. What the owner's own calls complete does not make the descriptor readable:
// take completions with first() until there is none before waiting.
//
// A submit that fails leaves nothing behind: all that its way to the completion needs is had before anything is sent.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "core/run/async_operations.hpp"
#include "core/run/inbox.hpp"
#include "core/run/lease_sockets.hpp"
#include "core/run/pool.hpp"

namespace pqpool {

class CompletionQueue final : private Inbox::Owner {
  public:
    explicit CompletionQueue(std::shared_ptr<Pool> pool);
    ~CompletionQueue() override;  // releases its leases; what is under way is dropped without a completion
    CompletionQueue(const CompletionQueue&) = delete;

    int fd() const { return poller_.fd(); }
    Pool& pool() const { return *pool_; }

    // Granted at once where a connection is free: `lease` is set and 0 returned, no completion follows. Else the
    // submitted id.
    std::uint64_t acquire(const AcquireRequest& request, void* user_data, LeaseHandle& lease);
    std::uint64_t execute(LeaseHandle lease, std::string_view sql, const Parameter* parameters, std::size_t count,
                          ResultFormat format, Nanos timeout, void* user_data);
    // Acquires, executes and releases.
    std::uint64_t run(const AcquireRequest& request, std::string_view sql, const Parameter* parameters,
                      std::size_t count, ResultFormat format, Nanos timeout, void* user_data);
    std::uint64_t await_opened(void* user_data);
    std::uint64_t shut_down(Nanos timeout, void* user_data);
    // The submitted request completes with ErrorKind::cancelled, unless it has completed already. False where it has.
    bool cancel(std::uint64_t id);

    // Makes progress on every socket that is ready; waits for one until the deadline (0 = does not wait).
    void poll(Nanos deadline);
    // What completed first, until it is taken; nullptr where there is none.
    Completion* first();
    void take_first();
    bool in_call() const { return in_call_.load(std::memory_order_acquire); }  // any thread
    void wake() { inbox_.wakeup()->wake(); }                                   // any thread
    void follow_log();                                                         // wakes when the pool's log has a line

  private:
    class InCall;
    class Submission;

    void go_on(AsyncOperation& operation, bool readable = false);
    void replace(AsyncOperation& operation);
    void answered(AsyncOperation& operation);
    void granted(AsyncOperation& operation);
    bool ask(AsyncOperation& operation, const AcquireRequest& request);
    void begin(AsyncOperation& operation, Lease& lease, bool has_statement, Nanos deadline);
    void abandon(AsyncOperation& operation);
    void prepare(Lease& lease, Nanos deadline);
    void on_release(Lease& lease) override;
    void let_go(Lease& lease);
    void on_socket(std::uint64_t key);
    void expire();
    void arm(Nanos deadline);
    void take_inbox();

    const std::shared_ptr<Pool> pool_;
    Inbox inbox_{*this};
    Poller poller_;
    Nanos armed_ = kNever;
    LeaseSockets sockets_{poller_};
    AsyncOperations operations_;
    bool more_ = false;  // a socket may hold more than was read from it
    std::atomic<bool> in_call_{false};
};

}  // namespace pqpool
