// Feeds the decoders of values with anything: they may give a value or a Python error, and nothing else.
//
// The first byte chooses the form, the second the type, and the rest is the value, in memory of exactly its size.

#include <cstdio>
#include <cstdlib>
#include <memory>

#include "values.hpp"

namespace pqpool_python {

PyObject* raise_error(const char*, std::string_view message) {  // the module's, of which nothing else is needed here
    PyErr_SetString(PyExc_RuntimeError, std::string(message).c_str());
    return nullptr;
}

}  // namespace pqpool_python

using namespace pqpool_python;

namespace {

constexpr uint32_t kTypes[] = {
#define X(enumerator, name, oid, array) oid, array,
    PQPOOL_TYPES_WITH_ARRAY(X)
#undef X
#define X(enumerator, name, oid) oid,
        PQPOOL_TYPES_ALONE(X)
#undef X
            600,  // point: no decoder
};

void stop(const char* why, uint32_t type) {
    std::fprintf(stderr, "%s (type %u)\n", why, type);
    if (PyErr_Occurred()) PyErr_Print();
    std::abort();
}

// Of every error that is meant, and of none that tells of a defect (SystemError, RecursionError).
bool is_expected_error() {
    for (PyObject* type : {PyExc_OverflowError, PyExc_ValueError})
        if (PyErr_ExceptionMatches(type)) return true;
    return PyErr_Occurred() == PyExc_RuntimeError;
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
    setenv("PYTHONMALLOC", "malloc", 1);  // so that the sanitizer sees Python's objects too
    Py_InitializeEx(0);
    if (!prepare_python_types()) stop("Python is not ready", 0);
    return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
    if (size < 2) return 0;
    const uint32_t type = kTypes[data[1] % std::size(kTypes)];
    const std::size_t length = size - 2;
    const std::unique_ptr<char[]> value(new char[length]);
    std::copy(data + 2, data + size, value.get());
    const Ref decoded = data[0] % 2 ? decode_text(type, value.get(), length) : decode_binary(type, value.get(), length);
    if (static_cast<bool>(decoded) == (PyErr_Occurred() != nullptr)) stop("a value and an error, or neither", type);
    if (!decoded && !is_expected_error()) stop("an error that nobody meant", type);
    PyErr_Clear();
    return 0;
}
