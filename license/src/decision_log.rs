//! What was decided, for operators: every licence given and every one refused, with the reason that the player
//! was not told, and never a token or a key.
//!
//! The keystore's audit log is the proof that a key left, and is written before it does. This log adds the
//! refusals, which the keystore never sees. It holds the latest decisions in memory for the admin API, where they are
//! before the answer leaves, and all of them as JSON lines in a file that is turned over. To the file they go in groups,
//! soon after the answer: whoever kills the process takes with it what was decided in the last [`GATHERING`], and
//! whatever a slow disk had waiting.
//!
//! A record's number is given once, over restarts too: a new process reads the last one in the file and goes on from there,
//! [`UNWRITTEN`] later.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use keystore_types::{AssetId, KeyId};
use serde::{Deserialize, Serialize};

use crate::entitlement::Bearer;
use crate::policy::{Case, LeftOut};
use crate::upstream::Answered;
use crate::{Refusal, UnixTime};

/// The name of the file in the role's state folder.
pub const FILE_NAME: &str = "decisions.jsonl";

/// The most decisions held in memory.
pub const MAX_HELD: usize = 1024;

/// The most decisions that may wait for the disk. Beyond it they are counted and left out of the file, since a
/// slow disk must not hold up licences.
const MAX_WAITING: usize = 4096;

/// How many numbers a process leaves out when it begins: more than can wait for the disk at once, so that no decision that
/// a killed process had numbered, and named in its own log, shares its number with one of the next process. Only where
/// as many more were left out of the file, since its disk stood still until the kill, could one.
const UNWRITTEN: u64 = 10_000;

/// So much of the file's end is searched for its last record, in bytes. None is as long.
const TAIL_LEN: u64 = 1 << 20;

/// How long decisions gather before they are written: a thread that wakes up for each costs the workers more than the line.
const GATHERING: Duration = Duration::from_millis(10);

/// One decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Counts from 1. A process goes on from the last number in the file, and leaves out some.
    pub number: u64,
    /// Seconds since 1970-01-01T00:00:00Z.
    pub time: u64,
    /// The licence system, or the protocol of key exchange.
    pub system: &'static str,
    /// The asset that the URL, or the document of a partner, named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asset: Option<AssetId>,
    /// The keys that were given or given up, or asked for where none were.
    pub kids: Vec<KeyId>,
    /// Keys that were granted, and that a licence does without all the same: revoked, destroyed, or not to be had otherwise.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub withheld: Vec<KeyId>,
    /// The partner in key exchange, once it was known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partner: Option<String>,
    /// Who presented the token, once its signature was verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The token's `sub`, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The token's `jti`, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_id: Option<String>,
    /// The licence service that answered, and what it said besides the licence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<Answered>,
    /// What was decided on, once that was known: `castellum license replay` decides on it anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub case: Option<Case>,
    /// By whose word it passed the authorisation webhook; none: nobody was asked, or it did not pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorisation: Option<Authorisation>,
    /// Keys that the licence does without, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
    /// Whether a licence was given.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// By whose word a licence passes the authorisation webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Authorisation {
    /// By the webhook's.
    Allowed,
    /// By `license.authorisation.fail_open`: the webhook gave no answer.
    FailedOpen,
}

/// Whether a licence was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "result", rename_all = "lowercase")]
pub enum Outcome {
    /// It was.
    Granted,
    /// None was asked for: one that was kept was given up.
    Released,
    /// It was not.
    Refused {
        /// The fixed name of the reason: [`Refusal::reason`].
        reason: &'static str,
        /// The reason for people.
        detail: String,
    },
}

impl From<&Refusal> for Outcome {
    fn from(refusal: &Refusal) -> Self {
        Self::Refused {
            reason: refusal.reason(),
            detail: refusal.to_string(),
        }
    }
}

/// A decision in the making: what is known of the request so far.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) time: UnixTime,
    pub(crate) system: &'static str,
    pub(crate) asset: Option<AssetId>,
    pub(crate) key_ids: Vec<KeyId>,
    /// Those that were granted by rules, whatever became of them then.
    pub(crate) granted: Vec<KeyId>,
    pub(crate) bearer: Option<Bearer>,
    pub(crate) partner: Option<String>,
    pub(crate) upstream: Option<Answered>,
    pub(crate) case: Option<Case>,
    pub(crate) authorisation: Option<Authorisation>,
    pub(crate) left_out: Vec<LeftOut>,
}

