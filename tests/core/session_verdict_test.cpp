// The table of docs/architecture.md, "A batch on the wire", and what stands beside it.
#include <catch2/catch.hpp>

#include "tests/core/session_talk.hpp"

using namespace pqpool;
using namespace pqpool::test;

namespace {

constexpr const char *kReads = "SELECT 7", *kWrites = "UPDATE t SET a = 7";

std::string from_function(std::string_view sqlstate, std::string_view routine) {
    return fields(
        'E',
        {{'S', "ERROR"}, {'V', "ERROR"}, {'C', sqlstate}, {'M', "no"}, {'W', "PL/pgSQL function f()"}, {'R', routine}});
}

// Run twice, so that the next time goes by its name.
void make_name(Talk& talk, std::string_view sql) {
    talk.run(sql);
    talk.run(sql);
    talk.take_tags();
}

}  // namespace

// ---- the end ----

TEST_CASE("of_what_was_never_written_nothing_was_begun", "[session]") {
    for (const bool with_words : {false, true})
        for (const Check check : {Check::none, Check::pipelined}) {
            Talk talk;
            talk.begin(kWrites, check);
            talk.session.note_unwritten();
            if (with_words) talk.hear(fatal("57P01", "another"));  // it is not written for that
            CHECK(talk.end() == Verdict::again_elsewhere);
        }
}

TEST_CASE("of_what_was_written_in_part_nobody_knows", "[session]") {
    Talk talk;
    talk.begin(kWrites);
    talk.session.output().note_sent(1);
    talk.session.note_unwritten();
    CHECK(talk.end() == Verdict::unknown);
    Talk other;
    other.begin(kWrites);
    other.send();
    other.session.note_unwritten();
    CHECK(other.end() == Verdict::unknown);
}

TEST_CASE("a_batch_without_a_statement_of_the_caller_is_no_loss", "[session]") {
    Talk talk;
    talk.begin(kWrites, Check::awaited);
    const auto answers = talk.send();
    for (std::size_t i = 0; i + 1 < answers.size(); i++) talk.hear(answers[i]);
    CHECK(talk.end() == Verdict::again_elsewhere);
}

TEST_CASE("an_end_in_the_midst_of_the_answers_is_unknown", "[session]") {
    for (const char* sql : {kReads, kWrites, "SELECT 1; SELECT 2"})
        for (const Check check : {Check::none, Check::pipelined})
            for (std::size_t taken = 0;; taken++) {
                Talk talk;
                talk.begin(sql, check);
                const auto answers = talk.send();
                for (std::size_t i = 0; i < taken && i < answers.size(); i++) talk.hear(answers[i]);
                const bool is_whole = taken >= answers.size();
                CHECK(talk.end() == (is_whole ? Verdict::answered : Verdict::unknown));
                if (is_whole) break;
            }
}

TEST_CASE("the_servers_own_last_word_before_the_checks_answer_says_that_nothing_was_begun", "[session]") {
    struct Case {
        const char *sqlstate, *routine;
        bool is_own;
    };
    for (const auto& [sqlstate, routine, is_own] :
         {Case{"57P01", "ProcessInterrupts", true}, Case{"57P05", "ProcessInterrupts", true},
          Case{"25P03", "ProcessInterrupts", true}, Case{"57P02", "quickdie", false}, Case{"57P01", "", false},
          Case{"57P03", "ProcessInterrupts", false}, Case{"08P01", "ProcessInterrupts", false}})
        for (const char* sql : {kReads, kWrites})
            for (const Check check : {Check::none, Check::pipelined})
                for (std::size_t taken = 0;; taken++) {
                    Talk talk;
                    talk.begin(sql, check);
                    const auto answers = talk.send();
                    for (std::size_t i = 0; i < taken && i < answers.size(); i++) talk.hear(answers[i]);
                    // Of a new check: 1 2 T D C.
                    const bool is_before_check = check != Check::none && taken < 5;
                    const bool is_whole = taken >= answers.size();
                    talk.hear(fatal(sqlstate, routine));
                    INFO(sqlstate << routine << sql << taken);
                    CHECK(talk.end() == (is_whole                    ? Verdict::answered
                                         : is_own && is_before_check ? Verdict::again_elsewhere
                                                                     : Verdict::unknown));
                    CHECK(talk.session.is_lost());
                    CHECK(talk.session.is_condemned());
                    CHECK(talk.session.loss_message() == "FATAL:  the end");
                    if (is_whole) {
                        CHECK(talk.session.has_result());
                        break;
                    }
                    CHECK_FALSE((talk.session.has_result() && talk.session.verdict() == Verdict::answered));
                }
}

