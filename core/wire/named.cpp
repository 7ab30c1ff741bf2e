#include "core/wire/named.hpp"

#include <algorithm>
#include <utility>

#include "core/base/sha256.hpp"

namespace pqpool {

namespace {
constexpr std::uint8_t kMostMissed = 2;
}

std::string name_of_statement(std::string_view key) {
    constexpr std::size_t kBytes = 16;
    static constexpr char kDigits[] = "0123456789abcdef";
    const auto hash = sha256(key);
    std::string name(kOwnNames);
    for (std::size_t i = 0; i < kBytes; i++) {
        name += kDigits[hash[i] >> 4];
        name += kDigits[hash[i] & 15];
    }
    return name;
}

void NamedStatement::note_columns(const Columns* seen) {
    described = true;
    binary = !seen || seen->all_types_have_binary_form();
}

void NamedStatement::note_form(const Columns* seen) {
    if (!seen)
        form = Form::no_columns;
    else if (seen->count() > 0)
        form = seen->is_binary(0) ? Form::binary : Form::text;
}

void NamedStatement::forget_columns() {
    described = false;
    form = Form::unknown;
}

void NamedStatement::miss() {
    on_server = false;
    forget_columns();
    unnamed = ++missed >= kMostMissed;
}

NamedStatement* NamedStatements::look_up(const Statement& statement) {
    if (!keeps_any()) return nullptr;
    if (const auto found = by_key_.find(statement.key()); found != by_key_.end()) {
        list_.splice(list_.begin(), list_, found->second);
        return &list_.front();
    }
    if (static_cast<std::int64_t>(list_.size()) >= capacity_) {
        discard(list_.back());
        by_key_.erase(list_.back().key);
        list_.pop_back();
    }
    NamedStatement& made = list_.emplace_front();
    made.key = statement.key();
    made.name = name_of_statement(made.key);
    made.traits = classify(statement.text());
    // It was to be removed, but the server has not been told.
    made.on_server = std::erase(discarded_, made.name) > 0;
    by_key_.emplace(made.key, list_.begin());
    return &made;
}

void NamedStatements::forget_all() {
    for (auto& statement : list_) {
        statement.on_server = false;
        statement.forget_columns();
    }
    discarded_.clear();
}

void NamedStatements::discard(NamedStatement& statement) {
    if (std::exchange(statement.on_server, false)) discarded_.push_back(statement.name);
    statement.forget_columns();
}

std::vector<std::string> NamedStatements::take_discarded() { return std::exchange(discarded_, {}); }

}  // namespace pqpool