impl Draft {
    /// What is known of a request as it comes.
    pub(crate) fn new(time: UnixTime, system: &'static str, asset: Option<AssetId>) -> Self {
        Self {
            time,
            system,
            asset,
            key_ids: Vec::new(),
            granted: Vec::new(),
            bearer: None,
            partner: None,
            upstream: None,
            case: None,
            authorisation: None,
            left_out: Vec::new(),
        }
    }
}

/// The log. Entries are visible to [`DecisionLog::latest`] before the response leaves, and in the file soon after.
#[derive(Debug)]
pub struct DecisionLog {
    held: Mutex<Held>,
    file: Option<Writer>,
}

#[derive(Debug, Default)]
struct Held {
    last_number: u64,
    entries: VecDeque<Entry>,
}

impl DecisionLog {
    /// A log in memory only.
    pub fn in_memory() -> Self {
        Self {
            held: Mutex::default(),
            file: None,
        }
    }

    /// A log that also appends to [`FILE_NAME`] in this folder. Where that has half of `capacity`, in bytes, it becomes
    /// `decisions.jsonl.1`, in place of the last one of that name: a bound on the disk that anyone can fill without a token.
    ///
    /// # Errors
    /// Those of the file system; a file that is there and holds no lines.
    pub fn open(folder: &Path, capacity: u64) -> io::Result<Self> {
        let (journal, last_number) = Journal::open(folder.join(FILE_NAME), capacity / 2)?;
        let held = Held {
            last_number: last_number.map_or(0, |last| last.saturating_add(UNWRITTEN)),
            entries: VecDeque::new(),
        };
        Ok(Self {
            held: Mutex::new(held),
            file: Some(Writer::start(journal)?),
        })
    }

    /// The latest decisions, newest first.
    pub fn latest(&self, count: usize) -> Vec<Entry> {
        self.held()
            .entries
            .iter()
            .rev()
            .take(count)
            .cloned()
            .collect()
    }

