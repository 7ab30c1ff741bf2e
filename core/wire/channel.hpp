// The way between a session and its server: the socket or the TLS session that libpq has opened, without waiting.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

struct pg_conn;

namespace pqpool {

class Channel {
  public:
    enum class State {
        open,
        ended,       // the other side said so, or broke off: failure() tells how
        wants_read,  // before it goes on
        wants_write,
    };
    struct Moved {
        std::size_t bytes = 0;
        State state = State::open;
    };

    Channel() = default;
    // Of an open connection; socket stays the caller's. Throws Error(unsupported) for a way that is not known.
    Channel(pg_conn* pg, int socket);

    Moved read(char* into, std::size_t size);
    // After wants_read or wants_write the same bytes are to be given again, with more behind them or not.
    Moved write(std::string_view bytes);
    // Whether more has come than the socket tells.
    bool has_more() const;
    const std::string& failure() const { return failure_; }

  private:
    Moved judge(int result, const char* doing);
    Moved end(std::string failure);

    int socket_ = -1;
    void* tls_ = nullptr;
    std::string failure_;
};

}  // namespace pqpool
