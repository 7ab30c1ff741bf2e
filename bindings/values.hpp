// What the conversions of values share: PostgreSQL's types, its calendar, and the Python objects made of them.
#pragma once

#include <string_view>

#include "object.hpp"

namespace pqpool_python {

// ---- types ----

// X(enumerator, name, OID, OID of its array type): the types that have an array form here.
#define PQPOOL_TYPES_WITH_ARRAY(X)             \
    X(kBool, "bool", 16, 1000)                 \
    X(kBytea, "bytea", 17, 1001)               \
    X(kChar, "\"char\"", 18, 1002)             \
    X(kName, "name", 19, 1003)                 \
    X(kInt8, "int8", 20, 1016)                 \
    X(kInt2, "int2", 21, 1005)                 \
    X(kInt4, "int4", 23, 1007)                 \
    X(kText, "text", 25, 1009)                 \
    X(kOid, "oid", 26, 1028)                   \
    X(kJson, "json", 114, 199)                 \
    X(kFloat4, "float4", 700, 1021)            \
    X(kFloat8, "float8", 701, 1022)            \
    X(kBpchar, "bpchar", 1042, 1014)           \
    X(kVarchar, "varchar", 1043, 1015)         \
    X(kDate, "date", 1082, 1182)               \
    X(kTime, "time", 1083, 1183)               \
    X(kTimestamp, "timestamp", 1114, 1115)     \
    X(kTimestamptz, "timestamptz", 1184, 1185) \
    X(kInterval, "interval", 1186, 1187)       \
    X(kTimetz, "timetz", 1266, 1270)           \
    X(kNumeric, "numeric", 1700, 1231)         \
    X(kUuid, "uuid", 2950, 2951)               \
    X(kJsonb, "jsonb", 3802, 3807)

// X(enumerator, name, OID): the others whose binary form is read.
#define PQPOOL_TYPES_ALONE(X)        \
    X(kInt2vector, "int2vector", 22) \
    X(kTid, "tid", 27)               \
    X(kXid, "xid", 28)               \
    X(kCid, "cid", 29)               \
    X(kOidvector, "oidvector", 30)   \
    X(kCidr, "cidr", 650)            \
    X(kMacaddr8, "macaddr8", 774)    \
    X(kMacaddr, "macaddr", 829)      \
    X(kInet, "inet", 869)            \
    X(kBit, "bit", 1560)             \
    X(kVarbit, "varbit", 1562)       \
    X(kVoid, "void", 2278)           \
    X(kPgLsn, "pg_lsn", 3220)        \
    X(kJsonpath, "jsonpath", 4072)   \
    X(kXid8, "xid8", 5069)

enum Oid : uint32_t {
    kUnknown = 0,
#define X(enumerator, name, oid, array) enumerator = (oid),
    PQPOOL_TYPES_WITH_ARRAY(X)
#undef X
#define X(enumerator, name, oid) enumerator = (oid),
        PQPOOL_TYPES_ALONE(X)
#undef X
};

constexpr uint32_t element_of(uint32_t array) {  // 0: no array type, or one that stays text
    switch (array) {
#define X(enumerator, name, oid, array) \
    case array:                         \
        return oid;
        PQPOOL_TYPES_WITH_ARRAY(X)
#undef X
        default:
            return kUnknown;
    }
}

constexpr uint32_t array_of(uint32_t element) {  // 0: the server is to infer it
    switch (element) {
#define X(enumerator, name, oid, array) \
    case oid:                           \
        return array;
        PQPOOL_TYPES_WITH_ARRAY(X)
#undef X
        default:
            return kUnknown;
    }
}

constexpr int kMostDimensions = 6;  // of an array, PostgreSQL's limit

// ---- the calendar: days since 0001-01-01, microseconds since 2000-01-01 ----

constexpr int64_t kDay = 86'400'000'000;  // in microseconds
constexpr int64_t kEpochDays = 730'119;   // 2000-01-01
constexpr int64_t kLastDay = 3'652'058;   // 9999-12-31
constexpr int64_t kFirstMoment = -kEpochDays * kDay, kLastMoment = (kLastDay - kEpochDays + 1) * kDay - 1;

struct Day {
    int year, month, day;
};

// Proleptic Gregorian. Good for day 0 to kLastDay.
Day day_of(int64_t days);
// Good for years 0 to 9999999 and every month of 1 to 12; a day past its month's end counts into the next one.
int64_t days_of(const Day& day);

// ---- Python's objects ----

bool prepare_python_types();

// All of these give an empty Ref with a Python error set where there is no such object.
Ref strict_text(const char* bytes, std::size_t length);  // UTF-8, or an error
Ref date_of(int64_t days);
Ref time_of(int64_t us);                          // since midnight
Ref timetz_of(int64_t us, int32_t seconds_east);  // of Greenwich
Ref timestamp_of(int64_t us, bool with_zone);     // the ends of its range are infinities
Ref interval_of(int64_t months, int64_t days, int64_t us);
Ref decimal_of(const char* digits, std::size_t length);
Ref uuid_of(const char* bytes);  // 16

enum class Side { past, future };
Ref infinite_date(Side side);
Ref infinite_timestamp(Side side);

Ref out_of_range(const char* what);
Ref endless_interval();
// What came is no value of its type: a defect of the server, or of this decoder. Both return an empty Ref.
Ref malformed(uint32_t type, const char* why);

// ---- decoders: they look at nothing beyond the value, and believe nothing in it ----

Ref decode_binary(uint32_t type, const char* bytes, std::size_t length);
Ref decode_text(uint32_t type, const char* bytes, std::size_t length);
Ref decode_time_text(uint32_t type, std::string_view value);  // date, time, timetz, timestamp, timestamptz
Ref decode_interval_text(std::string_view value);

}  // namespace pqpool_python
