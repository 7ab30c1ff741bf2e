// The pool's log: JSON lines to a rotating file, and a bounded ring from which a caller drains them into its own
// logging. Nothing on stdout or stderr.
#pragma once

#include <array>
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
    // Throws Error(configuration) where the file cannot be opened. An empty path: no file. Each line's context names
    // the pool, where it has a name.
    Log(LogLevel level, const std::string& path, const std::string& pool = "");
    ~Log();

    bool is_enabled(LogLevel level) const { return level >= level_.load(std::memory_order_relaxed); }
    void set_level(LogLevel level) { level_.store(level, std::memory_order_relaxed); }
    void write(LogLevel level, std::string message, const LogContext& context,
               std::uint64_t subject = 0);  // any thread

    // Oldest first; false when there is none. Past kRingSize the oldest of the least level is dropped, and a line of
    // the log's own, ahead of what is left, tells how many those were.
    bool take(LogRecord& record);
    // Called after each line, on the thread that wrote it, with locks held: it may only wake somebody. Each owner has
    // one listener at most.
    void listen(const void* owner, std::function<void()> listener);
    void stop_listening(const void* owner);

  private:
    static constexpr std::size_t kRingSize = 1000, kLevels = 4;

    struct Numbered {
        std::uint64_t number;  // their order
        LogRecord record;
    };

    void keep(LogRecord record);
    void make_room();
    LogRecord told_of_dropped();
    void note_file_failure(const std::string& problem);

    std::atomic<LogLevel> level_;
    const std::string pool_;
    std::shared_ptr<spdlog::logger> file_;
    std::atomic<bool> file_fails_ = false;
    std::mutex mutex_;                                // guards all below
    std::array<std::deque<Numbered>, kLevels> ring_;  // by level
    std::size_t kept_ = 0;
    std::uint64_t last_number_ = 0;
    std::array<std::int64_t, kLevels> dropped_{};
    std::vector<std::pair<const void*, std::function<void()>>> listeners_;
};

}  // namespace pqpool
