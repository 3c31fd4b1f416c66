//! NCRONTAB as the Functions host reads it (NCrontab 3.3.3 through functions-host-protocol, section 7.1): six fields,
//! day and weekday must both match, Sunday is 0 only, a reversed range is swapped.

use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::ambient::after;

/// Years that are searched for the next tick: a 29 February on a given weekday comes within 40.
const MOST_DAYS: i64 = 366 * 41;
const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];
const DAYS: [&str; 7] = ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];

/// A parsed schedule; each field is the sorted list of its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    seconds: Vec<i8>,
    minutes: Vec<i8>,
    hours: Vec<i8>,
    days: Vec<i8>,
    months: Vec<i8>,
    weekdays: Vec<i8>,
}

/// Text that is no schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an NCRONTAB schedule: {reason}")]
pub struct BadSchedule {
    text: String,
    reason: String,
}

impl Schedule {
    /// Reads six fields, or five without the seconds.
    ///
    /// # Errors
    /// [`BadSchedule`].
    pub fn parse(text: &str) -> Result<Self, BadSchedule> {
        let bad = |reason: String| BadSchedule { text: text.to_owned(), reason };
        let mut fields: Vec<&str> = text.split_whitespace().collect();
        if fields.len() == 5 {
            fields.insert(0, "0");
        }
        let [seconds, minutes, hours, days, months, weekdays] = fields.as_slice() else {
            return Err(bad(format!("{} fields instead of six", fields.len())));
        };
        let read = |field: &str, low, high, names: &[&str]| values(field, (low, high), names).map_err(&bad);
        Ok(Self {
            seconds: read(seconds, 0, 59, &[])?,
            minutes: read(minutes, 0, 59, &[])?,
            hours: read(hours, 0, 23, &[])?,
            days: read(days, 1, 31, &[])?,
            months: read(months, 1, 12, &MONTHS)?,
            weekdays: read(weekdays, 0, 6, &DAYS)?,
        })
    }

    /// The first tick strictly after `base`, UTC; `None` for a date that never comes.
    #[must_use]
    pub fn next(&self, base: Timestamp) -> Option<Timestamp> {
        let begin = after(base, Duration::from_secs(1)).to_zoned(TimeZone::UTC).datetime();
        let begin = begin.with().subsec_nanosecond(0).build().ok()?;
        let mut date: Date = begin.date();
        for day in 0..MOST_DAYS {
            if self.on(date) {
                let from = if day == 0 { (begin.hour(), begin.minute(), begin.second()) } else { (0, 0, 0) };
                if let Some((hour, minute, second)) = self.within_day(from) {
                    return date
                        .at(hour, minute, second, 0)
                        .to_zoned(TimeZone::UTC)
                        .ok()
                        .map(|zoned| zoned.timestamp());
                }
            }
            date = date.tomorrow().ok()?;
        }
        None
    }

    /// Whether it fires more often than once a minute; the host keeps no status for such timers.
    #[must_use]
    pub fn is_frequent(&self) -> bool {
        self.seconds.len() > 1
    }

    fn on(&self, date: Date) -> bool {
        self.months.contains(&date.month())
            && self.days.contains(&date.day())
            && self.weekdays.contains(&date.weekday().to_sunday_zero_offset())
    }

    fn within_day(&self, from: (i8, i8, i8)) -> Option<(i8, i8, i8)> {
        let times = self.hours.iter().filter(|hour| **hour >= from.0).flat_map(|hour| {
            self.minutes
                .iter()
                .filter(move |minute| (*hour, **minute) >= (from.0, from.1))
                .map(move |minute| (*hour, *minute))
        });
        times
            .flat_map(|(hour, minute)| self.seconds.iter().map(move |second| (hour, minute, *second)))
            .find(|time| *time >= from)
    }
}

fn values(field: &str, (low, high): (i8, i8), names: &[&str]) -> Result<Vec<i8>, String> {
    let mut found = Vec::new();
    for part in field.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => {
                (range, Some(step.parse::<i8>().map_err(|_| format!("step `{step}`"))?.max(1)))
            }
            None => (part, None),
        };
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (low, high),
            Some((from, to)) => (value(from, names)?, value(to, names)?),
            None => {
                let only = value(range, names)?;
                (only, if step.is_some() { high } else { only })
            }
        };
        let (from, to) = (from.min(to), from.max(to));
        if from < low || to > high {
            return Err(format!("`{part}` is outside {low}-{high}"));
        }
        found.extend((from..=to).step_by(usize::try_from(step.unwrap_or(1)).unwrap_or(1)));
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// A number, or any leading part of a name; the first that fits.
fn value(text: &str, names: &[&str]) -> Result<i8, String> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    let lower = text.to_ascii_lowercase();
    let index = names
        .iter()
        .position(|name| !lower.is_empty() && name.starts_with(&lower))
        .ok_or_else(|| format!("`{text}`"))?;
    let base = i8::from(names.len() == MONTHS.len());
    i8::try_from(index).map(|index| index + base).map_err(|_| format!("`{text}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(schedule: &str, base: &str, next: &str) {
        let schedule = Schedule::parse(schedule).unwrap();
        let base: Timestamp = base.parse().unwrap();
        assert_eq!(
            schedule.next(base).map(|at| at.to_string()),
            (!next.is_empty()).then(|| next.to_owned()),
            "{schedule:?}"
        );
    }

    #[test]
    fn the_next_tick_is_strictly_later() {
        check("0 * * * * *", "2026-11-20T09:15:00Z", "2026-11-20T09:16:00Z");
        check("0 */5 * * * *", "2026-11-20T09:14:59.5Z", "2026-11-20T09:15:00Z");
        check("0 0 3 * * *", "2026-11-20T03:00:00Z", "2026-11-21T03:00:00Z");
        check("0 0 9 * * *", "2026-11-20T08:59:59Z", "2026-11-20T09:00:00Z");
        check("*/7 * * * * *", "2026-11-20T09:00:56Z", "2026-11-20T09:01:00Z");
        check("30 5/10 * * * *", "2026-11-20T09:05:30Z", "2026-11-20T09:15:30Z");
    }

    #[test]
    fn day_and_weekday_must_both_match() {
        check("0 0 0 13 * 5", "2026-11-20T00:00:00Z", "2027-08-13T00:00:00Z");
        check("0 0 0 29 feb *", "2026-11-20T00:00:00Z", "2028-02-29T00:00:00Z");
        check("0 0 0 30 2 *", "2026-11-20T00:00:00Z", "");
        check("0 0 12 * * sun", "2026-11-20T00:00:00Z", "2026-11-22T12:00:00Z");
    }

    #[test]
    fn ranges_names_and_five_fields() {
        assert_eq!(Schedule::parse("0 0 22-2 * * *").unwrap(), Schedule::parse("0 0 2-22 * * *").unwrap());
        assert_eq!(Schedule::parse("0 0 0 * J *").unwrap(), Schedule::parse("0 0 0 * 1 *").unwrap());
        assert_eq!(Schedule::parse("0 0 0 * * T").unwrap(), Schedule::parse("0 0 0 * * 2").unwrap());
        assert_eq!(Schedule::parse("*/5 * * * *").unwrap(), Schedule::parse("0 */5 * * * *").unwrap());
        for bad in [
            "* * * *",
            "0 0 0 * * 7",
            "0 0 0 ? * *",
            "0 0 0 L * *",
            "@daily",
            "0 60 * * * *",
            "0 0 0 0 * *",
            "x * * * * *",
            "0 */x * * * *",
        ] {
            assert!(Schedule::parse(bad).is_err(), "{bad}");
        }
    }
}
