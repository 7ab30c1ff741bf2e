// What the answers to a batch mean. They come in order, and one that does not fit the part that is due ends the
// connection: whatever came after it could belong to another question. What is sent: connection_wire.cpp.
#include <libpq-fe.h>

#include <charconv>
#include <cstring>

#include "core/wire/connection.hpp"

namespace pqpool {

namespace {

std::string_view field_of(const Result& result, int code) {
    const char* text = result.field(code);
    return text ? text : "";
}

// Of an error that came from the top level of a statement, not from a function within it.
bool is_from(const Result& result, std::string_view routine) {
    return field_of(result, PG_DIAG_SOURCE_FUNCTION) == routine && field_of(result, PG_DIAG_CONTEXT).empty();
}

}  // namespace

Progress Connection::advance() {
    if (write_pending_) flush();
    if (!lost_ && PQconsumeInput(pg_) != 1) lose();
    while (!lost_ && part_ < parts_.size()) {
        if (PQisBusy(pg_)) return write_pending_ ? Progress::write : Progress::read;
        if (!take_next()) break;
    }
    // Where the connection broke, libpq still has what came before.
    while (lost_ && PQstatus(pg_) == CONNECTION_BAD && part_ < parts_.size() && !PQisBusy(pg_) && take_next()) {
    }
    is_answered_ = !lost_ && !parts_.empty() && part_ == parts_.size();
    if (part_ < parts_.size() || PQstatus(pg_) == CONNECTION_BAD) lose();
    if (!lost_ && Result(PQgetResult(pg_)).has_value()) unexpected("another result");
    // This makes libpq read what is left in its buffer, too; on_notice() hears of it.
    while (PGnotify* notification = lost_ ? nullptr : PQnotifies(pg_)) PQfreemem(notification);
    end_batch();
    return Progress::done;
}

// False where libpq has nothing more to say.
bool Connection::take_next() {
    if (pg_result* pg = PQgetResult(pg_)) return take_part_result(pg), true;
    if (!std::exchange(has_part_result_, false)) return false;
    if (parts_[part_] != Part::sync) part_++;  // an error in place of a Sync's answer goes before it
    return true;
}

// Where it got no answer, it is not put again: the answer is usually that nothing is rounded.
void Connection::end_question_about_floats() {
    auto asked = FloatText::asked;
    if (std::exchange(asks_for_floats_, false)) settings_.float_text->compare_exchange_strong(asked, FloatText::whole);
}

void Connection::end_batch() {
    if (parts_.empty()) return;
    end_question_about_floats();
    parts_.clear();
    part_ = 0;
    write_pending_ = false;
    note_transaction_status();
    if (reset_under_way_ != kDirtNone && !lost_) {
        inherited_dirt_ &= static_cast<std::uint16_t>(~reset_under_way_);
        if (reset_under_way_ & kDirtPrepared) names_are_unsure_ = names_are_shared_;
    }
    if (has_statement_ && traits_.forgets_prepared) {
        forget_names();
        names_are_unsure_ |= result_.error().has_value() || (traits_.dirt & kDirtPrepared);
    }
    // Who knows what such code does to names.
    if (has_statement_ && (traits_.dirt & kDirtAll) == kDirtAll) names_are_unsure_ = true;
}

void Connection::take_part_result(pg_result* pg) {
    Result result(pg);
    const ExecStatusType status = PQresultStatus(pg);
    const Part part = parts_[part_];
    if (status == PGRES_PIPELINE_SYNC) {
        if (part != Part::sync) return unexpected("the end of a batch");
        has_part_result_ = has_failed_ = false;
        part_++;
        return;
    }
    if (std::exchange(has_part_result_, true)) return unexpected("a second result");
    switch (status) {
        case PGRES_PIPELINE_ABORTED:
            statement_aborted_ |= part == Part::statement;
            if (part == Part::sync) unexpected("nothing");
            return;
        case PGRES_FATAL_ERROR:
            return take_failure(part, std::move(result));
        case PGRES_COMMAND_OK:
        case PGRES_TUPLES_OK:
        case PGRES_EMPTY_QUERY:
            return take_answer(part, std::move(result));
        case PGRES_COPY_IN:
        case PGRES_COPY_OUT:
        case PGRES_COPY_BOTH:
            return unexpected("a COPY, which cannot run in a pipeline,");
        default:
            return unexpected("an answer of no known kind");
    }
}

void Connection::take_answer(Part part, Result&& result) {
    has_answer_ = true;
    switch (part) {
        case Part::check:
        case Part::floats:
        case Part::pid:
            return take_check(result);
        case Part::prepare_check:
            check_on_server_ = true;
            return;
        case Part::prepare:
            if (known_) known_->on_server = uses_name();
            return;
        case Part::describe:
            return take_description(result);
        case Part::statement:
            return take_statement_result(std::move(result));
        case Part::sync:
            return unexpected("a result");
        default:
            return;
    }
}

void Connection::take_check(const Result& result) {
    if (result.rows() != 1 || result.columns() != 1) return unexpected("no answer to its check");
    const std::string_view value(result.value(0, 0), static_cast<std::size_t>(result.length(0, 0)));
    if (parts_[part_] == Part::floats) {
        *settings_.float_text = value == "0" ? FloatText::rounded : FloatText::whole;
    } else if (parts_[part_] == Part::pid) {
        int pid = 0;
        std::from_chars(value.data(), value.data() + value.size(), pid);
        if (pid != backend_pid_) behind_pooler_ = names_are_shared_ = names_are_unsure_ = true;
    } else if (value != (result.is_binary() ? std::string_view("\0\0\0\1", 4) : "1")) {
        unexpected("another value than its check's");
    }
}

void Connection::take_description(const Result& result) {
    known_->described = true;
    known_->binary = result.columns() == 0 || result.all_types_have_binary_form();
}

void Connection::take_statement_result(Result&& result) {
    statement_answered_ = true;
    result_ = std::move(result);
    if (by_name_ && !known_->described) take_description(result_);
    if (!binary_ || result_.columns() == 0 || !automatic_ || result_.all_types_have_binary_form()) return;
    known_->described = false;
    result_ = Result(Error(ErrorKind::unsupported,
                           "the types of the statement's columns changed after it was described; it was executed, but "
                           "its result cannot be read. Suggestion: if it only reads, run it again"));
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

void Connection::take_failure(Part part, Result&& result) {
    const std::string_view sqlstate = field_of(result, PG_DIAG_SQLSTATE);
    if (result.is_fatal()) return take_farewell(result);
    if (sqlstate.empty() || field_of(result, PG_DIAG_MESSAGE_PRIMARY).empty()) {
        // libpq's own word, about a lost connection or a result for which it has no memory; or nobody's.
        if (result.field(PG_DIAG_SEVERITY)) return unexpected("an error without code or text");
        if (loss_message_.empty()) loss_message_ = result.message();
        return lose();
    }
    // After an error the server passes over everything until the Sync.
    if (std::exchange(has_failed_, true)) return unexpected("a second error");
    has_answer_ = true;
    // A server that became a standby. The word is its own, not that of another server or of a function.
    condemned_ |= sqlstate == "25006" && field_of(result, PG_DIAG_SOURCE_FUNCTION) == "PreventCommandIfReadOnly" &&
                  !lease_chose_read_only();
    switch (part) {
        case Part::prepare_check:
        case Part::check:
        case Part::pid:
            return take_check_failure(std::move(result));
        case Part::prepare:
        case Part::describe:
            return take_name_failure(part, std::move(result));
        case Part::statement:
            if (by_name_) return take_name_failure(part, std::move(result));
            return take_statement_error(std::move(result));
        case Part::script:
            return take_statement_error(std::move(result));
        case Part::sync:
            return take_sync_failure(std::move(result));
        case Part::reset:
            return take_reset_failure(result);
        case Part::evict:
        case Part::floats:
            return;
    }
}

// The server's last word. Its own, at the end of the session that an administrator or a timeout asked for, and before
// any answer to this batch: it never read the statement behind the check.
void Connection::take_farewell(const Result& result) {
    const std::string_view sqlstate = field_of(result, PG_DIAG_SQLSTATE);
    not_begun_ = checks_ && !has_answer_ && (sqlstate == "57P01" || sqlstate == "57P05" || sqlstate == "25P03") &&
                 field_of(result, PG_DIAG_SOURCE_FUNCTION) == "ProcessInterrupts";
    condemned_ = true;
    loss_message_ = result.message();
    lose();
}

// An error that arrives at a Sync belongs to what stands before it: a deferred constraint, a conflict at commit.
void Connection::take_sync_failure(Result&& result) {
    if (has_before_sync(Part::statement)) return take_statement_error(std::move(result));
    if (has_before_sync(Part::reset)) return take_reset_failure(result);
    if (has_before_sync(Part::check)) return take_check_failure(std::move(result));
    if (has_before_sync(Part::describe)) return take_statement_error(std::move(result));
}

// What the last lease left must not meet the next one, so nothing more is done with the session.
void Connection::take_reset_failure(const Result& result) {
    loss_message_ = result.message();
    if (last_used_ != 0) loss_message_.insert(0, "what an earlier lease left could not be undone: ");
    lose();
}

bool Connection::has_before_sync(Part wanted) const {
    for (std::size_t i = part_; i-- > 0 && parts_[i] != Part::sync;)
        if (parts_[i] == wanted) return true;
    return false;
}

void Connection::take_check_failure(Result&& result) {
    const std::string_view sqlstate = field_of(result, PG_DIAG_SQLSTATE);
    check_failed_ = true;
    loss_message_ = result.message();
    if (sqlstate == "42P05") {  // made by another connection that the pooler serves from the same server
        check_on_server_ = names_are_shared_ = names_are_unsure_ = true;
    } else if (sqlstate == "26000") {
        check_on_server_ = false;
        check_missed_ += names_are_shared_;
    } else if (sqlstate == "57014" && (prepares_ || (has_statement_ && !own_sync_))) {
        take_statement_error(std::move(result));  // the cancel was meant for it, and it goes down with the check
    }
}

// The answer to a Parse, Describe or Bind of a name. What the server has not begun for that is asked again, unless a
// transaction of the caller's failed with it.
void Connection::take_name_failure(Part part, Result&& result) {
    const std::string_view sqlstate = field_of(result, PG_DIAG_SQLSTATE);
    const bool gone = part != Part::prepare && sqlstate == "26000" && is_from(result, "FetchPreparedStatement");
    const bool stale = part != Part::prepare && sqlstate == "0A000" && is_from(result, "RevalidateCachedQuery");
    const bool exists = part == Part::prepare && sqlstate == "42P05" && is_from(result, "StorePreparedStatement");
    if (exists) {
        known_->on_server = names_are_shared_ = names_are_unsure_ = true;
    } else if (gone && names_are_shared_) {
        known_->miss();
    } else if (gone) {
        forget_names();
    } else if (stale) {
        named_.discard(*known_);
        if (names_are_shared_) known_->miss();
    } else if (part == Part::statement && sqlstate.starts_with("XX")) {
        named_.discard(*known_);  // a type that it names was dropped, perhaps: the next use parses it anew
    }
    again_ = (gone || stale || exists) && transaction_status_ == TransactionStatus::idle;
    if (!again_) take_statement_error(std::move(result));
}

void Connection::take_statement_error(Result&& result) {
    statement_answered_ = true;
    const std::string_view sqlstate = field_of(result, PG_DIAG_SQLSTATE);
    std::string message(field_of(result, PG_DIAG_MESSAGE_PRIMARY));
    if (sqlstate == "42601" && message.find("multiple commands") != std::string::npos)
        message += ". Suggestion: run one statement per call; only execute without parameters takes several";
    Error error(ErrorKind::query, message, sqlstate);
    result.set_error(std::move(error));
    result_ = std::move(result);
}

void Connection::forget_names() {
    named_.forget_all();
    check_on_server_ = false;
}

void Connection::unexpected(const char* what) {
    is_answered_ = false;
    loss_message_ = std::string("the server's side sent ") + what + " where it does not belong";
    lose();
}

void Connection::lose() {
    if (lost_) return;
    lost_ = true;
    if (loss_message_.empty()) loss_message_ = PQerrorMessage(pg_);
}

// The server's last word, where it comes between batches; or what libpq has to say about a message that it did not
// expect.
void Connection::on_notice(void* self, const pg_result* notice) {
    auto& connection = *static_cast<Connection*>(self);
    const char* severity = PQresultErrorField(notice, PG_DIAG_SEVERITY_NONLOCALIZED);
    const bool fatal = severity && (std::strcmp(severity, "FATAL") == 0 || std::strcmp(severity, "PANIC") == 0);
    const bool is_libpqs = !PQresultErrorField(notice, PG_DIAG_SQLSTATE);
    if (!fatal && !is_libpqs) return;
    connection.is_answered_ &= fatal;
    connection.condemned_ = true;
    connection.loss_message_ = PQresultErrorMessage(notice);
    connection.lose();
}

Verdict Connection::verdict() const {
    if (lost_ && !is_answered_) return !has_statement_ || not_begun_ ? Verdict::again_elsewhere : Verdict::unknown;
    if (again_ || (!has_statement_ && !statement_answered_ && check_failed_)) return Verdict::again_here;
    if (statement_aborted_ && !statement_answered_) return Verdict::again_here;  // the check in front of it failed
    return Verdict::answered;
}

}  // namespace pqpool