TEST_CASE("a_last_word_behind_a_check_that_failed_is_unknown", "[session]") {
    Talk talk;
    talk.server.answer_next("SELECT 1", error("22012"));
    talk.begin(kWrites, Check::pipelined);  // behind a Sync of its own, so that it runs all the same
    const auto answers = talk.send();
    for (std::size_t i = 0; i < 4; i++) talk.hear(answers[i]);  // 1 2 T E
    talk.hear(fatal("57P01", "ProcessInterrupts"));
    CHECK(talk.end() == Verdict::unknown);
}

TEST_CASE("severity_is_read_where_it_is_not_translated", "[session]") {
    for (const char* severity : {"FATAL", "PANIC", "ERROR"}) {
        Talk talk;
        talk.begin(kReads);
        talk.send();
        talk.hear(fields('E', {{'S', "FATAL?"}, {'V', severity}, {'C', "XX000"}, {'M', "no"}}));
        CHECK(talk.session.is_lost() == (severity != std::string_view("ERROR")));
        Talk old;  // servers before 9.6
        old.begin(kReads);
        old.send();
        old.hear(fields('E', {{'S', severity}, {'C', "XX000"}, {'M', "no"}}));
        CHECK(old.session.is_lost() == (severity != std::string_view("ERROR")));
    }
}

// ---- names ----

TEST_CASE("a_plan_that_went_stale_is_made_anew", "[session]") {
    Talk talk;
    make_name(talk, kReads);
    talk.server.answer_next("bind SELECT 7", error("0A000", "changed", "RevalidateCachedQuery"));
    CHECK(talk.run(kReads) == Verdict::again_here);
    CHECK_FALSE(talk.session.has_result());
    talk.take_tags();
    CHECK(talk.run(kReads) == Verdict::answered);
    CHECK(talk.take_tags() == "CPBDES");
    CHECK(talk.value() == "7");
}

TEST_CASE("a_name_that_the_server_has_lost_is_made_anew_and_all_others_too", "[session]") {
    Talk talk;
    make_name(talk, kReads);
    make_name(talk, kWrites);
    talk.server.forget_names();
    CHECK(talk.run(kReads) == Verdict::again_here);
    talk.take_tags();
    for (const char* sql : {kReads, kWrites}) {
        CHECK(talk.run(sql) == Verdict::answered);
        CHECK(talk.take_tags() == "PBDES");
    }
}

TEST_CASE("a_name_that_is_there_already_is_used", "[session]") {
    Talk talk;
    talk.run(kReads);
    talk.server.know(name_of_statement(talk.statement.key()), kReads);
    CHECK(talk.run(kReads) == Verdict::again_here);
    talk.take_tags();
    CHECK(talk.run(kReads) == Verdict::answered);
    CHECK(talk.take_tags() == "BDES");
    CHECK(talk.value() == "7");
}

TEST_CASE("behind_a_pooler_a_name_that_is_missing_twice_is_used_no_more", "[session]") {
    Talk talk;
    talk.run(kReads);
    talk.server.know(name_of_statement(talk.statement.key()), kReads);
    talk.run(kReads);  // 42P05: names are shared
    for (const char* tags : {"BDES", "PBDES", "BDES"}) {
        talk.take_tags();
        if (tags[0] == 'B') talk.server.forget_names();
        CHECK(talk.run(kReads) == (tags[0] == 'B' ? Verdict::again_here : Verdict::answered));
        CHECK(talk.take_tags() == tags);
    }
    for (int i = 0; i < 2; i++) {
        CHECK(talk.run(kReads) == Verdict::answered);
        CHECK(talk.take_tags() == "PBDES");
    }
    CHECK(talk.server.count_of_names() == 1);
}

