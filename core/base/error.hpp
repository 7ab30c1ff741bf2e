// What can go wrong, in one list. Every layer above expands it: C statuses, Python classes, documentation.
#pragma once

#include <cstdint>
#include <exception>
#include <string>
#include <string_view>
#include <utility>

namespace pqpool {

// X(enumerator, status of the C ABI, meaning). The enumerator is the kind's name everywhere.
#define PQPOOL_ERROR_KINDS(X)                                                                              \
    X(configuration, -1, "an option is missing, malformed or out of its bounds")                           \
    X(initialization, -2, "the pool could not open its first connections")                                 \
    X(timeout, -3, "no connection became free within the acquire's timeout")                               \
    X(closed, -4, "the pool is shutting down or terminated")                                               \
    X(validation, -5, "the connection was lost with its validation; whether the statement ran is unknown") \
    X(not_initialized, -6, "the pool has not been opened yet")                                             \
    X(too_many_requests, -7, "max_waiting requests are waiting already")                                   \
    X(connection_lost, -8, "the connection was lost during a lease")                                       \
    X(query, -9, "the server refused the statement; sqlstate and fields tell why")                         \
    X(statement_timeout, -10, "the statement took longer than its timeout and was cancelled")              \
    X(cancelled, -11, "the request was cancelled")                                                         \
    X(released, -12, "the lease was released already")                                                     \
    X(busy, -13, "another statement is under way on this lease")                                           \
    X(forked, -14, "the object belongs to the parent process")                                             \
    X(invalid_argument, -15, "an argument of the call is invalid")                                         \
    X(unsupported, -16, "this cannot be done through this call")                                           \
    X(internal, -17, "out of memory, or a defect of the pool")

enum class ErrorKind : std::int32_t {
#define X(name, status, meaning) name = (status),
    PQPOOL_ERROR_KINDS(X)
#undef X
};

const char* name_of(ErrorKind kind);

class Error : public std::exception {
  public:
    // The message is made UTF-8: servers, libpq and the system may speak in another encoding.
    Error(ErrorKind kind, std::string message, std::string_view sqlstate = {});

    const char* what() const noexcept override { return message.c_str(); }

    ErrorKind kind;
    std::string message;   // what happened, to what, with which values; then what to do
    std::string sqlstate;  // five characters, or empty where no server spoke
};

// For where a failure must be told and nothing may fail: the exception under way as an Error, and an Error of this
// text; where there is no memory for the text, it says that instead.
Error error_under_way() noexcept;
Error error_of(ErrorKind kind, const char* text) noexcept;

// For what tells of something and is not the thing, such as a line of the log: without memory it is left out.
template <class Body>
void best_effort(Body&& body) noexcept {
    try {
        body();
    } catch (const std::exception&) {
    }
}

// What an SQLSTATE means for a connection attempt: whether trying again can help.
bool is_final_for_connect(std::string_view sqlstate);

}  // namespace pqpool
