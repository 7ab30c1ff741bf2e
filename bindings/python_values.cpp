// The Python object for each kind of value, after asyncpg's table.

#include <limits>

#include "values.hpp"

#include <datetime.h>  // wants Python.h before it

namespace pqpool_python {

namespace {

PyObject *decimal_type, *uuid_type, *bytes_keyword, *no_arguments;

constexpr int kMostDeltaDays = 999'999'999;

Ref datetime_of(const Day& d, int64_t us, PyObject* zone) {
    const auto seconds = static_cast<uint32_t>(us / 1'000'000);
    return Ref::steal(PyDateTimeAPI->DateTime_FromDateAndTime(
        d.year, d.month, d.day, static_cast<int>(seconds / 3600), static_cast<int>(seconds / 60 % 60),
        static_cast<int>(seconds % 60), static_cast<int>(us % 1'000'000), zone, PyDateTimeAPI->DateTimeType));
}

Ref time_in_zone(int64_t us, PyObject* zone) {
    if (us == kDay) {  // asyncpg's class of error, and its words
        PyErr_SetString(
            PyExc_ValueError,
            "hour must be in 0..23, and the time is 24:00:00. Suggestion: select it as text or as interval");
        return {};
    }
    const int64_t seconds = us / 1'000'000;
    return Ref::steal(PyDateTimeAPI->Time_FromTime(static_cast<int>(seconds / 3600),
                                                   static_cast<int>(seconds / 60 % 60), static_cast<int>(seconds % 60),
                                                   static_cast<int>(us % 1'000'000), zone, PyDateTimeAPI->TimeType));
}

const char* name_of(uint32_t type) {
    switch (type) {
#define X(enumerator, name, oid, array) \
    case oid:                           \
        return name;                    \
    case array:                         \
        return name "[]";
        PQPOOL_TYPES_WITH_ARRAY(X)
#undef X
#define X(enumerator, name, oid) \
    case oid:                    \
        return name;
        PQPOOL_TYPES_ALONE(X)
#undef X
        default:
            return "of a type without a name here";
    }
}

}  // namespace

Day day_of(int64_t since) {
    const auto days = static_cast<uint32_t>(since) + 306;  // March-based years, from 0000-03-01
    const uint32_t era = days / 146'097, in_era = days % 146'097;
    const uint32_t year_of_era = (in_era - in_era / 1460 + in_era / 36'524 - in_era / 146'096) / 365;
    const uint32_t in_year = in_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    const uint32_t month = (5 * in_year + 2) / 153;
    const uint32_t day = in_year - (153 * month + 2) / 5 + 1;
    const uint32_t calendar_month = month < 10 ? month + 3 : month - 9;
    return {static_cast<int>(year_of_era + era * 400 + (calendar_month <= 2)), static_cast<int>(calendar_month),
            static_cast<int>(day)};
}

int64_t days_of(const Day& d) {
    const int64_t year = d.month <= 2 ? d.year - 1 : d.year;
    const int64_t era = (year >= 0 ? year : year - 399) / 400, of_era = year - era * 400;
    const int64_t in_year = (153 * (d.month > 2 ? d.month - 3 : d.month + 9) + 2) / 5 + d.day - 1;
    return era * 146'097 + of_era * 365 + of_era / 4 - of_era / 100 + in_year - 306;
}

bool prepare_python_types() {
    PyDateTime_IMPORT;
    const Ref decimal = Ref::steal(PyImport_ImportModule("decimal")), uuid = Ref::steal(PyImport_ImportModule("uuid"));
    if (!PyDateTimeAPI || !decimal || !uuid) return false;
    decimal_type = PyObject_GetAttrString(decimal.get(), "Decimal");
    uuid_type = PyObject_GetAttrString(uuid.get(), "UUID");
    bytes_keyword = PyUnicode_InternFromString("bytes");
    no_arguments = PyTuple_New(0);
    return decimal_type && uuid_type && bytes_keyword && no_arguments;
}

Ref strict_text(const char* bytes, std::size_t length) {
    return Ref::steal(PyUnicode_DecodeUTF8(bytes, static_cast<Py_ssize_t>(length), nullptr));
}

Ref date_of(int64_t days) {
    if (days < 0 || days > kLastDay) return out_of_range("date");
    const Day d = day_of(days);
    return Ref::steal(PyDate_FromDate(d.year, d.month, d.day));
}

Ref time_of(int64_t us) { return time_in_zone(us, Py_None); }

Ref timetz_of(int64_t us, int32_t seconds_east) {
    const Ref offset = Ref::steal(PyDelta_FromDSU(0, seconds_east, 0));
    const Ref zone = Ref::steal(offset ? PyTimeZone_FromOffset(offset.get()) : nullptr);
    return zone ? time_in_zone(us, zone.get()) : Ref();
}

Ref timestamp_of(int64_t us, bool with_zone) {
    if (us < kFirstMoment || us > kLastMoment) {
        if (us == std::numeric_limits<int64_t>::max()) return infinite_timestamp(Side::future);
        if (us == std::numeric_limits<int64_t>::min()) return infinite_timestamp(Side::past);
        return out_of_range(with_zone ? "timestamptz" : "timestamp");
    }
    const auto since = static_cast<uint64_t>(us - kFirstMoment), days = since / kDay;
    return datetime_of(day_of(static_cast<int64_t>(days)), static_cast<int64_t>(since % kDay),
                       with_zone ? PyDateTime_TimeZone_UTC : Py_None);
}

Ref infinite_date(Side side) { return date_of(side == Side::past ? 0 : kLastDay); }

Ref infinite_timestamp(Side side) {  // asyncpg's: datetime.min and datetime.max, of a timestamptz too
    return side == Side::past ? datetime_of({1, 1, 1}, 0, Py_None) : datetime_of({9999, 12, 31}, kDay - 1, Py_None);
}

Ref interval_of(int64_t months, int64_t days, int64_t us) {  // a year counts 365 days and a month 30, as in asyncpg
    const bool too_far = months < -INT32_MAX || months > INT32_MAX || days < -INT32_MAX || days > INT32_MAX;
    if (too_far) return endless_interval();
    days += months / 12 * 365 + months % 12 * 30;
    days += us / kDay;
    us %= kDay;
    if (days < -kMostDeltaDays || days > kMostDeltaDays || (days == -kMostDeltaDays && us < 0))
        return endless_interval();
    return Ref::steal(
        PyDelta_FromDSU(static_cast<int>(days), static_cast<int>(us / 1'000'000), static_cast<int>(us % 1'000'000)));
}

Ref decimal_of(const char* digits, std::size_t length) {
    const Ref string = Ref::steal(PyUnicode_FromStringAndSize(digits, static_cast<Py_ssize_t>(length)));
    return string ? Ref::steal(PyObject_CallOneArg(decimal_type, string.get())) : Ref();
}

Ref uuid_of(const char* bytes) {
    const Ref sixteen = Ref::steal(PyBytes_FromStringAndSize(bytes, 16)), keywords = Ref::steal(PyDict_New());
    if (!sixteen || !keywords || PyDict_SetItem(keywords.get(), bytes_keyword, sixteen.get()) != 0) return {};
    return Ref::steal(PyObject_Call(uuid_type, no_arguments, keywords.get()));
}

Ref out_of_range(const char* what) {
    PyErr_Format(PyExc_OverflowError,
                 "the %s is outside Python's range of years 1 to 9999. Suggestion: select it as text", what);
    return {};
}

Ref endless_interval() {
    PyErr_Format(PyExc_OverflowError,
                 "the interval is outside Python's range of %d days, a year counted as 365 and a month as 30. "
                 "Suggestion: select it as text, or its parts with extract()",
                 kMostDeltaDays);
    return {};
}

Ref malformed(uint32_t type, const char* why) {
    raise_error("internal", std::string("the server sent a malformed value of type ") + name_of(type) + " (OID " +
                                std::to_string(type) + "): " + why);
    return {};
}

}  // namespace pqpool_python
