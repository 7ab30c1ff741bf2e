// What passes over a connection: batches in pipeline mode, and what their answers mean.
//
// A batch is [reset…] [check] [prepare] statement, each with its Sync as the rules want, sent in one packet where libpq
// allows. One batch is under way at a time. Results come in order; parts_ lists what is still to be answered.
#include <libpq-fe.h>
#include <sys/ioctl.h>

#include <cstring>

#include "core/connection.hpp"
#include "core/poller.hpp"

namespace pqpool {

namespace {

constexpr const char* kCheckName = "pqpool_check";
constexpr const char* kCheckSql = "SELECT 1";

std::string name_of_prepared(std::uint32_t number) { return "pqpool_" + std::to_string(number); }

struct ResetStep {
    std::uint16_t dirt;
    const char* sql;
};
constexpr ResetStep kResetSteps[] = {
    {kDirtRole, "SET SESSION AUTHORIZATION DEFAULT"},  // ends SET ROLE too
    {kDirtCursor, "CLOSE ALL"},
    {kDirtListen, "UNLISTEN *"},
    {kDirtAdvisory, "SELECT pg_advisory_unlock_all()"},
    {kDirtTemp, "DISCARD TEMP"},
    {kDirtPrepared, "DEALLOCATE ALL"},
    {kDirtSettings, "RESET ALL"},
};

}  // namespace

void Connection::begin_session() {
    PQsetErrorVerbosity(pg_, PQERRORS_DEFAULT);
    if (PQsetnonblocking(pg_, 1) != 0 || PQenterPipelineMode(pg_) != 1)
        throw Error(ErrorKind::internal, "libpq refused pipeline mode");
    own_descriptor();
    cancel_handle_ = {PQgetCancel(pg_), PQfreeCancel};
    backend_pid_ = PQbackendPID(pg_);
    lease_dirt_ = settings_.reset_always ? kDirtAll : kDirtNone;
    start_batch();
    send_each(settings_.init_sql, Part::reset);
    send_check();
    send_sync();
    flush();
}

void Connection::start_batch() {
    parts_.clear();
    part_ = 0;
    has_part_result_ = false;
    statement_ = nullptr;
    traits_ = {};
    was_in_transaction_ = in_transaction();
    checks_ = own_sync_ = check_answered_ = check_failed_ = reset_failed_ = statement_answered_ = statement_aborted_ =
        false;
    known_ = nullptr;
    by_name_ = stale_plan_ = fatal_ = farewell_ = received_ = ended_in_order_ = false;
    reset_under_way_ = kDirtNone;
    cancels_.clear();
    result_ = Result();
}

void Connection::send_simple(const char* sql, Part part) {
    if (PQsendQueryParams(pg_, sql, 0, nullptr, nullptr, nullptr, nullptr, 0) != 1) return lose();
    parts_.push_back(part);
}

void Connection::send_each(std::string_view script, Part part) {
    for (const auto one : split_script(script))
        if (!lost_) send_simple(std::string(one).c_str(), part);
}

void Connection::send_check() {
    checks_ = true;
    if (settings_.statement_cache_size == 0)
        return send_simple(kCheckSql, Part::check);  // a pooler in between may not keep prepared statements
    if (!check_prepared_) {
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

void Connection::send_reset(std::uint16_t dirt) {
    reset_under_way_ = dirt;
    for (const auto& step : kResetSteps)
        if (dirt & step.dirt) send_simple(step.sql, Part::reset);
    if (dirt & kDirtPrepared) forget_all_prepared();
    if (dirt & kDirtSettings) send_each(settings_.init_sql, Part::reset);
}

// A name that could not be deallocated is only lost memory on the server, and names are never used twice.
void Connection::send_evictions() {
    for (const auto number : evicted_) send_simple(("DEALLOCATE " + name_of_prepared(number)).c_str(), Part::evict);
    evicted_.clear();
}

bool Connection::must_check_apart(const Statement& statement) const {
    return inherited_dirt_ != kDirtNone && !classify(statement.text()).ordinary;
}

void Connection::begin(const Statement* statement, Check check) {
    start_batch();
    if (statement) {
        known_ = look_up(*statement);
        traits_ = known_ ? known_->traits : classify(statement->text());
        own_sync_ = !traits_.ordinary;
        if (traits_.copy)
            throw Error(ErrorKind::unsupported,
                        "COPY cannot run in a pipeline. Suggestion: take the raw connection of the lease and use "
                        "libpq's COPY functions on it");
    }
    if (inherited_dirt_ != kDirtNone) send_reset(inherited_dirt_);
    if (!was_in_transaction_ && !evicted_.empty()) send_evictions();
    if (check == Check::pipelined) send_check();
    if (statement) {
        if (own_sync_ && !parts_.empty()) send_sync();
        send_statement(*statement);
    }
    send_sync();
    flush();
}

void Connection::begin_reset() {
    start_batch();
    if (was_in_transaction_) send_simple("ROLLBACK", Part::reset);
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

Connection::CachedStatement* Connection::look_up(const Statement& statement) {
    if (settings_.statement_cache_size == 0) return nullptr;
    if (const auto found = cached_.find(statement.key()); found != cached_.end()) {
        cache_.splice(cache_.begin(), cache_, found->second);
        cache_.front().uses++;
        return &cache_.front();
    }
    if (static_cast<std::int64_t>(cache_.size()) >= settings_.statement_cache_size) {
        cached_.erase(cache_.back().key);
        if (cache_.back().number) evicted_.push_back(cache_.back().number);
        cache_.pop_back();
    }
    cache_.push_front({.key = std::string(statement.key()), .uses = 1, .traits = classify(statement.text())});
    cached_.emplace(cache_.front().key, cache_.begin());
    return &cache_.front();
}

void Connection::forget_current() {
    if (!known_) return;
    if (known_->number) evicted_.push_back(known_->number);
    known_->number = 0;
    known_->binary = false;
    known_->uses = 0;
}

void Connection::forget_all_prepared() {
    for (auto& entry : cache_) entry.number = 0;
    evicted_.clear();
    check_prepared_ = false;
}

// Several statements under one Sync are one implicit transaction, as they are in a simple query. The last one's result
// counts.
void Connection::send_script(const Statement& s) {
    send_each(s.text(), Part::script);
    if (!lost_) parts_.back() = Part::statement;
}

// First use: one unnamed statement with its text. Second use: prepared in the same packet. From the third on: by name
// alone.
void Connection::send_statement(const Statement& s) {
    statement_ = &s;
    queries_++;
    // Not only where it succeeds: a session's lock outlives the error of the statement that took it.
    lease_dirt_ |= traits_.dirt;
    if (lost_) return;
    if (traits_.script && s.count() == 0) return send_script(s);  // with parameters, the server refuses it
    const bool binary =
        s.format() == ResultFormat::binary || (s.format() == ResultFormat::automatic && known_ && known_->binary);
    int sent;
    if (!known_ || known_->uses < 2) {
        sent = PQsendQueryParams(pg_, s.sql(), s.count(), s.types(), s.values(), s.lengths(), s.formats(), binary);
    } else {
        by_name_ = known_->number != 0;
        if (!by_name_) {
            known_->number = ++last_number_;
            if (PQsendPrepare(pg_, name_of_prepared(known_->number).c_str(), s.sql(), s.count(), s.types()) != 1)
                return lose();
            parts_.push_back(Part::prepare);
        }
        sent = PQsendQueryPrepared(pg_, name_of_prepared(known_->number).c_str(), s.count(), s.values(), s.lengths(),
                                   s.formats(), binary);
    }
    if (sent != 1) return lose();
    parts_.push_back(Part::statement);
}

// An end in order comes after all that was sent before it. A reset does not: it destroys what is still on its way. What
// is not known to be the first counts as the second.
void Connection::note_seen(std::uint32_t seen) {
    if (seen & Poller::kHangUp) {
        int bytes = 0;
        ended_in_order_ |= !(seen & Poller::kError);
        received_ |=
            !PQsslInUse(pg_) && ioctl(fd_, FIONREAD, &bytes) == 0 && bytes > 0;  // TLS has a farewell of its own
    } else if (seen & Poller::kRead) {
        received_ = true;
    }
}

Progress Connection::advance(std::uint32_t seen) {
    if (!lost_) note_seen(seen);
    if (write_pending_) flush();
    if (!lost_ && PQconsumeInput(pg_) != 1) lose();
    while (part_ < parts_.size()) {
        if (!lost_ && PQisBusy(pg_)) return write_pending_ ? Progress::write : Progress::read;
        if (pg_result* pg = PQgetResult(pg_)) {
            take_part_result(pg);
            if (fatal_) break;  // the server is gone, whether or not the end of file is here
        } else if (has_part_result_) {
            has_part_result_ = false;
            part_++;
        } else {
            break;
        }
    }
    if (part_ < parts_.size() || PQstatus(pg_) == CONNECTION_BAD) lose();
    parts_.clear();
    part_ = 0;
    write_pending_ = false;
    // A shared Sync is one transaction: where the statement failed, the resets in front of it were rolled back with it.
    const bool undone = result_.error() && !own_sync_;
    if (!lost_ && !check_failed_ && !reset_failed_ && !statement_aborted_ && !undone)
        inherited_dirt_ &= static_cast<std::uint16_t>(~reset_under_way_);
    return Progress::done;
}

void Connection::take_part_result(pg_result* pg) {
    const ExecStatusType status = PQresultStatus(pg);
    const Part part = parts_[part_];
    Result result(pg);
    if (status == PGRES_PIPELINE_SYNC) {
        has_part_result_ = false;
        part_++;
        return;
    }
    has_part_result_ = true;
    if (status == PGRES_PIPELINE_ABORTED) {
        if (part == Part::statement) statement_aborted_ = true;
        if (part == Part::prepare) known_->number = 0;
        return;
    }
    if (status == PGRES_FATAL_ERROR || status == PGRES_BAD_RESPONSE) return take_failure(part, std::move(result));
    switch (part) {
        case Part::check:
            check_answered_ = true;
            check_prepared_ = settings_.statement_cache_size > 0;
            break;
        case Part::statement:
            statement_answered_ = true;
            result_ = std::move(result);
            note_statement_result();
            break;
        default:
            break;
    }
}

// From version 14 on, a server tells whether it is a standby and whether it is read-only by default. Where it is
// neither, the refusal to write is what the lease asked for, with BEGIN READ ONLY or the like.
bool Connection::lease_chose_read_only() const {
    const auto is_off = [this](const char* parameter) {
        const char* value = PQparameterStatus(pg_, parameter);
        return value && std::strcmp(value, "off") == 0;
    };
    return is_off("in_hot_standby") && (is_off("default_transaction_read_only") || (lease_dirt_ & kDirtDefaults));
}

void Connection::take_failure(Part part, Result result) {
    const char* code = result.field(PG_DIAG_SQLSTATE);
    const std::string_view sqlstate = code ? code : "";
    if (!code || result.is_fatal()) {  // libpq's own word, or the server's last one
        fatal_ = result.is_fatal();
        condemned_ |= fatal_;
        if (loss_message_.empty() || fatal_) loss_message_ = result.message();
        return;
    }
    condemned_ |= condemns_connection(sqlstate) && !(sqlstate == "25006" && lease_chose_read_only());
    switch (part) {
        case Part::prepare_check:
        case Part::check:
            check_failed_ = true;
            check_prepared_ |= sqlstate == "42P05";  // it exists already
            if (sqlstate == "26000") check_prepared_ = false;
            // A cancel that came early was meant for the statement, which goes down with the check.
            if (sqlstate == "57014" && statement_ && !own_sync_) take_statement_error(std::move(result), sqlstate);
            break;
        case Part::prepare:
            known_->number = 0;
            [[fallthrough]];
        case Part::statement:
            stale_plan_ = by_name_ && !was_in_transaction_ && (sqlstate == "26000" || sqlstate == "0A000");
            if (sqlstate == "26000") forget_all_prepared();
            if (stale_plan_) forget_current();
            take_statement_error(std::move(result), sqlstate);
            break;
        case Part::script:
            if (sqlstate == "26000") forget_all_prepared();
            take_statement_error(std::move(result), sqlstate);
            break;
        case Part::reset:
            reset_failed_ = true;
            loss_message_ = result.message();
            break;
        default:
            break;
    }
}

void Connection::take_statement_error(Result result, std::string_view sqlstate) {
    statement_answered_ = true;
    std::string message = result.field(PG_DIAG_MESSAGE_PRIMARY);
    if (sqlstate == "42601" && message.find("multiple commands") != std::string::npos)
        message += ". Suggestion: run one statement per call; several take no parameters";
    Error error(ErrorKind::query, message, sqlstate);
    result.set_error(std::move(error));
    result_ = std::move(result);
}

void Connection::note_statement_result() {
    if (traits_.forgets_prepared) forget_all_prepared();
    if (known_) known_->binary = result_.columns() == 0 || result_.all_types_have_binary_form();
}

void Connection::lose() {
    if (lost_) return;
    lost_ = true;
    if (loss_message_.empty()) loss_message_ = PQerrorMessage(pg_);
}

// A FATAL that comes between batches reaches libpq as a notice.
void Connection::on_notice(void* self, const pg_result* notice) {
    auto& connection = *static_cast<Connection*>(self);
    const char* severity = PQresultErrorField(notice, PG_DIAG_SEVERITY_NONLOCALIZED);
    const char* sqlstate = PQresultErrorField(notice, PG_DIAG_SQLSTATE);
    connection.farewell_ |= sqlstate && std::strncmp(sqlstate, "57P0", 4) == 0;
    if (!severity || (std::strcmp(severity, "FATAL") != 0 && std::strcmp(severity, "PANIC") != 0)) return;
    connection.fatal_ = connection.condemned_ = true;
    connection.loss_message_ = PQresultErrorMessage(notice);
}

Verdict Connection::verdict() const {
    if (!statement_) {  // nothing of the caller's was sent
        if (lost_) return Verdict::again_elsewhere;
        return check_failed_ || reset_failed_ ? Verdict::again_here : Verdict::answered;
    }
    if (!lost_) {
        if (statement_aborted_ && !statement_answered_)
            return Verdict::again_here;  // the check or the reset in front of it failed
        if (stale_plan_) return Verdict::again_here;
        return Verdict::answered;
    }
    if (!checks_) return Verdict::unknown;
    if (own_sync_) {
        // The server flushes the check's answer at its Sync, before it reads on. An orderly end before that answer: it
        // never read the statement. But a server's end never tears an answer apart: where some of it came, something in
        // between has lost bytes, perhaps a whole answer.
        const bool orderly = fatal_ || (ended_in_order_ && (!received_ || farewell_));
        return orderly && !check_answered_ ? Verdict::again_elsewhere : Verdict::unknown;
    }
    return fatal_ && !statement_answered_ ? Verdict::again_elsewhere
                                          : Verdict::unknown;  // rolled back with the implicit transaction
}

}  // namespace pqpool
