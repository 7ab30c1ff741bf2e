#include "core/base/text.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>

namespace pqpool {

namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";
constexpr std::string_view kEllipsis = "\xe2\x80\xa6";

struct Character {
    std::size_t length = 1;  // of a broken one: its bytes that may stand together
    bool valid = false;
    std::uint32_t code = 0;
};

// The character at `at`, by the table of well-formed byte sequences in the Unicode standard (3.9): no overlong forms,
// no surrogates, nothing above U+10FFFF.
Character character_at(std::string_view text, std::size_t at) {
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    const unsigned char first = byte(at);
    if (first < 0x80) return {1, true, first};
    const std::size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    if (first < 0xc2 || first > 0xf4) return {};
    const unsigned char least = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    const unsigned char most = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    std::uint32_t code = first & (0xffu >> (length + 1));
    for (std::size_t i = 1; i < length; i++) {
        if (at + i == text.size()) return {i, false, 0};
        const unsigned char next = byte(at + i);
        if (next < (i == 1 ? least : 0x80) || next > (i == 1 ? most : 0xbf)) return {i, false, 0};
        code = code << 6 | (next & 0x3fu);
    }
    return {length, true, code};
}

// The place of the first byte from `at` on that is no plain ASCII.
std::size_t end_of_ascii(std::string_view text, std::size_t at) {
    for (std::uint64_t word; at + sizeof word <= text.size(); at += sizeof word) {
        std::memcpy(&word, text.data() + at, sizeof word);
        if (word & 0x8080808080808080u) break;
    }
    while (at < text.size() && !(text[at] & 0x80)) at++;
    return at;
}

std::size_t end_of_valid(std::string_view text) {
    std::size_t at = end_of_ascii(text, 0);
    while (at < text.size()) {
        const Character c = character_at(text, at);
        if (!c.valid) return at;
        at = end_of_ascii(text, at + c.length);
    }
    return at;
}

bool is_control(std::uint32_t code) { return code < 0x20 || (code >= 0x7f && code < 0xa0); }
bool ends_line(std::uint32_t code) { return code == '\n' || code == '\r' || code == 0x2028 || code == 0x2029; }

void append_escape(std::string& out, const char* form, std::uint32_t code) {
    char escape[16];
    std::snprintf(escape, sizeof escape, form, code);
    out += escape;
}

}  // namespace

bool is_utf8(std::string_view text) { return end_of_valid(text) == text.size(); }

std::string valid_utf8(std::string text) {
    std::size_t at = end_of_valid(text);
    if (at == text.size()) return text;
    std::string out(text, 0, at);
    while (at < text.size()) {
        const Character c = character_at(text, at);
        out += c.valid ? std::string_view(text).substr(at, c.length) : kReplacement;
        at += c.length;
    }
    return out;
}

std::string_view cut_utf8(std::string_view text, std::size_t limit) {
    if (text.size() <= limit) return text;
    // The character that holds byte `limit` starts at most three bytes before it.
    for (std::size_t start = limit - std::min<std::size_t>(limit, 3); start < limit; start++) {
        const Character c = character_at(text, start);
        if (c.valid && start + c.length > limit) return text.substr(0, start);
    }
    return text.substr(0, limit);
}

std::string_view without_cut_end(std::string_view text) {
    for (std::size_t start = text.size() - std::min<std::size_t>(text.size(), 3); start < text.size(); start++) {
        const auto first = static_cast<unsigned char>(text[start]);
        const Character c = character_at(text, start);
        if (!c.valid && first >= 0xc2 && first <= 0xf4 && start + c.length == text.size()) return text.substr(0, start);
    }
    return text;
}

std::string shortened(std::string_view text, std::size_t limit) {
    if (text.size() <= limit) return std::string(text);
    if (limit < kEllipsis.size()) return std::string(cut_utf8(text, limit));
    std::string out(cut_utf8(text, limit - kEllipsis.size()));
    out += kEllipsis;
    return out;
}

void copy_text(char* to, std::size_t size, std::string_view from, Cut cut) {
    if (size == 0) return;
    const std::size_t room = size - 1;
    std::size_t used = 0, fits_with_ellipsis = 0;
    bool all = true;
    for (std::size_t at = 0; at < from.size();) {
        const Character c = character_at(from, at);
        const std::string_view piece = c.valid ? from.substr(at, c.length) : kReplacement;
        if (used + piece.size() > room) {
            all = false;
            break;
        }
        std::memcpy(to + used, piece.data(), piece.size());
        used += piece.size();
        at += c.length;
        if (used + kEllipsis.size() <= room) fits_with_ellipsis = used;
    }
    if (!all && cut == Cut::with_ellipsis && room >= kEllipsis.size()) {
        std::memcpy(to + fits_with_ellipsis, kEllipsis.data(), kEllipsis.size());
        used = fits_with_ellipsis + kEllipsis.size();
    }
    to[used] = '\0';
}

std::string on_one_line(std::string_view text) {
    std::string out;
    for (std::size_t at = 0; at < text.size();) {
        const Character c = character_at(text, at);
        if (c.valid && ends_line(c.code)) {
            at += c.length;
            while (at < text.size() && (text[at] == ' ' || text[at] == '\t' || text[at] == '\n' || text[at] == '\r'))
                at++;
            while (!out.empty() && out.back() == ' ') out.pop_back();
            if (at < text.size() && !out.empty()) out += ' ';
            continue;
        }
        if (!c.valid)
            out += kReplacement;
        else if (c.code == '\t')
            out += ' ';
        else if (is_control(c.code))
            append_escape(out, "\\x%02x", c.code);
        else
            out += text.substr(at, c.length);
        at += c.length;
    }
    return out;
}

std::string rounded_seconds(double seconds) {
    char text[32];
    std::snprintf(text, sizeof text, "%.4g", seconds);
    return text;
}

void append_json(std::string& out, std::string_view text) {
    static constexpr std::string_view kShort = "\b\t\n\f\r\"\\", kLetters = "btnfr\"\\";
    out += '"';
    for (std::size_t at = 0; at < text.size();) {
        const Character c = character_at(text, at);
        if (!c.valid) {
            out += kReplacement;
        } else if (const auto place = c.code < 0x80 ? kShort.find(text[at]) : kShort.npos; place != kShort.npos) {
            out += '\\';
            out += kLetters[place];
        } else if (is_control(c.code) || ends_line(c.code)) {
            append_escape(out, "\\u%04x", c.code);
        } else {
            out += text.substr(at, c.length);
        }
        at += c.length;
    }
    out += '"';
}

}  // namespace pqpool
