#include "core/wire/session.hpp"

#include <catch2/catch.hpp>

#include "core/base/error.hpp"
#include "tests/core/session_talk.hpp"

using namespace pqpool;
using namespace pqpool::test;

namespace {

Session::Settings with_init(std::string sql) {
    Session::Settings settings;
    settings.init_sql = std::move(sql);
    return settings;
}

Session::Settings with_cache(std::int64_t size) {
    Session::Settings settings;
    settings.statement_cache_size = size;
    return settings;
}

}  // namespace

// ---- what is sent ----

TEST_CASE("a_session_begins_with_init_sql_the_check_and_the_question_about_floats", "[session]") {
    Session::Settings settings = with_init("SET a = 1; SET b = 2");
    Session session(settings);
    session.begin(1, false);
    ModelServer server;
    server.hear(session.output().unsent());
    CHECK(server.take_tags() == "PBDEPBDEPBDEPBDES");
    CHECK(server.begun("SET a = 1") == 1);
    CHECK(server.begun("1") == 2);  // the check, and the floats' answer
    Session second(settings);
    second.begin(-1, false);  // a pooler's number for a server process: it is asked for its own
    server.hear(second.output().unsent());
    CHECK(server.take_tags() == "PBDEPBDEPBDEPBDES");
    CHECK(server.begun("1") == 4);
}

TEST_CASE("a_statement_has_a_name_from_its_second_use_on", "[session]") {
    Talk talk;
    for (const char* tags : {"PBDES", "PBDES", "BES", "BES"}) {
        CHECK(talk.run("SELECT 7") == Verdict::answered);
        CHECK(talk.take_tags() == tags);
        CHECK(talk.value() == "7");
    }
    CHECK(talk.server.count_of_names() == 2);  // "" and its own
    CHECK(talk.session.queries() == 4);
}

TEST_CASE("without_a_cache_nothing_has_a_name", "[session]") {
    Talk talk(with_cache(0));
    for (int i = 0; i < 3; i++) {
        CHECK(talk.run("SELECT 7", Check::pipelined) == Verdict::answered);
        CHECK(talk.take_tags() == "PBDEPBDES");
    }
    CHECK(talk.server.count_of_names() == 1);
}

TEST_CASE("what_only_reads_shares_its_sync_with_the_check", "[session]") {
    Talk talk;
    talk.run("SELECT 7", Check::pipelined);
    CHECK(talk.take_tags() == "PBDEPBDES");
    talk.run("SELECT 8", Check::pipelined);
    CHECK(talk.take_tags() == "BEPBDES");
    talk.run("UPDATE t SET a = 1", Check::pipelined);
    CHECK(talk.take_tags() == "BESPBDES");
    talk.run("SELECT 7; SELECT 8", Check::pipelined);
    CHECK(talk.take_tags() == "BESQ");
    CHECK(talk.value() == "8");
}

TEST_CASE("an_awaited_check_goes_alone", "[session]") {
    Talk talk;
    CHECK(talk.run("SELECT 7", Check::awaited) == Verdict::answered);
    CHECK(talk.take_tags() == "PBDES");
    CHECK_FALSE(talk.session.has_sent_statement());
    CHECK_FALSE(talk.session.has_result());
    CHECK(talk.server.begun("7") == 0);
    CHECK(talk.run("SELECT 7") == Verdict::answered);
    CHECK(talk.value() == "7");
}

TEST_CASE("what_a_lease_left_is_undone_before_the_next_statement_is_sent", "[session]") {
    Talk talk(with_init("SET a = 1"));
    talk.run("SET b = 2");
    talk.take_tags();
    talk.session.end_lease();
    CHECK(talk.run("SELECT 7", Check::pipelined) == Verdict::answered);
    CHECK(talk.take_tags() == "PBDEPBDESPBDES");
    CHECK(talk.server.begun("RESET ALL") == 1);
    CHECK(talk.server.begun("SET a = 1") == 2);
    CHECK_FALSE(talk.session.has_sent_statement());
    CHECK(talk.run("SELECT 7") == Verdict::answered);
    CHECK(talk.take_tags() == "PBDES");
    talk.session.end_lease();
    talk.run("SELECT 7", Check::pipelined);
    CHECK(talk.take_tags() == "BEPBDES");  // nothing more to undo
}

