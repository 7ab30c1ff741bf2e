// Options by name, from the environment, and what is told about them.
#include <cstdlib>
#include <set>

#include "capi_fixture.hpp"

using namespace capi_test;

namespace {

class Options {
  public:
    Options() { REQUIRE(pqpool_options_create(&options_) == PQPOOL_OK); }
    ~Options() { pqpool_options_free(options_); }
    Options(const Options&) = delete;
    operator pqpool_options*() const { return options_; }

    std::string get(const char* name) const {
        char value[256];
        REQUIRE(pqpool_options_get(options_, name, value, sizeof value, nullptr) == PQPOOL_OK);
        return value;
    }

  private:
    pqpool_options* options_ = nullptr;
};

class Variable {
  public:
    Variable(const char* name, const char* value) : name_(name) {
        if (const char* old = std::getenv(name)) before_ = old;
        setenv(name, value, 1);
    }
    ~Variable() {
        if (before_.empty())
            unsetenv(name_);
        else
            setenv(name_, before_.c_str(), 1);
    }
    Variable(const Variable&) = delete;

  private:
    const char* name_;
    std::string before_;
};

}  // namespace

TEST_CASE("every_option_is_described_and_has_its_default", "[options]") {
    Options options;
    std::set<std::string> names;
    for (int32_t i = 0; i < pqpool_option_count(); i++) {
        pqpool_option_info info{};
        info.struct_size = sizeof info;
        REQUIRE(pqpool_option_describe(i, &info) == PQPOOL_OK);
        INFO(info.name);
        CHECK(info.struct_size == sizeof info);
        CHECK(names.insert(info.name).second);
        CHECK(options.get(info.name) == info.default_value);
        CHECK_FALSE(std::string(info.meaning).empty());
        CHECK((info.type == PQPOOL_OPTION_CHOICE) == (info.choices && *info.choices));
        if (info.type == PQPOOL_OPTION_CHOICE) CHECK_THAT(info.choices, Catch::Contains(info.default_value));
        if (info.type != PQPOOL_OPTION_TEXT || *info.default_value)
            CHECK(pqpool_options_set(options, info.name, info.default_value) == PQPOOL_OK);
    }
    for (const char* name : {"database_url", "min_size", "max_size", "timeout", "validation"})
        CHECK(names.contains(name));
    pqpool_option_info info{};
    info.struct_size = sizeof info;
    CHECK(pqpool_option_describe(-1, &info) == PQPOOL_INVALID_ARGUMENT);
    CHECK(pqpool_option_describe(pqpool_option_count(), &info) == PQPOOL_INVALID_ARGUMENT);
}

TEST_CASE("an_option_is_set_by_name_as_text", "[options]") {
    Options options;
    CHECK(pqpool_options_set(options, "max_size", "25") == PQPOOL_OK);
    CHECK(pqpool_options_set(options, "timeout", "2.5") == PQPOOL_OK);
    CHECK(pqpool_options_set(options, "enable_leak_detection", "off") == PQPOOL_OK);
    CHECK(options.get("max_size") == "25");
    CHECK(options.get("timeout") == "2.5");
    CHECK(options.get("enable_leak_detection") == "false");

    CHECK(pqpool_options_set(options, "no_such_option", "1") == PQPOOL_CONFIGURATION);
    CHECK_THAT(pqpool_error_message(), Catch::Contains("no_such_option"));
    CHECK(pqpool_options_set(options, "max_size", "many") == PQPOOL_CONFIGURATION);
    CHECK_THAT(pqpool_error_message(),
               Catch::Contains("max_size") && Catch::Contains("many") && Catch::Contains("Suggestion"));
    CHECK(pqpool_options_set(options, "validation", "sometimes") == PQPOOL_CONFIGURATION);
    CHECK(pqpool_options_get(options, "no_such_option", nullptr, 0, nullptr) == PQPOOL_CONFIGURATION);
    CHECK(options.get("max_size") == "25");
}

