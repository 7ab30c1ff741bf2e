// Statistics, health, holders, the log; and steering.
#include <algorithm>
#include <cstring>

#include "capi/handles.hpp"
#include "core/base/secrets.hpp"
#include "core/base/text.hpp"

using namespace pqpool::capi;
using pqpool::copy_text;
using pqpool::Cut;
using pqpool::Error;
using pqpool::ErrorKind;
using pqpool::Nanos;
using pqpool::Statistics;

namespace {

// The C struct is the core's, behind its two leading words.
constexpr std::size_t kBefore = offsetof(pqpool_statistics, total_connections);
#define X(type, name, unit, meaning) \
    static_assert(offsetof(pqpool_statistics, name) == kBefore + offsetof(Statistics, name));
PQPOOL_STATISTICS(X)
#undef X
static_assert(sizeof(pqpool_statistics) == kBefore + sizeof(Statistics));
static_assert(PQPOOL_TERMINATED == static_cast<int>(pqpool::PoolState::terminated) &&
              PQPOOL_RECOVERING == static_cast<int>(pqpool::PoolState::recovering));
static_assert(PQPOOL_UNHEALTHY == static_cast<int>(pqpool::Health::unhealthy) &&
              PQPOOL_STATISTIC_TIME == static_cast<int>(pqpool::StatisticType::time));

// The whole where there is room, else its beginning; *length is the whole's either way.
void give(const std::string& text, char* to, std::size_t size, std::size_t* length) {
    if (size > 0) {
        const auto part = pqpool::cut_utf8(text, size - 1);
        std::memcpy(&wanted(to, "masked"), part.data(), part.size());
        to[part.size()] = '\0';
    }
    if (length) *length = text.size();
}

}  // namespace

