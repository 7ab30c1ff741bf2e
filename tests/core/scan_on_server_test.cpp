// The scanner against the server's own: texts made of everything that quotes, comments and continues. A simple query
// shows how the server reads a text; its pieces, sent one by one, must give the same answers in the same order.
#include <libpq-fe.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/wire/statement.hpp"

using namespace pqpool;

namespace {

// Read before any test runs: those of the options change the environment.
const std::string kDatabaseUrl = [] {
    const char* url = std::getenv("DATABASE_URL");
    return std::string(url ? url : "");
}();

struct Answers {
    std::vector<std::string> results;
    std::string sqlstate;  // of the error that ended them
    bool operator==(const Answers&) const = default;
};

std::ostream& operator<<(std::ostream& out, const Answers& answers) {
    for (const auto& one : answers.results) out << "[" << one << "] ";
    return out << answers.sqlstate;
}

class Session {
  public:
    Session() {
        if (kDatabaseUrl.empty()) throw std::runtime_error("DATABASE_URL is not set; run this under ./dev with-db");
        connection_.reset(PQconnectdb(kDatabaseUrl.c_str()));
        if (PQstatus(connection_.get()) != CONNECTION_OK) throw std::runtime_error(PQerrorMessage(connection_.get()));
        PQsetNoticeProcessor(
            connection_.get(), [](void*, const char*) {}, nullptr);
        simple("SET client_encoding = 'UTF8'; CREATE TEMP TABLE probe (i int)");
    }

    int version() const { return PQserverVersion(connection_.get()); }

    Answers simple(const std::string& sql) {
        Answers answers;
        PQsendQuery(connection_.get(), sql.c_str());
        while (PGresult* result = PQgetResult(connection_.get())) add(answers, result);
        return answers;
    }
    Answers one_by_one(const std::vector<std::string_view>& pieces) {
        Answers answers;
        for (const auto piece : pieces) {
            add(answers,
                PQexecParams(connection_.get(), std::string(piece).c_str(), 0, nullptr, nullptr, nullptr, nullptr, 0));
            if (!answers.sqlstate.empty()) break;
        }
        return answers;
    }
    // Rolls back what an accidental BEGIN left open; whether there was one.
    bool has_begun() {
        if (PQtransactionStatus(connection_.get()) == PQTRANS_IDLE) return false;
        simple("ROLLBACK");
        return true;
    }
    std::string probe() {
        const auto answers = simple("SELECT current_setting('scan.probe', true)");
        if (answers.results.empty()) throw std::runtime_error(PQerrorMessage(connection_.get()));
        return answers.results[0];
    }

  private:
    static void add(Answers& answers, PGresult* result) {
        const std::unique_ptr<PGresult, decltype(&PQclear)> owned(result, PQclear);
        const auto status = PQresultStatus(result);
        if (status == PGRES_EMPTY_QUERY) return;
        if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK) {
            const char* code = PQresultErrorField(result, PG_DIAG_SQLSTATE);
            answers.sqlstate = code ? code : PQresultErrorMessage(result);
            return;
        }
        std::string text = PQcmdStatus(result);
        for (int column = 0; column < PQnfields(result); column++) {
            text += std::string(" | ") + PQfname(result, column) + " = ";
            if (PQntuples(result) > 0) text += PQgetvalue(result, 0, column);
        }
        answers.results.push_back(std::move(text));
    }

    std::unique_ptr<PGconn, decltype(&PQfinish)> connection_{nullptr, PQfinish};
};

// One text for each seed.
class Text {
  public:
    Text(std::uint32_t seed, int server_version, bool backslashes_escape = false)
        : random_(seed),
          version_(server_version),
          backslashes_escape_(backslashes_escape),
          probe_(std::to_string(seed)) {
        const auto statements = below(4);
        for (std::size_t i = 0; i <= statements; i++) {
            sql_ += gap() + statement() + gap();
            if (i < statements || below(2)) sql_ += ";";
        }
        sql_ += gap();
        if ((mutated_ = below(3) == 0)) mutate();
    }
    const std::string& sql() const { return sql_; }
    bool is_mutated() const { return mutated_; }

  private:
    using Choices = std::vector<std::string>;

    std::size_t below(std::size_t n) { return random_() % n; }
    const std::string& any(const Choices& of) { return of[below(of.size())]; }
    std::string some(const Choices& of) {
        std::string all;
        for (auto n = below(6); n > 0; n--) all += any(of);
        return all;
    }

