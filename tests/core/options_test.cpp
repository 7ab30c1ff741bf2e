#include <catch2/catch.hpp>
#include <cmath>
#include <cstdlib>
#include <map>

#include "core/base/options.hpp"
#include "core/base/secrets.hpp"

using namespace pqpool;
using Catch::Matchers::Contains;

namespace {

Options sound() {
    Options options;
    options.database_url = "postgresql://localhost/app";
    return options;
}

template <class Change>
std::string problems_of(Change change) {
    Options options = sound();
    change(options);
    return options.problems();
}

std::string error_of_set(const char* name, const char* value) {
    Options options;
    try {
        options.set(name, value);
    } catch (const Error& error) {
        CHECK(error.kind == ErrorKind::configuration);
        return error.message;
    }
    return "";
}

// Environment variables for the length of a test; those that the options read are unset before.
class Environment {
  public:
    Environment() {
        unsetenv("DATABASE_URL");
        for (const auto& info : option_list()) unsetenv(variable(info.name).c_str());
    }
    ~Environment() {
        for (const auto& [name, value] : set_) unsetenv(name.c_str());
    }
    void set(const std::string& name, const std::string& value) {
        set_[name] = value;
        setenv(name.c_str(), value.c_str(), 1);
    }
    static std::string variable(std::string name) {
        for (char& c : name) c = static_cast<char>(std::toupper(c));
        return "POOL_" + name;
    }

  private:
    std::map<std::string, std::string> set_;
};

}  // namespace

