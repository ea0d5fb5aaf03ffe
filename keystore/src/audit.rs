//! The audit log: one line of JSON for each lease, export and act of administration, each bound to the one before.
//!
//! ```text
//! {"seq":7,"unix_ms":1790000000000,"caller":"license","op":"export",...,"prev":"<64 hex>","hash":"<64 hex>"}\n
//!  \______________________________ hashed with SHA-256 ______________________________/
//! ```
//!
//! `hash` covers the line's bytes up to the comma before it, `prev` is the hash of the line before (64 zeros in
//! the first). So a line that is changed, removed, put in or moved breaks the chain at a sequence number that
//! [`walk`] names. Whoever can rewrite the whole file can rewrite the whole chain: the store keeps an anchor
//! ([`Head`]) that is moved at each administrative act, and an operator can note the head of `keystore status`
//! elsewhere.
//!
//! A record is on disk before the key that it speaks of leaves. Records that come in while the disk is busy are
//! written and synced as one group. A write that fails is taken back and the request refused; after a sync that
//! fails nothing is known of the disk, and the log refuses everything until the keystore is started anew.
//!
//! The file has one writer: a thread of its own, since it does nothing but wait for the disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use keystore_types::{AssetId, KeyId, Label, Scheme};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::error::{Error, ErrorKind};

/// The longest line: a lease of the most keys, with the longest names, many times over.
const MAX_LINE: usize = 256 << 10;

/// The most bytes written in one group.
const MAX_GROUP: usize = 1 << 20;

/// The most records that wait for the disk; further ones wait to be taken.
const QUEUE: usize = 1024;

/// What happened.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Event {
    /// The keystore started.
    Start {
        /// Bytes of an unfinished last line that a crash left and that were cut off. No key left for it.
        torn_bytes: u64,
    },
    /// A root was made.
    Init,
    /// The root was taken into memory, or was not: the passphrase was wrong.
    Unseal {
        /// Whether it was.
        opened: bool,
    },
    /// The root was wiped from memory.
    Seal,
    /// Keys were handed out to encrypt with.
    Lease {
        /// The keys.
        keys: Vec<Key>,
        /// Those of them that were made for this lease.
        made: Vec<KeyId>,
    },
    /// Keys were handed out for a licence.
    Export {
        /// The asset named.
        asset: AssetId,
        /// The keys.
        keys: Vec<Key>,
        /// Keys that were asked for and not handed out: unknown, destroyed or another asset's.
        withheld: Vec<KeyId>,
        /// The configured issuer of the entitlement.
        issuer: String,
        /// Its `sub`.
        subject: Option<String>,
        /// Its `jti`.
        token_id: Option<String>,
        /// The licence system.
        system: String,
    },
    /// A new root takes the place of the old one.
    RotateRoot {
        /// Its version.
        version: u32,
    },
    /// A tenant's new keys are wrapped by a new KEK from now on, and all others are wrapped anew.
    RotateKek {
        /// The tenant.
        tenant: String,
        /// The KEK's version.
        version: u32,
    },
    /// A tenant's keys are opened only under this version of its KEK or a later one. By `keystore` itself: all of
    /// them are wrapped anew.
    Floor {
        /// The tenant.
        tenant: String,
        /// The lowest version.
        version: u32,
    },
    /// A key was destroyed.
    Destroy {
        /// The key.
        key_id: KeyId,
    },
    /// Somebody asked for what they are not granted.
    Denied {
        /// The capability that they lack.
        capability: &'static str,
        /// The asset, where there is one.
        asset: Option<AssetId>,
    },
}

/// A key in a record.
#[derive(Clone, Debug, Serialize)]
pub struct Key {
    /// Its id.
    pub key_id: KeyId,
    /// Its asset.
    pub asset: AssetId,
    /// Its tracks.
    pub label: Label,
    /// Its scheme.
    pub scheme: Scheme,
}

/// A place in the chain: everything up to it is fixed by its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The sequence number of the last record; 0 before the first.
    pub seq: u64,
    /// Its hash.
    pub hash: [u8; 32],
}

impl Head {
    /// Before the first record.
    pub const START: Self = Self {
        seq: 0,
        hash: [0; 32],
    };

    /// The hash in hexadecimal.
    pub fn hex(&self) -> String {
        hex(&self.hash)
    }
}

/// The log, open for writing. The file is closed when the last handle is dropped.
pub struct Log {
    records: mpsc::Sender<Record>,
    file: Arc<File>,
    committed: Arc<Mutex<Committed>>,
}

