// A list as an array: binary where its elements have a fixed layout, so that no setting of the session matters; as text
// where the server is to infer what they are.

#include <algorithm>
#include <array>
#include <charconv>
#include <vector>

#include "parameters.hpp"

namespace pqpool_python {

namespace {

constexpr int64_t kExactInFloat8 = int64_t{1} << 53;

// The elements of a list, and of the lists in it, in one row.
class Elements {
  public:
    bool gather(PyObject* list) { return gather(list, 0); }

    struct Element {
        Ref value;
        Kind kind;
    };
    const std::vector<Element>& items() const { return items_; }
    std::size_t dimensions() const { return dimensions_; }
    Py_ssize_t size(std::size_t dimension) const { return sizes_[dimension]; }
    bool has(Kind kind) const { return kinds_ & kind; }
    uint32_t kinds() const { return kinds_ & ~static_cast<uint32_t>(kNull); }
    uint32_t type() const;

  private:
    static constexpr std::size_t kUnseen = 100;

    bool gather(PyObject* list, std::size_t depth) {
        if (depth == kMostDimensions)
            throw Refused{
                "is a list of more than 6 dimensions, or one that holds itself. Suggestion: PostgreSQL's "
                "arrays have 6 at most"};
        const Ref items = Ref::steal(PySequence_Fast(list, "it is no list"));
        if (!items) return false;
        const Py_ssize_t size = PySequence_Fast_GET_SIZE(items.get());
        if (depth == dimensions_)
            sizes_[dimensions_++] = size;
        else if (sizes_[depth] != size)
            refuse_shape();
        for (Py_ssize_t i = 0; i < size; i++) {
            // What is called on the way may have changed the list.
            if (PySequence_Fast_GET_SIZE(items.get()) != size) refuse_shape();
            Ref item = Ref::borrow(PySequence_Fast_GET_ITEM(items.get(), i));
            const Kind kind = kind_of(item);
            if (kind == kNothing && PyErr_Occurred()) return false;
            if (kind == kNothing) refuse_type(item.get(), true);
            if (kind == kList) {
                if (depth >= leaves_) refuse_shape();
                if (!gather(item.get(), depth + 1)) return false;
                continue;
            }
            if (leaves_ == kUnseen) leaves_ = depth;
            if (leaves_ != depth || dimensions_ != depth + 1) refuse_shape();
            kinds_ |= kind;
            items_.push_back({std::move(item), kind});
        }
        return true;
    }
    [[noreturn]] static void refuse_shape() {
        throw Refused{"is a list whose parts are of different lengths or depths, which no array can have"};
    }
    uint32_t integer_type() const;

