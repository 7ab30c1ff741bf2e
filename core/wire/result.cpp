#include "core/wire/result.hpp"

#include <libpq-fe.h>

#include <algorithm>
#include <iterator>

#include "core/base/text.hpp"

namespace pqpool {

void Result::clear() {
    PQclear(pg_);
    pg_ = nullptr;
    repaired_.reset();
}

const char* Result::as_utf8(const char* text) const {
    if (!text || is_utf8(text)) return text;
    if (!repaired_) repaired_ = std::make_unique<std::map<const char*, std::string>>();
    return repaired_->try_emplace(text, valid_utf8(text)).first->second.c_str();
}

int Result::rows() const { return PQntuples(pg_); }
int Result::columns() const { return PQnfields(pg_); }
const char* Result::column_name(int column) const { return as_utf8(PQfname(pg_, column)); }
std::uint32_t Result::column_type(int column) const { return PQftype(pg_, column); }
bool Result::is_binary() const { return PQnfields(pg_) > 0 && PQfformat(pg_, 0) == 1; }
const char* Result::value(int row, int column) const { return PQgetvalue(pg_, row, column); }
int Result::length(int row, int column) const { return PQgetlength(pg_, row, column); }
bool Result::is_null(int row, int column) const { return PQgetisnull(pg_, row, column) == 1; }
const char* Result::command_tag() const { return pg_ ? as_utf8(PQcmdStatus(pg_)) : ""; }
const char* Result::field(int code) const { return pg_ ? as_utf8(PQresultErrorField(pg_, code)) : nullptr; }

bool Result::is_fatal() const {
    const char* severity = field(PG_DIAG_SEVERITY_NONLOCALIZED);
    return severity && (std::string_view(severity) == "FATAL" || std::string_view(severity) == "PANIC");
}

std::string Result::message() const {
    if (!pg_) return {};
    const char* primary = PQresultErrorField(pg_, PG_DIAG_MESSAGE_PRIMARY);
    if (!primary || !PQresultErrorField(pg_, PG_DIAG_SQLSTATE)) return valid_utf8(PQresultErrorMessage(pg_));
    const char* severity = PQresultErrorField(pg_, PG_DIAG_SEVERITY);
    std::string words = std::string(severity ? severity : "ERROR") + ":  " + primary;
    if (const char* detail = PQresultErrorField(pg_, PG_DIAG_MESSAGE_DETAIL))
        words += std::string("\nDETAIL:  ") + detail;
    if (const char* hint = PQresultErrorField(pg_, PG_DIAG_MESSAGE_HINT)) words += std::string("\nHINT:  ") + hint;
    return valid_utf8(std::move(words));
}

bool Result::all_types_have_binary_form() const {
    for (int i = 0; i < columns(); i++)
        if (!has_binary_form(column_type(i))) return false;
    return columns() > 0;
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
