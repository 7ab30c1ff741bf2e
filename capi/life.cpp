// Options, the pool's life, blocking leases.
#include <algorithm>
#include <cstring>

#include "capi/handles.hpp"
#include "core/base/text.hpp"
#include "core/run/blocking.hpp"

namespace pqpool::capi {

#define X(name, status, meaning) static_assert(static_cast<std::int32_t>(ErrorKind::name) == (status));
PQPOOL_ERROR_KINDS(X)
#undef X
static_assert(PQPOOL_CONFIGURATION == static_cast<int>(ErrorKind::configuration) &&
              PQPOOL_INTERNAL == static_cast<int>(ErrorKind::internal) &&
              PQPOOL_VALIDATION == static_cast<int>(ErrorKind::validation) &&
              PQPOOL_QUERY == static_cast<int>(ErrorKind::query) &&
              PQPOOL_RELEASED == static_cast<int>(ErrorKind::released) &&
              PQPOOL_FORKED == static_cast<int>(ErrorKind::forked));
static_assert(PQPOOL_TRANSACTION_FAILED == static_cast<int>(TransactionStatus::failed));
static_assert(PQPOOL_DEFAULT == AcquireRequest::kByOption);
static_assert(PQPOOL_OPTION_CHOICE == static_cast<int>(OptionType::choice) &&
              PQPOOL_AUTOMATIC == static_cast<int>(ResultFormat::automatic));

void LastError::clear() {
    message[0] = sqlstate[0] = '\0';
    if (std::exchange(has_result, false)) result() = Result();
}

std::int32_t LastError::set(ErrorKind kind, const char* text, const char* state) {
    copy_text(message, sizeof message, text, Cut::with_ellipsis);
    std::strncpy(sqlstate, state, sizeof sqlstate - 1);
    return static_cast<std::int32_t>(kind);
}

LastError& last_error() {
    constinit thread_local LastError error;
    static_assert(std::is_trivially_destructible_v<LastError>);
    return error;
}

// Pools of the parent, kept so that nothing of them is ever freed or joined in the child.
static void abandon(std::shared_ptr<Pool>& pool) {
    static std::mutex mutex;
    static auto* kept = new std::vector<std::shared_ptr<Pool>>;
    std::lock_guard lock(mutex);
    kept->push_back(pool);
    pool->abandon_after_fork();
}

Pool& pool_of(::pqpool_pool* handle) {
    Pool* current = wanted(handle, "pool").current.load(std::memory_order_acquire);
    if (!current->is_of_parent()) return *current;
    std::lock_guard lock(handle->mutex);
    if (handle->pool->is_of_parent()) {
        // What can fail comes first: the next call tries again then.
        auto fresh = std::make_shared<Pool>(handle->pool->options());
        fresh->start();
        abandon(handle->pool);
        handle->pool = std::move(fresh);
        handle->current.store(handle->pool.get(), std::memory_order_release);
    }
    return *handle->pool;
}

Nanos timeout_of(std::int64_t ms, const char* name, Negative allowed) {
    if (ms >= 0) return ms > kNever / kMillisecond ? kNever : ms * kMillisecond;
    const bool by_option = allowed == Negative::no_limit_or_default;
    if (ms == PQPOOL_NO_LIMIT || (ms == PQPOOL_DEFAULT && by_option)) return ms;
    throw Error(ErrorKind::invalid_argument, std::string(name) + " must not be negative (got " + std::to_string(ms) +
                                                 "). Suggestion: pass 0 not to wait, or PQPOOL_NO_LIMIT (-1)" +
                                                 (by_option ? ", or PQPOOL_DEFAULT (-2) for the pool's option" : ""));
}

void check_size(std::size_t size, std::size_t needed, const char* name) {
    constexpr std::size_t kLargest = 4096;  // beyond it no version of a struct will come; it is garbage
    if (size >= needed && size <= kLargest) return;
    throw Error(ErrorKind::invalid_argument, std::string(name) + "->struct_size is too " +
                                                 (size < needed ? "small" : "large") + " (got " + std::to_string(size) +
                                                 "). Suggestion: set it to sizeof(*" + name + ") before the call");
}

void check_unused(const char* tail, std::size_t length, const char* name) {
    if (std::all_of(tail, tail + length, [](char c) { return c == 0; })) return;
    throw Error(ErrorKind::invalid_argument,
                std::string(name) + " has a field set that this version of the library (" + pqpool_version() +
                    ") does not know. Suggestion: leave it zero, or use a library as new as the header");
}

void check_reserved(std::int64_t reserved, const char* name) {
    if (reserved == 0) return;
    throw Error(ErrorKind::invalid_argument,
                std::string(name) + " must be zero (got " + std::to_string(reserved) +
                    "). Suggestion: start from the header's _INIT macro or a zeroed struct");
}

AcquireRequest request_of(const pqpool_acquire_options* options) {
    if (!options) return {};
    sized(options, "options");
    check_reserved(options->reserved, "options->reserved");
    return {timeout_of(options->timeout_ms, "options->timeout_ms"),
            timeout_of(options->leak_timeout_ms, "options->leak_timeout_ms"),
            options->tag ? std::string_view(options->tag) : std::string_view()};
}

StatementArguments arguments_of(const pqpool_statement* statement) {
    auto& parameters = ThreadOwn<std::vector<Parameter>>::get();
    sized(statement, "statement");
    wanted(statement->sql, "statement->sql");
    if (statement->parameter_count > 65535)
        throw Error(ErrorKind::invalid_argument, "a statement takes 65535 parameters at most (got " +
                                                     std::to_string(statement->parameter_count) +
                                                     "). Suggestion: pass an array");
    if (statement->parameter_count > 0) wanted(statement->parameters, "statement->parameters");
    parameters.clear();
    for (std::size_t i = 0; i < statement->parameter_count; i++) {
        const pqpool_parameter& p = statement->parameters[i];
        if (p.reserved != 0)
            check_reserved(p.reserved, ("statement->parameters[" + std::to_string(i) + "].reserved").c_str());
        if (p.value && p.binary && p.length < 0)
            throw Error(ErrorKind::invalid_argument, "the length of the binary parameter $" + std::to_string(i + 1) +
                                                         " is negative (got " + std::to_string(p.length) + ")");
        parameters.push_back({p.type, p.binary != 0, p.length, p.value});
    }
    const int format = statement->result_format;
    if (format < PQPOOL_TEXT || format > PQPOOL_AUTOMATIC)
        throw Error(ErrorKind::invalid_argument,
                    "statement->result_format is unknown (got " + std::to_string(format) + ")");
    return {statement->sql, parameters, static_cast<ResultFormat>(format),
            timeout_of(statement->timeout_ms, "statement->timeout_ms")};
}

// A server's error is a failure of the call; its fields stay for pqpool_error_field.
static void give(Result result, pqpool_result* out) {
    if (result.error()) {
        const Error error = *result.error();
        last_error().result() = std::move(result);
        last_error().has_result = true;
        throw error;
    }
    out->result = std::move(result);
}

}  // namespace pqpool::capi

