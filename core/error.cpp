#include "core/error.hpp"

namespace pqpool {

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

bool is_final_for_connect(std::string_view sqlstate) {
    return sqlstate.starts_with("28")     // invalid authorization: password, role, pg_hba.conf
           || sqlstate == "3D000"         // no such database
           || sqlstate == "42501"         // no privilege to connect
           || sqlstate.starts_with("22")  // a startup parameter is malformed
           || sqlstate == "42704";        // a startup parameter is unknown
}

}  // namespace pqpool
