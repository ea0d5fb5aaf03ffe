//! Refuses HTTP/1 requests whose framing two parsers may read differently (RFC 9112 sections 2.2, 5.1, 6.3), which
//! is what request smuggling lives on.
//!
//! hyper is right about every request taken alone, but generous: it drops a `Content-Length` that comes with
//! `Transfer-Encoding`, joins equal `Content-Length` fields, takes a bare line feed for a line's end, and asks for no
//! `Host`. A proxy before us may decide otherwise, so these are refused. The guard sees the bytes before hyper and
//! follows them just far enough to know where the next head begins.

use std::fmt;

/// Follows one connection's requests.
#[derive(Debug)]
pub(crate) struct HeadGuard {
    state: State,
    head: Vec<u8>,
    largest: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the first byte of a head.
    Between,
    /// Within a head.
    Head,
    /// Within a body, of which this much is still to come.
    Body { left: u64 },
    /// Nothing that follows is a head: the body is chunked, after which the connection ends, or the head is too
    /// large, which hyper refuses.
    Beyond,
    /// A head was refused.
    Refused,
}

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ambiguity {
    BareLineEnd,
    ContentLength,
    TransferEncoding,
    Host,
}

impl fmt::Display for Ambiguity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BareLineEnd => "a bare CR or LF",
            Self::ContentLength => "Content-Length that is repeated or not a number",
            Self::TransferEncoding => {
                "Transfer-Encoding other than one `chunked` alone in HTTP/1.1"
            }
            Self::Host => "other than one Host",
        })
    }
}

impl HeadGuard {
    /// A guard of a new connection that looks into heads of at most `largest` bytes.
    pub(crate) fn new(largest: usize) -> Self {
        Self {
            state: State::Between,
            head: Vec::new(),
            largest,
        }
    }

    /// Whether a head has begun and not ended.
    pub(crate) fn is_within_head(&self) -> bool {
        self.state == State::Head
    }

    /// Looks at the next bytes of the connection.
    ///
    /// # Errors
    /// What is wrong, and how many of these bytes come before the head it is in.
    pub(crate) fn look(&mut self, bytes: &[u8]) -> Result<(), (usize, Ambiguity)> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            match self.state {
                // RFC 9112 2.2: empty lines before a request are ignored.
                State::Between if rest[0] == b'\r' || rest[0] == b'\n' => at += 1,
                State::Between => self.state = State::Head,
                State::Head => match self.take_head(rest) {
                    Ok(taken) => at += taken,
                    Err(ambiguity) => {
                        self.state = State::Refused;
                        return Err((at, ambiguity));
                    }
                },
                State::Body { left } => {
                    let taken = left.min(rest.len() as u64);
                    at += usize::try_from(taken).unwrap_or(rest.len());
                    self.state = match left - taken {
                        0 => State::Between,
                        left => State::Body { left },
                    };
                }
                State::Beyond | State::Refused => return Ok(()),
            }
        }
        Ok(())
    }

    /// Takes bytes up to the end of the head, and judges it there. The head is gathered only if it comes in several
    /// reads, which is rare.
    fn take_head(&mut self, bytes: &[u8]) -> Result<usize, Ambiguity> {
        let known = self.head.len();
        // The end may straddle two reads.
        let seam = known.saturating_sub(3);
        self.head
            .extend_from_slice(&bytes[..bytes.len().min(self.largest + 4)]);
        if let Some(end) = find(&self.head[seam..], b"\r\n\r\n") {
            let end = seam + end;
            let judged = judge(&self.head[..end]);
            self.head.clear();
            self.state = judged?;
            return Ok(end + 4 - known);
        }
        // A head that never ends for want of a CR must not wait for its timeout.
        bare_line_end(&self.head)?;
        if self.head.len() > self.largest {
            self.head = Vec::new();
            self.state = State::Beyond;
        }
        Ok(bytes.len())
    }
}

/// Of a length that is known beforehand, so that each comparison is one of a word.
fn find<const N: usize>(haystack: &[u8], needle: &[u8; N]) -> Option<usize> {
    haystack.windows(N).position(|window| window == needle)
}

/// Every CR is followed by LF (unless it is the last byte so far) and every LF follows a CR.
fn bare_line_end(head: &[u8]) -> Result<(), Ambiguity> {
    let mut previous = b' ';
    for &byte in head {
        if (byte == b'\n') != (previous == b'\r') {
            return Err(Ambiguity::BareLineEnd);
        }
        previous = byte;
    }
    Ok(())
}

