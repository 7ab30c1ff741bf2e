// Finds the addresses of a plan's names. A name whose look-up hangs holds up neither the others nor the hosts that have
// an address already: after a moment the plan goes without it.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/base/clock.hpp"
#include "core/run/errands.hpp"
#include "core/wire/connection.hpp"

namespace pqpool {

class Resolver {
  public:
    using LookUp = std::function<std::vector<std::string>(const std::string& name)>;  // blocks; throws Error

    // wake: called from another thread when there may be something to take().
    Resolver(const ConnectPlan& plan, std::function<void()> wake, LookUp look_up = &ConnectPlan::look_up);

    // Somebody wants to connect. Who asks while an answer is awaited shares it.
    void ask(Nanos now);
    struct Answer {
        std::optional<ConnectPlan> plan;
        std::string failure;  // where there is no plan
    };
    std::optional<Answer> take(Nanos now);
    Nanos due() const { return due_; }  // when to take() at the latest

  private:
    struct Name {
        bool answered = false;
        std::vector<std::string> addresses;
        std::string failure;
        Nanos asked_at = 0;
        int under_way = 0;
    };
    struct Found {
        std::string name;
        std::vector<std::string> addresses;
        std::string failure;
    };
    struct Inbox;  // outlives the resolver in the hands of errands

    void look_up(const std::string& name, Name& state, Nanos now);
    void collect();

    const ConnectPlan plan_;
    const LookUp look_up_;
    const std::shared_ptr<Inbox> inbox_;
    std::map<std::string, Name> names_;
    Nanos asked_at_ = kNever;  // kNever: nobody waits for an answer
    Nanos due_ = kNever;
    Errands errands_;
};

}  // namespace pqpool