/// How much of the file is on disk.
#[derive(Clone, Copy, Debug)]
struct Committed {
    head: Head,
    len: u64,
}

/// A record on its way to the disk.
struct Record {
    unix_ms: u64,
    caller: String,
    event: Event,
    done: oneshot::Sender<Result<Head, String>>,
}

impl Log {
    /// Goes on with the log in `file`, which may be empty. Returns also how many bytes of an unfinished last line
    /// were cut off.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] when the last whole line is not a record; those of the file.
    pub fn open(file: File) -> Result<(Self, u64), Error> {
        let failed = |error| Error::unavailable("cannot read the audit log", error);
        let len = file.metadata().map_err(failed)?.len();
        let end = after_last_newline(&file, len).map_err(failed)?;
        if end < len {
            (file.set_len(end).and_then(|()| file.sync_all())).map_err(|error| {
                Error::unavailable("cannot cut the audit log's torn end", error)
            })?;
        }
        let head = last_head(&file, end)?;
        let committed = Arc::new(Mutex::new(Committed { head, len: end }));
        let file = Arc::new(file);
        let (records, queue) = mpsc::channel(QUEUE);
        let writer = Writer {
            file: file.clone(),
            committed: committed.clone(),
            broken: None,
        };
        std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writer.run(queue))
            .map_err(|error| Error::unavailable("cannot start the audit thread", error))?;
        let log = Self {
            records,
            file,
            committed,
        };
        Ok((log, len - end))
    }

    /// Writes a record. When this returns it is on disk.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when it is not, or may not be.
    pub async fn append(&self, unix_ms: u64, caller: &str, event: Event) -> Result<Head, Error> {
        let (done, answer) = oneshot::channel();
        let record = Record {
            unix_ms,
            caller: caller.to_owned(),
            event,
            done,
        };
        let gone = || Error::new(ErrorKind::Unavailable, "the audit thread is gone");
        self.records.send(record).await.map_err(|_| gone())?;
        match answer.await.map_err(|_| gone())? {
            Ok(head) => Ok(head),
            Err(why) => Err(Error::unavailable("cannot write the audit log", why)),
        }
    }

    /// The last record on disk.
    pub fn head(&self) -> Head {
        lock(&self.committed).head
    }

    /// Walks the chain as far as it is on disk now. Reads the whole file: for a blocking thread.
    pub fn verify(&self, anchor: Option<Head>) -> Walk {
        let committed = *lock(&self.committed);
        let mut walk = walk(&self.file, committed.len, anchor);
        if walk.fault.is_none() && walk.head != committed.head {
            walk.fault = Some(Fault {
                seq: walk.head.seq,
                what: "the file is not what was written".to_owned(),
            });
        }
        walk
    }
}

fn lock(committed: &Mutex<Committed>) -> std::sync::MutexGuard<'_, Committed> {
    committed.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The one that writes.
struct Writer {
    file: Arc<File>,
    committed: Arc<Mutex<Committed>>,
    /// Why nothing can be written any more.
    broken: Option<String>,
}

impl Writer {
    fn run(mut self, mut queue: mpsc::Receiver<Record>) {
        while let Some(first) = queue.blocking_recv() {
            let mut group = Group::after(*lock(&self.committed));
            group.add(first);
            while group.bytes.len() < MAX_GROUP
                && let Ok(next) = queue.try_recv()
            {
                group.add(next);
            }
            let written = self.write(&group);
            for (head, done) in group.waiting {
                // Whoever asked may have gone; the record stands all the same.
                let _ = done.send(written.clone().map(|()| head));
            }
        }
    }

    fn write(&mut self, group: &Group) -> Result<(), String> {
        if let Some(why) = &self.broken {
            return Err(why.clone());
        }
        let before = *lock(&self.committed);
        if let Err(error) = self.file.write_all_at(&group.bytes, before.len) {
            tracing::error!(%error, "cannot write the audit log: no key leaves");
            if let Err(error) = self.file.set_len(before.len) {
                self.broken = Some(format!("a write could not be taken back: {error}"));
            }
            return Err(error.to_string());
        }
        if let Err(error) = self.file.sync_data() {
            tracing::error!(%error, "cannot sync the audit log: no key leaves until a restart");
            let why = format!("a sync failed ({error}); look at the disk and restart");
            self.broken = Some(why.clone());
            return Err(why);
        }
        *lock(&self.committed) = group.end;
        Ok(())
    }
}