TEST_CASE("the_same_codes_from_elsewhere_are_the_statements_own_errors", "[session]") {
    struct Case {
        const char *where, *sqlstate, *routine;
        bool has_context, in_transaction, is_again;
    };
    const Case cases[] = {
        {"bind SELECT 7", "0A000", "RevalidateCachedQuery", false, false, true},
        {"bind SELECT 7", "0A000", "RevalidateCachedQuery", true, false, false},
        {"bind SELECT 7", "0A000", "RevalidateCachedQuery", false, true, false},
        {"bind SELECT 7", "0A000", "another", false, false, false},
        {"bind SELECT 7", "26000", "FetchPreparedStatement", false, false, true},
        {"bind SELECT 7", "26000", "FetchPreparedStatement", true, false, false},
        {"bind SELECT 7", "26000", "FetchPreparedStatement", false, true, false},
        {"bind SELECT 7", "26000", "", false, false, false},
        {"bind SELECT 7", "42P05", "StorePreparedStatement", false, false, false},
        // EXECUTE of a name of the caller's fails with the same words, but later.
        {"SELECT 7", "0A000", "RevalidateCachedQuery", false, false, false},
        {"SELECT 7", "26000", "FetchPreparedStatement", false, false, false},
        {"SELECT 7", "42P05", "StorePreparedStatement", false, false, false},
    };
    for (const auto& [where, sqlstate, routine, has_context, in_transaction, is_again] : cases) {
        Talk talk;
        make_name(talk, kReads);
        if (in_transaction) talk.run("BEGIN");
        talk.server.answer_next(where, has_context ? from_function(sqlstate, routine) : error(sqlstate, "no", routine));
        INFO(where << ' ' << sqlstate << ' ' << routine);
        CHECK(talk.run(kReads) == (is_again ? Verdict::again_here : Verdict::answered));
        if (!is_again) CHECK(talk.value() == sqlstate);
    }
}

TEST_CASE("a_portals_description_looks_up_no_name", "[session]") {
    Talk talk;
    talk.run(kReads);
    talk.server.answer_next("describe SELECT 7", error("26000", "no", "FetchPreparedStatement"));
    CHECK(talk.run(kReads) == Verdict::answered);
    CHECK(talk.value() == "26000");
}

TEST_CASE("an_error_at_our_parse_is_looked_at_with_its_routine", "[session]") {
    for (const char* routine : {"StorePreparedStatement", "another"}) {
        Talk talk;
        talk.run(kReads);
        talk.server.answer_next("parse SELECT 7", error("42P05", "no", routine));
        CHECK(talk.run(kReads) == (routine[0] == 'S' ? Verdict::again_here : Verdict::answered));
    }
    // Without a name there is nothing to be found twice.
    Talk talk;
    talk.server.answer_next("parse SELECT 7", error("42P05", "no", "StorePreparedStatement"));
    CHECK(talk.run(kReads) == Verdict::answered);
    CHECK(talk.value() == "42P05");
}

TEST_CASE("names_are_forgotten_with_the_statement_that_removes_them", "[session]") {
    Talk talk;
    make_name(talk, kReads);
    talk.run("DEALLOCATE ALL");
    talk.take_tags();
    CHECK(talk.run(kReads) == Verdict::answered);
    CHECK(talk.take_tags() == "PBDES");
    talk.session.note_foreign_words();
    talk.server.forget_names();
    CHECK(talk.session.residue().of_lease() == kDirtAll);
    talk.run(kReads, Check::none);
    CHECK(talk.take_tags() == "PBDES");
    talk.run("BEGIN");
    talk.take_tags();
    talk.run(kReads);
    CHECK(talk.take_tags() == "PBDES");  // in a transaction a wrong guess would end it
}

TEST_CASE("a_type_that_is_gone_takes_the_name_with_it", "[session]") {
    Talk talk;
    make_name(talk, kReads);
    talk.server.answer_next("bind SELECT 7", error("XX000", "cache lookup failed for type 16400"));
    CHECK(talk.run(kReads) == Verdict::answered);
    CHECK(talk.value() == "XX000");
    talk.take_tags();
    talk.run(kReads);
    CHECK(talk.take_tags() == "CPBDES");
}

