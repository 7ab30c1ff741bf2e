#include "core/wire/session.hpp"

#include <algorithm>
#include <charconv>
#include <utility>

#include "core/base/text.hpp"

namespace pqpool {

namespace {

constexpr std::string_view kCheckName = "pqpool_check", kCheckSql = "SELECT 1";
// The server, the database or the role may have floats rounded in text; a client is not told of this setting. And the
// process that serves tells a pooler, whose key data names another.
constexpr std::string_view kFloatsSql =
    "SELECT (pg_catalog.current_setting('extra_float_digits')::pg_catalog.int4 OPERATOR(pg_catalog.>) "
    "0)::pg_catalog.int4, pg_catalog.pg_backend_pid()";
constexpr std::string_view kPidSql = "SELECT pg_catalog.pg_backend_pid()";
constexpr std::uint8_t kMostChecksMissed = 2;
// No operating system counts processes further; a pooler's key data is random.
constexpr int kHighestPid = 1 << 22;
// A server reports some fifteen; poolers and extensions may add to them.
constexpr std::size_t kMostParameters = 256;
constexpr Steps kWhole = kParse | kBind | kColumns | kRows;

std::string_view field_of(const Result& error, char code) {
    const char* text = error.field(code);
    return text ? text : "";
}

// Of an error that came from the top level of a statement, not from a function within it.
bool is_from(const Result& error, std::string_view routine) {
    return field_of(error, 'R') == routine && field_of(error, 'W').empty();
}

bool is_of_statement(Purpose purpose) { return purpose == Purpose::statement || purpose == Purpose::describe; }

}  // namespace

Session::Session(const Settings& settings)
    : settings_(settings), residue_(settings.init_sql, settings.reset), named_(settings.statement_cache_size) {}

// ---- what is sent ----

void Session::set_parameter(std::string_view name, std::string_view value) {
    const auto known =
        std::find_if(parameters_.begin(), parameters_.end(), [&](const auto& p) { return p.name == name; });
    if (known != parameters_.end())
        known->value = value;
    else if (parameters_.size() < kMostParameters)
        parameters_.push_back({std::string(name), std::string(value)});
    else
        throw ProtocolViolation("more parameters than any server has");
    if (name == "client_encoding")
        encoding_is_foreign_ = value != "UTF8";
    else if (name == "DateStyle")
        dates_are_unusual_ = !value.starts_with("ISO");
    else if (name == "IntervalStyle")
        intervals_are_unusual_ = value != "postgres";
}

std::string_view Session::parameter(std::string_view name) const {
    for (const auto& one : parameters_)
        if (one.name == name) return one.value;
    return {};
}

void Session::begin(int backend_pid, bool has_options) {
    backend_pid_ = backend_pid;
    behind_pooler_ = names_are_shared_ = names_are_unsure_ = *settings_.behind_pooler;
    settings_changed_ = settings_at_start_changed_ = has_options || (residue_.made_at_beginning() & kDirtSettings) != 0;
    start_batch();
    for (const auto& one : residue_.beginning()) write_simple(one, Purpose::reset);
    checks_ = true;
    write_simple(kCheckSql, Purpose::check);  // without a name, which a pooler's server may have already
    auto unknown = FloatText::unknown;
    asks_for_floats_ = settings_.float_text->compare_exchange_strong(unknown, FloatText::asked);
    if (asks_for_floats_) write_simple(kFloatsSql, Purpose::floats);
    if (backend_pid_ < 0 || backend_pid_ > kHighestPid) write_simple(kPidSql, Purpose::pid);
    write_sync();
}

void Session::start_batch() {
    exchange_.clear();
    known_ = nullptr;
    traits_ = {};
    has_statement_ = checks_ = own_sync_ = statement_follows_ = by_name_ = parses_name_ = binary_ = automatic_ =
        check_answered_ = check_failed_ = statement_answered_ = again_ = not_begun_ = is_answered_ = false;
    residue_.forget_undo();
    result_ = Result();
}

void Session::begin(const Statement* statement, Check check) {
    start_batch();
    try {
        write_batch(statement, check);
    } catch (...) {  // half a batch is none
        exchange_.clear();
        output_.clear();
        throw;
    }
}

void Session::write_batch(const Statement* statement, Check check) {
    if (statement) look_at(*statement);
    write_evictions();
    const bool sets_encoding =
        encoding_is_foreign_ && transaction_status_ != TransactionStatus::failed;  // there no SET is taken
    const bool undoes = residue_.is_inherited() || sets_encoding;
    if (residue_.is_inherited()) write_undo();
    if (sets_encoding) write_simple("SET client_encoding = 'UTF8'", Purpose::reset);
    if (undoes) write_sync();
    if (check != Check::none) write_check();
    const bool describes = statement && must_describe(*statement);
    statement_follows_ = statement && (undoes || describes || check == Check::awaited);
    if (describes) {
        write_description(*statement);
    } else if (statement && !statement_follows_) {
        own_sync_ = !traits_.ordinary;
        if (own_sync_ && check != Check::none) write_sync();
        write_statement(*statement);
    }
    if (!exchange_.ends_with_sync()) write_sync();
}

void Session::begin_reset() {
    start_batch();
    if (transaction_status_ != TransactionStatus::idle) write_simple("ROLLBACK", Purpose::reset);
    residue_.abandon_lease();
    write_undo();
    write_check();
    write_sync();
}

void Session::write_simple(std::string_view sql, Purpose purpose) {
    output_.parse({}, sql, nullptr, 0);
    output_.bind({}, nullptr, 0, false);
    output_.describe_portal();
    output_.execute();
    exchange_.expect(purpose, kWhole);
}

void Session::write_sync() {
    output_.sync();
    exchange_.expect(Purpose::sync, kSync);
}

// In a transaction that has failed no statement is taken: there the Sync's answer has to do.
void Session::write_check() {
    if (transaction_status_ == TransactionStatus::failed) return;
    checks_ = true;
    const bool uncertain = names_are_unsure_ && transaction_status_ != TransactionStatus::idle;
    if (!named_.keeps_any() || check_missed_ >= kMostChecksMissed || uncertain)
        return write_simple(kCheckSql, Purpose::check);
    if (!check_on_server_) {
        output_.parse(kCheckName, kCheckSql, nullptr, 0);
        exchange_.expect(Purpose::prepare_check, kParse);
    }
    output_.bind(kCheckName, nullptr, 0, true);
    if (!check_columns_) output_.describe_portal();
    output_.execute();
    exchange_.expect(Purpose::check, kBind | (check_columns_ ? Steps{0} : kColumns) | kRows, &check_columns_);
}

void Session::write_undo() {
    for (const auto& one : residue_.begin_undo()) write_simple(one, Purpose::reset);
    if (residue_.undoes(kDirtPrepared)) forget_names();
}

void Session::write_evictions() {
    for (const auto& name : named_.take_discarded()) {
        output_.close_statement(name);
        exchange_.expect(Purpose::evict, kClose);
    }
}

bool Session::uses_name() const {
    return known_ && !known_->unnamed && traits_.has_fixed_columns &&
           !(names_are_unsure_ && transaction_status_ != TransactionStatus::idle);
}

// A result's form is chosen for all of its columns at once, before their types are seen. As text a value loses nothing
// while the session has its usual settings; where it may not, the statement is described first, so that the value is
// the same on its first use and on its hundredth.
bool Session::must_describe(const Statement& statement) const {
    return known_ && statement.format() == ResultFormat::automatic && !known_->described && has_unusual_settings();
}

bool Session::has_unusual_settings() const {
    const auto floats = settings_.float_text->load(std::memory_order_relaxed);
    return settings_changed_ || dates_are_unusual_ || intervals_are_unusual_ || floats == FloatText::asked ||
           floats == FloatText::rounded;
}

void Session::look_at(const Statement& statement) {
    known_ = named_.look_up(statement);
    traits_ = known_ ? known_->traits : classify(statement.text());
    if (traits_.copy)
        throw Error(
            ErrorKind::unsupported,
            "COPY has no place for its data here. Suggestion: take the raw connection of the lease and use libpq's "
            "COPY functions on it");
    if (statement.count() > traits_.parameters)  // the server would take one with a type, and not look at it
        throw Error(ErrorKind::invalid_argument,
                    "the server expects " + std::to_string(traits_.parameters) +
                        (traits_.parameters == 1 ? " argument" : " arguments") + " for this query, " +
                        std::to_string(statement.count()) + (statement.count() == 1 ? " was" : " were") +
                        " passed. Suggestion: write $1, $2, ... in the query, and pass as many arguments");
}

void Session::write_description(const Statement& s) {
    const bool named = uses_name();
    const std::string_view name = named ? std::string_view(known_->name) : std::string_view();
    const bool parses = !named || !known_->on_server;
    parses_name_ = parses && named;
    if (parses) output_.parse(name, s.text(), s.types(), s.count());
    output_.describe_statement(name);
    exchange_.expect(Purpose::describe, (parses ? kParse : Steps{0}) | kParameters | kColumns);
}

// Several statements are one simple query. A single one has a name from its second use on, or since it was described;
// once its columns were seen by that name, they cannot change without an error.
void Session::write_statement(const Statement& s) {
    has_statement_ = true;
    automatic_ = s.format() == ResultFormat::automatic;
    queries_++;
    // Not only where it succeeds: a session's lock outlives the error of the statement that took it.
    residue_.add(traits_.dirt);
    settings_changed_ |= traits_.changes_settings;
    if (traits_.script && s.count() == 0 && s.format() == ResultFormat::text) {
        output_.query(s.text());
        exchange_.expect(Purpose::statement, kScript);
        return exchange_.expect(Purpose::sync, kSync);
    }
    binary_ = s.format() == ResultFormat::binary || (automatic_ && known_ && known_->described && known_->binary);
    by_name_ = uses_name() && (known_->on_server || known_->uses > 0);
    if (known_) {
        known_->uses++;
        known_->described &= traits_.has_fixed_columns;
    }
    const std::string_view name = by_name_ ? std::string_view(known_->name) : std::string_view();
    const bool parses = !by_name_ || !known_->on_server;
    parses_name_ = parses && by_name_;
    if (parses) output_.parse(name, s.text(), s.types(), s.count());
    output_.bind(name, s.values(), s.count(), binary_);
    const bool describes = parses || !by_name_ || !knows_columns();
    if (describes) output_.describe_portal();
    output_.execute();
    const bool has_columns = by_name_ && (describes || known_->form != NamedStatement::Form::no_columns);
    exchange_.expect(Purpose::statement,
                     (parses ? kParse : Steps{0}) | kBind | (describes ? kColumns : Steps{0}) | kRows,
                     has_columns ? &known_->columns : nullptr);
}

// A named statement's columns cannot change without an error, but where a pooler lends several servers: on another the
// same text may be read with another search_path.
bool Session::knows_columns() const {
    using Form = NamedStatement::Form;
    const bool is_alone = !names_are_shared_ && !names_are_unsure_ && !*settings_.behind_pooler;
    return is_alone && (known_->form == Form::no_columns || known_->form == (binary_ ? Form::binary : Form::text));
}

// ---- what the answers mean ----

bool Session::take() {
    try {
        while (!lost_) {
            const auto message = input_.next();
            if (!message) break;
            take(*message);
        }
    } catch (const ProtocolViolation& violation) {
        unexpected(violation.what());
    }
    return is_done();
}

void Session::take(const Message& message) {
    switch (message.tag) {
        case tag::kNotice:
            return check_error_fields(message);
        case tag::kNotification:
            return read_notification(message);
        case tag::kParameterStatus: {
            const auto [name, value] = read_parameter_status(message);
            return set_parameter(name, value);
        }
        case tag::kError:
            check_error_fields(message);
            if (is_fatal(message.body)) return take_farewell(Result::of_error(message.body));
            for (const char code : {'C', 'M'}) {
                const char* text = error_field(message.body, code);
                if (!text || !*text) throw ProtocolViolation("an error without code or text");
            }
            break;
        default:
            break;
    }
    Exchange::Meaning meaning;
    do {
        meaning = exchange_.take(message);
        switch (meaning) {
            case Exchange::Meaning::part:
                // The name is there as soon as it was parsed, whatever becomes of the statement.
                if (exchange_.step() == kParse && parses_name_ && is_of_statement(exchange_.purpose()))
                    known_->on_server = true;
                break;
            case Exchange::Meaning::done:
            case Exchange::Meaning::done_before:
                take_end(exchange_.purpose());
                break;
            case Exchange::Meaning::failed:
                take_failure(exchange_.purpose());
                break;
            case Exchange::Meaning::synced:
                if (!exchange_.is_done()) break;
                if (!output_.unsent().empty()) throw ProtocolViolation("the end of a batch that it has not got");
                is_answered_ = true;
                break;
        }
    } while (meaning == Exchange::Meaning::done_before && !lost_);
}

void Session::take_end(Purpose purpose) {
    switch (purpose) {
        case Purpose::check:
            check_answered_ = true;
            [[fallthrough]];
        case Purpose::floats:
        case Purpose::pid:
            return take_check(purpose);
        case Purpose::prepare_check:
            check_on_server_ = true;
            return;
        case Purpose::describe:
            known_->note_columns(exchange_.result().description().get());
            return;
        case Purpose::statement:
            return take_statement_result();
        case Purpose::evict:
        case Purpose::reset:
        case Purpose::sync:
            return;
    }
}

void Session::take_check(Purpose purpose) {
    const Result result = std::move(exchange_.result());
    const int columns = result.columns();
    if (result.rows() != 1 || (columns != 1 && (columns != 2 || purpose != Purpose::floats)))
        throw ProtocolViolation("no answer to its check");
    const auto text = [&](int column) {
        return std::string_view(result.value(0, column), static_cast<std::size_t>(result.length(0, column)));
    };
    const std::string_view value = text(0);
    if (purpose == Purpose::floats) {
        *settings_.float_text = value == "0" ? FloatText::rounded : FloatText::whole;
        if (columns == 2) take_backend_pid(text(1));
    } else if (purpose == Purpose::pid) {
        take_backend_pid(value);
    } else if (value != (result.is_binary() ? std::string_view("\0\0\0\1", 4) : "1")) {
        throw ProtocolViolation("another value than its check's");
    }
}

void Session::take_backend_pid(std::string_view text) {
    int pid = 0;
    std::from_chars(text.data(), text.data() + text.size(), pid);
    if (pid == backend_pid_) return;
    behind_pooler_ = names_are_shared_ = names_are_unsure_ = true;
    *settings_.behind_pooler = true;
}

void Session::take_statement_result() {
    statement_answered_ = true;
    result_ = std::move(exchange_.result());
    if (by_name_) known_->note_form(result_.description().get());
    if (by_name_ && !known_->described) known_->note_columns(result_.description().get());
    if (!binary_ || !automatic_ || result_.columns() == 0 || result_.description()->all_types_have_binary_form())
        return;
    known_->described = false;
    result_ = Result(Error(ErrorKind::unsupported,
                           "the types of the statement's columns changed after it was described; it was executed, but "
                           "its result cannot be read. Suggestion: if it only reads, run it again"));
}

// From version 14 on, a server tells whether it is a standby and whether it is read-only by default. Where it is
// neither, the refusal to write is what the lease asked for, with BEGIN READ ONLY or the like.
bool Session::lease_chose_read_only() const {
    return parameter("in_hot_standby") == "off" &&
           (parameter("default_transaction_read_only") == "off" || (residue_.of_lease() & kDirtDefaults) != 0);
}

void Session::take_failure(Purpose purpose) {
    const Result& error = exchange_.result();
    // A server that became a standby. The word is its own, not that of another server or of a function.
    condemned_ |= field_of(error, 'C') == "25006" && field_of(error, 'R') == "PreventCommandIfReadOnly" &&
                  !lease_chose_read_only();
    switch (purpose) {
        case Purpose::prepare_check:
        case Purpose::check:
        case Purpose::pid:
            return take_check_failure();
        case Purpose::describe:
            return take_name_failure();
        case Purpose::statement:
            if (by_name_) known_->form = NamedStatement::Form::unknown;  // perhaps it was described, in another form
            return by_name_ ? take_name_failure() : take_statement_error();
        case Purpose::sync:
            return take_sync_failure();
        case Purpose::reset:
            return take_undo_failure(error);
        case Purpose::evict:
        case Purpose::floats:
            return;
    }
}

// Where no byte of the batch went out, nobody has read it.
void Session::note_unwritten() { not_begun_ |= is_busy() && !output_.is_half_sent() && !output_.unsent().empty(); }

// The server's last word. Its own, at the end of the session that an administrator or a timeout asked for, and before
// the check was answered: it never read the statement behind the check.
void Session::take_farewell(const Result& error) {
    const std::string_view sqlstate = field_of(error, 'C');
    not_begun_ |= checks_ && !check_answered_ && !check_failed_ &&
                  (sqlstate == "57P01" || sqlstate == "57P05" || sqlstate == "25P03") &&
                  field_of(error, 'R') == "ProcessInterrupts";
    condemned_ = true;
    loss_message_ = error.message();
    lose();
}

// An error that arrives at a Sync belongs to what stands before it: a deferred constraint, a conflict at commit.
void Session::take_sync_failure() {
    if (exchange_.is_since_sync(Purpose::statement)) return take_statement_error();
    if (exchange_.is_since_sync(Purpose::reset)) return take_undo_failure(exchange_.result());
    if (exchange_.is_since_sync(Purpose::check)) return take_check_failure();
    if (exchange_.is_since_sync(Purpose::describe)) return take_statement_error();
}

// What the last lease left must not meet the next one, so nothing more is done with the session.
void Session::take_undo_failure(const Result& error) {
    loss_message_ = error.message();
    if (has_had_lease_) loss_message_.insert(0, "what an earlier lease left could not be undone: ");
    lose();
}

void Session::take_check_failure() {
    const std::string_view sqlstate = field_of(exchange_.result(), 'C');
    check_failed_ = true;
    loss_message_ = exchange_.result().message();
    if (sqlstate == "42P05") {  // made by another connection that the pooler serves from the same server
        check_on_server_ = names_are_shared_ = names_are_unsure_ = true;
    } else if (sqlstate == "26000") {
        check_on_server_ = false;
        check_missed_ += names_are_shared_;
    } else if (sqlstate == "57014" && (statement_follows_ || (has_statement_ && !own_sync_))) {
        take_statement_error();  // the cancel was meant for it, and it goes down with the check
    }
}

// The answer to a Parse, Describe or Bind of a name; what comes later says the same of a name of the caller's. What the
// server has not begun for that is asked again, unless a transaction of the caller's failed with it.
void Session::take_name_failure() {
    const Result& error = exchange_.result();
    const std::string_view sqlstate = field_of(error, 'C');
    const bool parsed = exchange_.step() == kParse;
    const bool looked_up = exchange_.step() == kBind || exchange_.step() == kParameters;
    const bool gone = looked_up && sqlstate == "26000" && is_from(error, "FetchPreparedStatement");
    const bool stale = looked_up && sqlstate == "0A000" && is_from(error, "RevalidateCachedQuery");
    const bool exists = parsed && sqlstate == "42P05" && is_from(error, "StorePreparedStatement");
    if (exists) {
        known_->on_server = names_are_shared_ = names_are_unsure_ = true;
    } else if (gone && names_are_shared_) {
        known_->miss();
    } else if (gone) {
        forget_names();
    } else if (stale) {
        named_.discard(*known_);
        if (names_are_shared_) known_->miss();
    } else if (!parsed && exchange_.purpose() == Purpose::statement && sqlstate.starts_with("XX")) {
        named_.discard(*known_);  // a type that it names was dropped, perhaps: the next use parses it anew
    }
    again_ = (gone || stale || exists) && transaction_status_ == TransactionStatus::idle;
    if (!again_) take_statement_error();
}

void Session::take_statement_error() {
    statement_answered_ = true;
    result_ = std::move(exchange_.result());
    const std::string_view sqlstate = field_of(result_, 'C');
    std::string message(field_of(result_, 'M'));
    if (sqlstate == "42601" && message.find("multiple commands") != std::string::npos)
        message += ". Suggestion: run one statement per call; only execute without parameters takes several";
    result_.set_error(Error(ErrorKind::query, message, sqlstate));
}

void Session::end_batch() {
    if (!is_busy()) return;
    end_question_about_floats();
    transaction_status_ = exchange_.status();
    exchange_.clear();
    input_.shrink();
    if (lost_) return;
    if (residue_.undoes(kDirtPrepared)) names_are_unsure_ = names_are_shared_;
    residue_.end_undo();
    if (has_statement_ && traits_.forgets_prepared) {
        forget_names();
        names_are_unsure_ |= result_.error().has_value() || (traits_.dirt & kDirtPrepared);
    }
    // Who knows what such code does to names.
    if (has_statement_ && (traits_.dirt & kDirtAll) == kDirtAll) names_are_unsure_ = true;
}

// Where it got no answer, it is not put again: the answer is usually that nothing is rounded.
void Session::end_question_about_floats() {
    auto asked = FloatText::asked;
    if (std::exchange(asks_for_floats_, false)) settings_.float_text->compare_exchange_strong(asked, FloatText::whole);
}

Verdict Session::verdict() const {
    if (lost_ && !is_answered_) return !has_statement_ || not_begun_ ? Verdict::again_elsewhere : Verdict::unknown;
    if (again_ || (!has_statement_ && !statement_answered_ && check_failed_)) return Verdict::again_here;
    if (has_statement_ && !statement_answered_) return Verdict::again_here;  // the check in front of it failed
    return Verdict::answered;
}

// ---- between batches ----

void Session::end_lease() {
    has_had_lease_ = true;
    if (settings_.reset != Residue::Reset::never) settings_changed_ = settings_at_start_changed_;
    residue_.end_lease();
}

void Session::note_foreign_words() {
    residue_.add(kDirtAll);
    settings_changed_ = true;
    forget_names();
    names_are_unsure_ = true;
}

void Session::forget_names() {
    named_.forget_all();
    check_on_server_ = false;
}

void Session::unexpected(const char* what) {
    is_answered_ = false;
    loss_message_ = std::string("the server's side sent ") + what + " where it does not belong";
    lose();
}

void Session::lose(std::string_view words) {
    if (std::exchange(lost_, true)) return;
    if (loss_message_.empty()) loss_message_ = words;
}

}  // namespace pqpool
