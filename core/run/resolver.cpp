#include "core/run/resolver.hpp"

#include <algorithm>
#include <mutex>
#include <utility>

namespace pqpool {

namespace {

constexpr Nanos kPatience = kSecond;
constexpr int kLookUpsOfAName = 2;  // at once, of which all but the last are given up
constexpr std::size_t kThreads = 16;

}  // namespace

struct Resolver::Inbox {
    std::function<void()> wake;
    std::mutex mutex;
    std::vector<Found> found;
};

Resolver::Resolver(const ConnectPlan& plan, std::function<void()> wake, LookUp look_up)
    : plan_(plan), look_up_(std::move(look_up)), inbox_(std::make_shared<Inbox>()), errands_(kThreads) {
    inbox_->wake = std::move(wake);
    for (const auto& name : plan.names()) names_[name];
}

void Resolver::ask(Nanos now) {
    const bool first = asked_at_ == kNever;
    if (first) {
        asked_at_ = now;
        due_ = now + kPatience;
    }
    for (auto& [name, state] : names_) {
        if (first) state.answered = false;
        if (!state.answered && (first || now - state.asked_at >= kPatience)) look_up(name, state, now);
    }
}

void Resolver::look_up(const std::string& name, Name& state, Nanos now) {
    if (state.under_way >= kLookUpsOfAName) return;
    state.asked_at = now;
    errands_.run([name, look_up = look_up_, inbox = inbox_] {
        Found found{name, {}, {}};
        try {
            found.addresses = look_up(name);
        } catch (const std::exception& e) {
            found.failure =
                std::string(e.what()) + ". Suggestion: check the host name in database_url, and the system's resolver";
        }
        {
            std::lock_guard lock(inbox->mutex);
            inbox->found.push_back(std::move(found));
        }
        inbox->wake();
    });
    state.under_way++;
}

void Resolver::collect() {
    std::vector<Found> found;
    {
        std::lock_guard lock(inbox_->mutex);
        found.swap(inbox_->found);
    }
    for (auto& one : found) {
        Name& state = names_.at(one.name);
        state.under_way--;
        state.answered = true;
        state.addresses = std::move(one.addresses);
        state.failure = std::move(one.failure);
    }
}

std::optional<Resolver::Answer> Resolver::take(Nanos now) {
    collect();
    if (asked_at_ == kNever) return {};
    const bool all = std::all_of(names_.begin(), names_.end(), [](const auto& name) { return name.second.answered; });
    if (!all && now < asked_at_ + kPatience) return {};
    due_ = kNever;
    ConnectPlan::Addresses addresses;
    Answer answer;
    for (const auto& [name, state] : names_) {
        if (!state.answered) continue;
        if (state.failure.empty()) addresses[name] = state.addresses;
        if (answer.failure.empty()) answer.failure = state.failure;
    }
    answer.plan = plan_.with_addresses(addresses);
    if (!answer.plan && !all) return {};
    asked_at_ = kNever;
    return answer;
}

}  // namespace pqpool
