//! The audit log: one line of JSON for each lease, export and act of administration, each bound to the one before.
//!
//! | file | what |
//! |---|---|
//! | `line.rs` | a record as bytes |
//! | `checkpoint.rs` | signed statements of how far the log had come |
//! | `writer.rs` | the one thread that writes |
//! | `space.rs` | room that is kept for the log, and who may still write when it runs out |
//! | `verify.rs` | the walk that finds what was changed, here or offline |
//!
//! The formats to the byte, and what they do and do not prove, are in `keystore/design/audit-log.md`.
//!
//! A record is on disk before the key that it speaks of leaves. Records that come in while the disk is busy are
//! written and synced as one group. A write that fails is taken back and the request refused; after a sync that
//! fails nothing is known of the disk, and the log refuses everything until the keystore is started anew.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use conf::AuditSettings;
use keystore_client::admin::Act;
use keystore_client::exchange::Partner;
use keystore_types::{AssetId, KeyId, Label, Scheme};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use crate::error::{Error, ErrorKind};

mod checkpoint;
mod line;
mod space;
mod verify;
mod writer;

pub(crate) use checkpoint::Signer;
pub use checkpoint::{Checkpoint, PublicKey, Statement};
pub use verify::{Expected, Fault, Walk, walk};

pub(crate) use line::{hex, unhex};
use space::Space;
use writer::{Request, Writer};

/// The log's name in the state folder.
pub const FILE: &str = "audit.log";

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
    /// How far the log had come, signed: written by the log itself.
    Checkpoint {
        /// At the beginning of a file that is not the first: the one before it. No other checkpoint says so, so that a
        /// file whose front was cut off cannot pass for one that goes on.
        #[serde(skip_serializing_if = "Option::is_none")]
        continues: Option<String>,
        /// The length in bytes of all records before this one.
        bytes: u64,
        /// How often the store had been written to.
        store: u64,
        /// How many tombstones there were.
        tombstones: u64,
        /// The public key, in hexadecimal.
        key: String,
        /// The signature, in hexadecimal.
        signature: String,
    },
    /// A root was made.
    Init {
        /// In which ways it is kept.
        kept_by: Vec<&'static str>,
    },
    /// Shares of a new root are being dealt; [`Event::Init`] or [`Event::RotateRoot`] follows when all were read back.
    Dealing {
        /// The set.
        set: String,
        /// How many.
        shares: u8,
        /// How many open the root.
        threshold: u8,
    },
    /// A share of a new root was handed out.
    Dealt {
        /// The share.
        index: u8,
    },
    /// A share was given to unseal with.
    Share {
        /// The share, where it could be read.
        index: Option<u8>,
        /// Whether it is one of the set and was not given before.
        accepted: bool,
    },
    /// The root was taken into memory, or was not: what was to open it is wrong.
    Unseal {
        /// By what.
        by: &'static str,
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
        /// Those of them that were exchanged, and belong to this content from now on.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        claimed: Vec<KeyId>,
        /// Where any were made: how often the store had been written to by then.
        #[serde(skip_serializing_if = "Option::is_none")]
        store: Option<u64>,
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
    /// Keys were handed out to somebody else's encryptor.
    Exchange {
        /// The keys.
        keys: Vec<Key>,
        /// Those of them that were made for it.
        made: Vec<KeyId>,
        /// To whom. Without recipients they left in the clear.
        partner: Partner,
        /// Where any were made: how often the store had been written to by then.
        #[serde(skip_serializing_if = "Option::is_none")]
        store: Option<u64>,
    },
    /// An asset's keys were handed out to somebody else's licence server.
    HandOver {
        /// The asset named.
        asset: AssetId,
        /// The keys.
        keys: Vec<Key>,
        /// To whom. Without recipients they left in the clear.
        partner: Partner,
    },
    /// Keys came from outside.
    Deposit {
        /// The keys.
        keys: Vec<Key>,
        /// Those of them that were not there yet.
        new: Vec<KeyId>,
        /// From whom. Without recipients they came in the clear.
        partner: Partner,
        /// Where any were new: how often the store had been written to by then.
        #[serde(skip_serializing_if = "Option::is_none")]
        store: Option<u64>,
    },
    /// A new root takes the place of the old one.
    RotateRoot {
        /// Its version.
        version: u32,
        /// Whether another passphrase opens it than opened the old one.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        new_passphrase: bool,
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
    /// A key was destroyed. By `keystore` itself: it came back with an old store, and went again.
    Destroy {
        /// The key.
        key_id: KeyId,
    },
    /// A tenant was destroyed, with all its keys. By `keystore` itself: as for a key.
    DestroyTenant {
        /// The tenant.
        tenant: String,
    },
    /// Something that needs two operators went a step further.
    Approval {
        /// Its number.
        id: String,
        /// What is to be done.
        act: Act,
        /// The step.
        step: Step,
    },
    /// All of the store, wrapped, was begun to be handed out.
    Backup {
        /// To these age recipients.
        recipients: Vec<String>,
    },
    /// A backup was put back.
    Restore {
        /// Which.
        backup: String,
        /// How many keys it holds.
        keys: u64,
        /// What was destroyed since then came back.
        without_tombstones: bool,
    },
    /// A tenant's KEKs were handed out.
    ExportKeks {
        /// The tenant.
        tenant: String,
        /// Their versions.
        versions: Vec<u32>,
        /// To these age recipients.
        recipients: Vec<String>,
    },
    /// The log goes on in a new file, by this name the old one.
    SetAside {
        /// The old file's new name.
        file: String,
    },
    /// A store or a log that was put back was accepted.
    RollbackAccepted {
        /// What did not fit together.
        what: String,
        /// How often the store counts as written to from here on.
        store: u64,
        /// How many tombstones there are from here on.
        tombstones: u64,
    },
    /// A caller has used up what it may use in a minute: the first time in that minute.
    Budget {
        /// What of: `uses`, `keys`, `denials` or `descriptions`.
        limit: &'static str,
        /// How much that is.
        of: u32,
        /// The partner of key exchange whose budget it was, if it was one's.
        #[serde(skip_serializing_if = "Option::is_none")]
        partner: Option<String>,
    },
    /// A machine gets nothing any more.
    RevokeNode {
        /// Its name.
        node: String,
        /// SHA-256 of its certificate, in hexadecimal.
        certificate: String,
    },
    /// Somebody asked for what they are not granted.
    Denied {
        /// The capability that they lack.
        capability: &'static str,
        /// The asset, where there is one.
        asset: Option<AssetId>,
    },
}

/// A step on the way to what needs two operators.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// An operator wants it.
    Requested,
    /// Another agrees.
    Approved,
    /// An operator has withdrawn it.
    Cancelled,
    /// Nobody did it in time.
    Expired,
    /// It is being done.
    Used,
}

