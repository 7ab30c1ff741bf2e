// Large files would rename some of the functions that stand here.
#undef _FILE_OFFSET_BITS

#include "failures.hpp"

#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstring>

namespace faults {

namespace {

std::atomic<bool> armed{false};
std::atomic<long> count{0};
Kind what;
long first, last;

}  // namespace

void it_fails();
[[gnu::noinline]] void it_fails() { asm volatile(""); }

namespace {

bool fails(Kind kind) {
    if (!armed.load(std::memory_order_acquire) || kind != what) return false;
    const long n = ++count;
    const bool it_does = n >= first && n <= last;
    if (it_does) it_fails();
    return it_does;
}

// Large is what a process meets its limit with.
bool lacks(size_t size) { return fails(Kind::memory) || (size >= 1'000'000 && fails(Kind::large_memory)); }

int failed(int error) {
    errno = error;
    return -1;
}

// The C library's own, resolved at the first call.
#define REAL(name)                                                                            \
    ([] {                                                                                     \
        static const auto own = reinterpret_cast<decltype(&::name)>(dlsym(RTLD_NEXT, #name)); \
        return own;                                                                           \
    }())

}  // namespace

const char* name_of(Kind kind) {
    switch (kind) {
#define X(name)      \
    case Kind::name: \
        return #name;
        FAULTS_KINDS(X)
#undef X
    }
    return "";
}

bool kind_of(const char* name, Kind& kind) {
    for (int i = 0; i < kKinds; i++) {
        kind = static_cast<Kind>(i);
        if (std::strcmp(name, name_of(kind)) == 0) return true;
    }
    return false;
}

void arm(Kind kind, long nth, long length) {
    what = kind;
    first = nth;
    last = nth + length - 1;
    resume();
}

void pause() { armed.store(false, std::memory_order_release); }
void resume() { armed.store(true, std::memory_order_release); }
long counted() { return count.load(); }

}  // namespace faults

using faults::failed;
using faults::fails;
using faults::Kind;
using faults::lacks;

extern "C" {

void* __libc_malloc(size_t size);
void* __libc_calloc(size_t count, size_t size);
void* __libc_realloc(void* old, size_t size);

void* malloc(size_t size) {
    if (!lacks(size)) return __libc_malloc(size);
    errno = ENOMEM;
    return nullptr;
}

void* calloc(size_t count, size_t size) {
    if (!lacks(count * size)) return __libc_calloc(count, size);
    errno = ENOMEM;
    return nullptr;
}

void* realloc(void* old, size_t size) {
    if (!lacks(size)) return __libc_realloc(old, size);
    errno = ENOMEM;
    return nullptr;
}

int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*body)(void*), void* argument) {
    return fails(Kind::threads) ? EAGAIN : REAL(pthread_create)(thread, attributes, body, argument);
}

int epoll_create1(int flags) noexcept {
    return fails(Kind::epoll_create1) ? failed(EMFILE) : REAL(epoll_create1)(flags);
}

int epoll_ctl(int set, int operation, int fd, epoll_event* event) noexcept {
    // Taking out never fails for want of anything.
    if (operation != EPOLL_CTL_DEL && fails(Kind::epoll_ctl)) return failed(ENOSPC);
    return REAL(epoll_ctl)(set, operation, fd, event);
}

int eventfd(unsigned int value, int flags) noexcept {
    return fails(Kind::eventfd) ? failed(EMFILE) : REAL(eventfd)(value, flags);
}

int timerfd_create(clockid_t clock, int flags) noexcept {
    return fails(Kind::timerfd_create) ? failed(EMFILE) : REAL(timerfd_create)(clock, flags);
}

int timerfd_settime(int fd, int flags, const itimerspec* at, itimerspec* before) noexcept {
    return fails(Kind::timerfd_settime) ? failed(ENOMEM) : REAL(timerfd_settime)(fd, flags, at, before);
}

int poll(pollfd* fds, nfds_t count, int timeout) {
    return fails(Kind::poll) ? failed(ENOMEM) : REAL(poll)(fds, count, timeout);
}

int socket(int domain, int type, int protocol) noexcept {
    return fails(Kind::socket) ? failed(EMFILE) : REAL(socket)(domain, type, protocol);
}

int connect(int fd, const sockaddr* address, socklen_t length) {
    return fails(Kind::connect) ? failed(EAGAIN) : REAL(connect)(fd, address, length);
}

static int fcntl_or_fail(int fd, int command, void* argument) {
    return fails(Kind::fcntl) ? failed(EMFILE) : REAL(fcntl)(fd, command, argument);
}

int fcntl(int fd, int command, ...) {
    va_list arguments;
    va_start(arguments, command);
    void* argument = va_arg(arguments, void*);
    va_end(arguments);
    return fcntl_or_fail(fd, command, argument);
}

int fcntl64(int fd, int command, ...) {
    va_list arguments;
    va_start(arguments, command);
    void* argument = va_arg(arguments, void*);
    va_end(arguments);
    return fcntl_or_fail(fd, command, argument);
}

FILE* fopen(const char* path, const char* mode) {
    if (!fails(Kind::fopen)) return REAL(fopen)(path, mode);
    errno = EMFILE;
    return nullptr;
}

FILE* fopen64(const char* path, const char* mode) { return fopen(path, mode); }

}  // extern "C"
