// Dates, times and intervals in PostgreSQL's text form, which the session's DateStyle and IntervalStyle choose.
//
// Every interval style is read, and every date style that tells by itself what it means: ISO, German and, of a
// timestamp, Postgres. The others (SQL; a date in Postgres) leave open what is the day and what the month, and beside
// ISO all name a zone by letters that do not tell its offset. Those are an error, not a guess.

#include <charconv>
#include <limits>

#include "values.hpp"

namespace pqpool_python {

namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// Reads a text from its front. What returns bool has taken nothing useful where it is false.
class Cursor {
  public:
    explicit Cursor(std::string_view text) : left_(text) {}

    bool at_end() const { return left_.empty(); }
    char next() const { return left_.empty() ? '\0' : left_.front(); }
    std::string_view left() const { return left_; }

    bool skip(char c) { return next() == c && !at_end() ? left_.remove_prefix(1), true : false; }
    bool skip(std::string_view word) {
        return left_.starts_with(word) ? left_.remove_prefix(word.size()), true : false;
    }
    // A number without a sign, of so many digits.
    template <class T>
    bool number(T& out, std::size_t least = 1, std::size_t most = 19) {
        std::size_t digits = 0;
        while (digits < left_.size() && is_digit(left_[digits])) digits++;
        if (digits < least || digits > most) return false;
        // NOLINTNEXTLINE(bugprone-suspicious-stringview-data-usage): with its end
        if (std::from_chars(left_.data(), left_.data() + digits, out).ec != std::errc()) return false;
        left_.remove_prefix(digits);
        return true;
    }
    // ".5" is 500000; without a point it is 0.
    bool fraction(int64_t& us) {
        us = 0;
        if (!skip('.')) return true;
        int64_t unit = 100'000;
        bool some = false;
        for (; is_digit(next()) && unit > 0; unit /= 10, some = true) us += (take() - '0') * unit;
        return some && !is_digit(next());
    }
    bool letters(std::string_view& word) {
        std::size_t length = 0;
        while (length < left_.size() && left_[length] >= 'a' && left_[length] <= 'z') length++;
        word = left_.substr(0, length);
        left_.remove_prefix(length);
        return length > 0;
    }
    char take() {
        const char c = left_.front();
        left_.remove_prefix(1);
        return c;
    }

