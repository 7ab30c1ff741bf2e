#include "core/statement.hpp"

#include <cstring>
#include <utility>

namespace pqpool {

namespace {

bool is_word(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           static_cast<unsigned char>(c) >= 128;
}

// Gives one lower-case word after another, past comments, string literals, quoted identifiers and dollar quotes; and
// semicolons and parentheses, where they are asked for.
class Words {
  public:
    explicit Words(std::string_view sql, bool gives_punctuation = false)
        : sql_(sql), gives_punctuation_(gives_punctuation) {}

    std::size_t at() const { return at_; }
    // Whether anything but blanks and comments has been passed since the last call.
    bool has_passed_anything() { return std::exchange(passed_, false); }

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
                passed_ = true;
                skip_quoted(c);
            } else if (c == '$' && !(after >= '0' && after <= '9')) {
                passed_ = true;
                skip_dollar_quoted();
            } else if (gives_punctuation_ && (c == ';' || c == '(' || c == ')')) {
                word.push_back(c);
                at_++;
                return true;
            } else if (is_word(c)) {
                passed_ = true;
                while (at_ < sql_.size() &&
                       (is_word(sql_[at_]) || sql_[at_] == '$')) {  // a dollar within a name begins no quote
                    const char w = sql_[at_++];
                    word.push_back(w >= 'A' && w <= 'Z' ? static_cast<char>(w + 32) : w);
                }
                if (word == "e" && at_ < sql_.size() && sql_[at_] == '\'') escapes_ = true;
                return true;
            } else {
                passed_ |= c != ' ' && c != '\n' && c != '\t' && c != '\r' && c != '\f' && c != '\v';
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
    const bool gives_punctuation_;
    std::size_t at_ = 0;
    bool escapes_ = false, passed_ = false;
};

// Where in one statement of a script a semicolon does not end it.
class Nesting {
  public:
    void add(std::string_view token) {
        if (token == "(") {
            parentheses_++;
        } else if (token == ")") {
            parentheses_ -= parentheses_ > 0 ? 1 : 0;
        } else if (token != ";") {
            add_word(token);
        }
    }
    bool is_closed() const { return parentheses_ == 0 && blocks_ == 0; }

  private:
    void add_word(std::string_view word) {
        words_++;
        if (words_ == 1) creates_ = word == "create";
        // CREATE FUNCTION, CREATE OR REPLACE FUNCTION: the body may be BEGIN ATOMIC … END.
        if (creates_ && (words_ == 2 || words_ == 4)) routine_ |= word == "function" || word == "procedure";
        if (!routine_ || parentheses_ > 0) return;
        if (word == "begin" || (word == "case" && blocks_ > 0)) blocks_++;
        if (word == "end" && blocks_ > 0) blocks_--;
    }

    int parentheses_ = 0, blocks_ = 0, words_ = 0;
    bool creates_ = false, routine_ = false;
};

bool takes_session_lock(std::string_view word) {
    return (word.starts_with("pg_advisory_lock") || word.starts_with("pg_try_advisory_lock"));
}

bool changes_data(std::string_view word) {
    return word == "insert" || word == "update" || word == "delete" || word == "merge" || word == "into";
}

}  // namespace

std::vector<std::string_view> split_script(std::string_view sql) {
    std::vector<std::string_view> statements;
    Words tokens(sql, true);
    Nesting nesting;
    std::size_t start = 0;
    bool holds_something = false;
    auto end_at = [&](std::size_t end) {
        holds_something |= tokens.has_passed_anything();
        if (holds_something) statements.push_back(sql.substr(start, end - start));
        start = end + 1;
        holds_something = false;
        nesting = {};
    };
    for (std::string token; tokens.next(token);) {
        if (token == ";" && nesting.is_closed()) {
            end_at(tokens.at() - 1);
        } else {
            holds_something = true;
            nesting.add(token);
        }
    }
    end_at(sql.size());
    return statements;
}

static StatementTraits classify_script(const std::vector<std::string_view>& statements) {
    StatementTraits all;
    for (const auto statement : statements) {
        const StatementTraits one = classify(statement);
        all.copy |= one.copy;
        all.forgets_prepared |= one.forgets_prepared;
        all.dirt |= one.dirt;
    }
    all.script = true;
    return all;
}

StatementTraits classify(std::string_view sql) {
    if (sql.find(';') != std::string_view::npos)
        if (const auto statements = split_script(sql); statements.size() > 1) return classify_script(statements);
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
