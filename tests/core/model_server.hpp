// A server that knows little: it answers properly, keeps names and the state of its transaction, and counts what it has
// begun. SELECT of a number gives that number, of $1 the parameter; other statements give their own text as their tag.
#pragma once

#include <algorithm>
#include <cctype>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/core/wire_messages.hpp"

namespace pqpool::test {

class ModelServer {
  public:
    // The answers to what has come so far, each a message.
    std::vector<std::string> hear(std::string_view bytes) {
        heard_ += bytes;
        answers_.clear();
        for (const auto& one : take_messages(heard_)) {
            tags_ += one.tag;
            if (!is_over_) take(one);
        }
        return answers_;
    }

    // Of the messages that it has heard since the last call.
    std::string take_tags() { return std::exchange(tags_, {}); }

    // What becomes of a statement before it is executed, or of a message: by its text or its tag, once.
    void answer_next(const std::string& what, const std::string& with) { instead_[what] = with; }
    void end_at(const std::string& what, const std::string& words = {}) {
        answer_next(what, words);
        ends_at_ = what;
    }
    void forget(const std::string& name) { names_.erase(name); }
    void forget_names() { names_.clear(); }
    void know(const std::string& name, const std::string& sql) { names_[name] = {sql, type_of(sql)}; }
    bool knows(const std::string& name) const { return names_.contains(name); }
    std::size_t count_of_names() const { return names_.size(); }
    int begun(const std::string& what) const {
        const auto found = begun_.find(what);
        return found == begun_.end() ? 0 : found->second;
    }
    bool is_over() const { return is_over_; }
    char status = 'I';
    bool rounds_floats = false;
    int pid = 1;
    std::int64_t column_type = 23;

  private:
    struct Named {
        std::string sql;
        std::int64_t column_type;
    };

    void say(const std::string& words) { answers_.push_back(words); }

    void fail(const std::string& words) {
        say(words);
        skips_ = true;
        if (status == 'T') status = 'E';
    }

    bool is_instead(const std::string& what) {
        const auto found = instead_.find(what);
        if (found == instead_.end()) return false;
        const std::string words = found->second;
        instead_.erase(found);
        if (ends_at_ == what) {
            is_over_ = true;
            if (!words.empty()) say(words);
        } else {
            fail(words);
        }
        return true;
    }

    void take(const ClientMessage& heard) {
        if (heard.tag == 'S') {
            is_instead("S");  // what the implicit transaction's end found
            skips_ = false;
            if (!is_over_) say(ready(status));
            return;
        }
        if (skips_ || is_instead(std::string(1, heard.tag))) return;
        Words body(heard.body);
        switch (heard.tag) {
            case 'P': {
                const std::string name = body.text(), sql = body.text();
                if (sql.find(';') != sql.npos) return fail(error("42601", "cannot insert multiple commands"));
                if (!name.empty() && names_.contains(name))
                    return fail(error("42P05", "it exists", "StorePreparedStatement"));
                if (is_instead("parse " + sql)) return;
                names_[name] = {sql, type_of(sql)};
                return say(parse_complete());
            }
            case 'B': {
                body.text();
                const std::string name = body.text();
                if (!names_.contains(name)) return fail(error("26000", "there is none", "FetchPreparedStatement"));
                bound_ = names_[name].sql;
                if (is_instead("bind " + bound_)) return;
                if (gives_row(bound_) && names_[name].column_type != type_of(bound_))
                    return fail(error("0A000", "cached plan must not change result type", "RevalidateCachedQuery"));
                value_.clear();
                for (auto formats = body.number(2); formats > 0; formats--) value_is_binary_ = body.number(2) == 1;
                for (auto values = body.number(2); values > 0; values--)
                    value_ = body.take(static_cast<std::size_t>(body.number(4)));
                binary_ = body.number(2) == 1 && body.number(2) == 1;
                return say(bind_complete());
            }
            case 'D': {
                const bool is_statement = body.take(1) == "S";
                const std::string name = body.text();
                if (is_statement && !names_.contains(name))
                    return fail(error("26000", "there is none", "FetchPreparedStatement"));
                const std::string& sql = is_statement ? names_[name].sql : bound_;
                if (is_instead("describe " + sql)) return;
                if (is_statement) say(parameter_types(std::vector<std::int64_t>(sql.find("$1") != sql.npos, 23)));
                return say(gives_row(sql) ? described(sql, binary_ && !is_statement) : no_data());
            }
            case 'E':
                return execute(bound_, value_, binary_);
            case 'C':
                body.take(1);
                names_.erase(body.text());
                return say(close_complete());
            case 'Q':
                return run_script(body.text());
            default:
                return fail(error("08P01", "what is this"));
        }
    }

