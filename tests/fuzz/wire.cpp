// A session in conversation with a server that answers properly, but for what befalls its answers on the way: dropped,
// doubled, swapped, of another length, count or tag, ended. Whatever it is: a value belongs to its question, or there
// is none; what was begun is never called not begun; a lost session takes nothing more.
#include <sanitizer/allocator_interface.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/error.hpp"
#include "core/wire/session.hpp"
#include "tests/core/model_server.hpp"
#include "tests/fuzz/check.hpp"

using namespace pqpool;
using namespace pqpool::test;

namespace {

constexpr std::size_t kMostMemory = 8 << 20;  // of a conversation of some kilobytes
constexpr int kTries = 8;

class Choices {
  public:
    Choices(const std::uint8_t* data, std::size_t size) : at_(data), end_(data + size) {}
    bool are_left() const { return at_ != end_; }
    // 0 where none is left: the ordinary case, everywhere.
    unsigned among(unsigned count) { return are_left() ? *at_++ % count : 0; }
    bool seldom() { return among(16) == 15; }

  private:
    const std::uint8_t *at_, *end_;
};

// What was done to the answers of a batch.
struct Damage {
    bool any = false;
    bool drops_row = false, adds_row = false;  // together they can pass another row for the right one
};

class Conversation {
  public:
    explicit Conversation(Choices& choices) : choices_(choices), session_(settings()) {}

    void run() {
        for (const char* name : {"DateStyle", "IntervalStyle", "client_encoding"})
            if (!choices_.seldom()) session_.set_parameter(name, usual(name));
        server_.rounds_floats = choices_.among(4) == 3;
        const int pid = choices_.among(4) == 3 ? -5 : 1;
        session_.begin(pid, choices_.among(4) == 3);
        converse();
        while (choices_.are_left() && !session_.is_lost()) step();
    }

  private:
    static std::string_view usual(std::string_view name) {
        return name == "DateStyle" ? "ISO, MDY" : name == "IntervalStyle" ? "postgres" : "UTF8";
    }

    Session::Settings settings() {
        static constexpr std::int64_t kSizes[] = {100, 0, 1, 2};
        using Reset = Residue::Reset;
        static constexpr Reset kResets[] = {Reset::automatic, Reset::always, Reset::never};
        Session::Settings settings;
        settings.statement_cache_size = kSizes[choices_.among(4)];
        if (choices_.among(4) == 3) settings.init_sql = "SET a = 1; PREPARE b AS SELECT 1";
        settings.reset = kResets[choices_.among(3)];
        return settings;
    }

    void step() {
        switch (choices_.among(12)) {
            case 8:
                session_.begin_reset();
                return converse();
            case 9:
                session_.end_lease();
                return;
            case 10:
                session_.note_foreign_words();
                server_.forget_names();
                return;
            case 11:
                return change_server();
            default:
                return ask();
        }
    }

    void change_server() {
        switch (choices_.among(4)) {
            case 0:
                return server_.forget_names();
            case 1:
                return server_.know("pqpool_check", "SELECT 1");
            case 2:
                server_.column_type = choices_.among(2) ? 23 : 600;
                return;
            case 3:
                session_.set_parameter("DateStyle", choices_.among(2) ? "ISO, MDY" : "German, DMY");
                return;
        }
    }

