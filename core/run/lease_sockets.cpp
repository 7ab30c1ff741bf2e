#include "core/run/lease_sockets.hpp"

#include <algorithm>

namespace pqpool {

LeaseSockets::Watched& LeaseSockets::watched_of(Lease& lease) {
    const SlotId slot = lease.slot;
    if (slot.index >= watched_.size()) watched_.resize(slot.index + 1);
    Watched& watched = watched_[slot.index];
    const int fd = lease.connection->fd();
    if (watched.generation != slot.generation || watched.fd != fd) watched = {slot.generation, fd, 0, nullptr};
    watched.lease = &lease;
    return watched;
}

void LeaseSockets::watch(Lease& lease, std::uint32_t what) {
    Watched& watched = watched_of(lease);
    if (watched.what == what) return;
    poller_.watch(watched.fd, what | Poller::kHangUp, std::uint64_t{lease.slot.index} << 32 | lease.slot.generation);
    watched.what = what;
}

void LeaseSockets::leave(const Lease& lease) {
    if (lease.slot.index < watched_.size() && watched_[lease.slot.index].lease == &lease)
        watched_[lease.slot.index].lease = nullptr;
}

void LeaseSockets::forget(const Lease& lease) {
    Watched& watched = watched_[lease.slot.index];
    poller_.forget(watched.fd);
    watched.what = 0;
}

Lease* LeaseSockets::lease_of(std::uint64_t key) {
    const auto index = static_cast<std::uint32_t>(key >> 32);
    if (index >= watched_.size()) return nullptr;
    Watched& watched = watched_[index];
    if (watched.generation != static_cast<std::uint32_t>(key)) return nullptr;
    if (watched.lease && watched.lease->connection) return watched.lease;
    const int fd = watched.fd;
    watched = {};
    // It may be closed by now, and its number that of another connection that this queue watches.
    if (std::none_of(watched_.begin(), watched_.end(), [fd](const Watched& w) { return w.fd == fd; }))
        poller_.forget(fd);
    return nullptr;
}

}  // namespace pqpool
