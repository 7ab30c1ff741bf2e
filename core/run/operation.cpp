#include "core/run/operation.hpp"

namespace pqpool {

namespace {
// Each brings something nearer that the statement has to wait for, or the connection is not fit.
constexpr int kAttemptsHere = 8;
constexpr Nanos kLoanPatience = 5 * kSecond;
}  // namespace

void Operation::begin(Lease& lease, bool has_statement, Nanos deadline) {
    lease_ = &lease;
    has_statement_ = has_statement;
    deadline_ = deadline;
    phase_ = Phase::start;
    attempts_ = 0;
    result_ = Result();
    if (has_statement) lease.last_statement.set(statement_.text());
}

Need Operation::resume() {
    if (phase_ == Phase::done) return Need::nothing;
    try {
        if (phase_ == Phase::start) return start();
        switch (lease_->connection->advance()) {
            case Progress::read:
                return Need::read;
            case Progress::write:
                return Need::write;
            case Progress::done:
                break;
        }
        return judge();
    } catch (...) {
        Error error = error_under_way();
        if (lease_->connection && lease_->connection->is_busy()) return break_off(std::move(error));
        return finish(Result(std::move(error)));
    }
}

Need Operation::break_off(Error error) {
    if (lease_->connection) lease_->connection->break_off();
    return finish(Result(std::move(error)));
}

Need Operation::start() {
    if (!lease_->connection) {
        if (lease_->aborted.load())
            return finish(Result(Error(ErrorKind::closed, "the pool was shut down and took this lease's connection")));
        return Need::replacement;
    }
    Connection& connection = *lease_->connection;
    if (connection.is_lent()) {
        if (!connection.take_back(kLoanPatience) && !connection.is_lost())
            return finish(Result(Error(ErrorKind::busy, "the raw connection was left with a command under way")));
        // What libpq has read too far shows now, before anything is executed.
        lease_->needs_check = lease_->awaits_check = true;
    }
    if (connection.has_cancel()) {
        if (connection.is_busy() && connection.advance() != Progress::done) return Need::settle;
        if (!connection.settle()) return Need::settle;
    }
    if (connection.is_busy()) connection.break_off();  // with a last batch that was never answered
    if (connection.is_lost() || lease_->hung_up.load(std::memory_order_relaxed)) {
        if (lease_->is_fresh) return replace();  // nothing of this lease was written
        connection.mark_lost();
        return finish(Result(loss(false)));
    }
    return send();
}

Need Operation::send() {
    Connection& connection = *lease_->connection;
    if (connection.is_lost() || ++attempts_ > kAttemptsHere) {
        connection.mark_lost();
        return lease_->is_fresh ? replace() : finish(Result(loss(false)));
    }
    phase_ = Phase::sent;
    using Check = Connection::Check;
    connection.begin(has_statement_ ? &statement_ : nullptr, has_statement_ && !lease_->needs_check ? Check::none
                                                             : lease_->awaits_check                 ? Check::awaited
                                                                                                    : Check::pipelined);
    if (connection.is_lost()) return judge();
    return connection.wants_to_write() ? Need::write : Need::read;
}

Need Operation::judge() {
    Connection& connection = *lease_->connection;
    switch (connection.verdict()) {
        case Verdict::answered:
            lease_->needs_check = false;
            if (has_statement_ && !connection.has_result()) return send();  // now the statement itself
            lease_->is_fresh &= !has_statement_;
            return finish(connection.take_result());
        case Verdict::again_here:
            return send();
        case Verdict::again_elsewhere:
            return lease_->is_fresh ? replace() : finish(Result(loss(false)));
        case Verdict::unknown:
            break;
    }
    return finish(Result(loss(true)));
}

Need Operation::replace() {
    if (lease_->aborted.load())
        return finish(Result(Error(ErrorKind::closed, "the pool was shut down and took this lease's connection")));
    lease_->connection->mark_lost();
    phase_ = Phase::start;
    attempts_ = 0;
    return Need::replacement;
}

Need Operation::finish(Result result) {
    result_ = std::move(result);
    phase_ = Phase::done;
    return Need::nothing;
}

Error Operation::loss(bool unknown) const {
    if (lease_->aborted.load()) return {ErrorKind::closed, "the pool was shut down and took this lease's connection"};
    const std::string words = lease_->connection->loss_message();
    std::string message =
        "the connection (server process " + std::to_string(lease_->connection->backend_pid()) + ") was lost";
    message += unknown ? " while the statement was under way; whether it was executed is unknown"
                       : " before the statement was sent; it was not executed";
    if (!words.empty()) message += ": " + words;
    while (message.back() == '\n') message.pop_back();
    message += unknown ? ". Suggestion: find out whether it took effect before you repeat it"
                       : ". Suggestion: release this lease and acquire another";
    return {unknown && lease_->needs_check ? ErrorKind::validation : ErrorKind::connection_lost, message};
}

Error statement_timeout() noexcept {
    return error_of(ErrorKind::statement_timeout,
                    "the statement took longer than its timeout and is being cancelled. Suggestion: raise "
                    "command_timeout or this call's timeout, or make the statement faster");
}

}  // namespace pqpool
