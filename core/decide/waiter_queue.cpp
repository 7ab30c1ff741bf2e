#include "core/decide/waiter_queue.hpp"

#include <algorithm>

namespace pqpool {

WaiterId WaiterQueue::insert(const Waiter& waiter, bool front) {
    std::uint32_t index = free_;
    if (heap_.size() == heap_.capacity()) heap_.reserve(2 * heap_.size() + 8);  // before anything is changed
    if (index == kNone) {
        index = static_cast<std::uint32_t>(nodes_.size());
        nodes_.emplace_back();
    } else {
        free_ = nodes_[index].next;
    }
    Node& node = nodes_[index];
    node.waiter = waiter;
    node.used = true;
    node.previous = front ? kNone : last_;
    node.next = front ? first_ : kNone;
    (node.previous == kNone ? first_ : nodes_[node.previous].next) = index;
    (node.next == kNone ? last_ : nodes_[node.next].previous) = index;
    heap_.push_back(index);
    node.heap_place = static_cast<std::uint32_t>(heap_.size() - 1);
    sift_up(heap_.size() - 1);
    peak_ = std::max(peak_, ++size_);
    return {index, node.generation};
}

bool WaiterQueue::remove(WaiterId id, Waiter* removed) {
    if (id.index >= nodes_.size() || !nodes_[id.index].used || nodes_[id.index].generation != id.generation)
        return false;
    const Waiter waiter = take(id.index);
    if (removed) *removed = waiter;
    return true;
}

Waiter WaiterQueue::take(std::uint32_t index) {
    Node& node = nodes_[index];
    (node.previous == kNone ? first_ : nodes_[node.previous].next) = node.next;
    (node.next == kNone ? last_ : nodes_[node.next].previous) = node.previous;

    const std::size_t at = node.heap_place;
    const std::uint32_t moved = heap_.back();
    heap_.pop_back();
    if (moved != index) {
        place(at, moved);
        sift_up(at);
        sift_down(nodes_[moved].heap_place);
    }

    node.used = false;
    node.generation++;
    node.next = free_;
    free_ = index;
    size_--;
    return node.waiter;
}

void WaiterQueue::place(std::size_t at, std::uint32_t index) {
    heap_[at] = index;
    nodes_[index].heap_place = static_cast<std::uint32_t>(at);
}

void WaiterQueue::sift_up(std::size_t at) {
    const std::uint32_t index = heap_[at];
    while (at > 0 && earlier(index, heap_[(at - 1) / 2])) {
        place(at, heap_[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    place(at, index);
}

void WaiterQueue::sift_down(std::size_t at) {
    const std::uint32_t index = heap_[at];
    for (std::size_t child; (child = 2 * at + 1) < heap_.size(); at = child) {
        if (child + 1 < heap_.size() && earlier(heap_[child + 1], heap_[child])) child++;
        if (!earlier(heap_[child], index)) break;
        place(at, heap_[child]);
    }
    place(at, index);
}

}  // namespace pqpool