    // One statement, as often as the verdict asks for it.
    void ask() {
        number_ = std::to_string(1000 + choices_.among(8));
        binary_number_ = int32(std::stoll(number_));
        const bool binary = choices_.among(2);
        Parameter parameter{.type = choices_.among(2) ? 23u : 0u, .binary = binary, .length = 4};
        parameter.value = binary ? binary_number_.data() : number_.c_str();
        const auto kind = choices_.among(8);
        const std::string sql = kind == 0   ? "SELECT " + number_
                                : kind == 1 ? "SELECT $1"
                                : kind == 2 ? "SELECT 7; SELECT " + number_
                                : kind == 3 ? "UPDATE t SET a = " + number_
                                : kind == 4 ? "BEGIN"
                                : kind == 5 ? "ROLLBACK"
                                : kind == 6 ? "SET DateStyle = 'German'"
                                            : "SELECT set_config('a', 'b', false), " + number_;
        gives_number_ = sql.starts_with("SELECT");
        is_script_ = kind == 2;
        static constexpr ResultFormat kFormats[] = {ResultFormat::automatic, ResultFormat::text, ResultFormat::binary};
        Statement statement;
        statement.assign(sql, &parameter, kind == 1, kFormats[choices_.among(3)]);
        begun_as_ = gives_number_ ? number_ : sql;
        using Check = Session::Check;
        static constexpr Check kChecks[] = {Check::pipelined, Check::none, Check::awaited};
        auto check = kChecks[choices_.among(3)];
        hinder(sql);
        bool was_damaged = false;
        for (int tries = 0; tries < kTries && !session_.is_lost(); tries++) {
            const int begun = server_.begun(begun_as_);
            const int begun_of_script = server_.begun("7");
            session_.begin(&statement, check);
            const bool sent = session_.has_sent_statement();
            converse();
            was_damaged |= damage_.any;
            const Verdict verdict = session_.verdict();
            if (!damage_.any && (!sent || verdict == Verdict::again_here || verdict == Verdict::again_elsewhere))
                CHECK(server_.begun(begun_as_) == begun && server_.begun("7") == begun_of_script);
            CHECK(verdict != Verdict::unknown || (sent && session_.is_lost()));
            if (verdict == Verdict::unknown || verdict == Verdict::again_elsewhere) return;
            if (verdict == Verdict::answered && session_.has_result()) return judge(session_.take_result());
            if (verdict == Verdict::answered) check = Check::none;  // now the statement itself
        }
        CHECK(session_.is_lost() || was_damaged || hindered_ || server_.status == 'E');
    }

    // Something that a real server may do, once.
    void hinder(const std::string& sql) {
        const std::string error = test::error(choices_.among(2) ? "22012" : "57014");
        hindered_ = true;
        switch (choices_.among(16)) {
            case 8:
                return server_.answer_next(sql, error);
            case 9:
                return server_.answer_next("bind " + sql, test::error("0A000", "changed", "RevalidateCachedQuery"));
            case 10:
                return server_.answer_next("S", test::error("40001"));
            case 11:
                return server_.end_at("B", fatal("57P01", "ProcessInterrupts"));
            case 12:
                return server_.end_at(sql, fatal("57P01", "ProcessInterrupts"));
            case 13:
                return server_.end_at("S", fatal("57P01", "ProcessInterrupts"));
            case 14:
                return server_.answer_next("parse " + sql, error);
            case 15:
                return server_.end_at("E");
            default:
                hindered_ = false;
        }
    }

    void judge(const Result& result) {
        if (result.error()) return;
        // Of a script nobody can tell how many statements there were to be.
        if (!gives_number_ || (damage_.drops_row && (damage_.adds_row || is_script_))) return;
        CHECK(result.rows() == 1 || damage_.any);
        CHECK(result.rows() <= 1 || damage_.adds_row);
        for (int row = 0; row < result.rows(); row++) {
            CHECK(result.columns() == 1 && !result.is_null(row, 0));
            const std::string_view value(result.value(row, 0), static_cast<std::size_t>(result.length(row, 0)));
            CHECK(value == number_ || value == binary_number_);
            CHECK(damage_.any || (value == binary_number_) == result.is_binary());
            CHECK(value.data()[value.size()] == '\0');
        }
    }

    // Moves bytes both ways until the batch is over.
    void converse() {
        damage_ = {};
        std::string stream;
        std::size_t sent = 0;
        while (!session_.is_done()) {
            const auto unsent = session_.output().unsent();
            if (stream.empty() && unsent.empty()) break;  // nothing more will come
            if (choices_.seldom()) {
                session_.note_unwritten();
                break;
            }
            if (!unsent.empty()) {
                const auto part = choices_.seldom() ? 1 + choices_.among(255) % unsent.size() : unsent.size();
                auto answers = server_.hear(unsent.substr(0, part));
                while (choices_.seldom()) damage(answers);
                for (const auto& one : answers) stream += one;
                session_.output().note_sent(part);
                sent += part;
            }
            const auto room = session_.input().room();
            auto part = std::min(room.size, stream.size());
            if (part > 0 && choices_.seldom()) part = 1 + choices_.among(255) % part;
            std::copy_n(stream.data(), part, room.data);
            stream.erase(0, part);
            session_.input().add(part);
            session_.take();
        }
        CHECK(!damage_.any || __sanitizer_get_current_allocated_bytes() < at_start_ + kMostMemory);
        if (!session_.is_done()) {
            const bool has_sent = sent > 0;
            session_.lose("the end");
            CHECK(has_sent || !session_.has_sent_statement() || session_.verdict() != Verdict::answered);
        } else if (!session_.is_lost()) {
            CHECK(session_.output().unsent().empty());
        }
        session_.end_batch();
        CHECK(!session_.is_busy());
        if (session_.is_lost()) take_nothing_more();
    }

