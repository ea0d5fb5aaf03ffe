//! Which responses of a connection go first (RFC 9218).
//!
//! The client's `Priority` field orders first; where it says nothing or the same of two requests, as browsers do of
//! all that a script fetches, the service's own [`Urgency`] decides. RFC 9218 8 leaves the merging to the server. A
//! client that does put one request before another knows what it waits for; only among what it holds equal does the
//! kind of resource tell more.
//!
//! Only HTTP/3 acts upon it: HTTP/1.1 has one response at a time, and hyper shares an HTTP/2 connection evenly.

use http::HeaderMap;

/// How soon a response is wanted (RFC 9218 4.1): 0 first, 7 last, 3 where nobody said. As a response extension it is
/// the service's own opinion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Urgency(u8);

impl Urgency {
    /// What is wanted last.
    const LAST: u8 = 7;

    /// This level; above 7 the same as 7.
    pub const fn of(level: u8) -> Self {
        Self(if level > Self::LAST {
            Self::LAST
        } else {
            level
        })
    }
}

impl Default for Urgency {
    fn default() -> Self {
        Self(3)
    }
}

/// What a request asks for (RFC 9218 4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Priority {
    urgency: Urgency,
    /// Whether a part of the response is of use, so that responses may share the connection.
    incremental: bool,
}

impl Priority {
    /// What this head asks for. A field that cannot be parsed is as if absent, and so is a member of a type or range
    /// that it must not have (RFC 9218 4).
    pub(crate) fn asked(headers: &HeaderMap) -> Self {
        let mut lines = headers.get_all("priority").iter();
        match (lines.next(), lines.next()) {
            (None, _) => Self::default(),
            (Some(line), None) => Self::parse(line.as_bytes()),
            // One field on several lines is joined by commas (RFC 9651 4.2).
            (Some(_), Some(_)) => {
                let lines: Vec<_> = headers.get_all("priority").iter().collect();
                let lines: Vec<_> = lines.iter().map(|line| line.as_bytes()).collect();
                Self::parse(&lines.join(&b','))
            }
        }
    }

    fn parse(field: &[u8]) -> Self {
        let mut priority = Self::default();
        let whole = Scanner(field).dictionary(|key, value| match (key, value) {
            // The last of several counts (RFC 9651 4.2.2).
            (b"u", value) => {
                priority.urgency = match value {
                    Value::Integer(Some(level @ 0..=Urgency::LAST)) => Urgency::of(level),
                    Value::Integer(_) | Value::Boolean(_) | Value::Other => Urgency::default(),
                };
            }
            (b"i", value) => priority.incremental = value == Value::Boolean(true),
            _ => {}
        });
        match whole {
            Some(()) => priority,
            None => Self::default(),
        }
    }
}

/// Where a response stands among those of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Precedence {
    /// The lower goes first: the client's opinion in the upper three bits, the service's in the lower.
    pub(crate) rank: u8,
    /// Whether it takes turns with its equals, instead of going before those that were asked for later.
    pub(crate) shares: bool,
}

impl Precedence {
    /// The client's wish, refined by what the service thinks.
    pub(crate) fn of(asked: Priority, own: Urgency) -> Self {
        Self {
            rank: asked.urgency.0 << 3 | own.0,
            shares: asked.incremental,
        }
    }
}

/// A value of a dictionary, as far as priorities need it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Value {
    /// None for what no level can be.
    Integer(Option<u8>),
    Boolean(bool),
    Other,
}

/// What is left of a structured field (RFC 9651 4.2). Every method takes what it reads, or nothing fits and the
/// field is malformed.
struct Scanner<'a>(&'a [u8]);

impl<'a> Scanner<'a> {
    /// Tells every member of a dictionary, whose parameters are of no interest.
    fn dictionary(mut self, mut tell: impl FnMut(&'a [u8], Value)) -> Option<()> {
        self.take_while(|byte| byte == b' ');
        if self.0.is_empty() {
            return Some(());
        }
        loop {
            let key = self.key()?;
            let value = if self.take(b'=') {
                self.member()?
            } else {
                Value::Boolean(true)
            };
            self.parameters()?;
            tell(key, value);
            self.take_while(|byte| matches!(byte, b' ' | b'\t'));
            if self.0.is_empty() {
                return Some(());
            }
            if !self.take(b',') {
                return None;
            }
            self.take_while(|byte| matches!(byte, b' ' | b'\t'));
        }
    }

    fn take(&mut self, wanted: u8) -> bool {
        match self.0.split_first() {
            Some((first, rest)) if *first == wanted => {
                self.0 = rest;
                true
            }
            Some(_) | None => false,
        }
    }

    fn take_while(&mut self, holds: impl Fn(u8) -> bool) -> &'a [u8] {
        let len = self.0.iter().take_while(|byte| holds(**byte)).count();
        let (taken, rest) = self.0.split_at(len);
        self.0 = rest;
        taken
    }

