// Why the pool's connections ended or could not be had, in the words that who asks for one is told. Under the pool's
// lock.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "core/base/error.hpp"
#include "core/wire/connect_plan.hpp"

namespace pqpool {

class LastFailure {
  public:
    explicit LastFailure(const ConnectPlan& plan) : plan_(plan) {}

    // Empty: none yet.
    const std::string& message() const { return message_; }
    const std::string& cure() const { return cure_; }
    // What those are told who wait for the pool to open.
    const std::optional<Error>& of_initialization() const { return of_initialization_; }

    // is_initializing: it is what the pool's opening may end with. All of these leave it out for want of memory.
    void note_opening(const Error& error, bool is_initializing) noexcept;
    void note_loss(std::string_view words, bool is_initializing) noexcept;
    void note_check(std::string_view words) noexcept;
    void note_no_memory() noexcept;
    void forget_initialization() { of_initialization_.reset(); }

  private:
    void note_initialization(std::string_view sqlstate);

    const ConnectPlan& plan_;
    std::string message_, cure_;
    std::optional<Error> of_initialization_;
};

}  // namespace pqpool
