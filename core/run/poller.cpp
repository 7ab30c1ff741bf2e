#include "core/run/poller.hpp"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <system_error>

#include "core/base/error.hpp"

namespace pqpool {

namespace {

int checked(int result, const char* what) {
    if (result >= 0) return result;
    const int error = errno;
    const char* cure = error == EMFILE || error == ENFILE ? "raise the limit on open files (ulimit -n)"
                       : error == ENOSPC                  ? "raise fs.epoll.max_user_watches"
                                                          : "free memory, or raise the limit on it";
    throw Error(ErrorKind::internal,
                std::string(what) + " failed: " + std::generic_category().message(error) + ". Suggestion: " + cure);
}

// Rounded up, so that a wait never ends just before its deadline.
int milliseconds_until(Nanos deadline) {
    if (deadline == kNever) return -1;
    if (deadline <= 0) return 0;
    const Nanos left = deadline - monotonic_now();
    return left <= 0 ? 0 : static_cast<int>(std::min<Nanos>((left + kMillisecond - 1) / kMillisecond, INT_MAX));
}

}  // namespace

Wakeup::Wakeup() : fd_(checked(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd")) {}
Wakeup::~Wakeup() { close(fd_); }

void Wakeup::wake() const {
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto written = write(fd_, &one, sizeof one);  // fails only when it is readable already
}

void Wakeup::clear() const {
    std::uint64_t count;
    [[maybe_unused]] const auto taken = read(fd_, &count, sizeof count);
}

Poller::Poller() : fd_(checked(epoll_create1(EPOLL_CLOEXEC), "epoll_create1")) {}

Poller::~Poller() {
    if (timer_fd_ >= 0) close(timer_fd_);
    close(fd_);
}

void Poller::watch(int fd, std::uint32_t what, std::uint64_t key) {
    epoll_event event{};
    event.events =
        ((what & kRead) ? EPOLLIN : 0u) | ((what & kWrite) ? EPOLLOUT : 0u) | ((what & kHangUp) ? EPOLLRDHUP : 0u);
    event.data.u64 = key;
    if (epoll_ctl(fd_, EPOLL_CTL_MOD, fd, &event) == 0) return;
    if (errno != ENOENT || epoll_ctl(fd_, EPOLL_CTL_ADD, fd, &event) != 0) checked(-1, "epoll_ctl");
}

void Poller::forget(int fd) { epoll_ctl(fd_, EPOLL_CTL_DEL, fd, nullptr); }

int Poller::wait(std::uint64_t* keys, int capacity, Nanos deadline) {
    epoll_event ready[64];
    const int count = epoll_wait(fd_, ready, std::min(capacity, 64), milliseconds_until(deadline));
    for (int i = 0; i < count; i++) keys[i] = ready[i].data.u64;
    return std::max(count, 0);
}

void Poller::make_timer(std::uint64_t key) {
    timer_fd_ = checked(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK), "timerfd_create");
    watch(timer_fd_, kRead, key);
}

void Poller::arm_timer(Nanos deadline) {
    itimerspec at{};  // all zero disarms
    if (deadline != kNever) {
        deadline = std::max<Nanos>(deadline, 1);
        at.it_value.tv_sec = deadline / kSecond;
        at.it_value.tv_nsec = deadline % kSecond;
    }
    checked(timerfd_settime(timer_fd_, TFD_TIMER_ABSTIME, &at, nullptr), "timerfd_settime");
}

bool wait_for_socket(int fd, std::uint32_t what, Nanos deadline) {
    pollfd p{};
    p.fd = fd;
    p.events =
        static_cast<short>(((what & Poller::kRead) ? POLLIN | POLLRDHUP : 0) | ((what & Poller::kWrite) ? POLLOUT : 0));
    for (;;) {
        const int count = poll(&p, 1, milliseconds_until(deadline));
        if (count < 0 && errno == EINTR) continue;
        checked(count, "poll");
        return count > 0;
    }
}

}  // namespace pqpool
