// Python values to parameters. The type follows the value; text is left to the server to infer, as with asyncpg, so
// that a str fits a date, a uuid, an enum or a text column.

#include <cstring>

#include "object.hpp"

#include <datetime.h>  // wants Python.h before it

namespace pqpool_python {

namespace {

enum Oid : uint32_t {
    kUnknown = 0,
    kBool = 16,
    kBytea = 17,
    kInt8 = 20,
    kInt4 = 23,
    kFloat8 = 701,
    kDate = 1082,
    kTime = 1083,
    kTimestamp = 1114,
    kTimestamptz = 1184,
    kInterval = 1186,
    kTimetz = 1266,
    kNumeric = 1700,
    kUuid = 2950,
    kJsonb = 3802,
};

// The array type over each element type; text arrays are left to the server.
uint32_t array_of(uint32_t element) {
    switch (element) {
        case kBool:
            return 1000;
        case kBytea:
            return 1001;
        case kInt4:
            return 1007;
        case kInt8:
            return 1016;
        case kFloat8:
            return 1022;
        case kTimestamp:
            return 1115;
        case kDate:
            return 1182;
        case kTime:
            return 1183;
        case kTimestamptz:
            return 1185;
        case kInterval:
            return 1187;
        case kNumeric:
            return 1231;
        case kTimetz:
            return 1270;
        case kUuid:
            return 2951;
        case kJsonb:
            return 3807;
        default:
            return kUnknown;
    }
}

PyObject *decimal_type, *uuid_type, *ip_address_types, *json_dumps;

void put_big_endian(char* to, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++) to[i] = static_cast<char>(value >> (8 * (bytes - 1 - i)));
}

// The value's type and text form, as PostgreSQL reads it. False with or without a Python error set; without: no such
// conversion.
bool text_form(PyObject* value, uint32_t& type, std::string& text) {
    auto take = [&](uint32_t of, PyObject* made) {
        const Ref string = Ref::steal(made);
        if (!string) return false;
        Py_ssize_t length;
        const char* utf8 = PyUnicode_AsUTF8AndSize(string.get(), &length);
        if (!utf8) return false;
        type = of;
        text.assign(utf8, static_cast<std::size_t>(length));
        return true;
    };
    if (PyUnicode_Check(value)) return take(kUnknown, Py_NewRef(value));
    if (PyBool_Check(value)) return type = kBool, text.assign(1, value == Py_True ? 't' : 'f'), true;
    if (PyLong_Check(value)) {
        int overflow = 0;
        const long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
        const uint32_t of = overflow ? kNumeric : number >= INT32_MIN && number <= INT32_MAX ? kInt4 : kInt8;
        return take(of, PyLong_Type.tp_repr(value));
    }
    if (PyFloat_Check(value)) return take(kFloat8, PyFloat_Type.tp_repr(value));
    if (PyDelta_Check(value)) {
        text = std::to_string(PyDateTime_DELTA_GET_DAYS(value)) + " days " +
               std::to_string(PyDateTime_DELTA_GET_SECONDS(value)) + " seconds " +
               std::to_string(PyDateTime_DELTA_GET_MICROSECONDS(value)) + " microseconds";
        return type = kInterval, true;
    }
    if (PyDateTime_Check(value))
        return take(PyDateTime_DATE_GET_TZINFO(value) == Py_None ? kTimestamp : kTimestamptz,
                    PyObject_CallMethod(value, "isoformat", nullptr));
    if (PyDate_Check(value)) return take(kDate, PyObject_CallMethod(value, "isoformat", nullptr));
    if (PyTime_Check(value))
        return take(PyDateTime_TIME_GET_TZINFO(value) == Py_None ? kTime : kTimetz,
                    PyObject_CallMethod(value, "isoformat", nullptr));
    if (PyObject_IsInstance(value, decimal_type) == 1) return take(kNumeric, PyObject_Str(value));
    if (PyObject_IsInstance(value, uuid_type) == 1) return take(kUuid, PyObject_Str(value));
    if (PyObject_IsInstance(value, ip_address_types) == 1) return take(kUnknown, PyObject_Str(value));
    if (PyDict_Check(value)) return take(kJsonb, PyObject_CallOneArg(json_dumps, value));
    if (PyBytes_Check(value)) {
        static constexpr char kDigits[] = "0123456789abcdef";
        text = "\\x";
        for (Py_ssize_t i = 0; i < PyBytes_GET_SIZE(value); i++) {
            const auto byte = static_cast<unsigned char>(PyBytes_AS_STRING(value)[i]);
            text += {kDigits[byte >> 4], kDigits[byte & 15]};
        }
        return type = kBytea, true;
    }
    if (PyIndex_Check(value)) {  // numpy's integers and their like
        const Ref number = Ref::steal(PyNumber_Index(value));
        return number && text_form(number.get(), type, text);
    }
    return false;
}

// '{1,NULL,{"a","b"}}'; the element type is the widest seen.
bool array_form(PyObject* list, uint32_t& type, std::string& out) {
    const Ref items = Ref::steal(PySequence_Fast(list, "a list or tuple"));
    if (!items) return false;
    out.push_back('{');
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(items.get()); i++) {
        PyObject* item = PySequence_Fast_GET_ITEM(items.get(), i);
        if (i > 0) out.push_back(',');
        if (item == Py_None) {
            out += "NULL";
            continue;
        }
        if (PyList_Check(item) || PyTuple_Check(item)) {
            if (!array_form(item, type, out)) return false;
            continue;
        }
        uint32_t item_type = kUnknown;
        std::string text;
        if (!text_form(item, item_type, text)) return false;
        const bool wider = (type == kInt4 && (item_type == kInt8 || item_type == kFloat8 || item_type == kNumeric)) ||
                           (type == kInt8 && (item_type == kFloat8 || item_type == kNumeric));
        if (type == kUnknown || wider) type = item_type;
        out.push_back('"');
        for (const char c : text) {
            if (c == '"' || c == '\\') out.push_back('\\');
            out.push_back(c);
        }
        out.push_back('"');
    }
    out.push_back('}');
    return true;
}

}  // namespace

