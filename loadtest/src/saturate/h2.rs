//! HTTP/2 (RFC 9113) as far as fetching and dropping needs it: `GET`s, statuses, and the lengths of frames.
//!
//! Windows are as wide as the protocol allows, so that the server is never kept waiting; of header blocks only
//! `:status` is understood, which every server sends first and from the static table (RFC 7541 appendix A).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use url::{Position, Url};

use super::Tally;
use super::tcp::{Fault, Speaker};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The widest window (6.9.1); RFC 9113 begins with 65,535.
const WINDOW: u32 = (1 << 31) - 1;
const FIRST_WINDOW: u32 = (1 << 16) - 1;

/// The connection's window is widened again when so much has come.
const WIDEN_AFTER: u32 = 1 << 29;

/// Payload of a frame that is not `DATA`, which is all that a server may send unasked (4.2).
const FRAME_LIMIT: u32 = 16 << 10;

const HEADER: usize = 9;

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const SETTINGS: u8 = 0x4;
const PING: u8 = 0x6;
const GOAWAY: u8 = 0x7;
const WINDOW_UPDATE: u8 = 0x8;

const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// The header block of each request, made once for all connections. No block depends on the one before.
pub(super) fn requests(urls: &[Url]) -> Arc<[Vec<u8>]> {
    let request = |url: &Url| {
        let method = 0x82;
        let scheme = if url.scheme() == "https" { 0x87 } else { 0x86 };
        let mut block = vec![method, scheme];
        // Literals without indexing, by the names' places in the static table.
        for (name, value) in [
            (1_u8, &url[Position::BeforeHost..Position::AfterPort]),
            (4, &url[Position::BeforePath..Position::AfterQuery]),
        ] {
            block.push(name);
            push_length(&mut block, value.len());
            block.extend_from_slice(value.as_bytes());
        }
        block
    };
    urls.iter().map(request).collect()
}

/// A string's length, not Huffman coded (RFC 7541 5.1, 5.2).
fn push_length(block: &mut Vec<u8>, len: usize) {
    const PREFIX: usize = 127;
    let small = |len: usize| u8::try_from(len & 0x7f).unwrap_or_default();
    if len < PREFIX {
        block.push(small(len));
        return;
    }
    block.push(0x7f);
    let mut rest = len - PREFIX;
    while rest > PREFIX {
        block.push(small(rest) | 0x80);
        rest >>= 7;
    }
    block.push(small(rest));
}

/// One connection.
pub(super) struct H2 {
    requests: Arc<[Vec<u8>]>,
    next: usize,
    next_stream: u32,
    outgoing: Vec<u8>,
    streams: HashMap<u32, Answer>,
    state: State,
    /// Bytes of `DATA` since the window was last widened.
    unacknowledged: u32,
    /// The last stream that will be answered, once the server has said so.
    last: Option<u32>,
}

/// An answer that is awaited.
struct Answer {
    asked: Instant,
    status_ok: bool,
    begun: bool,
}

enum State {
    /// The header of a frame, as far as it came.
    Header(Vec<u8>),
    /// A frame that must be seen whole.
    Payload { frame: Frame, payload: Vec<u8> },
    /// A frame that only counts.
    Dropping { frame: Frame, left: u32 },
}

#[derive(Clone, Copy)]
struct Frame {
    len: u32,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Frame {
    fn read(bytes: &[u8]) -> Self {
        let number = |bytes: &[u8]| bytes.iter().fold(0, |n, byte| n << 8 | u32::from(*byte));
        Self {
            len: number(&bytes[..3]),
            kind: bytes[3],
            flags: bytes[4],
            stream: number(&bytes[5..HEADER]) & WINDOW,
        }
    }

    fn ends_stream(self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }
}

impl H2 {
    /// A connection that keeps `depth` streams open and begins with the request of number `first`.
    pub(super) fn new(requests: Arc<[Vec<u8>]>, first: usize, depth: usize, now: Instant) -> Self {
        let mut connection = Self {
            requests,
            next: first,
            next_stream: 1,
            outgoing: PREFACE.to_vec(),
            streams: HashMap::with_capacity(depth),
            state: State::Header(Vec::with_capacity(HEADER)),
            unacknowledged: 0,
            last: None,
        };
        // No table of header fields, no push, the widest window for each stream (6.5.2).
        let mut settings = Vec::new();
        for (id, value) in [(1_u16, 0_u32), (2, 0), (4, WINDOW)] {
            settings.extend_from_slice(&id.to_be_bytes());
            settings.extend_from_slice(&value.to_be_bytes());
        }
        connection.push(SETTINGS, 0, 0, &settings);
        connection.widen(WINDOW - FIRST_WINDOW);
        for _ in 0..depth {
            connection.ask(now);
        }
        connection
    }

