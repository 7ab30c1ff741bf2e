// One connection to the server: opened step by step, then driven in pipeline mode. Never blocks, except where it says
// so.
//
// Exactly one owner uses a Connection at a time; nothing here is locked. The one exception is hang_up(), which the
// keeper may call on a leased connection: it only shuts the socket down. connection.cpp holds its life,
// connection_wire.cpp what passes over it; with result.cpp these are the files that know libpq.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/clock.hpp"
#include "core/result.hpp"
#include "core/statement.hpp"

struct pg_conn;
struct pg_cancel;

namespace pqpool {

// Where to connect: libpq's keywords, with the pool's own additions.
class ConnectPlan {
  public:
    // Throws Error(configuration) where libpq cannot read the conninfo; the message holds no password.
    explicit ConnectPlan(std::string_view database_url);

    bool needs_resolution() const { return needs_resolution_; }
    // Blocks in the system's resolver. A plan whose hosts all have addresses, or Error(connection_lost).
    ConnectPlan resolve() const;
    std::string describe() const;  // "host db1 port 5432 database app user web"

    const char* const* keywords() const { return keyword_pointers_.data(); }
    const char* const* values() const { return value_pointers_.data(); }

  private:
    void set(std::string_view keyword, std::string value);
    std::string get(std::string_view keyword) const;
    void add_defaults();
    void point();

    std::vector<std::pair<std::string, std::string>> settings_;
    std::vector<const char*> keyword_pointers_, value_pointers_;
    bool needs_resolution_ = false;
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
    bool sending_ = false, called_off_ = false;
};

// What became of a batch.
enum class Verdict {
    answered,         // a result, or the server's error
    again_here,       // certainly not executed, the connection is fine
    again_elsewhere,  // certainly not executed, the connection is dead
    unknown,          // the connection is dead, and the statement may have been executed
};

enum class Progress { done, read, write };

class Connection {
  public:
    struct Settings {
        std::int64_t statement_cache_size = 100;
        std::string init_sql;
        bool reset_always = false;
        bool reset_never = false;
    };

    Connection(const ConnectPlan& plan, const Settings& settings);
    ~Connection();
    Connection(const Connection&) = delete;

    // ---- opening ----
    Progress
    connect_step();  // until done; throws Error(connection_lost) with the server's words, sqlstate where it gave one
    void begin_session();           // then sends init_sql and the first check; advance() until done
    int fd() const { return fd_; }  // for waiting and watching; from begin_session() on the same to the end

    // ---- statements ----
    enum class Check { none, pipelined };
    // Sends what the last lease left to undo, the check, the statement's preparation and the statement. statement may
    // be nullptr: only the rest. It must stay as it is until the batch is done. Throws Error(unsupported) for COPY,
    // with nothing sent.
    void begin(const Statement* statement, Check check);
    // Where reset and check have to be answered before the statement may follow (an inherited reset before a statement
    // that keeps its own Sync).
    bool must_check_apart(const Statement& statement) const;
    void begin_reset();  // ROLLBACK if needed, and the whole reset
    bool is_busy() const { return !parts_.empty(); }
    bool wants_to_write() const { return write_pending_; }
    // Writes and reads what the socket takes and gives. seen: the Poller's bits of the event that led here.
    Progress advance(std::uint32_t seen = 0);
    // After a batch is done, once.
    Verdict verdict() const;
    // Of the last batch: it had a check, and the server answered that.
    bool check_answered() const { return check_answered_; }
    Result take_result() { return std::move(result_); }
    bool batch_failed() const { return check_failed_ || reset_failed_ || lost_; }

    // ---- condition ----
    bool is_lost() const { return lost_; }
    void mark_lost() { lost_ = true; }
    bool in_transaction() const;
    bool needs_cleaning() const {
        return is_busy() || !cancels_.empty() || in_transaction() || (lease_dirt() & kDirtAtOnce);
    }
    bool is_condemned() const { return condemned_; }
    std::uint16_t lease_dirt() const { return lease_dirt_; }
    void end_lease(Nanos now);  // what the lease left is the next one's to undo
    std::int64_t queries() const { return queries_; }
    std::string loss_message() const { return loss_message_; }
    int backend_pid() const { return backend_pid_; }
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
    void hang_up() const;  // any thread, while the connection lives: the owner sees an end of file
    // The parent's session stays untouched. in_use: one of the parent's threads may have been in the middle of a call
    // on it.
    void abandon_after_fork(bool in_use);
    pg_conn* raw();  // out of pipeline mode; nullptr while busy
    bool end_raw();  // back into it; false where the caller left it unusable
    bool is_raw() const { return raw_; }

  private:
    enum class Part : std::uint8_t { reset, evict, check, prepare_check, prepare, script, statement, sync };

    struct CachedStatement {
        std::string key;
        std::uint32_t number = 0;  // of the prepared statement; 0 = seen, not prepared
        std::uint32_t uses = 0;
        bool binary = false;  // all column types are known to have a binary form
        StatementTraits traits;
    };
    using Cache = std::list<CachedStatement>;  // most recently used first

    CachedStatement* look_up(const Statement& statement);
    void forget_current();
    void forget_all_prepared();
    void send_simple(const char* sql, Part part);
    void send_each(std::string_view script, Part part);
    void send_reset(std::uint16_t dirt);
    void send_evictions();
    void send_check();
    void send_statement(const Statement& statement);
    void send_script(const Statement& statement);
    void send_sync();
    void flush();
    void own_descriptor();
    void start_batch();
    void note_seen(std::uint32_t seen);
    void take_part_result(pg_result* pg);
    void take_failure(Part part, Result result);
    void take_statement_error(Result result, std::string_view sqlstate);
    void note_statement_result();
    bool lease_chose_read_only() const;
    void lose();
    static void on_notice(void* self, const pg_result* notice);

    pg_conn* pg_ = nullptr;
    int fd_ = -1;
    int own_fd_ = -1;
    int backend_pid_ = 0;
    const Settings settings_;
    bool lost_ = false;
    bool raw_ = false;
    bool condemned_ = false;
    std::string loss_message_;
    std::int64_t queries_ = 0;

    // The batch under way.
    std::vector<Part> parts_;
    std::size_t part_ = 0;
    bool has_part_result_ = false;
    bool write_pending_ = false;
    const Statement* statement_ = nullptr;
    StatementTraits traits_;
    bool was_in_transaction_ = false;
    bool checks_ = false, own_sync_ = false;
    bool check_answered_ = false, check_failed_ = false, reset_failed_ = false, statement_answered_ = false,
         statement_aborted_ = false;
    CachedStatement* known_ = nullptr;  // the statement's entry in the cache
    bool by_name_ = false, stale_plan_ = false;
    bool fatal_ = false;     // the server's last word came
    bool farewell_ = false;  // or a notice in its place, as from a server that is stopped at once
    bool received_ = false, ended_in_order_ = false;
    std::uint16_t reset_under_way_ = kDirtNone;
    Result result_;

    Cache cache_;
    std::unordered_map<std::string_view, Cache::iterator> cached_;
    std::vector<std::uint32_t> evicted_;  // prepared statements to deallocate with the next packet
    std::uint32_t last_number_ = 0;
    bool check_prepared_ = false;

    std::uint16_t lease_dirt_ = kDirtNone;      // of the lease that has the connection
    std::uint16_t inherited_dirt_ = kDirtNone;  // of those before it
    std::vector<std::shared_ptr<CancelRequest>> cancels_;
    std::shared_ptr<pg_cancel> cancel_handle_;
    Nanos last_used_ = 0;
};

}  // namespace pqpool
