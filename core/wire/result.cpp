#include "core/wire/result.hpp"

#include <algorithm>
#include <iterator>
#include <limits>

#include "core/base/text.hpp"

namespace pqpool {

namespace {

constexpr std::size_t kLargestChunk = 256 << 10;
constexpr std::size_t kAlignment = 8;

constexpr std::size_t aligned(std::size_t size) { return (size + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

Columns::Columns(const Message& description) : description_(description.body) {
    BodyReader body({description.tag, description_});
    columns_.resize(static_cast<std::uint16_t>(body.int16()));
    for (Column& column : columns_) {
        column.name = body.text().data();
        if (!is_utf8(column.name)) {
            repaired_.push_back(std::make_unique<std::string>(valid_utf8(column.name)));
            column.name = repaired_.back()->c_str();
        }
        body.bytes(6);  // the table, and the column's number in it
        column.type = static_cast<std::uint32_t>(body.int32());
        body.bytes(6);  // the type's size and modifier
        const auto format = body.int16();
        if (format != 0 && format != 1) throw ProtocolViolation("a column in a form of no known kind");
        column.binary = format == 1;
    }
    body.end();
}

bool Columns::all_types_have_binary_form() const {
    return !columns_.empty() &&
           std::all_of(columns_.begin(), columns_.end(), [](const Column& c) { return has_binary_form(c.type); });
}

Result::Answer::~Answer() {
    for (char* chunk = newest_chunk; chunk;) {
        char* before;
        std::memcpy(static_cast<void*>(&before), chunk, sizeof before);
        delete[] std::exchange(chunk, before);
    }
}

char* Result::Answer::take(std::size_t size) {
    size = aligned(size);
    if (static_cast<std::size_t>(chunk_end - at) < size) {
        const std::size_t whole = std::max(next_chunk, kAlignment + size);
        char* chunk = new char[whole];
        std::memcpy(chunk, static_cast<const void*>(&newest_chunk), sizeof newest_chunk);
        newest_chunk = chunk;
        at = chunk + kAlignment;
        chunk_end = chunk + whole;
        next_chunk = std::min(next_chunk * 2, kLargestChunk);
    }
    return std::exchange(at, at + size);
}

void Result::begin(std::shared_ptr<const Columns> columns) {
    if (answer_ && (answer_->row_count > 0 || answer_->tag)) answer_.reset();  // a script's earlier statement
    answer().columns = std::move(columns);
}

// The row as it came, behind an index of its cells. Where a value ends the length of the next one begins, which is
// known by then: its first byte makes room for a NUL.
void Result::add_row(const Message& row) {
    Answer& answer = this->answer();
    BodyReader body(row);
    const std::size_t count = static_cast<std::uint16_t>(body.int16());
    if (!answer.columns || count != answer.columns->count())
        throw ProtocolViolation("a row with another number of columns than it has");
    if (answer.row_count == std::numeric_limits<std::int32_t>::max())
        throw Error(ErrorKind::unsupported, "a result of more than 2147483647 rows. Suggestion: use LIMIT or a cursor");
    const std::size_t size = body.left();
    char* const begin = answer.take(count * sizeof(Cell) + size + 1);
    Cell* const cells = reinterpret_cast<Cell*>(begin);
    char* const bytes = begin + count * sizeof(Cell);
    std::memcpy(bytes, body.bytes(size).data(), size);
    std::size_t at = 0;
    for (std::size_t i = 0; i < count; i++) {
        if (size - at < 4) throw ProtocolViolation("a row that is cut off");
        const auto length = static_cast<std::int32_t>(BodyReader::big_endian<std::uint32_t>(bytes + at));
        bytes[at] = '\0';
        at += 4;
        cells[i] = {static_cast<std::uint32_t>(count * sizeof(Cell) + at), length};
        if (length == -1) continue;  // NULL: what comes next puts a NUL in its place
        if (length < 0) throw ProtocolViolation("a value of impossible length");
        if (size - at < static_cast<std::size_t>(length)) throw ProtocolViolation("a row that is cut off");
        at += static_cast<std::size_t>(length);
    }
    if (at != size) throw ProtocolViolation("a row with more than belongs into it");
    bytes[size] = '\0';
    if (answer.row_count == 0) {
        answer.only_row = begin;
    } else {
        if (answer.row_count == 1) answer.rows.push_back(answer.only_row);
        answer.rows.push_back(begin);
    }
    answer.row_count++;
}

void Result::end(std::string_view command_tag) {
    char* tag = answer().take(command_tag.size() + 1);
    std::copy(command_tag.begin(), command_tag.end(), tag);
    tag[command_tag.size()] = '\0';
    answer_->tag = is_utf8(tag) ? tag : as_utf8(tag);
}

Result Result::of_error(std::string_view fields) {
    Result result;
    char* copy = result.answer().take(fields.size());
    std::copy(fields.begin(), fields.end(), copy);
    result.answer_->fields = {copy, fields.size()};
    return result;
}

const char* Result::as_utf8(const char* text) const {
    if (!text || is_utf8(text)) return text;
    auto& repaired = answer_->repaired;
    if (!repaired) repaired = std::make_unique<std::map<const char*, std::string>>();
    return repaired->try_emplace(text, valid_utf8(text)).first->second.c_str();
}

const char* Result::field(int code) const {
    if (!answer_ || code <= 0 || code > std::numeric_limits<signed char>::max()) return nullptr;
    return as_utf8(error_field(answer_->fields, static_cast<char>(code)));
}

std::string Result::message() const {
    const char* primary = field('M');
    if (!primary) return {};
    const char* severity = field('S');
    std::string words = std::string(severity ? severity : "ERROR") + ":  " + primary;
    if (const char* detail = field('D')) words += std::string("\nDETAIL:  ") + detail;
    if (const char* hint = field('H')) words += std::string("\nHINT:  ") + hint;
    return words;
}

bool has_binary_form(std::uint32_t type) {
    static constexpr std::uint32_t kTypes[] = {
        // bool bytea "char" name int8 int2 int4 text oid json float4 float8 bpchar varchar
        16, 17, 18, 19, 20, 21, 23, 25, 26, 114, 700, 701, 1042, 1043,
        // date time timestamp timestamptz interval timetz numeric void uuid jsonb
        1082, 1083, 1114, 1184, 1186, 1266, 1700, 2278, 2950, 3802,
        // int2vector tid xid cid oidvector cidr macaddr8 macaddr inet bit varbit pg_lsn jsonpath xid8
        22, 27, 28, 29, 30, 650, 774, 829, 869, 1560, 1562, 3220, 4072, 5069,
        // arrays of json bool bytea "char" name int2 int4 text bpchar varchar int8
        199, 1000, 1001, 1002, 1003, 1005, 1007, 1009, 1014, 1015, 1016,
        // arrays of float4 float8 oid timestamp date time timestamptz interval numeric timetz uuid jsonb
        1021, 1022, 1028, 1115, 1182, 1183, 1185, 1187, 1231, 1270, 2951, 3807};
    return std::find(std::begin(kTypes), std::end(kTypes), type) != std::end(kTypes);
}

}  // namespace pqpool
