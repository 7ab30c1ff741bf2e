// Makes one call of a kind fail, or a few in a row: the kinds below stand in front of the C library's own, for every
// library of the process, so that the product needs no hooks.
#pragma once

namespace faults {

// X(name, what it is called)
#define FAULTS_KINDS(X) \
    X(memory)           \
    X(large_memory)     \
    X(threads)          \
    X(epoll_create1)    \
    X(epoll_ctl)        \
    X(eventfd)          \
    X(timerfd_create)   \
    X(timerfd_settime)  \
    X(fcntl)            \
    X(poll)             \
    X(socket)           \
    X(connect)          \
    X(fopen)

enum class Kind {
#define X(name) name,
    FAULTS_KINDS(X)
#undef X
};

const char* name_of(Kind kind);
bool kind_of(const char* name, Kind& kind);
constexpr int kKinds = 0
#define X(name) +1
    FAULTS_KINDS(X)
#undef X
    ;

// From now on calls of the kind are counted, on every thread, and those from the nth to the (nth + length - 1)th fail.
void arm(Kind kind, long nth, long length);
void pause();   // nothing fails and nothing is counted
void resume();  // the count goes on
long counted();

}  // namespace faults
