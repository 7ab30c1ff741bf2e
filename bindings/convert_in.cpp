// Python values to parameters. The type follows the value; text, and a datetime without a zone, is left to the server
// to infer, so that it fits whatever column it is for.
//
// What has a fixed binary layout goes in it, and the rest as text that means the same under every setting of the
// session.

#include "parameters.hpp"

namespace pqpool_python {

namespace {

constexpr std::size_t kMostBytes = 0x3FFF'FFFF;  // of a message that PostgreSQL takes
constexpr std::size_t kBytesAround = 16;         // each value's length and format, and with them the message's head
constexpr std::size_t kKeptBytes = 1 << 20;

// The error that is set, as the cause of one that names the parameter. What is no plain error stays as it is.
void name_parameter(PyObject* value, Py_ssize_t number) {
    if (!PyErr_ExceptionMatches(PyExc_Exception) || PyErr_ExceptionMatches(PyExc_MemoryError)) return;
    PyObject *type, *cause, *trace;
    PyErr_Fetch(&type, &cause, &trace);
    PyErr_NormalizeException(&type, &cause, &trace);
    Py_XDECREF(trace);
    const Ref kind = Ref::steal(type), words = Ref::steal(PyObject_Str(cause));
    const char* text = words ? PyUnicode_AsUTF8(words.get()) : nullptr;
    if (!text) PyErr_Clear();
    raise_error("invalid_argument", "parameter $" + std::to_string(number) + ", a " + Py_TYPE(value)->tp_name +
                                        ", cannot be converted: " + (text ? text : Py_TYPE(cause)->tp_name));
    PyObject *new_type, *error, *new_trace;
    PyErr_Fetch(&new_type, &error, &new_trace);
    PyErr_NormalizeException(&new_type, &error, &new_trace);
    PyException_SetCause(error, cause);  // steals it
    PyErr_Restore(new_type, error, new_trace);
}

}  // namespace

bool Parameters::assign(PyObject* const* values, Py_ssize_t count) {
    return without_exceptions([&] { return convert(values, count); });
}

bool Parameters::convert(PyObject* const* values, Py_ssize_t count) {
    pieces_.clear();
    bytes_.clear();
    parameters_.clear();
    for (Py_ssize_t i = 0; i < count; i++) {
        try {
            if (add(values[i])) continue;
            if (!PyErr_Occurred()) refuse_type(values[i], false);
            name_parameter(values[i], i + 1);
        } catch (const Refused& refused) {
            PyErr_Clear();
            raise_error("invalid_argument", "parameter $" + std::to_string(i + 1) + " " + refused.why);
        }
        return false;
    }
    if (!is_sendable()) return false;
    for (const Piece& piece : pieces_) {  // only now do the bytes stand still
        const char* value = piece.value ? piece.value : bytes_.data() + piece.offset;
        parameters_.push_back(
            {piece.null ? nullptr : value, piece.type, static_cast<int32_t>(piece.length), piece.binary, 0});
    }
    return true;
}

bool Parameters::is_sendable() const {
    std::size_t sum = 0;
    const Piece* longest = nullptr;
    for (const Piece& piece : pieces_) {
        sum += piece.length + kBytesAround;
        if (!longest || piece.length > longest->length) longest = &piece;
    }
    if (sum <= kMostBytes) return true;
    raise_error("invalid_argument", "the parameters have " + std::to_string(sum) +
                                        " bytes in all, and PostgreSQL takes " + std::to_string(kMostBytes) +
                                        " (the longest is $" + std::to_string(longest - pieces_.data() + 1) + " with " +
                                        std::to_string(longest->length) +
                                        "). Suggestion: send the value in parts, or as a large object");
    return false;
}

void Parameters::shrink() {
    if (bytes_.capacity() > kKeptBytes) bytes_ = {};
}

// What was appended to bytes_ from there on.
void Parameters::add_written(uint32_t type, bool binary, std::size_t from) {
    pieces_.push_back({type, binary, false, nullptr, from, bytes_.size() - from});
    bytes_.push_back('\0');  // text ends with it
}

bool Parameters::add(PyObject* value) {
    const std::size_t from = bytes_.size();
    if (PyLong_CheckExact(value)) {  // the most frequent by far
        const uint32_t type = type_of(kInteger, value);
        if (type != kNumeric) {
            if (!write_binary(type, kInteger, value, bytes_)) return false;
            add_written(type, true, from);
            return true;
        }
    }
    Ref ref = Ref::borrow(value);
    const Kind kind = kind_of(ref);
    switch (kind) {
        case kNothing:
            return false;
        case kNull:
            pieces_.push_back({kUnknown, false, true, nullptr, 0, 0});
            return true;
        case kString: {
            std::string_view text;
            if (!utf8_of(value, text)) return false;
            pieces_.push_back({kUnknown, false, false, text.data(), 0, text.size()});
            return true;
        }
        case kBytes:
            if (PyBytes_Check(value)) {
                pieces_.push_back({kBytea, true, false, PyBytes_AS_STRING(value), 0,
                                   static_cast<std::size_t>(PyBytes_GET_SIZE(value))});
                return true;
            }
            break;
        case kList: {
            uint32_t type = kUnknown;
            bool binary = false;
            if (!write_array(value, type, binary, bytes_)) return false;
            add_written(type, binary, from);
            return true;
        }
        default:
            break;
    }
    const uint32_t type = type_of(kind, ref.get());
    const bool binary = type != kUnknown && type != kNumeric;
    if (!(binary ? write_binary(type, kind, ref.get(), bytes_) : write_text(kind, ref.get(), bytes_))) return false;
    add_written(type, binary, from);
    return true;
}

}  // namespace pqpool_python