    fn push(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let len = u32::try_from(payload.len()).unwrap_or(FRAME_LIMIT);
        self.outgoing.extend_from_slice(&len.to_be_bytes()[1..]);
        self.outgoing.extend_from_slice(&[kind, flags]);
        self.outgoing.extend_from_slice(&stream.to_be_bytes());
        self.outgoing.extend_from_slice(payload);
    }

    fn widen(&mut self, by: u32) {
        self.push(WINDOW_UPDATE, 0, 0, &by.to_be_bytes());
    }

    fn ask(&mut self, now: Instant) {
        // A client's streams are odd and below 2^31 (5.1.1).
        if self.last.is_some() || self.next_stream >= WINDOW {
            return;
        }
        let requests = Arc::clone(&self.requests);
        let block = &requests[self.next % requests.len()];
        self.push(HEADERS, END_STREAM | END_HEADERS, self.next_stream, block);
        let answer = Answer {
            asked: now,
            status_ok: false,
            begun: false,
        };
        self.streams.insert(self.next_stream, answer);
        self.next += 1;
        self.next_stream += 2;
    }

    /// Counts `len` bytes of a frame that only counts, and what its end ends.
    fn drop_bytes(&mut self, len: u32, now: Instant, tally: &mut Tally) {
        let State::Dropping { frame, left } = &mut self.state else {
            return;
        };
        *left -= len;
        let (frame, whole) = (*frame, *left == 0);
        if frame.kind == DATA {
            tally.bytes += u64::from(len);
            self.unacknowledged += len;
            if self.unacknowledged >= WIDEN_AFTER {
                self.widen(self.unacknowledged);
                self.unacknowledged = 0;
            }
            if let Some(answer) = self.streams.get_mut(&frame.stream)
                && !answer.begun
                && len > 0
            {
                answer.begun = true;
                if answer.status_ok {
                    tally
                        .first_byte
                        .record(now.saturating_duration_since(answer.asked));
                }
            }
        }
        if whole {
            self.state = State::Header(Vec::with_capacity(HEADER));
            if frame.ends_stream() {
                self.end(frame.stream, now, tally);
            }
        }
    }

    fn end(&mut self, stream: u32, now: Instant, tally: &mut Tally) {
        if let Some(answer) = self.streams.remove(&stream) {
            if answer.status_ok {
                tally.answered(answer.asked, now);
            }
            self.ask(now);
        }
    }

    fn take_frame(
        &mut self,
        frame: Frame,
        payload: &[u8],
        now: Instant,
        tally: &mut Tally,
    ) -> Result<(), Fault> {
        let code = |bytes: &[u8]| bytes.iter().fold(0, |n, byte| n << 8 | u32::from(*byte));
        match frame.kind {
            HEADERS => {
                let answer = self.streams.get_mut(&frame.stream);
                // A second block is trailers, which change no status.
                if let Some(answer) = answer
                    && !answer.status_ok
                {
                    match status(header_block(frame, payload)) {
                        Some(200 | 206) => answer.status_ok = true,
                        Some(status) => tally.failed(Fault::Status(status)),
                        None => tally.failed(Fault::UnknownStatus),
                    }
                }
                if frame.ends_stream() {
                    self.end(frame.stream, now, tally);
                }
            }
            RST_STREAM => {
                tally.failed(Fault::GivenUp(code(payload)));
                self.streams.remove(&frame.stream);
                self.ask(now);
            }
            SETTINGS if frame.flags & ACK == 0 => self.push(SETTINGS, ACK, 0, &[]),
            PING if frame.flags & ACK == 0 => self.push(PING, ACK, 0, payload),
            GOAWAY => {
                let (last, code) = payload
                    .split_first_chunk::<4>()
                    .map(|(last, rest)| {
                        let code = code(rest.get(..4).unwrap_or_default());
                        (u32::from_be_bytes(*last) & WINDOW, code)
                    })
                    .ok_or(Fault::Malformed("a GOAWAY frame without its fields"))?;
                if code != 0 {
                    return Err(Fault::GivenUp(code));
                }
                self.last = Some(last);
                self.streams.retain(|stream, _| *stream <= last);
            }
            _ => {}
        }
        Ok(())
    }
}

impl Speaker for H2 {
    fn outgoing(&mut self) -> &mut Vec<u8> {
        &mut self.outgoing
    }

