// What a statement gave: rows, a command tag, or an error. Rows stay as the server sent them, in place, with an index
// made once, when they arrive.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/error.hpp"
#include "core/wire/protocol.hpp"

namespace pqpool {

// The columns of a result, by the server's description of them.
class Columns {
  public:
    // Throws ProtocolViolation.
    explicit Columns(const Message& description);
    Columns(const Columns&) = delete;

    bool is_described_by(std::string_view description) const { return description == description_; }
    std::size_t count() const { return columns_.size(); }
    const char* name(std::size_t column) const { return columns_[column].name; }
    std::uint32_t type(std::size_t column) const { return columns_[column].type; }
    bool is_binary(std::size_t column) const { return columns_[column].binary; }
    bool all_types_have_binary_form() const;

  private:
    struct Column {
        const char* name;  // UTF-8, whatever the server sent
        std::uint32_t type;
        bool binary;
    };
    const std::string description_;
    std::vector<Column> columns_;
    std::vector<std::unique_ptr<std::string>> repaired_;
};

class Result {
  public:
    Result() = default;
    explicit Result(Error error) : error_(std::move(error)) {}
    Result(Result&& other) noexcept : answer_(std::move(other.answer_)) {
        if (other.error_) error_ = std::exchange(other.error_, std::nullopt);
    }
    Result& operator=(Result&& other) noexcept {
        answer_ = std::move(other.answer_);
        if (error_ || other.error_) error_ = std::exchange(other.error_, std::nullopt);
        return *this;
    }

    // ---- as it arrives ----
    // The columns of the rows that follow; nullptr: none follow. Earlier rows are dropped.
    void begin(std::shared_ptr<const Columns> columns);
    void add_row(const Message& row);  // throws ProtocolViolation where it is not one of these columns
    void end(std::string_view command_tag);
    // Of an error message whose fields were checked.
    static Result of_error(std::string_view fields);

    // ---- whole ----
    // Empty until a statement has answered.
    bool has_value() const { return answer_ || error_; }
    const std::optional<Error>& error() const { return error_; }
    // Makes the server's error this result's error; its fields stay readable.
    void set_error(Error error) { error_ = std::move(error); }

    int rows() const { return answer_ ? static_cast<int>(answer_->row_count) : 0; }
    int columns() const { return answer_ && answer_->columns ? static_cast<int>(answer_->columns->count()) : 0; }
    const char* column_name(int column) const { return answer_->columns->name(static_cast<std::size_t>(column)); }
    std::uint32_t column_type(int column) const { return answer_->columns->type(static_cast<std::size_t>(column)); }
    bool is_binary() const { return columns() > 0 && answer_->columns->is_binary(0); }
    const std::shared_ptr<const Columns>& description() const { return answer_->columns; }
    // Valid as long as the result. A NUL follows it. NULL is an empty text.
    const char* value(int row, int column) const { return cell(row, column).at(answer_->row(row)); }
    int length(int row, int column) const { return std::max(cell(row, column).length, 0); }
    bool is_null(int row, int column) const { return cell(row, column).length < 0; }
    const char* command_tag() const { return answer_ && answer_->tag ? answer_->tag : ""; }

    // A field of the server's error by its code in the protocol ('C' SQLSTATE, 'D' detail, 'H' hint, …), in UTF-8;
    // nullptr where it has none.
    const char* field(int code) const;
    // The server's, with its detail and hint.
    std::string message() const;

  private:
    // Where a value stands behind its row's index.
    struct Cell {
        std::uint32_t offset;
        std::int32_t length;
        const char* at(const char* row) const { return row + offset; }
    };
    // Rows, tag and error fields stand in chunks, of which the first is part of it.
    struct Answer {
        static constexpr std::size_t kFirst = 320;

        ~Answer();
        char* take(std::size_t size);  // aligned as a Cell
        const char* row(int number) const { return row_count == 1 ? only_row : rows[static_cast<std::size_t>(number)]; }

        std::shared_ptr<const Columns> columns;
        const char* only_row = nullptr;  // each begins with its index of cells
        std::vector<const char*> rows;   // where there are more
        std::size_t row_count = 0;
        const char* tag = nullptr;
        std::string_view fields;
        char *at = first, *chunk_end = first + kFirst;
        char* newest_chunk = nullptr;  // begins with the address of the one before
        std::size_t next_chunk = 2048;
        std::unique_ptr<std::map<const char*, std::string>> repaired;  // by the server's own
        alignas(8) char first[kFirst];
    };

    const Cell& cell(int row, int column) const { return reinterpret_cast<const Cell*>(answer_->row(row))[column]; }
    Answer& answer() {
        if (!answer_) answer_.reset(new Answer);
        return *answer_;
    }
    const char* as_utf8(const char* text) const;

    std::unique_ptr<Answer> answer_;
    std::optional<Error> error_;
};

// The types whose binary form a caller of ResultFormat::automatic must be able to read; everything else comes as text.
bool has_binary_form(std::uint32_t type);

}  // namespace pqpool
