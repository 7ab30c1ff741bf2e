// A strong reference to a Python object, and what the files of the module share. All of it needs the GIL.
#pragma once

#include <Python.h>

#include <cstdint>
#include <exception>
#include <new>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pqpool.h"

namespace pqpool_python {

class Ref {
  public:
    Ref() = default;
    static Ref steal(PyObject* object) {
        Ref ref;
        ref.object_ = object;
        return ref;
    }
    static Ref borrow(PyObject* object) {
        Py_XINCREF(object);
        return steal(object);
    }
    ~Ref() { Py_XDECREF(object_); }
    Ref(Ref&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
    Ref& operator=(Ref&& other) noexcept {
        PyObject* old = std::exchange(object_, std::exchange(other.object_, nullptr));
        Py_XDECREF(old);
        return *this;
    }
    Ref(const Ref&) = delete;

    PyObject* get() const { return object_; }
    PyObject* release() { return std::exchange(object_, nullptr); }
    explicit operator bool() const { return object_ != nullptr; }

  private:
    PyObject* object_ = nullptr;
};

// ---- text ----

// A str of what the C interface says. That is UTF-8; should it not be, the rest is still told.
inline Ref text_of(const char* text) {
    if (!text) text = "";
    return Ref::steal(
        PyUnicode_DecodeUTF8(text, static_cast<Py_ssize_t>(std::char_traits<char>::length(text)), "replace"));
}

// ---- errors: pqpool.exceptions.make_error builds every one ----

// The Python error that is set, taken off; where none is, as after a failure that said nothing, a MemoryError. Never
// empty.
Ref caught_error();

// Sets the Python error for a status of this thread's last call. Always nullptr.
PyObject* raise_last_error(int32_t status);
Ref error_of_result(int32_t status, const pqpool_result* result);  // never empty
PyObject* raise_error(const char* kind, std::string_view message);

// Runs a function that Python's C code has called, which no C++ exception may reach: it becomes Python's, and the
// result is the empty one.
template <class Function>
auto without_exceptions(Function&& function) noexcept -> decltype(function()) {
    try {
        return function();
    } catch (const std::bad_alloc&) {
        PyErr_NoMemory();
    } catch (const std::exception& error) {
        PyErr_SetString(PyExc_SystemError, error.what());
    }
    return {};
}

// ---- records ----

bool add_record_type(PyObject* module);
// What the rows of one result share: the names, and where each stands.
Ref make_record_shape(const pqpool_result* result);
Ref make_record(PyObject* shape, Py_ssize_t size);  // its items are still empty
void set_record_item(PyObject* record, Py_ssize_t index, Ref item);

// ---- values ----

bool prepare_conversions();
bool prepare_parameter_types();
// The value of one cell; an empty Ref with a Python error set where it cannot be had.
Ref decode(const pqpool_result* result, int32_t row, int32_t column);

// A statement's parameters as the C interface takes them, types following the Python values. Reused, it allocates
// nothing. They stand as long as the Python values do.
class Parameters {
  public:
    bool assign(PyObject* const* values, Py_ssize_t count);  // false with a Python error set
    const pqpool_parameter* data() const { return parameters_.data(); }
    std::size_t size() const { return parameters_.size(); }
    void shrink();  // what a huge statement needed is not kept for the next one

  private:
    bool convert(PyObject* const* values, Py_ssize_t count);
    bool is_sendable() const;
    bool add(PyObject* value);
    void add_written(uint32_t type, bool binary, std::size_t from);

    struct Piece {
        uint32_t type;
        bool binary, null;
        const char* value;  // in the Python object; nullptr: in bytes_
        std::size_t offset, length;
    };
    std::vector<Piece> pieces_;
    std::string bytes_;
    std::vector<pqpool_parameter> parameters_;
};

// ---- the event loop's side ----

bool add_driver_types(PyObject* module);

}  // namespace pqpool_python