TEST_CASE("names_that_the_undoing_removes_are_forgotten", "[session]") {
    Talk talk;
    for (int i = 0; i < 2; i++) talk.run("SELECT 7");
    talk.run("PREPARE a AS SELECT 1");
    talk.session.end_lease();
    talk.run("SELECT 7", Check::pipelined);
    CHECK(talk.server.begun("DEALLOCATE ALL") == 1);
    talk.take_tags();
    CHECK(talk.run("SELECT 7") == Verdict::answered);
    CHECK(talk.take_tags() == "PBDES");
}

TEST_CASE("where_names_are_unsure_a_transactions_check_has_none", "[session]") {
    Talk talk;
    talk.session.note_foreign_words();
    talk.run("BEGIN");
    for (int i = 0; i < 2; i++) CHECK(talk.run("SELECT 7", Check::pipelined) == Verdict::answered);
    CHECK_FALSE(talk.server.knows("pqpool_check"));
}

TEST_CASE("an_undo_that_fails_ends_the_session_before_the_statement", "[session]") {
    Talk talk;
    talk.run("SET b = 2");
    talk.session.end_lease();
    talk.server.answer_next("RESET ALL", error("42501", "you must not"));
    CHECK(talk.run("SELECT 7", Check::pipelined) == Verdict::again_elsewhere);
    CHECK(talk.session.loss_message() == "what an earlier lease left could not be undone: ERROR:  you must not");
    CHECK(talk.server.begun("7") == 0);
}

TEST_CASE("a_reset_rolls_back_undoes_and_checks", "[session]") {
    Talk talk;
    talk.run("BEGIN");
    CHECK(talk.session.transaction_status() == TransactionStatus::open);
    talk.run("LISTEN a");
    talk.take_tags();
    talk.session.begin_reset();
    CHECK(talk.serve() == Verdict::answered);
    CHECK(talk.take_tags() == "PBDEPBDEPBDES");
    CHECK(talk.server.begun("ROLLBACK") == 1);
    CHECK(talk.server.begun("UNLISTEN *") == 1);
    CHECK(talk.session.transaction_status() == TransactionStatus::idle);
    CHECK_FALSE(talk.session.residue().is_inherited());
}

TEST_CASE("the_statement_that_gives_way_is_closed_on_the_server", "[session]") {
    Talk talk(with_cache(1));
    talk.run("SELECT 7");
    talk.run("SELECT 7");
    CHECK(talk.server.count_of_names() == 2);
    talk.take_tags();
    talk.run("SELECT 8");
    CHECK(talk.take_tags() == "CPBDES");
    CHECK(talk.server.count_of_names() == 1);
    talk.run("SELECT 9");
    CHECK(talk.take_tags() == "PBDES");
}

TEST_CASE("what_the_protocol_cannot_carry_is_refused_with_nothing_sent", "[session]") {
    Talk talk;
    CHECK_THROWS_AS(talk.begin("COPY t FROM STDIN", Check::pipelined), Error);
    CHECK_FALSE(talk.session.is_busy());
    CHECK(talk.session.output().unsent().empty());
    CHECK_THROWS_AS(talk.begin("SELECT 1", Check::pipelined, ResultFormat::text, {{.value = "1"}}), Error);
    CHECK(talk.session.output().unsent().empty());
    CHECK(talk.run("SELECT 7") == Verdict::answered);
    CHECK(talk.value() == "7");
}

TEST_CASE("under_unusual_settings_a_statement_is_described_first", "[session]") {
    Talk talk;
    talk.server.column_type = 23;
    talk.hear(parameter("DateStyle", "German, DMY"));
    CHECK(talk.run("SELECT 7", Check::none, ResultFormat::automatic) == Verdict::answered);
    CHECK(talk.take_tags() == "PDS");
    CHECK_FALSE(talk.session.has_result());
    CHECK_FALSE(talk.session.has_sent_statement());
    CHECK(talk.run("SELECT 7", Check::none, ResultFormat::automatic) == Verdict::answered);
    CHECK(talk.take_tags() == "BDES");
    CHECK(talk.value() == int32(7));
    talk.run("SELECT 8", Check::none, ResultFormat::text);
    CHECK(talk.take_tags() == "PBDES");
}

