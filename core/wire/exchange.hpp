// What is under way on one session: items, each with the answers that it is owed, in order. Says of each message what
// it means, and refuses one that does not fit where it stands. Pure: no bytes are sent or read here, and what follows
// from an answer is the caller's to decide.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/wire/protocol.hpp"
#include "core/wire/result.hpp"

namespace pqpool {

// What an item is for. An answer belongs to it, or the connection is dead.
enum class Purpose : std::uint8_t { evict, reset, prepare_check, check, floats, pid, describe, statement, sync };

// The answers that an item is owed, in the order of their bits.
using Steps = std::uint8_t;
inline constexpr Steps kParse = 1, kBind = 2, kParameters = 4, kColumns = 8, kRows = 16, kScript = 32, kClose = 64,
                       kSync = 128;

class Exchange {
  public:
    // What a message meant.
    enum class Meaning {
        part,         // of what the item at the front is owed
        done,         // the item has all
        done_before,  // the item had all before this message, which is still to be taken
        failed,       // the item, with error(); the server passes over all that follows, up to the Sync
        synced,       // status() is there
    };

    Exchange() { items_.reserve(kUsual); }
    Exchange(const Exchange&) = delete;

    void clear();
    // columns: what the item's rows looked like the last time, and where their description is kept. Where no
    // description is owed, they look like that.
    void expect(Purpose purpose, Steps steps, std::shared_ptr<const Columns>* columns = nullptr) {
        items_.push_back({purpose, steps, columns});
    }
    bool is_empty() const { return items_.empty(); }
    bool is_done() const { return front_ == items_.size(); }
    bool ends_with_sync() const { return !items_.empty() && items_.back().purpose == Purpose::sync; }
    // Whether such an item stands between the last Sync's answer and the item at the front.
    bool is_since_sync(Purpose purpose) const;

    // Throws ProtocolViolation. Not for what may come at any time: notices, notifications, parameters.
    Meaning take(const Message& message);
    // Of the item that the last message belonged to; and what was due of it.
    Purpose purpose() const { return purpose_; }
    Steps step() const { return step_; }
    Result& result() { return result_; }
    TransactionStatus status() const { return status_; }

  private:
    struct Item {
        Purpose purpose;
        Steps steps;  // still to come
        std::shared_ptr<const Columns>* columns;
    };
    static constexpr std::size_t kUsual = 16;

    Meaning take_error(const Message& message);
    Meaning take_row(const Message& message);
    Meaning take_of_script(const Message& message);
    void take_columns(const Message& message);
    Meaning finish(Steps step);

    std::vector<Item> items_;
    std::size_t front_ = 0;
    bool has_failed_ = false;                       // since the last Sync
    bool has_begun_ = false;                        // the result of the item at the front; until that ends, or a Sync
    bool has_columns_ = false, has_ended_ = false;  // of a script: the statement under way, any
    Purpose purpose_ = Purpose::sync;
    Steps step_ = 0;
    Result result_;
    TransactionStatus status_ = TransactionStatus::idle;
};

}  // namespace pqpool
