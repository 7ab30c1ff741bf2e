// The one place where an exception ends: every function of the C interface runs its body in guarded().
#pragma once

#include <cstdint>
#include <new>

#include "core/base/error.hpp"
#include "core/base/thread_own.hpp"
#include "core/wire/result.hpp"

namespace pqpool::capi {

// The text of the thread's last failure, in fixed arrays, so that failing allocates nothing. Trivially destructible:
// see ThreadOwn.
struct LastError {
    char message[2048] = "";
    char sqlstate[6] = "";
    bool has_result = false;

    void clear();
    Result& result() const { return ThreadOwn<Result>::get(); }  // the server's error behind it, for its fields
    std::int32_t set(ErrorKind kind, const char* message, const char* sqlstate = "");
};
LastError& last_error();

template <class Body>
std::int32_t guarded(Body&& body) noexcept {
    LastError& last = last_error();
    last.clear();
    try {
        body();
        return 0;
    } catch (const Error& e) {
        return last.set(e.kind, e.message.c_str(), e.sqlstate.c_str());
    } catch (const std::bad_alloc&) {
        return last.set(ErrorKind::internal, "out of memory");
    } catch (const std::exception& e) {
        return last.set(ErrorKind::internal, e.what());
    } catch (...) {
        return last.set(ErrorKind::internal, "an unknown exception was thrown");
    }
}

template <class T>
T& wanted(T* argument, const char* name) {
    if (!argument)
        throw Error(
            ErrorKind::invalid_argument,
            std::string(name) + " is NULL. Suggestion: pass the object that the matching create or open function gave");
    return *argument;
}

}  // namespace pqpool::capi
