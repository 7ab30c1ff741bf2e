#include "core/base/secrets.hpp"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <vector>

namespace pqpool {

namespace {

constexpr std::string_view kMask = "***";
constexpr std::string_view kBlanks = " \t\r\n\f\v";

bool is_blank(char c) { return kBlanks.find(c) != kBlanks.npos; }
char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }

// The parts of a text that are not to be shown.
class Hidden {
  public:
    explicit Hidden(std::string_view text) : text_(text), hidden_(text.size()) {}
    void hide(std::size_t start, std::size_t end) {
        for (std::size_t i = start; i < end; i++) hidden_[i] = true;
    }
    std::string masked() const {
        std::string out;
        for (std::size_t i = 0; i < text_.size(); i++) {
            if (!hidden_[i])
                out += text_[i];
            else if (i == 0 || !hidden_[i - 1])
                out += kMask;
        }
        return out;
    }

  private:
    std::string_view text_;
    std::vector<bool> hidden_;
};

bool starts_url(std::string_view text) {
    const auto end = text.find("://");
    return end != std::string_view::npos && end > 0 && std::all_of(text.begin(), text.begin() + end, [](char c) {
               return std::isalnum(static_cast<unsigned char>(c)) || c == '+' || c == '.' || c == '-';
           });
}

// The place where the keyword begins that ends at `end`. In a URL its characters may be percent-encoded.
std::size_t start_of_keyword(std::string_view text, std::size_t end) {
    while (end > 0 &&
           (std::isalnum(static_cast<unsigned char>(text[end - 1])) || text[end - 1] == '_' || text[end - 1] == '%'))
        end--;
    return end;
}

bool is_secret_keyword(std::string_view text, std::size_t equals) {
    std::size_t end = equals;
    while (end > 0 && is_blank(text[end - 1])) end--;
    std::string keyword = percent_decoded(text.substr(start_of_keyword(text, end), end - start_of_keyword(text, end)));
    std::transform(keyword.begin(), keyword.end(), keyword.begin(), lower);
    return keyword.find("passw") != keyword.npos || keyword.ends_with("pwd") || keyword.ends_with("secret") ||
           keyword.ends_with("_key");  // not sslkey, a file's name
}

// Where the value that starts at `at` ends: of a URL's parameter at the next one, else at a blank outside quotes, as
// libpq reads it.
std::size_t end_of_value(std::string_view text, std::size_t at, bool parameter) {
    if (parameter) return std::min(text.find('&', at), text.size());
    const bool quoted = at < text.size() && text[at] == '\'';
    for (std::size_t i = at + quoted; i < text.size(); i++) {
        if (text[i] == '\\')
            i++;
        else if (quoted && text[i] == '\'')
            return i + 1;
        else if (!quoted && is_blank(text[i]))
            return i;
    }
    return text.size();
}

// The next = from `at` on, percent-encoded or not; `after` is behind it.
std::size_t find_equals(std::string_view text, std::size_t at, std::size_t& after) {
    for (at = text.find_first_of("=%", at); at != text.npos; at = text.find_first_of("=%", at + 1)) {
        const bool encoded = text.size() - at >= 3 && text[at + 1] == '3' && lower(text[at + 2]) == 'd';
        after = at + (encoded ? 3 : 1);
        if (text[at] == '=' || encoded) return at;
    }
    return text.npos;
}

// Without user:password@, what stands behind a colon is a port, or else a password whose host was forgotten.
void hide_odd_port(std::string_view conninfo, std::size_t start, Hidden& hidden) {
    if (start < conninfo.size() && conninfo[start] == '[') start = std::min(conninfo.find(']', start), conninfo.size());
    for (auto colon = conninfo.find_first_of(":/?", start); colon != conninfo.npos && conninfo[colon] == ':';
         colon = conninfo.find_first_of(":/?", colon + 1)) {
        const auto end = std::min(conninfo.find_first_not_of("0123456789", colon + 1), conninfo.size());
        if (end < conninfo.size() && std::string_view(",/?").find(conninfo[end]) == conninfo.npos)
            return hidden.hide(colon + 1, conninfo.size());
    }
}

constexpr std::string_view kSecretWords[] = {"password", "passwd",  "passphrase", "pwd",         "secret",    "token",
                                             "apikey",   "api_key", "credential", "private_key", "access_key"};

bool stands_at(std::string_view text, std::size_t at, std::string_view word) {
    if (text.size() - at < word.size()) return false;
    for (std::size_t i = 1; i < word.size(); i++)
        if (lower(text[at + i]) != word[i]) return false;
    return true;
}

// 'text', E'text', $$text$$, $tag$text$tag$; not $1.
std::size_t first_literal(std::string_view sql) {
    for (std::size_t at = sql.find_first_of("'$"); at != sql.npos; at = sql.find_first_of("'$", at + 1))
        if (sql[at] == '\'' || at + 1 == sql.size() || !std::isdigit(static_cast<unsigned char>(sql[at + 1])))
            return at;
    return sql.size();
}

}  // namespace

