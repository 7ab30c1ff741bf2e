#include "core/wire/connection.hpp"

#include <fcntl.h>
#include <libpq-fe.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <system_error>

#include "core/base/error.hpp"
#include "core/base/text.hpp"

namespace pqpool {

namespace {

// What libpq may have heard before the pool speaks itself; it has no list of its own.
constexpr struct {
    const char* name;
    bool settable;  // by anybody, in the midst of a session
} kReported[] = {{"application_name", true},
                 {"client_encoding", true},
                 {"DateStyle", true},
                 {"default_transaction_read_only", true},
                 {"in_hot_standby", false},
                 {"integer_datetimes", false},
                 {"IntervalStyle", true},
                 {"is_superuser", false},
                 {"scram_iterations", false},
                 {"search_path", true},
                 {"server_encoding", false},
                 {"server_version", false},
                 {"session_authorization", false},
                 {"standard_conforming_strings", true},
                 {"TimeZone", true}};
// So much is read at one go, so that a large result leaves others their turn.
constexpr std::size_t kMostAtOnce = 1 << 20;

std::string trimmed(const char* message) {
    std::string text = on_one_line(message ? message : "");
    while (!text.empty() && text.back() == ' ') text.pop_back();
    return text;
}

// libpq offers no SQLSTATE for a failed connect, but its verbose form of the message holds it, in no language: "FATAL:
// 28P01: …". Takes it out, and the trailing place in the server's source with it.
std::string take_sqlstate(std::string& message) {
    for (std::size_t at = message.find(":  "); at != std::string::npos; at = message.find(":  ", at + 1)) {
        const std::string_view code = std::string_view(message).substr(at + 3, 7);
        if (code.size() < 7 || code.substr(5) != ": ") continue;
        if (!std::all_of(code.begin(), code.begin() + 5,
                         [](char c) { return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z'); }))
            continue;
        std::string sqlstate(code.substr(0, 5));
        message.erase(at + 3, 7);
        if (const auto place = message.rfind(":  "); place != std::string::npos && place > at + 3)
            message.erase(message.rfind(' ', place));
        return sqlstate;
    }
    return {};
}

std::vector<std::string> known_by_libpq(const pg_conn* pg) {
    std::vector<std::string> values;
    for (const auto& [name, settable] : kReported) {
        const char* value = PQparameterStatus(pg, name);
        values.emplace_back(value ? value : "");
    }
    return values;
}

void drop_notifications(pg_conn* pg) {
    while (PGnotify* notification = PQnotifies(pg)) PQfreemem(notification);
}

void ignore_notices(pg_conn* pg) {
    PQsetNoticeReceiver(
        pg, [](void*, const PGresult*) {}, nullptr);
}

}  // namespace

Connection::Connection(const ConnectPlan& plan, const Settings& settings) : session_(settings) {
    pg_ = PQconnectStartParams(plan.keywords(), plan.values(), 0);
    if (!pg_) throw Error(ErrorKind::internal, "out of memory while opening a connection");
    ignore_notices(pg_);
    PQsetErrorVerbosity(pg_, PQERRORS_VERBOSE);  // see take_sqlstate()
    fd_ = PQsocket(pg_);
}

Connection::~Connection() {
    // libpq would say goodbye in the midst of a message.
    if (pg_ && (is_lost() || session_.output().is_half_sent())) hang_up();
    PQfinish(pg_);
    if (own_fd_ >= 0) close(own_fd_);
}

// While it is lent, libpq closes its descriptor as soon as it sees the end, and the number may name anything from then
// on. The keeper, which watches the socket or shuts it down under a lease, needs one that lives as long as the
// connection.
void Connection::own_descriptor() {
    own_fd_ = fcntl(fd_, F_DUPFD_CLOEXEC, 0);
    if (own_fd_ < 0)
        throw Error(ErrorKind::internal, std::string("a socket could not be duplicated: ") +
                                             std::generic_category().message(errno) +
                                             ". Suggestion: raise the limit on open files (ulimit -n)");
    fd_ = own_fd_;
    struct stat socket;
    if (fstat(fd_, &socket) == 0) socket_inode_ = socket.st_ino;
}

std::size_t Connection::host_in(const ConnectPlan& plan) const {
    const auto text = [](const char* value) { return std::string(value ? value : ""); };
    const auto hosts = plan.hosts();
    const ConnectPlan::Host tried{text(PQhost(pg_)), text(PQhostaddr(pg_)), text(PQport(pg_))};
    const auto found = std::find_if(hosts.begin(), hosts.end(), [&](const auto& host) {
        return host.name == tried.name && host.port == tried.port &&
               (host.address.empty() || host.address == tried.address);
    });
    return found == hosts.end() ? 0 : static_cast<std::size_t>(found - hosts.begin());
}

Progress Connection::connect_step() {
    const PostgresPollingStatusType status =
        PQstatus(pg_) == CONNECTION_BAD ? PGRES_POLLING_FAILED : PQconnectPoll(pg_);
    fd_ = PQsocket(pg_);
    if (PQstatus(pg_) == CONNECTION_AUTH_OK) drop_notifications(pg_);  // which it would keep
    switch (status) {
        case PGRES_POLLING_READING:
            return Progress::read;
        case PGRES_POLLING_WRITING:
            return Progress::write;
        case PGRES_POLLING_OK:
            return Progress::done;
        default:
            break;
    }
    std::string message = trimmed(PQerrorMessage(pg_));
    std::string sqlstate = take_sqlstate(message);
    if (sqlstate.empty() && PQconnectionNeedsPassword(pg_)) sqlstate = "28P01";
    throw Error(ErrorKind::connection_lost, message, sqlstate);
}

// The session is ours from here on. What libpq has read behind the greeting is taken from it first; half a message that
// it may hold is missed by the first answer, which then does not fit.
void Connection::begin_session() {
    PQsetErrorVerbosity(pg_, PQERRORS_DEFAULT);
    drop_notifications(pg_);
    own_descriptor();
    channel_ = Channel(pg_, fd_);
    backend_pid_ = PQbackendPID(pg_);
    take_parameters();
    const char* options = PQoptions(pg_);
    session_.begin(backend_pid_, options && *options);
    write();
}

// What libpq has heard since the session was ours.
void Connection::take_parameters() {
    const auto known = known_by_libpq(pg_);
    for (std::size_t i = 0; i < known.size(); i++)
        if (!known[i].empty() && (known_when_lent_.empty() || known[i] != known_when_lent_[i]))
            session_.set_parameter(kReported[i].name, known[i]);
}

void Connection::begin(const Statement* statement, Check check) {
    cancels_.clear();
    session_.begin(statement, check);
    write();
}

void Connection::begin_reset() {
    cancels_.clear();
    session_.begin_reset();
    write();
}

// False where nothing more can be written.
bool Connection::write() {
    OutputBuffer& output = session_.output();
    for (auto unsent = output.unsent(); !unsent.empty(); unsent = output.unsent()) {
        const auto [bytes, state] = channel_.write(unsent);
        output.note_sent(bytes);
        if (state == Channel::State::ended) {
            session_.note_unwritten();
            return false;
        }
        if (state != Channel::State::open) break;
    }
    return true;
}

Channel::State Connection::read() {
    InputBuffer& input = session_.input();
    for (std::size_t all = 0;;) {
        const auto room = input.room();
        const auto [bytes, state] = channel_.read(room.data, room.size);
        if (state != Channel::State::open) return state;
        input.add(bytes);
        all += bytes;
        if (session_.take()) return state;
        // Less than it could have been: that is all there is.
        if (!channel_.has_more() && (bytes < room.size || all >= kMostAtOnce)) return Channel::State::wants_read;
    }
}

Progress Connection::advance() {
    const bool could_write = write();
    const auto state = is_lost() ? Channel::State::ended : read();
    const bool is_over = state == Channel::State::ended || !could_write;
    if (!is_over && !session_.is_done())
        return wants_to_write() || state == Channel::State::wants_write ? Progress::write : Progress::read;
    if (is_over && !(is_busy() && session_.is_done())) session_.lose(channel_.failure());
    session_.end_batch();
    return Progress::done;
}

void Connection::end_lease(Nanos now) {
    last_used_ = now;
    session_.end_lease();
}

static TransactionStatus status_by_libpq(const pg_conn* pg) {
    const auto status = PQtransactionStatus(pg);
    return status == PQTRANS_INTRANS   ? TransactionStatus::open
           : status == PQTRANS_INERROR ? TransactionStatus::failed
                                       : TransactionStatus::idle;
}

TransactionStatus Connection::transaction_status() const {
    return lent_ ? status_by_libpq(pg_) : session_.transaction_status();
}

std::shared_ptr<CancelRequest> Connection::cancel_from_outside() const { return std::make_shared<CancelRequest>(pg_); }

std::shared_ptr<CancelRequest> Connection::make_cancel() { return cancels_.emplace_back(cancel_from_outside()); }

bool Connection::settle() {
    if (is_busy() && !cancels_.empty()) return false;
    std::erase_if(cancels_, [](const auto& request) { return request->call_off(); });
    return cancels_.empty();
}

bool Connection::wait_until_settled(Nanos deadline) {
    return std::all_of(cancels_.begin(), cancels_.end(),
                       [deadline](const auto& request) { return request->wait_until_called_off(deadline); });
}

std::string Connection::loss_message() const { return on_one_line(session_.loss_message()); }

void Connection::hear_farewell() {
    if (is_busy() || lent_ || is_lost()) return;
    read();
}

void Connection::hang_up() const { shutdown(fd_, SHUT_RDWR); }

// A program that becomes a daemon closes what it has inherited, and the number may name a file of its own by then.
bool Connection::is_own_socket(int fd) const {
    struct stat now;
    return fstat(fd, &now) == 0 && S_ISSOCK(now.st_mode) && now.st_ino == socket_inode_;
}

// PQfinish would say goodbye on the parent's session, so the socket is replaced by something that takes no words.
void Connection::abandon_after_fork(bool in_use) {
    const int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
    bool is_closed = nothing < 0;
    for (const int fd : {PQsocket(pg_), own_fd_}) {
        if (fd < 0) continue;
        if (nothing >= 0 && is_own_socket(fd))
            dup2(nothing, fd);
        else
            is_closed = true;
    }
    if (nothing >= 0) close(nothing);
    mark_lost();
    if (in_use || is_closed) return;  // its buffers may be in any state, its descriptors another's: left alone
    PQfinish(pg_);
    pg_ = nullptr;
    if (own_fd_ >= 0) close(own_fd_);
    fd_ = own_fd_ = -1;
}

// Of a command that was given to libpq.
bool Connection::finish_by_libpq(Nanos deadline) {
    for (;;) {
        const int left = PQflush(pg_);
        if (left < 0 || PQconsumeInput(pg_) != 1) return false;
        if (!PQisBusy(pg_)) break;
        const Nanos now = monotonic_now();
        pollfd socket{PQsocket(pg_), static_cast<short>(left > 0 ? POLLIN | POLLOUT : POLLIN), 0};
        if (now >= deadline) return false;
        if (poll(&socket, 1, static_cast<int>((deadline - now) / kMillisecond + 1)) < 0 && errno != EINTR) return false;
    }
    while (PGresult* result = PQgetResult(pg_)) {
        const auto status = PQresultStatus(result);
        PQclear(result);
        if (status != PGRES_EMPTY_QUERY && status != PGRES_TUPLES_OK) return false;
    }
    return PQstatus(pg_) == CONNECTION_OK;
}

// An empty query says nothing, and its end tells libpq whether a transaction is open. A setting is reported when it
// changes: it goes to what libpq takes it for, and back.
bool Connection::tell_libpq(Nanos deadline) {
    if (PQsendQuery(pg_, "") != 1 || !finish_by_libpq(deadline)) return false;
    const auto transaction = session_.transaction_status();
    if (transaction == TransactionStatus::failed) return true;
    for (const auto& [name, settable] : kReported) {
        const char* taken_for = PQparameterStatus(pg_, name);
        if (!settable || !taken_for) continue;
        const std::string known = taken_for, is(session_.parameter(name));
        if (known == is) continue;
        for (const std::string& value : {known, is}) {
            const char* const values[] = {name, value.c_str(), transaction == TransactionStatus::open ? "t" : "f"};
            const char* const sql = "SELECT pg_catalog.set_config($1, $2, $3)";
            if (PQsendQueryParams(pg_, sql, 3, nullptr, values, nullptr, nullptr, 0) != 1 || !finish_by_libpq(deadline))
                return false;
        }
    }
    return true;
}

pg_conn* Connection::lend(Nanos patience) {
    if (lent_) return pg_;
    if (is_busy() || is_lost()) return nullptr;
    if (!session_.input().is_empty() || !tell_libpq(deadline_after(monotonic_now(), patience))) {
        session_.lose(PQerrorMessage(pg_));
        break_off();
        return nullptr;
    }
    for (const char* name : {"client_encoding", "standard_conforming_strings"}) {
        const char* known = PQparameterStatus(pg_, name);
        if (session_.parameter(name) != (known ? known : ""))
            throw Error(ErrorKind::unsupported,
                        std::string("the raw connection cannot be had while the transaction has failed and ") + name +
                            " is '" + std::string(session_.parameter(name)) +
                            "': libpq's escaping functions cannot be told of it. Suggestion: roll back first");
    }
    known_when_lent_ = known_by_libpq(pg_);
    lent_ = true;
    return pg_;
}

bool Connection::take_back(Nanos patience) {
    if (!std::exchange(lent_, false)) return true;
    const bool is_same =
        PQstatus(pg_) == CONNECTION_OK && is_own_socket(PQsocket(pg_)) && PQbackendPID(pg_) == backend_pid_;
    if (!is_same) session_.lose(PQerrorMessage(pg_));
    session_.note_foreign_words();
    if (is_lost()) return false;
    if (PQtransactionStatus(pg_) == PQTRANS_ACTIVE || PQpipelineStatus(pg_) != PQ_PIPELINE_OFF) {
        lent_ = true;
        return false;
    }
    // As it was given.
    PQuntrace(pg_);
    PQsetnonblocking(pg_, 0);
    ignore_notices(pg_);
    if (patience > 0 && (PQsendQuery(pg_, "") != 1 || !finish_by_libpq(deadline_after(monotonic_now(), patience)))) {
        session_.lose(PQerrorMessage(pg_));
        return false;
    }
    drop_notifications(pg_);
    PQsetErrorVerbosity(pg_, PQERRORS_DEFAULT);
    PQsetErrorContextVisibility(pg_, PQSHOW_CONTEXT_ERRORS);
    session_.set_transaction_status(status_by_libpq(pg_));
    try {
        take_parameters();
    } catch (const std::bad_alloc&) {  // a release cannot fail: the connection is replaced
        break_off();
        return false;
    }
    return true;
}

}  // namespace pqpool
