// One statement on a lease, from its first byte to its result, without ever waiting: the caller waits for what it
// needs. A blocking call and the completion queue drive the same steps.
#pragma once

#include "core/run/lease.hpp"
#include "core/wire/statement.hpp"

namespace pqpool {

enum class Need {
    nothing,      // result() is there
    read,         // the lease's socket readable
    write,        // readable or writable
    settle,       // an earlier statement's cancel request sent, or the socket readable
    replacement,  // another connection: Pool::ask_replacement(), then resume()
};

class Operation {
  public:
    // Without a statement only the validation is made. deadline: kNever = none.
    void begin(Lease& lease, bool has_statement, Nanos deadline);
    Need resume();
    // Ends it in the midst, and its connection: what the server still says would be taken for the next one's answer.
    Need break_off(Error error);
    void fail(Error error) {
        result_ = Result(std::move(error));
        phase_ = Phase::done;
    }

    Statement& statement() { return statement_; }
    Lease& lease() const { return *lease_; }
    Nanos deadline() const { return deadline_; }
    bool is_done() const { return phase_ == Phase::done; }
    Result take_result() { return std::move(result_); }

  private:
    enum class Phase { start, sent, done };

    Need start();
    Need send();
    Need judge();
    Need finish(Result result);
    Need replace();
    Error loss(bool unknown) const;

    Statement statement_;
    Lease* lease_ = nullptr;
    bool has_statement_ = false;
    Nanos deadline_ = kNever;
    Phase phase_ = Phase::done;
    int attempts_ = 0;  // on this connection
    Result result_;
};

// What a statement that ran past its deadline ends with.
Error statement_timeout() noexcept;

}  // namespace pqpool
