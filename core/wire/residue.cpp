#include "core/wire/residue.hpp"

#include <utility>

namespace pqpool {

namespace {

struct Step {
    std::uint16_t dirt;
    const char* sql;
};
constexpr Step kSteps[] = {
    {kDirtRole, "SET SESSION AUTHORIZATION DEFAULT"},  // ends SET ROLE too
    {kDirtCursor, "CLOSE ALL"},
    {kDirtListen, "UNLISTEN *"},
    {kDirtAdvisory, "SELECT pg_catalog.pg_advisory_unlock_all()"},
    {kDirtSlots,
     "SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots "
     "WHERE temporary AND active_pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()"},
    {kDirtOrigin,
     "SELECT pg_catalog.pg_replication_origin_session_reset() "
     "WHERE pg_catalog.pg_replication_origin_session_is_setup()"},
    {kDirtTemp, "DISCARD TEMP"},
    {kDirtPrepared, "DEALLOCATE ALL"},
    {kDirtSequences, "DISCARD SEQUENCES"},
    {kDirtSettings, "RESET ALL"},
    // Nothing takes a seed back: another one, of the moment, takes its place.
    {kDirtSeed,
     "SELECT pg_catalog.setseed(pg_catalog.hashtext(pg_catalog.md5(pg_catalog.concat(pg_catalog.clock_timestamp(), "
     "pg_catalog.pg_backend_pid(), pg_catalog.random())))::pg_catalog.float8 OPERATOR(pg_catalog./) 2147483648)"},
};

std::vector<std::string> statements_of(std::string_view script) {
    std::vector<std::string> statements;
    for (const auto one : split_script(script)) statements.emplace_back(one);
    return statements;
}

std::uint16_t at_first(Residue::Reset reset) { return reset == Residue::Reset::always ? kDirtAll : kDirtNone; }

}  // namespace

Residue::Residue(std::string_view init_sql, Reset reset)
    : init_(statements_of(init_sql)), made_(classify(init_sql).dirt), reset_(reset), of_lease_(at_first(reset)) {}

void Residue::end_lease() {
    inherited_ |= of_lease_;
    of_lease_ = at_first(reset_);
    if (reset_ == Reset::never) inherited_ = kDirtNone;
}

void Residue::abandon_lease() {
    inherited_ |= of_lease_;
    of_lease_ = kDirtNone;
    if (reset_ == Reset::never) inherited_ = kDirtNone;
}

std::vector<std::string> Residue::begin_undo() {
    std::vector<std::string> statements;
    std::uint16_t dirt = inherited_;
    const bool starts_anew = dirt & (made_ | kDirtSettings);
    if (starts_anew) dirt |= made_;
    for (const auto& step : kSteps)
        if (dirt & step.dirt) statements.emplace_back(step.sql);
    if (starts_anew) statements.insert(statements.end(), init_.begin(), init_.end());
    under_way_ = dirt;
    return statements;
}

void Residue::end_undo() { inherited_ &= static_cast<std::uint16_t>(~std::exchange(under_way_, kDirtNone)); }

}  // namespace pqpool
