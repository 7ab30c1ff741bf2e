// Values in PostgreSQL's text form, which give what their binary form gives.

#include <charconv>

#include "values.hpp"

namespace pqpool_python {

namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

template <class T>
bool read_whole(std::string_view text, T& out) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
    return error == std::errc() && end == text.data() + text.size();
}

template <class T>
Ref integer_of(uint32_t type, std::string_view text) {
    T number;
    if (!read_whole(text, number)) return malformed(type, "it is no number of its range");
    if constexpr (std::is_signed_v<T>) return Ref::steal(PyLong_FromLongLong(number));
    return Ref::steal(PyLong_FromUnsignedLong(number));
}

template <class T>
Ref float_of(uint32_t type, std::string_view text) {
    T number;
    if (!read_whole(text, number)) return malformed(type, "it is no number of its range");
    return Ref::steal(PyFloat_FromDouble(number));
}

constexpr std::size_t kLongestNumeric = 2 + 131'072 + 16'383;  // sign, point and digits

bool is_numeric(std::string_view text) {
    if (text.size() > kLongestNumeric) return false;
    if (text == "NaN" || text == "Infinity" || text == "-Infinity") return true;
    if (text.starts_with('-')) text.remove_prefix(1);
    const auto point = std::min(text.find('.'), text.size());
    auto all_digits = [](std::string_view part) {
        for (const char c : part)
            if (!is_digit(c)) return false;
        return !part.empty();
    };
    return all_digits(text.substr(0, point)) && (point == text.size() || all_digits(text.substr(point + 1)));
}

int hex_digit(char c) {
    if (is_digit(c)) return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

Ref bytes_from_hex(std::string_view digits) {
    if (digits.size() % 2) return malformed(kBytea, "its number of hexadecimal digits is odd");
    Ref bytes = Ref::steal(PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(digits.size() / 2)));
    if (!bytes) return {};
    char* to = PyBytes_AS_STRING(bytes.get());
    for (std::size_t i = 0; i < digits.size(); i += 2) {
        const int high = hex_digit(digits[i]), low = hex_digit(digits[i + 1]);
        if (high < 0 || low < 0) return malformed(kBytea, "a hexadecimal digit is none");
        *to++ = static_cast<char>(high << 4 | low);
    }
    return bytes;
}

// bytea_output = escape: "\\" is a backslash, "\ooo" a byte, anything else itself.
Ref bytes_from_escapes(std::string_view text) {
    std::string bytes;
    bytes.reserve(text.size());
    auto octal = [&](std::size_t at, int most) { return at < text.size() ? text[at] - '0' : -1 - most; };
    for (std::size_t i = 0; i < text.size(); i++) {
        if (text[i] != '\\') {
            bytes.push_back(text[i]);
        } else if (i + 1 < text.size() && text[i + 1] == '\\') {
            bytes.push_back('\\');
            i++;
        } else {
            const int high = octal(i + 1, 3), middle = octal(i + 2, 7), low = octal(i + 3, 7);
            if (high < 0 || high > 3 || middle < 0 || middle > 7 || low < 0 || low > 7)
                return malformed(kBytea, "a backslash escapes nothing");
            bytes.push_back(static_cast<char>(high << 6 | middle << 3 | low));
            i += 3;
        }
    }
    return Ref::steal(PyBytes_FromStringAndSize(bytes.data(), static_cast<Py_ssize_t>(bytes.size())));
}

Ref uuid_from(std::string_view text) {
    char bytes[16];
    std::size_t digits = 0;
    for (std::size_t i = 0; i < text.size() && digits < 32; i++) {
        if (i == 8 || i == 13 || i == 18 || i == 23) {
            if (text[i] != '-') break;
            continue;
        }
        const int digit = hex_digit(text[i]);
        if (digit < 0) break;
        char& byte = bytes[digits / 2];
        byte = static_cast<char>(digits % 2 ? byte | digit : digit << 4);
        digits++;
    }
    return text.size() == 36 && digits == 32 ? uuid_of(bytes) : malformed(kUuid, "it is no UUID");
}

Ref char_from(std::string_view text) {  // older servers send a byte beyond ASCII as it is
    if (text.size() != 1 || static_cast<unsigned char>(text[0]) < 128) return strict_text(text.data(), text.size());
    return decode_binary(kChar, text.data(), text.size());
}

