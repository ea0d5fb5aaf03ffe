//! The one thread that writes the log, since it does nothing but wait for the disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::checkpoint::{Checkpoint, Statement};
use super::{Committed, Event, FILE, Head, Shared, line};

/// The most bytes written in one group.
const MAX_GROUP: usize = 1 << 20;

/// At most this many records go by without a checkpoint, while there is something to sign with.
pub(super) const CHECKPOINT_EVERY: u64 = 256;

/// Where so many records came together the last time, others are on their way.
const BUSY: usize = 4;

/// How long they are waited for: a sync costs much more of the processor than a record does, and takes longer than this
/// on most disks. Where there is little to do, nobody waits.
const GATHERING: Duration = Duration::from_millis(1);

/// A new file's name until it takes the old one's place.
const NEW: &str = "audit.log.new";

/// What the log itself is called in its records.
const SELF: &str = "keystore";

type Answer<T> = oneshot::Sender<Result<T, String>>;

/// What the thread is asked.
pub(super) enum Request {
    Record(Record),
    Checkpoint {
        unix_ms: u64,
        done: Answer<(Head, Checkpoint)>,
    },
    SetAside {
        unix_ms: u64,
        done: Answer<String>,
    },
}

/// A record on its way to the disk.
pub(super) struct Record {
    pub unix_ms: u64,
    pub caller: String,
    pub event: Event,
    pub done: Answer<Head>,
}

pub(super) struct Writer {
    /// Where the file lies.
    folder: Option<PathBuf>,
    shared: Arc<Shared>,
    /// Records since the last checkpoint.
    unsigned: u64,
    /// Why nothing can be written any more.
    broken: Option<String>,
    /// Whether there is an alarm for want of room.
    alarm: bool,
}