impl Event {
    /// Whether it is written on account of those who ask for keys, and not of those who run the keystore.
    fn by_caller(&self) -> bool {
        matches!(
            self,
            Self::Lease { .. }
                | Self::Export { .. }
                | Self::Exchange { .. }
                | Self::HandOver { .. }
                | Self::Deposit { .. }
                | Self::Budget { .. }
                | Self::Denied { .. }
        )
    }
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
    /// The length in bytes of all records up to and with it, those in files that were set aside included.
    pub bytes: u64,
}

impl Head {
    /// Before the first record.
    pub const START: Self = Self {
        seq: 0,
        hash: [0; 32],
        bytes: 0,
    };

    /// The hash in hexadecimal.
    pub fn hex(&self) -> String {
        hex(&self.hash)
    }
}

/// How much room there is for further records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Room {
    /// Not even for what operators do.
    None,
    /// For what operators do.
    Operators,
    /// The reserve is begun: for what operators do, and for keys that exist already.
    Reserve,
    /// Plenty.
    Plenty,
}

/// The log, open for writing. The file is closed when the last handle is dropped.
pub struct Log {
    requests: mpsc::Sender<Request>,
    shared: Arc<Shared>,
}

/// What the log's handle and its thread both know.
struct Shared {
    committed: Mutex<Committed>,
    /// What signs checkpoints; `None` while sealed.
    signer: Mutex<Option<Arc<Signer>>>,
    /// How often the store has been written to, as far as is known here.
    store: AtomicU64,
    /// How many tombstones there are.
    tombstones: AtomicU64,
    /// Who has signed the last checkpoint, when the log was opened.
    signed_by: Option<PublicKey>,
}

/// How much of the file is on disk.
#[derive(Clone, Debug)]
struct Committed {
    file: Arc<File>,
    head: Head,
    /// The file's length.
    len: u64,
    space: Space,
}