std::string percent_decoded(std::string_view text) {
    std::string out;
    for (std::size_t i = 0; i < text.size(); i++) {
        unsigned char c = static_cast<unsigned char>(text[i]);
        if (c == '%' && i + 2 < text.size() && std::from_chars(&text[i] + 1, &text[i] + 3, c, 16).ptr == &text[i] + 3)
            i += 2;
        out += static_cast<char>(c);
    }
    return out;
}

std::string mask_password(std::string_view conninfo) {
    Hidden hidden(conninfo);
    // user:password@ in front of a host. The password may hold any character unescaped, @ and / included, hence up to
    // the last @ of all.
    const auto scheme_end = conninfo.find("://");
    const auto colon = conninfo.find(':', scheme_end == conninfo.npos ? 0 : scheme_end + 3);
    const auto at = conninfo.rfind('@');
    const bool url = starts_url(conninfo);
    if (colon != conninfo.npos && at != conninfo.npos)
        hidden.hide(colon + 1, at);
    else if (url)
        hide_odd_port(conninfo, scheme_end + 3, hidden);

    std::size_t after = 0;
    for (auto equals = find_equals(conninfo, 0, after); equals != conninfo.npos;
         equals = find_equals(conninfo, after, after)) {
        if (!is_secret_keyword(conninfo, equals)) continue;
        const auto start = std::min(conninfo.find_first_not_of(kBlanks, after), conninfo.size());
        hidden.hide(start, end_of_value(conninfo, start, url));
    }
    return hidden.masked();
}

std::string mask_text(std::string_view text) {
    Hidden hidden(text);
    for (auto scheme_end = text.find("://"); scheme_end != text.npos; scheme_end = text.find("://", scheme_end + 3)) {
        const auto start = scheme_end + 3;
        const auto run = text.substr(0, std::min(text.find_first_of(kBlanks, start), text.size()));
        const auto colon = run.find(':', start), at = run.rfind('@');
        if (colon != run.npos && at != run.npos && colon < at) hidden.hide(colon + 1, at);
    }
    std::size_t after = 0;
    for (auto equals = find_equals(text, 0, after); equals != text.npos; equals = find_equals(text, after, after)) {
        if (!is_secret_keyword(text, equals)) continue;
        const auto start = std::min(text.find_first_not_of(kBlanks, after), text.size());
        const auto keyword = start_of_keyword(text, equals);
        const bool parameter = keyword > 0 && (text[keyword - 1] == '?' || text[keyword - 1] == '&');
        hidden.hide(start,
                    std::min(end_of_value(text, start, parameter),
                             parameter ? std::min(text.find_first_of(kBlanks, start), text.size()) : text.size()));
    }
    return hidden.masked();
}

bool mentions_secret(std::string_view sql) {
    for (std::size_t at = 0; at < sql.size(); at++) {
        const char first = lower(sql[at]);
        if (first != 'p' && first != 's' && first != 't' && first != 'a' && first != 'c') continue;
        for (const std::string_view word : kSecretWords)
            if (word[0] == first && stands_at(sql, at, word)) return true;
    }
    return false;
}

std::string mask_statement(std::string_view beginning, bool rest_mentions_secret) {
    const auto url = beginning.find("://");
    if (!rest_mentions_secret && url == beginning.npos && !mentions_secret(beginning)) return std::string(beginning);
    const auto literal = first_literal(beginning);
    if (url < literal) return std::string(beginning.substr(0, url)) + "://***";  // in a comment or a name
    std::string shown = mask_text(beginning.substr(0, literal));
    if (literal < beginning.size()) shown += "'***'";
    return shown;
}

}  // namespace pqpool
