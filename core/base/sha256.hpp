// SHA-256 (FIPS 180-4), for names that are made from what they name. It needs no memory and no library's set-up, so it
// cannot fail, and works for callers that come after the process's libraries have cleaned up.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace pqpool {

std::array<std::uint8_t, 32> sha256(std::string_view data);

}  // namespace pqpool