TEST_CASE("defaults_are_the_documents", "[options]") {
    const Options o;
    CHECK(o.min_size == 2);
    CHECK(o.max_size == 10);
    CHECK(o.max_queries == 50'000);
    CHECK(o.max_idle_time == 60.0);
    CHECK(o.timeout == 30.0);
    CHECK(o.command_timeout == 60.0);
    CHECK(o.max_connection_lifetime == 3600.0);
    CHECK(o.leak_detection_timeout == 30.0);
    CHECK(o.enable_leak_detection);
    CHECK(o.database_url.empty());
    CHECK(o.validation == "always");
    CHECK(sound().problems().empty());
}

TEST_CASE("a_min_size_above_max_size_is_explained_in_both_wordings", "[options]") {
    const auto text = problems_of([](Options& o) { o.min_size = 10, o.max_size = 5; });
    CHECK_THAT(text, Contains("min_size (10) cannot be greater than max_size (5)"));
    CHECK_THAT(text, Contains("max_size (5) must be >= min_size (10)"));
    CHECK_THAT(text, Contains("Suggestion: Increase POOL_MAX_SIZE to 10 or reduce POOL_MIN_SIZE to 5"));
}

TEST_CASE("a_foreign_url_is_refused", "[options]") {
    const auto text = problems_of([](Options& o) { o.database_url = "invalid://url"; });
    CHECK_THAT(text, Contains("database_url must use postgresql"));
    CHECK_THAT(text, Contains("invalid://"));
    CHECK_THAT(text, Contains("Suggestion: "));
    CHECK_THAT(problems_of([](Options& o) { o.database_url = "mysql+asyncpg://h/d"; }),
               Contains("database_url must use postgresql"));
    CHECK_THAT(problems_of([](Options& o) { o.database_url = "nonsense"; }),
               Contains("database_url must use postgresql"));
    CHECK_THAT(problems_of([](Options& o) { o.database_url = ""; }), Contains("database_url is required"));
}

TEST_CASE("each_form_of_database_url_is_accepted", "[options]") {
    for (const char* url :
         {"postgresql://u:p@h:5432/d", "postgres://h/d", "postgresql+asyncpg://h/d", "postgresql+psycopg2://h/d",
          "postgres+any://h", "host=localhost dbname=app", "postgresql:///d?host=/tmp"})
        CHECK(problems_of([&](Options& o) { o.database_url = url; }) == "");
}

TEST_CASE("a_value_out_of_bounds_is_named_with_its_bound", "[options]") {
    CHECK_THAT(problems_of([](Options& o) { o.min_size = -1; }), Contains("min_size must be positive"));
    CHECK_THAT(problems_of([](Options& o) { o.min_size = -1; }), Contains("-1"));
    CHECK_THAT(problems_of([](Options& o) { o.timeout = 600; }), Contains("timeout must be less than 300.0 seconds"));
    CHECK_THAT(problems_of([](Options& o) { o.timeout = 600; }), Contains("600.0"));
    CHECK_THAT(problems_of([](Options& o) { o.timeout = 300; }), Contains("timeout must be less than 300.0 seconds"));
    CHECK_THAT(problems_of([](Options& o) { o.timeout = 0; }), Contains("timeout must be greater than 0.0"));
    CHECK_THAT(problems_of([](Options& o) { o.command_timeout = 0; }),
               Contains("command_timeout must be greater than 0.0"));
    CHECK_THAT(problems_of([](Options& o) { o.max_queries = 999; }), Contains("max_queries must be at least 1000"));
    CHECK_THAT(problems_of([](Options& o) { o.max_idle_time = 9.5; }),
               Contains("max_idle_time must be at least 10.0 seconds (got 9.5)"));
    CHECK_THAT(problems_of([](Options& o) { o.max_connection_lifetime = 59; }),
               Contains("max_connection_lifetime must be at least 60.0"));
    CHECK_THAT(problems_of([](Options& o) { o.leak_detection_timeout = -1; }),
               Contains("leak_detection_timeout must be at least 0.0"));
    CHECK_THAT(problems_of([](Options& o) { o.max_size = 10'001; }), Contains("max_size must be at most 10000"));
    CHECK_THAT(problems_of([](Options& o) { o.validation = "sometimes"; }),
               Contains("validation must be one of always|blocking|idle|never"));
    CHECK_THAT(problems_of([](Options& o) { o.timeout = std::nan(""); }), Contains("timeout must be a finite number"));
    CHECK_THAT(problems_of([](Options& o) { o.max_idle_time = INFINITY; }),
               Contains("max_idle_time must be a finite number"));
}

TEST_CASE("values_on_their_bounds_are_accepted", "[options]") {
    CHECK(problems_of([](Options& o) { o.min_size = o.max_size = 1; }) == "");
    CHECK(problems_of([](Options& o) { o.min_size = o.max_size = 10'000; }) == "");
    CHECK(problems_of([](Options& o) { o.max_queries = 1000; }) == "");
    CHECK(problems_of([](Options& o) { o.timeout = 299.999; }) == "");
    CHECK(problems_of([](Options& o) { o.timeout = 0.001; }) == "");
    CHECK(problems_of([](Options& o) { o.max_idle_time = 10; }) == "");
    CHECK(problems_of([](Options& o) { o.leak_detection_timeout = 0; }) == "");
}

TEST_CASE("every_problem_has_its_line_and_its_suggestion", "[options]") {
    const auto text = problems_of([](Options& o) { o.min_size = 0, o.timeout = 600, o.database_url = "x"; });
    std::size_t lines = 1, suggestions = 0;
    for (std::size_t i = 0; i < text.size(); i++) {
        lines += text[i] == '\n';
        suggestions += text.compare(i, 12, "Suggestion: ") == 0;
    }
    CHECK(lines == 3);
    CHECK(suggestions == 3);
    CHECK(text.back() != '\n');
}

TEST_CASE("options_are_set_and_read_as_text", "[options]") {
    Options o;
    for (const auto& info : option_list()) CHECK(o.get(info.name) == info.default_text);
    o.set("min_size", "7");
    o.set("timeout", "2.5");
    o.set("enable_leak_detection", "Off");
    o.set("reset", "never");
    o.set("init_sql", "SET a = 'b'");
    CHECK(o.min_size == 7);
    CHECK(o.timeout == 2.5);
    CHECK_FALSE(o.enable_leak_detection);
    CHECK(o.get("min_size") == "7");
    CHECK(o.get("timeout") == "2.5");
    CHECK(o.get("max_idle_time") == "60.0");
    CHECK(o.get("enable_leak_detection") == "false");
    CHECK(o.get("reset") == "never");
    CHECK(o.get("init_sql") == "SET a = 'b'");
    CHECK_THROWS_AS(o.get("no_such"), Error);
}

TEST_CASE("malformed_text_names_the_field_the_value_and_a_suggestion", "[options]") {
    for (const char* value : {"ten", "1.5", "", " 3", "3x", "99999999999999999999"}) {
        const auto text = error_of_set("max_size", value);
        CHECK_THAT(text, Contains("max_size must be a whole number (got '" + std::string(value) + "')"));
        CHECK_THAT(text, Contains("Suggestion: set POOL_MAX_SIZE to a value such as 10"));
    }
    CHECK_THAT(error_of_set("timeout", "soon"), Contains("timeout must be a number of seconds (got 'soon')"));
    CHECK_THAT(error_of_set("enable_leak_detection", "maybe"), Contains("enable_leak_detection must be true or false"));
    CHECK_THAT(error_of_set("validation", "al"), Contains("validation must be always|blocking|idle|never (got 'al')"));
    CHECK_THAT(error_of_set("no_such", "1"), Contains("unknown option 'no_such'"));
}

TEST_CASE("the_environment_sets_every_option", "[options]") {
    Environment environment;
    environment.set("POOL_MIN_SIZE", "3");
    environment.set("POOL_MAX_IDLE_TIME", "12");
    environment.set("POOL_ENABLE_LEAK_DETECTION", "no");
    environment.set("DATABASE_URL", "postgresql://general/d");
    Options o;
    o.set_from_environment();
    CHECK(o.min_size == 3);
    CHECK(o.max_idle_time == 12.0);
    CHECK_FALSE(o.enable_leak_detection);
    CHECK(o.max_size == 10);
    CHECK(o.database_url == "postgresql://general/d");

    environment.set("POOL_DATABASE_URL", "postgresql://particular/d");
    o.set_from_environment();
    CHECK(o.database_url == "postgresql://particular/d");

    environment.set("POOL_MAX_SIZE", "many");
    CHECK_THROWS_AS(o.set_from_environment(), Error);
}

TEST_CASE("the_driver_suffix_is_dropped_for_libpq", "[options]") {
    CHECK(libpq_conninfo("postgresql+asyncpg://u:p@h/d") == "postgresql://u:p@h/d");
    CHECK(libpq_conninfo("postgres+x://h") == "postgres://h");
    CHECK(libpq_conninfo("postgresql://u:a+b@h/d") == "postgresql://u:a+b@h/d");
    CHECK(libpq_conninfo("host=h user=u") == "host=h user=u");
    CHECK(libpq_conninfo("host=h password=a+b://c user=u") == "host=h password=a+b://c user=u");
}

TEST_CASE("a_masked_url_still_tells_where_it_leads", "[options]") {
    CHECK(mask_password("postgresql://u:p@h:5432/d") == "postgresql://u:***@h:5432/d");
    CHECK(mask_password("postgresql+asyncpg://u:p@h:5432/d?sslmode=require") ==
          "postgresql+asyncpg://u:***@h:5432/d?sslmode=require");
    CHECK(mask_password("postgresql://h:5432/d?user=u&password=p&sslmode=require") ==
          "postgresql://h:5432/d?user=u&password=***&sslmode=require");
    CHECK(mask_password("host=h password=p user=u") == "host=h password=*** user=u");
    CHECK(mask_password("host=h password = 'a b' user=u") == "host=h password = *** user=u");
    for (const char* plain : {"postgresql://u@h:5432/d", "postgresql://h1:5432,h2:5433/d", "postgresql://[::1]:5432/d",
                              "host=h user=u", ""})
        CHECK(mask_password(plain) == plain);
}

TEST_CASE("a_password_never_survives_masking", "[options]") {
    // The letters z, y, x stand in no other part of these.
    for (const char* conninfo : {"postgresql://u:zyx@h/d",
                                 "postgresql+driver://u:zyx@h/d",
                                 "postgresql://:zyx@h/d",
                                 "postgresql://u:z:y@h/d",
                                 "postgresql://u:z@y@h/d",
                                 "postgresql://u:z/y@h/d",
                                 "postgresql://u:z?y@h/d",
                                 "postgresql://u:z#y@h/d",
                                 "postgresql://u:z y@h/d",
                                 "postgresql://u:z\ny@h/d",
                                 "postgresql://u:z&y@h/d",
                                 "postgresql://u%40corp:zyx@h/d",
                                 "postgresql://u@corp:zyx@h/d",
                                 "postgresql://u/v:zyx@h/d",
                                 "postgresql://u:zyx@[::1]:5432/d",
                                 "postgresql://u:zyx@h1:1,h2:2/d",
                                 "postgresql://u:password=z&y@h/d",
                                 "postgresql://u:z&password=y@h/d",
                                 "postgresql://u:z?password=y@h/d",
                                 "postgresql://h/d?password=zyx",
                                 "postgresql://h/d?user=u&password=z@y",
                                 "postgresql://h/d?password=z y&user=u",
                                 "postgresql://h/d?password='z y'&user=u",
                                 "postgresql://h/d?pass%77ord=zyx",
                                 "postgresql://h/d?PASSWORD=zyx",
                                 "postgresql://h/d?sslpassword=zyx&password=y",
                                 "postgresql://u:z@h/d?password=y@x",
                                 "invalid://u:zyx@h",
                                 "u:zyx@h/d",
                                 "u:z@y@h/d?sslmode=require",
                                 "password=zyx",
                                 "password=z&y host=h",
                                 "host=h password=z\\ y",
                                 "host=h password='z y'",
                                 "host=h password='z\\' y' user=u",
                                 "host=h password='z y",
                                 "host=h password = zyx",
                                 "host=h password= zyx",
                                 "host=h\tpassword=zyx",
                                 "host=h\npassword=zyx",
                                 "PASSWORD=zyx",
                                 "sslpassword=zyx host=h",
                                 "hostaddr=::1 password=z@y",
                                 "password=z://y:x@h",
                                 "dbname=postgresql://u:zyx@h/d password=y",
                                 "host='h'password=zyx",
                                 "postgresql://u:zyx@h/d\n?password=y"}) {
        const std::string masked = mask_password(conninfo);
        INFO(conninfo << " became " << masked);
        CHECK(masked.find_first_of("zyx") == std::string::npos);
        CHECK_THAT(masked, Contains("***"));

        Options options = sound();
        options.database_url = conninfo;
        options.min_size = -1;
        CHECK(options.problems().find("zy") == std::string::npos);
    }
}

TEST_CASE("a_long_password_is_masked_too", "[options]") {
    const std::string password(1 << 20, 'z');
    CHECK(mask_password("postgresql://u:" + password + "@h/d") == "postgresql://u:***@h/d");
    CHECK(mask_password("password='" + password + "'") == "password=***");
}