/// Records that are written and synced at once.
struct Group {
    bytes: Vec<u8>,
    end: Committed,
    waiting: Vec<(Head, oneshot::Sender<Result<Head, String>>)>,
}

impl Group {
    fn after(committed: Committed) -> Self {
        Self {
            bytes: Vec::new(),
            end: committed,
            waiting: Vec::new(),
        }
    }

    fn add(&mut self, record: Record) {
        match line(self.end.head, &record) {
            Ok((line, head)) => {
                self.bytes.extend_from_slice(&line);
                self.end.head = head;
                self.end.len += line.len() as u64;
                self.waiting.push((head, record.done));
            }
            Err(why) => {
                let _ = record.done.send(Err(why));
            }
        }
    }
}

/// One line, as it is written.
#[derive(Serialize)]
struct Line<'a> {
    seq: u64,
    unix_ms: u64,
    caller: &'a str,
    #[serde(flatten)]
    event: &'a Event,
    prev: String,
}

const HASH_FIELD: &[u8] = b",\"hash\":\"";

fn line(prev: Head, record: &Record) -> Result<(Vec<u8>, Head), String> {
    let seq = prev.seq + 1;
    let mut line = serde_json::to_vec(&Line {
        seq,
        unix_ms: record.unix_ms,
        caller: &record.caller,
        event: &record.event,
        prev: prev.hex(),
    })
    .map_err(|error| error.to_string())?;
    // The closing brace comes again after the hash.
    line.pop();
    let hash = sha256(&line);
    line.extend_from_slice(HASH_FIELD);
    line.extend_from_slice(hex(&hash).as_bytes());
    line.extend_from_slice(b"\"}\n");
    if line.len() > MAX_LINE {
        return Err(format!("a record of {} bytes", line.len()));
    }
    Ok((line, Head { seq, hash }))
}

/// What every line has, whatever its event.
#[derive(Deserialize)]
struct Link {
    seq: u64,
    prev: String,
    hash: String,
}

/// Reads one line without its newline; the hash that it claims is the one it has.
fn link(line: &[u8]) -> Result<(Head, String), String> {
    let link: Link = serde_json::from_slice(line).map_err(|error| format!("no record: {error}"))?;
    let tail = HASH_FIELD.len() + 64 + 2;
    let body = (line.len().checked_sub(tail))
        .filter(|&at| line[at..].starts_with(HASH_FIELD))
        .map(|at| &line[..at])
        .ok_or("the hash is not at its end")?;
    let hash = sha256(body);
    if hex(&hash) != link.hash {
        return Err("its contents were changed: the hash does not fit".to_owned());
    }
    let head = Head {
        seq: link.seq,
        hash,
    };
    Ok((head, link.prev))
}

/// What a walk along the chain found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    /// The last record whose place is right.
    pub head: Head,
    /// What is wrong after it.
    pub fault: Option<Fault>,
}

/// The first thing wrong in a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The sequence number at which the chain breaks.
    pub seq: u64,
    /// How.
    pub what: String,
}

