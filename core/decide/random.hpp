// The jitter of everything that would otherwise happen to many pools, or to many connections, at the same moment.
#pragma once

#include <cstdint>

namespace pqpool {

class Random {  // xorshift64*
  public:
    explicit Random(std::uint64_t seed) : state_(seed | 1) {}
    double operator()() {  // in [0, 1)
        state_ ^= state_ >> 12;
        state_ ^= state_ << 25;
        state_ ^= state_ >> 27;
        return static_cast<double>((state_ * 0x2545F4914F6CDD1DULL) >> 11) * 0x1.0p-53;
    }

  private:
    std::uint64_t state_;
};

}  // namespace pqpool