    fn key(&mut self) -> Option<&'a [u8]> {
        let begins = |byte: &u8| byte.is_ascii_lowercase() || *byte == b'*';
        self.0.first().filter(|first| begins(first))?;
        Some(self.take_while(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.*".contains(&byte)
        }))
    }

    fn member(&mut self) -> Option<Value> {
        if !self.take(b'(') {
            return self.item();
        }
        loop {
            self.take_while(|byte| byte == b' ');
            if self.take(b')') {
                return Some(Value::Other);
            }
            self.item()?;
            self.parameters()?;
            self.0.first().filter(|next| matches!(next, b' ' | b')'))?;
        }
    }

    fn parameters(&mut self) -> Option<()> {
        while self.take(b';') {
            self.take_while(|byte| byte == b' ');
            self.key()?;
            if self.take(b'=') {
                self.item()?;
            }
        }
        Some(())
    }

    fn item(&mut self) -> Option<Value> {
        match *self.0.first()? {
            b'-' | b'0'..=b'9' => self.number(),
            b'?' => {
                self.take(b'?');
                let is_true = self.take(b'1');
                (is_true || self.take(b'0')).then_some(Value::Boolean(is_true))
            }
            b'"' => self.string(),
            b':' => {
                self.take(b':');
                let base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
                self.take_while(base64);
                self.take(b':').then_some(Value::Other)
            }
            b'@' => {
                self.take(b'@');
                match self.number()? {
                    Value::Integer(_) => Some(Value::Other),
                    Value::Boolean(_) | Value::Other => None,
                }
            }
            first if first.is_ascii_alphabetic() || first == b'*' => {
                self.take_while(|byte| {
                    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&byte)
                });
                Some(Value::Other)
            }
            _ => None,
        }
    }

    fn number(&mut self) -> Option<Value> {
        const INTEGER_DIGITS: usize = 15;
        const DECIMAL_DIGITS: usize = 12;
        const FRACTION_DIGITS: usize = 3;
        let is_negative = self.take(b'-');
        let digits = self.take_while(|byte| byte.is_ascii_digit());
        if self.take(b'.') {
            let fraction = self.take_while(|byte| byte.is_ascii_digit());
            let fits = (1..=DECIMAL_DIGITS).contains(&digits.len())
                && (1..=FRACTION_DIGITS).contains(&fraction.len());
            return fits.then_some(Value::Other);
        }
        if !(1..=INTEGER_DIGITS).contains(&digits.len()) {
            return None;
        }
        let magnitude = digits
            .iter()
            .fold(0_u64, |number, digit| number * 10 + u64::from(digit - b'0'));
        let level = u8::try_from(magnitude).ok();
        Some(Value::Integer(level.filter(|_| !is_negative)))
    }

    fn string(&mut self) -> Option<Value> {
        self.take(b'"');
        loop {
            self.take_while(|byte| matches!(byte, 0x20..=0x7e) && byte != b'"' && byte != b'\\');
            if self.take(b'"') {
                return Some(Value::Other);
            }
            if !(self.take(b'\\') && (self.take(b'"') || self.take(b'\\'))) {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(urgency: u8, incremental: bool) -> Priority {
        Priority {
            urgency: Urgency::of(urgency),
            incremental,
        }
    }

    #[test]
    fn what_is_asked_for_is_understood() {
        for (field, expected) in [
            ("", of(3, false)),
            ("u=0", of(0, false)),
            ("u=7, i", of(7, true)),
            ("u=1,i", of(1, true)),
            ("  i , \tu=5 ", of(5, true)),
            ("i=?0", of(3, false)),
            ("i;p=1, u=2;q", of(2, true)),
            // The last of several counts.
            ("u=1, u=4", of(4, false)),
            // Members that we do not know, of every type.
            (
                "a=\"x, \\\"u=9\\\\\", b=(1 \"y\";p c), *d=to/k:en, u=1, e=:aGk=:, f=-1.5, g=@17, h=()",
                of(1, false),
            ),
        ] {
            assert_eq!(Priority::parse(field.as_bytes()), expected, "{field:?}");
        }
    }

    #[test]
    fn members_of_the_wrong_type_or_range_are_ignored() {
        for field in ["u=8", "u=-1", "u", "u=1.0", "u=\"1\"", "i=1", "u=(1)"] {
            assert_eq!(
                Priority::parse(format!("{field}, z").as_bytes()),
                Priority::default()
            );
        }
    }

    #[test]
    fn a_malformed_field_is_as_if_absent() {
        for field in [
            "u=0,",
            "u=0,,i",
            "u=0 i",
            "u=",
            "U=0",
            "u=0, =1",
            "u=0, a=\"open",
            "u=0, a=\"\\x\"",
            "u=0, a=(1",
            "u=0, a=(1\"x\")",
            "u=0, a=?2",
            "u=0, a=:x",
            "u=0, a=1234567890123456",
            "u=0, a=1.",
            "u=0, a=1.2345",
            "u=0, a=@1.5",
            "u=0;",
            "u=0, \u{e4}",
            ",",
        ] {
            assert_eq!(
                Priority::parse(field.as_bytes()),
                Priority::default(),
                "{field:?}"
            );
        }
    }

    #[test]
    fn a_field_on_several_lines_is_one() {
        let mut headers = HeaderMap::new();
        assert_eq!(Priority::asked(&headers), Priority::default());
        for line in ["u=2", "i"] {
            headers.append("priority", http::HeaderValue::from_static(line));
        }
        assert_eq!(Priority::asked(&headers), of(2, true));
    }

    #[test]
    fn the_client_orders_first_and_the_service_among_equals() {
        let rank = |asked, own| Precedence::of(of(asked, false), Urgency::of(own)).rank;
        assert!(rank(1, 7) < rank(2, 0));
        assert!(rank(3, 1) < rank(3, 2));
        assert_eq!(rank(7, 9), rank(7, 7));
    }
}