// ---- arrays: {1,NULL,"a \"quoted\" one",{…}} ----

class ArrayText {
  public:
    ArrayText(uint32_t type, uint32_t element, std::string_view text) : type_(type), element_(element), text_(text) {}

    Ref decode() {
        skip_bounds();
        Ref list = at_ < text_.size() && text_[at_] == '{' ? list_of(1) : wrong();
        return list && at_ != text_.size() ? wrong() : std::move(list);
    }

  private:
    Ref wrong() { return malformed(type_, "its text is no array"); }

    void skip_bounds() {  // "[0:1][2:3]=", where they do not start at 1
        std::size_t at = 0;
        while (at < text_.size() &&
               (is_digit(text_[at]) || std::string_view("[]:-+").find(text_[at]) != std::string_view::npos))
            at++;
        if (at < text_.size() && text_[at] == '=') at_ = at + 1;
    }

    Ref list_of(int depth) {  // from a brace to the one that closes it
        Ref list = Ref::steal(PyList_New(0));
        at_++;
        if (list && at_ < text_.size() && text_[at_] == '}') return at_++, std::move(list);
        while (list) {
            if (at_ >= text_.size()) return wrong();
            const bool nested = text_[at_] == '{';
            if (nested && depth == kMostDimensions) return malformed(type_, "it has more than 6 dimensions");
            const Ref item = nested ? list_of(depth + 1) : text_[at_] == '"' ? quoted() : unquoted();
            if (!item || PyList_Append(list.get(), item.get()) != 0) return {};
            if (at_ >= text_.size()) return wrong();
            const char c = text_[at_++];
            if (c == '}') return list;
            if (c != ',') return wrong();
        }
        return {};
    }

    Ref quoted() {
        one_.clear();
        for (at_++; at_ < text_.size() && text_[at_] != '"'; at_++) {
            if (text_[at_] == '\\') at_++;
            if (at_ < text_.size()) one_.push_back(text_[at_]);
        }
        if (at_ >= text_.size()) return wrong();
        at_++;
        return decode_text(element_, one_.data(), one_.size());
    }

    Ref unquoted() {
        const std::size_t end = std::min(text_.find_first_of(",{}\"\\", at_), text_.size());
        const std::string_view one = text_.substr(at_, end - at_);
        if (one.empty()) return wrong();
        at_ = end;
        return one == "NULL" ? Ref::borrow(Py_None) : decode_text(element_, one.data(), one.size());
    }

    const uint32_t type_, element_;
    const std::string_view text_;
    std::size_t at_ = 0;
    std::string one_;
};

}  // namespace

Ref decode_text(uint32_t type, const char* bytes, std::size_t length) {
    const std::string_view value(bytes, length);
    switch (type) {
        case kBool:
            if (value == "t") return Ref::borrow(Py_True);
            return value == "f" ? Ref::borrow(Py_False) : malformed(type, "it is neither t nor f");
        case kInt2:
            return integer_of<int16_t>(type, value);
        case kInt4:
            return integer_of<int32_t>(type, value);
        case kInt8:
            return integer_of<int64_t>(type, value);
        case kOid:
            return integer_of<uint32_t>(type, value);
        case kFloat4:
            return float_of<float>(type, value);
        case kFloat8:
            return float_of<double>(type, value);
        case kNumeric:
            return is_numeric(value) ? decimal_of(bytes, length) : malformed(type, "it is no number");
        case kBytea:
            return value.starts_with("\\x") ? bytes_from_hex(value.substr(2)) : bytes_from_escapes(value);
        case kUuid:
            return uuid_from(value);
        case kVoid:
            return Ref::borrow(Py_None);
        case kDate:
        case kTime:
        case kTimetz:
        case kTimestamp:
        case kTimestamptz:
            return decode_time_text(type, value);
        case kInterval:
            return decode_interval_text(value);
        case kChar:
            return char_from(value);
        default:
            break;
    }
    if (const uint32_t element = element_of(type)) return ArrayText(type, element, value).decode();
    return strict_text(bytes, length);
}

}  // namespace pqpool_python
