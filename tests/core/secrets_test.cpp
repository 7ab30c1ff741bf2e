#include "core/base/secrets.hpp"

#include <catch2/catch.hpp>
#include <string>

#include "core/base/options.hpp"
#include "core/run/statement_peek.hpp"
#include "core/wire/connect_plan.hpp"

using namespace pqpool;

TEST_CASE("a_url_whose_host_was_forgotten_keeps_its_password_too", "[secrets]") {
    CHECK(mask_password("postgresql://u:zyx") == "postgresql://u:***");
    CHECK(mask_password("postgresql://u:1zyx/d") == "postgresql://u:***");
    CHECK(mask_password("postgresql://u@h/d?options=-c%20x.password%3Dzyx") ==
          "postgresql://u@h/d?options=-c%20x.password%3D***");
    CHECK(mask_password("postgresql://u@h/d?options=-c%20x.pass%77ord%3dzyx&sslmode=require") ==
          "postgresql://u@h/d?options=-c%20x.pass%77ord%3d***&sslmode=require");
    CHECK(mask_password("host=h passwd=zyx pwd=zyx") == "host=h passwd=*** pwd=***");
    for (const char* plain : {"postgresql://h:5432/d", "postgresql://h:5432?a=b:c", "postgresql://h1:1,h2:2/d",
                              "postgresql://[::1]:5432/d", "postgresql://[::1]/d"})
        CHECK(mask_password(plain) == plain);
}

TEST_CASE("free_text_keeps_all_but_the_passwords", "[secrets]") {
    CHECK(mask_text("see postgresql://u:zyx@h/d there") == "see postgresql://u:***@h/d there");
    CHECK(mask_text("see postgresql://u@corp:zyx@h/d there") == "see postgresql://u@corp:***@h/d there");
    CHECK(mask_text("postgresql://h/d?pass%77ord=zyx&a=b then") == "postgresql://h/d?pass%77ord=***&a=b then");
    CHECK(mask_text("a postgresql://h/d?password=zyx then") == "a postgresql://h/d?password=*** then");
    CHECK(mask_text("host=h password = 'z y\\' x' user=u") == "host=h password = *** user=u");
    CHECK(mask_text("password=zyx, more") == "password=*** more");
    for (const char* plain : {"password authentication failed for user \"joe@corp\"", "at 10:15 by joe@corp: refused",
                              "http://h:80/a and joe@corp", "a = b"})
        CHECK(mask_text(plain) == plain);
}

TEST_CASE("a_statement_that_speaks_of_a_secret_is_shown_without_literals", "[secrets]") {
    CHECK(mask_statement("ALTER ROLE u PASSWORD 'zyx' VALID UNTIL 'x'") == "ALTER ROLE u PASSWORD '***'");
    CHECK(mask_statement("create role u password E'z\\'yx'") == "create role u password E'***'");
    CHECK(mask_statement("CREATE USER MAPPING FOR u SERVER s OPTIONS (user 'z', password 'yx')") ==
          "CREATE USER MAPPING FOR u SERVER s OPTIONS (user '***'");
    CHECK(mask_statement("ALTER ROLE u PASSWORD $$zyx$$") == "ALTER ROLE u PASSWORD '***'");
    CHECK(mask_statement("ALTER ROLE u PASSWORD $q$zyx$q$") == "ALTER ROLE u PASSWORD '***'");
    CHECK(mask_statement("/* don't */ ALTER ROLE u PASSWORD 'zyx'") == "/* don'***'");
    CHECK(mask_statement("SELECT dblink_connect('host=h password=zyx')") == "SELECT dblink_connect('***'");
    CHECK(mask_statement("SELECT dblink_connect('postgresql://u:zy") == "SELECT dblink_connect('***'");
    CHECK(mask_statement("/* postgresql://u:zy") == "/* postgresql://***");
    CHECK(mask_statement("SET x.password = zyx") == "SET x.password = ***");
    CHECK(mask_statement("UPDATE t SET token = $1 WHERE id = 'z'") == "UPDATE t SET token = $1 WHERE id = '***'");
    CHECK(mask_statement("SELECT 'zyx'", true) == "SELECT '***'");
    for (const char* plain : {"SELECT 'alice was here'", "SELECT $1::text, 'x'", "SELECT 1 -- don't", ""})
        CHECK(mask_statement(plain) == plain);
}

