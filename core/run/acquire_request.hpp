// What the caller of an acquire wants.
#pragma once

#include <string_view>

#include "core/base/text.hpp"
#include "core/run/waiting.hpp"

namespace pqpool {

struct AcquireRequest {
    Nanos timeout = -2;     // kByOption: the option's; negative otherwise: no limit; 0: do not wait
    Nanos leak_limit = -2;  // kByOption: the option's; 0: not watched
    std::string_view tag;   // shown among the holders

    static constexpr Nanos kByOption = -2;

    void put_into(Waiting& waiting, Nanos timeout_option, Nanos leak_limit_option, Nanos now) const {
        waiting.patience = timeout == kByOption ? timeout_option : timeout;
        waiting.deadline = deadline_after(now, waiting.patience);
        waiting.leak_limit = leak_limit == kByOption ? leak_limit_option : leak_limit <= 0 ? kNever : leak_limit;
        waiting.tag.clear();
        if (!tag.empty()) waiting.tag = valid_utf8(std::string(tag));
    }
};

}  // namespace pqpool
