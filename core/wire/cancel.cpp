#include "core/wire/cancel.hpp"

#include <libpq-fe.h>
#include <poll.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <new>

namespace pqpool {

#ifdef LIBPQ_HAS_ASYNC_CANCEL

// As the session came: over TLS where that did.
class CancelRequest::Way {
  public:
    explicit Way(pg_conn* pg) : cancel_(PQcancelCreate(pg)) {
        if (!cancel_) throw std::bad_alloc();
        if (PQcancelStatus(cancel_) != CONNECTION_BAD) return;
        // Half made, for want of memory: PQcancelReset would let it be started all the same, and libpq crash.
        PQcancelFinish(cancel_);
        throw std::bad_alloc();
    }
    ~Way() { PQcancelFinish(cancel_); }
    Way(const Way&) = delete;

    // Where the server is out of reach it is tried again from the start: nothing was said then. Once it was said, its
    // end is waited for.
    void go(const CancelRequest& request) {
        if (in_use_.exchange(true)) return;  // one that hangs starts anew by itself
        while (!request.is_called_off() && !attempt(request)) PQcancelReset(cancel_);
        PQcancelReset(cancel_);
        in_use_ = false;
    }

  private:
    bool is_said() const { return PQcancelStatus(cancel_) == CONNECTION_AWAITING_RESPONSE; }

    bool attempt(const CancelRequest& request) {
        if (PQcancelStart(cancel_) != 1) return true;
        const Nanos until = monotonic_now() + kSecond;
        auto next = PGRES_POLLING_WRITING;
        while (next == PGRES_POLLING_WRITING || next == PGRES_POLLING_READING) {
            const bool gives_up = monotonic_now() >= until || request.is_called_off();
            if (gives_up && !is_said()) return false;
            pollfd socket{PQcancelSocket(cancel_), static_cast<short>(next == PGRES_POLLING_READING ? POLLIN : POLLOUT),
                          0};
            poll(&socket, 1, kPollMilliseconds);
            if (socket.revents != 0) next = PQcancelPoll(cancel_);
        }
        return true;  // a failure needs no answer: the batch's own deadline decides
    }

    static constexpr int kPollMilliseconds = 100;

    pg_cancel_conn* const cancel_;
    std::atomic<bool> in_use_ = false;
};

#else

// In plain text, even where the session has TLS: libpq before 17 knows no other way.
class CancelRequest::Way {
  public:
    explicit Way(pg_conn* pg) : cancel_(PQgetCancel(pg)) {
        if (!cancel_) throw std::bad_alloc();
    }
    ~Way() { PQfreeCancel(cancel_); }
    Way(const Way&) = delete;

    void go(const CancelRequest&) {
        char problem[256];
        PQcancel(cancel_, problem, sizeof problem);  // a failure needs no answer: the batch's own deadline decides
    }

  private:
    pg_cancel* const cancel_;
};

#endif

CancelRequest::CancelRequest(pg_conn* pg) : way_(std::make_unique<Way>(pg)) {}
CancelRequest::~CancelRequest() = default;

void CancelRequest::send() {
    {
        std::lock_guard lock(mutex_);
        if (called_off_) return;
        sending_++;
    }
    way_->go(*this);
    {
        std::lock_guard lock(mutex_);
        sending_--;
    }
    changed_.notify_all();
}

bool CancelRequest::call_off() {
    std::lock_guard lock(mutex_);
    called_off_ = true;
    return sending_ == 0;
}

bool CancelRequest::wait_until_called_off(Nanos deadline) {
    std::unique_lock lock(mutex_);
    const auto until = std::chrono::steady_clock::time_point(std::chrono::nanoseconds(deadline));
    called_off_ = true;
    return changed_.wait_until(lock, until, [this] { return sending_ == 0; });
}

bool CancelRequest::is_called_off() const {
    std::lock_guard lock(mutex_);
    return called_off_;
}

}  // namespace pqpool