TEST_CASE("the_last_statement_is_shown_in_whole_characters_and_without_secrets", "[secrets][leases]") {
    StatementPeek peek;
    for (std::size_t pad = 0; pad < 4; pad++) {
        std::string sql = "SELECT '" + std::string(pad, 'a');
        while (sql.size() < 300) sql += "€";
        peek.set(sql);
        const std::string shown = peek.get();
        CHECK(is_utf8(shown));
        CHECK(sql.starts_with(shown));
        CHECK(shown.size() > 92);
    }
    peek.set("SELECT \"\xe9t\xe9\"");
    CHECK(is_utf8(peek.get()));
    peek.set("ALTER ROLE u PASSWORD 'zyx'");
    CHECK(peek.get() == "ALTER ROLE u PASSWORD '***'");
    // What speaks of the password stands behind the part that is shown.
    peek.set("SELECT 'zyx', " + std::string(200, '1') + " AS password");
    CHECK(peek.get() == "SELECT '***'");
    peek.set("SELECT 'zyx', " + std::string(200, '1'));
    CHECK(peek.get().starts_with("SELECT 'zyx', 111"));
    peek.clear();
    CHECK(peek.get().empty());
}

TEST_CASE("a_value_given_to_the_wrong_option_shows_no_password", "[secrets][options]") {
    for (const char* name : {"min_size", "timeout", "enable_leak_detection", "log_level", "validation"})
        for (const char* value : {"postgresql://u:zyx@h/d", "host=h password=zyx", "postgresql://u:z%79x@h/d"}) {
            Options options;
            try {
                options.set(name, value);
                FAIL(name);
            } catch (const Error& e) {
                INFO(e.message);
                CHECK_THAT(e.message, Catch::Contains(name) && Catch::Contains("***"));
                CHECK(e.message.find("yx") == std::string::npos);
                CHECK(e.message.find("z%79x") == std::string::npos);
            }
        }
    Options options;
    CHECK_THROWS_WITH(options.set("postgresql://u:zyx@h/d", "database_url"), Catch::Contains("u:***@h/d"));
    options.database_url = "postgresql://h/d";
    options.log_level = options.log_file = "postgresql://u:zyx@h/d";
    CHECK_THAT(options.problems(), Catch::Contains("log_level") && Catch::Contains("log_file"));
    CHECK(options.problems().find("zyx") == std::string::npos);
    options.database_url = "u:zyx";
    CHECK(options.problems().find("zyx") == std::string::npos);
}

TEST_CASE("what_libpq_says_of_a_conninfo_shows_no_password", "[secrets]") {
    for (const char* conninfo :
         {"host=h password:zyx", "host=h password 'zyx'", "host=h pass word=zyx", "postgresql://u:%zzyx@h/d",
          "postgresql://u@h/d?password%3Dzyx", "postgresql://u:[zyx@h/d", "host=h password='a''zyx'",
          "postgresql://u:p@[zyx", "postgresql://h/d?bad=zyx"})
        try {
            const ConnectPlan plan(conninfo);
            CHECK(plan.describe().find("zyx") == std::string::npos);
            CHECK(plan.name().find("zyx") == std::string::npos);
        } catch (const Error& e) {
            INFO(e.message);
            CHECK(e.message.find("zyx") == std::string::npos);
        }
    CHECK_THROWS_WITH(ConnectPlan("postgresql://h/d?bad=1"), Catch::Contains("\"bad\""));
    CHECK_THROWS_WITH(ConnectPlan("host=h bad=1"), Catch::Contains("\"bad\""));
}

TEST_CASE("a_password_that_was_not_encoded_is_not_shown_as_host_or_database", "[secrets]") {
    for (const char* url : {"postgresql://u:a/zyx@h:5432/d", "postgresql://u:a?zyx@h/d", "postgresql://u:a@zyx@h/d",
                            "postgresql://u:zyx", "postgresql://u:a/zyx@zyx@h/d"})
        try {
            const ConnectPlan plan(url);
            INFO(plan.describe());
            CHECK(plan.describe().find("zyx") == std::string::npos);
            CHECK(plan.name().find("zyx") == std::string::npos);
        } catch (const Error& e) {
            CHECK(e.message.find("zyx") == std::string::npos);
        }
    const ConnectPlan plan("postgresql://u:a/zyx@h:5432/d");
    CHECK(plan.masked("database \"zyx@h:5432/d\" does not exist") == "database \"***\" does not exist");
    // The server's words else stay as they are.
    const ConnectPlan sound("postgresql://joe%40corp:zyx@h:5432/d");
    CHECK(sound.describe() == "host h port 5432 database d user joe@corp");
    CHECK(sound.name() == "h:5432/d");
    const std::string words = "at 10:15: password authentication failed for user \"joe@corp\"";
    CHECK(sound.masked(words) == words);
}