TEST_CASE("a_setting_that_a_server_does_not_report_is_taken_for_the_usual_one", "[session]") {
    for (const auto& parameters : {Talk::Parameters{}, Talk::Parameters{{"DateStyle", "ISO, MDY"}},
                                   Talk::Parameters{{"IntervalStyle", "postgres"}}}) {
        Talk talk({}, 1, false, parameters);
        talk.run("SELECT 7", Check::none, ResultFormat::automatic);
        CHECK(talk.take_tags() == "PBDES");
    }
}

TEST_CASE("a_description_that_fails_is_the_statements_error", "[session]") {
    Talk talk;
    talk.hear(parameter("IntervalStyle", "iso_8601"));
    talk.server.answer_next("parse SELECT 7", error("42P01", "no such table"));
    CHECK(talk.run("SELECT 7", Check::none, ResultFormat::automatic) == Verdict::answered);
    CHECK(talk.value() == "42P01");
}

TEST_CASE("a_client_encoding_that_somebody_changed_is_set_back_first", "[session]") {
    Talk talk;
    talk.hear(parameter("client_encoding", "LATIN1"));
    CHECK(talk.run("SELECT 7") == Verdict::answered);
    CHECK(talk.server.begun("SET client_encoding = 'UTF8'") == 1);
    CHECK_FALSE(talk.session.has_result());
    talk.take_tags();
    CHECK(talk.run("SELECT 7") == Verdict::answered);
    CHECK(talk.take_tags() == "PBDES");
}

TEST_CASE("rounded_floats_are_found_out_once_for_all", "[session]") {
    Session::Settings settings;
    Talk first(settings);
    CHECK(*settings.float_text == Session::FloatText::whole);
    Session::Settings others;
    {
        Session session(others);
        session.begin(1, false);
        CHECK(*others.float_text == Session::FloatText::asked);
    }
    CHECK(*others.float_text == Session::FloatText::whole);  // it got no answer, and it is not asked again
    Session::Settings rounded;
    Session session(rounded);
    session.begin(1, false);
    ModelServer server;
    server.rounds_floats = true;
    for (const auto& one : server.hear(session.output().unsent())) {
        std::copy(one.begin(), one.end(), session.input().room().data);
        session.input().add(one.size());
    }
    session.output().note_sent(session.output().unsent().size());
    CHECK(session.take());
    session.end_batch();
    CHECK(*rounded.float_text == Session::FloatText::rounded);
}

TEST_CASE("a_server_process_that_is_not_the_sessions_tells_of_a_pooler", "[session]") {
    Talk direct(Session::Settings(), 4321);
    CHECK_FALSE(direct.session.is_behind_pooler());
    Talk talk(Session::Settings(), -5);
    CHECK(talk.session.is_behind_pooler());
    // Names may be gone in a transaction, where a wrong guess would end it.
    talk.run("BEGIN");
    talk.run("SELECT 7");
    talk.take_tags();
    talk.run("SELECT 7");
    CHECK(talk.take_tags() == "PBDES");
    CHECK(talk.server.count_of_names() == 1);
}

// ---- parameters and floods ----

TEST_CASE("parameters_are_kept_as_they_were_last_reported", "[session]") {
    Talk talk;
    CHECK(talk.session.parameter("TimeZone").empty());
    talk.hear(parameter("TimeZone", "Mars") + parameter("TimeZone", "Venus"));
    CHECK(talk.session.parameter("TimeZone") == "Venus");
}

TEST_CASE("more_parameters_than_any_server_has_end_the_session", "[session]") {
    Talk talk;
    for (int i = 0; i < 253; i++) talk.hear(parameter(std::to_string(i), "a"));
    CHECK_FALSE(talk.session.is_lost());
    talk.hear(parameter("1", "b"));
    CHECK_FALSE(talk.session.is_lost());
    talk.hear(parameter("one more", "a"));
    CHECK(talk.session.is_lost());
}

