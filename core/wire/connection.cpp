// A connection's life. What passes over it: connection_wire.cpp.
#include "core/wire/connection.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <libpq-fe.h>
#include <netdb.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <new>

#include "core/base/options.hpp"
#include "core/base/secrets.hpp"
#include "core/base/text.hpp"

namespace pqpool {

namespace {

std::string trimmed(const char* message) {
    std::string text = on_one_line(message ? message : "");
    while (!text.empty() && text.back() == ' ') text.pop_back();
    return text;
}

std::vector<std::string> split(const std::string& list) {
    std::vector<std::string> items(1);
    for (char c : list) {
        if (c == ',')
            items.emplace_back();
        else
            items.back().push_back(c);
    }
    return items;
}

bool is_address_or_socket(const std::string& host) {
    in6_addr address;
    return host.empty() || host[0] == '/' || host[0] == '@' || inet_pton(AF_INET, host.c_str(), &address) == 1 ||
           inet_pton(AF_INET6, host.c_str(), &address) == 1;
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

// libpq quotes the piece that it stumbled over, which may be a password or a part of one. Shown is only the name of a
// parameter, which stands before a value in what may be shown of the text.
std::string without_values(const std::string& message, const std::string& conninfo) {
    const auto sign = message.find("\"=\"");  // as in: missing "=" after
    const auto open = message.find('"', sign == std::string::npos ? 0 : sign + 3);
    if (open == std::string::npos) return message;
    const std::string piece = message.substr(open + 1, message.rfind('"') - std::min(message.rfind('"'), open + 1));
    const bool name = !piece.empty() && std::all_of(piece.begin(), piece.end(),
                                                    [](unsigned char c) { return std::isalnum(c) || c == '_'; });
    if (name && mask_password(conninfo).find(piece + "=") != std::string::npos) return message;
    return message.substr(0, open) + "(not shown)";
}

}  // namespace

ConnectPlan::ConnectPlan(std::string_view database_url) {
    const std::string conninfo = libpq_conninfo(database_url);
    char* problem = nullptr;
    PQconninfoOption* parsed = PQconninfoParse(conninfo.c_str(), &problem);
    if (!parsed) {
        const std::string text = without_values(trimmed(problem), conninfo);
        PQfreemem(problem);
        if (text.empty() || text == "out of memory") throw std::bad_alloc();
        throw Error(
            ErrorKind::configuration,
            "database_url is not a valid connection string: " + text +
                ". Suggestion: write it as postgresql://user@host:5432/database and percent-encode special characters");
    }
    const std::string shown = percent_decoded(mask_password(conninfo));
    for (const PQconninfoOption* o = parsed; o->keyword; o++) {
        if (!o->val) continue;
        settings_.emplace_back(o->keyword, o->val);
        // A password that is not percent-encoded can end up, in part, in the fields beside it.
        for (const char* field : {"host", "hostaddr", "port", "dbname", "user"})
            if (std::strcmp(field, o->keyword) == 0)
                for (const auto& value : split(o->val))
                    if (!value.empty() && shown.find(value) == std::string::npos) hidden_.push_back(value);
    }
    PQconninfoFree(parsed);
    add_defaults();
    point();
}

// What libpq would take from the environment decides whether a name has to be resolved, so it is taken here.
void ConnectPlan::add_defaults() {
    PQconninfoOption* defaults = PQconndefaults();
    if (!defaults) throw std::bad_alloc();
    for (const PQconninfoOption* o = defaults; o->keyword; o++) {
        const std::string_view keyword = o->keyword;
        if (o->val && (keyword == "host" || keyword == "hostaddr" || keyword == "port" || keyword == "user") &&
            get(keyword).empty())
            set(keyword, o->val);
    }
    PQconninfoFree(defaults);
    if (get("dbname").empty()) set("dbname", get("user"));
    set("client_encoding", "UTF8");
    if (get("fallback_application_name").empty()) set("fallback_application_name", "pqpool");
    // A peer that vanished without a word: data unacknowledged for this long breaks the connection, so that nothing
    // waits for it for ever.
    if (get("tcp_user_timeout").empty()) set("tcp_user_timeout", "30000");
    if (get("keepalives_idle").empty()) set("keepalives_idle", "60");
    if (get("keepalives_interval").empty()) set("keepalives_interval", "10");
    if (get("keepalives_count").empty()) set("keepalives_count", "3");
}

void ConnectPlan::set(std::string_view keyword, std::string value) {
    for (auto& [known, old] : settings_)
        if (known == keyword) {
            old = std::move(value);
            return;
        }
    settings_.emplace_back(keyword, std::move(value));
}

std::string ConnectPlan::get(std::string_view keyword) const {
    for (const auto& [known, value] : settings_)
        if (known == keyword) return value;
    return {};
}

void ConnectPlan::point() {
    keyword_pointers_.clear();
    value_pointers_.clear();
    for (const auto& [keyword, value] : settings_) {
        keyword_pointers_.push_back(keyword.c_str());
        value_pointers_.push_back(value.c_str());
    }
    keyword_pointers_.push_back(nullptr);
    value_pointers_.push_back(nullptr);
}

std::vector<ConnectPlan::Host> ConnectPlan::hosts() const {
    const auto names = split(get("host")), addresses = split(get("hostaddr")), ports = split(get("port"));
    const auto at = [](const std::vector<std::string>& list, std::size_t i) { return i < list.size() ? list[i] : ""; };
    std::vector<Host> hosts;
    for (std::size_t i = 0; i < std::max(names.size(), addresses.size()); i++)
        hosts.push_back({at(names, i), at(addresses, i), ports.size() == 1 ? ports[0] : at(ports, i)});
    return hosts;
}

void ConnectPlan::set_hosts(const std::vector<Host>& hosts) {
    std::string names, addresses, ports;
    bool any_address = false;
    for (std::size_t i = 0; i < hosts.size(); i++) {
        const char* comma = i ? "," : "";
        names += comma + hosts[i].name;
        addresses += comma + hosts[i].address;
        ports += comma + hosts[i].port;
        any_address |= !hosts[i].address.empty();
    }
    set("host", names);
    set("hostaddr", any_address ? addresses : "");
    set("port", ports);
    point();
}

std::vector<std::string> ConnectPlan::names() const {
    std::vector<std::string> names;
    for (const auto& host : hosts())
        if (host.address.empty() && !is_address_or_socket(host.name) &&
            std::find(names.begin(), names.end(), host.name) == names.end())
            names.push_back(host.name);
    return names;
}

std::vector<std::string> ConnectPlan::look_up(const std::string& name) {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* list = nullptr;
    if (const int error = getaddrinfo(name.c_str(), nullptr, &hints, &list); error != 0)
        throw Error(ErrorKind::connection_lost,
                    "could not translate host name \"" + name + "\" to address: " + gai_strerror(error));
    std::vector<std::string> found;
    for (const addrinfo* a = list; a; a = a->ai_next) {
        char text[NI_MAXHOST];
        if (getnameinfo(a->ai_addr, a->ai_addrlen, text, sizeof text, nullptr, 0, NI_NUMERICHOST) == 0)
            found.emplace_back(text);
    }
    freeaddrinfo(list);
    return found;
}

std::optional<ConnectPlan> ConnectPlan::with_addresses(const Addresses& found) const {
    std::vector<Host> reachable;
    for (const Host& host : hosts()) {
        if (!host.address.empty() || host.name.empty() || host.name[0] == '/' || host.name[0] == '@') {
            reachable.push_back(host);
        } else if (is_address_or_socket(host.name)) {
            reachable.push_back({host.name, host.name, host.port});
        } else if (const auto at = found.find(host.name); at != found.end()) {
            for (const auto& address : at->second) reachable.push_back({host.name, address, host.port});
        }
    }
    if (reachable.empty()) return {};
    ConnectPlan plan = *this;
    plan.set_hosts(reachable);
    return plan;
}

ConnectPlan ConnectPlan::beginning_with(std::size_t host) const {
    std::vector<Host> turned = hosts();
    std::rotate(turned.begin(), turned.begin() + static_cast<std::ptrdiff_t>(host % turned.size()), turned.end());
    ConnectPlan plan = *this;
    plan.set_hosts(turned);
    return plan;
}

std::string ConnectPlan::shown(std::string_view keyword) const {
    const std::string value = get(keyword);
    for (const auto& one : split(value))
        if (std::find(hidden_.begin(), hidden_.end(), one) != hidden_.end()) return "***";
    return value;
}

std::string ConnectPlan::describe() const {
    const std::string host = shown("host"), address = shown("hostaddr");
    return "host " +
           (!host.empty()      ? host
            : !address.empty() ? address
                               : "(local socket)") +
           " port " + shown("port") + " database " + shown("dbname") + " user " + shown("user");
}

std::string ConnectPlan::name() const {
    const std::string host = shown("host"), address = shown("hostaddr"), port = shown("port");
    return (!host.empty() ? host : address) + (port.empty() ? "" : ":" + port) + "/" + shown("dbname");
}

std::string ConnectPlan::masked(std::string words) const {
    for (const auto& value : hidden_) {
        const std::string quoted = '"' + value + '"';
        for (auto at = words.find(quoted); at != std::string::npos; at = words.find(quoted, at + 5))
            words.replace(at, quoted.size(), "\"***\"");
    }
    return words;
}

void CancelRequest::send() {
    {
        std::lock_guard lock(mutex_);
        if (called_off_) return;
        sending_++;
    }
    char problem[256];
    PQcancel(handle_.get(), problem, sizeof problem);  // a failure needs no answer: the batch's own deadline decides
    {
        std::lock_guard lock(mutex_);
        sending_--;
    }
    changed_.notify_all();
}

bool CancelRequest::call_off() {
    std::lock_guard lock(mutex_);
    called_off_ = true;
    return sending_ == 0;
}

bool CancelRequest::wait_until_called_off(Nanos deadline) {
    std::unique_lock lock(mutex_);
    const auto until = std::chrono::steady_clock::time_point(std::chrono::nanoseconds(deadline));
    called_off_ = true;
    return changed_.wait_until(lock, until, [this] { return sending_ == 0; });
}

bool CancelRequest::is_called_off() const {
    std::lock_guard lock(mutex_);
    return called_off_;
}

Connection::Connection(const ConnectPlan& plan, const Settings& settings)
    : settings_(settings), named_(settings.statement_cache_size) {
    parts_.reserve(16);  // before there is anything to close
    pg_ = PQconnectStartParams(plan.keywords(), plan.values(), 0);
    if (!pg_) throw Error(ErrorKind::internal, "out of memory while opening a connection");
    PQsetNoticeReceiver(
        pg_, [](void* self, const PGresult* notice) { on_notice(self, notice); }, this);
    PQsetErrorVerbosity(pg_, PQERRORS_VERBOSE);  // see take_sqlstate()
    fd_ = PQsocket(pg_);
}

Connection::~Connection() {
    end_question_about_floats();
    PQfinish(pg_);
    if (own_fd_ >= 0) close(own_fd_);
}

// libpq closes its descriptor as soon as it sees the end, on the owner's thread, and the number may name anything from
// then on. The keeper, which watches the socket or shuts it down under a lease, needs one that lives as long as the
// connection.
void Connection::own_descriptor() {
    own_fd_ = fcntl(fd_, F_DUPFD_CLOEXEC, 0);
    if (own_fd_ < 0)
        throw Error(ErrorKind::internal, std::string("a socket could not be duplicated: ") + std::strerror(errno) +
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

void Connection::note_transaction_status() {
    const auto status = PQtransactionStatus(pg_);
    transaction_status_ = status == PQTRANS_INTRANS   ? TransactionStatus::open
                          : status == PQTRANS_INERROR ? TransactionStatus::failed
                                                      : TransactionStatus::idle;
}

void Connection::end_lease(Nanos now) {
    last_used_ = now;
    if (!settings_.reset_never) settings_changed_ = settings_at_start_changed_;
    inherited_dirt_ |= lease_dirt_;
    lease_dirt_ = settings_.reset_always ? kDirtAll : kDirtNone;
    if (settings_.reset_never) inherited_dirt_ = kDirtNone;
}

std::shared_ptr<CancelRequest> Connection::make_cancel() {
    return cancels_.emplace_back(std::make_shared<CancelRequest>(cancel_handle_));
}

bool Connection::settle() {
    if (is_busy() && !cancels_.empty()) return false;
    std::erase_if(cancels_, [](const auto& request) { return request->call_off(); });
    return cancels_.empty();
}

bool Connection::wait_until_settled(Nanos deadline) {
    return std::all_of(cancels_.begin(), cancels_.end(),
                       [deadline](const auto& request) { return request->wait_until_called_off(deadline); });
}

std::string Connection::loss_message() const { return on_one_line(loss_message_); }

void Connection::hear_farewell() {
    if (is_busy() || raw_) return;
    PQconsumeInput(pg_);
    PQfreemem(PQnotifies(pg_));  // has libpq look at what it read; a FATAL comes by on_notice()
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
    lost_ = true;
    if (in_use || is_closed) return;  // its buffers may be in any state, its descriptors another's: left alone
    PQfinish(pg_);
    pg_ = nullptr;
    if (own_fd_ >= 0) close(own_fd_);
    fd_ = own_fd_ = -1;
}

pg_conn* Connection::raw() {
    if (is_busy() || lost_) return nullptr;
    if (!raw_) raw_ = PQexitPipelineMode(pg_) == 1;
    if (!raw_) return nullptr;
    PQsetnonblocking(pg_, 0);
    lease_dirt_ = kDirtAll;
    settings_changed_ = true;
    return pg_;
}

bool Connection::end_raw() {
    if (!raw_) return true;
    if (PQstatus(pg_) != CONNECTION_OK) lose();
    if (lost_ || PQtransactionStatus(pg_) == PQTRANS_ACTIVE) return false;
    raw_ = false;
    note_transaction_status();
    forget_names();
    names_are_unsure_ = true;
    return PQsetnonblocking(pg_, 1) == 0 && PQenterPipelineMode(pg_) == 1;
}

}  // namespace pqpool
