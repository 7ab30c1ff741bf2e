#include "core/wire/connect_plan.hpp"

#include <arpa/inet.h>
#include <libpq-fe.h>
#include <netdb.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "core/base/error.hpp"
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

std::string default_of(const PQconninfoOption* options, std::string_view keyword) {
    for (const PQconninfoOption* o = options; o->keyword; o++)
        if (o->keyword == keyword) return o->val ? o->val : "";
    return {};
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
    // Encryption by GSSAPI is libpq's alone: what it would only prefer is not asked for.
    const std::string gss = get("gssencmode").empty() ? default_of(defaults, "gssencmode") : get("gssencmode");
    PQconninfoFree(defaults);
    if (gss == "require")
        throw Error(
            ErrorKind::configuration,
            "gssencmode=require is not supported. Suggestion: set gssencmode=disable, and sslmode=require for an "
            "encrypted connection (authentication by Kerberos works)");
    set("gssencmode", "disable");
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

}  // namespace pqpool
