// Reads SQL as the server's own scanner does (its scan.l): where a token begins and ends, and which name it is.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace pqpool {

enum class Token : std::uint8_t {
    end,
    word,     // a keyword or an unquoted name, folded to lower case
    name,     // a quoted name, as the catalog would have it; empty where it cannot be told
    literal,  // a string in any form, a number, a parameter; a comment that does not end
    sign,     // any other character
};

class Scanner {
  public:
    // backslashes_escape: as in a session with standard_conforming_strings off.
    explicit Scanner(std::string_view sql, bool backslashes_escape = false)
        : sql_(sql), backslashes_escape_(backslashes_escape) {}
    Scanner(const Scanner&) = delete;

    // What does not end reaches to the end of the text: the server refuses it.
    Token next();

    // Of the last token: its text, until the next call; and where in the SQL it stands.
    std::string_view text() const { return text_; }
    std::size_t start() const { return start_; }
    std::size_t end() const { return at_; }
    bool is_sign(char c) const { return text_.size() == 1 && text_[0] == c; }

    // Whether a string without a prefix has held a backslash, whose meaning is the session's to say.
    bool has_seen_open_backslash() const { return open_backslash_; }

  private:
    enum class Quoting : std::uint8_t { plain, escapes, unicode, bits };

    char at(std::size_t place) const { return place < sql_.size() ? sql_[place] : '\0'; }
    Token take(Token token, std::size_t length);
    Token take_word();
    Token take_string(std::size_t prefix, Quoting quoting);
    Token take_dollar();
    Token take_name(std::size_t prefix);
    bool skip_blanks();
    bool skip_comment();
    void skip_string_part(Quoting quoting);
    bool goes_on_after_newline();
    void decode_unicode_name();
    char take_uescape();

    const std::string_view sql_;
    const bool backslashes_escape_;
    std::size_t start_ = 0, at_ = 0;
    std::string_view text_;
    std::string buffer_;  // the text where it differs from the SQL
    bool open_backslash_ = false;
};

// The statements of a script, as the server would tell them apart: a semicolon in quotes, comments, parentheses or the
// body of an SQL-standard routine ends none. Without empty ones.
std::vector<std::string_view> split_script(std::string_view sql);

}  // namespace pqpool
