// Every setting of the pool, with default, bound, unit and meaning, in one list.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/base/error.hpp"

namespace pqpool {

// X(type, name, default, minimum, maximum, meaning); `open` bounds (greater than, less than) are listed in options.cpp.
// Seconds are doubles. A choice is text; its values stand in options.cpp.
#define PQPOOL_OPTIONS(X)                                                                                      \
    X(text, database_url, "", 0, 0,                                                                            \
      "postgresql:// URL (any +driver suffix is dropped) or libpq keyword string; required")                   \
    X(integer, min_size, 2, 1, 10000, "connections kept open")                                                 \
    X(integer, max_size, 10, 1, 10000, "connections at most; at least min_size")                               \
    X(integer, max_queries, 50000, 1000, 1e15, "statements before a connection is replaced")                   \
    X(seconds, max_idle_time, 60.0, 10.0, 1e9, "idle time before a connection above min_size is closed")       \
    X(seconds, timeout, 30.0, 0.0, 300.0, "wait for a connection, at most")                                    \
    X(seconds, command_timeout, 60.0, 0.0, 1e9, "one statement, at most; then it is cancelled")                \
    X(seconds, max_connection_lifetime, 3600.0, 60.0, 1e9,                                                     \
      "age before a connection is replaced, less up to 5 % of jitter")                                         \
    X(seconds, leak_detection_timeout, 30.0, 0.0, 1e9, "hold time before a leak warning; 0 = off")             \
    X(boolean, enable_leak_detection, true, 0, 1, "whether leases held too long are reported")                 \
    X(seconds, connect_timeout, 10.0, 0.0, 1e6, "opening one connection, at most")                             \
    X(choice, validation, "always", 0, 0,                                                                      \
      "when a connection is checked: always (in the packet of the lease's first "                              \
      "statement), blocking (answer awaited inside acquire), idle (after validation_idle_time unused), never") \
    X(seconds, validation_idle_time, 30.0, 0.0, 1e9, "unused time after which validation=idle checks")         \
    X(seconds, validation_await_time, 10.0, 0.0, 1e9,                                                          \
      "unused time after which the check's answer is awaited before the statement is written")                 \
    X(choice, reset, "auto", 0, 0,                                                                             \
      "session state undone between leases: auto (what the lease changed), always, never")                     \
    X(integer, statement_cache_size, 100, 0, 10000,                                                            \
      "prepared statements kept per connection; 0 = none: results then come as text")                          \
    X(integer, max_waiting, 0, 0, 1e9, "requests that may wait at once; 0 = no cap")                           \
    X(seconds, keepalive_interval, 0.0, 0.0, 1e9, "idle connections are checked this often; 0 = off")          \
    X(text, init_sql, "", 0, 0, "statements run on each new connection")                                       \
    X(text, name, "", 0, 0, "what the log calls the pool; empty = host:port/database")                         \
    X(text, log_file, "", 0, 0, "file for JSON log lines, rotated at 100 MB, five kept; empty = none")         \
    X(choice, log_level, "info", 0, 0, "lines below it are not made: debug, info, warning, error")

using OptionInteger = std::int64_t;
using OptionSeconds = double;
using OptionBoolean = bool;
using OptionText = std::string;
using OptionChoice = std::string;

struct Options {
#define PQPOOL_FIELD_integer                                    OptionInteger
#define PQPOOL_FIELD_seconds                                    OptionSeconds
#define PQPOOL_FIELD_boolean                                    OptionBoolean
#define PQPOOL_FIELD_text                                       OptionText
#define PQPOOL_FIELD_choice                                     OptionChoice
#define X(type, name, default_value, minimum, maximum, meaning) PQPOOL_FIELD_##type name = default_value;
    PQPOOL_OPTIONS(X)
#undef X

    // Sets one option from text. Throws Error(configuration) for an unknown name or a malformed value.
    void set(std::string_view name, std::string_view value);
    std::string get(std::string_view name) const;  // as text; throws as set() does

    // As set(), by the rule for variables: an empty one counts as not set, and blanks around a value that is no free
    // text do not count.
    void set_from_variable(std::string_view name, std::string_view value);
    // Takes POOL_<NAME> for every option, and DATABASE_URL where POOL_DATABASE_URL is not set.
    void set_from_environment();

    // Every rule that is broken, one line each; empty when the options are sound.
    std::string problems() const;
};

enum class OptionType { integer, seconds, boolean, text, choice };

struct OptionInfo {
    const char* name;
    OptionType type;
    std::string default_text;
    double minimum;
    double maximum;
    bool open_minimum;  // the value must be greater than, not only reach, the minimum
    bool open_maximum;
    const char* choices;  // separated by '|', of a choice
    const char* meaning;
    std::variant<OptionInteger Options::*, OptionSeconds Options::*, OptionBoolean Options::*, OptionText Options::*>
        member;
};

const std::vector<OptionInfo>& option_list();

// The URL as libpq takes it: `postgresql+driver://` becomes `postgresql://`.
std::string libpq_conninfo(std::string_view database_url);

}  // namespace pqpool
