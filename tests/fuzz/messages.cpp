// Any bytes as what a server sent, in pieces of any size: messages, their readers, results.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>

#include "core/base/error.hpp"
#include "core/base/text.hpp"
#include "core/wire/protocol.hpp"
#include "core/wire/result.hpp"
#include "tests/fuzz/check.hpp"

using namespace pqpool;

namespace {

void read_all_of(const Result& result) {
    for (int column = 0; column < result.columns(); column++) {
        CHECK(is_utf8(result.column_name(column)));
        for (int row = 0; row < result.rows(); row++) {
            const char* value = result.value(row, column);
            const int length = result.length(row, column);
            CHECK(value[length] == '\0' && length >= 0);
            CHECK(!result.is_null(row, column) || length == 0);
            static volatile char last;
            for (int i = 0; i < length; i++) last = value[i];
        }
    }
    CHECK(is_utf8(result.command_tag()));
}

void read_error(const Message& message) {
    check_error_fields(message);
    const Result error = Result::of_error(message.body);
    std::size_t texts = 0;
    for (int code = -1; code < 260; code++)
        if (const char* text = error.field(code)) {
            CHECK(is_utf8(text));
            texts += std::strlen(text);
        }
    CHECK(texts <= 3 * message.body.size());
    CHECK(is_utf8(error.message()));
    is_fatal(message.body);
}

struct Reader {
    Result result;
    std::shared_ptr<const Columns> columns;

    void take(const Message& message) {
        CHECK(name_of_message(message.tag)[0] == 'a' || name_of_message(message.tag)[0] == 't' ||
              name_of_message(message.tag)[0] == 'k' || name_of_message(message.tag)[0] == 'd');
        switch (message.tag) {
            case tag::kReadyForQuery:
                read_ready_for_query(message);
                return;
            case tag::kParameterStatus:
                read_parameter_status(message);
                return;
            case tag::kParameterDescription:
                return read_parameter_description(message);
            case tag::kNotification:
                return read_notification(message);
            case tag::kError:
            case tag::kNotice:
                return read_error(message);
            case tag::kRowDescription:
                if (!columns || !columns->is_described_by(message.body))
                    columns = std::make_shared<const Columns>(message);
                columns->all_types_have_binary_form();
                return result.begin(columns);
            case tag::kDataRow:
                return result.add_row(message);
            case tag::kCommandComplete:
                result.end(read_command_tag(message));
                return read_all_of(result);
            default:
                return read_empty(message);
        }
    }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < 1) return 0;
    const std::size_t piece = 1 + data[0];
    const std::string bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
    InputBuffer input;
    Reader reader;
    std::size_t taken = 0;
    for (std::size_t at = 0; at < bytes.size();) {
        const auto room = input.room();
        CHECK(room.size > 0 && room.size <= 256 << 10);
        const std::size_t part = std::min({piece, room.size, bytes.size() - at});
        std::memcpy(room.data, bytes.data() + at, part);
        input.add(part);
        at += part;
        try {
            while (const auto message = input.next()) {
                CHECK(bytes[taken] == message->tag);
                CHECK(bytes.compare(taken + 5, message->body.size(), message->body) == 0);
                taken += 5 + message->body.size();
                CHECK(taken <= at);
                try {
                    reader.take(*message);
                } catch (const ProtocolViolation& violation) {
                    CHECK(*violation.what());
                    reader = {};
                }
            }
        } catch (const ProtocolViolation&) {
            return 0;
        }
    }
    read_all_of(reader.result);
    return 0;
}
