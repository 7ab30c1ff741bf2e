// What the two sides of the protocol say, byte by byte, for tests that play the server. Written apart from core/wire,
// after the manual's chapter "Message Formats".
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace pqpool::test {

inline std::string int16(std::int64_t number) {
    return {static_cast<char>(number >> 8 & 0xff), static_cast<char>(number & 0xff)};
}

inline std::string int32(std::int64_t number) { return int16(number >> 16) + int16(number); }

inline std::int64_t number_of(std::string_view bytes) {
    std::int64_t number = 0;
    for (const char byte : bytes) number = number << 8 | static_cast<unsigned char>(byte);
    return number;
}

inline std::string text(std::string_view words) { return std::string(words) + '\0'; }

inline std::string message(char tag, std::string_view body = {}) {
    return tag + int32(static_cast<std::int64_t>(body.size()) + 4) + std::string(body);
}

// ---- from the server ----

struct ColumnWords {
    std::string_view name;
    std::int64_t type = 23;
    int format = 0;
};

inline std::string columns(const std::vector<ColumnWords>& all) {
    std::string body = int16(static_cast<std::int64_t>(all.size()));
    for (const auto& one : all)
        body += text(one.name) + int32(0) + int16(0) + int32(one.type) + int16(4) + int32(-1) + int16(one.format);
    return message('T', body);
}

inline std::string row(const std::vector<std::optional<std::string_view>>& values) {
    std::string body = int16(static_cast<std::int64_t>(values.size()));
    for (const auto& one : values)
        body += one ? int32(static_cast<std::int64_t>(one->size())) + std::string(*one) : int32(-1);
    return message('D', body);
}

inline std::string parse_complete() { return message('1'); }
inline std::string bind_complete() { return message('2'); }
inline std::string close_complete() { return message('3'); }
inline std::string no_data() { return message('n'); }
inline std::string complete(std::string_view tag) { return message('C', text(tag)); }
inline std::string ready(char status = 'I') { return message('Z', std::string(1, status)); }
inline std::string parameter(std::string_view name, std::string_view value) {
    return message('S', text(name) + text(value));
}

inline std::string parameter_types(const std::vector<std::int64_t>& types) {
    std::string body = int16(static_cast<std::int64_t>(types.size()));
    for (const auto type : types) body += int32(type);
    return message('t', body);
}

using Fields = std::initializer_list<std::pair<char, std::string_view>>;

inline std::string fields(char tag, const Fields& all) {
    std::string body;
    for (const auto& [code, words] : all) body += code + text(words);
    return message(tag, body + '\0');
}

inline std::string error(std::string_view sqlstate, std::string_view words = "no", std::string_view routine = "here",
                         std::string_view severity = "ERROR") {
    return fields('E', {{'S', severity}, {'V', severity}, {'C', sqlstate}, {'M', words}, {'R', routine}});
}

inline std::string fatal(std::string_view sqlstate, std::string_view routine) {
    return error(sqlstate, "the end", routine, "FATAL");
}

// ---- from the client ----

struct ClientMessage {
    char tag;
    std::string body;
};

// Takes the whole messages from the front of what has come.
inline std::vector<ClientMessage> take_messages(std::string& bytes) {
    std::vector<ClientMessage> all;
    while (bytes.size() >= 5) {
        const auto length = static_cast<std::size_t>(number_of(std::string_view(bytes).substr(1, 4)));
        if (bytes.size() < 1 + length) break;
        all.push_back({bytes[0], bytes.substr(5, length - 4)});
        bytes.erase(0, 1 + length);
    }
    return all;
}

// A part of a body at a time.
class Words {
  public:
    explicit Words(std::string_view body) : left_(body) {}

    std::string_view take(std::size_t count) {
        const auto part = left_.substr(0, count);
        left_.remove_prefix(part.size());
        return part;
    }
    std::int64_t number(std::size_t bytes) { return number_of(take(bytes)); }
    std::string text() {
        std::string words(take(left_.find('\0')));
        take(1);
        return words;
    }

  private:
    std::string_view left_;
};

}  // namespace pqpool::test