    std::vector<Element> items_;
    std::array<Py_ssize_t, kMostDimensions> sizes_;
    std::size_t dimensions_ = 0;
    std::size_t leaves_ = kUnseen;  // the depth of what is no list
    uint32_t kinds_ = 0;
};

uint32_t Elements::integer_type() const {
    uint32_t type = kInt4;
    for (const Element& element : items_) {
        if (element.kind != kInteger) continue;
        const uint32_t one = type_of(kInteger, element.value.get());
        if (one == kNumeric || type == kInt4) type = one;
        if (type == kNumeric) break;
    }
    return type;
}

// Refused where a number would change on its way through a float.
void want_exact(PyObject* integer) {
    int overflow = 0;
    const long long n = PyLong_AsLongLongAndOverflow(integer, &overflow);
    if (!overflow && n >= -kExactInFloat8 && n <= kExactInFloat8) return;
    throw Refused{
        "is a list of floats with an int that no float can hold. Suggestion: make them all Decimal, or all float"};
}

// The type in which all elements fit without change; kUnknown leaves it to the server.
uint32_t Elements::type() const {
    const uint32_t kinds = this->kinds() & ~static_cast<uint32_t>(kString);  // a str fits any
    auto among = [&](uint32_t some) { return (kinds & ~some) == 0; };
    if (kinds == 0) return has(kString) && has(kNull) ? kText : kUnknown;  // as text, array_nulls would decide on NULL
    if (kinds == kBoolean) return kBool;
    if (among(kBoolean | kInteger)) return integer_type();
    if (among(kBoolean | kInteger | kReal)) {
        for (const Element& element : items_)
            if (element.kind == kInteger) want_exact(element.value.get());
        return kFloat8;
    }
    if (among(kBoolean | kInteger | kReal | kDecimal)) return kNumeric;
    if (kinds == kCalendarDay) return kDate;
    if (among(kCalendarDay | kNaive | kAware)) return has(kAware) ? kTimestamptz : kUnknown;
    for (const Element& element : items_)
        if (element.kind != kString && element.kind != kNull) {
            if (!among(element.kind)) break;
            return type_of(element.kind, element.value.get());
        }
    throw Refused{"is a list of values of different types, which no array can have"};
}

bool write_elements(const Elements& elements, uint32_t type, std::string& out) {
    const bool empty = elements.items().empty();
    put_big_endian(out, empty ? 0 : elements.dimensions(), 4);
    put_big_endian(out, elements.has(kNull), 4);
    put_big_endian(out, type, 4);
    for (std::size_t i = 0; !empty && i < elements.dimensions(); i++) {
        put_big_endian(out, static_cast<uint64_t>(elements.size(i)), 4);
        put_big_endian(out, 1, 4);  // the lower bound
    }
    for (const auto& [value, kind] : elements.items()) {
        const std::size_t length_at = out.size();
        put_big_endian(out, kind == kNull ? 0xFFFF'FFFF : 0, 4);
        if (kind == kNull) continue;
        if (!write_binary(type, kind, value.get(), out)) return false;
        const std::size_t length = out.size() - length_at - 4;
        if (length > INT32_MAX) throw Refused{"is a list with an element of more bytes than PostgreSQL takes"};
        for (int i = 0; i < 4; i++)
            out[length_at + static_cast<std::size_t>(i)] = static_cast<char>(length >> (24 - 8 * i));
    }
    return true;
}

// '{1,NULL,{"a","b"}}', a dimension of it.
bool write_literal(const Elements& elements, std::size_t depth, std::size_t& next, std::string& out) {
    out.push_back('{');
    std::string text;
    for (Py_ssize_t i = 0; i < elements.size(depth); i++) {
        if (i > 0) out.push_back(',');
        if (depth + 1 < elements.dimensions()) {
            if (!write_literal(elements, depth + 1, next, out)) return false;
            continue;
        }
        const auto& [value, kind] = elements.items()[next++];
        if (kind == kNull) {
            out += "NULL";
            continue;
        }
        text.clear();
        if (!write_text(kind, value.get(), text)) return false;
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

// ---- numeric ----

constexpr int kMostWholeDigits = 131'072, kMostFractionDigits = 16'383;  // PostgreSQL's

struct Digits {
    bool negative = false;
    std::string digits;    // without zeros in front
    int64_t exponent = 0;  // the value is digits * 10^exponent
};

Digits digits_of(std::string_view text) {  // as Python writes an int, a float or a Decimal
    Digits out;
    if (text.starts_with('-')) out.negative = true, text.remove_prefix(1);
    const auto e = std::min(text.find_first_of("eE"), text.size());
    bool point = false;
    for (const char c : text.substr(0, e)) {
        if (c == '.') {
            point = true;
            continue;
        }
        if (c != '0' || !out.digits.empty()) out.digits.push_back(c);
        if (point) out.exponent--;
    }
    if (e == text.size()) return out;
    std::string_view exponent = text.substr(e + 1);
    if (exponent.starts_with('+')) exponent.remove_prefix(1);
    int64_t more = 0;
    if (std::from_chars(exponent.data(), exponent.data() + exponent.size(), more).ec != std::errc() ||
        more > 1'000'000'000 || more < -1'000'000'000)
        more = 1'000'000'000;  // out of range, in any case
    out.exponent += more;
    return out;
}

void put_numeric_header(std::string& out, std::size_t count, int64_t weight, uint64_t sign, int64_t scale) {
    put_big_endian(out, count, 2);
    put_big_endian(out, static_cast<uint64_t>(weight), 2);
    put_big_endian(out, sign, 2);
    put_big_endian(out, static_cast<uint64_t>(scale), 2);
}

}  // namespace

void write_numeric(std::string_view text, std::string& out) {
    if (text.find_first_of("nN") == 0 || text.starts_with("NaN")) return put_numeric_header(out, 0, 0, 0xC000, 0);
    if (text.find_first_of("iI") != std::string_view::npos)
        return put_numeric_header(out, 0, 0, text.starts_with('-') ? 0xF000 : 0xD000, 0);
    Digits number = digits_of(text);
    const int64_t scale = std::max<int64_t>(0, -number.exponent);
    const int64_t point = static_cast<int64_t>(number.digits.size()) + number.exponent;  // digits in front of it
    if (scale > kMostFractionDigits || (point > kMostWholeDigits && !number.digits.empty()))
        throw Refused{
            "has a number that PostgreSQL's numeric cannot hold: 131072 digits before and 16383 after the "
            "point are the most"};
    if (number.digits.empty()) return put_numeric_header(out, 0, 0, 0, scale);
    // Groups of four digits, counted from the point.
    const int64_t weight = (point > 0 ? point - 1 : point - 4) / 4;
    std::string& digits = number.digits;
    digits.insert(0, static_cast<std::size_t>(4 * (weight + 1) - point), '0');
    digits.append((4 - digits.size() % 4) % 4, '0');
    while (digits.ends_with("0000")) digits.resize(digits.size() - 4);
    put_numeric_header(out, digits.size() / 4, weight, number.negative ? 0x4000 : 0, scale);
    for (std::size_t i = 0; i < digits.size(); i += 4) {
        unsigned group = 0;
        for (std::size_t j = i; j < i + 4; j++) group = group * 10 + static_cast<unsigned>(digits[j] - '0');
        put_big_endian(out, group, 2);
    }
}

bool write_array(PyObject* list, uint32_t& type, bool& binary, std::string& out) {
    Elements elements;
    if (!elements.gather(list)) return false;
    const uint32_t element = elements.type();
    type = array_of(element);
    binary = element != kUnknown && (element == kText || !elements.has(kString));
    if (binary) return write_elements(elements, element, out);
    // The blank in front is one of an array's and not of JSON's, where {} would be an empty object.
    if (elements.items().empty()) return out += "\v{}", true;
    std::size_t next = 0;
    return write_literal(elements, 0, next, out);
}

}  // namespace pqpool_python
