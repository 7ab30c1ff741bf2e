// Whether a connection is closed whose server refuses to serve on though it lives, as one does that shuts down or
// became read-only.
#pragma once

#include "core/base/clock.hpp"
#include "core/decide/random.hpp"

namespace pqpool {

// It is replaced, unless there is reason to think that another one would be no better: then it serves what it can.
// Those from before the first refusal go at once; of their successors one after the other, as often as a request may
// have the server tried.
class Condemnation {
  public:
    // replaceable: another may be opened in its place now.
    bool may_close(Nanos opened_at, bool replaceable, Nanos now, Random& random);

  private:
    static constexpr Nanos kMemory = 60 * kSecond;  // after this long a refusal is the first of another cause

    Nanos last_ = kNoTime;           // refusal
    Nanos first_ = kNoTime;          // of those that one cause has
    Nanos next_close_at_ = kNoTime;  // of a successor
};

}  // namespace pqpool
