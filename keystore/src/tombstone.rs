//! What was destroyed, apart from the store: so that it stays destroyed when a backup of the store is put back.
//!
//! One line of JSON for each key or tenant, appended before the store erases anything, bound to the line before and
//! signed. The file should lie on another disk than the store's backups, or be copied elsewhere; it holds no key. The
//! store remembers how many lines it has carried out, and does so with the rest when it is unsealed. The format to the
//! byte is in `keystore/design/records.md`.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::FileExt as _;
use std::sync::{Mutex, PoisonError};

use keystore_types::KeyId;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use crate::audit::{PublicKey, Signer, hex, unhex};
use crate::error::{Error, ErrorKind};

/// What every signed message begins with.
const NAME: &[u8; 21] = b"castellum tombstone 1";

const SIGNATURE_FIELD: &str = ",\"signature\":\"";

/// The longest line: a tenant's name at its longest, many times over.
const MAX_LINE: u64 = 4096;

/// What does not come back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Grave {
    /// Nothing: the first line of all, by which a new log is told from none.
    Begin(String),
    /// A key.
    Key(KeyId),
    /// A tenant and all its keys.
    Tenant(String),
}

#[derive(Serialize, Deserialize)]
struct Line {
    seq: u64,
    unix_ms: u64,
    #[serde(flatten)]
    grave: Grave,
    prev: String,
    #[serde(skip_serializing)]
    signature: String,
}

/// The log of tombstones, open for appending.
pub(crate) struct Tombstones(Mutex<State>);

struct State {
    file: File,
    /// Whole lines.
    count: u64,
    /// Their length.
    len: u64,
    /// SHA-256 of the last line.
    last: [u8; 32],
    /// What is wrong with the chain: nothing is appended then.
    fault: Option<String>,
}

impl Tombstones {
    /// Goes on with the log in this file, which may be empty; an unfinished last line is cut off.
    ///
    /// # Errors
    /// Those of the file. What is wrong with what it holds, [`Tombstones::fault`] tells.
    pub(crate) fn open(file: File) -> Result<Self, Error> {
        let failed = |error| Error::unavailable("cannot read the tombstones", error);
        let mut state = State {
            file,
            count: 0,
            len: 0,
            last: [0; 32],
            fault: None,
        };
        let clone = state.file.try_clone().map_err(failed)?;
        let walked = walk(&clone, |line, len| {
            state.count = line.seq;
            state.len += len;
        });
        match walked.map_err(failed)? {
            Walked::Whole(last) => state.last = last,
            Walked::Torn(last) => {
                state.last = last;
                state.file.set_len(state.len).map_err(failed)?;
            }
            Walked::Broken(what) => state.fault = Some(what),
        }
        Ok(Self(Mutex::new(state)))
    }

    /// How many lines there are.
    pub(crate) fn count(&self) -> u64 {
        self.state().count
    }

    /// What is wrong with the chain.
    pub(crate) fn fault(&self) -> Option<String> {
        self.state().fault.clone()
    }

    /// Whether this key has signed the last line, and with it, by the chain, all before.
    pub(crate) fn signed_by(&self, key: &PublicKey) -> Result<bool, Error> {
        let file = self.file()?;
        let mut last = None;
        walk(&file, |line, _| last = Some(line.clone())).map_err(unreadable)?;
        Ok(last.is_some_and(|line| line.signed_by(key)))
    }