extern "C" {

int32_t pqpool_get_statistics(pqpool_pool* pool, pqpool_statistics* statistics) {
    return guarded([&] {
        sized(statistics, "statistics");
        const Statistics snapshot = pool_of(pool).statistics();
        statistics->reserved = 0;
        std::memcpy(reinterpret_cast<char*>(statistics) + kBefore, &snapshot, sizeof snapshot);
    });
}

int32_t pqpool_statistic_count(void) { return static_cast<int32_t>(std::size(pqpool::kStatisticList)); }

int32_t pqpool_statistic_describe(int32_t index, pqpool_statistic_info* info) {
    return guarded([&] {
        sized(info, "info");
        if (index < 0 || index >= pqpool_statistic_count())
            throw Error(ErrorKind::invalid_argument, "there is no statistic with index " + std::to_string(index));
        const auto& statistic = pqpool::kStatisticList[index];
        *info = {info->struct_size, static_cast<int32_t>(statistic.type),
                 statistic.name,    statistic.unit,
                 statistic.meaning, kBefore + statistic.offset};
    });
}

int32_t pqpool_get_health(pqpool_pool* pool, pqpool_health* health) {
    return guarded([&] {
        sized(health, "health");
        const auto report = pool_of(pool).health();
        const Statistics& s = report.statistics;
        health->status = static_cast<int32_t>(report.health);
        health->state = static_cast<int32_t>(report.state);
        health->behind_pooler = report.behind_pooler;
        health->database = report.database();
        health->total_connections = s.total_connections;
        health->idle_connections = s.idle_connections;
        health->active_connections = s.active_connections;
        health->waiting_requests = s.waiting_requests;
        health->leak_count = s.leak_count;
        health->latency_ms = s.latency_ms;
        health->uptime_ms = s.uptime_ms;
        copy_text(health->last_error, sizeof health->last_error, report.last_error, Cut::with_ellipsis);
    });
}

int32_t pqpool_calculate_health(const pqpool_statistics* statistics, int32_t state, int64_t min_size, int64_t now_us,
                                int32_t* status) {
    return guarded([&] {
        sized(statistics, "statistics");
        check_reserved(statistics->reserved, "statistics->reserved");
        if (!pqpool_state_name(state))
            throw Error(ErrorKind::invalid_argument, "state is unknown (got " + std::to_string(state) + ")");
        auto time = [](int64_t us) { return us == 0 ? pqpool::kNoTime : us * pqpool::kMicrosecond; };
        const pqpool::HealthFacts facts{
            .state = static_cast<pqpool::PoolState>(state),
            .min_size = min_size,
            .live = statistics->live_connections,
            .idle = statistics->idle_connections,
            .waiting = statistics->waiting_requests,
            .now = now_us * pqpool::kMicrosecond,
            .last_error = time(statistics->last_error_time),
            .last_recovery = time(statistics->last_recovery_time),
            .last_slow_acquisition = time(statistics->last_slow_acquisition_time),
            .last_leak = time(statistics->last_leak_time),
        };
        wanted(status, "status") = static_cast<int32_t>(pqpool::judge_health(facts));
    });
}

int32_t pqpool_get_last_error(pqpool_pool* pool, char* text, size_t size) {
    return guarded([&] {
        if (size == 0) throw Error(ErrorKind::invalid_argument, "size must be at least 1");
        copy_text(&wanted(text, "text"), size, pool_of(pool).last_error(), Cut::with_ellipsis);
    });
}

int32_t pqpool_get_state(pqpool_pool* pool, int32_t* state) {
    return guarded([&] { wanted(state, "state") = static_cast<int32_t>(pool_of(pool).state()); });
}

const char* pqpool_state_name(int32_t state) {
    return state >= 0 && state <= PQPOOL_TERMINATED ? pqpool::name_of(static_cast<pqpool::PoolState>(state)) : nullptr;
}

int32_t pqpool_holders(pqpool_pool* pool, pqpool_holder* holders, size_t capacity, size_t* count) {
    return guarded([&] {
        wanted(count, "count");
        const std::size_t step = capacity > 0 ? sized(holders, "holders").struct_size : 0;
        const auto list = pool_of(pool).holders();
        for (std::size_t i = 0; i < std::min(capacity, list.size()); i++) {
            auto& holder = *reinterpret_cast<pqpool_holder*>(reinterpret_cast<char*>(holders) + i * step);
            holder.struct_size = static_cast<uint32_t>(step);
            sized(&holder, "holders");
            holder.backend_pid = list[i].backend_pid;
            holder.lease = list[i].lease;
            holder.held_ms = list[i].held_seconds * 1e3;
            copy_text(holder.tag, sizeof holder.tag, list[i].tag, Cut::plain);
            copy_text(holder.last_statement, sizeof holder.last_statement, list[i].last_statement, Cut::plain);
        }
        *count = list.size();
    });
}

int32_t pqpool_log_next(pqpool_pool* pool, pqpool_log_line* line, int32_t* taken) {
    return guarded([&] {
        sized(line, "line");
        wanted(taken, "taken");
        auto& record = pqpool::ThreadOwn<pqpool::LogRecord>::get();
        *taken = pool_of(pool).log().take(record) ? 1 : 0;
        if (!*taken) return;
        line->level = static_cast<int32_t>(record.level);
        line->unix_time = record.unix_time;
        line->lease = record.subject;
        line->message = record.message.c_str();
        line->context = record.context.c_str();
    });
}

int32_t pqpool_set_log_level(pqpool_pool* pool, int32_t level) {
    return guarded([&] {
        if (level < 0 || level > 3)
            throw Error(ErrorKind::invalid_argument, "level must be 0 to 3 (got " + std::to_string(level) + ")");
        pool_of(pool).log().set_level(static_cast<pqpool::LogLevel>(level));
    });
}

int32_t pqpool_mask_conninfo(const char* conninfo, char* masked, size_t size, size_t* length) {
    return guarded([&] { give(pqpool::mask_password(&wanted(conninfo, "conninfo")), masked, size, length); });
}

int32_t pqpool_mask_text(const char* text, char* masked, size_t size, size_t* length) {
    return guarded([&] { give(pqpool::mask_text(&wanted(text, "text")), masked, size, length); });
}

int32_t pqpool_mask_statement(const char* sql, char* masked, size_t size, size_t* length) {
    return guarded([&] { give(pqpool::mask_statement(&wanted(sql, "sql")), masked, size, length); });
}

int32_t pqpool_resize(pqpool_pool* pool, int64_t min_size, int64_t max_size) {
    return guarded([&] { pool_of(pool).resize(min_size, max_size); });
}

int32_t pqpool_drain(pqpool_pool* pool) {
    return guarded([&] { pool_of(pool).drain(); });
}

int32_t pqpool_pause(pqpool_pool* pool) {
    return guarded([&] { pool_of(pool).pause(); });
}

int32_t pqpool_resume(pqpool_pool* pool) {
    return guarded([&] { pool_of(pool).resume(); });
}

}  // extern "C"
