// PostgreSQL's protocol 3: bytes to messages and back, without I/O. The formats are those of the manual's chapter
// "Frontend/Backend Protocol". Whatever a server says is checked before it is used.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace pqpool {

// The server's side does not keep to the protocol: nothing that follows can be trusted. what() goes on from "the
// server's side sent".
class ProtocolViolation : public std::exception {
  public:
    explicit ProtocolViolation(std::string what) : what_(std::move(what)) {}
    const char* what() const noexcept override { return what_.c_str(); }

  private:
    std::string what_;
};

// Of the session, by the server's last word.
enum class TransactionStatus : std::int32_t { idle = 0, open = 1, failed = 2 };

// ---- from the server ----

// What a message begins with.
namespace tag {
inline constexpr char kAuthentication = 'R', kKeyData = 'K', kParameterStatus = 'S', kReadyForQuery = 'Z';
inline constexpr char kParseComplete = '1', kBindComplete = '2', kCloseComplete = '3';
inline constexpr char kParameterDescription = 't', kRowDescription = 'T', kNoData = 'n';
inline constexpr char kDataRow = 'D', kCommandComplete = 'C', kEmptyQuery = 'I', kPortalSuspended = 's';
inline constexpr char kError = 'E', kNotice = 'N', kNotification = 'A';
inline constexpr char kCopyIn = 'G', kCopyOut = 'H', kCopyBoth = 'W', kCopyData = 'd', kCopyDone = 'c';
inline constexpr char kFunctionResult = 'V', kNegotiateVersion = 'v';
}  // namespace tag

struct Message {
    char tag;
    std::string_view body;
};

// A message's name in the manual; "an unknown message" where it has none.
const char* name_of_message(char tag);

// Reads a message's body from its front. Throws ProtocolViolation where it is shorter than what it has to hold.
class BodyReader {
  public:
    explicit BodyReader(const Message& message)
        : at_(message.body.data()), end_(at_ + message.body.size()), tag_(message.tag) {}

    std::uint8_t byte() { return static_cast<std::uint8_t>(*take(1)); }
    std::int16_t int16() { return static_cast<std::int16_t>(big_endian<std::uint16_t>(take(2))); }
    std::int32_t int32() { return static_cast<std::int32_t>(big_endian<std::uint32_t>(take(4))); }
    std::string_view bytes(std::size_t count) { return {take(count), count}; }
    std::string_view text();  // up to a NUL, which follows it in memory
    std::size_t left() const { return static_cast<std::size_t>(end_ - at_); }
    void end() const {  // nothing may follow
        if (at_ != end_) too_long();
    }

    template <class Unsigned>
    static Unsigned big_endian(const char* bytes) {
        Unsigned value = 0;
        for (std::size_t i = 0; i < sizeof value; i++)
            value = static_cast<Unsigned>(value << 8 | static_cast<unsigned char>(bytes[i]));
        return value;
    }

  private:
    const char* take(std::size_t count) {
        if (left() < count) too_short();
        return std::exchange(at_, at_ + count);
    }
    [[noreturn]] void too_short() const;
    [[noreturn]] void too_long() const;

    const char *at_, *end_;
    char tag_;
};

TransactionStatus read_ready_for_query(const Message& message);
struct ParameterStatus {
    std::string_view name, value;
};
ParameterStatus read_parameter_status(const Message& message);
std::string_view read_command_tag(const Message& message);
void read_empty(const Message& message);  // of a message that says all by its tag
void read_parameter_description(const Message& message);
void read_notification(const Message& message);
// The fields of an error or a notice, each a code and a text; they are found with error_field().
void check_error_fields(const Message& message);
// nullptr where there is none. Ends with a NUL.
const char* error_field(std::string_view fields, char code);
bool is_fatal(std::string_view fields);  // the server ended the session with it

// What has come from the server, cut into messages.
class InputBuffer {
  public:
    struct Room {
        char* data;
        std::size_t size;
    };
    Room room();  // for what comes next; grows with what has come, never with what a length promises
    void add(std::size_t count);
    // The next whole message; its body is valid until room() or reset(). Throws ProtocolViolation.
    std::optional<Message> next();
    bool is_empty() const { return begin_ == end_; }
    void reset();   // what is left is dropped
    void shrink();  // where a huge message has made it grow; of an empty one

  private:
    std::unique_ptr<char[]> bytes_;
    std::size_t capacity_ = 0, begin_ = 0, end_ = 0;
};

// ---- to the server ----

// A parameter's bytes; no data is NULL.
struct ParameterValue {
    const char* data;
    std::int32_t length;
    bool binary;
};

// What is to be sent. Each call adds one message, whole or, where it throws std::bad_alloc, not at all.
class OutputBuffer {
  public:
    void parse(std::string_view name, std::string_view sql, const std::uint32_t* types, std::size_t count);
    // The unnamed portal; all columns in one form.
    void bind(std::string_view name, const ParameterValue* values, std::size_t count, bool binary_result);
    void describe_statement(std::string_view name) { one_name('D', 'S', name); }
    void describe_portal() { one_name('D', 'P', {}); }
    void execute();  // the unnamed portal, to its end
    void close_statement(std::string_view name) { one_name('C', 'S', name); }
    void sync();
    void query(std::string_view script);

    std::string_view unsent() const { return std::string_view(bytes_).substr(sent_); }
    void note_sent(std::size_t count);
    bool is_half_sent() const { return sent_ != 0; }
    void clear();

  private:
    class Adding;
    void one_name(char tag, char kind, std::string_view name);

    std::string bytes_;
    std::size_t sent_ = 0;
};

}  // namespace pqpool
