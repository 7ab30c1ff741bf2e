// Those who wait for a connection: first in, first out, each with a deadline.
#pragma once

#include <cstdint>
#include <vector>

#include "core/base/clock.hpp"
#include "core/decide/slot.hpp"

namespace pqpool {

struct WaiterId {
    std::uint32_t index = UINT32_MAX;
    std::uint32_t generation = 0;
};

struct Waiter {
    void* context = nullptr;  // the caller's; comes back with the grant or the failure
    Nanos asked_at = 0;
    Nanos deadline = kNever;
    LeaseTerms lease{};  // of the lease that it begins, or whose dead connection is to be replaced

    bool replaces() const { return lease.since != kNoTime; }
};

// Push, pop and removal from the middle cost O(1), and O(log n) for the deadline; where all wait equally long, as is
// usual, a new deadline is the last and stays where it is put.
class WaiterQueue {
  public:
    WaiterId push_back(const Waiter& waiter) { return insert(waiter, false); }
    WaiterId push_front(const Waiter& waiter) { return insert(waiter, true); }
    bool empty() const { return size_ == 0; }
    std::int64_t size() const { return size_; }
    std::int64_t peak() const { return peak_; }
    Waiter pop_front() { return take(first_); }
    bool remove(WaiterId id, Waiter* removed = nullptr);
    Nanos next_deadline() const { return heap_.empty() ? kNever : nodes_[heap_.front()].waiter.deadline; }
    Waiter pop_earliest() { return take(heap_.front()); }
    // Takes out those that `leaves` is true for, in their order.
    template <class Leaves>
    void take_if(Leaves&& leaves) {
        for (std::uint32_t index = first_, next; index != kNone; index = next) {
            next = nodes_[index].next;
            if (leaves(nodes_[index].waiter)) take(index);
        }
    }

  private:
    static constexpr std::uint32_t kNone = UINT32_MAX;

    struct Node {
        Waiter waiter;
        std::uint32_t previous = kNone, next = kNone;  // next is the free list's link too
        std::uint32_t heap_place = kNone;
        std::uint32_t generation = 0;
        bool used = false;
    };

    WaiterId insert(const Waiter& waiter, bool front);
    Waiter take(std::uint32_t index);
    bool earlier(std::uint32_t a, std::uint32_t b) const {
        return nodes_[a].waiter.deadline < nodes_[b].waiter.deadline;
    }
    void place(std::size_t at, std::uint32_t index);
    void sift_up(std::size_t at);
    void sift_down(std::size_t at);

    std::vector<Node> nodes_;
    std::vector<std::uint32_t> heap_;
    std::uint32_t first_ = kNone, last_ = kNone, free_ = kNone;
    std::int64_t size_ = 0, peak_ = 0;
};

}  // namespace pqpool
