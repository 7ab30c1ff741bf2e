#include "core/run/last_failure.hpp"

namespace pqpool {

namespace {

constexpr std::string_view kSuggestion = ". Suggestion: ";

// A failure whose cause its message does not tell to everyone ends with a suggestion of its own.
std::string cure_of(const Error& error) {
    const std::string_view sqlstate = error.sqlstate;
    if (const auto own = error.message.find(kSuggestion); own != std::string::npos)
        return error.message.substr(own + kSuggestion.size());
    if (sqlstate.starts_with("28"))
        return "check the role and the password of database_url, and pg_hba.conf on the server";
    if (sqlstate == "3D000") return "create the database, or correct its name in database_url";
    if (sqlstate == "53300") return "raise max_connections on the server or lower max_size";
    if (sqlstate == "57P03") return "wait until the server has started";
    if (!sqlstate.empty()) return "see the server's message and its log";
    return "check that PostgreSQL is running and accepts connections at that host and port";
}

}  // namespace

void LastFailure::note_opening(const Error& error, bool is_initializing) noexcept {
    best_effort([&] {
        message_ = plan_.masked(error.message.substr(0, error.message.find(kSuggestion)));
        cure_ = cure_of(error);
        if (is_initializing) note_initialization(error.sqlstate);
    });
}

void LastFailure::note_loss(std::string_view words, bool is_initializing) noexcept {
    best_effort([&] {
        message_ = words;
        cure_ = "find out from the server's log why it ends sessions";
        if (is_initializing) note_initialization({});
    });
}

void LastFailure::note_check(std::string_view words) noexcept {
    best_effort([&] { message_ = words; });
}

void LastFailure::note_no_memory() noexcept {
    best_effort([&] { message_ = "out of memory"; });
}

void LastFailure::note_initialization(std::string_view sqlstate) {
    of_initialization_.emplace(
        ErrorKind::initialization,
        "could not open the pool's connections to " + plan_.describe() + ": " + message_ + ". Suggestion: " + cure_,
        sqlstate);
}

}  // namespace pqpool
