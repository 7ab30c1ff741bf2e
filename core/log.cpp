#include "core/log.hpp"

#include <spdlog/logger.h>
#include <spdlog/sinks/rotating_file_sink.h>

#include <ctime>

#include "core/clock.hpp"
#include "core/error.hpp"

namespace pqpool {

namespace {

void append_quoted(std::string& out, std::string_view text) {
    out.push_back('"');
    for (const char c : text) {
        const auto code = static_cast<unsigned char>(c);
        if (c == '"' || c == '\\') {
            out.push_back('\\');
            out.push_back(c);
        } else if (code < 0x20) {
            char escape[8];
            std::snprintf(escape, sizeof escape, "\\u%04x", code);
            out += escape;
        } else {
            out.push_back(c);
        }
    }
    out.push_back('"');
}

std::string iso_8601(double unix_time) {
    const auto seconds = static_cast<time_t>(unix_time);
    tm utc;
    gmtime_r(&seconds, &utc);
    char text[40], whole[64];
    std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &utc);
    std::snprintf(whole, sizeof whole, "%s.%06dZ", text,
                  static_cast<int>((unix_time - static_cast<double>(seconds)) * 1e6));
    return whole;
}

}  // namespace

const char* name_of(LogLevel level) {
    constexpr const char* kNames[] = {"debug", "info", "warning", "error"};
    return kNames[static_cast<int>(level)];
}

LogLevel log_level_of(std::string_view name) {
    for (const auto level : {LogLevel::debug, LogLevel::info, LogLevel::warning})
        if (name == name_of(level)) return level;
    return LogLevel::error;
}

void LogContext::name_member(std::string_view name) {
    if (!members_.empty()) members_ += ", ";
    append_quoted(members_, name);
    members_ += ": ";
}

LogContext& LogContext::add(std::string_view name, std::string_view text) {
    name_member(name);
    append_quoted(members_, text);
    return *this;
}

LogContext& LogContext::add(std::string_view name, double number) {
    char text[32];
    std::snprintf(text, sizeof text, "%.6g", number);
    name_member(name);
    members_ += text;
    return *this;
}

LogContext& LogContext::add(std::string_view name, std::int64_t number) {
    name_member(name);
    members_ += std::to_string(number);
    return *this;
}

Log::Log(LogLevel level, const std::string& path) : level_(level) {
    if (path.empty()) return;
    constexpr std::size_t kMegabyte = 1024 * 1024;
    try {
        auto sink = std::make_shared<spdlog::sinks::rotating_file_sink_mt>(path, 100 * kMegabyte, 5);
        file_ = std::make_shared<spdlog::logger>("pqpool", std::move(sink));
    } catch (const spdlog::spdlog_ex& e) {
        throw Error(ErrorKind::configuration, "log_file '" + path + "' cannot be opened: " + e.what() +
                                                  ". Suggestion: Set POOL_LOG_FILE to a path this process may write");
    }
    file_->set_pattern("%v");
    file_->flush_on(spdlog::level::trace);
}

Log::~Log() = default;

void Log::write(LogLevel level, std::string message, const LogContext& context, std::uint64_t subject) {
    if (!is_enabled(level)) return;
    LogRecord record{static_cast<double>(read_clock(CLOCK_REALTIME)) / 1e9, level, std::move(message), context.json(),
                     subject};
    if (file_) {
        std::string line = "{\"timestamp\": \"" + iso_8601(record.unix_time) + "\", \"level\": \"";
        for (const char* c = name_of(level); *c; c++) line.push_back(static_cast<char>(*c - 32));
        line += "\", \"component\": \"connection_pool\", \"message\": ";
        append_quoted(line, record.message);
        line += ", \"context\": " + record.context + "}";
        file_->log(spdlog::level::info, line);
    }
    std::lock_guard lock(mutex_);
    if (ring_.size() >= kRingSize) ring_.pop_front();
    ring_.push_back(std::move(record));
    for (const auto& [owner, listener] : listeners_) listener();
}

bool Log::take(LogRecord& record) {
    std::lock_guard lock(mutex_);
    if (ring_.empty()) return false;
    record = std::move(ring_.front());
    ring_.pop_front();
    return true;
}

void Log::listen(const void* owner, std::function<void()> listener) {
    stop_listening(owner);
    std::lock_guard lock(mutex_);
    listeners_.emplace_back(owner, std::move(listener));
}

void Log::stop_listening(const void* owner) {
    std::lock_guard lock(mutex_);
    std::erase_if(listeners_, [owner](const auto& listener) { return listener.first == owner; });
}

}  // namespace pqpool