TEST_CASE("a_name_is_there_as_soon_as_it_was_parsed", "[session]") {
    Talk talk;
    talk.run(kReads);
    talk.server.answer_next(kReads, error("22012"));
    CHECK(talk.run(kReads) == Verdict::answered);
    talk.take_tags();
    CHECK(talk.run(kReads) == Verdict::answered);
    CHECK(talk.take_tags() == "BDES");
}

// ---- the check ----

TEST_CASE("where_the_check_fails_the_statement_behind_it_was_passed_over", "[session]") {
    Talk talk;
    talk.server.answer_next("SELECT 1", error("53200"));
    CHECK(talk.run(kReads, Check::pipelined) == Verdict::again_here);
    CHECK_FALSE(talk.session.has_result());
    CHECK(talk.server.begun("7") == 0);
    CHECK(talk.run(kReads, Check::pipelined) == Verdict::answered);
}

TEST_CASE("behind_a_sync_of_its_own_the_statement_runs_whatever_became_of_the_check", "[session]") {
    Talk talk;
    talk.server.answer_next("SELECT 1", error("57014"));
    CHECK(talk.run(kWrites, Check::pipelined) == Verdict::answered);
    CHECK(talk.value() == kWrites);
    CHECK(talk.server.begun(kWrites) == 1);
}

TEST_CASE("a_cancel_that_meets_the_check_was_meant_for_the_statement", "[session]") {
    for (const Check check : {Check::pipelined, Check::awaited}) {
        Talk talk;
        talk.server.answer_next("SELECT 1", error("57014"));
        CHECK(talk.run(kReads, check) == Verdict::answered);
        CHECK(talk.value() == "57014");
        CHECK(talk.server.begun("7") == 0);
    }
}

TEST_CASE("a_cancel_that_meets_the_check_of_a_reset_is_no_answer", "[session]") {
    Talk talk;
    talk.server.answer_next("SELECT 1", error("57014"));
    talk.session.begin_reset();
    CHECK(talk.serve() == Verdict::again_here);
    CHECK_FALSE(talk.session.has_result());
}

TEST_CASE("the_checks_name_is_made_again_or_found_or_given_up", "[session]") {
    Talk talk;
    talk.server.know("pqpool_check", "SELECT 1");
    CHECK(talk.run(kReads, Check::pipelined) == Verdict::again_here);  // 42P05
    talk.take_tags();
    CHECK(talk.run(kReads, Check::pipelined) == Verdict::answered);
    CHECK(talk.take_tags() == "BDEPBDES");
    talk.server.forget("pqpool_check");
    CHECK(talk.run(kReads, Check::pipelined) == Verdict::again_here);  // 26000
    talk.take_tags();
    CHECK(talk.run(kReads, Check::pipelined) == Verdict::answered);
    CHECK(talk.take_tags() == "PBEBDES");
    talk.server.forget("pqpool_check");
    CHECK(talk.run(kReads, Check::pipelined) == Verdict::again_here);
    CHECK(talk.run(kReads, Check::pipelined) == Verdict::answered);
    CHECK_FALSE(talk.server.knows("pqpool_check"));  // twice missed: without a name
}

TEST_CASE("another_value_than_the_checks_ends_the_session", "[session]") {
    const std::string begin = parse_complete() + bind_complete() + columns({{"n", 23, 1}});
    for (const auto& [answer, is_it] :
         {std::pair(row({int32(1)}), true), std::pair(row({int32(2)}), false), std::pair(row({"1"}), false),
          std::pair(row({std::nullopt}), false), std::pair(row({int32(1)}) + row({int32(1)}), false),
          std::pair(std::string(), false)}) {
        Talk talk;
        talk.begin(kWrites, Check::awaited);
        talk.send();
        talk.hear(begin + answer + complete("SELECT 1") + ready());
        CHECK(talk.end() == (is_it ? Verdict::answered : Verdict::again_elsewhere));
        CHECK(talk.session.is_lost() != is_it);
    }
}

// ---- what does not fit ----

