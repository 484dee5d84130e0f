//! Dates, times and durations as moment.js writes them, in English.
//!
//! Source: the format tokens and `humanize` thresholds in moment.js's documentation.

use chrono::{DateTime, Datelike, FixedOffset, TimeDelta, Timelike};
use std::fmt::Write;

/// Longest first, so that the first that fits is the right one.
const TOKENS: &[&str] = &[
    "YYYY", "MMMM", "DDDD", "dddd", "LLLL", "MMM", "DDD", "ddd", "LTS", "LLL", "SSS", "YY", "MM",
    "Mo", "DD", "Do", "dd", "do", "HH", "hh", "kk", "mm", "ss", "SS", "LT", "LL", "WW", "ww", "ZZ",
    "Y", "M", "D", "d", "E", "e", "H", "h", "k", "m", "s", "S", "A", "a", "L", "W", "w", "Q", "Z",
    "X", "x",
];

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

const WEEKDAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// A time in a pattern of moment.js; text in `[brackets]` and unknown letters stay.
pub(super) fn format(now: &DateTime<FixedOffset>, pattern: &str) -> String {
    let mut out = String::new();
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        if let Some((literal, after)) = rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
            out.push_str(literal);
            rest = after;
        } else if let Some(token) = TOKENS.iter().find(|token| rest.starts_with(**token)) {
            push_token(&mut out, now, token);
            rest = &rest[token.len()..];
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    out
}

/// The same moment at an offset in hours from UTC, such as `+2`, `-4` or `+5:30`.
/// None if it is no offset.
pub(super) fn at_offset(
    now: &DateTime<FixedOffset>,
    offset: &str,
) -> Option<DateTime<FixedOffset>> {
    let (sign, digits) = match offset.trim().split_at_checked(1)? {
        ("-", digits) => (-1, digits),
        ("+", digits) => (1, digits),
        _ => return None,
    };
    let (hours, minutes) = digits.split_once(':').unwrap_or((digits, "0"));
    let (hours, minutes) = (hours.parse::<i32>().ok()?, minutes.parse::<i32>().ok()?);
    if !(0..=14).contains(&hours) || !(0..60).contains(&minutes) {
        return None;
    }
    Some(now.with_timezone(&FixedOffset::east_opt(sign * (hours * 3600 + minutes * 60))?))
}

/// A duration in words; "just now" if there is none.
pub(super) fn humanize(duration: Option<TimeDelta>) -> String {
    let Some(duration) = duration else {
        return "just now".to_owned();
    };
    // Each unit is rounded from the one before it, as moment.js does.
    let seconds = duration.num_seconds().unsigned_abs() as f64;
    let minutes = (seconds / 60.0).round();
    let hours = (seconds / 3600.0).round();
    let days = (seconds / 86_400.0).round();
    let months = (seconds / 86_400.0 / (146_097.0 / 4800.0)).round(); // mean Gregorian month
    let years = (seconds / 86_400.0 / 365.2425).round();
    match () {
        () if seconds < 45.0 => "a few seconds".to_owned(),
        () if minutes <= 1.0 => "a minute".to_owned(),
        () if minutes < 45.0 => format!("{minutes} minutes"),
        () if hours <= 1.0 => "an hour".to_owned(),
        () if hours < 22.0 => format!("{hours} hours"),
        () if days <= 1.0 => "a day".to_owned(),
        () if days < 26.0 => format!("{days} days"),
        () if months <= 1.0 => "a month".to_owned(),
        () if months < 11.0 => format!("{months} months"),
        () if years <= 1.0 => "a year".to_owned(),
        () => format!("{years} years"),
    }
}

