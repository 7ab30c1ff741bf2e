#include "core/run/lease_table.hpp"

#include <algorithm>

namespace pqpool {

// Never 0, as no handle is.
LeaseHandle LeaseTable::next_pool_number() {
    static std::atomic<LeaseHandle> pools{0};
    return 1 + pools++ % ((LeaseHandle{1} << kPoolBits) - 1);
}

LeaseTable::LeaseTable(std::uint32_t epoch)
    : epoch_(epoch), handle_bits_((epoch & kEpochMask) << kEpochShift | next_pool_number() << kPoolShift) {}

LeaseTable::~LeaseTable() {
    for (auto& chunk : chunks_) delete[] chunk.load();
}

void LeaseTable::refuse(LeaseHandle handle) const {
    const bool names_a_pool = (handle & kPoolMask) != 0;
    if (names_a_pool && handle >> kPoolShift != handle_bits_ >> kPoolShift) {
        if (epoch_ != 0 && handle >> kEpochShift != handle_bits_ >> kEpochShift)
            throw Error(ErrorKind::forked,
                        "the lease belongs to the parent process. Suggestion: acquire one in this process");
        throw Error(ErrorKind::invalid_argument,
                    "the lease is not of this pool. Suggestion: pass the pool that it was acquired from");
    }
    throw Error(ErrorKind::released,
                "the lease was released already. Suggestion: acquire a new one; a connection may not be kept beyond "
                "its release");
}

void LeaseTable::add() {
    if (free_.capacity() <= size_) free_.reserve(2 * size_ + 8);
    if (size_ == kChunks * kChunkSize) throw Error(ErrorKind::internal, "too many leases are out");
    if (size_ % kChunkSize == 0) chunks_[size_ / kChunkSize].store(new Lease[kChunkSize], std::memory_order_release);
    Lease& lease = at(size_);
    lease.index = static_cast<std::uint32_t>(size_++);
    free_.push_back(lease.index);
}

std::vector<Holder> LeaseTable::holders(Nanos now) const {
    std::vector<Holder> list;
    for (std::size_t i = 0; i < size_; i++) {
        const Lease& lease = at(i);
        const LeaseHandle handle = lease.handle.load(std::memory_order_relaxed);
        if (handle == 0) continue;
        list.push_back({handle, to_seconds(now - lease.leased_at),
                        lease.connection ? lease.connection->backend_pid() : 0, lease.tag, lease.last_statement.get()});
    }
    std::sort(list.begin(), list.end(),
              [](const Holder& a, const Holder& b) { return a.held_seconds > b.held_seconds; });
    return list;
}

}  // namespace pqpool
