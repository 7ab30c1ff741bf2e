// Where to connect: libpq's keywords, with the pool's own additions.
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace pqpool {

class ConnectPlan {
  public:
    using Addresses = std::map<std::string, std::vector<std::string>>;  // by host name

    // Throws Error(configuration) where libpq cannot read the conninfo; the message holds no password.
    explicit ConnectPlan(std::string_view database_url);
    ConnectPlan(const ConnectPlan& other) : settings_(other.settings_), hidden_(other.hidden_) { point(); }
    ConnectPlan(ConnectPlan&&) = default;
    ConnectPlan& operator=(ConnectPlan&&) = default;

    bool needs_resolution() const { return !names().empty(); }
    std::vector<std::string> names() const;  // of hosts that have no address; each once
    // Blocks in the system's resolver. Throws Error(connection_lost).
    static std::vector<std::string> look_up(const std::string& name);
    // The same plan with an address for each host; names that were not found are left out. None where no host is left.
    std::optional<ConnectPlan> with_addresses(const Addresses& found) const;
    std::size_t host_count() const { return hosts().size(); }
    ConnectPlan beginning_with(std::size_t host) const;  // the same hosts, in turn from that one on
    std::string describe() const;                        // "host db1 port 5432 database app user web"
    std::string name() const;                            // "db1:5432/app"
    // libpq's or the server's words on a connect. They stay as they are, but where they quote what may be a part of the
    // password.
    std::string masked(std::string words) const;

    const char* const* keywords() const { return keyword_pointers_.data(); }
    const char* const* values() const { return value_pointers_.data(); }

    struct Host {
        std::string name, address, port;
        bool operator==(const Host&) const = default;
    };
    std::vector<Host> hosts() const;

  private:
    void set(std::string_view keyword, std::string value);
    std::string get(std::string_view keyword) const;
    std::string shown(std::string_view keyword) const;
    void set_hosts(const std::vector<Host>& hosts);
    void add_defaults();
    void point();

    std::vector<std::pair<std::string, std::string>> settings_;
    std::vector<std::string> hidden_;  // values that may be parts of the password
    std::vector<const char*> keyword_pointers_, value_pointers_;
};

}  // namespace pqpool