    fn receive(&mut self, mut bytes: &[u8], now: Instant, tally: &mut Tally) -> Result<(), Fault> {
        loop {
            match &mut self.state {
                State::Header(header) => {
                    let here = bytes.len().min(HEADER - header.len());
                    header.extend_from_slice(&bytes[..here]);
                    bytes = &bytes[here..];
                    if header.len() < HEADER {
                        return Ok(());
                    }
                    let frame = Frame::read(header);
                    // A server pads nothing that it wants to be fast with: what is padded is counted as if it were not.
                    let counts_only = matches!(frame.kind, DATA | WINDOW_UPDATE);
                    if !counts_only && frame.len > FRAME_LIMIT {
                        return Err(Fault::Malformed("a frame longer than was agreed"));
                    }
                    if counts_only {
                        let left = frame.len;
                        self.state = State::Dropping { frame, left };
                        if left == 0 {
                            self.drop_bytes(0, now, tally);
                        }
                    } else {
                        let payload = Vec::with_capacity(frame.len as usize);
                        self.state = State::Payload { frame, payload };
                    }
                }
                State::Payload { frame, payload } => {
                    let here = bytes.len().min(frame.len as usize - payload.len());
                    payload.extend_from_slice(&bytes[..here]);
                    bytes = &bytes[here..];
                    if payload.len() < frame.len as usize {
                        return Ok(());
                    }
                    let (frame, payload) = (*frame, std::mem::take(payload));
                    self.state = State::Header(Vec::with_capacity(HEADER));
                    self.take_frame(frame, &payload, now, tally)?;
                }
                State::Dropping { left, .. } => {
                    if bytes.is_empty() {
                        return Ok(());
                    }
                    let here = u32::try_from(bytes.len()).unwrap_or(u32::MAX).min(*left);
                    bytes = &bytes[here as usize..];
                    self.drop_bytes(here, now, tally);
                }
            }
        }
    }

    fn skippable(&self) -> u64 {
        match &self.state {
            State::Dropping { left, .. } => u64::from(*left),
            State::Header(_) | State::Payload { .. } => 0,
        }
    }

    fn skip(&mut self, len: u64, now: Instant, tally: &mut Tally) {
        if let Ok(len) = u32::try_from(len) {
            self.drop_bytes(len, now, tally);
        }
    }

    fn is_between_answers(&self) -> bool {
        self.streams.values().all(|answer| !answer.status_ok)
    }

