#include "core/wire/protocol.hpp"

#include <algorithm>
#include <utility>

namespace pqpool {

namespace {

constexpr std::size_t kHead = 5;                              // tag and length
constexpr std::size_t kLengthItself = 4;                      // counts in the length
constexpr std::size_t kLongest = 0x3FFFFFFF + kLengthItself;  // what a server can hold in one piece
constexpr std::size_t kLongestShort = 30000;                  // of those that hold a name or two, as libpq has it
constexpr std::size_t kFirstRoom = 8 << 10, kLeastRoom = 4 << 10, kMostSpare = 256 << 10, kKept = 64 << 10;

bool may_be_long(char tag) {
    switch (tag) {
        case tag::kDataRow:
        case tag::kRowDescription:
        case tag::kParameterDescription:
        case tag::kCopyData:
        case tag::kError:
        case tag::kNotice:
        case tag::kNotification:
        case tag::kFunctionResult:
            return true;
        default:
            return false;
    }
}

template <class Unsigned>
char* put(char* at, Unsigned value) {
    for (std::size_t i = sizeof value; i-- > 0; value = static_cast<Unsigned>(value >> 8))
        at[i] = static_cast<char>(value & 0xff);
    return at + sizeof value;
}

char* put(char* at, std::string_view bytes) {
    if (!bytes.empty()) std::memcpy(at, bytes.data(), bytes.size());
    return at + bytes.size();
}

char* put_text(char* at, std::string_view text) {
    at = put(at, text);
    *at = '\0';
    return at + 1;
}

}  // namespace

const char* name_of_message(char tag) {
    switch (tag) {
        case tag::kAuthentication:
            return "an authentication request";
        case tag::kKeyData:
            return "key data";
        case tag::kParameterStatus:
            return "a parameter's status";
        case tag::kReadyForQuery:
            return "the end of a batch";
        case tag::kParseComplete:
            return "the end of a parse";
        case tag::kBindComplete:
            return "the end of a bind";
        case tag::kCloseComplete:
            return "the end of a close";
        case tag::kParameterDescription:
            return "a description of parameters";
        case tag::kRowDescription:
            return "a description of rows";
        case tag::kNoData:
            return "the word that there are no rows";
        case tag::kDataRow:
            return "a row";
        case tag::kCommandComplete:
            return "the end of a command";
        case tag::kEmptyQuery:
            return "the answer to an empty query";
        case tag::kPortalSuspended:
            return "the word that a portal rests";
        case tag::kError:
            return "an error";
        case tag::kNotice:
            return "a notice";
        case tag::kNotification:
            return "a notification";
        case tag::kCopyIn:
        case tag::kCopyOut:
        case tag::kCopyBoth:
            return "a COPY";
        case tag::kCopyData:
        case tag::kCopyDone:
            return "data of a COPY";
        case tag::kFunctionResult:
            return "a function's result";
        case tag::kNegotiateVersion:
            return "another version of the protocol";
        default:
            return "an unknown message";
    }
}

void BodyReader::too_short() const { throw ProtocolViolation(std::string(name_of_message(tag_)) + " that is cut off"); }
void BodyReader::too_long() const {
    throw ProtocolViolation(std::string(name_of_message(tag_)) + " with more than belongs into it");
}

std::string_view BodyReader::text() {
    const void* nul = at_ == end_ ? nullptr : std::memchr(at_, '\0', left());
    if (!nul) too_short();
    const std::string_view text(at_, static_cast<std::size_t>(static_cast<const char*>(nul) - at_));
    at_ += text.size() + 1;
    return text;
}

TransactionStatus read_ready_for_query(const Message& message) {
    BodyReader body(message);
    const char status = static_cast<char>(body.byte());
    body.end();
    switch (status) {
        case 'I':
            return TransactionStatus::idle;
        case 'T':
            return TransactionStatus::open;
        case 'E':
            return TransactionStatus::failed;
        default:
            throw ProtocolViolation("the end of a batch with a status of no known kind");
    }
}

ParameterStatus read_parameter_status(const Message& message) {
    BodyReader body(message);
    const std::string_view name = body.text();
    const ParameterStatus status{name, body.text()};
    body.end();
    return status;
}

std::string_view read_command_tag(const Message& message) {
    BodyReader body(message);
    const std::string_view text = body.text();
    body.end();
    return text;
}

void read_empty(const Message& message) { BodyReader(message).end(); }

void read_parameter_description(const Message& message) {
    BodyReader body(message);
    body.bytes(static_cast<std::uint16_t>(body.int16()) * sizeof(std::uint32_t));
    body.end();
}

void read_notification(const Message& message) {
    BodyReader body(message);
    body.int32();
    body.text();
    body.text();
    body.end();
}

void check_error_fields(const Message& message) {
    BodyReader body(message);
    while (body.byte() != '\0') body.text();
    body.end();
}

const char* error_field(std::string_view fields, char code) {
    for (std::size_t at = 0; at < fields.size() && fields[at] != '\0';) {
        const char* text = fields.data() + at + 1;
        if (fields[at] == code) return text;
        at += 1 + std::strlen(text) + 1;
    }
    return nullptr;
}

bool is_fatal(std::string_view fields) {
    const char* severity = error_field(fields, 'V');  // never translated; servers before 9.6 have it not
    if (!severity) severity = error_field(fields, 'S');
    return severity && (std::string_view(severity) == "FATAL" || std::string_view(severity) == "PANIC");
}

InputBuffer::Room InputBuffer::room() {
    if (begin_ == end_) {
        begin_ = end_ = 0;
    } else if (begin_ > 0 && capacity_ - end_ < kLeastRoom) {
        std::memmove(bytes_.get(), bytes_.get() + begin_, end_ - begin_);
        end_ -= begin_;
        begin_ = 0;
    }
    if (capacity_ - end_ < kLeastRoom) {
        const std::size_t capacity = std::max(kFirstRoom, capacity_ * 2);
        auto bytes = std::make_unique_for_overwrite<char[]>(capacity);
        if (end_ > 0) std::memcpy(bytes.get(), bytes_.get(), end_);
        bytes_ = std::move(bytes);
        capacity_ = capacity;
    }
    return {bytes_.get() + end_, std::min(capacity_ - end_, kMostSpare)};
}

void InputBuffer::add(std::size_t count) { end_ += count; }

std::optional<Message> InputBuffer::next() {
    if (end_ - begin_ < kHead) return {};
    const char* head = bytes_.get() + begin_;
    const std::size_t length = BodyReader::big_endian<std::uint32_t>(head + 1);
    if (length < kLengthItself || length > (may_be_long(*head) ? kLongest : kLongestShort))
        throw ProtocolViolation(std::string(name_of_message(*head)) + " of impossible length");
    if (end_ - begin_ < 1 + length) return {};
    begin_ += 1 + length;
    return Message{*head, {head + kHead, length - kLengthItself}};
}

void InputBuffer::reset() { begin_ = end_ = 0; }

void InputBuffer::shrink() {
    if (capacity_ <= kKept || !is_empty()) return;
    bytes_.reset();
    capacity_ = 0;
    reset();
}

// One message: its room, made at once, and where to write next.
class OutputBuffer::Adding {
  public:
    Adding(std::string& bytes, char tag, std::size_t body) : begin_(bytes.size()) {
        bytes.resize(begin_ + kHead + body);
        at = bytes.data() + begin_;
        *at++ = tag;
        at = put(at, static_cast<std::uint32_t>(kLengthItself + body));
    }
    char* at;

