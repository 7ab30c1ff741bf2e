#include "core/run/canceller.hpp"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <new>
#include <utility>

namespace pqpool {

namespace {

// A cancel request that hit nothing is sent again after 0.1, 0.4 and 1.6 s.
constexpr Nanos kPause = 100 * kMillisecond;
constexpr Nanos kLongestPause = 1600 * kMillisecond;
// One that hangs for so long is sent once more beside it.
constexpr Nanos kHangs = kSecond;
constexpr std::size_t kThreads = 16;
// So long the end waits for requests to be sent.
constexpr Nanos kFarewell = 200 * kMillisecond;

}  // namespace

struct Canceller::Inbox {
    std::function<void()> wake;
    std::mutex mutex;
    std::vector<Sending> added;
    std::vector<std::shared_ptr<CancelRequest>> sent;
    int sending = 0;
    std::condition_variable has_sent;
};

Canceller::Canceller(std::function<void()> wake) : inbox_(std::make_shared<Inbox>()), errands_(kThreads) {
    inbox_->wake = std::move(wake);
}

// A pool that ends, perhaps with its process, leaves no statement behind where the server takes the word at once.
Canceller::~Canceller() {
    std::unique_lock lock(inbox_->mutex);
    inbox_->has_sent.wait_for(lock, std::chrono::nanoseconds(kFarewell), [this] { return inbox_->sending == 0; });
}

// Whatever fails here: who waits for the request goes on, and the statement's own deadline decides.
void Canceller::send(std::shared_ptr<CancelRequest> request, std::shared_ptr<Wakeup> also_wake) noexcept {
    const Sending sending{std::move(request), std::move(also_wake), kPause, monotonic_now() + kHangs};
    try {
        std::lock_guard lock(inbox_->mutex);
        inbox_->added.push_back(sending);
    } catch (const std::bad_alloc&) {
    }
    send(sending);
    inbox_->wake();
}

void Canceller::send(const Sending& sending) noexcept {
    const auto sent = [request = sending.request, also_wake = sending.also_wake, inbox = inbox_] {
        {
            std::lock_guard lock(inbox->mutex);
            inbox->sending--;
            try {
                inbox->sent.push_back(request);
            } catch (const std::bad_alloc&) {
            }
        }
        inbox->has_sent.notify_all();
        inbox->wake();
        if (also_wake) also_wake->wake();
    };
    {
        std::lock_guard lock(inbox_->mutex);
        inbox_->sending++;
    }
    try {
        errands_.run([request = sending.request, sent] {
            request->send();
            sent();
        });
    } catch (...) {
        sent();
    }
}

void Canceller::collect(Nanos now) {
    std::vector<Sending> added;
    std::vector<std::shared_ptr<CancelRequest>> sent;
    {
        std::lock_guard lock(inbox_->mutex);
        added.swap(inbox_->added);
        sent.swap(inbox_->sent);
    }
    for (auto& sending : added) under_way_.push_back(std::move(sending));
    for (const auto& request : sent)
        std::erase_if(under_way_, [&](Sending& sending) {
            if (sending.request != request) return false;
            sending.sent = true;
            sending.due = now + sending.pause;
            return sending.pause > kLongestPause || request->is_called_off();
        });
}

void Canceller::go_on(Nanos now) {
    collect(now);
    std::erase_if(under_way_, [&](Sending& sending) {
        if (sending.due > now) return false;
        if (sending.request->is_called_off() || (!sending.sent && sending.beside)) return true;
        if (sending.sent)
            sending.pause *= 4;
        else
            sending.beside = true;
        sending.sent = false;
        sending.due = now + kHangs;
        send(sending);
        return false;
    });
}

Nanos Canceller::due() const {
    Nanos next = kNever;
    for (const auto& sending : under_way_) next = std::min(next, sending.due);
    return next;
}

}  // namespace pqpool
