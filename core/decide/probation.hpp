// Whether sessions last. A session that opens is no success yet: a server, a proxy or a script may end each as soon as
// it stands, and a pool that took each for a success would reconnect some hundred times a second.
//
// A connection that ends before its time is replaced at once. Those opened since the first such end are its
// successors; where several of them end before they have proved themselves, sessions are said to be dying: each end
// counts as a failed attempt, and connections are opened one at a time until one has proved itself.
#pragma once

#include "core/base/clock.hpp"
#include "core/decide/slot.hpp"

namespace pqpool {

class Probation {
  public:
    // A connection has proved itself when it has stood for so long. That it has served says little: sessions may end
    // as soon as they are idle.
    static constexpr Nanos kTerm = kSecond;

    bool is_dying() const { return dying_; }
    // Whether a connection that stands has proved that sessions last again.
    bool is_proof(const Slot::Life& life, Nanos now) const {
        return life.opened_at > ends_since_ && now - life.opened_at >= kTerm;
    }

    // A lease's connection is dead; whether it had proved itself, the end of the lease will tell.
    void suspect(Nanos now);
    enum class Verdict {
        replace,  // as one end is usual
        fail,     // counts as a failed attempt
        trust,    // it had lasted: sessions do again
    };
    Verdict ended(const Slot::Life& life, Nanos now);  // before its time
    void failed_after_admission();                     // the server had let the session in, and ended it
    void trust();

  private:
    // So many that have not proved themselves may end before that is taken for the server's habit: a few may be an
    // administrator's doing.
    static constexpr int kEarlyEnds = 8;

    void count_early_end() { dying_ |= ++early_ends_ > kEarlyEnds; }

    Nanos ends_since_ = kNoTime;  // kNoTime: sessions last
    int early_ends_ = 0;
    bool dying_ = false;
};

}  // namespace pqpool