bool prepare_parameter_types() {
    PyDateTime_IMPORT;
    auto attribute = [](const char* module, const char* name) -> PyObject* {
        const Ref found = Ref::steal(PyImport_ImportModule(module));
        return found ? PyObject_GetAttrString(found.get(), name) : nullptr;
    };
    decimal_type = attribute("decimal", "Decimal");
    uuid_type = attribute("uuid", "UUID");
    json_dumps = attribute("json", "dumps");
    ip_address_types = PyTuple_New(6);
    int place = 0;
    for (const char* name :
         {"IPv4Address", "IPv6Address", "IPv4Network", "IPv6Network", "IPv4Interface", "IPv6Interface"}) {
        PyObject* type = attribute("ipaddress", name);
        if (!type) return false;
        PyTuple_SET_ITEM(ip_address_types, place++, type);
    }
    return PyDateTimeAPI && decimal_type && uuid_type && json_dumps;
}

void Parameters::add_binary(uint32_t type, const void* bytes, std::size_t length) {
    pieces_.push_back({type, true, false, bytes_.size(), length});
    bytes_.append(static_cast<const char*>(bytes), length);
    bytes_.push_back('\0');
}

void Parameters::add_text(uint32_t type, const char* text, std::size_t length) {
    pieces_.push_back({type, false, false, bytes_.size(), length});
    bytes_.append(text, length);
    bytes_.push_back('\0');
}

bool Parameters::assign(PyObject* const* values, Py_ssize_t count) {
    pieces_.clear();
    bytes_.clear();
    parameters_.clear();
    for (Py_ssize_t i = 0; i < count; i++)
        if (!add(values[i], i + 1)) return false;
    for (const Piece& piece : pieces_)  // only now do the bytes stand still
        parameters_.push_back({piece.null ? nullptr : bytes_.data() + piece.offset, piece.type,
                               static_cast<int32_t>(piece.length), piece.binary, 0});
    return true;
}

bool Parameters::add(PyObject* value, Py_ssize_t number) {
    if (value == Py_None) {
        pieces_.push_back({kUnknown, false, true, 0, 0});
        return true;
    }
    char buffer[8];
    if (PyLong_CheckExact(value)) {
        int overflow = 0;
        const long long n = PyLong_AsLongLongAndOverflow(value, &overflow);
        if (!overflow) {
            const bool small = n >= INT32_MIN && n <= INT32_MAX;  // int4 wherever it fits: many functions take no int8
            put_big_endian(buffer, static_cast<uint64_t>(n), small ? 4 : 8);
            add_binary(small ? kInt4 : kInt8, buffer, small ? 4 : 8);
            return true;
        }
    } else if (PyUnicode_Check(value)) {
        Py_ssize_t length;
        const char* text = PyUnicode_AsUTF8AndSize(value, &length);
        if (!text) return false;
        if (std::memchr(text, '\0', static_cast<std::size_t>(length)))
            return raise_error("invalid_argument", "parameter $" + std::to_string(number) +
                                                       " holds a NUL character, which PostgreSQL's text cannot hold"),
                   false;
        add_text(kUnknown, text, static_cast<std::size_t>(length));
        return true;
    } else if (PyFloat_CheckExact(value)) {
        const double d = PyFloat_AS_DOUBLE(value);
        uint64_t bits;
        std::memcpy(&bits, &d, sizeof bits);
        put_big_endian(buffer, bits, 8);
        add_binary(kFloat8, buffer, 8);
        return true;
    } else if (PyBytes_Check(value) || PyByteArray_Check(value) || PyMemoryView_Check(value)) {
        Py_buffer view;
        if (PyObject_GetBuffer(value, &view, PyBUF_SIMPLE) != 0) return false;
        add_binary(kBytea, view.buf, static_cast<std::size_t>(view.len));
        PyBuffer_Release(&view);
        return true;
    }
    uint32_t type = kUnknown;
    std::string text;
    const bool array = PyList_Check(value) || PyTuple_Check(value);
    if (array ? array_form(value, type, text) : text_form(value, type, text)) {
        add_text(array ? array_of(type) : type, text.data(), text.size());
        return true;
    }
    if (PyErr_Occurred()) return false;
    raise_error("invalid_argument",
                "parameter $" + std::to_string(number) + " is a " + Py_TYPE(value)->tp_name +
                    (array ? " with an element" : "") +
                    ", for which there is no PostgreSQL type. Suggestion: pass a str, a number, bytes, a date or time, "
                    "a Decimal, a UUID, a dict (jsonb), or a list of these");
    return false;
}

}  // namespace pqpool_python
