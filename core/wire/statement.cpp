#include "core/wire/statement.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>
#include <string>

#include "core/base/error.hpp"

namespace pqpool {

namespace {

// What a word tells: in its low half the dirt of a function with this name, in its high half a mark.
using Telling = std::uint32_t;
constexpr Telling kChanges = 1 << 16, kInto = 1 << 17, kInserts = 1 << 18, kSelectsInto = 1 << 19, kCreates = 1 << 20,
                  kExecutes = 1 << 21, kHold = 1 << 22, kRole = 1 << 23, kDefaults = 1 << 24, kSettingsView = 1 << 25,
                  kSeed = 1 << 26, kSetConfig = 1 << 27;
constexpr Telling kTellingOfNames = 0xffff | kRole | kDefaults | kSettingsView | kSeed | kSetConfig;

constexpr std::uint16_t kDirtSetting = kDirtSettings | kDirtRole | kDirtDefaults | kDirtSeed;
// What can be done by a call whose name does not tell.
constexpr std::uint16_t kDirtCall = kDirtSetting | kDirtAdvisory | kDirtSequences | kDirtSlots;

struct TellingWord {
    std::string_view text;
    Telling telling;
    bool is_prefix = false;
};

constexpr TellingWord kTellingWords[] = {
    // sorted by their first letters
    {"authorization", kRole},
    {"characteristics", kDefaults},
    {"create", kCreates},
    {"default_transaction", kDefaults, true},
    {"delete", kChanges},
    {"execute", kExecutes},
    {"hold", kHold},
    {"insert", kChanges | kInserts},
    {"into", kInto},
    {"merge", kChanges | kInserts},
    {"nextval", kDirtSequences},
    {"pg_advisory_lock", kDirtAdvisory, true},
    {"pg_copy_", kDirtSlots, true},  // …_replication_slot
    {"pg_create_", kDirtSlots, true},
    {"pg_replication_origin_session_setup", kDirtOrigin},
    {"pg_settings", kSettingsView},
    {"pg_try_advisory_lock", kDirtAdvisory, true},
    {"query_to_xml", kDirtCall, true},  // runs a statement that it is given as a string, as do ts_stat and ts_rewrite
    {"role", kRole},
    {"seed", kSeed},
    {"session_authorization", kRole},
    {"set_config", kSetConfig},
    {"set_limit", kDirtSettings},  // of pg_trgm
    {"setseed", kDirtSeed},
    {"setval", kDirtSequences},
    {"share", kChanges},  // SELECT … FOR SHARE marks rows, as FOR UPDATE does
    {"ts_rewrite", kDirtCall},
    {"ts_stat", kDirtCall},
    {"update", kChanges},
};

constexpr int kLetters = 26;

// Where in the table the words of a letter begin.
constexpr auto kFirstOfLetter = [] {
    std::array<std::uint8_t, kLetters + 1> first{};
    for (int letter = 0; letter <= kLetters; letter++)
        while (first[letter] < std::size(kTellingWords) && kTellingWords[first[letter]].text[0] < 'a' + letter)
            first[letter]++;
    return first;
}();

Telling telling_of(std::string_view word) {
    if (word.empty()) return kDirtCall;  // a name that cannot be told
    const int letter = word[0] - 'a';
    if (letter < 0 || letter >= kLetters) return 0;
    for (auto i = kFirstOfLetter[letter]; i < kFirstOfLetter[letter + 1]; i++) {
        const auto& one = kTellingWords[i];
        if (one.is_prefix ? word.starts_with(one.text) : word == one.text) return one.telling;
    }
    return 0;
}

// What a setting leaves behind besides itself: RESET ALL undoes neither roles nor the seed.
std::uint16_t dirt_of_setting(Telling told) {
    return kDirtSettings | (told & kRole ? kDirtRole : 0) | (told & kDefaults ? kDirtDefaults : 0) |
           (told & kSeed ? kDirtSeed : 0);
}

// Of a call of set_config, whose arguments follow. Only a plain literal tells the setting.
std::uint16_t dirt_of_set_config(std::string_view arguments, bool backslashes_escape) {
    Scanner scanner(arguments, backslashes_escape);
    if (scanner.next() != Token::sign || !scanner.is_sign('(')) return kDirtSetting;
    if (scanner.next() != Token::literal) return kDirtSetting;
    const auto literal = scanner.text();
    if (literal.size() < 3 || literal.front() != '\'') return kDirtSetting;
    if (scanner.next() != Token::sign || !scanner.is_sign(',')) return kDirtSetting;
    std::string name(literal.substr(1, literal.size() - 2));
    for (char& c : name) {
        if (c >= 'A' && c <= 'Z') c |= 0x20;
        if ((c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' && c != '.') return kDirtSetting;
    }
    return dirt_of_setting(telling_of(name));
}

enum class Verb : std::uint8_t {
    other,
    reads,
    copy,
    create,
    deallocate,
    declare,
    discard,
    execute,
    explain,
    inserts,
    listen,
    prepare,
    reset,
    runs_code,
    set
};

Verb verb_of(std::string_view word) {
    constexpr struct {
        std::string_view word;
        Verb verb;
    } kVerbs[] = {
        {"select", Verb::reads},    {"with", Verb::reads},
        {"insert", Verb::inserts},  {"values", Verb::reads},
        {"table", Verb::reads},     {"set", Verb::set},
        {"copy", Verb::copy},       {"create", Verb::create},
        {"import", Verb::create},   {"declare", Verb::declare},
        {"do", Verb::runs_code},    {"call", Verb::runs_code},
        {"load", Verb::runs_code},  {"execute", Verb::execute},
        {"explain", Verb::explain}, {"listen", Verb::listen},
        {"prepare", Verb::prepare}, {"reset", Verb::reset},
        {"merge", Verb::inserts},   {"deallocate", Verb::deallocate},
        {"discard", Verb::discard},
    };
    for (const auto& one : kVerbs)
        if (word == one.word) return one.verb;
    return Verb::other;
}

enum class Scope : std::uint8_t { session, transaction, none };

// Of a SET. What it says for the transaction ends with it; but SET local.x = 1 sets a variable.
Scope scope_of_set(std::string_view sql) {
    Scanner scanner(sql);
    scanner.next();
    if (scanner.next() != Token::word) return Scope::session;
    const bool local = scanner.text() == "local";
    if (!local && scanner.text() != "transaction" && scanner.text() != "constraints") return Scope::session;
    const Token after = scanner.next();
    if ((after != Token::word && after != Token::name) || scanner.text() == "to") return Scope::session;
    return local ? Scope::transaction : Scope::none;
}

// PREPARE TRANSACTION 'x' is no prepared statement; PREPARE transaction AS … is.
bool prepares_a_statement(std::string_view sql) {
    Scanner scanner(sql);
    scanner.next();
    return scanner.next() != Token::word || scanner.text() != "transaction" || scanner.next() != Token::literal;
}

enum class Forgets : std::uint8_t { nothing, ours, all };

// Of DEALLOCATE [PREPARE] and DISCARD. A name that cannot be told may be one of ours.
Forgets forgets(std::string_view sql) {
    Scanner scanner(sql);
    scanner.next();
    Token token = scanner.next();
    if (token == Token::word && scanner.text() == "prepare") token = scanner.next();
    if (token == Token::word && scanner.text() == "all") return Forgets::all;
    const bool is_name = token == Token::word || token == Token::name;
    return is_name && (scanner.text().empty() || scanner.text().starts_with(kOwnNames)) ? Forgets::ours
                                                                                        : Forgets::nothing;
}

std::uint16_t dirt_of(Verb verb, Telling told, std::string_view sql) {
    std::uint16_t dirt = static_cast<std::uint16_t>(told);
    if ((told & kSettingsView) && (told & kChanges)) dirt |= kDirtSetting;  // UPDATE pg_settings calls set_config
    if (told & kSelectsInto) dirt |= kDirtTemp;
    switch (verb) {
        case Verb::set:
            if (scope_of_set(sql) == Scope::session) dirt |= dirt_of_setting(told);
            if (told & kSeed) dirt |= kDirtSeed;  // knows no transaction
            break;
        case Verb::reset:
        case Verb::discard:
            dirt |= kDirtSettings;  // what init_sql set is gone too
            break;
        case Verb::create:  // temporary by a word, by its schema, by the search path, or by a view it is made of
            dirt |= kDirtTemp | (told & kExecutes ? kDirtCall : 0);
            break;
        case Verb::explain:  // with ANALYZE it is done
            dirt |= (told & kCreates ? kDirtTemp : 0) | (told & kExecutes ? kDirtCall : 0);
            break;
        case Verb::execute:
            dirt |= kDirtCall;
            break;
        case Verb::runs_code:
            dirt |= kDirtAll;
            break;
        case Verb::listen:
            dirt |= kDirtListen;
            break;
        case Verb::declare:
            dirt |= told & kHold ? kDirtCursor : 0;
            break;
        case Verb::prepare:
            dirt |= prepares_a_statement(sql) ? kDirtPrepared : 0;
            break;
        default:
            break;
    }
    return dirt;
}

// Of "$5" 5; of any other literal 0. The server takes 65535 at most.
std::size_t parameter_number(std::string_view literal) {
    if (literal.size() < 2 || literal[0] != '$') return 0;
    std::size_t number = 0;
    for (const char digit : literal.substr(1)) {
        if (digit < '0' || digit > '9') return 0;
        number = std::min<std::size_t>(number * 10 + static_cast<std::size_t>(digit - '0'), 65536);
    }
    return number;
}

StatementTraits classify_one(std::string_view sql, bool backslashes_escape = false) {
    Scanner scanner(sql, backslashes_escape);
    Token token = scanner.next();
    while (token == Token::sign && scanner.is_sign('(')) token = scanner.next();
    const Verb verb = token == Token::word ? verb_of(scanner.text()) : Verb::other;

    Telling told = verb == Verb::inserts ? kChanges : 0;
    const bool alters = token == Token::word && (scanner.text() == "update" || scanner.text() == "delete");
    if (alters) told |= kChanges;
    bool after_insert = verb == Verb::inserts;
    StatementTraits traits;
    for (token = scanner.next(); token != Token::end; token = scanner.next()) {
        if (token == Token::literal) traits.parameters = std::max(traits.parameters, parameter_number(scanner.text()));
        if (token != Token::word && token != Token::name) continue;
        const Telling telling = telling_of(scanner.text()) & (token == Token::word ? ~Telling() : kTellingOfNames);
        told |= telling;
        if (telling & kSetConfig) told |= dirt_of_set_config(sql.substr(scanner.end()), backslashes_escape);
        if ((telling & kInto) && !after_insert) told |= kSelectsInto;
        after_insert = telling & kInserts;
    }

    traits.dirt = dirt_of(verb, told, sql);
    traits.has_fixed_columns = verb == Verb::reads || verb == Verb::inserts || alters;
    traits.ordinary = verb == Verb::reads && !(told & (kChanges | kInto)) && traits.dirt == kDirtNone;
    traits.changes_settings =
        (traits.dirt & kDirtSettings) || (verb == Verb::set && scope_of_set(sql) == Scope::transaction);
    traits.copy = verb == Verb::copy;
    if (verb == Verb::deallocate || verb == Verb::discard) {
        const Forgets what = forgets(sql);
        traits.forgets_prepared = what != Forgets::nothing;
        if (what == Forgets::ours) traits.dirt |= kDirtPrepared;  // one is gone, the others stand
    }
    // A session with standard_conforming_strings off reads it otherwise.
    if (!backslashes_escape && scanner.has_seen_open_backslash()) {
        const auto otherwise = classify_one(sql, true);
        traits.dirt |= otherwise.dirt;
        traits.changes_settings |= otherwise.changes_settings;
        traits.ordinary &= otherwise.ordinary;
        traits.parameters = std::max(traits.parameters, otherwise.parameters);
    }
    return traits;
}

}  // namespace

StatementTraits classify(std::string_view sql) {
    if (sql.find(';') == std::string_view::npos) return classify_one(sql);
    const auto statements = split_script(sql);
    if (statements.size() == 1) return classify_one(statements.front());
    StatementTraits all;
    for (const auto statement : statements) {
        const StatementTraits one = classify_one(statement);
        all.copy |= one.copy;
        all.forgets_prepared |= one.forgets_prepared;
        all.changes_settings |= one.changes_settings;
        all.dirt |= one.dirt;
        all.parameters = std::max(all.parameters, one.parameters);
    }
    all.script = statements.size() > 1;
    return all;
}

constexpr std::size_t kMostBytes = 0x3FFF'FFFF;  // of a message that PostgreSQL takes
constexpr std::size_t kMostParameters = 65535;   // of a message's count
constexpr std::size_t kBytesAround = 16;         // a parameter's type, format and length, and a share of the head
constexpr std::size_t kKeptBytes = 1 << 20;      // what a huge statement needed is not kept for the next one

static void want_sendable(std::size_t size, const char* what) {
    if (size + kBytesAround <= kMostBytes) return;
    throw Error(ErrorKind::invalid_argument, std::string(what) + " of " + std::to_string(size) +
                                                 " bytes or more cannot be sent: PostgreSQL takes " +
                                                 std::to_string(kMostBytes) + ". Suggestion: send it in parts");
}

void Statement::assign(std::string_view sql, const Parameter* parameters, std::size_t count, ResultFormat format) {
    if (count > kMostParameters)
        throw Error(ErrorKind::invalid_argument,
                    std::to_string(count) + " parameters cannot be sent: PostgreSQL takes " +
                        std::to_string(kMostParameters) + ". Suggestion: pass arrays, or send the statement in parts");
    format_ = format;
    types_.resize(count);
    values_.resize(count);
    std::size_t size = 0;
    for (std::size_t i = 0; i < count; i++) {
        const Parameter& p = parameters[i];
        types_[i] = p.type;
        const std::size_t length = !p.value ? 0 : p.binary ? static_cast<std::size_t>(p.length) : std::strlen(p.value);
        size += length;
        want_sendable(size + count * kBytesAround, "the parameters");
        values_[i] = {p.value, static_cast<std::int32_t>(length), p.binary};
    }
    want_sendable(sql.size() + count * kBytesAround, "the statement's text");
    data_.clear();
    if (data_.capacity() > kKeptBytes && size <= kKeptBytes) data_ = {};
    data_.reserve(size);
    for (ParameterValue& value : values_) {
        if (!value.data) continue;
        const std::string_view bytes(value.data, static_cast<std::size_t>(value.length));
        value.data = data_.data() + data_.size();
        data_.append(bytes);
    }
    key_.assign(sql);
    text_length_ = sql.size();
    key_.push_back('\0');
    key_.append(reinterpret_cast<const char*>(types_.data()), count * sizeof(std::uint32_t));
}

}  // namespace pqpool
