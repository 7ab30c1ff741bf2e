#include "core/wire/exchange.hpp"

#include <string>
#include <utility>

namespace pqpool {

namespace {

[[noreturn]] void refuse(const Message& message) { throw ProtocolViolation(name_of_message(message.tag)); }

void want(const Message& message, char tag) {
    if (message.tag != tag) refuse(message);
}

}  // namespace

void Exchange::clear() {
    items_.clear();
    front_ = 0;
    has_failed_ = has_begun_ = has_columns_ = has_ended_ = false;
    result_ = Result();
}

bool Exchange::is_since_sync(Purpose purpose) const {
    for (std::size_t i = front_; i > 0; i--) {
        const Purpose one = items_[i - 1].purpose;
        if (one == purpose) return true;
        if (one == Purpose::sync) return false;
    }
    return false;
}

Exchange::Meaning Exchange::take(const Message& message) {
    if (is_done()) refuse(message);
    const Item& item = items_[front_];
    purpose_ = item.purpose;
    step_ = item.steps & static_cast<Steps>(-item.steps);
    if (message.tag == tag::kError) return take_error(message);
    switch (step_) {
        case kParse:
            want(message, tag::kParseComplete);
            read_empty(message);
            break;
        case kBind:
            want(message, tag::kBindComplete);
            read_empty(message);
            break;
        case kClose:
            want(message, tag::kCloseComplete);
            read_empty(message);
            break;
        case kParameters:
            want(message, tag::kParameterDescription);
            read_parameter_description(message);
            break;
        case kColumns:
            take_columns(message);
            break;
        case kRows:
            return take_row(message);
        case kScript:
            return take_of_script(message);
        case kSync:
            want(message, tag::kReadyForQuery);
            status_ = read_ready_for_query(message);
            has_failed_ = false;
            finish(kSync);
            return Meaning::synced;
    }
    return finish(step_);
}

Exchange::Meaning Exchange::finish(Steps step) {
    Item& item = items_[front_];
    item.steps &= static_cast<Steps>(~step);
    if (item.steps != 0) return Meaning::part;
    has_begun_ = false;
    front_++;
    return Meaning::done;
}

void Exchange::take_columns(const Message& message) {
    has_begun_ = true;
    if (message.tag == tag::kNoData) {
        read_empty(message);
        return result_.begin(nullptr);
    }
    want(message, tag::kRowDescription);
    auto* const kept = items_[front_].columns;
    if (kept && *kept && (*kept)->is_described_by(message.body)) return result_.begin(*kept);
    auto columns = std::make_shared<const Columns>(message);
    if (kept) *kept = columns;
    result_.begin(std::move(columns));
}

Exchange::Meaning Exchange::take_row(const Message& message) {
    if (!has_begun_) {
        if (message.tag == tag::kRowDescription) return take_columns(message), Meaning::part;  // it speaks for itself
        const auto* const kept = items_[front_].columns;
        result_.begin(kept ? *kept : nullptr);
        has_begun_ = true;
    }
    switch (message.tag) {
        case tag::kDataRow:
            result_.add_row(message);
            return Meaning::part;
        case tag::kCommandComplete:
            result_.end(read_command_tag(message));
            return finish(kRows);
        case tag::kEmptyQuery:
            read_empty(message);
            result_.end({});
            return finish(kRows);
        default:
            refuse(message);
    }
}

// Of a script the last statement's result counts; the server does not say how many there are.
Exchange::Meaning Exchange::take_of_script(const Message& message) {
    switch (message.tag) {
        case tag::kRowDescription:  // also a second one, where a rule has more to show
            take_columns(message);
            has_columns_ = true;
            return Meaning::part;
        case tag::kDataRow:
            if (!has_columns_) refuse(message);
            result_.add_row(message);
            return Meaning::part;
        case tag::kCommandComplete:
        case tag::kEmptyQuery: {
            const bool is_command = message.tag == tag::kCommandComplete;
            const auto text = is_command ? read_command_tag(message) : (read_empty(message), std::string_view());
            if (!std::exchange(has_columns_, false)) result_.begin(nullptr);
            result_.end(text);
            has_ended_ = true;
            return Meaning::part;
        }
        case tag::kReadyForQuery:
            if (has_columns_ || !has_ended_) refuse(message);
            finish(kScript);
            return Meaning::done_before;
        default:
            refuse(message);
    }
}

// One that arrives where only a Sync's answer is due is the Sync's own: of what the implicit transaction's end found.
Exchange::Meaning Exchange::take_error(const Message& message) {
    if (std::exchange(has_failed_, true)) throw ProtocolViolation("a second error");
    result_ = Result::of_error(message.body);
    while (items_[front_].purpose != Purpose::sync) front_++;
    return Meaning::failed;
}

}  // namespace pqpool