impl Log {
    /// Goes on with the log in `file`, which may be empty, and which is [`FILE`] in `folder`; without one it cannot be
    /// set aside. Returns also how many bytes of an unfinished last line were cut off.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] when the last whole line is not a record; those of the file.
    pub fn open(
        file: File,
        folder: Option<&Path>,
        settings: AuditSettings,
    ) -> Result<(Self, u64), Error> {
        let failed = |error| Error::unavailable("cannot read the audit log", error);
        if let Some(folder) = folder {
            writer::sweep(folder).map_err(failed)?;
        }
        let len = file.metadata().map_err(failed)?.len();
        let end = verify::after_last_newline(&file, len).map_err(failed)?;
        if end < len {
            (file.set_len(end).and_then(|()| file.sync_all())).map_err(|error| {
                Error::unavailable("cannot cut the audit log's torn end", error)
            })?;
        }
        let head = verify::last_head(&file, end)?;
        let known = verify::newest_claims(&file, end)?;
        let mut space = Space::new(settings, end);
        space.provide(&file, end);
        let shared = Arc::new(Shared {
            committed: Mutex::new(Committed {
                file: Arc::new(file),
                head,
                len: end,
                space,
            }),
            signer: Mutex::default(),
            store: AtomicU64::new(known.store),
            tombstones: AtomicU64::new(known.tombstones),
            signed_by: known.key,
        });
        let (requests, queue) = mpsc::channel(QUEUE);
        let writer = Writer::new(folder.map(Path::to_owned), shared.clone(), known.unsigned);
        std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writer.run(queue))
            .map_err(|error| Error::unavailable("cannot start the audit thread", error))?;
        let log = Self { requests, shared };
        Ok((log, len - end))
    }

    /// Writes a record. When this returns it is on disk.
    ///
    /// # Errors
    /// [`ErrorKind::AuditUnavailable`] when it is not, or may not be.
    pub async fn append(&self, unix_ms: u64, caller: &str, event: Event) -> Result<Head, Error> {
        let (done, answer) = oneshot::channel();
        let record = writer::Record {
            unix_ms,
            caller: caller.to_owned(),
            event,
            done,
        };
        self.ask(Request::Record(record), answer).await
    }

    /// Signs how far the log has come and writes that as a record. Returns the record's place and what was signed.
    ///
    /// # Errors
    /// As for [`Log::append`]; [`ErrorKind::Unavailable`] while there is nothing to sign with.
    pub async fn checkpoint(&self, unix_ms: u64) -> Result<(Head, Checkpoint), Error> {
        let (done, answer) = oneshot::channel();
        self.ask(Request::Checkpoint { unix_ms, done }, answer)
            .await
    }

    /// Goes on in a new file, which begins with a checkpoint of the old one. The old one stays in the folder under the
    /// name that is returned, and may be moved elsewhere.
    ///
    /// # Errors
    /// As for [`Log::checkpoint`].
    pub async fn set_aside(&self, unix_ms: u64) -> Result<String, Error> {
        let (done, answer) = oneshot::channel();
        self.ask(Request::SetAside { unix_ms, done }, answer).await
    }

    async fn ask<T>(
        &self,
        request: Request,
        answer: oneshot::Receiver<Result<T, String>>,
    ) -> Result<T, Error> {
        let gone = || Error::new(ErrorKind::AuditUnavailable, "the audit thread is gone");
        self.requests.send(request).await.map_err(|_| gone())?;
        (answer.await.map_err(|_| gone())?)
            .map_err(|why| Error::audit_unavailable("cannot write the audit log", why))
    }

    /// What signs from now on; `None`: nothing does.
    pub(crate) fn sign_with(&self, signer: Option<Arc<Signer>>) {
        let mut place = (self.shared.signer.lock()).unwrap_or_else(PoisonError::into_inner);
        *place = signer;
    }

    /// Whose signatures the log bears, while there is something to sign with.
    pub fn public_key(&self) -> Option<PublicKey> {
        self.shared.signer().map(|signer| signer.public_key())
    }

    /// Who has signed the last checkpoint, as the log was when it was opened.
    pub(crate) fn signed_by(&self) -> Option<PublicKey> {
        self.shared.signed_by
    }

    /// Whether what signs lies in locked memory; so does what is not there.
    pub(crate) fn locked(&self) -> bool {
        self.shared.signer().is_none_or(|signer| signer.locked())
    }

    /// Takes note of how often the store has been written to.
    pub fn saw_store(&self, writes: u64) {
        self.shared.store.fetch_max(writes, Ordering::Relaxed);
    }

    /// How often the store has been written to, at the least: as the log says itself, or as was noted.
    pub fn store_seen(&self) -> u64 {
        self.shared.store.load(Ordering::Relaxed)
    }

    /// Takes note of how many tombstones there are.
    pub fn saw_tombstones(&self, tombstones: u64) {
        self.shared
            .tombstones
            .fetch_max(tombstones, Ordering::Relaxed);
    }

    /// Takes note that there are so many tombstones, whatever the log says.
    pub(crate) fn reset_tombstones(&self, tombstones: u64) {
        self.shared.tombstones.store(tombstones, Ordering::Relaxed);
    }

    /// How many tombstones there are, at the least: as the log says itself, or as was noted.
    pub fn tombstones_seen(&self) -> u64 {
        self.shared.tombstones.load(Ordering::Relaxed)
    }

    /// The last record on disk.
    pub fn head(&self) -> Head {
        self.shared.committed().head
    }

    /// How much room there is.
    pub fn room(&self) -> Room {
        let committed = self.shared.committed();
        committed.space.room(committed.len)
    }

    /// The file's length, and the length at which it is full, in bytes.
    pub fn used(&self) -> (u64, u64) {
        let committed = self.shared.committed();
        (committed.len, committed.space.capacity())
    }

    /// Whether this record is in the log, or in a file that was set aside. Reads that record alone.
    ///
    /// # Errors
    /// Those of the file.
    pub fn holds(&self, anchor: Head) -> Result<bool, Error> {
        let committed = self.shared.committed();
        if anchor.seq > committed.head.seq {
            return Ok(false);
        }
        let base = committed.head.bytes - committed.len;
        match anchor.bytes.checked_sub(base) {
            // Set aside, or written before places were kept with it.
            None | Some(0) => Ok(true),
            Some(at) if at > committed.len => Ok(false),
            Some(at) => Ok(verify::last_head(&committed.file, at)
                .is_ok_and(|head| (head.seq, head.hash) == (anchor.seq, anchor.hash))),
        }
    }

    /// Walks the chain as far as it is on disk now. Reads the whole file: for a blocking thread.
    pub fn verify(&self, expected: &Expected<'_>) -> Walk {
        let committed = self.shared.committed();
        let mut walk = walk(&committed.file, committed.len, expected);
        if walk.fault.is_none() && walk.head != committed.head {
            walk.fault = Some(Fault {
                seq: walk.head.seq,
                offset: committed.len,
                what: "the file is not what was written".to_owned(),
            });
        }
        walk
    }
}

