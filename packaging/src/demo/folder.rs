//! The demo's folder: made for one process at a time, kept or removed at its end.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::{Pid, geteuid, getpid, test_kill_process};

use crate::failure::Failure;

/// A folder that is this process's until the value goes; a temporary one goes with it.
pub(super) struct Folder {
    path: PathBuf,
    temporary: bool,
    lock: File,
}

/// Temporary folders are named by process: two demos may run at once.
const PREFIX: &str = "castellum-demo-";
const LOCK: &str = "lock";

impl Folder {
    /// Takes the folder at `path`, made where there is none, before anything in it is written.
    pub(super) fn keep(path: &Path) -> Result<Self, Failure> {
        let path = std::path::absolute(path).map_err(Failure::failed)?;
        Self::take(path, false)
    }

    /// Makes a temporary folder, and removes those of demos that were killed. Mode 0700 on a folder that must not
    /// exist keeps others out.
    pub(super) fn temporary() -> Result<Self, Failure> {
        let parent = std::env::temp_dir();
        sweep(&parent);
        let name = format!("{PREFIX}{}", std::process::id());
        Self::take(parent.join(name), true)
    }

    fn take(path: PathBuf, temporary: bool) -> Result<Self, Failure> {
        fs::DirBuilder::new()
            .recursive(!temporary)
            .mode(0o700)
            .create(&path)
            .map_err(|error| Failure::failed(format!("cannot make {}: {error}", path.display())))?;
        let lock = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join(LOCK))
            .map_err(|error| {
                Failure::failed(format!("cannot write to {}: {error}", path.display()))
            })?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self {
                path,
                temporary,
                lock,
            }),
            Err(Errno::WOULDBLOCK) => Err(Failure::failed(format!(
                "another demo runs in {}",
                path.display()
            ))),
            Err(error) => Err(Failure::failed(format!(
                "cannot lock {}: {error}",
                path.display()
            ))),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.temporary {
            // Closing the file is not enough where a process was just started: that has it open until it becomes its program.
            let _ = flock(&self.lock, FlockOperation::Unlock);
            return;
        }
        // Threads that are just ending may still put a file back.
        let removed = (0..20).any(|_| match fs::remove_dir_all(&self.path) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(_) => {
                std::thread::sleep(Duration::from_millis(50));
                false
            }
        });
        if !removed {
            tracing::warn!(folder = %self.path.display(), "the demo's folder is left behind");
        }
    }
}

/// Removes what demos of this user left in `parent` when they were killed.
fn sweep(parent: &Path) {
    let entries = parent.read_dir().into_iter().flatten().flatten();
    for entry in entries.filter(is_abandoned) {
        if let Err(error) = fs::remove_dir_all(entry.path()) {
            tracing::warn!(folder = %entry.path().display(), %error, "a killed demo's folder cannot be removed");
        }
    }
}

fn is_abandoned(entry: &fs::DirEntry) -> bool {
    let name = entry.file_name();
    let process = (name.to_str())
        .and_then(|name| name.strip_prefix(PREFIX)?.parse().ok())
        .and_then(Pid::from_raw);
    // The entry's own metadata: a link is nothing of ours.
    let ours = |metadata: fs::Metadata| metadata.is_dir() && metadata.uid() == geteuid().as_raw();
    let Some(process) = process.filter(|_| entry.metadata().is_ok_and(ours)) else {
        return false;
    };
    let gone = process == getpid() || test_kill_process(process) == Err(Errno::SRCH);
    // Where containers share the folder, a number says little of a process; its lock does.
    gone && File::open(entry.path().join(LOCK)).map_or(true, |lock| {
        flock(lock, FlockOperation::NonBlockingLockExclusive).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_one_process_s() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("kept");
        let first = Folder::keep(&path).unwrap();
        let refused = Folder::keep(&path).err().unwrap().to_string();
        assert!(refused.contains("another demo runs in"), "{refused}");
        drop(first);
        drop(Folder::keep(&path).unwrap());
        assert!(path.exists());
    }

    #[test]
    fn only_what_killed_demos_left_is_swept() {
        let parent = tempfile::tempdir().unwrap();
        let dead = || {
            let mut child = std::process::Command::new("true").spawn().unwrap();
            child.wait().unwrap();
            child.id()
        };
        let running = std::os::unix::process::parent_id();
        let names = [
            format!("{PREFIX}{}", dead()),
            format!("{PREFIX}{running}"),
            format!("{PREFIX}x"),
            format!("other-{}", dead()),
        ];
        for name in &names {
            fs::create_dir(parent.path().join(name)).unwrap();
        }
        let locked = parent.path().join(format!("{PREFIX}{}", dead()));
        let held = Folder::keep(&locked).unwrap();
        sweep(parent.path());
        let left = names
            .each_ref()
            .map(|name| parent.path().join(name).exists());
        assert_eq!(left, [false, true, true, true]);
        assert!(locked.exists());
        drop(held);
        sweep(parent.path());
        assert!(!locked.exists());
    }
}