impl Writer {
    pub(super) fn new(folder: Option<PathBuf>, shared: Arc<Shared>, unsigned: u64) -> Self {
        Self {
            folder,
            shared,
            unsigned,
            broken: None,
            alarm: false,
        }
    }

    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        self.measure();
        let mut together = 0;
        while let Some(first) = queue.blocking_recv() {
            if together >= BUSY {
                std::thread::sleep(GATHERING);
            }
            let mut group = Group::after(self.shared.committed(), self.unsigned);
            self.add(&mut group, first);
            while group.bytes.len() < MAX_GROUP
                && let Ok(next) = queue.try_recv()
            {
                self.add(&mut group, next);
            }
            let written = match group.bytes.is_empty() {
                true => Ok(()),
                false => self.write(&group),
            };
            for (unix_ms, done) in std::mem::take(&mut group.set_aside) {
                // Whoever asked may have gone.
                drop(done.send(written.clone().and_then(|()| self.set_aside(unix_ms))));
            }
            self.measure();
            together = group.waiting.len();
            for waiting in group.waiting {
                waiting.tell(&written);
            }
        }
    }

    /// Puts what is asked into a group; what cannot be is told so.
    fn add(&self, group: &mut Group, request: Request) {
        match request {
            Request::Record(Record {
                unix_ms,
                caller,
                event,
                done,
            }) => match group.add(unix_ms, &caller, &event) {
                Ok(()) => {
                    group.waiting.push(Waiting::Record(group.end.head, done));
                    if group.unsigned >= CHECKPOINT_EVERY && self.shared.signer().is_some() {
                        // Where there is no room for it, the record stands without.
                        let _ = self.sign(group, unix_ms, None);
                    }
                }
                // Whoever asked may have gone.
                Err(why) => drop(done.send(Err(why))),
            },
            Request::Checkpoint { unix_ms, done } => match self.sign(group, unix_ms, None) {
                Ok(checkpoint) => {
                    let head = group.end.head;
                    (group.waiting).push(Waiting::Checkpoint(head, Box::new(checkpoint), done));
                }
                Err(why) => drop(done.send(Err(why))),
            },
            // After the records that came before it.
            Request::SetAside { unix_ms, done } => group.set_aside.push((unix_ms, done)),
        }
    }

    /// Goes on in a new file.
    ///
    /// The new file is whole, and the old one has its new name besides the old, before the new one takes the old name in
    /// one step. So at any time [`FILE`] is one of the two, whole, and no record is in neither.
    fn set_aside(&mut self, unix_ms: u64) -> Result<String, String> {
        if let Some(why) = &self.broken {
            return Err(why.clone());
        }
        let failed = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
        let folder = self.folder.clone().ok_or("this log is in no folder")?;
        let old = self.shared.committed();
        let name = format!("audit-{:012}.log", old.head.seq);
        let mut space = old.space;
        space.cut(0);
        let mut group = Group::after(
            Committed {
                file: Arc::new(new_file(&folder.join(NEW)).map_err(failed("cannot make a file"))?),
                head: old.head,
                len: 0,
                space,
            },
            0,
        );
        self.sign(&mut group, unix_ms, Some(name.clone()))?;
        let new = group.end.clone();
        new.file
            .write_all_at(&group.bytes, 0)
            .and_then(|()| new.file.sync_all())
            .map_err(failed("cannot begin a new file"))?;
        std::fs::hard_link(folder.join(FILE), folder.join(&name))
            .map_err(failed("cannot rename the old file"))?;
        std::fs::rename(folder.join(NEW), folder.join(FILE))
            .map_err(failed("cannot put the new file in the old one's place"))?;
        self.shared.commit(new);
        self.unsigned = 0;
        if let Err(error) = File::open(&folder).and_then(|folder| folder.sync_all()) {
            let why = format!("the audit log's folder cannot be synced ({error}); restart");
            self.broken = Some(why.clone());
            return Err(why);
        }
        Ok(name)
    }

    fn sign(
        &self,
        group: &mut Group,
        unix_ms: u64,
        continues: Option<String>,
    ) -> Result<Checkpoint, String> {
        use std::sync::atomic::Ordering::Relaxed;
        let signer = (self.shared.signer()).ok_or("the keystore is sealed: nothing signs")?;
        let checkpoint = signer.sign(Statement {
            head: group.end.head,
            unix_ms,
            store: self.shared.store.load(Relaxed),
            tombstones: self.shared.tombstones.load(Relaxed),
        });
        group.add(unix_ms, SELF, &checkpoint.event(continues))?;
        group.unsigned = 0;
        Ok(checkpoint)
    }

    fn write(&mut self, group: &Group) -> Result<(), String> {
        if let Some(why) = &self.broken {
            return Err(why.clone());
        }
        let mut before = self.shared.committed();
        if let Err(error) = before.file.write_all_at(&group.bytes, before.len) {
            tracing::error!(%error, "cannot write the audit log: no key leaves");
            if let Err(error) = before.file.set_len(before.len) {
                self.broken = Some(format!("a write could not be taken back: {error}"));
            }
            before.space.cut(before.len);
            self.shared.commit(before);
            return Err(error.to_string());
        }
        if let Err(error) = before.file.sync_data() {
            tracing::error!(%error, "cannot sync the audit log: no key leaves until a restart");
            let why = format!("a sync failed ({error}); look at the disk and restart");
            self.broken = Some(why.clone());
            return Err(why);
        }
        self.shared.commit(group.end.clone());
        self.unsigned = group.unsigned;
        Ok(())
    }

    /// Says how full it is, and to people when that becomes an alarm.
    #[expect(clippy::cast_precision_loss, reason = "a metric")]
    fn measure(&mut self) {
        let Committed { len, space, .. } = self.shared.committed();
        let alarm = space.alarm(len);
        metrics::gauge!("castellum_keystore_audit_bytes").set(len as f64);
        metrics::gauge!("castellum_keystore_audit_capacity_bytes").set(space.capacity() as f64);
        metrics::gauge!("castellum_keystore_audit_alarm").set(f64::from(u8::from(alarm)));
        if alarm && !self.alarm {
            tracing::error!(
                bytes = len,
                capacity = space.capacity(),
                room = ?space.room(len),
                "the audit log is filling up or its disk is full: set the log aside, or keys will be refused"
            );
        }
        self.alarm = alarm;
    }
}