    /// Appends a line. When this returns it is on disk. For a blocking thread.
    pub(crate) fn append(&self, signer: &Signer, unix_ms: u64, grave: Grave) -> Result<(), Error> {
        let mut state = self.state();
        let failed = |error: std::io::Error| Error::unavailable("cannot write a tombstone", error);
        if let Some(fault) = &state.fault {
            return Err(Error::damaged(format!("the tombstones: {fault}")));
        }
        let mut line = Line {
            seq: state.count + 1,
            unix_ms,
            grave,
            prev: hex(&state.last),
            signature: String::new(),
        };
        let mut text = serde_json::to_string(&line)
            .map_err(|error| Error::unavailable("cannot write a tombstone", error))?;
        // The closing brace comes again after the signature.
        text.pop();
        line.signature = hex(&signer.sign_message(&message(&signer.public_key(), &text)));
        text.push_str(SIGNATURE_FIELD);
        text.push_str(&line.signature);
        text.push_str("\"}");
        let last = sha256(text.as_bytes());
        text.push('\n');
        (state.file.write_all_at(text.as_bytes(), state.len))
            .and_then(|()| state.file.sync_all())
            .map_err(|error| {
                // A torn line is cut off at the next start, and here, if the disk lets us.
                if let Err(error) = state.file.set_len(state.len) {
                    tracing::error!(%error, "cannot take back an unfinished tombstone");
                }
                failed(error)
            })?;
        state.len += text.len() as u64;
        state.count += 1;
        state.last = last;
        Ok(())
    }

    /// Those after the first `count`, in their order.
    pub(crate) fn after(&self, count: u64) -> Result<Vec<Grave>, Error> {
        let file = self.file()?;
        let mut graves = Vec::new();
        walk(&file, |line, _| {
            if line.seq > count {
                graves.push(line.grave.clone());
            }
        })
        .map_err(unreadable)?;
        Ok(graves)
    }

    fn file(&self) -> Result<File, Error> {
        self.state().file.try_clone().map_err(unreadable)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unreadable(error: std::io::Error) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!("cannot read the tombstones: {error}"),
    )
}

/// How a walk ended; each with the hash of the last whole line.
enum Walked {
    Whole([u8; 32]),
    /// There is an unfinished line after it.
    Torn([u8; 32]),
    /// It is no chain.
    Broken(String),
}

/// A line that was read, and what its signature is over.
#[derive(Clone)]
struct Read {
    seq: u64,
    grave: Grave,
    body: String,
    signature: String,
}

impl Read {
    fn signed_by(&self, key: &PublicKey) -> bool {
        let signature = unhex(&self.signature);
        signature.is_some_and(|signature| key.has_signed(&message(key, &self.body), &signature))
    }
}

/// Calls `each` with every line in its place, and its length with its newline.
fn walk(file: &File, mut each: impl FnMut(&Read, u64)) -> std::io::Result<Walked> {
    let mut reader = BufReader::new(At { file, at: 0 });
    let mut last = [0; 32];
    for seq in 1.. {
        let mut bytes = Vec::new();
        std::io::Read::take(&mut reader, MAX_LINE).read_until(b'\n', &mut bytes)?;
        if bytes.is_empty() {
            return Ok(Walked::Whole(last));
        }
        if bytes.pop() != Some(b'\n') {
            return Ok(Walked::Torn(last));
        }
        let broken = || {
            Ok(Walked::Broken(format!(
                "tombstone {seq} is not in its place"
            )))
        };
        let Ok(line) = serde_json::from_slice::<Line>(&bytes) else {
            return broken();
        };
        let text = String::from_utf8_lossy(&bytes);
        let Some(at) = text.rfind(SIGNATURE_FIELD) else {
            return broken();
        };
        if line.seq != seq || line.prev != hex(&last) {
            return broken();
        }
        last = sha256(&bytes);
        let read = Read {
            seq,
            grave: line.grave,
            body: text[..at].to_owned(),
            signature: line.signature,
        };
        each(&read, bytes.len() as u64 + 1);
    }
    Ok(Walked::Whole(last))
}

/// Reads a file without moving its position.
struct At<'a> {
    file: &'a File,
    at: u64,
}

