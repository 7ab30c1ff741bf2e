#include "core/statement.hpp"

#include <cstring>
#include <utility>

namespace pqpool {

namespace {

bool is_word(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           static_cast<unsigned char>(c) >= 128;
}

// Gives one lower-case word after another, past comments, string literals, quoted identifiers and dollar quotes.
class Words {
  public:
    explicit Words(std::string_view sql) : sql_(sql) {}

    bool next(std::string& word) {
        word.clear();
        while (at_ < sql_.size()) {
            const char c = sql_[at_];
            const char after = at_ + 1 < sql_.size() ? sql_[at_ + 1] : '\0';
            if (c == '-' && after == '-') {
                skip_to("\n");
            } else if (c == '/' && after == '*') {
                skip_comment();
            } else if (c == '\'' || c == '"') {
                skip_quoted(c);
            } else if (c == '$' && !(after >= '0' && after <= '9')) {
                skip_dollar_quoted();
            } else if (is_word(c)) {
                while (at_ < sql_.size() &&
                       (is_word(sql_[at_]) || sql_[at_] == '$')) {  // a dollar within a name begins no quote
                    const char w = sql_[at_++];
                    word.push_back(w >= 'A' && w <= 'Z' ? static_cast<char>(w + 32) : w);
                }
                if (word == "e" && at_ < sql_.size() && sql_[at_] == '\'') escapes_ = true;
                return true;
            } else {
                at_++;
            }
        }
        return false;
    }

  private:
    void skip_to(std::string_view end) {
        const auto found = sql_.find(end, at_);
        at_ = found == std::string_view::npos ? sql_.size() : found + end.size();
    }
    void skip_comment() {  // they nest
        int depth = 0;
        do {
            if (sql_.substr(at_, 2) == "/*")
                depth++, at_ += 2;
            else if (sql_.substr(at_, 2) == "*/")
                depth--, at_ += 2;
            else
                at_++;
        } while (depth > 0 && at_ < sql_.size());
    }
    void skip_quoted(char quote) {  // a doubled quote reads as two literals in a row, which is the same here
        const bool escapes = std::exchange(escapes_, false);
        for (at_++; at_ < sql_.size() && sql_[at_] != quote; at_++)
            if (escapes && sql_[at_] == '\\') at_++;
        at_++;
    }
    void skip_dollar_quoted() {
        auto end = at_ + 1;
        while (end < sql_.size() && is_word(sql_[end])) end++;
        if (end >= sql_.size() || sql_[end] != '$') {
            at_++;
            return;
        }
        const auto tag = sql_.substr(at_, end + 1 - at_);
        at_ = end + 1;
        skip_to(tag);
    }

    std::string_view sql_;
    std::size_t at_ = 0;
    bool escapes_ = false;
};

bool takes_session_lock(std::string_view word) {
    return (word.starts_with("pg_advisory_lock") || word.starts_with("pg_try_advisory_lock"));
}

bool changes_data(std::string_view word) {
    return word == "insert" || word == "update" || word == "delete" || word == "merge" || word == "into";
}

}  // namespace

StatementTraits classify(std::string_view sql) {
    StatementTraits traits;
    Words words(sql);
    std::string first, second, word;
    if (!words.next(first)) return traits;
    const bool has_second = words.next(second);
    const bool reads = first == "select" || first == "values" || first == "table" || first == "with";
    bool changes = false, temporary = false, hold = false, role = false, defaults = false;
    auto look_at = [&](std::string_view w) {
        changes |= changes_data(w);
        temporary |= w == "temp" || w == "temporary" || w == "pg_temp";
        hold |= w == "hold";
        role |= w == "role" || w == "authorization";
        defaults |= w == "characteristics" || w.starts_with("default_transaction");
        if (w == "set_config") traits.dirt |= kDirtSettings | kDirtRole;
        if (takes_session_lock(w)) traits.dirt |= kDirtAdvisory;
    };
    if (has_second) look_at(second);
    while (has_second && words.next(word)) look_at(word);

    traits.ordinary = reads && !changes;
    traits.copy = first == "copy";
    traits.forgets_prepared = first == "deallocate" || first == "discard";
    if (temporary) traits.dirt |= kDirtTemp;
    if (first == "set" && second != "local" && second != "transaction" && second != "constraints")
        traits.dirt |= kDirtSettings | (role ? kDirtRole : 0) | (defaults ? kDirtDefaults : 0);
    if (first == "reset" || first == "discard") traits.dirt |= kDirtSettings;  // what init_sql set is gone too
    if (first == "listen") traits.dirt |= kDirtListen;
    if (first == "declare" && hold) traits.dirt |= kDirtCursor;
    if (first == "prepare" && second != "transaction") traits.dirt |= kDirtPrepared;
    if (first == "do" || first == "call" || first == "load") traits.dirt |= kDirtAll;
    return traits;
}

void Statement::assign(std::string_view sql, const Parameter* parameters, std::size_t count, ResultFormat format) {
    format_ = format;
    types_.resize(count);
    values_.resize(count);
    lengths_.resize(count);
    formats_.resize(count);
    std::size_t size = 0;
    for (std::size_t i = 0; i < count; i++) {
        const Parameter& p = parameters[i];
        types_[i] = p.type;
        formats_[i] = p.binary ? 1 : 0;
        lengths_[i] = !p.value ? 0 : p.binary ? p.length : static_cast<int>(std::strlen(p.value));
        size += static_cast<std::size_t>(lengths_[i]) + 1;
    }
    data_.clear();
    data_.reserve(size);
    for (std::size_t i = 0; i < count; i++) {
        if (!parameters[i].value) {
            values_[i] = nullptr;
            continue;
        }
        values_[i] = data_.data() + data_.size();
        data_.append(parameters[i].value, static_cast<std::size_t>(lengths_[i]));
        data_.push_back('\0');
    }
    key_.assign(sql);
    text_length_ = sql.size();
    key_.push_back('\0');
    key_.append(reinterpret_cast<const char*>(types_.data()), count * sizeof(std::uint32_t));
}

}  // namespace pqpool
