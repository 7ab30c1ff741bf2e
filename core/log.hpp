// The pool's log: JSON lines to a rotating file, and a bounded ring from which a caller drains them into its own
// logging. Nothing on stdout or stderr.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace spdlog {
class logger;
}

namespace pqpool {

enum class LogLevel { debug, info, warning, error };
LogLevel log_level_of(std::string_view name);
const char* name_of(LogLevel level);

// The context of one line, in the order it is added.
class LogContext {
  public:
    LogContext& add(std::string_view name, std::string_view text);
    LogContext& add(std::string_view name, const char* text) { return add(name, std::string_view(text)); }
    LogContext& add(std::string_view name, double number);
    LogContext& add(std::string_view name, std::int64_t number);
    std::string json() const { return "{" + members_ + "}"; }

  private:
    void name_member(std::string_view name);
    std::string members_;
};

struct LogRecord {
    double unix_time = 0;  // seconds
    LogLevel level = LogLevel::info;
    std::string message;
    std::string context;        // a JSON object
    std::uint64_t subject = 0;  // the lease the line is about, where a caller may know more of it; else 0
};

class Log {
  public:
    // Throws Error(configuration) where the file cannot be opened. An empty path: no file.
    Log(LogLevel level, const std::string& path);
    ~Log();

    bool is_enabled(LogLevel level) const { return level >= level_.load(std::memory_order_relaxed); }
    void set_level(LogLevel level) { level_.store(level, std::memory_order_relaxed); }
    void write(LogLevel level, std::string message, const LogContext& context,
               std::uint64_t subject = 0);  // any thread

    // Oldest first; false when there is none. Past kRingSize the oldest is dropped.
    bool take(LogRecord& record);
    // Called after each line, on the thread that wrote it, with locks held: it may only wake somebody. Each owner has
    // one listener at most.
    void listen(const void* owner, std::function<void()> listener);
    void stop_listening(const void* owner);

  private:
    static constexpr std::size_t kRingSize = 1000;
    std::atomic<LogLevel> level_;
    std::shared_ptr<spdlog::logger> file_;
    std::mutex mutex_;
    std::deque<LogRecord> ring_;
    std::vector<std::pair<const void*, std::function<void()>>> listeners_;
};

}  // namespace pqpool
