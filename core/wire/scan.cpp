#include "core/wire/scan.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

namespace pqpool {

namespace {

enum : std::uint8_t { kNameStart = 1, kDigit = 2, kBlank = 4, kUpper = 8 };

constexpr auto kKinds = [] {
    std::array<std::uint8_t, 256> kinds{};
    for (std::size_t c = 0; c < 256; c++) {
        if (c >= 'A' && c <= 'Z') kinds[c] = kNameStart | kUpper;
        if ((c >= 'a' && c <= 'z') || c == '_' || c >= 128) kinds[c] = kNameStart;
        if (c >= '0' && c <= '9') kinds[c] = kDigit;
    }
    for (const unsigned char c : {' ', '\t', '\n', '\r', '\f', '\v'}) kinds[c] = kBlank;  // \v from version 16 on
    return kinds;
}();

bool is(char c, int kinds) { return kKinds[static_cast<unsigned char>(c)] & kinds; }

}  // namespace

Token Scanner::take(Token token, std::size_t length) {
    at_ = std::min(start_ + length, sql_.size());
    text_ = sql_.substr(start_, at_ - start_);
    return token;
}

Token Scanner::next() {
    const bool skipped = skip_blanks();
    start_ = at_;
    if (!skipped) return take(Token::literal, sql_.size());
    if (at_ >= sql_.size()) return take(Token::end, 0);
    const char c = sql_[at_];
    if (is(c, kNameStart)) return take_word();
    if (c == '\'') return take_string(0, backslashes_escape_ ? Quoting::escapes : Quoting::plain);
    if (c == '"') return take_name(0);
    if (c == '$') return take_dollar();
    if (!is(c, kDigit)) return take(Token::sign, 1);
    // Exponents and the like come as words, which is what older servers make of letters behind a number.
    std::size_t length = 1;
    while (is(at(start_ + length), kDigit)) length++;
    return take(Token::literal, length);
}

// Blanks and comments. False at a comment that does not end, which is no blank: the server refuses it.
bool Scanner::skip_blanks() {
    while (at_ < sql_.size()) {
        if (is(sql_[at_], kBlank))
            at_++;
        else if (sql_[at_] == '-' && at(at_ + 1) == '-')
            at_ = std::min(sql_.find_first_of("\r\n", at_), sql_.size());
        else if (sql_[at_] != '/' || at(at_ + 1) != '*')
            break;
        else if (!skip_comment())
            return false;
    }
    return true;
}

bool Scanner::skip_comment() {  // they nest
    int depth = 0;
    for (auto place = at_; place < sql_.size(); place++) {
        if (sql_[place] == '/' && at(place + 1) == '*') {
            depth++, place++;
        } else if (sql_[place] == '*' && at(place + 1) == '/') {
            place++;
            if (--depth > 0) continue;
            at_ = place + 1;
            return true;
        }
    }
    return false;
}

Token Scanner::take_word() {
    const char after = at(at_ + 1);
    if (after == '\'' || after == '&') {
        switch (sql_[at_] | 0x20) {
            case 'e':
                if (after == '\'') return take_string(1, Quoting::escapes);
                break;
            case 'n':
                if (after == '\'') return take_string(1, backslashes_escape_ ? Quoting::escapes : Quoting::plain);
                break;
            case 'b':
            case 'x':
                if (after == '\'') return take_string(1, Quoting::bits);
                break;
            case 'u':
                if (after == '&' && at(at_ + 2) == '\'') return take_string(2, Quoting::unicode);
                if (after == '&' && at(at_ + 2) == '"') return take_name(2);
                break;
            default:
                break;
        }
    }
    bool folds = false;
    auto end = at_;
    for (; is(at(end), kNameStart | kDigit) || at(end) == '$'; end++) folds |= is(sql_[end], kUpper);
    take(Token::word, end - start_);
    if (folds) {
        buffer_ = text_;
        for (char& c : buffer_)
            if (is(c, kUpper)) c |= 0x20;
        text_ = buffer_;
    }
    return Token::word;
}

Token Scanner::take_string(std::size_t prefix, Quoting quoting) {
    at_ += prefix;
    do {
        skip_string_part(quoting);
    } while (goes_on_after_newline());
    return take(Token::literal, at_ - start_);
}

// From one quote behind the other.
void Scanner::skip_string_part(Quoting quoting) {
    for (at_++; at_ < sql_.size(); at_++) {
        if (sql_[at_] == '\\') {
            open_backslash_ |= quoting == Quoting::plain;
            at_ += quoting == Quoting::escapes ? 1 : 0;
        } else if (sql_[at_] == '\'') {
            if (quoting == Quoting::bits || at(at_ + 1) != '\'') break;
            at_++;
        }
    }
    at_ = std::min(at_ + 1, sql_.size());
}

// A string goes on where another quote follows with nothing but blanks, a newline among them, and -- comments between.
bool Scanner::goes_on_after_newline() {
    bool newline = false;
    for (auto place = at_; place < sql_.size(); place++) {
        const char c = sql_[place];
        if (c == '\n' || c == '\r') {
            newline = true;
        } else if (c == '-' && at(place + 1) == '-') {
            place = std::min(sql_.find_first_of("\r\n", place), sql_.size()) - 1;
        } else if (!is(c, kBlank)) {
            if (c != '\'' || !newline) return false;
            at_ = place;
            return true;
        }
    }
    return false;
}

Token Scanner::take_dollar() {
    auto end = at_ + 1;
    if (is(at(end), kDigit)) {
        while (is(at(end), kDigit)) end++;
        return take(Token::literal, end - start_);
    }
    while (is(at(end), kNameStart | kDigit)) end++;
    if (at(end) != '$') return take(Token::sign, 1);
    const auto tag = sql_.substr(at_, end + 1 - at_);
    const auto found = sql_.find(tag, end + 1);
    return take(Token::literal, found == std::string_view::npos ? sql_.size() : found + tag.size() - start_);
}

Token Scanner::take_name(std::size_t prefix) {
    const auto open = at_ + prefix;
    auto close = open;
    bool doubled = false;
    for (;;) {
        close = std::min(sql_.find('"', close + 1), sql_.size());
        if (at(close + 1) != '"') break;
        doubled = true;
        close++;
    }
    take(Token::name, close + 1 - start_);
    text_ = sql_.substr(open + 1, close - open - 1);
    if (doubled) {
        buffer_.clear();
        for (std::size_t i = 0; i < text_.size(); i++) {
            buffer_ += text_[i];
            if (text_[i] == '"') i++;
        }
        text_ = buffer_;
    }
    if (prefix > 0) decode_unicode_name();
    return Token::name;
}

void Scanner::decode_unicode_name() {
    const char escape = take_uescape();
    std::string name;
    for (std::size_t i = 0; i < text_.size(); i++) {
        if (text_[i] != escape) {
            name += text_[i];
        } else if (i + 1 < text_.size() && text_[i + 1] == escape) {
            name += text_[++i];
        } else {
            const bool longer = i + 1 < text_.size() && text_[i + 1] == '+';
            const std::size_t from = i + (longer ? 2 : 1), to = from + (longer ? 6 : 4);
            unsigned code = 0;
            if (to > text_.size() ||
                std::from_chars(text_.data() + from, text_.data() + to, code, 16).ptr != text_.data() + to) {
                name.clear();
                break;
            }
            name += code < 128 ? static_cast<char>(code) : '?';  // no name that anybody asks for
            i = to - 1;
        }
    }
    buffer_ = escape ? std::move(name) : std::string();
    text_ = buffer_;
}

// The character that UESCAPE names behind a Unicode name; a backslash without it; 0 where it cannot be told. Looks no
// further than it must: the next name may be one of these too, and so on for ever.
char Scanner::take_uescape() {
    Scanner ahead(sql_, backslashes_escape_);
    ahead.at_ = at_;
    if (!ahead.skip_blanks() || (at(ahead.at_) | 0x20) != 'u' || at(ahead.at_ + 1) == '&') return '\\';
    if (ahead.next() != Token::word || ahead.text() != "uescape") return '\\';
    if (!ahead.skip_blanks() || at(ahead.at_) != '\'') return '\0';
    ahead.next();
    at_ = ahead.at_;
    const auto literal = ahead.text();
    return literal.size() == 3 && literal.back() == '\'' ? literal[1] : '\0';
}

namespace {

// Where in one statement of a script a semicolon does not end it: in parentheses, as in CREATE RULE, and in the body of
// CREATE [OR REPLACE] FUNCTION or PROCEDURE … BEGIN ATOMIC …; END.
class Nesting {
  public:
    void add(const Scanner& scanner, Token token) {
        const bool sign = token == Token::sign;
        const bool may_end = std::exchange(may_end_, sign && scanner.is_sign(';'));
        if (sign && scanner.is_sign('('))
            parentheses_++;
        else if (sign && scanner.is_sign(')'))
            parentheses_ -= parentheses_ > 0 ? 1 : 0;
        else if (parentheses_ == 0 && step_ != Step::other)
            step_ = after(token == Token::word ? scanner.text() : "", may_end);
    }
    bool is_closed() const { return parentheses_ == 0 && step_ != Step::body; }