using namespace pqpool::capi;
using pqpool::Error;
using pqpool::ErrorKind;

extern "C" {

const char* pqpool_error_message(void) { return last_error().message; }
const char* pqpool_error_sqlstate(void) { return last_error().sqlstate; }
const char* pqpool_error_field(int32_t code) {
    return last_error().has_result ? last_error().result().field(code) : nullptr;
}

const char* pqpool_status_name(int32_t status) {
    switch (status) {
        case PQPOOL_OK:
            return "ok";
#define X(name, value, meaning) \
    case value:                 \
        return #name;
            PQPOOL_ERROR_KINDS(X)
#undef X
        default:
            return nullptr;
    }
}

int32_t pqpool_abi_version(void) { return PQPOOL_ABI_VERSION; }

#define PQPOOL_TEXT_OF(x) #x
#define PQPOOL_VERSION_TEXT(major, minor, patch) \
    PQPOOL_TEXT_OF(major) "." PQPOOL_TEXT_OF(minor) "." PQPOOL_TEXT_OF(patch)
const char* pqpool_version(void) {
    return PQPOOL_VERSION_TEXT(PQPOOL_VERSION_MAJOR, PQPOOL_VERSION_MINOR, PQPOOL_VERSION_PATCH);
}

int32_t pqpool_options_create(pqpool_options** options) {
    return guarded([&] {
        wanted(options, "options");
        *options = new pqpool_options;
    });
}

void pqpool_options_free(pqpool_options* options) { delete options; }

int32_t pqpool_options_set(pqpool_options* options, const char* name, const char* value) {
    return guarded([&] { wanted(options, "options").options.set(&wanted(name, "name"), &wanted(value, "value")); });
}

int32_t pqpool_options_get(const pqpool_options* options, const char* name, char* value, size_t size, size_t* length) {
    return guarded([&] {
        const std::string text = wanted(options, "options").options.get(&wanted(name, "name"));
        if (size > 0) pqpool::copy_text(&wanted(value, "value"), size, text, pqpool::Cut::plain);
        if (length) *length = text.size();
    });
}

int32_t pqpool_options_from_env(pqpool_options* options) {
    return guarded([&] { wanted(options, "options").options.set_from_environment(); });
}

int32_t pqpool_options_check(const pqpool_options* options) {
    return guarded([&] {
        const auto& checked = wanted(options, "options").options;
        if (const std::string problems = checked.problems(); !problems.empty())
            throw Error(ErrorKind::configuration, problems);
        pqpool::ConnectPlan plan(checked.database_url);
    });
}

int32_t pqpool_option_count(void) { return static_cast<int32_t>(pqpool::option_list().size()); }

int32_t pqpool_option_describe(int32_t index, pqpool_option_info* info) {
    return guarded([&] {
        sized(info, "info");
        if (index < 0 || index >= pqpool_option_count())
            throw Error(ErrorKind::invalid_argument, "there is no option with index " + std::to_string(index));
        const auto& option = pqpool::option_list()[static_cast<std::size_t>(index)];
        *info = {info->struct_size,   static_cast<int32_t>(option.type),
                 option.name,         option.default_text.c_str(),
                 option.choices,      option.meaning,
                 option.minimum,      option.maximum,
                 option.open_minimum, option.open_maximum};
    });
}

int32_t pqpool_create(const pqpool_options* options, pqpool_pool** pool) {
    return guarded([&] {
        wanted(pool, "pool");
        *pool = new pqpool_pool(std::make_shared<pqpool::Pool>(wanted(options, "options").options));
    });
}

int32_t pqpool_start(pqpool_pool* pool) {
    return guarded([&] { pool_of(pool).start(); });
}

int32_t pqpool_open(const pqpool_options* options, pqpool_pool** pool) {
    return guarded([&] {
        wanted(pool, "pool");
        auto made = std::make_unique<pqpool_pool>(std::make_shared<pqpool::Pool>(wanted(options, "options").options));
        made->pool->start();
        pqpool::blocking::wait_opened(*made->pool);
        *pool = made.release();
    });
}

int32_t pqpool_shutdown(pqpool_pool* pool, int64_t timeout_ms) {
    return guarded([&] { pool_of(pool).shutdown(timeout_of(timeout_ms, "timeout_ms", Negative::no_limit)); });
}

void pqpool_free(pqpool_pool* pool) {
    if (!pool) return;
    guarded([&] {
        if (pool->pool->is_of_parent()) abandon(pool->pool);
        delete pool;
    });
}

int32_t pqpool_acquire(pqpool_pool* pool, const pqpool_acquire_options* options, pqpool_lease* lease) {
    return guarded([&] {
        wanted(lease, "lease");
        *lease = pqpool::blocking::acquire(pool_of(pool), request_of(options));
    });
}

int32_t pqpool_execute(pqpool_pool* pool, pqpool_lease lease, const pqpool_statement* statement,
                       pqpool_result** result) {
    return guarded([&] {
        wanted(result, "result");
        const auto s = arguments_of(statement);
        auto made = std::make_unique<pqpool_result>();  // before the statement runs, for want of memory
        give(pqpool::blocking::execute(pool_of(pool), lease, s.sql, s.parameters.data(), s.parameters.size(), s.format,
                                       s.timeout),
             made.get());
        *result = made.release();
    });
}

int32_t pqpool_run(pqpool_pool* pool, const pqpool_acquire_options* options, const pqpool_statement* statement,
                   pqpool_result** result) {
    return guarded([&] {
        wanted(result, "result");
        const auto s = arguments_of(statement);
        auto made = std::make_unique<pqpool_result>();
        give(pqpool::blocking::run(pool_of(pool), request_of(options), s.sql, s.parameters.data(), s.parameters.size(),
                                   s.format, s.timeout),
             made.get());
        *result = made.release();
    });
}

int32_t pqpool_release(pqpool_pool* pool, pqpool_lease lease) {
    return guarded([&] { pool_of(pool).release(lease); });
}

int32_t pqpool_cancel(pqpool_pool* pool, pqpool_lease lease) {
    return guarded([&] { pool_of(pool).cancel(lease); });
}

int32_t pqpool_lease_transaction_status(pqpool_pool* pool, pqpool_lease lease, int32_t* status) {
    return guarded([&] {
        wanted(status, "status");
        *status = static_cast<int32_t>(pool_of(pool).transaction_status(lease));
    });
}

int32_t pqpool_lease_pgconn(pqpool_pool* pool, pqpool_lease lease, struct pg_conn** connection) {
    return guarded([&] {
        wanted(connection, "connection");
        *connection = pqpool::blocking::raw_connection(pool_of(pool), lease);
    });
}

}  // extern "C"
