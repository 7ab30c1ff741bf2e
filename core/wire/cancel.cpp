#include "core/wire/cancel.hpp"

#include <libpq-fe.h>

#include <chrono>

namespace pqpool {

void CancelRequest::send() {
    {
        std::lock_guard lock(mutex_);
        if (called_off_) return;
        sending_++;
    }
    char problem[256];
    PQcancel(handle_.get(), problem, sizeof problem);  // a failure needs no answer: the batch's own deadline decides
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