impl Shared {
    fn committed(&self) -> Committed {
        let committed = self.committed.lock();
        committed.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn commit(&self, committed: Committed) {
        *self
            .committed
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = committed;
    }

    fn signer(&self) -> Option<Arc<Signer>> {
        let signer = self.signer.lock().unwrap_or_else(PoisonError::into_inner);
        signer.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::FileExt as _;

    use tempfile::tempfile;

    use super::*;

    const ROOM: AuditSettings = AuditSettings {
        capacity: 16 << 20,
        reserve: 1 << 20,
    };

    fn remembers(anchor: Option<Head>) -> Expected<'static> {
        Expected {
            anchor,
            ..Expected::default()
        }
    }

    fn event() -> Event {
        Event::Unseal {
            by: "passphrase",
            opened: true,
        }
    }

    async fn log_of(file: &File, records: u64) -> Log {
        let (log, torn) = Log::open(file.try_clone().unwrap(), None, ROOM).unwrap();
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
        walk(&file, text.len() as u64, &remembers(anchor))
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
        let hash = hex(ring::digest::digest(&ring::digest::SHA256, body.as_bytes()).as_ref());
        assert_eq!(lines(&file), [format!("{body},\"hash\":\"{hash}\"}}\n")]);
    }

    #[tokio::test]
    async fn a_chain_goes_on_after_a_restart() {
        let file = tempfile().unwrap();
        let head = log_of(&file, 3).await.head();
        let log = log_of(&file, 2).await;
        let walk = log.verify(&remembers(Some(head)));
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
        assert_eq!(log.verify(&remembers(None)).fault, None);
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
        let fault = log.verify(&remembers(Some(anchor))).fault.unwrap();
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
            let (log, cut) = Log::open(file.try_clone().unwrap(), None, ROOM).unwrap();
            assert_eq!(cut, torn.len() as u64);
            assert_eq!(log.head().seq, 3);
            assert_eq!(lines(&file), good);
        }
        // Nothing but a torn line: the log begins anew.
        file.set_len(10).unwrap();
        let (log, cut) = Log::open(file.try_clone().unwrap(), None, ROOM).unwrap();
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
        let error = Log::open(file, None, ROOM).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Damaged);
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_refused_and_taken_back() {
        // Every write fails: the file is open for reading only.
        let path = tempfile::NamedTempFile::new().unwrap();
        drop(log_of(path.as_file(), 2).await);
        let (log, _) = Log::open(File::open(path.path()).unwrap(), None, ROOM).unwrap();
        let before = log.head();
        let error = log.append(0, "tests", event()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AuditUnavailable);
        assert_eq!(log.head(), before);
        assert_eq!(log.verify(&remembers(Some(before))).fault, None);
    }
}
