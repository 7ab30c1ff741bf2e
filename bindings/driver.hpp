// The pool as the module's other files see it.
#pragma once

#include <sys/types.h>

#include <memory>

#include "object.hpp"

namespace pqpool_python {

// Shared by the Python Pool object and every driver on it.
struct PoolHandle {
    pqpool_pool* pool = nullptr;
    pid_t hands_log_on = 0;  // the process in which a thread is at it, else 0; needs the GIL
    PoolHandle() = default;
    PoolHandle(const PoolHandle&) = delete;
    ~PoolHandle();  // lets go of the GIL while the pool's thread is joined
};

// nullptr with a Python error where `object` is no Pool.
std::shared_ptr<PoolHandle> pool_of(PyObject* object);

}  // namespace pqpool_python
