// One connection to the server: libpq opens it, step by step, and from then on the pool speaks the protocol itself over
// libpq's socket or TLS session. Never blocks, except where it says so.
//
// Exactly one owner uses a Connection at a time; nothing here is locked. The one exception is hang_up(), which others
// may call on a leased connection: it only shuts the socket down.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/clock.hpp"
#include "core/wire/cancel.hpp"
#include "core/wire/channel.hpp"
#include "core/wire/connect_plan.hpp"
#include "core/wire/result.hpp"
#include "core/wire/session.hpp"
#include "core/wire/statement.hpp"

struct pg_conn;

namespace pqpool {

enum class Progress { done, read, write };

class Connection {
  public:
    using Settings = Session::Settings;
    using Check = Session::Check;

    Connection(const ConnectPlan& plan, const Settings& settings);
    ~Connection();
    Connection(const Connection&) = delete;

    // ---- opening ----
    // Until done; throws Error(connection_lost) with the server's words, and the SQLSTATE where it gave one.
    Progress connect_step();
    void begin_session();           // then sends init_sql and the first check; advance() until done
    int fd() const { return fd_; }  // for waiting and watching; from begin_session() on the same to the end
    std::size_t host_in(const ConnectPlan& plan) const;  // the number of the one that is being tried

    // ---- statements ---- (see Session)
    void begin(const Statement* statement, Check check);
    void begin_reset();
    bool has_sent_statement() const { return session_.has_sent_statement(); }
    bool is_busy() const { return session_.is_busy(); }
    bool wants_to_write() const { return !session_.output().unsent().empty(); }
    // Writes and reads what the other side takes and gives.
    Progress advance();
    // After a batch is done, once.
    Verdict verdict() const { return session_.verdict(); }
    bool has_result() const { return session_.has_result(); }
    Result take_result() { return session_.take_result(); }

    // ---- condition ----
    bool is_lost() const { return session_.is_lost(); }
    void mark_lost() { session_.lose(); }
    TransactionStatus transaction_status() const;
    bool in_transaction() const { return transaction_status() != TransactionStatus::idle; }
    bool needs_cleaning() const {
        return is_busy() || !cancels_.empty() || in_transaction() || (session_.residue().of_lease() & kDirtAtOnce);
    }
    bool is_condemned() const { return session_.is_condemned(); }
    void end_lease(Nanos now);  // what the lease left is the next one's to undo
    std::int64_t queries() const { return session_.queries(); }
    std::string loss_message() const;  // on one line, in UTF-8
    int backend_pid() const { return backend_pid_; }
    bool is_behind_pooler() const { return session_.is_behind_pooler(); }
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
    // The same, by another than the owner while the connection lives; it is not adopted.
    std::shared_ptr<CancelRequest> cancel_from_outside() const;

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
    // Lends out libpq's connection: libpq is told where the session stands by a round trip, and by more where reported
    // settings have changed; this blocks, at most for the time given. nullptr while busy, and where the connection is
    // lost then. Throws Error(unsupported) where libpq cannot be told of a setting that its escaping functions read.
    pg_conn* lend(Nanos patience);
    // Takes it back; false where the caller left it unusable. With patience libpq reads on to the end of another round
    // trip, since it may stand in the midst of a message, such as a notification; without I/O otherwise.
    bool take_back(Nanos patience = 0);
    bool is_lent() const { return lent_; }

  private:
    void own_descriptor();
    void take_parameters();
    bool write();
    Channel::State read();
    bool tell_libpq(Nanos deadline);
    bool finish_by_libpq(Nanos deadline);
    bool is_own_socket(int fd) const;

    pg_conn* pg_ = nullptr;
    int fd_ = -1;
    int own_fd_ = -1;
    std::uint64_t socket_inode_ = 0;
    int backend_pid_ = 0;
    Channel channel_;
    Session session_;
    bool lent_ = false;
    std::vector<std::string> known_when_lent_;  // by libpq, in the order of its parameters
    std::vector<std::shared_ptr<CancelRequest>> cancels_;
    Nanos last_used_ = 0;
};

}  // namespace pqpool
