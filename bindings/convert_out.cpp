// Values of a result to Python, after asyncpg's table: the binary form where the result has it, else the text form;
// both give the same.

#include <bit>
#include <charconv>
#include <cstring>
#include <limits>

#include "object.hpp"

#include <datetime.h>  // wants Python.h before it

namespace pqpool_python {

namespace {

enum Oid : uint32_t {
    kBool = 16,
    kBytea = 17,
    kInt8 = 20,
    kInt2 = 21,
    kInt4 = 23,
    kOid = 26,
    kFloat4 = 700,
    kFloat8 = 701,
    kDate = 1082,
    kTime = 1083,
    kTimestamp = 1114,
    kTimestamptz = 1184,
    kInterval = 1186,
    kTimetz = 1266,
    kNumeric = 1700,
    kVoid = 2278,
    kUuid = 2950,
    kJsonb = 3802,
};

// The element type of each array type that is decoded; 0 for any other.
uint32_t element_of(uint32_t array) {
    switch (array) {
        case 199:
            return 114;
        case 1000:
            return kBool;
        case 1001:
            return kBytea;
        case 1002:
            return 18;
        case 1003:
            return 19;
        case 1005:
            return kInt2;
        case 1007:
            return kInt4;
        case 1009:
            return 25;
        case 1014:
            return 1042;
        case 1015:
            return 1043;
        case 1016:
            return kInt8;
        case 1021:
            return kFloat4;
        case 1022:
            return kFloat8;
        case 1028:
            return kOid;
        case 1115:
            return kTimestamp;
        case 1182:
            return kDate;
        case 1183:
            return kTime;
        case 1185:
            return kTimestamptz;
        case 1187:
            return kInterval;
        case 1231:
            return kNumeric;
        case 1270:
            return kTimetz;
        case 2951:
            return kUuid;
        case 3807:
            return kJsonb;
        default:
            return 0;
    }
}

PyObject *decimal_type, *uuid_type;

template <class T>
T big_endian(const char* from) {
    std::make_unsigned_t<T> value = 0;
    for (std::size_t i = 0; i < sizeof(T); i++)
        value = static_cast<std::make_unsigned_t<T>>(static_cast<uint64_t>(value) << 8 |
                                                     static_cast<unsigned char>(from[i]));
    return static_cast<T>(value);
}

Ref text(const char* value, int length) { return Ref::steal(PyUnicode_DecodeUTF8(value, length, nullptr)); }

constexpr int64_t kDay = 86'400'000'000;  // microseconds
constexpr int64_t kEpochDays = 730'119;   // 2000-01-01, PostgreSQL's epoch, counted from 0001-01-01 = 0

struct Day {
    int year, month, day;
};

// Proleptic Gregorian, from days since 0001-01-01. Good for year 1 to 9999.
Day day_of(int64_t days) {
    days += 306;  // March-based years, from 0000-03-01
    const int64_t era = days / 146'097, in_era = days % 146'097;
    const int64_t year_of_era = (in_era - in_era / 1460 + in_era / 36'524 - in_era / 146'096) / 365;
    const int64_t in_year = in_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    const int64_t month = (5 * in_year + 2) / 153;
    const int day = static_cast<int>(in_year - (153 * month + 2) / 5 + 1);
    const int calendar_month = static_cast<int>(month < 10 ? month + 3 : month - 9);
    return {static_cast<int>(year_of_era + era * 400 + (calendar_month <= 2)), calendar_month, day};
}

Ref out_of_range(const char* what) {
    PyErr_Format(PyExc_OverflowError,
                 "the %s is outside Python's range of years 1 to 9999. Suggestion: select it as text", what);
    return {};
}

bool in_range(int64_t days) { return days >= 0 && days < 3'652'059; }

Ref date_of(int64_t days) {
    if (!in_range(days)) return out_of_range("date");
    const Day d = day_of(days);
    return Ref::steal(PyDate_FromDate(d.year, d.month, d.day));
}

Ref time_of(int64_t us, PyObject* zone) {
    const int64_t seconds = us / 1'000'000;
    return Ref::steal(PyDateTimeAPI->Time_FromTime(static_cast<int>(seconds / 3600 % 24),
                                                   static_cast<int>(seconds / 60 % 60), static_cast<int>(seconds % 60),
                                                   static_cast<int>(us % 1'000'000), zone, PyDateTimeAPI->TimeType));
}

Ref timestamp_of(int64_t us, PyObject* zone) {      // since 2000-01-01
    if (us == std::numeric_limits<int64_t>::max())  // infinity, as asyncpg gives it
        return Ref::steal(PyDateTimeAPI->DateTime_FromDateAndTime(9999, 12, 31, 23, 59, 59, 999'999, zone,
                                                                  PyDateTimeAPI->DateTimeType));
    if (us == std::numeric_limits<int64_t>::min())
        return Ref::steal(
            PyDateTimeAPI->DateTime_FromDateAndTime(1, 1, 1, 0, 0, 0, 0, zone, PyDateTimeAPI->DateTimeType));
    int64_t days = us / kDay, rest = us % kDay;
    if (rest < 0) rest += kDay, days--;
    if (!in_range(days + kEpochDays)) return out_of_range("timestamp");
    const Day d = day_of(days + kEpochDays);
    const int64_t seconds = rest / 1'000'000;
    return Ref::steal(PyDateTimeAPI->DateTime_FromDateAndTime(
        d.year, d.month, d.day, static_cast<int>(seconds / 3600), static_cast<int>(seconds / 60 % 60),
        static_cast<int>(seconds % 60), static_cast<int>(rest % 1'000'000), zone, PyDateTimeAPI->DateTimeType));
}

Ref interval_of(int64_t months, int64_t days, int64_t us) {  // a year counts 365 days and a month 30, as in asyncpg
    days += months / 12 * 365 + months % 12 * 30;
    days += us / kDay;
    us %= kDay;
    return Ref::steal(
        PyDelta_FromDSU(static_cast<int>(days), static_cast<int>(us / 1'000'000), static_cast<int>(us % 1'000'000)));
}

Ref zone_of(int32_t seconds_east) {
    const Ref offset = Ref::steal(PyDelta_FromDSU(0, seconds_east, 0));
    return offset ? Ref::steal(PyTimeZone_FromOffset(offset.get())) : Ref();
}

Ref decimal_of(const char* digits, std::size_t length) {
    const Ref string = Ref::steal(PyUnicode_FromStringAndSize(digits, static_cast<Py_ssize_t>(length)));
    return string ? Ref::steal(PyObject_CallOneArg(decimal_type, string.get())) : Ref();
}

Ref numeric_of(const char* value) {  // header: digits, weight, sign, display scale; then base-10000 digits
    const int count = big_endian<int16_t>(value), weight = big_endian<int16_t>(value + 2),
              scale = big_endian<int16_t>(value + 6);
    const uint16_t sign = big_endian<uint16_t>(value + 4);
    if (sign == 0xC000) return decimal_of("NaN", 3);
    if (sign == 0xD000) return decimal_of("Infinity", 8);
    if (sign == 0xF000) return decimal_of("-Infinity", 9);
    std::string digits = sign == 0x4000 ? "-" : "";
    auto group = [&](int place) {
        return place < 0 || place >= count ? 0 : big_endian<int16_t>(value + 8 + 2 * place);
    };
    if (weight < 0) digits += '0';
    for (int i = 0; i <= weight; i++) {
        std::string four = std::to_string(group(i));
        digits += i == 0 ? four : std::string(4 - four.size(), '0') + four;
    }
    if (scale > 0) {
        std::string fraction;
        for (int i = weight + 1; static_cast<int>(fraction.size()) < scale; i++) {
            const std::string four = std::to_string(group(i));
            fraction += std::string(4 - four.size(), '0') + four;
        }
        digits += '.' + fraction.substr(0, static_cast<std::size_t>(scale));
    }
    return decimal_of(digits.data(), digits.size());
}

Ref uuid_of(const char* bytes) {
    const Ref arguments = Ref::steal(PyTuple_New(0)), keywords = Ref::steal(PyDict_New()),
              sixteen = Ref::steal(PyBytes_FromStringAndSize(bytes, 16));
    if (!arguments || !keywords || !sixteen || PyDict_SetItemString(keywords.get(), "bytes", sixteen.get()) != 0)
        return {};
    return Ref::steal(PyObject_Call(uuid_type, arguments.get(), keywords.get()));
}

Ref decode_binary(uint32_t type, const char* value, int length);

Ref array_of(const char*& value, int dimension, int dimensions, const char* sizes, uint32_t element) {
    const int size = big_endian<int32_t>(sizes + 8 * dimension);
    Ref list = Ref::steal(PyList_New(size));
    for (int i = 0; list && i < size; i++) {
        Ref item;
        if (dimension + 1 < dimensions) {
            item = array_of(value, dimension + 1, dimensions, sizes, element);
        } else {
            const int length = big_endian<int32_t>(value);
            value += 4;
            item = length < 0 ? Ref::borrow(Py_None) : decode_binary(element, value, length);
            value += length < 0 ? 0 : length;
        }
        if (!item) return {};
        PyList_SET_ITEM(list.get(), i, item.release());
    }
    return list;
}

Ref decode_binary(uint32_t type, const char* value, int length) {
    switch (type) {
        case kBool:
            return Ref::borrow(*value ? Py_True : Py_False);
        case kInt2:
            return Ref::steal(PyLong_FromLong(big_endian<int16_t>(value)));
        case kInt4:
            return Ref::steal(PyLong_FromLong(big_endian<int32_t>(value)));
        case kInt8:
            return Ref::steal(PyLong_FromLongLong(big_endian<int64_t>(value)));
        case kOid:
            return Ref::steal(PyLong_FromUnsignedLong(big_endian<uint32_t>(value)));
        case kFloat4:
            return Ref::steal(PyFloat_FromDouble(std::bit_cast<float>(big_endian<uint32_t>(value))));
        case kFloat8:
            return Ref::steal(PyFloat_FromDouble(std::bit_cast<double>(big_endian<uint64_t>(value))));
        case kNumeric:
            return numeric_of(value);
        case kBytea:
            return Ref::steal(PyBytes_FromStringAndSize(value, length));
        case kUuid:
            return uuid_of(value);
        case kVoid:
            return Ref::borrow(Py_None);
        case kDate: {
            const int32_t days = big_endian<int32_t>(value);
            if (days == std::numeric_limits<int32_t>::max()) return date_of(3'652'058);
            if (days == std::numeric_limits<int32_t>::min()) return date_of(0);
            return date_of(days + kEpochDays);
        }
        case kTime:
            return time_of(big_endian<int64_t>(value), Py_None);
        case kTimetz: {
            const Ref zone = zone_of(-big_endian<int32_t>(value + 8));  // PostgreSQL counts seconds west
            return zone ? time_of(big_endian<int64_t>(value), zone.get()) : Ref();
        }
        case kTimestamp:
            return timestamp_of(big_endian<int64_t>(value), Py_None);
        case kTimestamptz:
            return timestamp_of(big_endian<int64_t>(value), PyDateTime_TimeZone_UTC);
        case kInterval:
            return interval_of(big_endian<int32_t>(value + 12), big_endian<int32_t>(value + 8),
                               big_endian<int64_t>(value));
        case kJsonb:
            return text(value + 1, length - 1);  // a version byte goes first
        default:
            break;
    }
    if (element_of(type)) {
        const int dimensions = big_endian<int32_t>(value);
        const auto element = big_endian<uint32_t>(value + 8);
        if (dimensions == 0) return Ref::steal(PyList_New(0));
        const char* items = value + 12 + 8 * dimensions;
        return array_of(items, 0, dimensions, value + 12, element);
    }
    return text(value, length);
}

// ---- text forms ----

Ref decode_text(uint32_t type, const char* value, int length);

template <class T>
bool number(const char*& at, const char* end, T& out) {
    const auto [next, error] = std::from_chars(at, end, out);
    if (error != std::errc()) return false;
    at = next;
    return true;
}

bool skip(const char*& at, const char* end, char c) { return at < end && *at == c ? at++, true : false; }

bool read_date(const char*& at, const char* end, Day& d) {
    return number(at, end, d.year) && skip(at, end, '-') && number(at, end, d.month) && skip(at, end, '-') &&
           number(at, end, d.day);
}

bool read_time(const char*& at, const char* end, int64_t& us) {
    int64_t hours;  // of an interval, more than an int holds
    int minutes, seconds;
    if (!number(at, end, hours) || !skip(at, end, ':') || !number(at, end, minutes) || !skip(at, end, ':') ||
        !number(at, end, seconds))
        return false;
    us = (hours * 3600 + minutes * 60 + seconds) * 1'000'000;
    if (!skip(at, end, '.')) return true;
    int64_t unit = 100'000;
    for (; at < end && *at >= '0' && *at <= '9'; at++, unit /= 10) us += (*at - '0') * unit;
    return true;
}

bool read_zone(const char*& at, const char* end, int32_t& east) {
    if (at >= end || (*at != '+' && *at != '-')) return false;
    const int sign = *at++ == '-' ? -1 : 1;
    int part[3] = {};
    if (!number(at, end, part[0])) return false;
    for (int i = 1; i < 3 && skip(at, end, ':'); i++)
        if (!number(at, end, part[i])) return false;
    east = sign * (part[0] * 3600 + part[1] * 60 + part[2]);
    return true;
}

int64_t days_of(const Day& d) {  // since 0001-01-01
    const int64_t year = d.month <= 2 ? d.year - 1 : d.year, era = year / 400, of_era = year - era * 400;
    const int64_t in_year = (153 * (d.month > 2 ? d.month - 3 : d.month + 9) + 2) / 5 + d.day - 1;
    return era * 146'097 + of_era * 365 + of_era / 4 - of_era / 100 + in_year - 306;
}

// What is not in ISO form (another DateStyle) stays text.
Ref decode_time_text(uint32_t type, const char* value, int length) {
    const char *at = value, *end = value + length;
    const std::string_view whole(value, static_cast<std::size_t>(length));
    const bool infinite = whole == "infinity" || whole == "-infinity";
    const bool past = whole == "-infinity";
    PyObject* zone = type == kTimestamptz ? PyDateTime_TimeZone_UTC : Py_None;
    if (whole.ends_with(" BC")) return out_of_range(type == kDate ? "date" : "timestamp");
    if (infinite && type == kDate) return date_of(past ? 0 : 3'652'058);
    if (infinite)
        return timestamp_of(past ? std::numeric_limits<int64_t>::min() : std::numeric_limits<int64_t>::max(), zone);
    Day d{};
    int64_t us = 0;
    int32_t east = 0;
    if (type == kTime && read_time(at, end, us) && at == end) return time_of(us, Py_None);
    if (type == kTimetz && read_time(at, end, us) && read_zone(at, end, east) && at == end) {
        const Ref offset = zone_of(east);
        return offset ? time_of(us, offset.get()) : Ref();
    }
    if (type == kTime || type == kTimetz || !read_date(at, end, d)) return text(value, length);
    if (type == kDate) return at == end ? date_of(days_of(d)) : text(value, length);
    if (!skip(at, end, ' ') || !read_time(at, end, us)) return text(value, length);
    if (type == kTimestamptz && !read_zone(at, end, east)) return text(value, length);
    if (at != end) return text(value, length);
    return timestamp_of((days_of(d) - kEpochDays) * kDay + us - east * 1'000'000LL, zone);
}

Ref decode_interval_text(const char* value, int length) {  // IntervalStyle postgres: "1 year 2 mons 3 days -04:05:06.7"
    const char *at = value, *end = value + length;
    int64_t months = 0, days = 0, us = 0;
    while (at < end) {
        const char* start = at;
        const bool negative = skip(at, end, '-');
        if (!negative) skip(at, end, '+');
        int64_t count;
        if (!number(at, end, count)) return text(value, length);
        if (at < end && *at == ':') {
            at = start + (*start == '-' || *start == '+');
            if (!read_time(at, end, us)) return text(value, length);
            if (negative) us = -us;
        } else {
            if (negative) count = -count;
            if (!skip(at, end, ' ')) return text(value, length);
            const char* unit = at;
            while (at < end && *at != ' ') at++;
            const std::string_view name(unit, static_cast<std::size_t>(at - unit));
            if (name.starts_with("year"))
                months += 12 * count;
            else if (name.starts_with("mon"))
                months += count;
            else if (name.starts_with("day"))
                days += count;
            else
                return text(value, length);
        }
        skip(at, end, ' ');
    }
    return interval_of(months, days, us);
}

Ref decode_bytea_text(const char* value, int length) {
    if (length < 2 || value[0] != '\\' || value[1] != 'x') return text(value, length);  // bytea_output = escape
    auto digit = [](char c) { return c <= '9' ? c - '0' : c - 'a' + 10; };
    std::string bytes;
    for (int i = 2; i + 1 < length; i += 2)
        bytes.push_back(static_cast<char>(digit(value[i]) << 4 | digit(value[i + 1])));
    return Ref::steal(PyBytes_FromStringAndSize(bytes.data(), static_cast<Py_ssize_t>(bytes.size())));
}

Ref decode_array_text(const char*& at, const char* end, uint32_t element) {
    Ref list = Ref::steal(PyList_New(0));
    at++;  // the brace
    while (list && at < end && *at != '}') {
        Ref item;
        if (*at == '{') {
            item = decode_array_text(at, end, element);
        } else {
            const bool quoted = *at == '"';
            std::string one;
            if (quoted) at++;
            while (at < end && (quoted ? *at != '"' : *at != ',' && *at != '}')) {
                if (*at == '\\') at++;
                one.push_back(*at++);
            }
            if (quoted) at++;
            item = !quoted && one == "NULL" ? Ref::borrow(Py_None)
                                            : decode_text(element, one.c_str(), static_cast<int>(one.size()));
        }
        if (!item || PyList_Append(list.get(), item.get()) != 0) return {};
        skip(at, end, ',');
    }
    skip(at, end, '}');
    return list;
}

Ref decode_text(uint32_t type, const char* value, int length) {
    if (type == kDate || type == kTime || type == kTimetz || type == kTimestamp || type == kTimestamptz)
        return decode_time_text(type, value, length);
    switch (type) {
        case kBool:
            return Ref::borrow(*value == 't' ? Py_True : Py_False);
        case kInt2:
        case kInt4:
        case kInt8:
        case kOid:
            return Ref::steal(PyLong_FromString(value, nullptr, 10));
        case kFloat4:
        case kFloat8: {
            const Ref string = text(value, length);
            Ref number = Ref::steal(string ? PyFloat_FromString(string.get()) : nullptr);
            if (!number || type == kFloat8) return number;
            return Ref::steal(
                PyFloat_FromDouble(static_cast<float>(PyFloat_AS_DOUBLE(number.get()))));  // as its binary form has it
        }
        case kNumeric:
            return decimal_of(value, static_cast<std::size_t>(length));
        case kBytea:
            return decode_bytea_text(value, length);
        case kUuid: {
            const Ref string = text(value, length);
            return string ? Ref::steal(PyObject_CallOneArg(uuid_type, string.get())) : Ref();
        }
        case kVoid:
            return Ref::borrow(Py_None);
        case kInterval:
            return decode_interval_text(value, length);
        default:
            break;
    }
    if (const uint32_t element = element_of(type)) {
        const char *at = value, *end = value + length;
        while (at < end && *at != '{') at++;  // bounds that do not start at 1 go first
        return decode_array_text(at, end, element);
    }
    return text(value, length);
}

}  // namespace

bool prepare_conversions() {
    PyDateTime_IMPORT;
    const Ref decimal = Ref::steal(PyImport_ImportModule("decimal")), uuid = Ref::steal(PyImport_ImportModule("uuid"));
    if (!PyDateTimeAPI || !decimal || !uuid) return false;
    decimal_type = PyObject_GetAttrString(decimal.get(), "Decimal");
    uuid_type = PyObject_GetAttrString(uuid.get(), "UUID");
    return decimal_type && uuid_type && prepare_parameter_types();
}

Ref decode(const pqpool_result* result, int32_t row, int32_t column) {
    const char* value = pqpool_result_value(result, row, column);
    if (!value) return Ref::borrow(Py_None);
    const uint32_t type = pqpool_result_column_type(result, column);
    const int32_t length = pqpool_result_length(result, row, column);
    return pqpool_result_is_binary(result) ? decode_binary(type, value, length) : decode_text(type, value, length);
}

}  // namespace pqpool_python
