// fork(): the child must find every pool's tables whole, and must know that they are its parent's.
#pragma once

#include <cstdint>
#include <mutex>

namespace pqpool {

// How many forks lie between the program's start and this process. A pool that was made in another epoch is the
// parent's.
std::uint32_t fork_epoch();

// From its start to its end the lock of each pool stands in the register, whose locks are held around every fork.
void add_to_fork_register(std::mutex& lock);
void remove_from_fork_register(std::mutex& lock);

}  // namespace pqpool
