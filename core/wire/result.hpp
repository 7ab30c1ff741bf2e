// What a statement gave: rows, a command tag, or an error. Owns the PGresult.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "core/base/error.hpp"

struct pg_result;

namespace pqpool {

class Result {
  public:
    Result() = default;
    explicit Result(pg_result* pg) : pg_(pg) {}
    explicit Result(Error error) : error_(std::move(error)) {}
    ~Result() {
        if (pg_) clear();
    }
    Result(Result&& other) noexcept : pg_(std::exchange(other.pg_, nullptr)), repaired_(std::move(other.repaired_)) {
        if (other.error_) error_ = std::exchange(other.error_, std::nullopt);
    }
    Result& operator=(Result&& other) noexcept {
        if (pg_) clear();
        pg_ = std::exchange(other.pg_, nullptr);
        if (error_ || other.error_) error_ = std::exchange(other.error_, std::nullopt);
        repaired_ = std::move(other.repaired_);
        return *this;
    }

    // Empty until a statement has answered.
    bool has_value() const { return pg_ || error_; }
    const std::optional<Error>& error() const { return error_; }
    // Makes the server's error this result's error; its fields stay readable.
    void set_error(Error error) { error_ = std::move(error); }

    int rows() const;
    int columns() const;
    const char* column_name(int column) const;
    std::uint32_t column_type(int column) const;
    bool is_binary() const;
    // Valid as long as the result. Text ends with a NUL.
    const char* value(int row, int column) const;
    int length(int row, int column) const;
    bool is_null(int row, int column) const;
    const char* command_tag() const;

    // A field of the server's error by its PG_DIAG code ('C' sqlstate, 'D' detail, 'H' hint, …); nullptr where it has
    // none.
    const char* field(int code) const;
    // The server's, with its detail and hint, or libpq's. Without the piece of the statement that libpq would add.
    std::string message() const;
    bool is_fatal() const;  // the server ended the session with it
    bool all_types_have_binary_form() const;

  private:
    void clear();
    // What the result says beside its values is UTF-8, whatever the server sent.
    const char* as_utf8(const char* text) const;

    pg_result* pg_ = nullptr;
    std::optional<Error> error_;
    mutable std::unique_ptr<std::map<const char*, std::string>> repaired_;  // by the server's own
};

// The types whose binary form a caller of ResultFormat::automatic must be able to read; everything else comes as text.
bool has_binary_form(std::uint32_t type);

}  // namespace pqpool
