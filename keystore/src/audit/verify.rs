//! The walk along the chain: here while the keystore runs, or offline over a copy of the file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use super::line::{self, MAX_LINE, Record, unhex};
use super::writer::CHECKPOINT_EVERY;
use super::{Checkpoint, Head, PublicKey, Statement};
use crate::error::Error;

/// What a log must agree with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expected<'a> {
    /// Whose signatures the checkpoints bear; without it they are not looked at.
    pub key: Option<PublicKey>,
    /// What the store remembers of the log.
    pub anchor: Option<Head>,
    /// Checkpoints that were kept elsewhere, whose signatures were found right.
    pub checkpoints: &'a [Checkpoint],
}

/// What a walk along the chain found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    /// The sequence number of the first record in the file: 1, or more where earlier ones were set aside.
    pub first: u64,
    /// The last record whose place is right.
    pub head: Head,
    /// The last record that a signature covers; 0: none, or no key was given.
    pub signed: u64,
    /// How often the store had been written to, at the least, as the records say.
    pub store: u64,
    /// How many tombstones there were, as the records say.
    pub tombstones: u64,
    /// What is wrong after it.
    pub fault: Option<Fault>,
}

/// The first thing wrong in a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The sequence number at which the chain breaks.
    pub seq: u64,
    /// Where the record that has, or should have, this number begins in the file, in bytes.
    pub offset: u64,
    /// How.
    pub what: String,
}

/// Walks the first `len` bytes of a log.
pub fn walk(file: &File, len: u64, expected: &Expected<'_>) -> Walk {
    let mut walker = Walker {
        expected,
        walk: Walk {
            first: 1,
            head: Head::START,
            signed: 0,
            store: 0,
            tombstones: 0,
            fault: None,
        },
        offset: 0,
        unsigned_keys: false,
    };
    let mut lines = Lines::new(file, 0, len);
    let outcome = loop {
        match lines.next() {
            Ok(Some(line)) => {
                if let Err(what) = walker.step(line) {
                    break Err(what);
                }
                walker.offset += line.len() as u64 + 1;
            }
            Ok(None) => break walker.end(),
            Err(error) => break Err((walker.next(), error.to_string())),
        }
    };
    let Walker {
        mut walk, offset, ..
    } = walker;
    walk.fault = outcome.err().map(|(seq, what)| Fault { seq, offset, what });
    walk
}

struct Walker<'a> {
    expected: &'a Expected<'a>,
    walk: Walk,
    /// Where the next record begins.
    offset: u64,
    /// Whether keys were handed out since the last checkpoint.
    unsigned_keys: bool,
}

/// A sequence number and what is wrong with it.
type Wrong = (u64, String);

