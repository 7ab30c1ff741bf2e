// A connection in somebody's hands, and a request for one.
#pragma once

#include <semaphore.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "core/base/clock.hpp"
#include "core/base/secrets.hpp"
#include "core/base/text.hpp"
#include "core/base/thread_own.hpp"
#include "core/decide/pool_machine.hpp"
#include "core/wire/connection.hpp"

namespace pqpool {

class CompletionQueue;
struct AsyncOperation;

// Names a lease for good: a slot of the lease table and its generation, so that the handle of a lease that is over is
// recognized. 0 is none.
using LeaseHandle = std::uint64_t;

// The first bytes of the last statement, written by the lease's owner and read by whoever looks at the holders.
class StatementPeek {
  public:
    void set(std::string_view sql) {
        char bytes[kWords * 8] = {};
        std::memcpy(bytes, sql.data(), std::min(sql.size(), kShown));
        if (sql.size() > kShown && std::memchr(bytes, '\'', kShown))
            bytes[kShown] = mentions_secret(sql.substr(kShown, kLookedThrough));
        for (std::size_t i = 0; i < kWords; i++) {
            std::uint64_t word;
            std::memcpy(&word, bytes + 8 * i, 8);
            words_[i].store(word, std::memory_order_relaxed);
        }
    }
    void clear() { words_[0].store(0, std::memory_order_relaxed); }
    // Fit to be shown: whole characters, and no literal of a statement that speaks of a password.
    std::string get() const {
        char bytes[kWords * 8];
        for (std::size_t i = 0; i < kWords; i++) {
            const std::uint64_t word = words_[i].load(std::memory_order_relaxed);
            std::memcpy(bytes + 8 * i, &word, 8);
        }
        const std::string_view text(bytes, strnlen(bytes, kShown));
        return valid_utf8(mask_statement(text.size() < kShown ? text : without_cut_end(text), bytes[kShown]));
    }

  private:
    static constexpr std::size_t kWords = 12, kShown = kWords * 8 - 1;  // the last byte tells of the rest
    static constexpr std::size_t kLookedThrough = 512;
    std::array<std::atomic<std::uint64_t>, kWords> words_{};
};

// From the lowest bit on: the place in the table, the generation, the pool's number, by which another pool's lease is
// recognized, and the fork epoch, by which a parent's is. The uppermost bit is 0.
inline constexpr LeaseHandle kLeaseIndexBits = 15, kLeaseGenerationBits = 36, kLeasePoolBits = 8, kLeaseEpochBits = 4;
inline constexpr LeaseHandle kLeasePoolShift = kLeaseIndexBits + kLeaseGenerationBits;
inline constexpr LeaseHandle kLeaseEpochShift = kLeasePoolShift + kLeasePoolBits;
inline constexpr LeaseHandle kLeaseIndexMask = (LeaseHandle{1} << kLeaseIndexBits) - 1;
inline constexpr LeaseHandle kLeaseGenerationMask = (LeaseHandle{1} << kLeaseGenerationBits) - 1;
inline constexpr LeaseHandle kLeasePoolMask = ((LeaseHandle{1} << kLeasePoolBits) - 1) << kLeasePoolShift;
inline constexpr LeaseHandle kLeaseEpochMask = (LeaseHandle{1} << kLeaseEpochBits) - 1;

struct Lease {
    std::atomic<LeaseHandle> handle{0};
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
    std::uint32_t index = 0;  // in the table
    std::uint64_t generation = 0;
    std::shared_ptr<CancelRequest> foreign_cancel;  // another thread asked for it; guarded by the pool's lock
    std::atomic<CompletionQueue*> queue{nullptr};   // of an asynchronous lease
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
};

// Leases have fixed addresses and are never freed before the table, so a stale handle can be looked up at any time,
// without the lock.
class LeaseTable {
  public:
    ~LeaseTable() {
        for (auto& chunk : chunks_) delete[] chunk.load();
    }
    Lease* find(LeaseHandle handle) const {
        const auto index = handle & kLeaseIndexMask;
        if (handle == 0 || index >= kChunks * kChunkSize) return nullptr;
        Lease* chunk = chunks_[index / kChunkSize].load(std::memory_order_acquire);
        return chunk ? &chunk[index % kChunkSize] : nullptr;
    }
    Lease& at(std::size_t index) const {
        return chunks_[index / kChunkSize].load(std::memory_order_relaxed)[index % kChunkSize];
    }
    std::size_t size() const { return size_; }
    Lease* add() {  // under the pool's lock; nullptr when the table is full
        if (size_ == kChunks * kChunkSize) return nullptr;
        if (size_ % kChunkSize == 0)
            chunks_[size_ / kChunkSize].store(new Lease[kChunkSize], std::memory_order_release);
        Lease& lease = at(size_);
        lease.index = static_cast<std::uint32_t>(size_++);
        return &lease;
    }

  private:
    static constexpr std::size_t kChunkSize = 64, kChunks = 512;
    static_assert(kChunkSize * kChunks <= kLeaseIndexMask + 1);
    std::array<std::atomic<Lease*>, kChunks> chunks_{};
    std::size_t size_ = 0;
};

// Somebody who waits for an answer from the pool: a connection, the end of opening, the end of shutdown. Lives with who
// waits.
struct Waiting {
    Waiting() { sem_init(&answered_, 0, 0); }
    ~Waiting() { sem_destroy(&answered_); }
    Waiting(const Waiting&) = delete;

    // For a thread; the deadline is the state machine's business.
    void wait() {
        while (sem_wait(&answered_) != 0) {
        }
    }
    void post() { sem_post(&answered_); }

    enum class For { acquire, replacement, opening, shutdown };
    For what = For::acquire;
    Nanos patience = 0, deadline = 0, leak_limit = 0;
    std::string tag;
    CompletionQueue* queue = nullptr;  // who is told; none: the thread in wait()
    AsyncOperation* operation = nullptr;
    WaiterId waiter;
    Waiting* next = nullptr;  // in a WaitingList

    // The answer.
    Lease* lease = nullptr;
    std::optional<Error> error;

  private:
    sem_t answered_;
};

// Takes in without memory of its own, so that whoever waits can always be answered. A Waiting stands in one at most.
class WaitingList {
  public:
    bool empty() const { return !first_; }
    void push(Waiting& waiting) {
        waiting.next = nullptr;
        (last_ ? last_->next : first_) = &waiting;
        last_ = &waiting;
    }
    Waiting* pop() {
        Waiting* waiting = first_;
        if (!waiting) return nullptr;
        first_ = waiting->next;
        if (!first_) last_ = nullptr;
        return waiting;
    }
    bool remove(const Waiting& waiting) {
        Waiting* before = nullptr;
        for (Waiting* at = first_; at; before = at, at = at->next) {
            if (at != &waiting) continue;
            (before ? before->next : first_) = at->next;
            if (last_ == at) last_ = before;
            return true;
        }
        return false;
    }

  private:
    Waiting *first_ = nullptr, *last_ = nullptr;
};

}  // namespace pqpool
