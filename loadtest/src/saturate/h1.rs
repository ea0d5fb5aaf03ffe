//! HTTP/1.1 (RFC 9112) as far as fetching and dropping needs it: pipelined `GET`s, answers with a `Content-Length`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use url::{Position, Url};

use super::Tally;
use super::tcp::{Fault, Speaker};

/// Bytes of an answer's head; a server that sends more is not what is measured here.
const HEAD_LIMIT: usize = 16 << 10;

/// The text of each request, made once for all connections.
pub(super) fn requests(urls: &[Url]) -> Arc<[Vec<u8>]> {
    let request = |url: &Url| {
        let path = &url[Position::BeforePath..Position::AfterQuery];
        let host = &url[Position::BeforeHost..Position::AfterPort];
        format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n").into_bytes()
    };
    urls.iter().map(request).collect()
}

/// One connection.
pub(super) struct H1 {
    requests: Arc<[Vec<u8>]>,
    next: usize,
    outgoing: Vec<u8>,
    /// When each request that waits for its answer was asked, oldest first.
    asked: VecDeque<Instant>,
    state: State,
    /// The server will answer no more on this connection.
    closing: bool,
}

enum State {
    Head(Vec<u8>),
    Body {
        left: u64,
        counts: bool,
        begun: bool,
    },
}

impl H1 {
    /// A connection that keeps `depth` requests under way and begins with the request of number `first`.
    pub(super) fn new(requests: Arc<[Vec<u8>]>, first: usize, depth: usize, now: Instant) -> Self {
        let mut connection = Self {
            requests,
            next: first,
            outgoing: Vec::new(),
            asked: VecDeque::with_capacity(depth),
            state: State::Head(Vec::new()),
            closing: false,
        };
        for _ in 0..depth {
            connection.ask(now);
        }
        connection
    }

    fn ask(&mut self, now: Instant) {
        let request = &self.requests[self.next % self.requests.len()];
        self.outgoing.extend_from_slice(request);
        self.asked.push_back(now);
        self.next += 1;
    }

    /// Counts `len` bytes of the body that is coming.
    fn take_body(&mut self, len: u64, now: Instant, tally: &mut Tally) {
        let State::Body {
            left,
            counts,
            begun,
        } = &mut self.state
        else {
            return;
        };
        tally.bytes += len;
        *left -= len;
        let asked = self.asked.front().copied().unwrap_or(now);
        if !*begun && (len > 0 || *left == 0) {
            *begun = true;
            if *counts {
                tally
                    .first_byte
                    .record(now.saturating_duration_since(asked));
            }
        }
        if *left == 0 {
            if *counts {
                tally.answered(asked, now);
            }
            self.asked.pop_front();
            self.state = State::Head(Vec::new());
            if !self.closing {
                self.ask(now);
            }
        }
    }
}

impl Speaker for H1 {
    fn outgoing(&mut self) -> &mut Vec<u8> {
        &mut self.outgoing
    }

    fn receive(&mut self, mut bytes: &[u8], now: Instant, tally: &mut Tally) -> Result<(), Fault> {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Head(head) => {
                    let (before, end) = append_head(head, bytes)?;
                    bytes = &bytes[before..];
                    if !end {
                        return Ok(());
                    }
                    let answer = Answer::read(head)?;
                    if !matches!(answer.status, 200 | 206) {
                        tally.failed(Fault::Status(answer.status));
                    }
                    self.closing |= answer.close;
                    self.state = State::Body {
                        left: answer.length,
                        counts: matches!(answer.status, 200 | 206),
                        begun: false,
                    };
                    let here = answer.length.min(bytes.len() as u64);
                    let (_, rest) = bytes.split_at(usize::try_from(here).unwrap_or(bytes.len()));
                    bytes = rest;
                    self.take_body(here, now, tally);
                }
                State::Body { left, .. } => {
                    let here = (*left).min(bytes.len() as u64);
                    let (_, rest) = bytes.split_at(usize::try_from(here).unwrap_or(bytes.len()));
                    bytes = rest;
                    self.take_body(here, now, tally);
                }
            }
        }
        Ok(())
    }

    fn skippable(&self) -> u64 {
        match &self.state {
            State::Head(_) => 0,
            State::Body { left, .. } => *left,
        }
    }

    fn skip(&mut self, len: u64, now: Instant, tally: &mut Tally) {
        self.take_body(len, now, tally);
    }

    fn is_between_answers(&self) -> bool {
        matches!(&self.state, State::Head(head) if head.is_empty())
    }

    fn is_done(&self) -> bool {
        self.closing && self.is_between_answers()
    }
}

