//! `ContentKeyPeriod`: when a key is used.

/// A key period. How it is bounded is one of four pairs, or left to the encryptor, which then counts by `index` or
/// names it by `label`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Period {
    /// `@id`, which a usage rule's `KeyPeriodFilter` names.
    pub id: Option<String>,
    /// `@index`.
    pub index: Option<u32>,
    /// `@label`.
    pub label: Option<String>,
    /// `@start`: `xs:dateTime`, for live content.
    pub start: Option<String>,
    /// `@end`, not included.
    pub end: Option<String>,
    /// `@startOffset`: `xs:duration`, for content on demand.
    pub start_offset: Option<String>,
    /// `@endOffset`, not included.
    pub end_offset: Option<String>,
    /// `@duration`, in place of either end.
    pub duration: Option<String>,
}

impl Period {
    /// What is wrong with the bounds, and with which attribute.
    pub(crate) fn check(&self) -> Result<(), (&'static str, &'static str)> {
        let date_times = [("start", &self.start), ("end", &self.end)];
        for (name, value) in date_times {
            if value
                .as_deref()
                .is_some_and(|text| seconds_of_date_time(text).is_none())
            {
                return Err((name, "a date and time is written as 2026-01-31T12:00:00Z"));
            }
        }
        let durations = [
            ("startOffset", &self.start_offset),
            ("endOffset", &self.end_offset),
            ("duration", &self.duration),
        ];
        for (name, value) in durations {
            if value
                .as_deref()
                .is_some_and(|text| millis_of_duration(text).is_none())
            {
                return Err((
                    name,
                    "a duration is written as P1DT2H3M4.5S, without years and months",
                ));
            }
        }
        let bounds = [
            self.start.is_some(),
            self.end.is_some(),
            self.start_offset.is_some(),
            self.end_offset.is_some(),
            self.duration.is_some(),
        ];
        match bounds {
            [false, false, false, false, false]
            | [true, false, false, false, true]
            | [false, false, true, false, true] => Ok(()),
            [true, true, false, false, false] => {
                let both =
                    [&self.start, &self.end].map(|it| it.as_deref().and_then(seconds_of_date_time));
                in_order(both).ok_or(("end", "the period ends after it starts"))
            }
            [false, false, true, true, false] => {
                let both = [&self.start_offset, &self.end_offset];
                let both = both.map(|it| it.as_deref().and_then(millis_of_duration));
                in_order(both).ok_or(("endOffset", "the period ends after it starts"))
            }
            _ => Err((
                "start",
                "a period has start and end, start and duration, startOffset and endOffset, startOffset and \
                 duration, or none of them",
            )),
        }
    }
}

fn in_order<T: PartialOrd>([start, end]: [Option<T>; 2]) -> Option<()> {
    (start? < end?).then_some(())
}

/// What an `xs:dateTime` says, in seconds of the Unix epoch and nanoseconds: a decimal pair, so that fractions of any length
/// compare. Without a time zone it counts as UTC. None: it is no date and time.
pub fn seconds_of_date_time(text: &str) -> Option<(i64, u32)> {
    let (date, time) = text.split_once('T')?;
    let [year, month, day] = numbers(date, '-')?;
    let (time, zone_minutes) = split_zone(time)?;
    let (time, fraction) = match time.split_once('.') {
        Some((time, fraction)) => (time, nanos(fraction)?),
        None => (time, 0),
    };
    let [hour, minute, second] = numbers(time, ':')?;
    let widths = [(date, [4, 2, 2], '-'), (time, [2, 2, 2], ':')];
    let wide = widths.iter().all(|(text, widths, between)| {
        text.split(*between)
            .zip(widths)
            .all(|(part, width)| part.len() == *width)
    });
    if !wide || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return None,
    };
    if !(1..=last).contains(&day) {
        return None;
    }
    // Days since 1970-01-01, in years that begin with March, so that the leap day is the last one.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let days = days + (153 * month + 2) / 5 + day - 1 - 719_468;
    let minutes = (days * 24 + hour) * 60 + minute - zone_minutes;
    Some((minutes * 60 + second, fraction))
}

/// `Z`, `+02:00`, or nothing.
fn split_zone(time: &str) -> Option<(&str, i64)> {
    if let Some(time) = time.strip_suffix('Z') {
        return Some((time, 0));
    }
    let Some(at) = time.find(['+', '-']) else {
        return Some((time, 0));
    };
    let (time, zone) = time.split_at(at);
    let (sign, zone) = zone.split_at(1);
    let [hours, minutes] = numbers(zone, ':')?;
    let offset = hours * 60 + minutes;
    let fits = zone.len() == 5 && minutes < 60 && offset <= 14 * 60;
    fits.then_some((time, if sign == "-" { -offset } else { offset }))
}

