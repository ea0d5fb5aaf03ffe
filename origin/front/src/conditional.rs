//! Conditional requests and ranges (RFC 9110 sections 13 and 14), judged by values alone.
//!
//! Only what a resource with a strong ETag and no modification date needs: `If-Modified-Since`,
//! `If-Unmodified-Since` and dates in `If-Range` never match, as RFC 9110 13.1.3 to 13.1.5 ask of such a resource.

use std::ops::Range;

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

/// What to answer with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// 200 with everything.
    Whole,
    /// 206 with these bytes, of which there is at least one.
    Part(Range<u64>),
    /// 304: the client's copy is current.
    NotModified,
    /// 412: the client wanted something else.
    PreconditionFailed,
    /// 416: no byte of the range exists.
    Unsatisfiable,
}

/// Judges a request for a representation of `len` bytes with the strong entity tag `etag` (quotes included), in
/// the order of RFC 9110 13.2.2.
pub fn judge(method: &Method, headers: &HeaderMap, etag: &HeaderValue, len: u64) -> Verdict {
    let reads = method == Method::GET || method == Method::HEAD;
    if headers.contains_key(header::IF_MATCH)
        && !lists(headers, header::IF_MATCH, etag, Comparison::Strong)
    {
        return Verdict::PreconditionFailed;
    }
    if lists(headers, header::IF_NONE_MATCH, etag, Comparison::Weak) {
        return if reads {
            Verdict::NotModified
        } else {
            Verdict::PreconditionFailed
        };
    }
    // RFC 9110 14.2: ranges are defined for GET only; a HEAD is answered as for the whole.
    if method != Method::GET || !if_range_holds(headers, etag) {
        return Verdict::Whole;
    }
    match single_range(headers) {
        None => Verdict::Whole,
        Some(range) => match range.within(len) {
            Some(bytes) => Verdict::Part(bytes),
            None => Verdict::Unsatisfiable,
        },
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Comparison {
    /// RFC 9110 8.8.3.2: neither tag is weak.
    Strong,
    /// The opaque parts are equal.
    Weak,
}

/// Whether a list of entity tags, possibly spread over several lines, names this one or is `*`.
fn lists(
    headers: &HeaderMap,
    name: HeaderName,
    etag: &HeaderValue,
    comparison: Comparison,
) -> bool {
    headers.get_all(name).iter().any(|line| {
        let mut rest = line.as_bytes();
        if rest.trim_ascii() == b"*" {
            return true;
        }
        // Commas may stand inside a tag, so tags are read by their quotes.
        while let Some((weak, tag, after)) = next_tag(rest) {
            if tag == etag.as_bytes() && !(weak && comparison == Comparison::Strong) {
                return true;
            }
            rest = after;
        }
        false
    })
}

/// Splits off the first entity tag: whether it is weak, the tag with its quotes, and what follows.
fn next_tag(list: &[u8]) -> Option<(bool, &[u8], &[u8])> {
    let start = list
        .iter()
        .position(|byte| !matches!(byte, b' ' | b'\t' | b','))?;
    let list = &list[start..];
    let (weak, tag) = match list.strip_prefix(b"W/") {
        Some(tag) => (true, tag),
        None => (false, list),
    };
    let inner = tag.strip_prefix(b"\"")?;
    let end = inner.iter().position(|&byte| byte == b'"')? + 2;
    Some((weak, &tag[..end], &tag[end..]))
}

/// RFC 9110 13.1.5: a range is honoured only if the tag is the very same and strong.
fn if_range_holds(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    match headers.get(header::IF_RANGE) {
        None => true,
        Some(condition) => condition.as_bytes().trim_ascii() == etag.as_bytes(),
    }
}

/// One `range-spec` of RFC 9110 14.1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ByteRange {
    /// `first-` and `first-last`, both inclusive.
    From { first: u64, last: Option<u64> },
    /// `-length`: the last bytes.
    Suffix { length: u64 },
}

impl ByteRange {
    fn within(self, len: u64) -> Option<Range<u64>> {
        let bytes = match self {
            Self::From { first, last } => {
                let end = last.map_or(len, |last| last.saturating_add(1).min(len));
                first..end
            }
            Self::Suffix { length } => len.saturating_sub(length)..len,
        };
        (!bytes.is_empty()).then_some(bytes)
    }
}

/// The range asked for, if it is a single valid one in bytes. RFC 9110 14.2 lets a server ignore any `Range`; we
/// ignore other units, malformed ranges and, since no player needs multipart, sets of several.
fn single_range(headers: &HeaderMap) -> Option<ByteRange> {
    let mut lines = headers.get_all(header::RANGE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return None;
    };
    let (unit, set) = line.to_str().ok()?.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") || set.contains(',') {
        return None;
    }
    let (first, last) = set.trim().split_once('-')?;
    match (first, last) {
        ("", length) => Some(ByteRange::Suffix {
            length: position(length)?,
        }),
        (first, "") => Some(ByteRange::From {
            first: position(first)?,
            last: None,
        }),
        (first, last) => {
            let (first, last) = (position(first)?, position(last)?);
            (first <= last).then_some(ByteRange::From {
                first,
                last: Some(last),
            })
        }
    }
}

