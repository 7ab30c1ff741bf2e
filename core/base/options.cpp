#include "core/base/options.hpp"

#include <strings.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>

#include "core/base/secrets.hpp"
#include "core/base/text.hpp"

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

// A value as a message may repeat it: short, and without the password of a URL that was given to the wrong option.
std::string shown(std::string_view value) {
    constexpr std::size_t kLongest = 200;
    return shortened(mask_password(value), kLongest);
}

const OptionInfo& info_of(std::string_view name) {
    for (const auto& info : option_list())
        if (info.name == name) return info;
    throw Error(ErrorKind::configuration,
                "unknown option '" + shown(name) + "'. Suggestion: see the list of options in pqpool.h or the README");
}

[[noreturn]] void malformed(const OptionInfo& info, std::string_view value, const char* wanted) {
    throw Error(ErrorKind::configuration, std::string(info.name) + " must be " + wanted + " (got '" + shown(value) +
                                              "'). Suggestion: set " + variable_of(info.name) + " to a value such as " +
                                              info.default_text);
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

std::string url_problem(const std::string& url) {
    if (url.empty())
        return "database_url is required. Suggestion: Set POOL_DATABASE_URL or DATABASE_URL, as in "
               "postgresql://user@host:5432/database\n";
    const std::string_view scheme = scheme_of(url);
    if (scheme.empty()) {
        if (url.find('=') != std::string::npos) return {};  // libpq's keyword form; libpq judges it
        // Of what has no known form, nothing tells where a password stands.
        const auto end = std::min(url.find_first_of(":@/?"), url.size());
        return "database_url must use postgresql:// or postgres:// or libpq's keyword=value form (got '" +
               shown(url.substr(0, end)) + (end < url.size() ? "***" : "") +
               "'). Suggestion: write it as postgresql://user@host:5432/database\n";
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
            if (!is_utf8(value))
                throw Error(ErrorKind::configuration, std::string(info.name) + " must be UTF-8 (got '" + shown(value) +
                                                          "'). Suggestion: write it in UTF-8; in a URL, other bytes " +
                                                          "can be percent-encoded");
            this->*std::get<OptionText Options::*>(info.member) = value;
            break;
    }
}

std::string Options::get(std::string_view name) const {
    return std::visit([this](auto member) { return default_of(this->*member); }, info_of(name).member);
}

void Options::set_from_variable(std::string_view name, std::string_view value) {
    constexpr std::string_view kBlanks = " \t\n\r\f\v";
    if (info_of(name).type != OptionType::text) {
        value.remove_prefix(std::min(value.find_first_not_of(kBlanks), value.size()));
        value.remove_suffix(value.size() - std::min(value.find_last_not_of(kBlanks) + 1, value.size()));
    }
    if (!value.empty()) set(name, value);
}

// NOLINTBEGIN(concurrency-mt-unsafe): it only reads; a caller that changes the environment meanwhile breaks every
// reader
void Options::set_from_environment() {
    if (const char* url = std::getenv("DATABASE_URL")) set_from_variable("database_url", url);
    for (const auto& info : option_list())
        if (const char* value = std::getenv(variable_of(info.name).c_str())) set_from_variable(info.name, value);
}
// NOLINTEND(concurrency-mt-unsafe)

std::string Options::problems() const {
    std::string all;
    for (const auto& info : option_list()) {
        if (info.type == OptionType::integer)
            all += bound_problem(info, static_cast<double>(this->*std::get<OptionInteger Options::*>(info.member)));
        if (info.type == OptionType::seconds)
            all += bound_problem(info, this->*std::get<OptionSeconds Options::*>(info.member));
        if (info.type == OptionType::choice && !is_choice(info.choices, get(info.name)))
            all += std::string(info.name) + " must be one of " + info.choices + " (got '" + shown(get(info.name)) +
                   "'). Suggestion: Set " + variable_of(info.name) + " to " + info.default_text + "\n";
    }
    if (log_file.find("://") != std::string::npos)
        all += "log_file must be a file's path (got '" + shown(log_file) +
               "'). Suggestion: Set POOL_LOG_FILE to a path this process may write\n";
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

}  // namespace pqpool
