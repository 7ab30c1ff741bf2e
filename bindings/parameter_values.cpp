// A Python value as a parameter: what it is to PostgreSQL, its binary form, and its text form.

#include <cstdio>
#include <cstring>
#include <limits>

#include "parameters.hpp"

#include <datetime.h>  // wants Python.h before it

namespace pqpool_python {

namespace {

PyObject *decimal_type, *decimal_text, *uuid_type, *uuid_bytes, *address_types, *json_dumps, *collection_type,
    *mapping_type, *as_zone;

bool append_text_of(PyObject* made, std::string& out) {  // steals it
    const Ref string = Ref::steal(made);
    std::string_view text;
    if (!string || !utf8_of(string.get(), text)) return false;
    out += text;
    return true;
}

bool is_instance(PyObject* value, PyObject* type) {
    const int is = PyObject_IsInstance(value, type);
    if (is < 0) PyErr_Clear();
    return is > 0;
}

// ---- dates and times ----

int64_t microseconds_of(PyObject* delta) {
    return PyDateTime_DELTA_GET_DAYS(delta) * kDay + PyDateTime_DELTA_GET_SECONDS(delta) * 1'000'000LL +
           PyDateTime_DELTA_GET_MICROSECONDS(delta);
}

// None, or a timedelta.
Ref offset_of(PyObject* value) { return Ref::steal(PyObject_CallMethod(value, "utcoffset", nullptr)); }

Day day_of(PyObject* date) { return {PyDateTime_GET_YEAR(date), PyDateTime_GET_MONTH(date), PyDateTime_GET_DAY(date)}; }

int64_t time_of_day(PyObject* datetime) {
    if (!PyDateTime_Check(datetime)) return 0;
    return ((PyDateTime_DATE_GET_HOUR(datetime) * 60LL + PyDateTime_DATE_GET_MINUTE(datetime)) * 60 +
            PyDateTime_DATE_GET_SECOND(datetime)) *
               1'000'000 +
           PyDateTime_DATE_GET_MICROSECOND(datetime);
}

int64_t time_of_time(PyObject* time) {
    return ((PyDateTime_TIME_GET_HOUR(time) * 60LL + PyDateTime_TIME_GET_MINUTE(time)) * 60 +
            PyDateTime_TIME_GET_SECOND(time)) *
               1'000'000 +
           PyDateTime_TIME_GET_MICROSECOND(time);
}

// Microseconds since 2000, by the value's own clock.
int64_t timestamp_from(PyObject* date) { return (days_of(day_of(date)) - kEpochDays) * kDay + time_of_day(date); }

// How far the client's clock is ahead of UTC then, in seconds. Python cannot tell in the first and last hours of its
// calendar; a little further on it is the same.
bool local_offset(PyObject* date, int64_t& seconds) {
    Day day = day_of(date);
    if (day.year == 1 && day.month == 1 && day.day < 3) day.day += 2;
    if (day.year == 9999 && day.month == 12 && day.day > 29) day.day -= 2;
    const int64_t minutes = time_of_day(date) / 60'000'000;
    const int fold = PyDateTime_Check(date) ? PyDateTime_DATE_GET_FOLD(date) : 0;
    const Ref naive = Ref::steal(PyDateTimeAPI->DateTime_FromDateAndTimeAndFold(
        day.year, day.month, day.day, static_cast<int>(minutes / 60), static_cast<int>(minutes % 60), 0, 0, Py_None,
        fold, PyDateTimeAPI->DateTimeType));
    const Ref local = Ref::steal(naive ? PyObject_CallMethodNoArgs(naive.get(), as_zone) : nullptr);
    const Ref offset = local ? offset_of(local.get()) : Ref();
    if (!offset) return false;
    seconds = microseconds_of(offset.get()) / 1'000'000;
    return true;
}

// In seconds; Refused where it has a fraction, which PostgreSQL's zones do not have.
int64_t whole_seconds(PyObject* offset) {
    const int64_t us = microseconds_of(offset);
    if (us % 1'000'000 != 0) throw Refused{"has a zone whose offset is no whole number of seconds"};
    return us / 1'000'000;
}

// How far the clock that the value shows is ahead of UTC.
bool offset_seconds(Kind kind, PyObject* date, int64_t& seconds) {
    if (kind != kAware) return local_offset(date, seconds);
    const Ref offset = offset_of(date);
    if (!offset) return false;
    seconds = whole_seconds(offset.get());
    return true;
}

// The ends of Python's calendar stand for infinity, as with asyncpg.
std::string_view infinity_of(int64_t us) {
    return us == kLastMoment ? "infinity" : us == kFirstMoment ? "-infinity" : std::string_view();
}

void write_offset(int64_t seconds, std::string& out) {
    const auto distance = static_cast<int>(seconds < 0 ? -seconds : seconds);
    char text[16];
    const int length = std::snprintf(text, sizeof text, "%c%02d:%02d:%02d", seconds < 0 ? '-' : '+', distance / 3600,
                                     distance / 60 % 60, distance % 60);
    out.append(text, static_cast<std::size_t>(length));
}

void write_clock(int64_t us, std::string& out) {
    char text[24];
    const int length = std::snprintf(text, sizeof text, "%02d:%02d:%02d.%06d", static_cast<int>(us / 3'600'000'000),
                                     static_cast<int>(us / 60'000'000 % 60), static_cast<int>(us / 1'000'000 % 60),
                                     static_cast<int>(us % 1'000'000));
    out.append(text, static_cast<std::size_t>(length));
}

// "2020-01-02 03:04:05.000006+01:00:00". Of a naive one, with the client's offset: so it is the right moment for a
// timestamptz, and a timestamp and a date do not look at the offset.
bool write_moment_text(Kind kind, PyObject* date, std::string& out) {
    int64_t seconds;
    if (!offset_seconds(kind, date, seconds)) return false;
    const int64_t us = timestamp_from(date);
    const auto infinity = infinity_of(kind == kAware ? us - seconds * 1'000'000 : us);
    if (!infinity.empty()) return out += infinity, true;
    const Day day = day_of(date);
    char text[24];
    const int length = std::snprintf(text, sizeof text, "%04d-%02d-%02d ", day.year, day.month, day.day);
    out.append(text, static_cast<std::size_t>(length));
    write_clock(time_of_day(date), out);
    write_offset(seconds, out);
    return true;
}

bool write_moment(Kind kind, PyObject* date, std::string& out) {  // timestamptz
    int64_t us = timestamp_from(date);
    if (kind == kAware) {  // its offset may have a fraction
        const Ref offset = offset_of(date);
        if (!offset) return false;
        us -= microseconds_of(offset.get());
    }
    if (const auto infinity = infinity_of(us); !infinity.empty()) {
        us = infinity == "infinity" ? std::numeric_limits<int64_t>::max() : std::numeric_limits<int64_t>::min();
    } else if (kind != kAware) {
        int64_t seconds;
        if (!local_offset(date, seconds)) return false;
        us -= seconds * 1'000'000;
    }
    put_big_endian(out, static_cast<uint64_t>(us), 8);
    return true;
}

bool write_day(PyObject* date, std::string& out) {
    const int64_t days = days_of(day_of(date));
    const int64_t sent = days == 0          ? std::numeric_limits<int32_t>::min()  // infinite, as for asyncpg
                         : days == kLastDay ? std::numeric_limits<int32_t>::max()
                                            : days - kEpochDays;
    put_big_endian(out, static_cast<uint64_t>(sent), 4);
    return true;
}

bool zone_of_time(PyObject* time, int64_t& seconds_east) {
    const Ref offset = offset_of(time);
    if (!offset) return false;
    if (offset.get() == Py_None)
        throw Refused{"is a time whose zone has no offset without a date. Suggestion: give it a fixed offset, or none"};
    seconds_east = whole_seconds(offset.get());
    return true;
}

bool write_time(Kind kind, PyObject* time, std::string& out) {
    int64_t seconds_east = 0;
    if (kind == kTimeInZone && !zone_of_time(time, seconds_east)) return false;
    put_big_endian(out, static_cast<uint64_t>(time_of_time(time)), 8);
    if (kind == kTimeInZone) put_big_endian(out, static_cast<uint64_t>(-seconds_east), 4);  // PostgreSQL counts west
    return true;
}

bool write_time_text(Kind kind, PyObject* time, std::string& out) {
    int64_t seconds_east = 0;
    if (kind == kTimeInZone && !zone_of_time(time, seconds_east)) return false;
    write_clock(time_of_time(time), out);
    if (kind == kTimeInZone) write_offset(seconds_east, out);
    return true;
}

void write_duration(PyObject* delta, std::string& out) {  // microseconds, days, months
    put_big_endian(out,
                   static_cast<uint64_t>(PyDateTime_DELTA_GET_SECONDS(delta) * 1'000'000LL +
                                         PyDateTime_DELTA_GET_MICROSECONDS(delta)),
                   8);
    put_big_endian(out, static_cast<uint64_t>(PyDateTime_DELTA_GET_DAYS(delta)), 4);
    put_big_endian(out, 0, 4);
}

void write_duration_text(PyObject* delta, std::string& out) {  // ISO 8601, which no IntervalStyle reads in another way
    char text[48];
    const int length = std::snprintf(text, sizeof text, "P%dDT%d.%06dS", PyDateTime_DELTA_GET_DAYS(delta),
                                     PyDateTime_DELTA_GET_SECONDS(delta), PyDateTime_DELTA_GET_MICROSECONDS(delta));
    out.append(text, static_cast<std::size_t>(length));
}

// ---- the others ----

bool write_bytes(PyObject* value, std::string& out) {
    if (PyBytes_Check(value))
        return out.append(PyBytes_AS_STRING(value), static_cast<std::size_t>(PyBytes_GET_SIZE(value))), true;
    const Ref bytes = Ref::steal(PyBytes_FromObject(value));  // also of a memoryview with gaps
    return bytes && write_bytes(bytes.get(), out);
}

void write_hex(std::string_view bytes, std::string& out) {
    static constexpr char kDigits[] = "0123456789abcdef";
    for (const char c : bytes) {
        const auto byte = static_cast<unsigned char>(c);
        out += {kDigits[byte >> 4], kDigits[byte & 15]};
    }
}

bool write_uuid(PyObject* value, std::string& out) {
    const Ref bytes = Ref::steal(PyObject_CallOneArg(uuid_bytes, value));
    if (!bytes || !PyBytes_Check(bytes.get()) || PyBytes_GET_SIZE(bytes.get()) != 16) return false;
    return write_bytes(bytes.get(), out);
}

// As the class of the standard library writes it, whatever a subclass does.
bool write_address(PyObject* value, std::string& out) {
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(address_types); i++) {
        PyObject* type = PyTuple_GET_ITEM(address_types, i);
        if (is_instance(value, type)) return append_text_of(PyObject_CallMethod(type, "__str__", "O", value), out);
    }
    return false;
}

bool write_decimal(PyObject* value, std::string& out) {
    const std::size_t from = out.size();
    if (!append_text_of(PyObject_CallOneArg(decimal_text, value), out)) return false;
    if (out.find('N', from) != std::string::npos) out.replace(from, std::string::npos, "NaN");  // without sign or mark
    return true;
}

bool write_digits(Kind kind, PyObject* value, std::string& out) {  // of a number
    if (kind == kBoolean) return out += value == Py_True ? '1' : '0', true;
    if (kind == kDecimal) return write_decimal(value, out);
    return append_text_of((kind == kInteger ? PyLong_Type : PyFloat_Type).tp_repr(value), out);
}

bool write_float8(PyObject* value, std::string& out) {
    const double number = PyFloat_AsDouble(value);
    if (number == -1.0 && PyErr_Occurred()) return false;
    uint64_t bits;
    std::memcpy(&bits, &number, sizeof bits);
    put_big_endian(out, bits, 8);
    return true;
}

bool write_json(PyObject* value, std::string& out) {
    return append_text_of(PyObject_CallOneArg(json_dumps, value), out);
}

}  // namespace

bool utf8_of(PyObject* string, std::string_view& text) {
    Py_ssize_t length;
    const char* bytes = PyUnicode_AsUTF8AndSize(string, &length);
    if (!bytes) return false;
    text = {bytes, static_cast<std::size_t>(length)};
    if (text.find('\0') != std::string_view::npos)
        throw Refused{"holds a NUL character, which PostgreSQL's text cannot hold"};
    return true;
}

void put_big_endian(std::string& out, uint64_t value, int bytes) {
    for (int i = bytes - 1; i >= 0; i--) out.push_back(static_cast<char>(value >> (8 * i)));
}

bool prepare_parameter_types() {
    PyDateTime_IMPORT;
    auto attribute = [](const char* module, const char* name) -> PyObject* {
        const Ref found = Ref::steal(PyImport_ImportModule(module));
        return found ? PyObject_GetAttrString(found.get(), name) : nullptr;
    };
    auto of_class = [&](const char* module, const char* type, const char* name) -> PyObject* {
        const Ref found = Ref::steal(attribute(module, type));
        return found ? PyObject_GetAttrString(found.get(), name) : nullptr;
    };
    decimal_type = attribute("decimal", "Decimal");
    uuid_type = attribute("uuid", "UUID");
    decimal_text = of_class("decimal", "Decimal", "__str__");
    const Ref bytes = Ref::steal(of_class("uuid", "UUID", "bytes"));  // a property
    uuid_bytes = bytes ? PyObject_GetAttrString(bytes.get(), "fget") : nullptr;
    json_dumps = attribute("json", "dumps");
    collection_type = attribute("collections.abc", "Collection");
    mapping_type = attribute("collections.abc", "Mapping");
    as_zone = PyUnicode_InternFromString("astimezone");
    address_types = PyTuple_New(6);
    int place = 0;
    for (const char* name :  // an interface is an address too, and is to be recognized first
         {"IPv4Interface", "IPv6Interface", "IPv4Address", "IPv6Address", "IPv4Network", "IPv6Network"}) {
        PyObject* type = attribute("ipaddress", name);
        if (!type) return false;
        PyTuple_SET_ITEM(address_types, place++, type);
    }
    return PyDateTimeAPI && decimal_type && uuid_type && decimal_text && uuid_bytes && json_dumps && collection_type &&
           mapping_type && as_zone;
}

void refuse_type(PyObject* value, bool in_list) {
    throw Refused{std::string("is a ") + (in_list ? "list with an element of type " : "") + Py_TYPE(value)->tp_name +
                  ", for which there is no PostgreSQL type. Suggestion: pass a str, a number, bytes, a date or time, "
                  "a Decimal, a UUID, a dict (jsonb), or a list of these"};
}

Kind kind_of(Ref& ref) {
    PyObject* value = ref.get();
    if (value == Py_None) return kNull;
    if (PyUnicode_Check(value)) return kString;
    if (PyBool_Check(value)) return kBoolean;
    if (PyLong_Check(value)) return kInteger;
    if (PyFloat_Check(value)) return kReal;
    if (PyBytes_Check(value) || PyByteArray_Check(value) || PyMemoryView_Check(value)) return kBytes;
    if (PyList_Check(value) || PyTuple_Check(value)) return kList;
    if (PyDateTime_Check(value)) {
        if (PyDateTime_DATE_GET_TZINFO(value) == Py_None) return kNaive;
        const Ref offset = offset_of(value);
        return !offset ? kNothing : offset.get() == Py_None ? kNaive : kAware;
    }
    if (PyDate_Check(value)) return kCalendarDay;
    if (PyTime_Check(value)) return PyDateTime_TIME_GET_TZINFO(value) == Py_None ? kTimeOfDay : kTimeInZone;
    if (PyDelta_Check(value)) return kDuration;
    if (is_instance(value, decimal_type)) return kDecimal;
    if (is_instance(value, uuid_type)) return kUniqueId;
    if (is_instance(value, address_types)) return kAddress;
    if (PyDict_Check(value)) return kMapping;
    if (is_instance(value, collection_type) && !is_instance(value, mapping_type)) return kList;
    if (PyIndex_Check(value)) {
        ref = Ref::steal(PyNumber_Index(value));
        return ref ? kInteger : kNothing;
    }
    return kNothing;
}

uint32_t type_of(Kind kind, PyObject* value) {
    switch (kind) {
        case kBoolean:
            return kBool;
        case kInteger: {
            int overflow = 0;
            const long long n = PyLong_AsLongLongAndOverflow(value, &overflow);
            // int4 wherever it fits: many functions take no int8
            return overflow ? kNumeric : n >= INT32_MIN && n <= INT32_MAX ? kInt4 : kInt8;
        }
        case kReal:
            return kFloat8;
        case kDecimal:
            return kNumeric;
        case kBytes:
            return kBytea;
        case kCalendarDay:
            return kDate;
        case kAware:
            return kTimestamptz;
        case kTimeOfDay:
            return kTime;
        case kTimeInZone:
            return kTimetz;
        case kDuration:
            return kInterval;
        case kUniqueId:
            return kUuid;
        case kMapping:
            return kJsonb;
        default:
            return kUnknown;
    }
}

bool write_binary(uint32_t type, Kind kind, PyObject* value, std::string& out) {
    switch (type) {
        case kBool:
            return out.push_back(value == Py_True), true;
        case kInt4:
        case kInt8:
            put_big_endian(out, static_cast<uint64_t>(PyLong_AsLongLong(value)), type == kInt4 ? 4 : 8);
            return !PyErr_Occurred();
        case kFloat8:
            return write_float8(value, out);
        case kNumeric: {
            std::string digits;
            if (!write_digits(kind, value, digits)) return false;
            write_numeric(digits, out);
            return true;
        }
        case kText:
            return append_text_of(Py_NewRef(value), out);
        case kBytea:
            return write_bytes(value, out);
        case kDate:
            return write_day(value, out);
        case kTimestamptz:
            return write_moment(kind, value, out);
        case kTime:
        case kTimetz:
            return write_time(kind, value, out);
        case kInterval:
            return write_duration(value, out), true;
        case kUuid:
            return write_uuid(value, out);
        case kJsonb:
            out.push_back('\1');
            return write_json(value, out);
        default:
            return false;
    }
}

bool write_text(Kind kind, PyObject* value, std::string& out) {
    switch (kind) {
        case kString:
            return append_text_of(Py_NewRef(value), out);
        case kBoolean:
            return out += value == Py_True ? 't' : 'f', true;
        case kInteger:
        case kReal:
        case kDecimal:
            return write_digits(kind, value, out);
        case kBytes:
        case kUniqueId: {
            std::string bytes;
            if (!(kind == kBytes ? write_bytes : write_uuid)(value, bytes)) return false;
            if (kind == kBytes) out += "\\x";
            write_hex(bytes, out);
            return true;
        }
        case kCalendarDay:
        case kNaive:
        case kAware:
            return write_moment_text(kind, value, out);
        case kTimeOfDay:
        case kTimeInZone:
            return write_time_text(kind, value, out);
        case kDuration:
            return write_duration_text(value, out), true;
        case kAddress:
            return write_address(value, out);
        case kMapping:
            return write_json(value, out);
        default:
            return false;
    }
}

}  // namespace pqpool_python