    static bool gives_row(std::string_view sql) { return sql.starts_with("SELECT"); }

    static bool is_about_floats(std::string_view sql) { return sql.find("extra_float_digits") != sql.npos; }

    std::int64_t type_of(std::string_view sql) const {
        return sql == "SELECT 1" || sql.find("pg_catalog") != sql.npos ? 23 : column_type;
    }

    std::string described(std::string_view sql, bool binary) const {
        std::vector<ColumnWords> all(is_about_floats(sql) ? 2 : 1, {"n", type_of(sql), binary});
        return columns(all);
    }

    std::string number_in(std::string_view sql) const {
        if (is_about_floats(sql)) return rounds_floats ? "0" : "1";
        if (sql == "SELECT pg_catalog.pg_backend_pid()") return std::to_string(pid);
        std::string digits;
        for (const char c : sql.substr(6)) {
            if (std::isdigit(static_cast<unsigned char>(c)))
                digits += c;
            else if (!digits.empty())
                break;
        }
        return digits.empty() ? "0" : digits;
    }

    void execute(const std::string& sql, std::string_view value, bool binary) {
        const bool from_parameter = sql.find("$1") != sql.npos;
        const std::string number = !gives_row(sql)    ? ""
                                   : !from_parameter  ? number_in(sql)
                                   : value_is_binary_ ? std::to_string(number_of(value))
                                                      : std::string(value);
        begun_[gives_row(sql) ? number : sql]++;
        if (is_instead(sql)) return;
        if (sql == "BEGIN") status = 'T';
        if (sql == "ROLLBACK" || sql == "COMMIT") status = 'I';
        if (sql == "DEALLOCATE ALL" || sql == "DISCARD ALL") forget_names();
        if (sql.starts_with("SET client_encoding")) say(parameter("client_encoding", "UTF8"));
        if (sql.empty()) return say(message('I'));
        if (is_about_floats(sql))
            say(row({number, std::to_string(pid)}));
        else if (gives_row(sql))
            say(row({binary ? int32(std::stoll(number)) : number}));
        say(complete(gives_row(sql) ? "SELECT 1" : sql.substr(0, 60)));
    }

    void run_script(std::string_view script) {
        while (!script.empty() && !skips_ && !is_over_) {
            const auto end = std::min(script.find(';'), script.size());
            std::string one(script.substr(0, end));
            while (one.starts_with(' ')) one.erase(0, 1);
            script.remove_prefix(std::min(end + 1, script.size()));
            if (one.empty()) continue;
            if (gives_row(one)) say(described(one, false));
            execute(one, {}, false);
        }
        if (is_over_) return;
        skips_ = false;
        say(ready(status));
    }

    std::string heard_, tags_;
    std::vector<std::string> answers_;
    std::map<std::string, Named> names_;
    std::map<std::string, std::string> instead_;
    std::map<std::string, int> begun_;
    std::string bound_, ends_at_, value_;
    bool value_is_binary_ = false, binary_ = false, skips_ = false, is_over_ = false;
};

}  // namespace pqpool::test
