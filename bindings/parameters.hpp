// What the two files that turn Python values into parameters share.
#pragma once

#include "values.hpp"

namespace pqpool_python {

// What a Python value is to PostgreSQL; a subclass is what its base is. The numbers are bits.
enum Kind : uint32_t {
    kNothing = 0,  // no type for it
    kNull = 1,
    kString = 1 << 1,
    kBoolean = 1 << 2,
    kInteger = 1 << 3,
    kReal = 1 << 4,
    kDecimal = 1 << 5,
    kBytes = 1 << 6,
    kCalendarDay = 1 << 7,
    kNaive = 1 << 8,  // a datetime without a zone, which is in the client's
    kAware = 1 << 9,
    kTimeOfDay = 1 << 10,
    kTimeInZone = 1 << 11,
    kDuration = 1 << 12,
    kUniqueId = 1 << 13,
    kAddress = 1 << 14,
    kMapping = 1 << 15,
    kList = 1 << 16,
};

// Why a value cannot be sent, to go after "parameter $1 ".
struct Refused {
    std::string why;
};

// The functions below raise Refused, or return with a Python error set: kind_of kNothing, the others false.

// Makes an int of what stands for one (a numpy integer).
Kind kind_of(Ref& value);
// The type that a value has by itself; kUnknown: the server infers it.
uint32_t type_of(Kind kind, PyObject* value);
// Appends the value in the binary form of a type that its kind can have, or as text that no setting of the session
// reads in another way.
bool write_binary(uint32_t type, Kind kind, PyObject* value, std::string& out);
bool write_text(Kind kind, PyObject* value, std::string& out);
// A numeric from Python's text of an int, a float or a Decimal.
void write_numeric(std::string_view digits, std::string& out);

// A str as UTF-8, which its object keeps.
bool utf8_of(PyObject* string, std::string_view& text);
void put_big_endian(std::string& out, uint64_t value, int bytes);

// A list as an array; the type is that of its elements together.
bool write_array(PyObject* list, uint32_t& type, bool& binary, std::string& out);

[[noreturn]] void refuse_type(PyObject* value, bool in_list);

}  // namespace pqpool_python
