// What is sent over a connection: batches in pipeline mode. What their answers mean: connection_answers.cpp.
//
// A batch is [evict Sync] [reset… Sync] [check] [Sync] [prepare] statement Sync; or, where something has to be answered
// before the statement may follow, [evict Sync] [reset… Sync] [check] [prepare describe] Sync, of which nothing is
// executed for the caller. One batch is under way at a time; parts_ lists what is still to be answered.
#include <libpq-fe.h>

#include "core/wire/connection.hpp"

namespace pqpool {

namespace {

constexpr const char* kCheckName = "pqpool_check";
constexpr const char* kCheckSql = "SELECT 1";
// The server, the database or the role may have floats rounded in text; libpq is not told of this setting.
constexpr const char* kFloatsSql =
    "SELECT (pg_catalog.current_setting('extra_float_digits')::pg_catalog.int4 OPERATOR(pg_catalog.>) "
    "0)::pg_catalog.int4";
constexpr std::uint8_t kMostChecksMissed = 2;
// No operating system counts processes further; a pooler's key data is random.
constexpr int kHighestPid = 1 << 22;

struct ResetStep {
    std::uint16_t dirt;
    const char* sql;
};
constexpr ResetStep kResetSteps[] = {
    {kDirtRole, "SET SESSION AUTHORIZATION DEFAULT"},  // ends SET ROLE too
    {kDirtCursor, "CLOSE ALL"},
    {kDirtListen, "UNLISTEN *"},
    {kDirtAdvisory, "SELECT pg_catalog.pg_advisory_unlock_all()"},
    {kDirtSlots,
     "SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots "
     "WHERE temporary AND active_pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()"},
    {kDirtOrigin,
     "SELECT pg_catalog.pg_replication_origin_session_reset() "
     "WHERE pg_catalog.pg_replication_origin_session_is_setup()"},
    {kDirtTemp, "DISCARD TEMP"},
    {kDirtPrepared, "DEALLOCATE ALL"},
    {kDirtSequences, "DISCARD SEQUENCES"},
    {kDirtSettings, "RESET ALL"},
    // Nothing takes a seed back: another one, of the moment, takes its place.
    {kDirtSeed,
     "SELECT pg_catalog.setseed(pg_catalog.hashtext(pg_catalog.md5(pg_catalog.concat(pg_catalog.clock_timestamp(), "
     "pg_catalog.pg_backend_pid(), pg_catalog.random())))::pg_catalog.float8 OPERATOR(pg_catalog./) 2147483648)"},
};

}  // namespace

void Connection::begin_session() {
    PQsetErrorVerbosity(pg_, PQERRORS_DEFAULT);
    if (PQsetnonblocking(pg_, 1) != 0 || PQenterPipelineMode(pg_) != 1)
        throw Error(ErrorKind::internal, "libpq refused pipeline mode");
    own_descriptor();
    cancel_handle_ = {PQgetCancel(pg_), PQfreeCancel};
    backend_pid_ = PQbackendPID(pg_);
    encoding_ = PQclientEncoding(pg_);
    lease_dirt_ = settings_.reset_always ? kDirtAll : kDirtNone;
    settings_changed_ = settings_at_start_changed_ =
        (PQoptions(pg_) && *PQoptions(pg_)) || (classify(settings_.init_sql).dirt & kDirtSettings) != 0;
    start_batch();
    send_each(settings_.init_sql, Part::reset);
    checks_ = true;
    send_simple(kCheckSql, Part::check);  // without a name, which a pooler's server may have already
    auto unknown = FloatText::unknown;
    asks_for_floats_ = settings_.float_text->compare_exchange_strong(unknown, FloatText::asked);
    if (asks_for_floats_) send_simple(kFloatsSql, Part::floats);
    if (backend_pid_ < 0 || backend_pid_ > kHighestPid) send_simple("SELECT pg_backend_pid()", Part::pid);
    send_sync();
    flush();
}

void Connection::start_batch() {
    parts_.clear();
    part_ = 0;
    has_part_result_ = false;
    known_ = nullptr;
    traits_ = {};
    has_statement_ = automatic_ = prepares_ = checks_ = own_sync_ = by_name_ = binary_ = has_answer_ = is_answered_ =
        has_failed_ = check_failed_ = statement_answered_ = statement_aborted_ = again_ = not_begun_ = false;
    reset_under_way_ = kDirtNone;
    cancels_.clear();
    result_ = Result();
}

// ---- sending ----

void Connection::send_simple(const char* sql, Part part) {
    if (lost_) return;
    if (PQsendQueryParams(pg_, sql, 0, nullptr, nullptr, nullptr, nullptr, 0) != 1) return lose();
    parts_.push_back(part);
}

void Connection::send_each(std::string_view script, Part part) {
    for (const auto one : split_script(script)) send_simple(std::string(one).c_str(), part);
}

void Connection::send_check() {
    if (lost_) return;
    checks_ = true;
    const bool uncertain = names_are_unsure_ && transaction_status_ != TransactionStatus::idle;
    if (!named_.keeps_any() || check_missed_ >= kMostChecksMissed || uncertain)
        return send_simple(kCheckSql, Part::check);
    if (!check_on_server_) {
        if (PQsendPrepare(pg_, kCheckName, kCheckSql, 0, nullptr) != 1) return lose();
        parts_.push_back(Part::prepare_check);
    }
    if (PQsendQueryPrepared(pg_, kCheckName, 0, nullptr, nullptr, nullptr, 1) != 1) return lose();
    parts_.push_back(Part::check);
}

void Connection::send_sync() {
    if (lost_) return;
#ifdef LIBPQ_HAS_SEND_PIPELINE_SYNC
    const int sent = PQsendPipelineSync(pg_);
#else
    const int sent = PQpipelineSync(pg_);
#endif
    if (sent != 1) return lose();
    parts_.push_back(Part::sync);
}

void Connection::flush() {
    if (lost_) return;
    const int left = PQflush(pg_);
    if (left < 0) return lose();
    write_pending_ = left > 0;
}

// Where something goes that init_sql made, all that it made goes, so that it can run as it did at first.
void Connection::send_reset(std::uint16_t dirt) {
    const std::uint16_t made = classify(settings_.init_sql).dirt;
    const bool starts_anew = dirt & (made | kDirtSettings);
    if (starts_anew) dirt |= made;
    reset_under_way_ = dirt;
    for (const auto& step : kResetSteps)
        if (dirt & step.dirt) send_simple(step.sql, Part::reset);
    if (dirt & kDirtPrepared) forget_names();
    if (starts_anew) send_each(settings_.init_sql, Part::reset);
}

// Under a Sync of their own: a name that is not there, because a pooler lends another server now, harms nothing else.
void Connection::send_evictions() {
    const bool may = transaction_status_ == TransactionStatus::idle ||
                     (transaction_status_ == TransactionStatus::open && !names_are_unsure_);
    if (!may) return;
    const auto names = named_.take_discarded();
    for (const auto& name : names) send_simple(("DEALLOCATE " + name).c_str(), Part::evict);
    if (!names.empty()) send_sync();
}

bool Connection::uses_name() const {
    return known_ && !known_->unnamed && !(names_are_unsure_ && transaction_status_ != TransactionStatus::idle);
}

// A result's form is chosen for all of its columns at once, before their types are seen. As text a value loses nothing
// while the session has its usual settings; where it may not, the statement is described first, so that the value is
// the same on its first use and on its hundredth.
bool Connection::must_describe(const Statement& statement) const {
    return known_ && statement.format() == ResultFormat::automatic && !known_->described && has_unusual_settings();
}

bool Connection::has_unusual_settings() const {
    const auto is = [this](const char* parameter, std::string_view beginning) {
        const char* value = PQparameterStatus(pg_, parameter);
        return !value || std::string_view(value).starts_with(beginning);
    };
    const auto floats = settings_.float_text->load(std::memory_order_relaxed);
    return settings_changed_ || floats == FloatText::asked || floats == FloatText::rounded || !is("DateStyle", "ISO") ||
           !is("IntervalStyle", "postgres");
}

void Connection::look_at(const Statement& statement) {
    known_ = named_.look_up(statement);
    traits_ = known_ ? known_->traits : classify(statement.text());
    if (traits_.copy)
        throw Error(ErrorKind::unsupported,
                    "COPY cannot run in a pipeline. Suggestion: take the raw connection of the lease and use "
                    "libpq's COPY functions on it");
    if (statement.count() > traits_.parameters)  // the server would take one with a type, and not look at it
        throw Error(ErrorKind::invalid_argument,
                    "the server expects " + std::to_string(traits_.parameters) +
                        (traits_.parameters == 1 ? " argument" : " arguments") + " for this query, " +
                        std::to_string(statement.count()) + (statement.count() == 1 ? " was" : " were") +
                        " passed. Suggestion: write $1, $2, ... in the query, and pass as many arguments");
}

void Connection::begin(const Statement* statement, Check check) {
    start_batch();
    if (statement) look_at(*statement);
    send_evictions();
    const bool foreign_encoding = PQclientEncoding(pg_) != encoding_ &&
                                  transaction_status_ != TransactionStatus::failed;  // there no SET is taken
    const bool undoes = inherited_dirt_ != kDirtNone || foreign_encoding;
    if (inherited_dirt_ != kDirtNone) send_reset(inherited_dirt_);
    if (foreign_encoding) send_simple("SET client_encoding = 'UTF8'", Part::reset);
    if (undoes) send_sync();
    if (check != Check::none) send_check();
    const bool describes = statement && must_describe(*statement);
    prepares_ = statement && (undoes || describes || check == Check::awaited);
    if (describes) {
        send_description(*statement);
    } else if (statement && !prepares_) {
        own_sync_ = !traits_.ordinary;
        if (own_sync_ && check != Check::none) send_sync();
        send_statement(*statement);
    }
    if (parts_.empty() || parts_.back() != Part::sync) send_sync();
    flush();
}

void Connection::begin_reset() {
    start_batch();
    if (transaction_status_ != TransactionStatus::idle) send_simple("ROLLBACK", Part::reset);
    std::uint16_t dirt = inherited_dirt_ | lease_dirt_;
    if (settings_.reset_never) dirt = kDirtNone;
    // Session locks and LISTEN can hide in an abandoned statement that was never classified as finished, so both dirts
    // are undone together.
    inherited_dirt_ = dirt;
    lease_dirt_ = kDirtNone;
    send_reset(dirt);
    send_check();
    send_sync();
    flush();
}

void Connection::send_description(const Statement& s) {
    if (lost_) return;
    const bool named = uses_name();
    const char* name = named ? known_->name.c_str() : "";
    if (!named || !known_->on_server) {
        if (PQsendPrepare(pg_, name, s.sql(), s.count(), s.types()) != 1) return lose();
        parts_.push_back(Part::prepare);
    }
    if (PQsendDescribePrepared(pg_, name) != 1) return lose();
    parts_.push_back(Part::describe);
}

// Several statements under one Sync are one implicit transaction, as they are in a simple query; the last one's result
// counts. A single one has a name from its second use on, or since it was described; once its columns were seen by that
// name, they cannot change without an error.
void Connection::send_statement(const Statement& s) {
    has_statement_ = true;
    automatic_ = s.format() == ResultFormat::automatic;
    queries_++;
    // Not only where it succeeds: a session's lock outlives the error of the statement that took it.
    lease_dirt_ |= traits_.dirt;
    settings_changed_ |= traits_.changes_settings;
    if (lost_) return;
    const bool script = traits_.script && s.count() == 0 && s.format() == ResultFormat::text;
    if (script) {
        send_each(s.text(), Part::script);
        if (!lost_) parts_.back() = Part::statement;
        return;
    }
    binary_ = s.format() == ResultFormat::binary || (automatic_ && known_ && known_->described && known_->binary);
    by_name_ = uses_name() && (known_->on_server || known_->uses > 0);
    if (known_) known_->uses++;
    int sent;
    if (!by_name_) {
        sent = PQsendQueryParams(pg_, s.sql(), s.count(), s.types(), s.values(), s.lengths(), s.formats(), binary_);
    } else {
        if (!known_->on_server) {
            if (PQsendPrepare(pg_, known_->name.c_str(), s.sql(), s.count(), s.types()) != 1) return lose_unsent();
            parts_.push_back(Part::prepare);
        }
        sent = PQsendQueryPrepared(pg_, known_->name.c_str(), s.count(), s.values(), s.lengths(), s.formats(), binary_);
    }
    if (sent != 1) return lose_unsent();
    parts_.push_back(Part::statement);
}

// A statement that libpq has not taken whole, for want of memory: the server has not all of it, and will get no more.
void Connection::lose_unsent() {
    if (PQstatus(pg_) == CONNECTION_BAD) return lose();
    std::string words = PQerrorMessage(pg_);
    while (!words.empty() && (words.back() == '\n' || words.back() == ' ')) words.pop_back();
    break_off();
    throw Error(ErrorKind::internal, "the statement could not be sent: " + words +
                                         "; it was not executed. Suggestion: free memory, or send smaller values");
}

}  // namespace pqpool
