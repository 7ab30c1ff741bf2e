#include "core/base/error.hpp"

#include <algorithm>
#include <new>

#include "core/base/text.hpp"

namespace pqpool {

namespace {

bool is_sqlstate(std::string_view text) {
    return text.size() == 5 && std::all_of(text.begin(), text.end(),
                                           [](char c) { return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z'); });
}

}  // namespace

Error::Error(ErrorKind kind, std::string message, std::string_view sqlstate)
    : kind(kind),
      message(valid_utf8(std::move(message))),
      sqlstate(is_sqlstate(sqlstate) ? sqlstate : std::string_view()) {}

const char* name_of(ErrorKind kind) {
    switch (kind) {
#define X(name, status, meaning) \
    case ErrorKind::name:        \
        return #name;
        PQPOOL_ERROR_KINDS(X)
#undef X
    }
    return "internal";
}

static Error out_of_memory(ErrorKind kind) noexcept { return {kind, "out of memory"}; }  // fits into the string itself

Error error_under_way() noexcept {
    ErrorKind kind = ErrorKind::internal;
    try {
        try {
            throw;
        } catch (const Error& e) {
            kind = e.kind;
            return e;
        } catch (const std::bad_alloc&) {
            return out_of_memory(kind);
        } catch (const std::exception& e) {
            return {kind, e.what()};
        } catch (...) {
            return {kind, "an unknown exception was thrown"};
        }
    } catch (const std::bad_alloc&) {
        return out_of_memory(kind);
    }
}

Error error_of(ErrorKind kind, const char* text) noexcept {
    try {
        return {kind, text};
    } catch (const std::bad_alloc&) {
        return out_of_memory(kind);
    }
}

bool is_final_for_connect(std::string_view sqlstate) {
    return sqlstate.starts_with("28")     // invalid authorization: password, role, pg_hba.conf
           || sqlstate == "3D000"         // no such database
           || sqlstate == "42501"         // no privilege to connect
           || sqlstate.starts_with("22")  // a startup parameter is malformed
           || sqlstate == "42704";        // a startup parameter is unknown
}

}  // namespace pqpool
