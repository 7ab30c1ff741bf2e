// The first bytes of a lease's last statement, written by its owner and read by whoever looks at the holders.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "core/base/secrets.hpp"
#include "core/base/text.hpp"

namespace pqpool {

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

}  // namespace pqpool