TEST_CASE("notices_and_notifications_may_come_at_any_time_and_in_any_number", "[session]") {
    Talk talk;
    const std::string notice = fields('N', {{'S', "NOTICE"}, {'M', std::string(1000, 'x')}});
    const std::string notification = message('A', int32(7) + text("channel") + text("words"));
    talk.begin("SELECT 7", Check::pipelined);
    for (const auto& one : talk.send()) {
        for (int i = 0; i < 2000; i++) talk.hear(i % 2 ? notice : notification);
        talk.hear(one);
    }
    CHECK(talk.end() == Verdict::answered);
    CHECK(talk.value() == "7");
    talk.hear(notice + notification);
    CHECK_FALSE(talk.session.is_lost());
}

TEST_CASE("what_is_misshapen_ends_the_session_even_where_it_is_not_looked_at", "[session]") {
    for (const auto& one : {message('N', "Sx"), message('N', text("Sx")), message('A', int32(7) + text("channel")),
                            message('S', text("name")), message('S', text("name") + text("value") + "x"),
                            message('E', text("Sx")), message('Z', "I"), message('1'), message('x')}) {
        Talk talk;
        talk.hear(one);
        CHECK(talk.session.is_lost());
        CHECK_THAT(talk.session.loss_message(), Catch::Matchers::StartsWith("the server's side sent "));
    }
}

// ---- conditions ----

TEST_CASE("a_server_that_became_a_standby_condemns_its_session", "[session]") {
    Talk talk;
    talk.server.answer_next("UPDATE t SET a = 1", error("25006", "cannot", "another"));
    talk.run("UPDATE t SET a = 1");
    CHECK_FALSE(talk.session.is_condemned());
    talk.server.answer_next("UPDATE t SET a = 1", error("25001", "cannot", "PreventCommandIfReadOnly"));
    talk.run("UPDATE t SET a = 1");
    CHECK_FALSE(talk.session.is_condemned());
    talk.server.answer_next("UPDATE t SET a = 1", error("25006", "cannot", "PreventCommandIfReadOnly"));
    talk.run("UPDATE t SET a = 1");
    CHECK(talk.session.is_condemned());
    // Where the server tells that it is none, the lease has asked for it.
    Talk other;
    other.hear(parameter("in_hot_standby", "off") + parameter("default_transaction_read_only", "off"));
    other.server.answer_next("UPDATE t SET a = 1", error("25006", "cannot", "PreventCommandIfReadOnly"));
    other.run("UPDATE t SET a = 1");
    CHECK_FALSE(other.session.is_condemned());
    other.hear(parameter("default_transaction_read_only", "on"));
    other.server.answer_next("UPDATE t SET a = 1", error("25006", "cannot", "PreventCommandIfReadOnly"));
    other.run("UPDATE t SET a = 1");
    CHECK(other.session.is_condemned());
}

TEST_CASE("the_first_reason_of_a_loss_is_the_one_that_is_told", "[session]") {
    Talk talk;
    talk.hear(fatal("57P01", "ProcessInterrupts"));
    CHECK(talk.session.is_condemned());
    talk.session.lose("something else");
    CHECK(talk.session.loss_message() == "FATAL:  the end");
    Talk other;
    other.session.lose();
    other.session.lose("what follows from it");
    CHECK(other.session.loss_message().empty());
}

TEST_CASE("what_follows_the_end_of_a_session_is_not_taken", "[session]") {
    Talk talk;
    talk.begin("SELECT 7");
    const auto answers = talk.send();
    talk.hear(answers[0]);
    talk.session.lose("the end");
    for (std::size_t i = 1; i < answers.size(); i++) talk.hear(answers[i]);
    CHECK(talk.end() == Verdict::unknown);
    CHECK_FALSE(talk.session.has_result());
    CHECK(talk.session.loss_message() == "the end");
}

TEST_CASE("several_statements_in_one_call_get_a_hint", "[session]") {
    Talk talk;
    CHECK(talk.run("SELECT 1; SELECT 2", Check::none, ResultFormat::automatic) == Verdict::answered);
    const Result result = talk.session.take_result();
    REQUIRE(result.error());
    CHECK(result.error()->kind == ErrorKind::query);
    CHECK_THAT(result.error()->message, Catch::Matchers::Contains("run one statement per call"));
}

