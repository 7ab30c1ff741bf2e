// A session and the server that it talks to, with the bytes between them in the test's hands.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/wire/session.hpp"
#include "tests/core/model_server.hpp"

namespace pqpool::test {

using Check = Session::Check;

// As much of the bytes as the session has room for; how many that are.
inline std::size_t give(Session& session, std::string_view bytes) {
    const auto room = session.input().room();
    const auto part = std::min(room.size, bytes.size());
    std::copy_n(bytes.data(), part, room.data);
    session.input().add(part);
    session.take();
    return part;
}

struct Talk {
    using Parameters = std::vector<std::pair<const char*, const char*>>;
    static Parameters usual() {
        return {{"DateStyle", "ISO, MDY"}, {"IntervalStyle", "postgres"}, {"client_encoding", "UTF8"}};
    }

    explicit Talk(const Session::Settings& settings = {}, int pid = 1, bool has_options = false,
                  const Parameters& parameters = usual())
        : session(settings) {
        for (const auto& [name, value] : parameters) session.set_parameter(name, value);
        server.pid = pid > 0 ? pid : 1;
        session.begin(pid, has_options);
        serve();
        tags.clear();
    }

    void begin(std::string_view sql, Check check = Check::none, ResultFormat format = ResultFormat::text,
               std::vector<Parameter> parameters = {}) {
        statement.assign(sql, parameters.data(), parameters.size(), format);
        session.begin(&statement, check);
    }

    // What the server says to all that was to be sent, each a message.
    std::vector<std::string> send() {
        const auto answers = server.hear(session.output().unsent());
        session.output().note_sent(session.output().unsent().size());
        tags += server.take_tags();
        return answers;
    }

    void hear(std::string_view bytes) {
        while (!bytes.empty()) bytes.remove_prefix(give(session, bytes));
    }
    void hear(const std::vector<std::string>& messages) {
        for (const auto& one : messages) hear(one);
    }

    // The end of the bytes, where the batch has not ended by itself.
    Verdict end() {
        if (!session.is_done()) session.lose("the end");
        session.end_batch();
        return session.verdict();
    }

    Verdict serve() {
        hear(send());
        return end();
    }

    Verdict run(std::string_view sql, Check check = Check::none, ResultFormat format = ResultFormat::text) {
        begin(sql, check, format);
        return serve();
    }

    std::string take_tags() { return std::exchange(tags, {}); }
    std::string value() {
        const Result result = session.take_result();
        if (result.error()) return result.error()->sqlstate;
        return result.rows() == 1 ? std::string(result.value(0, 0), static_cast<std::size_t>(result.length(0, 0)))
                                  : result.command_tag();
    }

    ModelServer server;
    Session session;
    Statement statement;
    std::string tags;  // of what was sent
};

}  // namespace pqpool::test
