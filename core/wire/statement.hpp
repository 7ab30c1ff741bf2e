// One statement with its parameters, and what its text tells about it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/wire/protocol.hpp"
#include "core/wire/scan.hpp"

namespace pqpool {

// What a lease may leave behind in its session. The reset undoes just what is set.
enum Dirt : std::uint16_t {
    kDirtNone = 0,
    kDirtSettings = 1,  // SET, set_config
    kDirtRole = 2,      // SET ROLE, SET SESSION AUTHORIZATION
    kDirtListen = 4,
    kDirtCursor = 8,     // DECLARE … WITH HOLD
    kDirtPrepared = 16,  // PREPARE
    kDirtTemp = 32,
    kDirtAdvisory = 64,    // session-level advisory locks
    kDirtDefaults = 128,   // of transactions: isolation, read only. With kDirtSettings
    kDirtSequences = 256,  // what currval and lastval tell
    kDirtSeed = 512,       // setseed
    kDirtSlots = 1024,     // temporary replication slots, which make the server keep its log
    kDirtAll = 2047,
    kDirtOrigin = 2048,  // of replication. Not in kDirtAll: its functions are not everybody's to call
    // Undone at once, not with the next packet: what other sessions can feel while the connection stands idle.
    kDirtAtOnce = kDirtListen | kDirtAdvisory | kDirtSlots | kDirtOrigin,
};

// What the names begin with under which the pool keeps statements on the server.
inline constexpr std::string_view kOwnNames = "pqpool_";

struct StatementTraits {
    // SELECT, VALUES, TABLE, or a WITH … SELECT that changes nothing and leaves nothing behind: may share its Sync with
    // the validation in front of it.
    bool ordinary = false;
    bool copy = false;              // COPY, whose data has no place
    bool script = false;            // several statements
    bool forgets_prepared = false;  // DEALLOCATE ALL, DISCARD ALL, DEALLOCATE of a name of ours
    // SELECT, INSERT, … : a named one's columns cannot change without an error. Those of EXECUTE, FETCH and the like
    // can.
    bool has_fixed_columns = false;
    bool changes_settings = false;  // of the session or of the transaction
    std::uint16_t dirt = kDirtNone;
    std::size_t parameters = 0;  // the greatest n of a $n
};

// By keywords and names, outside literals and comments. What hides inside a function of the user's own is not seen:
// reset=always is for those who need that.
StatementTraits classify(std::string_view sql);

enum class ResultFormat : std::uint8_t {
    text,
    binary,
    automatic
};  // automatic: binary once every column's type is known to have a binary form

struct Parameter {
    std::uint32_t type = 0;  // OID; 0 lets the server infer it
    bool binary = false;
    std::int32_t length = -1;     // of a binary value
    const char* value = nullptr;  // nullptr is NULL; text ends with a NUL
};

// Owns copies of all it is given, so that it can be sent again on another connection. Reused, it allocates nothing.
class Statement {
  public:
    void assign(std::string_view sql, const Parameter* parameters, std::size_t count, ResultFormat format);

    std::string_view text() const { return {key_.data(), text_length_}; }
    // The text and the parameters' types: two statements with the same key share a prepared statement.
    std::string_view key() const { return key_; }
    ResultFormat format() const { return format_; }

    std::size_t count() const { return types_.size(); }
    const std::uint32_t* types() const { return types_.data(); }
    const ParameterValue* values() const { return values_.data(); }

  private:
    std::string key_;  // the text, NUL, the types' bytes
    std::size_t text_length_ = 0;
    std::string data_;  // the parameters' bytes
    std::vector<std::uint32_t> types_;
    std::vector<ParameterValue> values_;
    ResultFormat format_ = ResultFormat::text;
};

}  // namespace pqpool