/// Removes what a crash left of [`Writer::set_aside`]: a new file that was not yet in place, and the old one's new name
/// while it still has its old one.
pub(super) fn sweep(folder: &Path) -> io::Result<()> {
    match std::fs::remove_file(folder.join(NEW)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let current = folder.join(FILE).metadata()?;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let other = entry.metadata()?;
        let same = (other.dev(), other.ino()) == (current.dev(), current.ino());
        if same && entry.file_name() != FILE {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn new_file(path: &Path) -> io::Result<File> {
    (File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600))
    .open(path)
}

/// Records that are written and synced at once.
pub(super) struct Group {
    bytes: Vec<u8>,
    end: Committed,
    unsigned: u64,
    waiting: Vec<Waiting>,
    set_aside: Vec<(u64, Answer<String>)>,
}

/// Who is told that the group is on disk, and what.
enum Waiting {
    Record(Head, Answer<Head>),
    Checkpoint(Head, Box<Checkpoint>, Answer<(Head, Checkpoint)>),
}

impl Waiting {
    /// Whoever asked may have gone; the record stands all the same.
    fn tell(self, written: &Result<(), String>) {
        match self {
            Self::Record(head, done) => drop(done.send(written.clone().map(|()| head))),
            Self::Checkpoint(head, checkpoint, done) => {
                drop(done.send(written.clone().map(|()| (head, *checkpoint))));
            }
        }
    }
}

impl Group {
    fn after(committed: Committed, unsigned: u64) -> Self {
        Self {
            bytes: Vec::new(),
            end: committed,
            unsigned,
            waiting: Vec::new(),
            set_aside: Vec::new(),
        }
    }

    fn add(&mut self, unix_ms: u64, caller: &str, event: &Event) -> Result<(), String> {
        let (line, head) = line::write(self.end.head, unix_ms, caller, event)?;
        let len = self.end.len + line.len() as u64;
        self.end.space.provide(&self.end.file, len);
        if !self.end.space.admits(len, event.by_caller()) {
            return Err(
                "there is no room left in the audit log: set it aside (`castellum keystore set-aside-log`), \
                 or raise keystore.audit.capacity"
                    .to_owned(),
            );
        }
        self.bytes.extend_from_slice(&line);
        self.end.head = head;
        self.end.len = len;
        self.unsigned += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::AtomicU64;

    use conf::AuditSettings;

    use super::*;
    use crate::audit::Space;

    #[test]
    fn a_full_disk_refuses() {
        let full = match File::options().read(true).write(true).open("/dev/full") {
            Ok(full) => full,
            Err(error) => return eprintln!("skipped: no /dev/full ({error})"),
        };
        let settings = AuditSettings {
            capacity: 1 << 20,
            reserve: 1 << 16,
        };
        let before = Committed {
            file: Arc::new(full),
            head: Head::START,
            len: 0,
            space: Space::new(settings, 0),
        };
        let shared = Arc::new(Shared {
            committed: Mutex::new(before.clone()),
            signer: Mutex::default(),
            store: AtomicU64::new(0),
            tombstones: AtomicU64::new(0),
            signed_by: None,
        });
        let mut writer = Writer::new(None, shared, 0);
        let mut group = Group::after(before, 0);
        let event = Event::Unseal {
            by: "passphrase",
            opened: true,
        };
        group.add(0, "tests", &event).unwrap();
        let refused = writer.write(&group).unwrap_err();
        assert!(refused.contains("No space left"), "{refused}");
        assert_eq!(writer.shared.committed().head, Head::START);
    }
}
