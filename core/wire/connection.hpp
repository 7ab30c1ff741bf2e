// One connection to the server: opened step by step, then driven in pipeline mode. Never blocks, except where it says
// so.
//
// Exactly one owner uses a Connection at a time; nothing here is locked. The one exception is hang_up(), which the
// keeper may call on a leased connection: it only shuts the socket down. connection.cpp holds its life,
// connection_wire.cpp what is sent over it, connection_answers.cpp what the answers mean; with result.cpp these are the
// files that know libpq.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/clock.hpp"
#include "core/wire/named.hpp"
#include "core/wire/result.hpp"
#include "core/wire/statement.hpp"

struct pg_conn;
struct pg_cancel;

namespace pqpool {

// Where to connect: libpq's keywords, with the pool's own additions.
class ConnectPlan {
  public:
    using Addresses = std::map<std::string, std::vector<std::string>>;  // by host name

    // Throws Error(configuration) where libpq cannot read the conninfo; the message holds no password.
    explicit ConnectPlan(std::string_view database_url);
    ConnectPlan(const ConnectPlan& other) : settings_(other.settings_), hidden_(other.hidden_) { point(); }
    ConnectPlan(ConnectPlan&&) = default;
    ConnectPlan& operator=(ConnectPlan&&) = default;

    bool needs_resolution() const { return !names().empty(); }
    std::vector<std::string> names() const;  // of hosts that have no address; each once
    // Blocks in the system's resolver. Throws Error(connection_lost).
    static std::vector<std::string> look_up(const std::string& name);
    // The same plan with an address for each host; names that were not found are left out. None where no host is left.
    std::optional<ConnectPlan> with_addresses(const Addresses& found) const;
    std::size_t host_count() const { return hosts().size(); }
    ConnectPlan beginning_with(std::size_t host) const;  // the same hosts, in turn from that one on
    std::string describe() const;                        // "host db1 port 5432 database app user web"
    std::string name() const;                            // "db1:5432/app"
    // libpq's or the server's words on a connect. They stay as they are, but where they quote what may be a part of the
    // password.
    std::string masked(std::string words) const;

    const char* const* keywords() const { return keyword_pointers_.data(); }
    const char* const* values() const { return value_pointers_.data(); }

    struct Host {
        std::string name, address, port;
        bool operator==(const Host&) const = default;
    };
    std::vector<Host> hosts() const;

  private:
    void set(std::string_view keyword, std::string value);
    std::string get(std::string_view keyword) const;
    std::string shown(std::string_view keyword) const;
    void set_hosts(const std::vector<Host>& hosts);
    void add_defaults();
    void point();

    std::vector<std::pair<std::string, std::string>> settings_;
    std::vector<std::string> hidden_;  // values that may be parts of the password
    std::vector<const char*> keyword_pointers_, value_pointers_;
};

// A cancel request that outlives the owner's hands. One that reaches a server process which has not read the statement
// yet hits nothing, so the keeper repeats it from the errands thread until whoever holds the connection calls it off.
class CancelRequest {
  public:
    explicit CancelRequest(std::shared_ptr<pg_cancel> handle) : handle_(std::move(handle)) {}
    CancelRequest(const CancelRequest&) = delete;

    void send();  // blocks until the server has taken it, or it failed; does nothing where it was called off
    // After this nothing is sent any more. False where it is being sent right now, and may hit whatever runs until that
    // is over.
    bool call_off();
    bool wait_until_called_off(Nanos deadline);
    bool is_called_off() const;

  private:
    const std::shared_ptr<pg_cancel> handle_;
    mutable std::mutex mutex_;
    std::condition_variable changed_;
    int sending_ = 0;  // one that hangs is sent again beside it
    bool called_off_ = false;
};

// What became of a batch.
enum class Verdict {
    answered,         // a result, or the server's error
    again_here,       // certainly not executed, the connection is fine
    again_elsewhere,  // certainly not executed, the connection is dead
    unknown,          // the connection is dead, and the statement may have been executed
};

enum class Progress { done, read, write };

// Of the session, by the server's last word.
enum class TransactionStatus : std::int32_t { idle = 0, open = 1, failed = 2 };

class Connection {
  public:
    // Whether the pool's server, database or role has floats rounded in text. libpq is not told, so the first
    // connection asks.
    enum class FloatText : std::uint8_t { unknown, asked, whole, rounded };

