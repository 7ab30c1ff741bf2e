// What leases leave behind in their session, and the statements that undo it. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/wire/statement.hpp"

namespace pqpool {

class Residue {
  public:
    enum class Reset : std::uint8_t { automatic, always, never };

    // init_sql: what was run at the session's beginning. Where something goes that it made, all that it made goes, so
    // that it can run as it did at first.
    Residue(std::string_view init_sql, Reset reset);

    void add(std::uint16_t dirt) { of_lease_ |= dirt; }  // of the lease that has the session
    std::uint16_t of_lease() const { return of_lease_; }
    bool is_inherited() const { return inherited_ != kDirtNone; }
    void end_lease();  // what it left is the next one's to undo
    // Of a lease that ended in the midst of something: nobody knows which of its statements were begun.
    void abandon_lease();

    // The statements that undo what was inherited, in their order. Then end_undo(), where they were answered.
    std::vector<std::string> begin_undo();
    bool undoes(std::uint16_t dirt) const { return under_way_ & dirt; }
    void end_undo();
    void forget_undo() { under_way_ = kDirtNone; }
    const std::vector<std::string>& beginning() const { return init_; }
    std::uint16_t made_at_beginning() const { return made_; }

  private:
    const std::vector<std::string> init_;
    const std::uint16_t made_;
    const Reset reset_;
    std::uint16_t of_lease_, inherited_ = kDirtNone, under_way_ = kDirtNone;
};

}  // namespace pqpool
