// Values in PostgreSQL's binary form.

#include <array>
#include <bit>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>

#include "values.hpp"

namespace pqpool_python {

namespace {

template <class T>
T big_endian(const char* from) {
    std::make_unsigned_t<T> value = 0;
    for (std::size_t i = 0; i < sizeof(T); i++)
        value = static_cast<std::make_unsigned_t<T>>(static_cast<uint64_t>(value) << 8 |
                                                     static_cast<unsigned char>(from[i]));
    return static_cast<T>(value);
}

// Takes a value apart from its front, and never reads past its end.
class Reader {
  public:
    Reader(const char* bytes, std::size_t length) : at_(bytes), left_(length) {}

    std::size_t left() const { return left_; }
    template <class T>
    bool take(T& out) {
        if (left_ < sizeof(T)) return false;
        out = big_endian<T>(at_);
        at_ += sizeof(T);
        left_ -= sizeof(T);
        return true;
    }
    bool take(std::size_t length, const char*& out) {
        if (left_ < length) return false;
        out = at_;
        at_ += length;
        left_ -= length;
        return true;
    }

  private:
    const char* at_;
    std::size_t left_;
};

Ref wrong_length(uint32_t type) { return malformed(type, "its length does not fit"); }

Ref ascii(std::string_view text) {
    return Ref::steal(PyUnicode_FromStringAndSize(text.data(), static_cast<Py_ssize_t>(text.size())));
}

// ---- numeric ----

constexpr int kGroupDigits = 4;          // of one base-10000 digit
constexpr uint16_t kMostScale = 16'383;  // PostgreSQL's

struct NumericHeader {
    uint16_t count;
    int16_t weight;  // of the first group: 10000 to this power
    uint16_t sign, scale;
};

void write_group(char* to, unsigned group) {
    to[0] = static_cast<char>('0' + group / 1000);
    to[1] = static_cast<char>('0' + group / 100 % 10);
    to[2] = static_cast<char>('0' + group / 10 % 10);
    to[3] = static_cast<char>('0' + group % 10);
}

Ref numeric_digits(const NumericHeader& header, const char* groups) {
    auto group = [&](int place) -> unsigned {
        return place < 0 || place >= header.count ? 0 : big_endian<uint16_t>(groups + 2L * place);
    };
    const std::size_t whole = header.weight < 0 ? 1 : (static_cast<std::size_t>(header.weight) + 1) * kGroupDigits;
    const std::size_t room = 1 + whole + 1 + header.scale + kGroupDigits;  // a fraction's last group may be cut
    std::array<char, 128> small;
    std::unique_ptr<char[]> large;
    if (room > small.size()) large = std::make_unique_for_overwrite<char[]>(room);
    char* const digits = large ? large.get() : small.data();
    char* end = digits;
    if (header.sign == 0x4000) *end++ = '-';
    char* const first = end;
    for (int i = 0; i <= header.weight; i++, end += kGroupDigits) write_group(end, group(i));
    if (header.weight < 0) *end++ = '0';
    char* start = first;
    while (start + 1 < end && *start == '0') start++;  // of the first group
    if (start != first) {
        std::memmove(first, start, static_cast<std::size_t>(end - start));
        end -= start - first;
    }
    if (header.scale > 0) {
        *end++ = '.';
        const char* const fraction = end;
        for (int i = header.weight + 1; end - fraction < header.scale; i++, end += kGroupDigits)
            write_group(end, group(i));
        end = const_cast<char*>(fraction) + header.scale;
    }
    return decimal_of(digits, static_cast<std::size_t>(end - digits));
}

Ref numeric_of(Reader in) {
    NumericHeader header;
    if (!in.take(header.count) || !in.take(header.weight) || !in.take(header.sign) || !in.take(header.scale) ||
        in.left() != 2 * std::size_t{header.count})
        return wrong_length(kNumeric);
    switch (header.sign) {
        case 0xC000:
            return decimal_of("NaN", 3);
        case 0xD000:
            return decimal_of("Infinity", 8);
        case 0xF000:
            return decimal_of("-Infinity", 9);
        case 0x0000:
        case 0x4000:
            break;
        default:
            return malformed(kNumeric, "its sign is unknown");
    }
    if (header.scale > kMostScale) return malformed(kNumeric, "its scale is out of bounds");
    const char* groups = nullptr;
    in.take(in.left(), groups);
    for (int i = 0; i < header.count; i++)
        if (big_endian<uint16_t>(groups + 2L * i) > 9999) return malformed(kNumeric, "a digit is out of bounds");
    return numeric_digits(header, groups);
}

// ---- dates and times ----

Ref date_from(int32_t days) {
    if (days == std::numeric_limits<int32_t>::max()) return infinite_date(Side::future);
    if (days == std::numeric_limits<int32_t>::min()) return infinite_date(Side::past);
    return date_of(days + kEpochDays);
}

bool is_time_of_day(int64_t us) { return us >= 0 && us <= kDay; }

Ref time_from(Reader in) {
    int64_t us;
    if (!in.take(us) || in.left() != 0) return wrong_length(kTime);
    return is_time_of_day(us) ? time_of(us) : malformed(kTime, "it is no time of a day");
}

Ref timetz_from(Reader in) {
    int64_t us;
    int32_t seconds_west;
    if (!in.take(us) || !in.take(seconds_west) || in.left() != 0) return wrong_length(kTimetz);
    if (!is_time_of_day(us)) return malformed(kTimetz, "it is no time of a day");
    if (seconds_west <= -86'400 || seconds_west >= 86'400) return malformed(kTimetz, "its zone is a day off");
    return timetz_of(us, -seconds_west);
}

Ref interval_from(Reader in) {
    int64_t us;
    int32_t days, months;
    if (!in.take(us) || !in.take(days) || !in.take(months) || in.left() != 0) return wrong_length(kInterval);
    return interval_of(months, days, us);
}

// ---- types that are given as their text form is ----

Ref bits_of(uint32_t type, Reader in) {
    int32_t count;
    if (!in.take(count) || count < 0 || in.left() != (static_cast<std::size_t>(count) + 7) / 8)
        return wrong_length(type);
    const char* bytes;
    in.take(in.left(), bytes);
    std::string digits(static_cast<std::size_t>(count), '0');
    for (std::size_t i = 0; i < digits.size(); i++)
        if (static_cast<unsigned char>(bytes[i / 8]) >> (7 - i % 8) & 1) digits[i] = '1';
    return ascii(digits);
}

constexpr char kHexDigits[] = "0123456789abcdef";

Ref mac_address_of(uint32_t type, Reader in) {
    if (in.left() != (type == kMacaddr ? 6 : 8)) return wrong_length(type);
    std::string text;
    for (uint8_t byte; in.take(byte);) {
        if (!text.empty()) text += ':';
        text += {kHexDigits[byte >> 4], kHexDigits[byte & 15]};
    }
    return ascii(text);
}

void write_ipv4(std::string& text, const unsigned char* bytes) {
    for (int i = 0; i < 4; i++) {
        if (i > 0) text += '.';
        text += std::to_string(bytes[i]);
    }
}

// As PostgreSQL writes it: the first of the longest runs of zero words is "::", and an embedded IPv4 address stays one.
void write_ipv6(std::string& text, const unsigned char* bytes) {
    unsigned words[8];
    for (int i = 0; i < 8; i++) words[i] = static_cast<unsigned>(bytes[2L * i] << 8 | bytes[2L * i + 1]);
    int zeros = 0, begin = -1, longest = 1;  // a single zero word is written
    for (int i = 0; i < 8; i++) {
        zeros = words[i] == 0 ? zeros + 1 : 0;
        if (zeros > longest) longest = zeros, begin = i + 1 - zeros;
    }
    const bool embeds = begin == 0 && (longest == 6 || (longest == 5 && words[5] == 0xFFFF));
    char word[8];
    for (int i = 0; i < 8; i++) {
        if (i == begin) {
            text += "::";
            i += longest - 1;
            continue;
        }
        if (embeds && i == 6) {
            if (text.back() != ':') text += ':';
            return write_ipv4(text, bytes + 12);
        }
        if (i > 0 && text.back() != ':') text += ':';
        std::snprintf(word, sizeof word, "%x", words[i]);
        text += word;
    }
}

Ref network_address_of(uint32_t type, Reader in) {
    uint8_t family, bits, is_cidr, size;
    if (!in.take(family) || !in.take(bits) || !in.take(is_cidr) || !in.take(size) || in.left() != size)
        return wrong_length(type);
    const bool v4 = family == 2;  // PostgreSQL's own numbers
    if (!v4 && family != 3) return malformed(type, "its address family is unknown");
    if (size != (v4 ? 4 : 16) || bits > 8 * size) return wrong_length(type);
    const char* bytes;
    in.take(size, bytes);
    std::string text;
    (v4 ? write_ipv4 : write_ipv6)(text, reinterpret_cast<const unsigned char*>(bytes));
    if (type == kCidr || bits != 8 * size) {
        text += '/';
        text += std::to_string(bits);
    }
    return ascii(text);
}

Ref tuple_id_of(Reader in) {
    uint32_t block;
    uint16_t place;
    if (!in.take(block) || !in.take(place) || in.left() != 0) return wrong_length(kTid);
    return Ref::steal(PyUnicode_FromFormat("(%u,%u)", block, unsigned{place}));
}

Ref log_position_of(Reader in) {
    uint32_t high, low;
    if (!in.take(high) || !in.take(low) || in.left() != 0) return wrong_length(kPgLsn);
    char text[24];
    const int length = std::snprintf(text, sizeof text, "%X/%X", high, low);
    return ascii({text, static_cast<std::size_t>(length)});
}

// A byte; PostgreSQL writes those beyond ASCII in octal, and so keeps the text UTF-8.
Ref char_of(Reader in) {
    uint8_t byte;
    if (!in.take(byte) || in.left() != 0) return wrong_length(kChar);
    if (byte == 0) return ascii("");
    const char c = static_cast<char>(byte);
    const char octal[] = {'\\', static_cast<char>('0' + (byte >> 6)), static_cast<char>('0' + (byte >> 3 & 7)),
                          static_cast<char>('0' + (byte & 7))};
    return byte < 128 ? ascii({&c, 1}) : ascii({octal, sizeof octal});
}

// ---- arrays ----

struct Dimensions {
    int32_t count, has_nulls;
    uint32_t element;
    int32_t sizes[kMostDimensions];
};

// Also bounds what is allocated: each element has at least its length in front.
const char* read_dimensions(Reader& in, Dimensions& out) {  // gives what is wrong
    if (!in.take(out.count) || !in.take(out.has_nulls) || !in.take(out.element)) return "it ends within its header";
    if (out.count < 0 || out.count > kMostDimensions) return "its number of dimensions is out of bounds";
    if (in.left() < 8 * static_cast<std::size_t>(out.count)) return "it ends within its header";
    const std::size_t most = (in.left() - 8 * static_cast<std::size_t>(out.count)) / 4;
    std::size_t items = 1;
    for (int i = 0; i < out.count; i++) {
        int32_t lower_bound;
        in.take(out.sizes[i]);
        in.take(lower_bound);
        if (out.sizes[i] < 0 || static_cast<std::size_t>(out.sizes[i]) > most) return "its size is out of bounds";
        items *= static_cast<std::size_t>(out.sizes[i]);  // of two numbers below 2^30
        if (items > most || (items == 0 && out.count > 1)) return "its size is out of bounds";
    }
    return nullptr;
}

Ref items_of(Reader& in, uint32_t type, const Dimensions& dimensions, int depth) {
    const int32_t size = dimensions.sizes[depth];
    Ref list = Ref::steal(PyList_New(size));
    for (int32_t i = 0; list && i < size; i++) {
        Ref item;
        if (depth + 1 < dimensions.count) {
            item = items_of(in, type, dimensions, depth + 1);
        } else {
            int32_t length;
            const char* bytes = nullptr;
            if (!in.take(length) || length < -1) return wrong_length(type);
            if (length >= 0 && !in.take(static_cast<std::size_t>(length), bytes)) return wrong_length(type);
            item = length < 0 ? Ref::borrow(Py_None)
                              : decode_binary(dimensions.element, bytes, static_cast<std::size_t>(length));
        }
        if (!item) return {};
        PyList_SET_ITEM(list.get(), i, item.release());
    }
    return list;
}

Ref array_from(uint32_t type, uint32_t element, Reader in) {
    Dimensions dimensions;
    if (const char* wrong = read_dimensions(in, dimensions)) return malformed(type, wrong);
    if (dimensions.element != element) return malformed(type, "its elements are of another type");
    Ref list = dimensions.count == 0 ? Ref::steal(PyList_New(0)) : items_of(in, type, dimensions, 0);
    return list && in.left() != 0 ? wrong_length(type) : std::move(list);
}

// int2vector and oidvector: "1 2 3".
template <class T>
Ref vector_of(uint32_t type, uint32_t element, Reader in) {
    Dimensions dimensions;
    if (const char* wrong = read_dimensions(in, dimensions)) return malformed(type, wrong);
    if (dimensions.element != element || dimensions.count != 1) return malformed(type, "it is no list of numbers");
    std::string text;
    for (int32_t i = 0; i < dimensions.sizes[0]; i++) {
        int32_t length;
        T number;
        if (!in.take(length) || length != sizeof(T) || !in.take(number)) return wrong_length(type);
        if (i > 0) text += ' ';
        text += std::to_string(number);
    }
    return in.left() == 0 ? ascii(text) : wrong_length(type);
}

// jsonb and jsonpath: a version, then the text.
Ref versioned_text(uint32_t type, Reader in) {
    uint8_t version;
    if (!in.take(version)) return wrong_length(type);
    if (version != 1) return malformed(type, "its version is unknown. Suggestion: select it as text");
    const char* text;
    const std::size_t length = in.left();
    in.take(length, text);
    return strict_text(text, length);
}

}  // namespace

Ref decode_binary(uint32_t type, const char* bytes, std::size_t length) {
    const Reader in(bytes, length);
    switch (type) {
        case kInt4:
            return length == 4 ? Ref::steal(PyLong_FromLong(big_endian<int32_t>(bytes))) : wrong_length(type);
        case kInt8:
            return length == 8 ? Ref::steal(PyLong_FromLongLong(big_endian<int64_t>(bytes))) : wrong_length(type);
        case kInt2:
            return length == 2 ? Ref::steal(PyLong_FromLong(big_endian<int16_t>(bytes))) : wrong_length(type);
        case kOid:
            return length == 4 ? Ref::steal(PyLong_FromUnsignedLong(big_endian<uint32_t>(bytes))) : wrong_length(type);
        case kBool:
            return length == 1 ? Ref::borrow(*bytes ? Py_True : Py_False) : wrong_length(type);
        case kFloat4:
            return length == 4 ? Ref::steal(PyFloat_FromDouble(std::bit_cast<float>(big_endian<uint32_t>(bytes))))
                               : wrong_length(type);
        case kFloat8:
            return length == 8 ? Ref::steal(PyFloat_FromDouble(std::bit_cast<double>(big_endian<uint64_t>(bytes))))
                               : wrong_length(type);
        case kNumeric:
            return numeric_of(in);
        case kBytea:
            return Ref::steal(PyBytes_FromStringAndSize(bytes, static_cast<Py_ssize_t>(length)));
        case kUuid:
            return length == 16 ? uuid_of(bytes) : wrong_length(type);
        case kVoid:
            return Ref::borrow(Py_None);
        case kDate:
            return length == 4 ? date_from(big_endian<int32_t>(bytes)) : wrong_length(type);
        case kTime:
            return time_from(in);
        case kTimetz:
            return timetz_from(in);
        case kTimestamp:
        case kTimestamptz:
            return length == 8 ? timestamp_of(big_endian<int64_t>(bytes), type == kTimestamptz) : wrong_length(type);
        case kInterval:
            return interval_from(in);
        case kJsonb:
        case kJsonpath:
            return versioned_text(type, in);
        case kChar:
            return char_of(in);
        case kBit:
        case kVarbit:
            return bits_of(type, in);
        case kInet:
        case kCidr:
            return network_address_of(type, in);
        case kMacaddr:
        case kMacaddr8:
            return mac_address_of(type, in);
        case kXid:
        case kCid:
            return length == 4 ? ascii(std::to_string(big_endian<uint32_t>(bytes))) : wrong_length(type);
        case kXid8:
            return length == 8 ? ascii(std::to_string(big_endian<uint64_t>(bytes))) : wrong_length(type);
        case kTid:
            return tuple_id_of(in);
        case kPgLsn:
            return log_position_of(in);
        case kInt2vector:
            return vector_of<int16_t>(type, kInt2, in);
        case kOidvector:
            return vector_of<uint32_t>(type, kOid, in);
        case kText:
        case kVarchar:
        case kBpchar:
        case kName:
        case kJson:
            return strict_text(bytes, length);
        default:
            break;
    }
    if (const uint32_t element = element_of(type)) return array_from(type, element, in);
    raise_error("unsupported", "a column came in the binary form of the type with OID " + std::to_string(type) +
                                   ", which is not read here: it has changed its type since the statement was "
                                   "prepared. Suggestion: run the statement again, or cast the column to text");
    return {};
}

}  // namespace pqpool_python