    struct Settings {
        std::int64_t statement_cache_size = 100;
        std::string init_sql;
        bool reset_always = false;
        bool reset_never = false;
        std::shared_ptr<std::atomic<FloatText>> float_text = std::make_shared<std::atomic<FloatText>>();
    };

    Connection(const ConnectPlan& plan, const Settings& settings);
    ~Connection();
    Connection(const Connection&) = delete;

    // ---- opening ----
    Progress
    connect_step();  // until done; throws Error(connection_lost) with the server's words, sqlstate where it gave one
    void begin_session();           // then sends init_sql and the first check; advance() until done
    int fd() const { return fd_; }  // for waiting and watching; from begin_session() on the same to the end
    std::size_t host_in(const ConnectPlan& plan) const;  // the number of the one that is being tried

    // ---- statements ----
    // awaited: its answer has to be there before the statement is written.
    enum class Check { none, pipelined, awaited };
    // Sends a batch: what the last lease left to undo, the check, and the statement; or only what has to be answered
    // before the statement may follow, of which nothing is executed for the caller (has_sent_statement() tells).
    // statement may be nullptr: only the rest. Throws Error(unsupported) for COPY, with nothing sent.
    void begin(const Statement* statement, Check check);
    bool has_sent_statement() const { return has_statement_; }
    void begin_reset();  // ROLLBACK if needed, and the whole reset
    bool is_busy() const { return !parts_.empty(); }
    bool wants_to_write() const { return write_pending_; }
    // Writes and reads what the socket takes and gives.
    Progress advance();
    // After a batch is done, once.
    Verdict verdict() const;
    bool has_result() const { return result_.has_value(); }
    Result take_result() { return std::move(result_); }

    // ---- condition ----
    bool is_lost() const { return lost_; }
    void mark_lost() { lost_ = true; }
    // By the server's last word; while a batch is under way, as before it.
    TransactionStatus transaction_status() const { return transaction_status_; }
    bool in_transaction() const { return transaction_status_ != TransactionStatus::idle; }
    bool needs_cleaning() const {
        return is_busy() || !cancels_.empty() || in_transaction() || (lease_dirt() & kDirtAtOnce);
    }
    bool is_condemned() const { return condemned_; }
    std::uint16_t lease_dirt() const { return lease_dirt_; }
    void end_lease(Nanos now);  // what the lease left is the next one's to undo
    std::int64_t queries() const { return queries_; }
    std::string loss_message() const;  // on one line, in UTF-8
    int backend_pid() const { return backend_pid_; }
    // The server process is not the one of the session's key data: something in between lends out server sessions.
    bool is_behind_pooler() const { return behind_pooler_; }
    Nanos last_used() const { return last_used_; }

    // ---- cancelling ----
    // A request for the statement under way. The connection takes no new batch before that one is done and the request
    // is called off.
    std::shared_ptr<CancelRequest> make_cancel();
    void adopt_cancel(std::shared_ptr<CancelRequest> request) { cancels_.push_back(std::move(request)); }
    bool has_cancel() const { return !cancels_.empty(); }
    bool settle();                            // whether the next batch may begin: calls off what there is
    bool wait_until_settled(Nanos deadline);  // of a connection that is not busy; false at the deadline
    void forget_cancel() { cancels_.clear(); }
    const std::shared_ptr<pg_cancel>& cancel_handle() const {
        return cancel_handle_;
    }  // constant once the connection is open

    // ---- others ----
    // Of an idle connection whose server has hung up: reads, without waiting, what it said before. Then loss_message()
    // holds that.
    void hear_farewell();
    void hang_up() const;  // any thread, while the connection lives: the owner sees an end of file
    void break_off() {     // in the midst of a batch whose answers nobody will take
        hang_up();
        mark_lost();
    }
    // The parent's session stays untouched. in_use: one of the parent's threads may have been in the middle of a call
    // on it.
    void abandon_after_fork(bool in_use);
    pg_conn* raw();  // out of pipeline mode; nullptr while busy
    bool end_raw();  // back into it; false where the caller left it unusable
    bool is_raw() const { return raw_; }