impl std::io::Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// What is signed: the name, the key, and the line's bytes up to the comma before `"signature"`.
fn message(key: &PublicKey, body: &str) -> Vec<u8> {
    [NAME.as_slice(), key.as_bytes(), body.as_bytes()].concat()
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use tempfile::tempfile;

    use super::*;
    use crate::seal::KeyBytes;

    fn signer(byte: u8) -> Signer {
        Signer::new(&KeyBytes::new([byte; 32])).unwrap()
    }

    fn text(file: &File) -> String {
        let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    fn graves() -> Vec<Grave> {
        vec![
            Grave::Begin("castellum tombstones".to_owned()),
            Grave::Key(KeyId::new([7; 16])),
            Grave::Tenant("other".to_owned()),
        ]
    }

    fn written() -> File {
        let file = tempfile().unwrap();
        let tombstones = Tombstones::open(file.try_clone().unwrap()).unwrap();
        for grave in graves() {
            tombstones.append(&signer(1), 5, grave).unwrap();
        }
        file
    }

    /// The form of a line is kept elsewhere for years: this is brittle, which is the point.
    #[test]
    fn the_form_of_a_line() {
        let file = written();
        let body =
            "{\"seq\":2,\"unix_ms\":5,\"key\":\"07070707-0707-0707-0707-070707070707\",\"prev\":\"";
        let text = text(&file);
        let line = text.lines().nth(1).unwrap();
        let first = hex(&sha256(text.lines().next().unwrap().as_bytes()));
        assert!(
            line.starts_with(&format!("{body}{first}\",\"signature\":\"")),
            "{line}"
        );
    }

    #[test]
    fn comes_back_as_it_was_and_goes_on() {
        let file = written();
        let tombstones = Tombstones::open(file.try_clone().unwrap()).unwrap();
        assert_eq!(tombstones.fault(), None);
        assert_eq!(tombstones.count(), 3);
        assert_eq!(tombstones.after(0).unwrap(), graves());
        assert_eq!(tombstones.after(2).unwrap(), graves()[2..]);
        assert!(tombstones.signed_by(&signer(1).public_key()).unwrap());
        assert!(!tombstones.signed_by(&signer(2).public_key()).unwrap());
        let more = Grave::Key(KeyId::new([8; 16]));
        tombstones.append(&signer(1), 6, more).unwrap();
        let tombstones = Tombstones::open(file).unwrap();
        assert_eq!((tombstones.count(), tombstones.fault()), (4, None));
    }

    #[test]
    fn a_torn_line_is_cut_off_and_a_changed_one_noticed() {
        let file = written();
        let good = text(&file);
        file.write_all_at(b"{\"seq\":4", good.len() as u64).unwrap();
        let tombstones = Tombstones::open(file.try_clone().unwrap()).unwrap();
        assert_eq!((tombstones.count(), tombstones.fault()), (3, None));
        assert_eq!(text(&file), good);

        let lines: Vec<_> = good.split_inclusive('\n').collect();
        for changed in [
            good.replacen("\"unix_ms\":5", "\"unix_ms\":6", 1),
            [lines[0], lines[2]].concat(),
            [lines[1], lines[2]].concat(),
            [lines[0], lines[2], lines[1]].concat(),
        ] {
            file.set_len(0).unwrap();
            file.write_all_at(changed.as_bytes(), 0).unwrap();
            let tombstones = Tombstones::open(file.try_clone().unwrap()).unwrap();
            assert!(tombstones.fault().is_some(), "{changed}");
            let refused = tombstones.append(&signer(1), 6, graves()[1].clone());
            assert!(refused.is_err());
        }
        // The last line alone: its signature tells.
        let changed = [lines[0], lines[1], &lines[2].replace("other", "fther")].concat();
        file.set_len(0).unwrap();
        file.write_all_at(changed.as_bytes(), 0).unwrap();
        let tombstones = Tombstones::open(file).unwrap();
        assert_eq!(tombstones.fault(), None);
        assert!(!tombstones.signed_by(&signer(1).public_key()).unwrap());
    }
}