fn push_token(out: &mut String, now: &DateTime<FixedOffset>, token: &str) {
    let month = MONTHS[now.month0() as usize];
    let weekday_number = now.weekday().num_days_from_sunday();
    let weekday = WEEKDAYS[weekday_number as usize];
    let (afternoon, hour12) = now.hour12();
    let offset = now.offset().local_minus_utc();
    let sign = if offset < 0 { '-' } else { '+' };
    let (zone_hours, zone_minutes) = (offset.abs() / 3600, offset.abs() / 60 % 60);
    let iso_week = now.iso_week().week();
    // Weeks that begin on Sunday; January 1 is always in the first.
    let first_weekday = (weekday_number + 7 * 53 - now.ordinal0()) % 7;
    let week = (now.ordinal0() + first_weekday) / 7 + 1;
    let milliseconds = now.timestamp_subsec_millis();
    let result = match token {
        "YYYY" => write!(out, "{:04}", now.year()),
        "YY" => write!(out, "{:02}", now.year().rem_euclid(100)),
        "Y" => write!(out, "{}", now.year()),
        "Q" => write!(out, "{}", now.month0() / 3 + 1),
        "MMMM" => write!(out, "{month}"),
        "MMM" => write!(out, "{}", &month[..3]),
        "MM" => write!(out, "{:02}", now.month()),
        "Mo" => write!(out, "{}", ordinal(now.month())),
        "M" => write!(out, "{}", now.month()),
        "DDDD" => write!(out, "{:03}", now.ordinal()),
        "DDD" => write!(out, "{}", now.ordinal()),
        "DD" => write!(out, "{:02}", now.day()),
        "Do" => write!(out, "{}", ordinal(now.day())),
        "D" => write!(out, "{}", now.day()),
        "dddd" => write!(out, "{weekday}"),
        "ddd" => write!(out, "{}", &weekday[..3]),
        "dd" => write!(out, "{}", &weekday[..2]),
        "do" => write!(out, "{}", ordinal(weekday_number)),
        "d" | "e" => write!(out, "{weekday_number}"),
        "E" => write!(out, "{}", now.weekday().number_from_monday()),
        "WW" => write!(out, "{iso_week:02}"),
        "W" => write!(out, "{iso_week}"),
        "ww" => write!(out, "{week:02}"),
        "w" => write!(out, "{week}"),
        "HH" => write!(out, "{:02}", now.hour()),
        "H" => write!(out, "{}", now.hour()),
        "hh" => write!(out, "{hour12:02}"),
        "h" => write!(out, "{hour12}"),
        "kk" => write!(out, "{:02}", (now.hour() + 23) % 24 + 1),
        "k" => write!(out, "{}", (now.hour() + 23) % 24 + 1),
        "mm" => write!(out, "{:02}", now.minute()),
        "m" => write!(out, "{}", now.minute()),
        "ss" => write!(out, "{:02}", now.second()),
        "s" => write!(out, "{}", now.second()),
        "SSS" => write!(out, "{milliseconds:03}"),
        "SS" => write!(out, "{:02}", milliseconds / 10),
        "S" => write!(out, "{}", milliseconds / 100),
        "A" => write!(out, "{}", if afternoon { "PM" } else { "AM" }),
        "a" => write!(out, "{}", if afternoon { "pm" } else { "am" }),
        "Z" => write!(out, "{sign}{zone_hours:02}:{zone_minutes:02}"),
        "ZZ" => write!(out, "{sign}{zone_hours:02}{zone_minutes:02}"),
        "X" => write!(out, "{}", now.timestamp()),
        "x" => write!(out, "{}", now.timestamp_millis()),
        "LT" => return out.push_str(&format(now, "h:mm A")),
        "LTS" => return out.push_str(&format(now, "h:mm:ss A")),
        "L" => return out.push_str(&format(now, "MM/DD/YYYY")),
        "LL" => return out.push_str(&format(now, "MMMM D, YYYY")),
        "LLL" => return out.push_str(&format(now, "MMMM D, YYYY h:mm A")),
        "LLLL" => return out.push_str(&format(now, "dddd, MMMM D, YYYY h:mm A")),
        other => write!(out, "{other}"),
    };
    result.expect("writing to a string does not fail");
}

fn ordinal(number: u32) -> String {
    let suffix = match (number % 10, number % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{number}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<FixedOffset> {
        DateTime::parse_from_rfc3339(text).unwrap()
    }

    #[test]
    fn tokens_follow_moment() {
        let now = at("2024-10-05T18:04:09.123+02:00");
        for (pattern, expected) in [
            ("LT", "6:04 PM"),
            ("LL", "October 5, 2024"),
            ("LLLL", "Saturday, October 5, 2024 6:04 PM"),
            ("DD.MM.YYYY HH:mm:ss", "05.10.2024 18:04:09"),
            ("ddd Do MMM YY, h a", "Sat 5th Oct 24, 6 pm"),
            ("[Today is] dddd", "Today is Saturday"),
            ("YYYY年M月D日", "2024年10月5日"),
            ("DDD DDDD Q E d k", "279 279 4 6 6 18"),
            ("W w", "40 40"),
            ("Z ZZ X SSS", "+02:00 +0200 1728144249 123"),
            ("[YYYY", "[2024"),
        ] {
            assert_eq!(format(&now, pattern), expected, "{pattern}");
        }
    }

    #[test]
    fn noon_midnight_and_ordinals() {
        assert_eq!(format(&at("2024-01-01T00:05:00Z"), "LT H k Do w"), "12:05 AM 0 24 1st 1");
        assert_eq!(format(&at("2024-03-12T12:05:00Z"), "LT Do"), "12:05 PM 12th");
        assert_eq!(format(&at("2024-03-23T12:05:00Z"), "Do"), "23rd");
    }

    #[test]
    fn offsets() {
        let now = at("2024-10-05T18:04:00+02:00");
        let time = |offset: &str| at_offset(&now, offset).map(|then| format(&then, "HH:mm"));
        assert_eq!(time("+0").as_deref(), Some("16:04"));
        assert_eq!(time("-4").as_deref(), Some("12:04"));
        assert_eq!(time("+5:30").as_deref(), Some("21:34"));
        for bad in ["", "2", "+99", "+x", "-4:99", "é"] {
            assert_eq!(time(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations_in_words() {
        let words = |seconds| humanize(Some(TimeDelta::seconds(seconds)));
        for (seconds, expected) in [
            (3, "a few seconds"),
            (60, "a minute"),
            (300, "5 minutes"),
            (3600, "an hour"),
            (7 * 3600, "7 hours"),
            (86_400, "a day"),
            (10 * 86_400, "10 days"),
            (30 * 86_400, "a month"),
            (100 * 86_400, "3 months"),
            (400 * 86_400, "a year"),
            (1200 * 86_400, "3 years"),
        ] {
            assert_eq!(words(seconds), expected);
        }
        assert_eq!(humanize(None), "just now");
    }
}