  private:
    std::size_t begin_;
};

void OutputBuffer::parse(std::string_view name, std::string_view sql, const std::uint32_t* types, std::size_t count) {
    Adding message(bytes_, 'P', name.size() + 1 + sql.size() + 1 + 2 + count * 4);
    char* at = put_text(put_text(message.at, name), sql);
    at = put(at, static_cast<std::uint16_t>(count));
    for (std::size_t i = 0; i < count; i++) at = put(at, types[i]);
}

void OutputBuffer::bind(std::string_view name, const ParameterValue* values, std::size_t count, bool binary_result) {
    std::size_t size = 1 + name.size() + 1 + 2 + count * 2 + 2 + count * 4 + 4;
    for (std::size_t i = 0; i < count; i++)
        if (values[i].data) size += static_cast<std::size_t>(values[i].length);
    Adding message(bytes_, 'B', size);
    char* at = put_text(put_text(message.at, {}), name);
    at = put(at, static_cast<std::uint16_t>(count));
    for (std::size_t i = 0; i < count; i++) at = put(at, static_cast<std::uint16_t>(values[i].binary));
    at = put(at, static_cast<std::uint16_t>(count));
    for (std::size_t i = 0; i < count; i++) {
        const ParameterValue& value = values[i];
        at = put(at, static_cast<std::uint32_t>(value.data ? value.length : -1));
        if (value.data) at = put(at, std::string_view(value.data, static_cast<std::size_t>(value.length)));
    }
    at = put(at, std::uint16_t{1});
    put(at, static_cast<std::uint16_t>(binary_result));
}

void OutputBuffer::execute() {
    Adding message(bytes_, 'E', 1 + 4);
    put(put_text(message.at, {}), std::uint32_t{0});
}

void OutputBuffer::one_name(char tag, char kind, std::string_view name) {
    Adding message(bytes_, tag, 1 + name.size() + 1);
    *message.at = kind;
    put_text(message.at + 1, name);
}

void OutputBuffer::sync() { Adding(bytes_, 'S', 0); }

void OutputBuffer::query(std::string_view script) {
    Adding message(bytes_, 'Q', script.size() + 1);
    put_text(message.at, script);
}

void OutputBuffer::note_sent(std::size_t count) {
    sent_ += count;
    if (sent_ == bytes_.size()) clear();
}

void OutputBuffer::clear() {
    bytes_.clear();
    sent_ = 0;
    if (bytes_.capacity() > kKept) bytes_.shrink_to_fit();
}

}  // namespace pqpool