impl Walker<'_> {
    fn next(&self) -> u64 {
        self.walk.head.seq + 1
    }

    fn step(&mut self, line: &[u8]) -> Result<(), Wrong> {
        let (record, hash) = line::read(line).map_err(|what| (self.next(), what))?;
        if self.offset == 0 {
            self.begin(&record)?;
        }
        let wrong = |what: String| Err((self.walk.head.seq + 1, what));
        if record.seq != self.next() {
            return wrong(format!("record {} stands here", record.seq));
        }
        if record.prev != self.walk.head.hex() {
            return wrong("it does not follow the record before".to_owned());
        }
        if record.op == "checkpoint" {
            self.signature(&record)?;
        }
        self.walk.head = Head {
            seq: record.seq,
            hash,
            bytes: self.walk.head.bytes + line.len() as u64 + 1,
        };
        self.unsigned_keys |= matches!(
            record.op.as_str(),
            "lease" | "export" | "exchange" | "hand_over" | "deposit"
        );
        if record.op == "rollback_accepted" {
            (self.walk.store, self.walk.tombstones) = (0, 0);
        }
        self.walk.store = self.walk.store.max(record.store.unwrap_or(0));
        self.walk.tombstones = self.walk.tombstones.max(record.tombstones.unwrap_or(0));
        self.meets(self.walk.head)
    }

    /// A file that does not begin with the first record of all begins with a checkpoint that says which file was
    /// before it, and what.
    fn begin(&mut self, record: &Record) -> Result<(), Wrong> {
        if record.seq == 1 {
            return Ok(());
        }
        let goes_on = record.op == "checkpoint" && record.continues.is_some();
        let before = unhex(&record.prev).filter(|_| goes_on);
        let (Some(hash), Some(bytes), Some(seq)) =
            (before, record.bytes, record.seq.checked_sub(1))
        else {
            return Err((
                1,
                format!(
                    "record {} stands here, which does not begin a file: those before it were removed",
                    record.seq
                ),
            ));
        };
        self.walk.first = record.seq;
        self.walk.head = Head { seq, hash, bytes };
        self.meets(self.walk.head)
    }

    fn signature(&mut self, record: &Record) -> Result<(), Wrong> {
        let wrong = |what: &str| Err((record.seq, what.to_owned()));
        let head = self.walk.head;
        let (Some(bytes), Some(store), Some(tombstones)) =
            (record.bytes, record.store, record.tombstones)
        else {
            return wrong("a checkpoint lacks what it states");
        };
        if bytes != head.bytes {
            return wrong("the checkpoint states another length of what comes before it");
        }
        let Some(key) = self.expected.key else {
            return Ok(());
        };
        let checkpoint = Checkpoint {
            statement: Statement {
                head,
                unix_ms: record.unix_ms,
                store,
                tombstones,
            },
            key: match record.key.as_deref().and_then(unhex) {
                Some(bytes) => PublicKey::new(bytes),
                None => return wrong("a checkpoint names no key"),
            },
            signature: match record.signature.as_deref().and_then(unhex) {
                Some(signature) => signature,
                None => return wrong("a checkpoint has no signature"),
            },
        };
        if checkpoint.key != key {
            return wrong("another key has signed the checkpoint");
        }
        if !checkpoint.is_by(&key) {
            let from = self.walk.signed + 1;
            return Err((
                record.seq,
                format!(
                    "the signature does not fit: records {from} to {} were written anew",
                    head.seq
                ),
            ));
        }
        self.walk.signed = head.seq;
        self.unsigned_keys = false;
        Ok(())
    }

    /// Compares a place with those that are known from elsewhere.
    fn meets(&self, head: Head) -> Result<(), Wrong> {
        match self
            .known()
            .find(|(known, _)| known.seq == head.seq && known.hash != head.hash)
        {
            Some((_, who)) => Err((
                head.seq,
                format!("{who} another record here: the log was rewritten"),
            )),
            None => Ok(()),
        }
    }

    fn end(&self) -> Result<(), Wrong> {
        let Walk {
            head,
            first,
            signed,
            ..
        } = self.walk;
        if let Some((known, who)) = (self.known().filter(|(known, _)| known.seq > head.seq))
            .min_by_key(|(known, _)| known.seq)
        {
            let what = format!("{who} record {}: the log was cut short", known.seq);
            return Err((self.next(), what));
        }
        if let Some(early) = (self.expected.checkpoints.iter())
            .find(|checkpoint| checkpoint.statement.head.seq + 1 < first)
        {
            let seq = early.statement.head.seq;
            return Err((
                first,
                format!(
                    "the checkpoint speaks of record {seq}, and this file begins with {first}: verify the file that was set aside"
                ),
            ));
        }
        if self.expected.key.is_some()
            && self.unsigned_keys
            && head.seq - signed > CHECKPOINT_EVERY + 1
        {
            return Err((
                signed + 1,
                format!(
                    "no checkpoint signs records {} to {}: they were written anew, or their checkpoints taken out",
                    signed + 1,
                    head.seq
                ),
            ));
        }
        Ok(())
    }

    fn known(&self) -> impl Iterator<Item = (Head, &'static str)> {
        let anchor = self
            .expected
            .anchor
            .map(|anchor| (anchor, "the store remembers"));
        let checkpoints = self.expected.checkpoints.iter();
        let checkpoints =
            checkpoints.map(|checkpoint| (checkpoint.statement.head, "the checkpoint knows"));
        anchor.into_iter().chain(checkpoints)
    }
}

/// What the end of a log says of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Claims {
    pub store: u64,
    pub tombstones: u64,
    /// Records since the last checkpoint.
    pub unsigned: u64,
    /// Who has signed that.
    pub key: Option<PublicKey>,
}

