//! The state folder: private to its owner, and one process's at a time.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::error::Error;

/// The state folder, taken until this is dropped or the process ends, however it ends.
pub(crate) struct Folder {
    path: PathBuf,
    lock: File,
}

impl Folder {
    /// Makes the folder where there is none, and takes it for this process: two writers would fork the audit chain.
    ///
    /// # Errors
    /// Those of the file system, and when another process has it.
    pub(crate) fn take(path: &Path) -> Result<Self, Error> {
        (DirBuilder::new().recursive(true).mode(0o700).create(path))
            .map_err(failed("make", path))?;
        let lock = private(&path.join("lock"))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
            let what = format!("another process has the keystore in {}", path.display());
            Error::unavailable(what, error)
        })?;
        Ok(Self {
            path: path.to_owned(),
            lock,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a file of the folder, made where there is none, that only its owner reads.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn file(&self, name: &str) -> Result<File, Error> {
        private(&self.path.join(name))
    }

    /// Puts the names of new files on disk, and the folder's own, before anything relies on what they hold.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        sync(&self.path)?;
        sync_parent(&self.path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Closing the file is not enough where a process was just started: that has it open until it becomes its program.
        let _ = flock(&self.lock, FlockOperation::Unlock);
    }
}

/// Puts a file's name on disk.
///
/// # Errors
/// Those of the file system.
pub(crate) fn sync_parent(path: &Path) -> Result<(), Error> {
    // The parent of a bare name is an empty path.
    match (path.parent()).filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => sync(parent),
        None => Ok(()),
    }
}

fn sync(folder: &Path) -> Result<(), Error> {
    (File::open(folder).and_then(|folder| folder.sync_all())).map_err(failed("sync", folder))
}

/// Opens a file, made where there is none, that only its owner reads.
///
/// # Errors
/// Those of the file system.
pub(crate) fn private(path: &Path) -> Result<File, Error> {
    (OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600))
    .open(path)
    .map_err(failed("open", path))
}

fn failed(what: &str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let attempted = format!("cannot {what} {}", path.display());
    |error| Error::unavailable(attempted, error)
}
