#include <catch2/catch.hpp>
#include <thread>

#include "core/base/error.hpp"
#include "core/wire/connect_plan.hpp"

using namespace pqpool;

namespace {

std::string value_of(const ConnectPlan& plan, std::string_view keyword) {
    for (std::size_t i = 0; plan.keywords()[i]; i++)
        if (plan.keywords()[i] == keyword) return plan.values()[i];
    return "";
}

}  // namespace

TEST_CASE("a_plan_takes_urls_and_keyword_strings", "[connect_plan]") {
    for (const char* url :
         {"postgresql://ann:pw@10.0.0.1:5433/app", "postgresql+asyncpg://ann:pw@10.0.0.1:5433/app",
          "postgres://ann:pw@10.0.0.1:5433/app", "host=10.0.0.1 port=5433 dbname=app user=ann password=pw"}) {
        INFO(url);
        const ConnectPlan plan(url);
        CHECK(value_of(plan, "host") == "10.0.0.1");
        CHECK(value_of(plan, "port") == "5433");
        CHECK(value_of(plan, "dbname") == "app");
        CHECK(value_of(plan, "user") == "ann");
        CHECK(value_of(plan, "password") == "pw");
        CHECK(value_of(plan, "client_encoding") == "UTF8");
        CHECK(plan.describe() == "host 10.0.0.1 port 5433 database app user ann");
        CHECK_FALSE(plan.needs_resolution());
    }
}

TEST_CASE("what_the_caller_says_goes_before_the_pools_own_settings", "[connect_plan]") {
    const ConnectPlan plan(
        "postgresql://h/d?application_name=mine&tcp_user_timeout=5&keepalives_idle=7&fallback_application_name=other");
    CHECK(value_of(plan, "application_name") == "mine");
    CHECK(value_of(plan, "tcp_user_timeout") == "5");
    CHECK(value_of(plan, "keepalives_idle") == "7");
    CHECK(value_of(plan, "fallback_application_name") == "other");
    CHECK(value_of(ConnectPlan("postgresql://h/d"), "tcp_user_timeout") == "30000");
}

TEST_CASE("only_names_have_to_be_resolved", "[connect_plan]") {
    CHECK(ConnectPlan("postgresql://somewhere/d").needs_resolution());
    CHECK(ConnectPlan("postgresql://10.0.0.1,somewhere/d").needs_resolution());
    CHECK_FALSE(ConnectPlan("postgresql://[::1]/d").needs_resolution());
    CHECK_FALSE(ConnectPlan("host=/var/run/postgresql dbname=d").needs_resolution());
    CHECK_FALSE(ConnectPlan("host=somewhere hostaddr=10.0.0.1 dbname=d").needs_resolution());
}

TEST_CASE("a_resolved_name_keeps_its_host_and_gains_addresses", "[connect_plan]") {
    const ConnectPlan named("postgresql://localhost:5433/d");
    const ConnectPlan plan = *named.with_addresses({{"localhost", ConnectPlan::look_up("localhost")}});
    CHECK_FALSE(plan.needs_resolution());
    CHECK_THAT(value_of(plan, "host"), Catch::StartsWith("localhost"));  // certificates are checked against it
    CHECK_THAT(value_of(plan, "hostaddr"), Catch::Contains("127.0.0.1") || Catch::Contains("::1"));
    CHECK_THAT(value_of(plan, "port"), Catch::StartsWith("5433"));
    CHECK_THROWS_AS(ConnectPlan::look_up("no-such-host.invalid"), Error);
}

TEST_CASE("a_plan_that_cannot_be_read_is_refused_without_its_password", "[connect_plan]") {
    for (const char* url : {"postgresql://u:secret%zz@h/d", "host=h password='secret",
                            "postgresql://u:secret@h/d?no_such_keyword=1", "postgresql://u:secret@[::1/d"}) {
        INFO(url);
        try {
            const ConnectPlan plan(url);
            FAIL("it was taken");
        } catch (const Error& e) {
            CHECK(e.kind == ErrorKind::configuration);
            CHECK_THAT(e.message, Catch::Contains("Suggestion") && !Catch::Contains("cret"));
        }
    }
}

TEST_CASE("sqlstates_tell_what_to_do_with_a_connection", "[connect_plan]") {
    for (const char* final : {"28P01", "28000", "3D000", "42501", "42704", "22023"}) CHECK(is_final_for_connect(final));
    for (const char* passing : {"57P03", "53300", "08006", ""}) CHECK_FALSE(is_final_for_connect(passing));
}

TEST_CASE("every_kind_of_error_has_a_name", "[connect_plan]") {
    CHECK(std::string(name_of(ErrorKind::timeout)) == "timeout");
    CHECK(std::string(name_of(ErrorKind::statement_timeout)) == "statement_timeout");
    CHECK(std::string(name_of(ErrorKind::internal)) == "internal");
}
