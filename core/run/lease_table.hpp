// All leases of a pool, and what their handles mean.
//
// Leases have fixed addresses and are never freed before the table, so a stale handle can be looked up at any time,
// without the pool's lock. All but find() is done under it.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "core/run/lease.hpp"

namespace pqpool {

struct Holder {
    LeaseHandle lease = 0;
    double held_seconds = 0;
    int backend_pid = 0;  // 0 while the connection is being replaced
    std::string tag;
    std::string last_statement;
};

class LeaseTable {
  public:
    explicit LeaseTable(std::uint32_t epoch);  // the fork epoch of its pool
    ~LeaseTable();
    LeaseTable(const LeaseTable&) = delete;

    // Throws Error(released), and where the handle is another pool's or a parent's Error(invalid_argument or forked).
    Lease& find(LeaseHandle handle) const {
        Lease* lease = place_of(handle);
        if (!lease || lease->handle.load(std::memory_order_acquire) != handle) refuse(handle);
        return *lease;
    }

    // Room for one more lease, also in the list that it comes to when it is free again. Throws where there is none.
    void make_room() {
        if (free_.empty()) add();
    }
    // One that is free, with its next number, which is not its handle yet. Throws as make_room() does, with nothing
    // taken.
    Lease& take() {
        make_room();
        Lease& lease = at(free_.back());
        free_.pop_back();
        const LeaseHandle generation = ((lease.number >> kIndexBits) + 1) & kGenerationMask;
        lease.number = handle_bits_ | generation << kIndexBits | lease.index;
        return lease;
    }
    void put_back(const Lease& lease) { free_.push_back(lease.index); }

    // All that ever were, in no order.
    std::size_t size() const { return size_; }
    Lease& at(std::size_t index) const {
        return chunks_[index / kChunkSize].load(std::memory_order_relaxed)[index % kChunkSize];
    }
    std::vector<Holder> holders(Nanos now) const;  // who has held longest first

  private:
    // A handle, from the lowest bit on: the place in the table, the generation, the pool's number, by which another
    // pool's lease is recognized, and the fork epoch, by which a parent's is. The uppermost bit is 0.
    static constexpr LeaseHandle kIndexBits = 15, kGenerationBits = 36, kPoolBits = 8, kEpochBits = 4;
    static constexpr LeaseHandle kPoolShift = kIndexBits + kGenerationBits;
    static constexpr LeaseHandle kEpochShift = kPoolShift + kPoolBits;
    static constexpr LeaseHandle kIndexMask = (LeaseHandle{1} << kIndexBits) - 1;
    static constexpr LeaseHandle kGenerationMask = (LeaseHandle{1} << kGenerationBits) - 1;
    static constexpr LeaseHandle kPoolMask = ((LeaseHandle{1} << kPoolBits) - 1) << kPoolShift;
    static constexpr LeaseHandle kEpochMask = (LeaseHandle{1} << kEpochBits) - 1;

    static constexpr std::size_t kChunkSize = 64, kChunks = 512;
    static_assert(kChunkSize * kChunks <= kIndexMask + 1);

    static LeaseHandle next_pool_number();
    Lease* place_of(LeaseHandle handle) const {
        const auto index = handle & kIndexMask;
        if (handle == 0 || index >= kChunks * kChunkSize) return nullptr;
        Lease* chunk = chunks_[index / kChunkSize].load(std::memory_order_acquire);
        return chunk ? &chunk[index % kChunkSize] : nullptr;
    }
    [[noreturn]] void refuse(LeaseHandle handle) const;
    void add();

    const std::uint32_t epoch_;
    const LeaseHandle handle_bits_;  // what all its handles have in common
    std::array<std::atomic<Lease*>, kChunks> chunks_{};
    std::size_t size_ = 0;
    std::vector<std::uint32_t> free_;
};

}  // namespace pqpool