/// `[-]PnDTnHnMn.nS` in milliseconds.
fn millis_of_duration(text: &str) -> Option<u64> {
    let rest = text.strip_prefix('P')?;
    let (days, time) = match rest.split_once('T') {
        Some((days, time)) if !time.is_empty() => (days, time),
        Some(_) => return None,
        None if rest.is_empty() => return None,
        None => (rest, ""),
    };
    let mut millis = 0_u64;
    let mut add = |number: &str, unit: u64| {
        let number: u64 = digits(number)?.parse().ok()?;
        millis = millis.checked_add(number.checked_mul(unit)?)?;
        Some(())
    };
    if !days.is_empty() {
        add(days.strip_suffix('D')?, 86_400_000)?;
    }
    let mut rest = time;
    for (unit, len) in [('H', 3_600_000), ('M', 60_000)] {
        if let Some((number, tail)) = rest.split_once(unit) {
            add(number, len)?;
            rest = tail;
        }
    }
    if !rest.is_empty() {
        let number = rest.strip_suffix('S')?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        add(whole, 1000)?;
        let nanos = nanos(fraction)?;
        millis = millis.checked_add(u64::from(nanos / 1_000_000))?;
    }
    Some(millis)
}

fn numbers<const N: usize>(text: &str, between: char) -> Option<[i64; N]> {
    let mut parts = text.split(between);
    let mut numbers = [0; N];
    for number in &mut numbers {
        *number = digits(parts.next()?)?.parse().ok()?;
    }
    parts.next().is_none().then_some(numbers)
}

fn digits(text: &str) -> Option<&str> {
    (!text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit())).then_some(text)
}

/// The digits behind a decimal point; what is beyond nanoseconds is dropped.
fn nanos(fraction: &str) -> Option<u32> {
    let digits = digits(fraction)?;
    let nine: String = digits.chars().chain("000000000".chars()).take(9).collect();
    nine.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn date_times() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", (0, 0)),
            ("1969-12-31T23:59:59Z", (-1, 0)),
            ("2000-02-29T12:00:00.5Z", (951_825_600, 500_000_000)),
            ("2024-12-31T23:59:59+01:30", (1_735_684_199, 0)),
            ("2026-11-28T17:40:33-05:00", (1_795_905_633, 0)),
            ("2026-11-28T17:40:33", (1_795_887_633, 0)),
        ] {
            assert_eq!(seconds_of_date_time(text), Some(seconds), "{text}");
        }
        for text in [
            "",
            "T",
            "2026-11-28",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "26-01-01T00:00:00Z",
            "2026-1-01T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:60:00Z",
            "2026-01-01T00:00:60Z",
            "2026-01-01T00:00Z",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00+15:00",
            "2026-01-01T00:00:00+1:00",
            "-2026-01-01T00:00:00Z",
            "2026-01-01T+0:00:00Z",
        ] {
            assert_eq!(seconds_of_date_time(text), None, "{text}");
        }
    }

    #[test]
    fn durations() {
        for (text, millis) in [
            ("PT0S", 0),
            ("P1D", 86_400_000),
            ("P1DT2H3M4.5678S", 93_784_567),
            ("PT90M", 5_400_000),
        ] {
            assert_eq!(millis_of_duration(text), Some(millis), "{text}");
        }
        for text in [
            "",
            "P",
            "PT",
            "P1DT",
            "1D",
            "P1Y",
            "P1M",
            "-P1D",
            "PT1S1M",
            "PT1.S",
            "PT.5S",
            "PT+1S",
            "PT18446744073709551615H",
        ] {
            assert_eq!(millis_of_duration(text), None, "{text}");
        }
    }

    #[test]
    fn only_four_pairs_bound_a_period() {
        let (time, later) = ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00.1Z");
        let valid = [0b00000, 0b00011, 0b10001, 0b01100, 0b10100];
        for bounds in 0_u8..32 {
            let given = |bit: u8, text: &str| (bounds >> bit & 1 == 1).then(|| text.to_owned());
            let period = Period {
                start: given(0, time),
                end: given(1, later),
                start_offset: given(2, "PT1S"),
                end_offset: given(3, "PT1.5S"),
                duration: given(4, "PT1H"),
                ..Period::default()
            };
            assert_eq!(
                period.check().is_ok(),
                valid.contains(&bounds),
                "{bounds:05b}"
            );
        }
        let backwards = Period {
            start: Some(later.to_owned()),
            end: Some(time.to_owned()),
            ..Period::default()
        };
        assert_eq!(
            backwards.check(),
            Err(("end", "the period ends after it starts"))
        );
    }
}