/// Adds to `head` what belongs to it; says how many bytes that were, and whether it is whole.
fn append_head(head: &mut Vec<u8>, bytes: &[u8]) -> Result<(usize, bool), Fault> {
    const END: &[u8] = b"\r\n\r\n";
    let before = head.len();
    head.extend_from_slice(&bytes[..bytes.len().min(HEAD_LIMIT)]);
    let search = before.saturating_sub(END.len() - 1);
    let end = head[search..]
        .windows(END.len())
        .position(|window| window == END);
    match end {
        Some(at) => {
            head.truncate(search + at + END.len());
            Ok((head.len() - before, true))
        }
        None if head.len() >= HEAD_LIMIT => Err(Fault::Malformed("the head is too long")),
        None => Ok((bytes.len(), false)),
    }
}

/// What of a head is needed.
struct Answer {
    status: u16,
    length: u64,
    close: bool,
}

impl Answer {
    fn read(head: &[u8]) -> Result<Self, Fault> {
        let text =
            std::str::from_utf8(head).map_err(|_| Fault::Malformed("the head is no text"))?;
        let mut lines = text.split("\r\n");
        let status = lines.next().and_then(|line| {
            let rest = line.strip_prefix("HTTP/1.1 ")?;
            rest.get(..3)?.parse().ok()
        });
        let status = status.ok_or(Fault::Malformed("no HTTP/1.1 status line"))?;
        let (mut length, mut close) = (None, false);
        for line in lines {
            let Some((name, value)) = line.split_once(':') else {
                continue;
            };
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                length = Some(
                    value
                        .parse()
                        .map_err(|_| Fault::Malformed("Content-Length is no number"))?,
                );
            } else if name.eq_ignore_ascii_case("connection") {
                close = value.eq_ignore_ascii_case("close");
            }
        }
        let length = match status {
            204 | 304 => 0,
            _ => length.ok_or(Fault::Malformed("an answer without Content-Length"))?,
        };
        Ok(Self {
            status,
            length,
            close,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(depth: usize) -> (H1, Tally) {
        let urls = ["http://h:1/a?b", "http://h:1/c"].map(|url| Url::parse(url).unwrap());
        let connection = H1::new(requests(&urls), 0, depth, Instant::now());
        (connection, Tally::default())
    }

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

    #[test]
    fn asks_in_turn_and_keeps_requests_under_way() {
        let (mut connection, mut tally) = connection(2);
        let text = String::from_utf8(std::mem::take(connection.outgoing())).unwrap();
        assert_eq!(
            text,
            "GET /a?b HTTP/1.1\r\nhost: h:1\r\n\r\nGET /c HTTP/1.1\r\nhost: h:1\r\n\r\n"
        );
        connection
            .receive(ANSWER, Instant::now(), &mut tally)
            .unwrap();
        let text = String::from_utf8(std::mem::take(connection.outgoing())).unwrap();
        assert!(text.starts_with("GET /a?b "), "{text}");
        assert_eq!((tally.requests, tally.bytes, tally.errors), (1, 5, 0));
    }

    #[test]
    fn reads_answers_cut_anywhere() {
        let stream = [ANSWER, ANSWER, ANSWER].concat();
        for piece in 1..stream.len() {
            let (mut connection, mut tally) = connection(3);
            for part in stream.chunks(piece) {
                connection
                    .receive(part, Instant::now(), &mut tally)
                    .unwrap();
            }
            assert_eq!(
                (tally.requests, tally.bytes, tally.whole.len()),
                (3, 15, 3),
                "pieces of {piece}"
            );
            assert!(connection.is_between_answers());
        }
    }

    #[test]
    fn what_is_skipped_counts_as_what_is_seen() {
        let (mut connection, mut tally) = connection(1);
        let now = Instant::now();
        connection.receive(&ANSWER[..38], now, &mut tally).unwrap();
        assert_eq!((connection.skippable(), tally.first_byte.len()), (5, 0));
        connection.skip(2, now, &mut tally);
        assert_eq!((connection.skippable(), tally.first_byte.len()), (3, 1));
        assert!(!connection.is_between_answers());
        connection.skip(3, now, &mut tally);
        assert_eq!((connection.skippable(), tally.requests), (0, 1));
    }

    #[test]
    fn other_statuses_are_errors_and_reading_goes_on() {
        let (mut connection, mut tally) = connection(1);
        let refused = b"HTTP/1.1 503 Sealed\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno";
        let now = Instant::now();
        connection.outgoing().clear();
        connection.receive(refused, now, &mut tally).unwrap();
        assert_eq!((tally.requests, tally.errors), (0, 1));
        assert_eq!(tally.first_error.as_deref(), Some("status 503"));
        assert!(connection.is_done() && connection.outgoing().is_empty());
    }

    #[test]
    fn what_cannot_be_dropped_is_a_fault() {
        for (text, fault) in [
            (
                &b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"[..],
                "an answer without Content-Length",
            ),
            (b"SSH-2.0\r\n\r\n", "no HTTP/1.1 status line"),
            (
                b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
                "Content-Length is no number",
            ),
            (&[b'x'; HEAD_LIMIT], "the head is too long"),
        ] {
            let (mut connection, mut tally) = connection(1);
            let refused = connection.receive(text, Instant::now(), &mut tally);
            assert_eq!(refused.unwrap_err().to_string(), fault);
        }
    }
}
