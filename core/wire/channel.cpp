#include "core/wire/channel.hpp"

#include <dlfcn.h>
#include <libpq-fe.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <system_error>
#include <utility>

#include "core/base/error.hpp"

namespace pqpool {

namespace {

// A TLS session can be used by the library alone that made it, and a process may hold several. So its functions are
// looked up among those that libpq itself is linked with.
struct Tls {
    decltype(&SSL_read) read = nullptr;
    decltype(&SSL_write) write = nullptr;
    decltype(&SSL_get_error) get_error = nullptr;
    decltype(&SSL_pending) pending = nullptr;
    decltype(&ERR_clear_error) clear_error = nullptr;
    decltype(&ERR_get_error) next_error = nullptr;
    decltype(&ERR_error_string_n) describe = nullptr;

    Tls() {
        Dl_info libpq;
        if (!dladdr(reinterpret_cast<void*>(&PQconnectStartParams), &libpq)) return;
        void* const library = dlopen(libpq.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
        if (!library) return;
        find(library, "SSL_read", read);
        find(library, "SSL_write", write);
        find(library, "SSL_get_error", get_error);
        find(library, "SSL_pending", pending);
        find(library, "ERR_clear_error", clear_error);
        find(library, "ERR_get_error", next_error);
        find(library, "ERR_error_string_n", describe);
    }
    bool is_whole() const { return read && write && get_error && pending && clear_error && next_error && describe; }

  private:
    template <class Function>
    static void find(void* library, const char* name, Function& function) {
        function = reinterpret_cast<Function>(dlsym(library, name));
    }
};

const Tls& tls() {
    static const Tls library;
    return library;
}

SSL* session(void* tls) { return static_cast<SSL*>(tls); }

// A record's worth: OpenSSL writes all that it is given, or nothing.
constexpr std::size_t kMostOfTls = 16 << 10;

std::string words_of(int error) { return std::generic_category().message(error); }

constexpr const char* kEnded = "the server closed the connection unexpectedly";

}  // namespace

Channel::Channel(pg_conn* pg, int socket) : socket_(socket) {
    if (PQgssEncInUse(pg))
        throw Error(
            ErrorKind::unsupported,
            "encryption by GSSAPI is not supported. Suggestion: set gssencmode=disable, and sslmode=require for "
            "an encrypted connection (authentication by Kerberos works)");
    if (!PQsslInUse(pg)) return;
    tls_ = PQsslStruct(pg, "OpenSSL");
    if (!tls_ || !tls().is_whole())
        throw Error(ErrorKind::unsupported,
                    "libpq's TLS library is not OpenSSL, or cannot be reached. Suggestion: use a libpq "
                    "that is linked with OpenSSL, or sslmode=disable");
}

// NOLINTBEGIN(clang-analyzer-core.CallAndMessage): where the library is not whole, the constructor threw

Channel::Moved Channel::read(char* into, std::size_t size) {
    if (tls_) {
        tls().clear_error();
        errno = 0;
        return judge(tls().read(session(tls_), into, static_cast<int>(std::min<std::size_t>(size, INT_MAX))),
                     "receive");
    }
    for (;;) {
        const ssize_t got = recv(socket_, into, size, 0);
        if (got > 0) return {static_cast<std::size_t>(got), State::open};
        if (got == 0) return end(kEnded);
        if (errno == EINTR) continue;
        if (errno == EAGAIN || errno == EWOULDBLOCK) return {0, State::wants_read};
        return end("could not receive data from the server: " + words_of(errno));
    }
}

Channel::Moved Channel::write(std::string_view bytes) {
    if (tls_) {
        tls().clear_error();
        errno = 0;
        return judge(tls().write(session(tls_), bytes.data(), static_cast<int>(std::min(bytes.size(), kMostOfTls))),
                     "send");
    }
    for (;;) {
        const ssize_t sent = send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
        if (sent >= 0) return {static_cast<std::size_t>(sent), State::open};
        if (errno == EINTR) continue;
        if (errno == EAGAIN || errno == EWOULDBLOCK) return {0, State::wants_write};
        return end("could not send data to the server: " + words_of(errno));
    }
}

Channel::Moved Channel::judge(int result, const char* doing) {
    if (result > 0) return {static_cast<std::size_t>(result), State::open};
    const int system = errno;
    switch (tls().get_error(session(tls_), result)) {
        case SSL_ERROR_WANT_READ:
            return {0, State::wants_read};
        case SSL_ERROR_WANT_WRITE:
            return {0, State::wants_write};
        case SSL_ERROR_ZERO_RETURN:
            return end(kEnded);
        case SSL_ERROR_SYSCALL:
            if (result == 0 || system == 0) return end(kEnded);
            return end(std::string("could not ") + doing + " data over TLS: " + words_of(system));
        default: {
            char words[256] = "";
            if (const auto error = tls().next_error()) tls().describe(error, words, sizeof words);
            tls().clear_error();  // the thread may use the library for itself
            return end(std::string("could not ") + doing + " data over TLS: " + words);
        }
    }
}

Channel::Moved Channel::end(std::string failure) {
    if (failure_.empty()) failure_ = std::move(failure);
    return {0, State::ended};
}

bool Channel::has_more() const { return tls_ && tls().pending(session(tls_)) > 0; }

// NOLINTEND(clang-analyzer-core.CallAndMessage)

}  // namespace pqpool