    std::string blank() {
        static const Choices choices{" ",          "\n",      "\r",        "\t",     "\f",      " \r\n ",
                                     "-- it's;\n", "--\";\r", "--$$;/*\n", "/*;*/",  "/*'*/",   "/*/*;*/\"; */",
                                     "/*//**/*/",  "/***/",   "/* -- */",  "--\\\n", "/*$a$*/", "--' \n\t--\r"};
        if (version_ >= 160000 && below(10) == 0) return "\v";
        return any(choices);
    }
    std::string gap() { return below(3) == 0 ? blank() : ""; }
    std::string gaps() { return blank() + gap(); }

    std::string newline() {
        static const Choices choices{"\n", "\r", " \r\n\t", "\n\n", "--'x\n", " -- ;\r--\n  ", "\f\n--\"\r\f"};
        return any(choices);
    }
    std::string quoted(const std::string& prefix, const Choices& insides) {
        std::string all = prefix + "'" + some(insides) + "'";
        for (auto n = below(5); n >= 3; n--) all += newline() + "'" + some(insides) + "'";
        return all;
    }

    std::string literal() {
        static const Choices plain{"a",   "''", "\\", ";", "--", "/*", "*/",    "\"",   "$$",
                                   "$a$", "\n", "\r", " ", "E",  "é",  "\\'')", "\\\\", "set_config(1)"};
        static const Choices escapes{"a",   "''",    "\\\\", "\\'", ";",    "--",    "/*",      "\"", "$$",
                                     "\\n", "\\x41", "\n",   "\\;", "\\\"", "\\101", "\\u0041", "é",  "set_config('"};
        static const Choices unicode{"a", "''", "\\0041", ";", "\\\\", "--", "\\+000041", "é"};
        static const Choices odd{"a", "''", "!0041", ";", "!!", "--", "\\"};
        static const Choices in_dollars{"a",  "'",  ";",  "$",  "$b$", "$1",
                                        "--", "/*", "\\", "\"", "\n",  "set_config($$x"};
        static const Choices tags{"a", "_", "é1", "b_2"};
        if (backslashes_escape_ && below(3) == 0) return "'\\''";  // to others it is not ended yet
        switch (below(9)) {
            case 0:
            case 1:
                return quoted("", plain);
            case 2:
            case 3:
                return quoted(below(2) ? "E" : "e", escapes);
            case 4:
                return quoted(below(2) ? "U&" : "u&", unicode);
            case 5:
                return quoted("U&", odd) + gaps() + "UESCAPE" + gap() + "'!'";
            case 6:
                return quoted(below(2) ? "N" : "n", plain);
            case 7:
                return below(2) ? quoted("B", {"0", "1", "01"}) : quoted("x", {"1", "f"});
            default: {
                const std::string tag = "$" + any(tags) + "$";
                return tag + some(in_dollars) + tag;
            }
        }
    }

    std::string expression() {
        static const Choices numbers{"1", "1.5", "1e5", ".5", "5.", "1.e2", "-1", "12345678901"};
        static const Choices operators{"2*-- ;\n3", "2*/*;*/3", "1 <--';\n2", "- -1",          "@-1",       "1=-1",
                                       "'a'||'b'",  "2-/**/-1", "4%3",        "(1)",           "(((';')))", "1<>/*'*/2",
                                       "1::int",    "2+-+1",    "1!=--\r2",   "$$;$$||$a$'$a$"};
        switch (below(8)) {
            case 0:
                return any(numbers);
            case 1:
                return any(operators);
            case 2:
                return below(2) ? probe_call() : "CASE WHEN true THEN 1 END";
            default:
                return literal();
        }
    }
    std::string probe_call() {
        static const Choices names{"set_config",
                                   "SET_Config",
                                   "\"set_config\"",
                                   "pg_catalog.set_config",
                                   "pg_catalog . \"set_config\"",
                                   "\"pg_catalog\".set_config",
                                   "U&\"set\\005fconfig\"",
                                   "u&\"\\0073et_confi\\+000067\"",
                                   "U&\"set!005fconfig\" UESCAPE '!'",
                                   "U&\"set?005fconfig\"--\nuescape/**/'?'"};
        return any(names) + gap() + "(" + gap() + "'scan.probe'" + gap() + "," + gap() + "'" + probe_ + "',false)";
    }
    std::string name() {
        static const Choices names{"a",      "a$b$",     "é$1$",          "\"a;\"",     "\"a\"\"b;\"\"\"",
                                   "\"--\"", "\"it's\"", "\"/*\"",        "end",        "begin",
                                   "e",      "\"\\\"",   "U&\"\\0061;\"", "U&\"\\\\\"", "u&\"!0061\" UESCAPE '!'",
                                   "\"$$\"", "_x$$"};
        return any(names);
    }

