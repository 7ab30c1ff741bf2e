// Any text as SQL: its tokens, its statements, and what they are said to leave behind.
#include <cstdint>
#include <string>
#include <string_view>

#include "core/wire/statement.hpp"
#include "tests/fuzz/check.hpp"

using namespace pqpool;

namespace {

bool is_blank(std::string_view text) {
    Scanner scanner(text);
    return scanner.next() == Token::end;
}

// Tokens stand in order with only blanks between, and each is the same where it stands alone.
void check_tokens(std::string_view sql, bool backslashes_escape) {
    Scanner scanner(sql, backslashes_escape);
    std::size_t end = 0;
    for (Token token; (token = scanner.next()) != Token::end;) {
        CHECK(scanner.start() >= end && scanner.end() > scanner.start() && scanner.end() <= sql.size());
        CHECK(is_blank(sql.substr(end, scanner.start() - end)));
        end = scanner.end();
        Scanner alone(sql.substr(scanner.start(), end - scanner.start()), backslashes_escape);
        CHECK(alone.next() == token);
        CHECK(alone.text() == scanner.text() || (token == Token::name && scanner.text().empty()));
        CHECK(alone.next() == Token::end);
    }
    CHECK(is_blank(sql.substr(end)));
}

void check_statements(std::string_view sql) {
    const auto statements = split_script(sql);
    const auto whole = classify(sql);
    StatementTraits all;
    std::size_t end = 0;
    for (const auto one : statements) {
        const auto start = static_cast<std::size_t>(one.data() - sql.data());
        CHECK(start >= end && start + one.size() <= sql.size() && !is_blank(one));
        CHECK(split_script(sql.substr(end, start - end)).empty());
        CHECK(end == 0 || sql[start - 1] == ';');
        end = start + one.size();
        CHECK(end == sql.size() || sql[end] == ';');
        CHECK(split_script(one).size() == 1 && split_script(one).front() == one);
        const auto traits = classify(one);
        CHECK(!traits.script && !(traits.ordinary && traits.dirt));
        CHECK(statements.size() > 1 || traits.ordinary == whole.ordinary);
        all.copy |= traits.copy;
        all.forgets_prepared |= traits.forgets_prepared;
        all.dirt |= traits.dirt;
    }
    CHECK(split_script(sql.substr(end)).empty());
    CHECK(whole.script == (statements.size() > 1) && !(whole.script && whole.ordinary));
    CHECK(whole.copy == all.copy && whole.forgets_prepared == all.forgets_prepared && whole.dirt == all.dirt);
}

void check_statement(const std::string& sql) {
    const Parameter parameters[] = {
        {.type = 25, .value = sql.c_str()},
        {.type = 17, .binary = true, .length = static_cast<std::int32_t>(sql.size()), .value = sql.data()},
        {}};
    Statement statement;
    statement.assign(sql, parameters, 3, ResultFormat::text);
    CHECK(statement.text() == sql);
    const ParameterValue* values = statement.values();
    CHECK(std::string_view(values[0].data, static_cast<std::size_t>(values[0].length)) == sql.c_str());
    CHECK(std::string_view(values[1].data, static_cast<std::size_t>(values[1].length)) == sql);
    CHECK(!values[0].binary && values[1].binary && !values[2].data);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string sql(reinterpret_cast<const char*>(data), size);
    check_tokens(sql, false);
    check_tokens(sql, true);
    check_statements(sql);
    check_statement(sql);
    return 0;
}