TEST_CASE("another_servers_columns_behind_the_same_name_are_an_error_and_described_anew", "[session]") {
    Talk talk({}, -5);  // behind a pooler, where a name is described with each use
    const auto run = [&] { return talk.run("SELECT 7", Check::none, ResultFormat::automatic); };
    run();
    run();
    talk.take_tags();
    run();
    CHECK(talk.take_tags() == "BDES");
    CHECK(talk.value() == int32(7));
    talk.server.column_type = 600;  // a point, whose binary form nobody reads
    talk.server.know(name_of_statement(talk.statement.key()), "SELECT 7");
    CHECK(run() == Verdict::answered);
    const Result result = talk.session.take_result();
    REQUIRE(result.error());
    CHECK(result.error()->kind == ErrorKind::unsupported);
    CHECK(run() == Verdict::answered);
    CHECK(talk.value() == "7");
}

TEST_CASE("columns_that_changed_are_described_anew", "[session]") {
    Talk talk;
    const auto run = [&] { return talk.run("SELECT 7", Check::none, ResultFormat::automatic); };
    for (int i = 0; i < 3; i++) run();
    talk.server.column_type = 600;
    CHECK(run() == Verdict::again_here);
    CHECK(run() == Verdict::answered);
    CHECK(talk.take_tags().ends_with("CPBDES"));
    const Result result = talk.session.take_result();
    CHECK(result.column_type(0) == 600);
    CHECK(result.value(0, 0) == std::string("7"));
}

TEST_CASE("rows_without_a_description_are_of_the_columns_that_were_seen_last", "[session]") {
    Talk talk;
    for (int i = 0; i < 2; i++) talk.run("SELECT 7");
    talk.begin("SELECT 7");
    talk.send();
    talk.hear(bind_complete() + row({"7", "8"}));
    CHECK(talk.end() == Verdict::unknown);
    Talk other;
    for (int i = 0; i < 2; i++) other.run("UPDATE t SET a = 1");
    other.begin("UPDATE t SET a = 1");
    other.send();
    other.hear(bind_complete() + row({}));
    CHECK(other.end() == Verdict::unknown);
}

TEST_CASE("columns_that_are_known_in_one_form_are_described_in_the_other", "[session]") {
    Talk talk;
    for (int i = 0; i < 3; i++) talk.run("SELECT 7", Check::pipelined);
    talk.take_tags();
    talk.run("SELECT 7", Check::pipelined);
    CHECK(talk.take_tags() == "BEBES");
    CHECK(talk.value() == "7");
    for (const char* tags : {"BDES", "BES"}) {
        talk.run("SELECT 7", Check::none, ResultFormat::binary);
        CHECK(talk.take_tags() == tags);
        const Result result = talk.session.take_result();
        CHECK(result.is_binary());
        CHECK(std::string_view(result.value(0, 0), 4) == int32(7));
    }
}

// Its columns were described in another form, and then there was no result.
TEST_CASE("after_a_failure_columns_are_not_taken_for_those_of_the_last_result", "[session]") {
    Talk talk;
    for (int i = 0; i < 3; i++) talk.run("SELECT 1000");
    talk.server.answer_next("SELECT 1000", error("22012"));
    talk.run("SELECT 1000", Check::none, ResultFormat::binary);
    CHECK(talk.run("SELECT 1000") == Verdict::answered);
    const Result result = talk.session.take_result();
    CHECK_FALSE(result.is_binary());
    CHECK(result.value(0, 0) == std::string("1000"));
}

TEST_CASE("what_may_have_other_columns_each_time_has_no_name", "[session]") {
    Talk talk;
    for (int i = 0; i < 3; i++) {
        talk.run("EXECUTE a");
        CHECK(talk.take_tags() == "PBDES");
    }
    CHECK(talk.server.count_of_names() == 1);
}

TEST_CASE("in_a_transaction_that_has_failed_the_syncs_answer_is_the_check", "[session]") {
    Talk talk;
    talk.run("BEGIN");
    talk.server.answer_next("SELECT 7", error("22012"));
    talk.run("SELECT 7");
    CHECK(talk.session.transaction_status() == TransactionStatus::failed);
    talk.take_tags();
    CHECK(talk.run("ROLLBACK", Check::pipelined) == Verdict::answered);
    CHECK(talk.take_tags() == "SPBDES");
}