    pub(crate) fn record(&self, draft: Draft, outcome: Outcome) {
        let (issuer, subject, token_id) = match draft.bearer {
            Some(bearer) => (Some(bearer.issuer), bearer.subject, bearer.token_id),
            None => (None, None, None),
        };
        let mut withheld = match outcome {
            Outcome::Granted => draft.granted,
            Outcome::Released | Outcome::Refused { .. } => Vec::new(),
        };
        withheld.retain(|key_id| !draft.key_ids.contains(key_id));
        let mut entry = Entry {
            number: 0,
            time: draft.time.as_seconds(),
            system: draft.system,
            asset: draft.asset,
            kids: draft.key_ids,
            withheld,
            partner: draft.partner,
            issuer,
            subject,
            token_id,
            upstream: draft.upstream,
            case: draft.case,
            authorisation: draft.authorisation,
            left_out: draft.left_out,
            outcome,
        };
        let mut held = self.held();
        held.last_number = held.last_number.saturating_add(1);
        entry.number = held.last_number;
        trace(&entry);
        // Under the lock, so that the file has the order of the numbers; it only queues.
        if let Some(file) = &self.file {
            file.append(&entry);
        }
        if held.entries.len() == MAX_HELD {
            held.entries.pop_front();
        }
        held.entries.push_back(entry);
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// That there is a record, for those who read one stream of logs. It names nobody, since logs go where they will: whose
/// it is stands in the record of this number.
fn trace(entry: &Entry) {
    let (result, reason) = match &entry.outcome {
        Outcome::Granted => ("granted", None),
        Outcome::Released => ("released", None),
        Outcome::Refused { reason, .. } => ("refused", Some(*reason)),
    };
    tracing::info!(
        target: "audit",
        number = entry.number,
        result,
        reason,
        system = entry.system,
        asset = entry.asset.as_ref().map(AssetId::as_str),
        kids = ?entry.kids,
        partner = entry.partner,
        issuer = entry.issuer,
        "licence {result}",
    );
}

/// A thread that owns the file: appending may wait for the disk, which no worker may.
#[derive(Debug)]
struct Writer {
    /// Taken when dropped, which ends the thread.
    lines: Option<SyncSender<Vec<u8>>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    fn start(mut journal: Journal) -> io::Result<Self> {
        let (lines, queue) = sync_channel(MAX_WAITING);
        let thread = std::thread::Builder::new()
            .name("decision-log".to_owned())
            .spawn(move || journal.follow(&queue))?;
        Ok(Self {
            lines: Some(lines),
            thread: Some(thread),
        })
    }

    fn append(&self, entry: &Entry) {
        let Ok(mut line) = serde_json::to_vec(entry) else {
            return;
        };
        line.push(b'\n');
        if let Some(lines) = &self.lines {
            match lines.try_send(line) {
                Ok(()) => {}
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => left_out(),
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.lines = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn left_out() {
    metrics::counter!("castellum_license_decisions_unwritten_total").increment(1);
}

struct Journal {
    path: PathBuf,
    file: File,
    len: u64,
    max_len: u64,
}

/// The end of a file of decisions.
struct Tail {
    /// Its length, in bytes.
    len: u64,
    /// That of its whole lines.
    whole: u64,
    /// The number of the last record; none: there is none.
    number: Option<u64>,
}

impl Tail {
    fn read(file: &File) -> io::Result<Self> {
        #[derive(Deserialize)]
        struct Numbered {
            number: u64,
        }
        let len = file.metadata()?.len();
        let start = len.saturating_sub(TAIL_LEN);
        let mut bytes = vec![0; usize::try_from(len - start).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut bytes, start)?;
        let whole = match bytes.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            None if start == 0 => 0,
            None => {
                let what = "its last MiB holds no line end, so it is no decision log: move it away";
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
        };
        let mut lines = bytes[..whole].rsplit(|byte| *byte == b'\n');
        let number = lines.find_map(|line| serde_json::from_slice::<Numbered>(line).ok());
        Ok(Self {
            len,
            whole: start + whole as u64,
            number: number.map(|record| record.number),
        })
    }
}

impl Journal {
    /// Opens the file, made where there is none, and says which number was the last, there or in the file before it. A line
    /// that a kill or a full disk has torn is cut off: it is no record.
    fn open(path: PathBuf, max_len: u64) -> io::Result<(Self, Option<u64>)> {
        let file = Self::create(&path)?;
        let tail = Tail::read(&file)?;
        // What another process has written since is no torn line.
        if tail.whole < tail.len && file.metadata()?.len() == tail.len {
            tracing::warn!(path = %path.display(), "the last record was torn and is cut off");
            file.set_len(tail.whole)?;
        }
        let last_number = match tail.number {
            Some(number) => Some(number),
            None => match File::open(turned_over(&path)) {
                Ok(before) => Tail::read(&before)?.number,
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            },
        };
        let journal = Self {
            path,
            len: file.metadata()?.len(),
            file,
            max_len,
        };
        Ok((journal, last_number))
    }

    fn create(path: &Path) -> io::Result<File> {
        // It says who watches what: not for every user of the host.
        (OpenOptions::new().create(true).read(true).append(true))
            .mode(0o640)
            .open(path)
    }

    fn follow(&mut self, queue: &Receiver<Vec<u8>>) {
        let mut failing = false;
        while let Ok(first) = queue.recv() {
            std::thread::sleep(GATHERING);
            let lines = std::iter::once(first).chain(queue.try_iter().take(MAX_WAITING));
            let lines: Vec<_> = lines.collect();
            let written = self.append(&lines);
            let lost = match &written {
                Ok(()) => 0,
                Err((written, _)) => lines.len() - written,
            };
            (0..lost).for_each(|_| left_out());
            // Once, not once for each request.
            if let Err((_, error)) = &written
                && !failing
            {
                tracing::error!(%error, path = %self.path.display(), "cannot write the decision log");
            }
            failing = written.is_err();
        }
    }

    /// Appends whole lines, as many by one call as the file has room for.
    ///
    /// # Errors
    /// Those of the file system, with how many lines were written before.
    fn append(&mut self, lines: &[Vec<u8>]) -> Result<(), (usize, io::Error)> {
        let mut written = 0;
        while written < lines.len() {
            let failed = |error| (written, error);
            if self.len > 0 && self.len + lines[written].len() as u64 > self.max_len {
                self.turn_over().map_err(failed)?;
            }
            // One at least, however long.
            let mut piece = Vec::new();
            let mut count = 0;
            for line in &lines[written..] {
                let len = self.len + (piece.len() + line.len()) as u64;
                if count > 0 && len > self.max_len {
                    break;
                }
                piece.extend_from_slice(line);
                count += 1;
            }
            if let Err(error) = self.file.write_all(&piece) {
                // What was written of it would tear the next line as well.
                let _ = self.file.set_len(self.len);
                return Err(failed(error));
            }
            self.len += piece.len() as u64;
            written += count;
        }
        Ok(())
    }

    fn turn_over(&mut self) -> io::Result<()> {
        match fs::rename(&self.path, turned_over(&self.path)) {
            // Somebody has moved it away, or it was turned over and no new one could be made.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.file = Self::create(&self.path)?;
        self.len = self.file.metadata()?.len();
        Ok(())
    }
}

/// The name of the file before this one.
fn turned_over(path: &Path) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(".1");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::System;

    const ROOM: u64 = 1 << 20;

    fn draft(time: u64) -> Draft {
        Draft {
            time: UnixTime::from_seconds(time),
            system: System::ClearKey.as_str(),
            asset: Some("film".parse().unwrap()),
            key_ids: vec![KeyId::new([1; 16])],
            granted: Vec::new(),
            bearer: Some(Bearer {
                issuer: "ott".to_owned(),
                subject: Some("a \"quoted\"\nname".to_owned()),
                token_id: None,
            }),
            partner: None,
            upstream: None,
            case: None,
            authorisation: None,
            left_out: Vec::new(),
        }
    }

    #[test]
    fn a_file_that_somebody_moved_away_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("decisions.jsonl");
        let (mut journal, _) = Journal::open(path.clone(), 10).unwrap();
        journal.append(&[b"first\n".to_vec()]).unwrap();
        fs::remove_file(&path).unwrap();
        journal.append(&[b"second\n".to_vec()]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second\n");
    }

    #[test]
    fn the_latest_come_first_and_the_oldest_go() {
        let log = DecisionLog::in_memory();
        for time in 0..MAX_HELD as u64 + 5 {
            log.record(draft(time), Outcome::Granted);
        }
        let latest = log.latest(3);
        let numbers: Vec<_> = latest.iter().map(|entry| entry.number).collect();
        assert_eq!(numbers, [1029, 1028, 1027]);
        assert_eq!(latest[0].time, 1028);
        assert_eq!(log.latest(usize::MAX).len(), MAX_HELD);
    }

    #[test]
    fn the_file_has_one_object_a_line_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let log = DecisionLog::open(folder.path(), ROOM).unwrap();
        log.record(draft(10), Outcome::Granted);
        log.record(draft(11), Outcome::from(&Refusal::KeysUnknown));
        drop(log);
        // A restart appends.
        let log = DecisionLog::open(folder.path(), ROOM).unwrap();
        log.record(
            Draft {
                bearer: None,
                ..draft(12)
            },
            Outcome::from(&Refusal::NoToken),
        );
        drop(log);

        let text = fs::read_to_string(folder.path().join(FILE_NAME)).unwrap();
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(
            lines,
            [
                serde_json::json!({
                    "number": 1, "time": 10, "system": "clearkey", "asset": "film",
                    "kids": ["01010101-0101-0101-0101-010101010101"],
                    "issuer": "ott", "subject": "a \"quoted\"\nname", "result": "granted",
                }),
                serde_json::json!({
                    "number": 2, "time": 11, "system": "clearkey", "asset": "film",
                    "kids": ["01010101-0101-0101-0101-010101010101"],
                    "issuer": "ott", "subject": "a \"quoted\"\nname", "result": "refused",
                    "reason": "keys_unknown", "detail": "the asset has none of the keys",
                }),
                serde_json::json!({
                    "number": 2 + UNWRITTEN + 1, "time": 12, "system": "clearkey", "asset": "film",
                    "kids": ["01010101-0101-0101-0101-010101010101"],
                    "result": "refused", "reason": "no_token", "detail": "no token",
                }),
            ]
        );
    }

    /// Whatever the file's end looks like, no number is given twice, and the file has whole lines.
    #[test]
    fn numbers_go_on_over_restarts() {
        let whole = "{\"number\":41,\"kids\":[]}\n{\"number\":42}\n";
        let long = format!("{}\n{whole}", "x".repeat(3 << 20));
        for (now, before, next) in [
            (None, None, 1),
            (Some(""), None, 1),
            (Some(whole), None, 42 + UNWRITTEN + 1),
            (Some(whole), Some("{\"number\":7}\n"), 42 + UNWRITTEN + 1),
            // Just turned over.
            (Some(""), Some(whole), 42 + UNWRITTEN + 1),
            (None, Some(whole), 42 + UNWRITTEN + 1),
            (Some("{\"numb"), Some(whole), 42 + UNWRITTEN + 1),
            (Some("no record\n"), None, 1),
            (Some(long.as_str()), None, 42 + UNWRITTEN + 1),
        ] {
            for torn in ["", "{\"number\":43,\"ki"] {
                let folder = tempfile::tempdir().unwrap();
                let path = folder.path().join(FILE_NAME);
                if let Some(now) = now {
                    fs::write(&path, format!("{now}{torn}")).unwrap();
                }
                if let Some(before) = before {
                    fs::write(turned_over(&path), before).unwrap();
                }
                let log = DecisionLog::open(folder.path(), 8 << 20).unwrap();
                log.record(draft(1), Outcome::Granted);
                assert_eq!(log.latest(1)[0].number, next, "{now:?} {torn}");
                drop(log);
                let text = fs::read_to_string(&path).unwrap();
                let last: serde_json::Value =
                    serde_json::from_str(text.lines().last().unwrap()).unwrap();
                assert_eq!(last["number"], next);
                let kept = now.unwrap_or_default().rsplit_once('\n');
                let kept = kept.map_or(0, |(lines, _)| lines.len() + 1);
                assert_eq!(text[..kept], now.unwrap_or_default()[..kept]);
                assert_eq!(text[kept..].lines().count(), 1, "{text}");
            }
        }
    }

    #[test]
    fn a_file_without_lines_is_no_log_and_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE_NAME);
        let film = vec![b'x'; 2 << 20];
        fs::write(&path, &film).unwrap();
        let error = DecisionLog::open(folder.path(), ROOM).unwrap_err();
        assert!(error.to_string().contains("move it away"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), film);
    }

    #[test]
    fn both_files_have_room_for_what_is_configured() {
        let folder = tempfile::tempdir().unwrap();
        let log = DecisionLog::open(folder.path(), 4000).unwrap();
        for time in 0..100 {
            log.record(draft(time), Outcome::Granted);
        }
        drop(log);
        let path = folder.path().join(FILE_NAME);
        let both = [path.clone(), turned_over(&path)];
        let len: u64 = both.map(|path| path.metadata().unwrap().len()).iter().sum();
        assert!((2000..=4000).contains(&len), "{len}");
    }

    #[test]
    fn a_full_file_is_turned_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE_NAME);
        let last = folder.path().join("decisions.jsonl.1");
        let lines = [
            "12345\n",
            "678\n",
            "9\n",
            "a line longer than the file may be\n",
            "b\n",
        ];
        let lines = lines.map(|line| line.as_bytes().to_vec());
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        for at_once in [1, 2, 5] {
            let _ = fs::remove_file(&path);
            let (mut journal, _) = Journal::open(path.clone(), 10).unwrap();
            journal.append(&lines[..3]).unwrap();
            assert_eq!(
                (read(&path), read(&last)),
                ("9\n".into(), "12345\n678\n".into())
            );
            for lines in lines[3..].chunks(at_once) {
                journal.append(lines).unwrap();
            }
            assert_eq!(read(&path), "b\n");
            assert_eq!(read(&last), "a line longer than the file may be\n");
        }
    }
}
