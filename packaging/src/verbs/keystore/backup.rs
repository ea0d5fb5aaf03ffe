//! Backups, written and read where the operator is.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use keystore::backup::Reader;
use keystore_client::admin::{Act, Acted, Admin as _};
use keystore_client::socket::AdminSocket;
use serde::Serialize;
use zeroize::Zeroizing;

use super::audit::read;
use super::operators::{acted_text, agreed};
use crate::failure::Failure;
use crate::output::Output;

#[derive(Serialize)]
pub(super) struct Written {
    file: PathBuf,
    bytes: u64,
}

/// A file that only its owner reads, and that is there whole or not at all.
pub(super) struct NewFile {
    file: File,
    path: PathBuf,
    bytes: u64,
}

impl NewFile {
    pub(super) fn create(path: &Path) -> Result<Self, Failure> {
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let file = (File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600))
        .open(&partial)
        .map_err(|error| cannot_write(path, &error))?;
        Ok(Self {
            file,
            path: path.to_owned(),
            bytes: 0,
        })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.bytes += bytes.len() as u64;
        (self.file.write_all(bytes)).map_err(|error| cannot_write(&self.path, &error))
    }

    pub(super) fn keep(&self) -> Result<(), Failure> {
        let mut partial = self.path.as_os_str().to_owned();
        partial.push(".partial");
        (self.file.sync_all())
            .and_then(|()| std::fs::rename(&partial, &self.path))
            .map_err(|error| cannot_write(&self.path, &error))
    }

    pub(super) fn finish(self, output: Output) -> Result<(), Failure> {
        self.keep()?;
        let written = Written {
            file: self.path,
            bytes: self.bytes,
        };
        output.say(&written, |written| {
            format!("{} bytes are in {}", written.bytes, written.file.display())
        })
    }
}

pub(super) fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::failed(format!("cannot write {}: {error}", path.display()))
}

pub(super) async fn backup(
    keystore: &AdminSocket,
    path: &Path,
    recipients: Vec<String>,
    output: Output,
) -> Result<(), Failure> {
    let id = keystore.backup(recipients).await?;
    let mut file = NewFile::create(path)?;
    while let Some(chunk) = keystore.backup_chunk(id.clone()).await? {
        file.write(&chunk)?;
    }
    file.finish(output)
}

/// The most of a backup that is sent at once, in bytes.
const RESTORE_CHUNK: usize = 128 << 10;

/// The identity is read here and never given to the keystore.
pub(super) async fn restore(
    keystore: &AdminSocket,
    path: &Path,
    identity: &Path,
    without_tombstones: bool,
    output: Output,
) -> Result<(), Failure> {
    keystore::harden_process();
    let identity = Zeroizing::new(read(identity)?);
    let open = || {
        let file = File::open(path)
            .map_err(|error| Failure::failed(format!("cannot read {}: {error}", path.display())))?;
        Reader::open(file, &identity)
            .map_err(|what| Failure::failed(format!("{}: {what}", path.display())))
    };
    let broken = |what| Failure::failed(format!("{}: {what}", path.display()));
    // Read through first, so that nothing is asked for that cannot be done.
    let wanted = Act::Restore {
        backup: open()?.summary().map_err(broken)?.sha256,
        without_tombstones,
    };
    agreed(keystore, wanted, output).await?;
    let mut lines = open()?;
    let mut chunk = String::new();
    loop {
        let line = lines.line().map_err(broken)?;
        let end = line.is_none();
        chunk.push_str(line.as_deref().map_or("", String::as_str));
        if chunk.len() < RESTORE_CHUNK && !end {
            continue;
        }
        if let Some(what) = keystore.restore(std::mem::take(&mut chunk)).await? {
            return output.say(&Acted::Done(what), acted_text);
        }
        if end {
            return Err(broken("the backup has no end".to_owned()));
        }
    }
}
