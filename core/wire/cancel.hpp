// A cancel request that outlives the hands of the connection's owner.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>

#include "core/base/clock.hpp"

struct pg_conn;

namespace pqpool {

// One that reaches a server process which has not read the statement yet hits nothing, so the keeper repeats it from
// the errands thread until whoever holds the connection calls it off.
class CancelRequest {
  public:
    // Of the session of an open connection, which may end before the request does.
    explicit CancelRequest(pg_conn* pg);
    ~CancelRequest();
    CancelRequest(const CancelRequest&) = delete;

    void send();  // blocks until the server has taken it, or it failed; does nothing where it was called off
    // After this nothing is sent any more. False where it is being sent right now, and may hit whatever runs until that
    // is over.
    bool call_off();
    bool wait_until_called_off(Nanos deadline);
    bool is_called_off() const;

  private:
    class Way;  // to the server

    const std::unique_ptr<Way> way_;
    mutable std::mutex mutex_;
    std::condition_variable changed_;
    int sending_ = 0;  // one that hangs is sent again beside it
    bool called_off_ = false;
};

}  // namespace pqpool
