#include "core/run/log.hpp"

#include <spdlog/logger.h>
#include <spdlog/sinks/rotating_file_sink.h>

#include <algorithm>
#include <cmath>
#include <ctime>

#include "core/base/clock.hpp"
#include "core/base/error.hpp"
#include "core/base/secrets.hpp"
#include "core/base/text.hpp"

namespace pqpool {

namespace {

// In whole microseconds, so that whoever rounds to those writes the same time.
// NOLINTNEXTLINE(bugprone-integer-division)
double unix_time_now() { return static_cast<double>(read_clock(CLOCK_REALTIME) / kMicrosecond) / 1e6; }

std::string iso_8601(double unix_time) {
    const std::int64_t us = std::llround(unix_time * 1e6);
    const auto seconds = static_cast<time_t>(us / 1'000'000);
    tm utc;
    gmtime_r(&seconds, &utc);
    char text[40], whole[64];
    std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &utc);
    std::snprintf(whole, sizeof whole, "%s.%06d+00:00", text, static_cast<int>(us % 1'000'000));
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
    append_json(members_, name);
    members_ += ": ";
}

LogContext& LogContext::add(std::string_view name, std::string_view text) {
    name_member(name);
    append_json(members_, text);
    return *this;
}

LogContext& LogContext::add(std::string_view name, double number) {
    char text[32];
    std::snprintf(text, sizeof text, "%.9g", number);
    name_member(name);
    members_ += std::isfinite(number) ? text : "null";
    return *this;
}

LogContext& LogContext::add(std::string_view name, std::int64_t number) {
    name_member(name);
    members_ += std::to_string(number);
    return *this;
}

Log::Log(LogLevel level, const std::string& path, const std::string& pool) : level_(level), pool_(pool) {
    if (path.empty()) return;
    constexpr std::size_t kMegabyte = 1024UL * 1024;
    try {
        auto sink = std::make_shared<spdlog::sinks::rotating_file_sink_mt>(path, 100 * kMegabyte, 5);
        file_ = std::make_shared<spdlog::logger>("pqpool", std::move(sink));
    } catch (const spdlog::spdlog_ex& e) {
        const std::string words = e.what();  // with the path in front of the system's
        throw Error(ErrorKind::configuration, "log_file '" + mask_password(path) +
                                                  "' cannot be opened: " + words.substr(words.rfind(": ") + 2) +
                                                  ". Suggestion: Set POOL_LOG_FILE to a path this process may write");
    }
    file_->set_pattern("%v");
    file_->flush_on(spdlog::level::trace);
    // spdlog's own handler would write to stderr.
    file_->set_error_handler([this](const std::string& problem) { note_file_failure(problem); });
}

Log::~Log() = default;

void Log::write(LogLevel level, std::string message, const LogContext& context, std::uint64_t subject) {
    if (!is_enabled(level)) return;
    LogContext whole = context;
    if (!pool_.empty()) whole.add("pool", pool_);
    LogRecord record{unix_time_now(), level, on_one_line(message), whole.json(), subject};
    if (file_) {
        std::string line = "{\"timestamp\": \"" + iso_8601(record.unix_time) + "\", \"level\": \"";
        for (const char* c = name_of(level); *c; c++) line.push_back(static_cast<char>(*c - 32));
        line += "\", \"component\": \"connection_pool\", \"message\": ";
        append_json(line, record.message);
        line += ", \"context\": " + record.context + "}";
        file_->log(spdlog::level::info, line);
    }
    keep(std::move(record));
}

void Log::keep(LogRecord record) {
    std::lock_guard lock(mutex_);
    if (kept_ == kRingSize) make_room();
    auto& lines = ring_[static_cast<std::size_t>(record.level)];
    lines.push_back({++last_number_, std::move(record)});
    kept_++;
    for (const auto& [owner, listener] : listeners_) listener();
}

void Log::make_room() {
    for (std::size_t level = 0; level < kLevels; level++) {
        if (ring_[level].empty()) continue;
        ring_[level].pop_front();
        dropped_[level]++;
        kept_--;
        return;
    }
}

LogRecord Log::told_of_dropped() {
    std::int64_t all = 0;
    LogContext context;
    for (std::size_t level = 0; level < kLevels; level++) {
        if (dropped_[level]) context.add(name_of(static_cast<LogLevel>(level)), dropped_[level]);
        all += std::exchange(dropped_[level], 0);
    }
    if (!pool_.empty()) context.add("pool", pool_);
    return {unix_time_now(), LogLevel::warning,
            std::to_string(all) +
                " log lines were dropped, those of the least level first: they came faster than they "
                "were taken. Suggestion: raise log_level, or name a log_file, which drops none",
            context.json(), 0};
}

bool Log::take(LogRecord& record) {
    std::lock_guard lock(mutex_);
    if (std::any_of(dropped_.begin(), dropped_.end(), [](std::int64_t count) { return count > 0; })) {
        record = told_of_dropped();
        return true;
    }
    std::deque<Numbered>* oldest = nullptr;
    for (auto& lines : ring_)
        if (!lines.empty() && (!oldest || lines.front().number < oldest->front().number)) oldest = &lines;
    if (!oldest) return false;
    record = std::move(oldest->front().record);
    oldest->pop_front();
    kept_--;
    return true;
}

// Told once, not for each line.
void Log::note_file_failure(const std::string& problem) {
    if (file_fails_.exchange(true)) return;
    LogContext context;
    if (!pool_.empty()) context.add("pool", pool_);
    keep({unix_time_now(), LogLevel::error, on_one_line("log_file cannot be written: " + problem), context.json(), 0});
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