/// Judges a head without its final empty line; says what follows it.
fn judge(head: &[u8]) -> Result<State, Ambiguity> {
    bare_line_end(head)?;
    let mut lines = head.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
    let is_http_11 = lines.next().is_some_and(|line| line.ends_with(b"HTTP/1.1"));
    let (mut length, mut is_chunked, mut hosts) = (None, false, 0);
    for line in lines {
        // A line without a colon is hyper's to refuse.
        let Some(colon) = line.iter().position(|&byte| byte == b':') else {
            continue;
        };
        let (name, value) = (line[..colon].trim_ascii(), line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            let number = number(value).ok_or(Ambiguity::ContentLength)?;
            if length.replace(number).is_some() {
                return Err(Ambiguity::ContentLength);
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if is_chunked || !is_http_11 || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Ambiguity::TransferEncoding);
            }
            is_chunked = true;
        } else if name.eq_ignore_ascii_case(b"host") {
            hosts += 1;
        }
    }
    // RFC 9112 3.2: HTTP/1.1 has exactly one Host, even an empty one.
    if hosts > 1 || (is_http_11 && hosts == 0) {
        return Err(Ambiguity::Host);
    }
    match (length, is_chunked) {
        (Some(_), true) => Err(Ambiguity::TransferEncoding),
        (None, true) => Ok(State::Beyond),
        (None | Some(0), false) => Ok(State::Between),
        (Some(left), false) => Ok(State::Body { left }),
    }
}

fn number(text: &[u8]) -> Option<u64> {
    if !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    const POST: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nGET /";
    const CHUNKED: &[u8] =
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET\n\n";

    fn verdict(bytes: &[u8]) -> Result<(), (usize, Ambiguity)> {
        HeadGuard::new(1024).look(bytes)
    }

    #[test]
    fn clear_requests_pass_however_they_are_split() {
        let stream = [PLAIN, b"\r\n", POST, PLAIN, CHUNKED].concat();
        for piece in 1..stream.len() {
            let mut guard = HeadGuard::new(1024);
            for bytes in stream.chunks(piece) {
                guard.look(bytes).unwrap();
            }
        }
    }

    #[test]
    fn ambiguous_heads_are_refused_however_they_are_split() {
        use Ambiguity::{BareLineEnd, ContentLength, Host, TransferEncoding};
        for (head, expected) in [
            ("GET / HTTP/1.1\nHost: a\r\n\r\n", BareLineEnd),
            ("GET / HTTP/1.1\r\nHost: a\n\n", BareLineEnd),
            ("GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", BareLineEnd),
            ("GET / HTTP/1.1\r\n\r\n", Host),
            ("GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", Host),
            ("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", Host),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
                ContentLength,
            ),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n",
                ContentLength,
            ),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n",
                ContentLength,
            ),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n",
                ContentLength,
            ),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\n",
                ContentLength,
            ),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
                TransferEncoding,
            ),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
                TransferEncoding,
            ),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
                TransferEncoding,
            ),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
                TransferEncoding,
            ),
            (
                "GET / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
                TransferEncoding,
            ),
        ] {
            for piece in 1..=head.len() {
                let mut guard = HeadGuard::new(1024);
                let refused = head
                    .as_bytes()
                    .chunks(piece)
                    .find_map(|bytes| guard.look(bytes).err());
                assert_eq!(
                    refused.map(|(_, why)| why),
                    Some(expected),
                    "{head:?} by {piece}"
                );
            }
        }
    }

    #[test]
    fn the_bytes_before_a_refused_head_are_told() {
        let pipelined = [PLAIN, b"GET / HTTP/1.1\r\n\r\n"].concat();
        assert_eq!(verdict(&pipelined), Err((PLAIN.len(), Ambiguity::Host)));
    }

    #[test]
    fn what_looks_like_a_head_within_a_body_is_none() {
        let body = b"GET / HTTP/1.1\n\n";
        let head = format!(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let stream = [head.as_bytes(), body, PLAIN].concat();
        assert_eq!(verdict(&stream), Ok(()));
    }

    #[test]
    fn a_head_beyond_the_limit_is_left_to_hyper() {
        let long = format!(
            "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
            "y".repeat(2000)
        );
        let mut guard = HeadGuard::new(1024);
        for bytes in long.as_bytes().chunks(100) {
            guard.look(bytes).unwrap();
        }
        assert!(!guard.is_within_head());
    }
}