  private:
    enum class Step : std::uint8_t { start, create, create_or, create_or_replace, routine, begin, body, other };

    // END is the body's only where a statement could begin: it also ends CASE, and may be a column's name.
    Step after(std::string_view word, bool may_end) {
        switch (step_) {
            case Step::start:
                return word == "create" ? Step::create : Step::other;
            case Step::create:
                if (word == "or") return Step::create_or;
                return is_routine(word) ? Step::routine : Step::other;
            case Step::create_or:
                return word == "replace" ? Step::create_or_replace : Step::other;
            case Step::create_or_replace:
                return is_routine(word) ? Step::routine : Step::other;
            case Step::begin:
                if (word == "atomic") {
                    may_end_ = true;
                    return Step::body;
                }
                [[fallthrough]];
            case Step::routine:
                return word == "begin" ? Step::begin : Step::routine;
            case Step::body:
                return word == "end" && may_end ? Step::other : Step::body;
            case Step::other:
                break;
        }
        return Step::other;
    }
    static bool is_routine(std::string_view word) { return word == "function" || word == "procedure"; }

    int parentheses_ = 0;
    Step step_ = Step::start;
    bool may_end_ = false;
};

}  // namespace

std::vector<std::string_view> split_script(std::string_view sql) {
    std::vector<std::string_view> statements;
    Scanner scanner(sql);
    Nesting nesting;
    std::size_t start = 0;
    bool is_empty = true;
    const auto end_at = [&](std::size_t end) {
        if (!is_empty) statements.push_back(sql.substr(start, end - start));
        start = end + 1;
        is_empty = true;
        nesting = {};
    };
    for (auto token = scanner.next(); token != Token::end; token = scanner.next()) {
        if (token == Token::sign && scanner.is_sign(';') && nesting.is_closed()) {
            end_at(scanner.start());
        } else {
            is_empty = false;
            nesting.add(scanner, token);
        }
    }
    end_at(sql.size());
    return statements;
}

}  // namespace pqpool