    std::string statement() {
        const auto kind = below(30);
        if (kind == 0) return "";
        if (kind == 1) return "VALUES" + gap() + "(" + expression() + ")";
        if (kind == 2) return "CREATE OR REPLACE RULE r AS ON INSERT TO probe DO ALSO (SELECT 1;" + gap() + "SELECT 2)";
        if (kind == 3 && version_ >= 140000)
            return "CREATE" + gaps() + "OR REPLACE FUNCTION pg_temp.f(begin int DEFAULT 1) RETURNS text BEGIN" +
                   gaps() + "ATOMIC SELECT " + literal() + " end;" + gap() +
                   "SELECT CASE WHEN true THEN 'x' END AS end;" + gap() + "END";
        if (kind == 4) return "CREATE OR REPLACE FUNCTION pg_temp.begin() RETURNS int LANGUAGE sql AS 'SELECT 1;'";
        std::string all = below(2) ? "SELECT" : "select";
        for (std::size_t i = 0, n = below(4); i <= n; i++) {
            all += (i == 0 ? blank() : "," + gap()) + expression();
            if (below(2)) all += gaps() + "AS" + gaps() + name();
            all += gap();
        }
        return all;
    }

    void mutate() {
        static const std::string kInserted = "''\"\"$\\;-/*\n\reEuU&nxa1_ ()";
        for (auto n = below(3); n < 3; n++) {
            const auto place = below(sql_.size() + 1);
            if (below(3) || place == sql_.size())
                sql_.insert(place, 1, kInserted[below(kInserted.size())]);
            else
                sql_.erase(place, 1 + below(2));
        }
    }

    std::mt19937 random_;
    const int version_;
    const bool backslashes_escape_;
    const std::string probe_;
    std::string sql_;
    bool mutated_ = false;
};

std::uint32_t first_seed() {
    const char* seed = std::getenv("PQPOOL_TEST_SEED");
    return seed ? static_cast<std::uint32_t>(std::strtoul(seed, nullptr, 10)) : 1;
}

}  // namespace

TEST_CASE("the_scanner_reads_as_the_server_does", "[scan][server]") {
    constexpr std::uint32_t kTexts = 5000;
    Session session;
    std::uint32_t sound = 0, changed = 0, pieces_sent = 0;
    for (std::uint32_t seed = first_seed(), last = seed + kTexts; seed < last; seed++) {
        const Text text(seed, session.version());
        const auto pieces = split_script(text.sql());
        pieces_sent += static_cast<std::uint32_t>(pieces.size());
        const auto before = session.probe();
        const auto whole = session.simple(text.sql());
        if (session.has_begun()) continue;
        const bool changes = session.probe() != before;
        const auto parts = session.one_by_one(pieces);
        session.has_begun();
        INFO("PQPOOL_TEST_SEED=" << seed << ": " << text.sql());
        INFO("whole " << whole << ", parts " << parts);
        if (whole.sqlstate.empty()) {
            sound++;
            changed += changes;
            REQUIRE(parts == whole);
            const bool suspected = classify(text.sql()).dirt & kDirtSettings;
            if (changes) REQUIRE(suspected);
            // Nor is more suspected than is there, but for what another reading of a backslash would make of it.
            if (suspected && !text.is_mutated() && text.sql().find('\\') == std::string::npos) REQUIRE(changes);
        } else {
            // A text that the server cannot read is refused as a whole; one that fails does so where it fails.
            REQUIRE_FALSE(parts.sqlstate.empty());
            if (!whole.results.empty()) REQUIRE(parts.results == whole.results);
            if (changes) REQUIRE(classify(text.sql()).dirt & kDirtSettings);
        }
    }
    INFO(sound << " sound, " << changed << " changed the probe, " << pieces_sent << " pieces");
    CHECK(sound > kTexts / 2);
    CHECK(changed > kTexts / 10);
    CHECK(pieces_sent > 2 * kTexts);
}

// There a backslash in a plain string escapes. Nothing that changes the session may look harmless, whatever the session
// makes of its text.
TEST_CASE("no_change_is_overlooked_where_strings_do_not_conform_to_the_standard", "[scan][server]") {
    constexpr std::uint32_t kTexts = 2000;
    Session session;
    REQUIRE(session.simple("SET standard_conforming_strings = off; SET backslash_quote = on").sqlstate.empty());
    std::uint32_t changed = 0;
    for (std::uint32_t seed = first_seed(), last = seed + kTexts; seed < last; seed++) {
        const Text text(seed, session.version(), true);
        const auto before = session.probe();
        session.one_by_one(split_script(text.sql()));
        session.has_begun();
        if (session.probe() == before) continue;
        changed++;
        INFO("PQPOOL_TEST_SEED=" << seed << ": " << text.sql());
        REQUIRE(classify(text.sql()).dirt & kDirtSettings);
    }
    CHECK(changed > kTexts / 20);
}
