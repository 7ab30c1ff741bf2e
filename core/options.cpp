#include "core/options.hpp"

#include <strings.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>

namespace pqpool {

namespace {

std::string upper(std::string_view text) {
    std::string out(text);
    std::transform(out.begin(), out.end(), out.begin(), [](unsigned char c) { return std::toupper(c); });
    return out;
}

std::string variable_of(std::string_view option) { return "POOL_" + upper(option); }

// 300 as "300.0", 0.25 as "0.25": seconds are recognizable as such in a message.
std::string seconds_text(double value) {
    char buffer[32];
    auto [end, error] = std::to_chars(buffer, buffer + sizeof buffer, value);
    std::string text(buffer, end);
    return text.find_first_of(".en") == std::string::npos ? text + ".0" : text;
}

const char* choices_of(std::string_view name) {
    if (name == "validation") return "always|blocking|idle|never";
    if (name == "reset") return "auto|always|never";
    return "debug|info|warning|error";  // log_level
}

bool is_choice(std::string_view choices, std::string_view value) {
    for (std::size_t start = 0; start <= choices.size();) {
        auto end = std::min(choices.find('|', start), choices.size());
        if (choices.substr(start, end - start) == value) return true;
        start = end + 1;
    }
    return false;
}

bool is_open_minimum(std::string_view name) {
    return name == "timeout" || name == "command_timeout" || name == "connect_timeout";
}
bool is_open_maximum(std::string_view name) { return name == "timeout"; }

template <class T>
std::string default_of(const T& value) {
    if constexpr (std::is_same_v<T, bool>)
        return value ? "true" : "false";
    else if constexpr (std::is_same_v<T, double>)
        return seconds_text(value);
    else if constexpr (std::is_same_v<T, OptionInteger>)
        return std::to_string(value);
    else
        return value;
}

const OptionInfo& info_of(std::string_view name) {
    for (const auto& info : option_list())
        if (info.name == name) return info;
    throw Error(ErrorKind::configuration, "unknown option '" + std::string(name) +
                                              "'. Suggestion: see the list of options in pqpool.h or the README");
}

[[noreturn]] void malformed(const OptionInfo& info, std::string_view value, const char* wanted) {
    throw Error(ErrorKind::configuration, std::string(info.name) + " must be " + wanted + " (got '" +
                                              std::string(value) + "'). Suggestion: set " + variable_of(info.name) +
                                              " to a value such as " + info.default_text);
}

bool parse_boolean(const OptionInfo& info, std::string_view value) {
    const std::string text(value);
    for (const char* yes : {"true", "1", "yes", "on"})
        if (strcasecmp(text.c_str(), yes) == 0) return true;
    for (const char* no : {"false", "0", "no", "off"})
        if (strcasecmp(text.c_str(), no) == 0) return false;
    malformed(info, value, "true or false");
}

template <class T>
T parse_number(const OptionInfo& info, std::string_view value, const char* wanted) {
    T number{};
    auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
    if (error != std::errc() || end != value.data() + value.size()) malformed(info, value, wanted);
    return number;
}

std::string bound_problem(const OptionInfo& info, double value) {
    const bool seconds = info.type == OptionType::seconds;
    auto text = [&](double number) {
        return seconds ? seconds_text(number) : std::to_string(static_cast<OptionInteger>(number));
    };
    const char* unit = seconds ? " seconds" : "";
    std::string problem;
    if (!std::isfinite(value))
        problem = "must be a finite number";
    else if (info.open_minimum && value <= info.minimum)
        problem = "must be greater than " + text(info.minimum) + unit;
    else if (value < info.minimum && info.minimum == 1)
        problem = "must be positive, at least 1";
    else if (value < info.minimum)
        problem = "must be at least " + text(info.minimum) + unit;
    else if (info.open_maximum && value >= info.maximum)
        problem = "must be less than " + text(info.maximum) + unit;
    else if (value > info.maximum)
        problem = "must be at most " + text(info.maximum) + unit;
    else
        return {};
    const std::string got = std::isfinite(value) ? text(value) : "not a number";
    return std::string(info.name) + " " + problem + " (got " + got + "). Suggestion: Set " + variable_of(info.name) +
           " to " + info.default_text + ", the default, or another value within the bounds\n";
}

// What stands before ://, or nothing where the text is not a URL.
std::string_view scheme_of(std::string_view text) {
    const auto end = text.find("://");
    if (end == std::string_view::npos) return {};
    const auto scheme = text.substr(0, end);
    const bool sound = std::all_of(scheme.begin(), scheme.end(),
                                   [](unsigned char c) { return std::isalnum(c) || c == '+' || c == '.' || c == '-'; });
    return sound ? scheme : std::string_view();
}

// Whether the keyword that ends at `end` names a secret. In a URL its characters may be percent-encoded.
bool is_secret_keyword(std::string_view text, std::size_t end) {
    while (end > 0 && std::isspace(static_cast<unsigned char>(text[end - 1]))) end--;
    std::size_t start = end;
    while (start > 0 && (std::isalnum(static_cast<unsigned char>(text[start - 1])) || text[start - 1] == '_' ||
                         text[start - 1] == '%'))
        start--;
    std::string keyword;
    for (std::size_t i = start; i < end; i++) {
        unsigned char c = static_cast<unsigned char>(text[i]);
        if (c == '%' && i + 2 < end && std::from_chars(&text[i + 1], &text[i + 3], c, 16).ptr == &text[i + 3]) i += 2;
        keyword += static_cast<char>(std::tolower(c));
    }
    return keyword.ends_with("password") || keyword.ends_with("secret") ||
           keyword.ends_with("_key");  // not sslkey, a file's name
}

// Where the value that starts at `at` ends: in a URL at the next parameter, else at a space outside quotes, as libpq
// reads it.
std::size_t end_of_value(std::string_view text, std::size_t at, bool url) {
    if (url) return std::min(text.find('&', at), text.size());
    const bool quoted = at < text.size() && text[at] == '\'';
    for (std::size_t i = at + quoted; i < text.size(); i++) {
        if (text[i] == '\\')
            i++;
        else if (quoted && text[i] == '\'')
            return i + 1;
        else if (!quoted && std::isspace(static_cast<unsigned char>(text[i])))
            return i;
    }
    return text.size();
}

std::string url_problem(const std::string& url) {
    if (url.empty())
        return "database_url is required. Suggestion: Set POOL_DATABASE_URL or DATABASE_URL, as in "
               "postgresql://user@host:5432/database\n";
    const std::string_view scheme = scheme_of(url);
    if (scheme.empty()) {
        if (url.find('=') != std::string::npos) return {};  // libpq's keyword form; libpq judges it
        return "database_url must use postgresql:// or postgres:// or libpq's keyword=value form (got '" +
               mask_password(url) + "'). Suggestion: write it as postgresql://user@host:5432/database\n";
    }
    const std::string_view name = scheme.substr(0, scheme.find('+'));
    if (name == "postgresql" || name == "postgres") return {};
    return "database_url must use postgresql:// or postgres:// (got '" + std::string(scheme) +
           "://'). Suggestion: write it as postgresql://user@host:5432/database\n";
}

}  // namespace

const std::vector<OptionInfo>& option_list() {
    // Never destroyed: callers may come after the static objects' end.
    static const auto* list = new const std::vector<OptionInfo>([] {
        const Options defaults;
        return std::vector<OptionInfo>{
#define X(type, name, default_value, minimum, maximum, meaning)                 \
    OptionInfo{#name,                                                           \
               OptionType::type,                                                \
               default_of(defaults.name),                                       \
               double(minimum),                                                 \
               double(maximum),                                                 \
               is_open_minimum(#name),                                          \
               is_open_maximum(#name),                                          \
               OptionType::type == OptionType::choice ? choices_of(#name) : "", \
               meaning,                                                         \
               &Options::name},
            PQPOOL_OPTIONS(X)
#undef X
        };
    }());
    return *list;
}

void Options::set(std::string_view name, std::string_view value) {
    const OptionInfo& info = info_of(name);
    switch (info.type) {
        case OptionType::integer:
            this->*std::get<OptionInteger Options::*>(info.member) =
                parse_number<OptionInteger>(info, value, "a whole number");
            break;
        case OptionType::seconds:
            this->*std::get<OptionSeconds Options::*>(info.member) =
                parse_number<OptionSeconds>(info, value, "a number of seconds");
            break;
        case OptionType::boolean:
            this->*std::get<OptionBoolean Options::*>(info.member) = parse_boolean(info, value);
            break;
        case OptionType::choice:
            if (!is_choice(info.choices, value)) malformed(info, value, info.choices);
            [[fallthrough]];
        case OptionType::text:
            this->*std::get<OptionText Options::*>(info.member) = value;
            break;
    }
}

std::string Options::get(std::string_view name) const {
    return std::visit([this](auto member) { return default_of(this->*member); }, info_of(name).member);
}

void Options::set_from_environment() {
    if (const char* url = std::getenv("DATABASE_URL")) database_url = url;
    for (const auto& info : option_list())
        if (const char* value = std::getenv(variable_of(info.name).c_str())) set(info.name, value);
}

std::string Options::problems() const {
    std::string all;
    for (const auto& info : option_list()) {
        if (info.type == OptionType::integer)
            all += bound_problem(info, static_cast<double>(this->*std::get<OptionInteger Options::*>(info.member)));
        if (info.type == OptionType::seconds)
            all += bound_problem(info, this->*std::get<OptionSeconds Options::*>(info.member));
        if (info.type == OptionType::choice && !is_choice(info.choices, get(info.name)))
            all += std::string(info.name) + " must be one of " + info.choices + " (got '" + get(info.name) +
                   "'). Suggestion: Set " + variable_of(info.name) + " to " + info.default_text + "\n";
    }
    if (max_size < min_size) {
        const auto low = std::to_string(min_size), high = std::to_string(max_size);
        all += "min_size (" + low + ") cannot be greater than max_size (" + high + "): max_size (" + high +
               ") must be >= min_size (" + low + "). Suggestion: Increase POOL_MAX_SIZE to " + low +
               " or reduce POOL_MIN_SIZE to " + high + "\n";
    }
    all += url_problem(database_url);
    if (!all.empty()) all.pop_back();  // the last line's end
    return all;
}

std::string libpq_conninfo(std::string_view database_url) {
    const auto scheme = scheme_of(database_url);
    return std::string(scheme.substr(0, scheme.find('+'))) + std::string(database_url.substr(scheme.size()));
}

std::string mask_password(std::string_view conninfo) {
    // Rather too much than too little: what users write is not always a URL that libpq would take.
    std::vector<bool> hidden(conninfo.size());
    const auto hide = [&](std::size_t start, std::size_t end) {
        for (std::size_t i = start; i < end; i++) hidden[i] = true;
    };

    // user:password@ in front of a host. The password may hold any character unescaped, @ and / included, hence up to
    // the last @ of all.
    const auto scheme_end = conninfo.find("://");
    const auto colon = conninfo.find(':', scheme_end == std::string_view::npos ? 0 : scheme_end + 3);
    const auto at = conninfo.rfind('@');
    if (colon != std::string_view::npos && at != std::string_view::npos) hide(colon + 1, at);

    const bool url = !scheme_of(conninfo).empty();
    for (auto equals = conninfo.find('='); equals != std::string_view::npos; equals = conninfo.find('=', equals + 1)) {
        if (!is_secret_keyword(conninfo, equals)) continue;
        const auto start = std::min(conninfo.find_first_not_of(" \t\r\n\f\v", equals + 1), conninfo.size());
        hide(start, end_of_value(conninfo, start, url));
    }

    std::string masked;
    for (std::size_t i = 0; i < conninfo.size(); i++) {
        if (!hidden[i])
            masked += conninfo[i];
        else if (i == 0 || !hidden[i - 1])
            masked += "***";
    }
    return masked;
}

}  // namespace pqpool
