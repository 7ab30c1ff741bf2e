#include "core/decide/action.hpp"

namespace pqpool {

// A slot has at most a report, an end, a beginning and an end again; a waiter one answer.
void ActionList::make_room(std::size_t slots, std::size_t waiters) {
    const std::size_t wanted = 5 * slots + waiters + 16;
    for (auto* list : {&pending_, &taken_})
        if (list->capacity() < wanted) list->reserve(2 * wanted);
}

const std::vector<Action>& ActionList::take() {
    taken_.clear();
    taken_.swap(pending_);
    return taken_;
}

}  // namespace pqpool
