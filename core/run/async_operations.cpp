#include "core/run/async_operations.hpp"

namespace pqpool {

AsyncOperation& AsyncOperations::add(AsyncOperation::Kind kind, void* user_data) {
    if (!free_) {
        free_ = &operations_.emplace_back();
        free_->index = static_cast<std::uint32_t>(operations_.size() - 1);
    }
    AsyncOperation& operation = *free_;
    free_ = operation.next;
    operation.next = nullptr;
    operation.kind = kind;
    operation.active = true;
    operation.waits_for_pool = operation.settles = false;
    operation.completion = {std::uint64_t{++operation.generation} << kIndexBits | operation.index, user_data, 0, {}};
    operation.waiting.reset();
    return operation;
}

AsyncOperation* AsyncOperations::find(std::uint64_t id) {
    const auto index = id & ((std::uint64_t{1} << kIndexBits) - 1);
    if (index >= operations_.size()) return nullptr;
    AsyncOperation& operation = operations_[index];
    return operation.active && operation.completion.id == id ? &operation : nullptr;
}

}  // namespace pqpool