    void take_nothing_more() {
        const Verdict verdict = session_.verdict();
        const bool has_result = session_.has_result();
        const std::string words = session_.loss_message();
        const std::string more = complete("SELECT 1") + ready('T') + fatal("57P01", "ProcessInterrupts");
        const auto room = session_.input().room();
        std::copy(more.begin(), more.end(), room.data);
        session_.input().add(more.size());
        CHECK(session_.take());
        CHECK(session_.verdict() == verdict && session_.has_result() == has_result);
        CHECK(session_.loss_message() == words);
    }

    void damage(std::vector<std::string>& answers) {
        if (answers.empty()) return;
        const std::size_t at = choices_.among(255) % answers.size();
        std::string& one = answers[at];
        const bool is_row = one[0] == 'D';
        const unsigned how = choices_.among(11);
        if (how >= 8) return add_harmless(answers, at);
        damage_.any = true;
        switch (how) {
            case 0:
                damage_.drops_row |= is_row;
                answers.erase(answers.begin() + static_cast<std::ptrdiff_t>(at));
                return;
            case 1:
                damage_.adds_row |= is_row;
                answers.insert(answers.begin() + static_cast<std::ptrdiff_t>(at), std::string(one));
                return;
            case 2: {
                std::string& other = answers[choices_.among(255) % answers.size()];
                if (is_row && other[0] == 'D') damage_.drops_row = damage_.adds_row = true;
                std::swap(one, other);
                return;
            }
            case 3: {
                static constexpr std::string_view kTags = "1234567CDEGHIKNRSTVWZcdnstv?";
                damage_.drops_row |= is_row;
                one[0] = kTags[choices_.among(kTags.size())];
                damage_.adds_row |= one[0] == 'D';
                return;
            }
            case 4:  // of the length or, of a row, of its counts
                one[1 + choices_.among(is_row ? 10 : 4) % (one.size() - 1)] ^=
                    static_cast<char>(1 << choices_.among(8));
                return;
            case 5:  // cut off, as a whole message
                one.resize(5 + choices_.among(255) % (one.size() - 4));
                one.replace(1, 4, int32(static_cast<std::int64_t>(one.size()) - 1));
                return;
            case 6:  // longer than it was
                one += static_cast<char>(choices_.among(255));
                one.replace(1, 4, int32(static_cast<std::int64_t>(one.size()) - 1));
                return;
            case 7:
                if (!is_row && one.size() > 5)
                    one[5 + choices_.among(255) % (one.size() - 5)] ^= static_cast<char>(1 + choices_.among(255));
                return;
        }
    }

    void add_harmless(std::vector<std::string>& answers, std::size_t at) {
        const auto before = answers.begin() + static_cast<std::ptrdiff_t>(at);
        switch (choices_.among(4)) {
            case 0:
                answers.insert(before, fields('N', {{'S', "NOTICE"}, {'M', "so"}}));
                return;
            case 1:
                answers.insert(before, message('A', int32(7) + text("channel") + text("words")));
                return;
            case 2:
                answers.insert(before, parameter("application_name", "a"));
                return;
            case 3:
                answers.insert(before, parameter("client_encoding", choices_.among(2) ? "UTF8" : "LATIN1"));
                return;
        }
    }

    Choices& choices_;
    Session session_;
    ModelServer server_;
    Damage damage_;
    std::string number_, binary_number_, begun_as_;
    bool gives_number_ = false, is_script_ = false, hindered_ = false;
    const std::size_t at_start_ = __sanitizer_get_current_allocated_bytes();
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Choices choices(data, size);
    Conversation(choices).run();
    return 0;
}
