// Conversations that were recorded with real servers: what the session says is the same to the byte, and what it makes
// of the answers too, however they are cut; where they end too early, no answer is made of them.
//
// With PQPOOL_RECORD=FILE and DATABASE_URL the conversations are held anew and written into the file.
#include <libpq-fe.h>
#include <sys/socket.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <sstream>

#include "core/base/error.hpp"
#include "tests/core/session_talk.hpp"
#include "tests/core/session_workloads.hpp"

using namespace pqpool;
using namespace pqpool::test;

namespace {

constexpr int kTries = 8;
constexpr const char* kParameters[] = {"DateStyle", "IntervalStyle", "client_encoding", "in_hot_standby",
                                       "default_transaction_read_only"};

struct Batch {
    std::string sent, received, became;
};

struct Recording {
    std::string name;
    int pid = 0;
    std::vector<std::pair<std::string, std::string>> parameters;
    std::vector<Batch> batches;
};

// ---- as text ----

std::string escaped(std::string_view bytes) {
    std::string text;
    char code[8];
    for (const char c : bytes) {
        std::snprintf(code, sizeof code, "\\%02x", static_cast<unsigned char>(c));
        text += c >= ' ' && c < 127 && c != '\\' ? std::string(1, c) : code;
    }
    return text;
}

std::string unescaped(std::string_view text) {
    std::string bytes;
    for (std::size_t i = 0; i < text.size(); i++) {
        if (text[i] == '\\') {
            bytes += static_cast<char>(std::stoi(std::string(text.substr(i + 1, 2)), nullptr, 16));
            i += 2;
        } else {
            bytes += text[i];
        }
    }
    return bytes;
}

std::string as_text(const std::vector<Recording>& all) {
    std::string text;
    for (const auto& one : all) {
        text += "# " + one.name + "\npid " + std::to_string(one.pid) + '\n';
        for (const auto& [name, value] : one.parameters) text += "set " + name + ' ' + value + '\n';
        for (const auto& batch : one.batches)
            text += "> " + escaped(batch.sent) + "\n< " + escaped(batch.received) + "\n= " + batch.became + '\n';
    }
    return text;
}

std::vector<Recording> recordings(const std::string& file) {
    std::vector<Recording> all;
    std::ifstream lines(std::string(PQPOOL_RECORDINGS) + '/' + file);
    for (std::string line; std::getline(lines, line);) {
        const auto blank = line.find(' ');
        const std::string key = line.substr(0, blank), rest = blank == line.npos ? "" : line.substr(blank + 1);
        if (key == "#") all.push_back({rest, 0, {}, {}});
        Recording& now = all.back();
        if (key == "pid") now.pid = std::stoi(rest);
        if (key == "set") now.parameters.emplace_back(rest.substr(0, rest.find(' ')), rest.substr(rest.find(' ') + 1));
        if (key == ">") now.batches.push_back({unescaped(rest), {}, {}});
        if (key == "<") now.batches.back().received = unescaped(rest);
        if (key == "=") now.batches.back().became = rest;
    }
    return all;
}

// ---- a workload in conversation ----

std::string what_became(Session& session) {
    static constexpr const char* kNames[] = {"answered", "again_here", "again_elsewhere", "unknown"};
    std::string words = kNames[static_cast<int>(session.verdict())];
    if (session.is_lost()) words += " lost";
    if (session.verdict() != Verdict::answered || !session.has_result()) return words;
    const Result result = session.take_result();
    if (result.error()) return words + " error " + result.error()->sqlstate;
    for (int row = 0; row < result.rows(); row++) {
        words += " (";
        for (int column = 0; column < result.columns(); column++) {
            words += column > 0 ? "|" : "";
            words += result.is_null(row, column)
                         ? "NULL"
                         : escaped({result.value(row, column), static_cast<std::size_t>(result.length(row, column))});
        }
        words += ')';
    }
    return words + ' ' + result.command_tag();
}

enum class After { goes_on, has_result, ends };

// Moves the bytes of a batch.
using Carrier = std::function<After(Session&)>;

void feed(Session& session, std::string_view bytes) {
    while (!bytes.empty() && !session.is_done()) bytes.remove_prefix(give(session, bytes));
}

void hold(const Workload& workload, int pid, const std::vector<std::pair<std::string, std::string>>& parameters,
          const Carrier& carry, const std::function<void()>& kill_server) {
    Session::Settings settings;
    settings.init_sql = workload.init_sql;
    settings.statement_cache_size = workload.statement_cache_size;
    Session session(settings);
    for (const auto& [name, value] : parameters) session.set_parameter(name, value);
    session.begin(pid, false);
    if (carry(session) == After::ends) return;
    for (const Step& step : workload.steps) {
        if (step.kind == Step::Kind::end_lease) session.end_lease();
        if (step.kind == Step::Kind::kill_server) kill_server();
        if (step.kind == Step::Kind::reset) {
            session.begin_reset();
            if (carry(session) == After::ends) return;
        }
        if (step.kind != Step::Kind::ask) continue;
        Statement statement;
        statement.assign(step.sql, step.parameters.data(), step.parameters.size(), step.format);
        auto check = step.check;
        for (int tries = 0; tries < kTries; tries++) {
            session.begin(&statement, check);
            const After after = carry(session);
            if (after == After::ends || session.is_lost()) return;
            if (session.verdict() != Verdict::answered) continue;
            if (after == After::has_result) break;
            check = Session::Check::none;  // now the statement itself
        }
    }
}

void end(Session& session) {
    if (!session.is_done()) session.lose("the end");
    session.end_batch();
}

// ---- recorded ----

// What comes in two pieces, the second of which may be missing.
struct Cut {
    std::size_t batch = 0, place = 0;
    bool ends = false;
};

void replay(const Workload& workload, const Recording& recording, std::size_t piece, const Cut* cut) {
    std::size_t number = 0;
    hold(
        workload, recording.pid, recording.parameters,
        [&](Session& session) {
            REQUIRE(number < recording.batches.size());
            const Batch& batch = recording.batches[number];
            if (session.output().unsent() != batch.sent) FAIL_CHECK("batch " << number << " sends something else");
            session.output().note_sent(batch.sent.size());
            const bool is_cut = cut && cut->batch == number;
            const bool sent_statement = session.has_sent_statement();
            std::string_view bytes = batch.received;
            if (is_cut) {
                feed(session, bytes.substr(0, cut->place));
                bytes.remove_prefix(cut->place);
            }
            const bool is_done = session.is_done();
            if (!(is_cut && cut->ends))
                while (!bytes.empty() && !session.is_done()) {
                    feed(session, bytes.substr(0, piece));
                    bytes.remove_prefix(std::min(piece, bytes.size()));
                }
            end(session);
            const After after = is_cut ? After::ends : session.has_result() ? After::has_result : After::goes_on;
            const std::string became = what_became(session);
            if (is_cut && cut->ends && !is_done) {
                if (became != (sent_statement ? "unknown lost" : "again_elsewhere lost"))
                    FAIL_CHECK("batch " << number << " that ends at " << cut->place << " became " << became);
            } else if (became != batch.became) {
                FAIL_CHECK("batch " << number << " became " << became << ", not " << batch.became);
            }
            number++;
            return after;
        },
        [] {});
    if (!cut) CHECK(number == recording.batches.size());
}

void replay_all(const std::string& file) {
    const auto all = recordings(file);
    const auto asked = workloads();
    REQUIRE(all.size() == asked.size());
    for (std::size_t i = 0; i < all.size(); i++) {
        INFO(file << ": " << all[i].name);
        CHECK(all[i].name == asked[i].name);
        replay(asked[i], all[i], std::string::npos, nullptr);
        replay(asked[i], all[i], 1, nullptr);
        for (std::size_t batch = 0; batch < all[i].batches.size(); batch++)
            for (std::size_t place = 0; place <= all[i].batches[batch].received.size(); place++)
                for (const bool ends : {false, true}) {
                    const Cut cut{batch, place, ends};
                    replay(asked[i], all[i], std::string::npos, &cut);
                }
    }
}

// ---- live ----

struct Server {
    PGconn* pg = PQconnectdb(std::getenv("DATABASE_URL"));
    Server() { REQUIRE(PQstatus(pg) == CONNECTION_OK); }
    ~Server() { PQfinish(pg); }
    Server(const Server&) = delete;
    std::string ask(const std::string& sql) const {
        PGresult* result = PQexec(pg, sql.c_str());
        const std::string value = PQntuples(result) ? PQgetvalue(result, 0, 0) : "";
        PQclear(result);
        return value;
    }
};

Recording record(const Workload& workload) {
    Recording recording{workload.name, 0, {}, {}};
    const Server administrator;
    PGconn* pg = PQconnectdb(std::getenv("DATABASE_URL"));
    REQUIRE(PQstatus(pg) == CONNECTION_OK);
    const int socket = dup(PQsocket(pg));
    recording.pid = PQbackendPID(pg);
    for (const char* name : kParameters)
        if (const char* value = PQparameterStatus(pg, name)) recording.parameters.emplace_back(name, value);
    PQsetnonblocking(pg, 0);
    hold(
        workload, recording.pid, recording.parameters,
        [&](Session& session) {
            Batch batch{std::string(session.output().unsent()), {}, {}};
            std::string_view unsent = batch.sent;
            while (!unsent.empty()) {
                const auto sent = send(socket, unsent.data(), unsent.size(), MSG_NOSIGNAL);
                if (sent < 0 && errno == EAGAIN) continue;
                if (sent < 0) break;
                unsent.remove_prefix(static_cast<std::size_t>(sent));
            }
            session.output().note_sent(batch.sent.size());
            char bytes[1 << 16];
            while (!session.is_done()) {
                const auto got = recv(socket, bytes, sizeof bytes, 0);
                if (got < 0 && errno == EAGAIN) continue;
                if (got <= 0) break;
                batch.received.append(bytes, static_cast<std::size_t>(got));
                feed(session, {bytes, static_cast<std::size_t>(got)});
            }
            end(session);
            const After after = session.has_result() ? After::has_result : After::goes_on;
            batch.became = what_became(session);
            recording.batches.push_back(batch);
            return after;
        },
        [&] {
            const std::string pid = std::to_string(recording.pid);
            administrator.ask("SELECT pg_terminate_backend(" + pid + ")");
            while (administrator.ask("SELECT count(*) FROM pg_stat_activity WHERE pid = " + pid) != "0") continue;
        });
    shutdown(socket, SHUT_RDWR);
    close(socket);
    PQfinish(pg);
    return recording;
}

}  // namespace

TEST_CASE("recorded_conversations_with_postgresql_15", "[replay]") { replay_all("postgresql-15.txt"); }
TEST_CASE("recorded_conversations_with_postgresql_18", "[replay]") { replay_all("postgresql-18.txt"); }

TEST_CASE("conversations_are_recorded", "[.record]") {
    std::vector<Recording> all;
    for (const auto& workload : workloads()) all.push_back(record(workload));
    const char* file = std::getenv("PQPOOL_RECORD");
    REQUIRE(file);
    std::ofstream(file) << as_text(all);
}