/// Walks the first `len` bytes of a log. `anchor` is a record that must be in it.
pub fn walk(file: &File, len: u64, anchor: Option<Head>) -> Walk {
    let mut head = Head::START;
    let fault = |head: Head, what: String| Walk {
        head,
        fault: Some(Fault {
            seq: head.seq + 1,
            what,
        }),
    };
    let mut lines = Lines::new(file, len);
    loop {
        let line = match lines.next() {
            Ok(Some(line)) => line,
            Ok(None) => break,
            Err(error) => return fault(head, error.to_string()),
        };
        let (next, prev) = match link(line) {
            Ok(link) => link,
            Err(what) => return fault(head, what),
        };
        if next.seq != head.seq + 1 {
            return fault(head, format!("record {} stands here", next.seq));
        }
        if prev != head.hex() {
            return fault(head, "it does not follow the record before".to_owned());
        }
        head = next;
        if anchor.is_some_and(|anchor| anchor.seq == head.seq && anchor.hash != head.hash) {
            return Walk {
                head,
                fault: Some(Fault {
                    seq: head.seq,
                    what: "the store remembers another record here: the log was rewritten"
                        .to_owned(),
                }),
            };
        }
    }
    match anchor {
        Some(anchor) if anchor.seq > head.seq => fault(
            head,
            format!(
                "the store remembers record {}: the log was cut short",
                anchor.seq
            ),
        ),
        Some(_) | None => Walk { head, fault: None },
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
    fn new(file: &'a File, end: u64) -> Self {
        Self {
            file,
            at: 0,
            end,
            buffer: Vec::new(),
            used: 0,
        }
    }

    fn next(&mut self) -> io::Result<Option<&[u8]>> {
        self.buffer.drain(..self.used);
        self.used = 0;
        let mut searched = 0;
        loop {
            if let Some(at) = self.buffer[searched..]
                .iter()
                .position(|&byte| byte == b'\n')
            {
                let len = searched + at;
                self.used = len + 1;
                return Ok(Some(&self.buffer[..len]));
            }
            searched = self.buffer.len();
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
fn after_last_newline(file: &File, len: u64) -> io::Result<u64> {
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

/// The record that the whole line before `end` holds.
fn last_head(file: &File, end: u64) -> Result<Head, Error> {
    if end == 0 {
        return Ok(Head::START);
    }
    let failed = |error| Error::unavailable("cannot read the audit log", error);
    let window = end.min(MAX_LINE as u64 + 1);
    let mut tail = vec![0; usize::try_from(window).unwrap_or(MAX_LINE + 1)];
    file.read_exact_at(&mut tail, end - window)
        .map_err(failed)?;
    tail.pop();
    let start = tail.iter().rposition(|&byte| byte == b'\n');
    let line = &tail[start.map_or(0, |at| at + 1)..];
    link(line).map(|(head, _)| head).map_err(|what| {
        Error::damaged(format!(
            "the audit log's last record, before byte {end}: {what}; set the log aside after looking into it"
        ))
    })
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(64), |mut text, byte| {
            // Writing to a string does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use tempfile::tempfile;

    use super::*;

    fn event() -> Event {
        Event::Unseal { opened: true }
    }

    async fn log_of(file: &File, records: u64) -> Log {
        let (log, torn) = Log::open(file.try_clone().unwrap()).unwrap();
        assert_eq!(torn, 0);
        for number in 0..records {
            log.append(number, "tests", event()).await.unwrap();
        }
        log
    }

    /// The log's lines, with newlines.
    fn lines(file: &File) -> Vec<String> {
        let len = file.metadata().unwrap().len();
        let mut bytes = vec![0; usize::try_from(len).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        text.split_inclusive('\n').map(str::to_owned).collect()
    }

    fn walk_lines(lines: &[String], anchor: Option<Head>) -> Walk {
        let mut file = tempfile().unwrap();
        let text = lines.concat();
        file.write_all(text.as_bytes()).unwrap();
        walk(&file, text.len() as u64, anchor)
    }

    /// The form of a line is read by programs that are not ours: this is brittle, which is the point.
    #[tokio::test]
    async fn the_form_of_a_line() {
        let file = tempfile().unwrap();
        let log = log_of(&file, 0).await;
        let key_id = "9eb4050d-e44b-4802-932e-27d75083e266".parse().unwrap();
        let event = Event::Destroy { key_id };
        log.append(1_790_000_000_000, "operator", event)
            .await
            .unwrap();
        let body = "{\"seq\":1,\"unix_ms\":1790000000000,\"caller\":\"operator\",\"op\":\"destroy\",\
            \"key_id\":\"9eb4050d-e44b-4802-932e-27d75083e266\",\
            \"prev\":\"0000000000000000000000000000000000000000000000000000000000000000\"";
        let hash = hex(&sha256(body.as_bytes()));
        assert_eq!(lines(&file), [format!("{body},\"hash\":\"{hash}\"}}\n")]);
    }

    #[tokio::test]
    async fn a_chain_goes_on_after_a_restart() {
        let file = tempfile().unwrap();
        let head = log_of(&file, 3).await.head();
        let log = log_of(&file, 2).await;
        let walk = log.verify(Some(head));
        assert_eq!(walk.fault, None);
        assert_eq!(walk.head.seq, 5);
        assert_eq!(walk.head, log.head());
    }

    #[tokio::test]
    async fn records_that_come_at_once_all_get_their_place() {
        let file = tempfile().unwrap();
        let log = log_of(&file, 0).await;
        let appends = (0..500).map(|number| log.append(number, "tests", event()));
        let heads = futures_util::future::join_all(appends).await;
        let mut seqs: Vec<_> = heads.into_iter().map(|head| head.unwrap().seq).collect();
        seqs.sort_unstable();
        assert!(seqs.into_iter().eq(1..=500));
        assert_eq!(log.verify(None).fault, None);
    }

    #[tokio::test]
    async fn names_the_first_record_that_is_wrong() {
        let file = tempfile().unwrap();
        let anchor = log_of(&file, 5).await.head();
        let good = lines(&file);
        assert_eq!(walk_lines(&good, Some(anchor)).fault, None);
        type Change = fn(&mut Vec<String>);
        let cases: [(&str, u64, Change); 6] = [
            ("changed", 3, |lines| {
                lines[2] = lines[2].replace("tests", "other")
            }),
            ("removed", 3, |lines| drop(lines.remove(2))),
            ("first removed", 1, |lines| drop(lines.remove(0))),
            ("doubled", 4, |lines| lines.insert(3, lines[2].clone())),
            ("swapped", 3, |lines| lines.swap(2, 3)),
            ("garbage", 4, |lines| lines[3] = "not a record\n".to_owned()),
        ];
        for (what, seq, change) in cases {
            let mut lines = good.clone();
            change(&mut lines);
            let fault = walk_lines(&lines, Some(anchor)).fault;
            assert_eq!(fault.map(|fault| fault.seq), Some(seq), "{what}");
        }
    }

    #[tokio::test]
    async fn the_anchor_finds_a_log_that_was_cut_short_or_rewritten() {
        let file = tempfile().unwrap();
        let anchor = log_of(&file, 5).await.head();
        let good = lines(&file);
        let fault = walk_lines(&good[..4], Some(anchor)).fault.unwrap();
        assert_eq!(fault.seq, 5);
        assert!(fault.what.contains("cut short"), "{fault:?}");
        assert_eq!(walk_lines(&good[..4], None).fault, None);

        // A whole new chain, each link right.
        let other = tempfile().unwrap();
        let log = log_of(&other, 0).await;
        for _ in 0..6 {
            log.append(99, "forger", event()).await.unwrap();
        }
        let fault = log.verify(Some(anchor)).fault.unwrap();
        assert_eq!(fault.seq, 5);
        assert!(fault.what.contains("rewritten"), "{fault:?}");
    }

    #[tokio::test]
    async fn an_unfinished_last_line_is_cut_off() {
        let file = tempfile().unwrap();
        drop(log_of(&file, 3).await);
        let good = lines(&file);
        let whole = good.concat().len() as u64;
        for torn in [
            &good[0].as_bytes()[..40],
            &good[0].as_bytes()[..1],
            &[0; 5000],
        ] {
            file.write_all_at(torn, whole).unwrap();
            let (log, cut) = Log::open(file.try_clone().unwrap()).unwrap();
            assert_eq!(cut, torn.len() as u64);
            assert_eq!(log.head().seq, 3);
            assert_eq!(lines(&file), good);
        }
        // Nothing but a torn line: the log begins anew.
        file.set_len(10).unwrap();
        let (log, cut) = Log::open(file.try_clone().unwrap()).unwrap();
        assert_eq!((cut, log.head()), (10, Head::START));
    }

    #[tokio::test]
    async fn a_damaged_last_record_is_not_built_upon() {
        let file = tempfile().unwrap();
        drop(log_of(&file, 3).await);
        let mut changed = lines(&file);
        changed[2] = changed[2].replace("tests", "other");
        let text = changed.concat();
        file.write_all_at(text.as_bytes(), 0).unwrap();
        let error = Log::open(file).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Damaged);
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_refused_and_taken_back() {
        // Every write fails: the file is open for reading only.
        let path = tempfile::NamedTempFile::new().unwrap();
        drop(log_of(path.as_file(), 2).await);
        let (log, _) = Log::open(File::open(path.path()).unwrap()).unwrap();
        let before = log.head();
        let error = log.append(0, "tests", event()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_eq!(log.head(), before);
        assert_eq!(log.verify(Some(before)).fault, None);
    }

    #[tokio::test]
    async fn a_full_disk_refuses() {
        let full = match File::options().read(true).write(true).open("/dev/full") {
            Ok(full) => full,
            Err(error) => return eprintln!("skipped: no /dev/full ({error})"),
        };
        let head = Head::START;
        let committed = Arc::new(Mutex::new(Committed { head, len: 0 }));
        let mut writer = Writer {
            file: Arc::new(full),
            committed: committed.clone(),
            broken: None,
        };
        let (done, answer) = oneshot::channel();
        let mut group = Group::after(*lock(&committed));
        group.add(Record {
            unix_ms: 0,
            caller: "tests".to_owned(),
            event: event(),
            done,
        });
        let refused = writer.write(&group).unwrap_err();
        assert!(refused.contains("No space left"), "{refused}");
        assert_eq!(lock(&committed).head, head);
        drop((group, answer));
    }
}
