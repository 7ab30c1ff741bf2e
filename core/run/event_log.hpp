// Puts a pool's events into words: lines of its log.
#pragma once

#include <mutex>
#include <string>
#include <type_traits>
#include <vector>

#include "core/base/error.hpp"
#include "core/run/event.hpp"
#include "core/run/log.hpp"

namespace pqpool {

class EventLog {
  public:
    // pool: its name, as the lines show it.
    EventLog(LogLevel level, const std::string& path, const std::string& pool) : pool_(pool), log_(level, path, pool) {}

    Log& log() { return log_; }

    // Under the pool's lock, as all that follows. `make` gives the event, and is called where the log wants that;
    // without memory it is left out.
    template <class Make>
    void tell(const Make& make) noexcept {
        if (log_.is_enabled(std::invoke_result_t<Make>::kLevel)) best_effort([&] { untold_.emplace_back(make()); });
    }
    // Lets go of the pool's lock while it writes. What is told meanwhile is written by the thread that is at it, so
    // that the lines keep their order.
    void write(std::mutex& pools) {
        if (!untold_.empty() && !is_writing_) write_all(pools);
    }

  private:
    void write_all(std::mutex& pools);

    const std::string pool_;
    Log log_;
    std::vector<Event> untold_;
    bool is_writing_ = false;
};

}  // namespace pqpool