  private:
    std::string_view left_;
};

// ---- dates and times ----

bool read_time(Cursor& in, int64_t& us) {  // HH:MM:SS.ffffff
    int hours, minutes, seconds;
    int64_t fraction;
    if (!in.number(hours, 2, 2) || !in.skip(':') || !in.number(minutes, 2, 2) || !in.skip(':') ||
        !in.number(seconds, 2, 2) || !in.fraction(fraction) || minutes > 59 || seconds > 59)
        return false;
    us = (hours * 3600LL + minutes * 60LL + seconds) * 1'000'000 + fraction;
    return us <= kDay;
}

bool read_zone(Cursor& in, int32_t& east) {  // +HH, +HH:MM, +HH:MM:SS
    const bool west = in.next() == '-';
    if (!in.skip('-') && !in.skip('+')) return false;
    int part[3] = {};
    if (!in.number(part[0], 2, 2)) return false;
    for (int i = 1; i < 3 && in.skip(':'); i++)
        if (!in.number(part[i], 2, 2) || part[i] > 59) return false;
    east = (part[0] * 3600 + part[1] * 60 + part[2]) * (west ? -1 : 1);
    return part[0] < 24;
}

bool read_month_name(Cursor& in, int& month) {
    static constexpr std::string_view kNames[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                                  "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    month = 0;
    for (const auto name : kNames) {
        month++;
        if (in.skip(name)) return true;
    }
    return false;
}

bool is_day_of_calendar(const Day& d) {
    if (d.month < 1 || d.month > 12 || d.day < 1) return false;
    const Day after = d.month == 12 ? Day{d.year + 1, 1, 1} : Day{d.year, d.month + 1, 1};
    return d.day <= days_of(after) - days_of({d.year, d.month, 1});
}

bool read_iso_date(Cursor& in, Day& d) {
    return in.number(d.year, 4, 7) && in.skip('-') && in.number(d.month, 2, 2) && in.skip('-') &&
           in.number(d.day, 2, 2);
}

bool read_german_date(Cursor& in, Day& d) {
    return in.number(d.day, 2, 2) && in.skip('.') && in.number(d.month, 2, 2) && in.skip('.') &&
           in.number(d.year, 4, 7);
}

// "Wed Dec 17 07:37:16.5 1997", or with the day in front of the month.
bool read_postgres_timestamp(Cursor& in, Day& d, int64_t& us) {
    static constexpr std::string_view kWeekdays[] = {"Sun ", "Mon ", "Tue ", "Wed ", "Thu ", "Fri ", "Sat "};
    bool weekday = false;
    for (const auto name : kWeekdays) weekday = weekday || in.skip(name);
    if (!weekday) return false;
    const bool day_first = is_digit(in.next());
    if (day_first && (!in.number(d.day, 2, 2) || !in.skip(' '))) return false;
    if (!read_month_name(in, d.month) || !in.skip(' ')) return false;
    if (!day_first && (!in.number(d.day, 2, 2) || !in.skip(' '))) return false;
    return read_time(in, us) && in.skip(' ') && in.number(d.year, 4, 7);
}

bool read_timestamp(std::string_view text, Day& d, int64_t& us, std::string_view& rest) {
    Cursor iso(text), german(text), postgres(text);
    Cursor* read = nullptr;
    if (read_iso_date(iso, d) && iso.skip(' ') && read_time(iso, us))
        read = &iso;
    else if (read_german_date(german, d) && german.skip(' ') && read_time(german, us))
        read = &german;
    else if (read_postgres_timestamp(postgres, d, us))
        read = &postgres;
    if (!read) return false;
    rest = read->left();
    return is_day_of_calendar(d);
}

// "12/17/1997", "12-17-1997", and what ends with a zone's letters.
bool is_in_ambiguous_style(uint32_t type, std::string_view text) {
    Cursor in(text);
    int first, second;
    const bool numbers = in.number(first, 2, 2) && (in.skip('/') || in.skip('-')) && in.number(second, 2, 2) &&
                         (in.skip('/') || in.skip('-'));
    Day d;
    int64_t us;
    std::string_view rest;
    return numbers || (type == kTimestamptz && read_timestamp(text, d, us, rest) && rest.starts_with(' '));
}

Ref unread(uint32_t type, std::string_view text) {
    if (!is_in_ambiguous_style(type, text)) return malformed(type, "its text is neither a date nor a time");
    raise_error("unsupported",
                "a date or timestamp came as text, in a DateStyle that does not tell the day from the month, or the "
                "zone's offset. Suggestion: SET DateStyle = 'ISO'; or leave out, or cast to text, the columns of the "
                "statement whose types have no binary form here, which make the whole result come as text");
    return {};
}

Ref date_from(std::string_view text) {
    Day d;
    Cursor iso(text), german(text);
    if (read_iso_date(iso, d) && iso.at_end() && is_day_of_calendar(d)) return date_of(days_of(d));
    if (read_german_date(german, d) && german.at_end() && is_day_of_calendar(d)) return date_of(days_of(d));
    return unread(kDate, text);
}

Ref timestamp_from(uint32_t type, std::string_view text) {
    Day d;
    int64_t us;
    std::string_view rest;
    if (!read_timestamp(text, d, us, rest)) return unread(type, text);
    int32_t east = 0;
    Cursor zone(rest);
    if (type == kTimestamptz && !read_zone(zone, east)) return unread(type, text);
    if (!zone.at_end()) return unread(type, text);
    const int64_t days = days_of(d);
    if (days > kLastDay + 1) return out_of_range(type == kTimestamptz ? "timestamptz" : "timestamp");
    return timestamp_of((days - kEpochDays) * kDay + us - east * 1'000'000LL, type == kTimestamptz);
}

// ---- intervals ----

struct Interval {
    int64_t months = 0, days = 0, us = 0;
};

constexpr int64_t kSecond = 1'000'000, kMinute = 60 * kSecond, kHour = 60 * kMinute;

// False where the sum is out of every range.
bool add(int64_t& total, int64_t count, int64_t unit, bool negative) {
    int64_t product;
    return !__builtin_mul_overflow(count, negative ? -unit : unit, &product) &&
           !__builtin_add_overflow(total, product, &total);
}

bool read_sign(Cursor& in) {  // true: minus
    if (in.skip('-')) return true;
    in.skip('+');
    return false;
}

// P1Y2M3DT4H5M6.7S, each number with its own sign.
bool read_iso_interval(Cursor& in, Interval& interval) {
    bool time = false, some = false;
    while (!in.at_end()) {
        if (!time && in.skip('T')) time = true;
        const bool negative = read_sign(in);
        int64_t count, fraction;
        if (!in.number(count) || !in.fraction(fraction) || in.at_end()) return false;
        const char unit = in.take();
        if (fraction != 0 && unit != 'S') return false;
        bool good = false;
        if (!time) {
            if (unit == 'Y') good = add(interval.months, count, 12, negative);
            if (unit == 'M') good = add(interval.months, count, 1, negative);
            if (unit == 'D') good = add(interval.days, count, 1, negative);
        } else {
            if (unit == 'H') good = add(interval.us, count, kHour, negative);
            if (unit == 'M') good = add(interval.us, count, kMinute, negative);
            if (unit == 'S')
                good = add(interval.us, count, kSecond, negative) && add(interval.us, fraction, 1, negative);
        }
        if (!good) return false;
        some = true;
    }
    return some;
}

bool add_unit(Interval& interval, std::string_view unit, int64_t count, int64_t fraction, bool negative) {
    if (unit.starts_with("sec"))
        return add(interval.us, count, kSecond, negative) && add(interval.us, fraction, 1, negative);
    if (fraction != 0) return false;
    if (unit.starts_with("year")) return add(interval.months, count, 12, negative);
    if (unit.starts_with("mon")) return add(interval.months, count, 1, negative);
    if (unit.starts_with("day")) return add(interval.days, count, 1, negative);
    if (unit.starts_with("hour")) return add(interval.us, count, kHour, negative);
    return unit.starts_with("min") && add(interval.us, count, kMinute, negative);
}

// @ 1 year 2 mons -3 days 4 hours 5 mins 6.7 secs ago
bool read_verbose_interval(Cursor& in, Interval& interval) {
    const bool ago = in.left().ends_with(" ago");
    if (in.left() == " 0") return true;
    bool some = false;
    while (in.skip(' ')) {
        if (ago && in.left() == "ago") return some;
        const bool negative = in.skip('-') != ago;
        int64_t count, fraction;
        std::string_view unit;
        if (!in.number(count) || !in.fraction(fraction) || !in.skip(' ') || !in.letters(unit) ||
            !add_unit(interval, unit, count, fraction, negative))
            return false;
        some = true;
    }
    return some && in.at_end();
}

// ":05:06.7" behind the hours
bool read_clock(Cursor& in, int64_t hours, bool negative, Interval& interval) {
    int64_t minutes, seconds, fraction;
    return in.skip(':') && in.number(minutes, 2, 2) && in.skip(':') && in.number(seconds, 2, 2) &&
           in.fraction(fraction) && add(interval.us, hours, kHour, negative) &&
           add(interval.us, minutes, kMinute, negative) && add(interval.us, seconds, kSecond, negative) &&
           add(interval.us, fraction, 1, negative);
}

// postgres: "1 year 2 mons -3 days +04:05:06.7". sql_standard: "1-2", "3 4:05:06.7", "+1-2 -3 +4:05:06.7"; where the
// clock has no sign of its own, the one of the days in front holds for both.
bool read_interval(Cursor& in, Interval& interval) {
    if (in.left() == "0") return true;
    bool days_negative = false, clock = false;
    do {
        const bool has_sign = in.next() == '-' || in.next() == '+';
        const bool negative = read_sign(in);
        int64_t count;
        std::string_view unit;
        if (clock || !in.number(count)) return false;
        if (in.next() == ':') {
            if (!read_clock(in, count, has_sign ? negative : days_negative, interval)) return false;
            clock = true;
        } else if (in.skip('-')) {
            int64_t months;
            if (!in.number(months, 1, 2) || !add(interval.months, count, 12, negative) ||
                !add(interval.months, months, 1, negative))
                return false;
        } else if (Cursor ahead = in; ahead.skip(' ') && ahead.letters(unit)) {
            in = ahead;
            if (unit.starts_with("hour") || unit.starts_with("min") || unit.starts_with("sec") ||
                !add_unit(interval, unit, count, 0, negative))
                return false;
        } else {
            if (in.at_end() || !add(interval.days, count, 1, negative)) return false;
            days_negative = negative;
        }
    } while (in.skip(' '));
    return in.at_end();
}

}  // namespace

Ref decode_time_text(uint32_t type, std::string_view value) {
    if (type == kTime || type == kTimetz) {
        Cursor in(value);
        int64_t us;
        int32_t east = 0;
        if (!read_time(in, us) || (type == kTimetz && !read_zone(in, east)) || !in.at_end())
            return malformed(type, "its text is no time of a day");
        return type == kTime ? time_of(us) : timetz_of(us, east);
    }
    const bool past = value == "-infinity";
    if (past || value == "infinity") {
        const Side side = past ? Side::past : Side::future;
        return type == kDate ? infinite_date(side) : infinite_timestamp(side);
    }
    if (value.ends_with(" BC")) return out_of_range(type == kDate ? "date" : "timestamp");
    return type == kDate ? date_from(value) : timestamp_from(type, value);
}

Ref decode_interval_text(std::string_view value) {
    if (value == "infinity" || value == "-infinity") return endless_interval();
    Interval interval;
    Cursor in(value);
    const bool read = in.skip('P')   ? read_iso_interval(in, interval)
                      : in.skip('@') ? read_verbose_interval(in, interval)
                                     : read_interval(in, interval);
    return read ? interval_of(interval.months, interval.days, interval.us)
                : malformed(kInterval, "its text is no interval");
}

}  // namespace pqpool_python
