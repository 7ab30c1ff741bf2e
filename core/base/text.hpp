// Text is UTF-8 everywhere. What comes from elsewhere (the server in another encoding, a URL's bytes, the system's
// messages) is made so where it enters, and what is cut is cut between characters.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace pqpool {

bool is_utf8(std::string_view text);

// What is not UTF-8 is replaced by U+FFFD, as much at a time as one broken character can be.
std::string valid_utf8(std::string text);

// The longest beginning of at most `limit` bytes that ends between two characters. Bytes that are no UTF-8 count as
// characters of their own.
std::string_view cut_utf8(std::string_view text, std::size_t limit);

// Without the beginning of a character at its end, as a cut elsewhere may have left it.
std::string_view without_cut_end(std::string_view text);

// As cut_utf8, with "…" at its end where something was cut, within the limit.
std::string shortened(std::string_view text, std::size_t limit);

// Into a caller's array, with a NUL, made valid and cut. Allocates nothing.
enum class Cut { plain, with_ellipsis };
void copy_text(char* to, std::size_t size, std::string_view from, Cut cut);

// On one line and harmless on a terminal: a line break or separator with the blanks around it becomes one blank, a
// tab another, and other control characters (C0, DEL, C1) become escapes such as \x1b.
std::string on_one_line(std::string_view text);

// A length of time as messages show it, with four digits at most.
std::string rounded_seconds(double seconds);

// Quoted for JSON, all on one line: control characters and line separators are escaped, what is not UTF-8 is replaced.
void append_json(std::string& out, std::string_view text);

}  // namespace pqpool
