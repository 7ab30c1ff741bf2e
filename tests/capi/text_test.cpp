// What the library says is UTF-8, wherever it is cut and whatever it was given.
#include <cstring>
#include <string>

#include "capi_fixture.hpp"

using namespace capi_test;

namespace {

bool is_utf8(const char* text) {
    const auto* p = reinterpret_cast<const unsigned char*>(text);
    while (*p) {
        int more = *p < 0x80 ? 0 : *p >= 0xf0 ? 3 : *p >= 0xe0 ? 2 : *p >= 0xc2 ? 1 : -1;
        if (more < 0) return false;
        for (p++; more > 0; more--, p++)
            if ((*p & 0xc0) != 0x80) return false;
    }
    return true;
}

std::string filled(std::string start, std::size_t pad, const char* character, std::size_t size) {
    start += std::string(pad, 'a');
    while (start.size() < size) start += character;
    return start;
}

}  // namespace

TEST_CASE("what_is_cut_is_cut_between_characters", "[text]") {
    for (std::size_t pad = 0; pad < 3; pad++) {
        Pool pool({{"min_size", "1"}, {"max_size", "1"}});
        const std::string sql = filled("SELECT '", pad, "\xe2\x82\xac", 300) + "'";
        const std::string tag = filled("", pad, "\xc3\xa9", 300);
        pqpool_acquire_options options = PQPOOL_ACQUIRE_OPTIONS_INIT;
        options.tag = tag.c_str();
        options.leak_timeout_ms = 20;
        pqpool_lease lease = 0, none = 0;
        REQUIRE(pqpool_acquire(pool, &options, &lease) == PQPOOL_OK);
        REQUIRE(pool.execute(lease, sql.c_str()).status == PQPOOL_OK);
        pqpool_holder holder{};
        holder.struct_size = sizeof holder;
        std::size_t count = 0;
        REQUIRE(pqpool_holders(pool, &holder, 1, &count) == PQPOOL_OK);
        CHECK(is_utf8(holder.tag));
        CHECK(tag.starts_with(holder.tag));
        CHECK(is_utf8(holder.last_statement));
        CHECK(sql.starts_with(holder.last_statement));
        CHECK(std::strlen(holder.last_statement) > 90);
        options.timeout_ms = 0;
        REQUIRE(pqpool_acquire(pool, &options, &none) == PQPOOL_TIMEOUT);
        CHECK(is_utf8(pqpool_error_message()));
        bool leaked = false;
        REQUIRE(wait_until([&] {
            pqpool_log_line line{};
            line.struct_size = sizeof line;
            int32_t taken = 0;
            while (pqpool_log_next(pool, &line, &taken) == PQPOOL_OK && taken) {
                CHECK(is_utf8(line.message));
                CHECK(is_utf8(line.context));
                leaked |= std::strstr(line.message, "leak") != nullptr;
            }
            return leaked;
        }));
        const std::string raise = filled("DO $$ BEGIN RAISE EXCEPTION '", pad, "\xe2\x82\xac", 6000) + "'; END $$";
        CHECK(pool.execute(lease, raise.c_str()).status == PQPOOL_QUERY);
        CHECK(is_utf8(pqpool_error_message()));
        CHECK(std::strlen(pqpool_error_message()) > 2000);
        CHECK_THAT(pqpool_error_message(), Catch::EndsWith("\xe2\x80\xa6"));
        CHECK(pool.release(lease) == PQPOOL_OK);

        pqpool_options* settings = nullptr;
        REQUIRE(pqpool_options_create(&settings) == PQPOOL_OK);
        REQUIRE(pqpool_options_set(settings, "init_sql", sql.c_str()) == PQPOOL_OK);
        char value[64];
        std::size_t length = 0;
        REQUIRE(pqpool_options_get(settings, "init_sql", value, sizeof value, &length) == PQPOOL_OK);
        CHECK(is_utf8(value));
        CHECK(length == sql.size());
        CHECK(pqpool_options_set(settings, "log_level", filled("", pad, "\xc3\xa9", 9000).c_str()) ==
              PQPOOL_CONFIGURATION);
        CHECK(is_utf8(pqpool_error_message()));
        CHECK(pqpool_options_set(settings, filled("", pad, "\xc3\xa9", 9000).c_str(), "1") == PQPOOL_CONFIGURATION);
        CHECK(is_utf8(pqpool_error_message()));
        pqpool_options_free(settings);
    }
}

TEST_CASE("what_is_given_in_another_encoding_is_replaced_or_refused", "[text]") {
    Pool pool({{"min_size", "1"}, {"max_size", "1"}});
    pqpool_acquire_options options = PQPOOL_ACQUIRE_OPTIONS_INIT;
    options.tag = "J\xfcrgen";
    pqpool_lease lease = 0;
    REQUIRE(pqpool_acquire(pool, &options, &lease) == PQPOOL_OK);
    const auto failed = pool.execute(lease, "SELECT \"\xe9t\xe9\"");
    CHECK(failed.status == PQPOOL_QUERY);
    CHECK(is_utf8(pqpool_error_message()));
    pqpool_holder holder{};
    holder.struct_size = sizeof holder;
    std::size_t count = 0;
    REQUIRE(pqpool_holders(pool, &holder, 1, &count) == PQPOOL_OK);
    CHECK(std::string(holder.tag) == "J\xef\xbf\xbdrgen");
    CHECK(is_utf8(holder.last_statement));
    CHECK(pool.release(lease) == PQPOOL_OK);

    pqpool_options* settings = nullptr;
    REQUIRE(pqpool_options_create(&settings) == PQPOOL_OK);
    CHECK(pqpool_options_set(settings, "log_file", "/tmp/f\xfcr") == PQPOOL_CONFIGURATION);
    CHECK_THAT(pqpool_error_message(), Catch::Contains("log_file must be UTF-8"));
    CHECK(is_utf8(pqpool_error_message()));
    pqpool_options_free(settings);
}

TEST_CASE("a_program_can_mask_passwords_by_the_librarys_rules", "[text]") {
    char masked[64];
    std::size_t length = 0;
    REQUIRE(pqpool_mask_conninfo("postgresql://u:zyx@h/d", masked, sizeof masked, &length) == PQPOOL_OK);
    CHECK(std::string(masked) == "postgresql://u:***@h/d");
    CHECK(length == std::strlen(masked));
    REQUIRE(pqpool_mask_text("see password=zyx there", masked, 12, &length) == PQPOOL_OK);
    CHECK(std::string(masked) == "see passwor");
    CHECK(length == std::strlen("see password=*** there"));
    REQUIRE(pqpool_mask_statement("ALTER ROLE u PASSWORD 'zyx'", masked, sizeof masked, &length) == PQPOOL_OK);
    CHECK(std::string(masked) == "ALTER ROLE u PASSWORD '***'");
    CHECK(pqpool_mask_text(nullptr, masked, sizeof masked, &length) == PQPOOL_INVALID_ARGUMENT);
    CHECK(pqpool_mask_conninfo("x", nullptr, 1, &length) == PQPOOL_INVALID_ARGUMENT);
    CHECK(pqpool_mask_conninfo("x", nullptr, 0, &length) == PQPOOL_OK);
}
