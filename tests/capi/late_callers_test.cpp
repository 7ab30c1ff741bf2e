// Callers that come late: a thread's from the destructor of a pthread key, the process's from atexit handlers and from
// static objects' destructors. By then what C++ calls thread-local is destroyed.
#include <pqpool.h>
#include <pthread.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

pqpool_pool* pool = nullptr;

void serves(const char* who, const char* sql) {
    const pqpool_parameter parameters[2] = {{"20", 0, 0, 0, 0}, {"22", 0, 0, 0, 0}};
    pqpool_statement statement = PQPOOL_STATEMENT_INIT(sql);
    statement.parameters = parameters;
    statement.parameter_count = 2;
    pqpool_result* result = nullptr;
    const int32_t status = pqpool_run(pool, nullptr, &statement, &result);
    const char* value = pqpool_result_value(result, 0, 0);
    pqpool_log_line line{};
    line.struct_size = sizeof line;
    int32_t taken = 0;
    const bool logs = pqpool_log_next(pool, &line, &taken) == PQPOOL_OK && taken && *line.message;
    // An error's text and fields are the thread's own too.
    const pqpool_statement broken = PQPOOL_STATEMENT_INIT("SELECT 1 / 0");
    pqpool_result* none = nullptr;
    const bool fails = pqpool_run(pool, nullptr, &broken, &none) == PQPOOL_QUERY && pqpool_error_field('C') &&
                       std::strcmp(pqpool_error_field('C'), "22012") == 0;
    if (status != PQPOOL_OK || !value || std::strcmp(value, "42") != 0 || !logs || !fails) {
        std::fprintf(stderr, "%s: status %d, %s\n", who, status, pqpool_error_message());
        _exit(1);
    }
    pqpool_result_free(result);
}

// Constructed first, so that it goes last.
struct Last {
    ~Last() {
        serves("a static destructor", "SELECT $1::int + $2::int AS third");
        if (pqpool_shutdown(pool, 1000) != PQPOOL_OK) _exit(2);
        pqpool_free(pool);
    }
} last;

void at_exit() { serves("an atexit handler", "SELECT $1::int + $2::int AS second"); }
void at_thread_end(void*) { serves("a key's destructor", "SELECT $1::int + $2::int AS fourth"); }

void* in_thread(void* key) {
    pthread_setspecific(*static_cast<pthread_key_t*>(key), key);
    serves("a thread", "SELECT $1::int + $2::int AS fifth");
    return nullptr;
}

}  // namespace

int main() {
    alarm(60);
    std::atexit(at_exit);
    pthread_key_t key;  // its destructor runs after those of C++ thread-locals
    if (pthread_key_create(&key, at_thread_end) != 0) return 3;
    pqpool_options* options = nullptr;
    if (pqpool_options_create(&options) != PQPOOL_OK) return 3;
    pqpool_options_set(options, "database_url", std::getenv("DATABASE_URL"));
    pqpool_options_set(options, "log_level", "debug");
    if (pqpool_open(options, &pool) != PQPOOL_OK) {
        std::fprintf(stderr, "%s\n", pqpool_error_message());
        _exit(3);
    }
    pqpool_options_free(options);
    serves("main", "SELECT $1::int + $2::int AS first");
    pthread_t thread;
    if (pthread_create(&thread, nullptr, in_thread, &key) != 0) _exit(3);
    pthread_join(thread, nullptr);
    return 0;
}
