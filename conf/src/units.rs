//! Spans of time and sizes as people write them: `4s`, `64MiB`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A span of time: a whole number and `ms`, `s`, `m` or `h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// A number of bytes: a whole number and `B`, `KiB`, `MiB` or `GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

const SPAN_UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
const SIZE_UNITS: [(&str, u64); 4] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

impl Span {
    /// So many seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

impl Size {
    /// So many MiB.
    pub const fn mebibytes(count: u64) -> Self {
        Self(count << 20)
    }
}

/// A whole number and one of `units`, as the number of the smallest unit.
fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let (_, scale) = units
        .iter()
        .find(|(name, _)| *name == unit.trim_start_matches(' '))?;
    digits.parse::<u64>().ok()?.checked_mul(*scale)
}

/// The largest unit that leaves a whole number.
fn write(f: &mut fmt::Formatter<'_>, count: u64, units: &[(&str, u64)]) -> fmt::Result {
    let mut fitting = units
        .iter()
        .filter(|(_, scale)| count.is_multiple_of(*scale));
    match fitting.next() {
        Some((unit, scale)) if count > 0 => write!(f, "{}{unit}", count / scale),
        _ => write!(f, "0{}", units.last().map_or("", |(unit, _)| unit)),
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(
            f,
            u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX),
            &SPAN_UNITS,
        )
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(f, self.0, &SIZE_UNITS)
    }
}

/// The text is not a span of time.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("a span of time is written such as 250ms, 4s, 10m or 24h")]
pub struct SpanError;

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, SpanError> {
        parse(text, &SPAN_UNITS)
            .map(|ms| Self(Duration::from_millis(ms)))
            .ok_or(SpanError)
    }
}

impl From<Span> for Duration {
    fn from(span: Span) -> Self {
        span.0
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Written {
            expected: "a span of time such as \"250ms\", \"4s\", \"10m\" or \"24h\"",
            parse: |text| text.parse().ok(),
        })
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Written {
            expected: "a size such as \"16KiB\", \"64MiB\" or \"1GiB\"",
            parse: |text| parse(text, &SIZE_UNITS).map(Self),
        })
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Reads a string by `parse`, and says what was `expected` of anything else.
pub(crate) struct Written<T> {
    pub(crate) expected: &'static str,
    pub(crate) parse: fn(&str) -> Option<T>,
}

impl<T> de::Visitor<'_> for Written<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(text: &str) -> Option<Duration> {
        parse(text, &SPAN_UNITS).map(Duration::from_millis)
    }

    #[test]
    fn spans() {
        assert_eq!(span("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(span("4s"), Some(Duration::from_secs(4)));
        assert_eq!(span("10 m"), Some(Duration::from_secs(600)));
        assert_eq!(span("24h"), Some(Duration::from_secs(86_400)));
        for bad in [
            "",
            "4",
            "s",
            "-4s",
            "4.5s",
            "4 sec",
            "4S",
            "99999999999999999999s",
            "9999999999999999h",
        ] {
            assert_eq!(span(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(parse("16KiB", &SIZE_UNITS), Some(16_384));
        assert_eq!(parse("2GiB", &SIZE_UNITS), Some(2 << 30));
        for bad in ["", "16", "16kb", "16MB", "1.5MiB", "99999999999GiB"] {
            assert_eq!(parse(bad, &SIZE_UNITS), None, "{bad}");
        }
    }

    #[test]
    fn written_in_the_largest_whole_unit() {
        assert_eq!(Span::seconds(7200).to_string(), "2h");
        assert_eq!(Span(Duration::from_millis(1500)).to_string(), "1500ms");
        assert_eq!(Span::seconds(0).to_string(), "0ms");
        assert_eq!(Size::mebibytes(1024).to_string(), "1GiB");
        assert_eq!(Size(1000).to_string(), "1000B");
    }
}
