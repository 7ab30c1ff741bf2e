// The statements that a connection has on its server by name. A name is made from what it names, so that the same name
// is the same statement in every connection, pool and process: one that is there already, perhaps by another hand
// behind a pooler, may be used. Pure: the caller sends what follows from it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/wire/result.hpp"
#include "core/wire/statement.hpp"

namespace pqpool {

// "pqpool_" and 128 bits of SHA-256 of the key: the text and the types of the parameters.
std::string name_of_statement(std::string_view key);

struct NamedStatement {
    std::string key;
    std::string name;
    StatementTraits traits;
    std::uint32_t uses = 0;
    bool on_server = false;  // as far as is known
    bool described = false;
    bool binary = false;  // described, and every column has a binary form
    // What the last result's columns came as, since it was described.
    enum class Form : std::uint8_t { unknown, no_columns, text, binary } form = Form::unknown;
    bool unnamed = false;  // the name was not there too often: parsed anew with each use
    std::uint8_t missed = 0;
    std::shared_ptr<const Columns> columns;  // of its last result

    void note_columns(const Columns* seen);  // nullptr: it has none
    void note_form(const Columns* seen);
    void forget_columns();
    // Behind a pooler the next packet may go to another server, which has not this name. Twice, and it is used no more.
    void miss();
};

class NamedStatements {
  public:
    explicit NamedStatements(std::int64_t capacity) : capacity_(capacity) {}
    NamedStatements(const NamedStatements&) = delete;

    // nullptr where nothing is kept. Valid until another statement is looked up.
    NamedStatement* look_up(const Statement& statement);
    bool keeps_any() const { return capacity_ > 0; }
    // The server has none of them any more, or perhaps others of the same names.
    void forget_all();
    // The statement is to be removed from the server before its name is used again.
    void discard(NamedStatement& statement);
    // Names that the server is to forget; the caller tells it so.
    std::vector<std::string> take_discarded();

  private:
    using List = std::list<NamedStatement>;  // most recently used first

    const std::int64_t capacity_;
    List list_;
    std::unordered_map<std::string_view, List::iterator> by_key_;
    std::vector<std::string> discarded_;
};

}  // namespace pqpool