TEST_CASE("a_value_is_cut_to_the_callers_room_and_its_length_told", "[options]") {
    Options options;
    REQUIRE(pqpool_options_set(options, "database_url", "postgresql://somewhere") == PQPOOL_OK);
    char little[6] = "xxxxx";
    std::size_t length = 0;
    REQUIRE(pqpool_options_get(options, "database_url", little, sizeof little, &length) == PQPOOL_OK);
    CHECK(std::string(little) == "postg");
    CHECK(length == 22);
    REQUIRE(pqpool_options_get(options, "database_url", nullptr, 0, &length) == PQPOOL_OK);
    CHECK(length == 22);
}

TEST_CASE("options_come_from_the_environment", "[options]") {
    const Variable url("DATABASE_URL", "postgresql://from/database_url"), size("POOL_MAX_SIZE", "33"),
        timeout("POOL_TIMEOUT", "1.5");
    Options options;
    CHECK(pqpool_options_from_env(options) == PQPOOL_OK);
    CHECK(options.get("database_url") == "postgresql://from/database_url");
    CHECK(options.get("max_size") == "33");
    CHECK(options.get("timeout") == "1.5");
    CHECK(options.get("min_size") == "2");
    SECTION("the pool's own variable goes before the common one") {
        const Variable own("POOL_DATABASE_URL", "postgresql://from/pool_database_url");
        CHECK(pqpool_options_from_env(options) == PQPOOL_OK);
        CHECK(options.get("database_url") == "postgresql://from/pool_database_url");
    }
    SECTION("a malformed one is named") {
        const Variable bad("POOL_MIN_SIZE", "two");
        CHECK(pqpool_options_from_env(options) == PQPOOL_CONFIGURATION);
        CHECK_THAT(pqpool_error_message(), Catch::Contains("min_size") && Catch::Contains("two"));
    }
}

TEST_CASE("a_check_tells_every_broken_rule", "[options]") {
    Options options;
    REQUIRE(pqpool_options_set(options, "database_url", "mysql://u:secret@h/d") == PQPOOL_OK);
    REQUIRE(pqpool_options_set(options, "min_size", "10") == PQPOOL_OK);
    REQUIRE(pqpool_options_set(options, "max_size", "5") == PQPOOL_OK);
    REQUIRE(pqpool_options_set(options, "timeout", "600") == PQPOOL_OK);
    CHECK(pqpool_options_check(options) == PQPOOL_CONFIGURATION);
    const std::string message = pqpool_error_message();
    CHECK_THAT(message, Catch::Contains("database_url must use postgresql"));
    CHECK_THAT(message, Catch::Contains("min_size (10) cannot be greater than max_size (5)"));
    CHECK_THAT(message, Catch::Contains("timeout must be less than 300.0 seconds"));
    CHECK_THAT(message, !Catch::Contains("secret"));
    CHECK(std::count(message.begin(), message.end(), '\n') >= 2);
}

TEST_CASE("statuses_states_and_versions_have_names", "[options]") {
    CHECK(std::string(pqpool_status_name(PQPOOL_OK)) == "ok");
    CHECK(std::string(pqpool_status_name(PQPOOL_TIMEOUT)) == "timeout");
    for (int32_t status = PQPOOL_INTERNAL; status <= PQPOOL_OK; status++) CHECK(pqpool_status_name(status) != nullptr);
    CHECK(pqpool_status_name(1) == nullptr);
    CHECK(pqpool_status_name(PQPOOL_INTERNAL - 1) == nullptr);
    CHECK(std::string(pqpool_state_name(PQPOOL_STATE_HEALTHY)) == "healthy");
    CHECK(std::string(pqpool_state_name(PQPOOL_TERMINATED)) == "terminated");
    CHECK(pqpool_state_name(-1) == nullptr);
    CHECK(pqpool_state_name(99) == nullptr);
    CHECK(pqpool_abi_version() == PQPOOL_ABI_VERSION);
    const std::string version = std::to_string(PQPOOL_VERSION_MAJOR) + "." + std::to_string(PQPOOL_VERSION_MINOR) +
                                "." + std::to_string(PQPOOL_VERSION_PATCH);
    CHECK(pqpool_version() == version);
}