    fn is_done(&self) -> bool {
        self.streams.is_empty() && (self.last.is_some() || self.next_stream >= WINDOW)
    }
}

/// The header block of a `HEADERS` frame, without padding and priority (6.2).
fn header_block(frame: Frame, payload: &[u8]) -> &[u8] {
    let mut block = payload;
    if frame.flags & PADDED != 0 {
        let padding = block.first().copied().map_or(0, usize::from);
        block = block.get(1..).unwrap_or_default();
        block = &block[..block.len().saturating_sub(padding)];
    }
    if frame.flags & PRIORITY != 0 {
        block = block.get(5..).unwrap_or_default();
    }
    block
}

/// `:status` from the static table, after what may be said about the dynamic one (RFC 7541 6.1, 6.3).
fn status(block: &[u8]) -> Option<u16> {
    let field = block.iter().find(|byte| **byte & 0xe0 != 0x20)?;
    match field {
        0x88 => Some(200),
        0x89 => Some(204),
        0x8a => Some(206),
        0x8b => Some(304),
        0x8c => Some(400),
        0x8d => Some(404),
        0x8e => Some(500),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(depth: usize) -> (H2, Tally) {
        let urls = ["https://h:1/a?b", "https://h:1/c"].map(|url| Url::parse(url).unwrap());
        let connection = H2::new(requests(&urls), 0, depth, Instant::now());
        (connection, Tally::default())
    }

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [&len[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        [&head, payload].concat()
    }

    /// What a connection wants to send, as kinds, flags and streams.
    fn sent(connection: &mut H2) -> Vec<(u8, u8, u32)> {
        let bytes = std::mem::take(connection.outgoing());
        let mut rest = bytes.strip_prefix(PREFACE).unwrap_or(&bytes);
        let mut frames = Vec::new();
        while !rest.is_empty() {
            let frame = Frame::read(rest);
            frames.push((frame.kind, frame.flags, frame.stream));
            rest = &rest[HEADER + frame.len as usize..];
        }
        frames
    }

    #[test]
    fn opens_its_streams_and_asks_again() {
        let (mut connection, mut tally) = connection(2);
        let ask = END_STREAM | END_HEADERS;
        assert_eq!(
            sent(&mut connection),
            [
                (SETTINGS, 0, 0),
                (WINDOW_UPDATE, 0, 0),
                (HEADERS, ask, 1),
                (HEADERS, ask, 3)
            ]
        );
        let answer = [
            frame(SETTINGS, 0, 0, &[]),
            frame(HEADERS, END_HEADERS, 3, &[0x88]),
            frame(HEADERS, END_HEADERS, 1, &[0x20, 0x88]),
            frame(DATA, 0, 3, b"hel"),
            frame(DATA, END_STREAM, 1, b"x"),
            frame(PING, 0, 0, &[7; 8]),
            frame(DATA, 0, 3, b"lo"),
            frame(DATA, END_STREAM, 3, b""),
        ]
        .concat();
        let now = Instant::now();
        connection.receive(&answer, now, &mut tally).unwrap();
        assert_eq!((tally.requests, tally.bytes, tally.errors), (2, 6, 0));
        assert_eq!((tally.first_byte.len(), tally.whole.len()), (2, 2));
        assert_eq!(
            sent(&mut connection),
            [
                (SETTINGS, ACK, 0),
                (HEADERS, ask, 5),
                (PING, ACK, 0),
                (HEADERS, ask, 7)
            ]
        );
    }

    #[test]
    fn reads_frames_cut_anywhere_and_skips_bodies() {
        let answer = [
            frame(HEADERS, END_HEADERS, 1, &[0x88, 0x0f]),
            frame(DATA, 0, 1, &[1; 300]),
            frame(DATA, END_STREAM, 1, &[2; 40]),
        ]
        .concat();
        for piece in 1..answer.len() {
            let (mut connection, mut tally) = connection(1);
            let now = Instant::now();
            let mut rest = answer.as_slice();
            while !rest.is_empty() {
                // By turns what may be skipped is skipped, and what comes is seen.
                let skippable = usize::try_from(connection.skippable()).unwrap();
                let here = if skippable > 0 && rest.len() % 2 == 0 {
                    let here = skippable.min(piece);
                    connection.skip(here as u64, now, &mut tally);
                    here
                } else {
                    let here = rest.len().min(piece);
                    connection.receive(&rest[..here], now, &mut tally).unwrap();
                    here
                };
                rest = &rest[here..];
            }
            assert_eq!((tally.requests, tally.bytes), (1, 340), "pieces of {piece}");
        }
    }

    #[test]
    fn a_refusal_counts_and_a_given_up_stream_is_replaced() {
        let (mut connection, mut tally) = connection(2);
        sent(&mut connection);
        let answer = [
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0x8d]),
            frame(RST_STREAM, 0, 3, &2_u32.to_be_bytes()),
        ]
        .concat();
        let now = Instant::now();
        connection.receive(&answer, now, &mut tally).unwrap();
        assert_eq!((tally.requests, tally.errors), (0, 2));
        assert_eq!(tally.first_error.as_deref(), Some("status 404"));
        assert_eq!(sent(&mut connection).len(), 2);
    }

    #[test]
    fn after_goaway_what_is_owed_comes_and_nothing_is_asked() {
        let (mut connection, mut tally) = connection(2);
        sent(&mut connection);
        let now = Instant::now();
        let goaway = frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]);
        connection.receive(&goaway, now, &mut tally).unwrap();
        assert!(!connection.is_done());
        let answer = [
            frame(HEADERS, END_HEADERS, 1, &[0x88]),
            frame(DATA, END_STREAM, 1, b"x"),
        ]
        .concat();
        connection.receive(&answer, now, &mut tally).unwrap();
        assert!(connection.is_done() && sent(&mut connection).is_empty());
        assert_eq!((tally.requests, tally.errors), (1, 0));
        let enhance = frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 11]);
        let fault = connection.receive(&enhance, now, &mut tally).unwrap_err();
        assert_eq!(fault.to_string(), "the server gave up with code 11");
    }

    #[test]
    fn lengths_of_strings_are_as_the_rfc_shows() {
        // RFC 7541 C.1.2: 1337 with a prefix of five bits is 31, 154, 10; with seven bits 127, 186, 9.
        let mut block = Vec::new();
        push_length(&mut block, 1337);
        assert_eq!(block, [127, 186, 9]);
        block.clear();
        push_length(&mut block, 126);
        push_length(&mut block, 127);
        push_length(&mut block, 254);
        push_length(&mut block, 255);
        assert_eq!(block, [126, 127, 0, 127, 127, 127, 128, 1]);
    }

    #[test]
    fn padding_and_priority_are_no_part_of_a_block() {
        let payload = [2, 0, 0, 0, 0, 9, 0x88, 0, 0];
        let padded = Frame {
            len: 9,
            kind: HEADERS,
            flags: PADDED | PRIORITY,
            stream: 1,
        };
        assert_eq!(status(header_block(padded, &payload)), Some(200));
    }
}