/// What the records from the last checkpoint on say; all records, where there is none.
pub(super) fn newest_claims(file: &File, end: u64) -> Result<Claims, Error> {
    let mut window = 64 << 10;
    loop {
        let start = end.saturating_sub(window);
        let mut lines = Lines::new(file, start, end);
        let mut claims = Claims::default();
        let mut signed = false;
        let mut whole = start == 0;
        while let Some(line) = (lines.next())
            .map_err(|error| Error::unavailable("cannot read the audit log", error))?
        {
            // The first is the rest of one that began before.
            if !std::mem::replace(&mut whole, true) {
                continue;
            }
            claims.unsigned += 1;
            // What is damaged is for `verify` to find.
            let Ok((record, _)) = line::read(line) else {
                continue;
            };
            if record.op == "checkpoint" {
                signed = true;
                claims.unsigned = 0;
                claims.key = record.key.as_deref().and_then(unhex).map(PublicKey::new);
            }
            if record.op == "rollback_accepted" {
                (claims.store, claims.tombstones) = (0, 0);
            }
            claims.store = claims.store.max(record.store.unwrap_or(0));
            claims.tombstones = claims.tombstones.max(record.tombstones.unwrap_or(0));
        }
        if signed || start == 0 {
            return Ok(claims);
        }
        window = window.saturating_mul(8);
    }
}

/// Reads lines from a file at its own pace, without moving the file's position.
struct Lines<'a> {
    file: &'a File,
    /// Where to read on, and where to stop.
    at: u64,
    end: u64,
    buffer: Vec<u8>,
    /// How much of the buffer was given out.
    used: usize,
}

impl<'a> Lines<'a> {
    fn new(file: &'a File, at: u64, end: u64) -> Self {
        Self {
            file,
            at,
            end,
            buffer: Vec::new(),
            used: 0,
        }
    }

    fn next(&mut self) -> io::Result<Option<&[u8]>> {
        let mut searched = 0;
        loop {
            let unread = &self.buffer[self.used..];
            if let Some(at) = unread[searched..].iter().position(|&byte| byte == b'\n') {
                let line = self.used..self.used + searched + at;
                self.used = line.end + 1;
                return Ok(Some(&self.buffer[line]));
            }
            searched = unread.len();
            if searched > MAX_LINE {
                return Err(io::Error::other("a line is too long"));
            }
            let left = self.end - self.at;
            if left == 0 {
                return match searched {
                    0 => Ok(None),
                    _ => Err(io::Error::other("the last line has no end")),
                };
            }
            self.buffer.drain(..self.used);
            self.used = 0;
            let chunk = usize::try_from(left).unwrap_or(usize::MAX).min(64 << 10);
            self.buffer.resize(searched + chunk, 0);
            let read = self.file.read_at(&mut self.buffer[searched..], self.at)?;
            self.buffer.truncate(searched + read);
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.at += read as u64;
        }
    }
}

/// Where the last whole line ends.
pub(super) fn after_last_newline(file: &File, len: u64) -> io::Result<u64> {
    let mut end = len;
    let mut chunk = vec![0; 64 << 10];
    while end > 0 {
        let size = usize::try_from(end).unwrap_or(usize::MAX).min(chunk.len());
        let start = end - size as u64;
        file.read_exact_at(&mut chunk[..size], start)?;
        if let Some(at) = chunk[..size].iter().rposition(|&byte| byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// The record that the whole line before `end` holds, in a file that begins with the first record or a checkpoint.
pub(super) fn last_head(file: &File, end: u64) -> Result<Head, Error> {
    if end == 0 {
        return Ok(Head::START);
    }
    let failed = |error| Error::unavailable("cannot read the audit log", error);
    let damaged = |at: u64, what: String| {
        Error::damaged(format!(
            "the audit log's record before byte {at}: {what}; set the log aside after looking into it"
        ))
    };
    let window = end.min(MAX_LINE as u64 + 1);
    let mut tail = vec![0; usize::try_from(window).unwrap_or(MAX_LINE + 1)];
    file.read_exact_at(&mut tail, end - window)
        .map_err(failed)?;
    tail.pop();
    let start = tail.iter().rposition(|&byte| byte == b'\n');
    let line = &tail[start.map_or(0, |at| at + 1)..];
    let (record, hash) = line::read(line).map_err(|what| damaged(end, what))?;
    let mut lines = Lines::new(file, 0, end);
    let first = lines.next().map_err(failed)?.unwrap_or_default();
    let base = match line::read(first) {
        Ok((first, _)) if first.seq > 1 => first.bytes.unwrap_or(0),
        Ok(_) | Err(_) => 0,
    };
    Ok(Head {
        seq: record.seq,
        hash,
        bytes: base + end,
    })
}