TEST_CASE("an_error_at_a_sync_belongs_to_what_stands_before_it", "[session]") {
    Talk talk;
    talk.server.answer_next("S", error("40001"));
    CHECK(talk.run(kWrites) == Verdict::answered);
    CHECK(talk.value() == "40001");
    talk.server.answer_next("S", error("40001"));  // at the check's own
    CHECK(talk.run(kWrites, Check::pipelined) == Verdict::answered);
    CHECK(talk.value() == kWrites);
    talk.server.answer_next("S", error("40001"));
    CHECK(talk.run(kWrites, Check::awaited) == Verdict::again_here);
    talk.run("SET a = 1");
    talk.session.end_lease();
    talk.server.answer_next("S", error("40001"));  // at the undo's
    CHECK(talk.run(kWrites, Check::pipelined) == Verdict::again_elsewhere);
    CHECK(talk.session.is_lost());
}

TEST_CASE("an_error_at_the_sync_of_a_description_is_the_statements", "[session]") {
    Talk talk;
    talk.hear(parameter("DateStyle", "German, DMY"));
    talk.server.answer_next("S", error("40001"));
    CHECK(talk.run(kReads, Check::none, ResultFormat::automatic) == Verdict::answered);
    CHECK(talk.value() == "40001");
}

TEST_CASE("an_error_without_code_or_text_is_none", "[session]") {
    for (const auto& words : {fields('E', {{'S', "ERROR"}, {'M', "no"}}), fields('E', {{'S', "ERROR"}, {'C', "22012"}}),
                              fields('E', {{'S', "ERROR"}, {'C', ""}, {'M', "no"}}),
                              fields('E', {{'S', "ERROR"}, {'C', "22012"}, {'M', ""}}), fields('E', {})}) {
        Talk talk;
        talk.begin(kReads);
        talk.send();
        talk.hear(words);
        CHECK(talk.end() == Verdict::unknown);
    }
}

TEST_CASE("answers_that_come_before_the_question_was_sent_end_the_session", "[session]") {
    for (std::size_t unsent : {1, 5, 20}) {
        Talk talk;
        talk.begin(kReads);
        const std::string all(talk.session.output().unsent());
        const auto answers = ModelServer().hear(all);
        talk.session.output().note_sent(all.size() - unsent);
        talk.hear(answers);
        CHECK(talk.end() == Verdict::unknown);
        CHECK_THAT(talk.session.loss_message(), Catch::Matchers::Contains("that it has not got"));
    }
}

TEST_CASE("a_leftover_behind_the_last_answer_fails_the_batch", "[session]") {
    for (const auto& more : {ready(), complete("SELECT 1"), row({"7"}), error("22012"), message('x')}) {
        Talk talk;
        talk.begin(kReads);
        auto answers = talk.send();
        answers.back() += more;
        talk.hear(answers);
        CHECK(talk.end() == Verdict::unknown);
        CHECK(talk.session.is_lost());
    }
}

TEST_CASE("each_message_that_is_left_out_or_comes_twice_is_missed", "[session]") {
    for (const char* sql : {kReads, kWrites, "SELECT 6; SELECT 7"})
        for (const Check check : {Check::none, Check::pipelined})
            for (std::size_t at = 0;; at++) {
                Talk twice, left_out;
                twice.begin(sql, check);
                left_out.begin(sql, check);
                auto answers = twice.send();
                const auto others = left_out.send();
                if (at >= answers.size()) break;
                INFO(sql << " message " << at << ' ' << answers[at][0]);
                // Nobody can tell how many rows or statements there were to be.
                const bool may_be = answers[at][0] == 'D' || std::string_view(sql).find(';') != std::string_view::npos;
                answers[at] += answers[at];
                twice.hear(answers);
                for (std::size_t i = 0; i < others.size(); i++)
                    if (i != at) left_out.hear(others[i]);
                for (Talk* talk : {&twice, &left_out}) {
                    const Verdict verdict = talk->end();
                    if (verdict == Verdict::answered) CHECK(may_be);
                    if (verdict != Verdict::answered) CHECK(verdict == Verdict::unknown);
                }
            }
}
