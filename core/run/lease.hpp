// A connection in somebody's hands.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "core/base/clock.hpp"
#include "core/base/thread_own.hpp"
#include "core/decide/pool_machine.hpp"
#include "core/run/statement_peek.hpp"
#include "core/run/validation.hpp"
#include "core/wire/connection.hpp"

namespace pqpool {

class Inbox;
struct AsyncOperation;

// Names a lease for good: a place in the lease table and its generation, so that the handle of a lease that is over is
// recognized. 0 is none.
using LeaseHandle = std::uint64_t;

struct Lease {
    std::atomic<LeaseHandle> handle{0};  // 0: nobody has it
    // What a blocking call makes of the lease. Only `call` can be cancelled by another thread, which turns it into
    // `cancel_asked`.
    enum class Use : std::uint8_t { none, call, cancel_asked, release };
    std::atomic<Use> use{Use::none};
    std::atomic<bool> hung_up{false};  // the keeper saw the server go
    std::atomic<bool> aborted{false};  // shutdown's patience was over
    StatementPeek last_statement;

    // Changed under the pool's lock, read by the owner without it. Empty while a dead connection is being replaced.
    std::unique_ptr<Connection> connection;
    SlotId slot;
    std::uint32_t index = 0;                        // in the table
    LeaseHandle number = 0;                         // its handle, also when that is over
    std::shared_ptr<CancelRequest> foreign_cancel;  // another thread asked for it; guarded by the pool's lock
    std::atomic<Inbox*> queue{nullptr};             // of an asynchronous lease
    ThreadNumber queue_thread = 0;                  // whose the queue is
    Lease* next_to_release = nullptr;               // in the queue's inbox, under its mutex
    Nanos leased_at = 0;
    Nanos patience = 0;  // the acquire's timeout; a replacement may take as long
    std::string tag;

    // The owner's own.
    bool is_fresh = false;      // no statement of the lease was answered: another connection would do as well
    bool needs_check = false;   // before, or in front of, the next statement
    bool awaits_check = false;  // its answer is waited for, because the connection was unused for long
    AsyncOperation* operation = nullptr;

    // It has a connection now, which nothing was done with yet.
    void take(SlotId of, std::unique_ptr<Connection> given, const Validation& validation, Nanos now) {
        connection = std::move(given);
        slot = of;
        hung_up.store(false, std::memory_order_relaxed);
        const Nanos unused = now - connection->last_used();
        is_fresh = true;
        needs_check = validation.is_due(unused);
        awaits_check = validation.is_awaited(unused);
    }
    // In which it gives its connection back.
    ReturnedConnection condition() {
        ReturnedConnection condition;
        if (!connection) return condition;
        condition.broken = connection->is_lost() || hung_up.load(std::memory_order_relaxed) || !connection->take_back();
        condition.dirty = !condition.broken && connection->needs_cleaning();
        condition.condemned = connection->is_condemned();
        condition.queries = connection->queries();
        return condition;
    }
};

}  // namespace pqpool