/// A position or length: digits only. One beyond 64 bits is beyond every file, so it stays at the largest.
fn position(digits: &str) -> Option<u64> {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETAG: &str = "\"abc\"";

    fn verdict(method: Method, fields: &[(HeaderName, &str)], len: u64) -> Verdict {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        judge(&method, &headers, &HeaderValue::from_static(ETAG), len)
    }

    fn range(value: &str, len: u64) -> Verdict {
        verdict(Method::GET, &[(header::RANGE, value)], len)
    }

    #[test]
    fn ranges_of_a_hundred_bytes() {
        let part = Verdict::Part;
        for (value, expected) in [
            ("bytes=0-0", part(0..1)),
            ("bytes=0-99", part(0..100)),
            ("bytes=10-19", part(10..20)),
            ("bytes=90-", part(90..100)),
            ("bytes=90-1000", part(90..100)),
            ("bytes=-1", part(99..100)),
            ("bytes=-100", part(0..100)),
            ("bytes=-101", part(0..100)),
            ("BYTES=5-6", part(5..7)),
            ("bytes= 5-6", part(5..7)),
            // Digits beyond 64 bits are beyond the end, not malformed.
            ("bytes=0-99999999999999999999999", part(0..100)),
            ("bytes=-99999999999999999999999", part(0..100)),
            ("bytes=0-18446744073709551615", part(0..100)),
            ("bytes=99999999999999999999999-", Verdict::Unsatisfiable),
            ("bytes=100-", Verdict::Unsatisfiable),
            ("bytes=100-200", Verdict::Unsatisfiable),
            ("bytes=-0", Verdict::Unsatisfiable),
            // Not ranges at all: ignored.
            ("bytes=19-10", Verdict::Whole),
            ("bytes=-", Verdict::Whole),
            ("bytes=", Verdict::Whole),
            ("bytes", Verdict::Whole),
            ("bytes=a-b", Verdict::Whole),
            ("bytes=+1-2", Verdict::Whole),
            ("bytes=1-2-3", Verdict::Whole),
            ("bytes=1 - 2", Verdict::Whole),
            ("bytes=--1", Verdict::Whole),
            ("items=0-1", Verdict::Whole),
            ("", Verdict::Whole),
        ] {
            assert_eq!(range(value, 100), expected, "{value}");
        }
    }

    #[test]
    fn several_ranges_get_the_whole() {
        assert_eq!(range("bytes=0-1,4-5", 100), Verdict::Whole);
        assert_eq!(range("bytes=500-,600-", 100), Verdict::Whole);
        let thousand = format!("bytes={}", vec!["0-9"; 1000].join(","));
        assert_eq!(range(&thousand, 100), Verdict::Whole);
        let two_lines = [(header::RANGE, "bytes=0-1"), (header::RANGE, "bytes=4-5")];
        assert_eq!(verdict(Method::GET, &two_lines, 100), Verdict::Whole);
    }

    #[test]
    fn nothing_of_nothing_is_satisfiable() {
        for value in ["bytes=0-", "bytes=0-0", "bytes=-1"] {
            assert_eq!(range(value, 0), Verdict::Unsatisfiable, "{value}");
        }
    }

    #[test]
    fn a_range_of_a_head_is_ignored() {
        let fields = [(header::RANGE, "bytes=0-1")];
        assert_eq!(verdict(Method::HEAD, &fields, 100), Verdict::Whole);
    }

    #[test]
    fn if_range_takes_the_same_strong_tag_only() {
        for (condition, expected) in [
            (ETAG, Verdict::Part(0..2)),
            ("\"abd\"", Verdict::Whole),
            ("W/\"abc\"", Verdict::Whole),
            ("abc", Verdict::Whole),
            ("*", Verdict::Whole),
            ("Sat, 29 Oct 1994 19:43:31 GMT", Verdict::Whole),
        ] {
            let fields = [(header::RANGE, "bytes=0-1"), (header::IF_RANGE, condition)];
            assert_eq!(verdict(Method::GET, &fields, 100), expected, "{condition}");
        }
        // A failed If-Range hides even an unsatisfiable range.
        let fields = [(header::RANGE, "bytes=100-"), (header::IF_RANGE, "\"x\"")];
        assert_eq!(verdict(Method::GET, &fields, 100), Verdict::Whole);
    }

    #[test]
    fn if_none_match_compares_weakly() {
        for (condition, matches) in [
            (ETAG, true),
            ("W/\"abc\"", true),
            ("*", true),
            (" * ", true),
            ("\"x\", \"abc\"", true),
            ("\"x,\\\", W/\"abc\"", true),
            ("\"x\" , ,\"y\"", false),
            ("abc", false),
            ("\"abc", false),
            ("\"ABC\"", false),
            ("", false),
        ] {
            let fields = [(header::IF_NONE_MATCH, condition)];
            let expected = |hit| if matches { hit } else { Verdict::Whole };
            assert_eq!(
                verdict(Method::GET, &fields, 100),
                expected(Verdict::NotModified),
                "{condition}"
            );
            assert_eq!(
                verdict(Method::HEAD, &fields, 100),
                expected(Verdict::NotModified),
                "{condition}"
            );
            assert_eq!(
                verdict(Method::POST, &fields, 100),
                expected(Verdict::PreconditionFailed),
                "{condition}"
            );
        }
    }

    #[test]
    fn if_match_compares_strongly() {
        for (condition, expected) in [
            (ETAG, Verdict::Whole),
            ("*", Verdict::Whole),
            ("\"x\", \"abc\"", Verdict::Whole),
            ("W/\"abc\"", Verdict::PreconditionFailed),
            ("\"x\"", Verdict::PreconditionFailed),
            ("", Verdict::PreconditionFailed),
        ] {
            let fields = [(header::IF_MATCH, condition)];
            assert_eq!(verdict(Method::GET, &fields, 100), expected, "{condition}");
        }
    }

    #[test]
    fn conditions_are_judged_in_order() {
        // If-Match before If-None-Match before Range.
        let fields = [
            (header::IF_MATCH, "\"x\""),
            (header::IF_NONE_MATCH, ETAG),
            (header::RANGE, "bytes=500-"),
        ];
        assert_eq!(
            verdict(Method::GET, &fields, 100),
            Verdict::PreconditionFailed
        );
        assert_eq!(
            verdict(Method::GET, &fields[1..], 100),
            Verdict::NotModified
        );
        assert_eq!(
            verdict(Method::GET, &fields[2..], 100),
            Verdict::Unsatisfiable
        );
    }
}
