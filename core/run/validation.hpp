// When the connection of a lease is checked, by the options.
#pragma once

#include <cstdint>
#include <limits>

#include "core/base/clock.hpp"
#include "core/base/options.hpp"

namespace pqpool {

class Validation {
  public:
    explicit Validation(const Options& options)
        : comes_before_grant_(options.validation == "blocking"),
          due_after_(options.validation == "never"  ? kNever
                     : options.validation == "idle" ? from_seconds(options.validation_idle_time)
                                                    : std::numeric_limits<Nanos>::min()),
          awaited_after_(from_seconds(options.validation_await_time)) {}

    // An acquire does not end before the check is answered; else it goes with the first statement.
    bool comes_before_grant() const { return comes_before_grant_; }
    // Of a connection that was unused for so long: whether it is checked, and whether nothing is sent before the
    // answer.
    bool is_due(Nanos unused) const { return unused > due_after_; }
    bool is_awaited(Nanos unused) const { return unused > awaited_after_; }

  private:
    const bool comes_before_grant_;
    const Nanos due_after_, awaited_after_;
};

}  // namespace pqpool