  private:
    // What a batch consists of, each with an answer of its own.
    enum class Part : std::uint8_t {
        evict,
        reset,
        prepare_check,
        check,
        floats,
        pid,
        prepare,
        describe,
        script,
        statement,
        sync
    };

    void start_batch();
    void look_at(const Statement& statement);
    bool uses_name() const;
    bool must_describe(const Statement& statement) const;
    bool has_unusual_settings() const;
    void send_simple(const char* sql, Part part);
    void send_each(std::string_view script, Part part);
    void send_reset(std::uint16_t dirt);
    void send_evictions();
    void send_check();
    void send_description(const Statement& statement);
    void send_statement(const Statement& statement);
    void send_sync();
    void flush();
    void own_descriptor();

    bool take_next();
    void end_batch();
    void end_question_about_floats();
    void note_transaction_status();
    void take_part_result(pg_result* pg);
    void take_answer(Part part, Result&& result);
    void take_description(const Result& result);
    void take_statement_result(Result&& result);
    void take_check(const Result& result);
    bool has_before_sync(Part part) const;
    void take_failure(Part part, Result&& result);
    void take_farewell(const Result& result);
    void take_reset_failure(const Result& result);
    void take_sync_failure(Result&& result);
    void take_check_failure(Result&& result);
    void take_name_failure(Part part, Result&& result);
    void take_statement_error(Result&& result);
    void forget_names();
    bool is_own_socket(int fd) const;
    bool lease_chose_read_only() const;
    void unexpected(const char* what);
    void lose();
    void lose_unsent();
    static void on_notice(void* self, const pg_result* notice);

    pg_conn* pg_ = nullptr;
    int fd_ = -1;
    int own_fd_ = -1;
    std::uint64_t socket_inode_ = 0;
    int backend_pid_ = 0;
    const Settings settings_;
    bool lost_ = false;
    bool raw_ = false;
    TransactionStatus transaction_status_ = TransactionStatus::idle;
    bool condemned_ = false;
    std::string loss_message_;
    std::int64_t queries_ = 0;

    // The batch under way.
    std::vector<Part> parts_;
    std::size_t part_ = 0;
    bool has_part_result_ = false;
    bool write_pending_ = false;
    bool has_statement_ = false;       // sent with it
    NamedStatement* known_ = nullptr;  // of the statement, sent or still to follow
    StatementTraits traits_;
    bool prepares_ = false;  // the statement follows
    bool asks_for_floats_ = false;
    bool checks_ = false, own_sync_ = false;
    bool by_name_ = false, binary_ = false, automatic_ = false;
    bool has_answer_ = false;   // to any part
    bool is_answered_ = false;  // every part, with nothing out of place; what happens then is not this batch's
    bool has_failed_ = false;   // since the last Sync
    bool check_failed_ = false, statement_answered_ = false, statement_aborted_ = false;
    bool again_ = false;      // nothing was executed, and the next try will be another
    bool not_begun_ = false;  // the server ended the session before it read the statement
    std::uint16_t reset_under_way_ = kDirtNone;
    Result result_;

    NamedStatements named_;
    bool check_on_server_ = false;
    std::uint8_t check_missed_ = 0;
    bool behind_pooler_ = false;
    // Somebody else may have made or removed names: in a transaction, where a wrong guess would end it, they are not
    // used.
    bool names_are_shared_ = false, names_are_unsure_ = false;
    int encoding_ = 0;                                                   // UTF8, as libpq counts encodings
    bool settings_at_start_changed_ = false, settings_changed_ = false;  // from what the server begins with

    std::uint16_t lease_dirt_ = kDirtNone;      // of the lease that has the connection
    std::uint16_t inherited_dirt_ = kDirtNone;  // of those before it
    std::vector<std::shared_ptr<CancelRequest>> cancels_;
    std::shared_ptr<pg_cancel> cancel_handle_;
    Nanos last_used_ = 0;
};

}  // namespace pqpool
