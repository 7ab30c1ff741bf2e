// A session as its client knows it: what is sent over it, in batches; what the answers mean, with the verdict on what
// became of a batch; and what it holds between them: names of statements, residue, parameters. Pure: bytes come and go
// through its buffers, and whoever has the socket moves them.
//
// A batch is [evict] [undo… Sync] [check] [Sync] statement Sync; or, where something has to be answered before the
// statement may follow, [evict] [undo… Sync] [check] [describe] Sync, of which nothing is executed for the caller. One
// batch is under way at a time.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/wire/exchange.hpp"
#include "core/wire/named.hpp"
#include "core/wire/protocol.hpp"
#include "core/wire/residue.hpp"
#include "core/wire/result.hpp"
#include "core/wire/statement.hpp"

namespace pqpool {

// What became of a batch.
enum class Verdict {
    answered,         // a result, or the server's error
    again_here,       // certainly not executed, the connection is fine
    again_elsewhere,  // certainly not executed, the connection is dead
    unknown,          // the connection is dead, and the statement may have been executed
};

class Session {
  public:
    // Whether the pool's server, database or role has floats rounded in text. The server does not report it, so the
    // first connection asks.
    enum class FloatText : std::uint8_t { unknown, asked, whole, rounded };

    struct Settings {
        std::int64_t statement_cache_size = 100;
        std::string init_sql;
        Residue::Reset reset = Residue::Reset::automatic;
        std::shared_ptr<std::atomic<FloatText>> float_text = std::make_shared<std::atomic<FloatText>>();
        // Something in between lends out server sessions.
        std::shared_ptr<std::atomic<bool>> behind_pooler = std::make_shared<std::atomic<bool>>(false);
    };
    // awaited: its answer has to be there before the statement is written.
    enum class Check { none, pipelined, awaited };

    explicit Session(const Settings& settings);
    ~Session() { end_question_about_floats(); }

    // ---- the beginning ----
    // As the server has reported it, also later.
    void set_parameter(std::string_view name, std::string_view value);
    // "" where it was not reported.
    std::string_view parameter(std::string_view name) const;
    // Begins the first batch: init_sql and the first check. has_options: of the start, with settings among them.
    void begin(int backend_pid, bool has_options);

    // ---- batches ----
    // Begins a batch: what the last lease left to undo, the check, and the statement; or only what has to be answered
    // before the statement may follow (has_sent_statement() tells). statement may be nullptr: only the rest. Throws
    // Error, with nothing to be sent, for what the protocol cannot carry.
    void begin(const Statement* statement, Check check);
    void begin_reset();  // ROLLBACK if needed, and the whole undoing
    bool is_busy() const { return !exchange_.is_empty(); }
    bool has_sent_statement() const { return has_statement_; }

    OutputBuffer& output() { return output_; }
    const OutputBuffer& output() const { return output_; }
    InputBuffer& input() { return input_; }
    // Takes what has come in; then is_done().
    bool take();
    bool is_done() const { return lost_ || exchange_.is_done(); }  // the batch is answered, or the session lost
    // After that, once: verdict() and take_result() speak of it until the next batch begins.
    void end_batch();
    Verdict verdict() const;
    bool has_result() const { return result_.has_value(); }
    Result take_result() { return std::move(result_); }

    // ---- condition ----
    bool is_lost() const { return lost_; }
    void lose(std::string_view words = {});  // the first to tell why is heard
    void note_unwritten();                   // nothing more goes out; of the batch perhaps nothing has
    const std::string& loss_message() const { return loss_message_; }
    bool is_condemned() const { return condemned_; }
    // By the server's last word; while a batch is under way, as before it.
    TransactionStatus transaction_status() const { return transaction_status_; }
    void set_transaction_status(TransactionStatus status) { transaction_status_ = status; }
    const Residue& residue() const { return residue_; }
    void end_lease();
    // Somebody else has spoken over the connection.
    void note_foreign_words();
    std::int64_t queries() const { return queries_; }
    // The server process is not the one of the session's key data: something in between lends out server sessions.
    bool is_behind_pooler() const { return behind_pooler_; }

  private:
    void start_batch();
    void write_batch(const Statement* statement, Check check);
    void look_at(const Statement& statement);
    bool uses_name() const;
    bool knows_columns() const;
    bool must_describe(const Statement& statement) const;
    bool has_unusual_settings() const;
    void write_simple(std::string_view sql, Purpose purpose);
    void write_undo();
    void write_evictions();
    void write_check();
    void write_description(const Statement& statement);
    void write_statement(const Statement& statement);
    void write_sync();

    void take(const Message& message);
    void take_end(Purpose purpose);
    void take_check(Purpose purpose);
    void take_statement_result();
    void take_failure(Purpose purpose);
    void take_farewell(const Result& error);
    void take_undo_failure(const Result& error);
    void take_sync_failure();
    void take_check_failure();
    void take_name_failure();
    void take_statement_error();
    bool lease_chose_read_only() const;
    void take_backend_pid(std::string_view text);
    void end_question_about_floats();
    void forget_names();
    void unexpected(const char* what);

    const Settings settings_;
    InputBuffer input_;
    OutputBuffer output_;
    Exchange exchange_;
    Residue residue_;

    bool lost_ = false, condemned_ = false;
    std::string loss_message_;
    TransactionStatus transaction_status_ = TransactionStatus::idle;
    bool has_had_lease_ = false;
    std::int64_t queries_ = 0;
    int backend_pid_ = 0;

    struct Parameter {
        std::string name, value;
    };
    std::vector<Parameter> parameters_;
    bool encoding_is_foreign_ = false;
    bool dates_are_unusual_ = false, intervals_are_unusual_ = false;  // as text; what is not reported is as usual

    // The batch under way.
    bool has_statement_ = false;       // sent with it
    NamedStatement* known_ = nullptr;  // of the statement, sent or still to follow
    StatementTraits traits_;
    bool checks_ = false, own_sync_ = false;
    bool statement_follows_ = false;
    bool by_name_ = false, parses_name_ = false, binary_ = false, automatic_ = false;
    bool asks_for_floats_ = false;
    bool check_answered_ = false, check_failed_ = false, statement_answered_ = false;
    bool again_ = false;        // nothing was executed, and the next try will be another
    bool not_begun_ = false;    // the server ended the session before it read the statement
    bool is_answered_ = false;  // all of it, with nothing out of place; what happens then is not this batch's
    Result result_;

    NamedStatements named_;
    std::shared_ptr<const Columns> check_columns_;
    bool check_on_server_ = false;
    std::uint8_t check_missed_ = 0;
    bool behind_pooler_ = false;
    // Somebody else may have made or removed names: in a transaction, where a wrong guess would end it, they are not
    // used.
    bool names_are_shared_ = false, names_are_unsure_ = false;
    bool settings_at_start_changed_ = false, settings_changed_ = false;  // from what the server begins with
};

}  // namespace pqpool
