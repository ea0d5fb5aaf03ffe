//! Backups: all of a store, still wrapped, in a file that says itself what it is, encrypted to age recipients.
//!
//! ```text
//! age (age-encryption.org/v1) of lines of JSON:
//!   {"head":{"format":"castellum keystore backup","version":1,...}}
//!   {"root":{...}}  {"signing_key":{...}}*  {"kek":{...}}*
//!   {"key":{...}}*
//!   {"end":{"keys":n,"sha256":"<hex>"}}           of all lines before it
//! ```
//!
//! Whoever has the age identity has what a copy of the disk has: nothing without what unseals the root. The file is
//! made while keys are served: what was made or destroyed meanwhile is in it or not, and tombstones, which are kept
//! apart, say what must not come back. A rotation that comes in between spoils it, which is said.

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use age::stream::StreamWriter;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keystore_client::admin::KeyFilter;
use keystore_types::{ConstantIv, KeyContext, KeyId};
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::audit::{Event, hex, unhex};
use crate::error::Error;
use crate::local::Inner;
use crate::refusal::{Refusal, refused};
use crate::seal::{Wrapped, fill};
use crate::store::{KekRow, KeyBody, KeyRow, RootRow, Signed, SigningKeyRow, Snapshot};
use crate::unlock::{SealedRoot, method_of, scheme};

/// What a backup calls itself.
pub(crate) const FORMAT: &str = "castellum keystore backup";

/// The version of the lines.
pub(crate) const VERSION: u32 = 1;

/// The most bytes that are handed out at once.
const CHUNK: usize = 256 << 10;

/// Keys that are read at once.
const ROWS: usize = 500;

/// The most recipients of a file.
const MAX_RECIPIENTS: usize = 32;

/// The longest line that is read: a key with the longest names, many times over.
const MAX_LINE: usize = 64 << 10;

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Line {
    Head(Head),
    Root(Root),
    SigningKey(SigningKey),
    Kek(Kek),
    Key(Key),
    End(End),
}

/// What the file is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Head {
    pub format: String,
    pub version: u32,
    /// The program that wrote it.
    pub program: String,
    pub unix_ms: u64,
    /// How often the store had been written to.
    pub writes: u64,
    /// How many tombstones there were.
    pub tombstones: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Root {
    version: u32,
    /// Each way in which it is kept.
    sealed: Vec<Sealed>,
    created: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sealed {
    method: String,
    parameters: Bytes,
    wrapped: Bytes,
    commitment: Option<Bytes>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SigningKey {
    signs: String,
    public: Bytes,
    root_version: u32,
    wrapped: Bytes,
    created: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Kek {
    tenant: String,
    version: u32,
    floor: Option<u32>,
    root_version: u32,
    wrapped: Bytes,
    created: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Key {
    key_id: KeyId,
    context: KeyContext,
    iv: Bytes,
    kek_version: u32,
    wrapped: Option<Bytes>,
    destroyed: Option<u64>,
    created: u64,
}

/// What makes the file whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct End {
    pub keys: u64,
    /// Of all bytes before this line, in hexadecimal: it also names the backup.
    pub sha256: String,
}

/// Bytes as base64 (RFC 4648 4).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct Bytes(Vec<u8>);

impl From<Bytes> for String {
    fn from(bytes: Bytes) -> Self {
        STANDARD.encode(bytes.0)
    }
}

impl TryFrom<String> for Bytes {
    type Error = base64::DecodeError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        STANDARD.decode(text).map(Self)
    }
}

impl From<&Wrapped> for Bytes {
    fn from(wrapped: &Wrapped) -> Self {
        Self(wrapped.as_bytes().to_vec())
    }
}

impl From<&RootRow> for Root {
    fn from(row: &RootRow) -> Self {
        let sealed = row.sealed.iter().map(|sealed| Sealed {
            method: scheme(sealed.method).to_owned(),
            parameters: Bytes(sealed.parameters.clone()),
            wrapped: (&sealed.wrapped).into(),
            commitment: sealed.commitment.map(|bytes| Bytes(bytes.to_vec())),
        });
        Self {
            version: row.version,
            sealed: sealed.collect(),
            created: row.created,
        }
    }
}

impl Root {
    pub(crate) fn row(self) -> Result<RootRow, &'static str> {
        let sealed = self.sealed.into_iter().map(|sealed| {
            Ok(SealedRoot {
                method: method_of(&sealed.method)
                    .ok_or("its root is sealed in a way that this version does not know")?,
                parameters: sealed.parameters.0,
                wrapped: Wrapped::from_stored(sealed.wrapped.0),
                commitment: sealed.commitment.map(array).transpose()?,
            })
        });
        Ok(RootRow {
            version: self.version,
            sealed: sealed.collect::<Result<_, &'static str>>()?,
            created: self.created,
        })
    }
}

impl From<&SigningKeyRow> for SigningKey {
    fn from(row: &SigningKeyRow) -> Self {
        Self {
            signs: row.signs.as_str().to_owned(),
            public: Bytes(row.public.to_vec()),
            root_version: row.root_version,
            wrapped: (&row.wrapped).into(),
            created: row.created,
        }
    }
}

impl SigningKey {
    pub(crate) fn row(self) -> Result<SigningKeyRow, &'static str> {
        Ok(SigningKeyRow {
            signs: (Signed::ALL.into_iter())
                .find(|signed| signed.as_str() == self.signs)
                .ok_or("it holds a key that signs something unknown")?,
            public: array(self.public)?,
            root_version: self.root_version,
            wrapped: Wrapped::from_stored(self.wrapped.0),
            created: self.created,
        })
    }
}

impl From<&KekRow> for Kek {
    fn from(row: &KekRow) -> Self {
        Self {
            tenant: row.tenant.clone(),
            version: row.version,
            floor: row.floor,
            root_version: row.root_version,
            wrapped: (&row.wrapped).into(),
            created: row.created,
        }
    }
}

impl Kek {
    pub(crate) fn row(self) -> KekRow {
        KekRow {
            tenant: self.tenant,
            version: self.version,
            floor: self.floor,
            root_version: self.root_version,
            wrapped: Wrapped::from_stored(self.wrapped.0),
            created: self.created,
        }
    }
}

impl From<&KeyRow> for Key {
    fn from(row: &KeyRow) -> Self {
        let (wrapped, destroyed) = match &row.body {
            KeyBody::Wrapped(wrapped) => (Some(wrapped.into()), None),
            KeyBody::Destroyed(at) => (None, Some(*at)),
        };
        Self {
            key_id: row.key_id,
            context: row.context.clone(),
            iv: Bytes(row.iv.as_bytes().to_vec()),
            kek_version: row.kek_version,
            wrapped,
            destroyed,
            created: row.created,
        }
    }
}

impl Key {
    pub(crate) fn row(self) -> Result<KeyRow, &'static str> {
        Ok(KeyRow {
            key_id: self.key_id,
            context: self.context,
            iv: ConstantIv::new(array(self.iv)?),
            kek_version: self.kek_version,
            body: match (self.wrapped, self.destroyed) {
                (Some(wrapped), None) => KeyBody::Wrapped(Wrapped::from_stored(wrapped.0)),
                (None, Some(at)) => KeyBody::Destroyed(at),
                _ => return Err("a key in it is both usable and destroyed, or neither"),
            },
            created: self.created,
        })
    }
}

fn array<const N: usize>(bytes: Bytes) -> Result<[u8; N], &'static str> {
    (bytes.0.try_into()).map_err(|_| "a salt, IV or public key in it has a wrong length")
}

/// Where a file that is being made is put, until it is fetched.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Sink {
    fn take(&self, most: usize) -> Vec<u8> {
        let mut bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let most = most.min(bytes.len());
        bytes.drain(..most).collect()
    }

    fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut sink = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sink.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A backup that is being made. There is one at a time, and a newer one takes its place.
pub(crate) struct Backup {
    id: String,
    sink: Sink,
    /// `None` when all is written.
    age: Option<StreamWriter<Sink>>,
    hash: Context,
    keks: Vec<KekRow>,
    root_version: u32,
    filter: KeyFilter,
    keys: u64,
}

impl Backup {
    fn line(&mut self, line: &Line) -> Result<(), Error> {
        let failed = |error: io::Error| Error::unavailable("cannot write the backup", error);
        let mut bytes = serde_json::to_vec(line).map_err(|error| failed(error.into()))?;
        bytes.push(b'\n');
        self.hash.update(&bytes);
        match &mut self.age {
            Some(age) => age.write_all(&bytes).map_err(failed),
            None => Ok(()),
        }
    }
}

impl Inner {
    /// Begins a backup; returns its number, by which it is fetched.
    pub(crate) async fn backup(
        &self,
        caller: &str,
        recipients: &[String],
    ) -> Result<String, Refusal> {
        let mut place = self.backup.lock().await;
        let encryptor = encryptor(recipients)?;
        if self.rotating().await? {
            return Err(refused(
                "keys are being wrapped anew: back up when `castellum keystore status` says that no rotation is under way",
            ));
        }
        let Snapshot {
            root,
            keks,
            signing_keys,
            writes,
        } = self.store.snapshot().await?;
        let root = root.ok_or_else(|| refused("there is no root yet, and nothing to back up"))?;
        let event = Event::Backup {
            recipients: recipients.to_vec(),
        };
        self.record(caller, event).await?;
        let mut id = [0; 8];
        fill(&self.random, &mut id)?;
        let id = hex(&id);
        let sink = Sink::default();
        let age = (encryptor.wrap_output(sink.clone()))
            .map_err(|error| Error::unavailable("cannot begin the backup", error))?;
        let mut backup = Backup {
            id: id.clone(),
            sink,
            age: Some(age),
            hash: Context::new(&SHA256),
            keks,
            root_version: root.version,
            filter: KeyFilter::default(),
            keys: 0,
        };
        backup.line(&Line::Head(Head {
            format: FORMAT.to_owned(),
            version: VERSION,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            unix_ms: self.now_ms(),
            writes,
            tombstones: self.tombstones.count(),
        }))?;
        backup.line(&Line::Root((&root).into()))?;
        for key in &signing_keys {
            backup.line(&Line::SigningKey(key.into()))?;
        }
        let keks: Vec<Kek> = backup.keks.iter().map(Kek::from).collect();
        for kek in keks {
            backup.line(&Line::Kek(kek))?;
        }
        *place = Some(backup);
        Ok(id)
    }

    /// The next bytes of a backup; `None` after the last.
    pub(crate) async fn backup_chunk(&self, id: &str) -> Result<Option<Vec<u8>>, Refusal> {
        let mut place = self.backup.lock().await;
        let Some(backup) = place.as_mut().filter(|backup| backup.id == id) else {
            return Err(refused("another backup was begun since; begin again"));
        };
        while backup.sink.len() < CHUNK && backup.age.is_some() {
            let rows = self.store.page(&backup.filter, ROWS).await?;
            match rows.last() {
                Some(last) => backup.filter.after = Some(last.key_id),
                None => {
                    if let Err(refusal) = self.end(backup).await {
                        *place = None;
                        return Err(refusal);
                    }
                    break;
                }
            }
            for row in &rows {
                // Of a tenant that is newer than the backup.
                let kek = (&row.context.tenant, row.kek_version);
                if (backup.keks.iter()).any(|known| (&known.tenant, known.version) == kek) {
                    backup.keys += 1;
                    backup.line(&Line::Key(row.into()))?;
                }
            }
        }
        let bytes = backup.sink.take(CHUNK);
        if bytes.is_empty() {
            *place = None;
            return Ok(None);
        }
        Ok(Some(bytes))
    }

    async fn end(&self, backup: &mut Backup) -> Result<(), Refusal> {
        let now = self.store.snapshot().await?;
        let unchanged = |kek: &KekRow| {
            let is_it =
                |other: &&KekRow| (&other.tenant, other.version) == (&kek.tenant, kek.version);
            let stands = now.keks.iter().find(is_it);
            let newest = now.keks.iter().filter(|other| other.tenant == kek.tenant);
            stands.is_some_and(|stands| stands.floor == kek.floor)
                && newest.count()
                    == backup
                        .keks
                        .iter()
                        .filter(|other| other.tenant == kek.tenant)
                        .count()
        };
        let same_root = now
            .root
            .is_some_and(|root| root.version == backup.root_version);
        if !same_root || !backup.keks.iter().all(unchanged) {
            return Err(refused("a rotation came in between; begin again"));
        }
        let sha256 = hex(backup.hash.clone().finish().as_ref());
        backup.line(&Line::End(End {
            keys: backup.keys,
            sha256,
        }))?;
        match backup.age.take().map(StreamWriter::finish).transpose() {
            Ok(_) => Ok(()),
            Err(error) => Err(Error::unavailable("cannot end the backup", error).into()),
        }
    }

    /// A tenant's KEKs, in a file for these recipients.
    pub(crate) async fn export_keks(
        &self,
        caller: &str,
        tenant: &str,
        recipients: &[String],
    ) -> Result<Vec<u8>, Refusal> {
        let _administration = self.administration.lock().await;
        let keyring = self.unsealed().map_err(|_| Refusal::Sealed)?;
        let encryptor = encryptor(recipients)?;
        let keks = self.store.keks().await?;
        let keks: Vec<KekRow> = (keks.into_iter())
            .filter(|kek| kek.tenant == tenant)
            .collect();
        let event = Event::ExportKeks {
            tenant: tenant.to_owned(),
            versions: keks.iter().map(|kek| kek.version).collect(),
            recipients: recipients.to_vec(),
        };
        self.record(caller, event).await?;
        let document = keyring.document(tenant, &keks)?;
        let mut file = Vec::new();
        let written = encryptor.wrap_output(&mut file).and_then(|mut age| {
            age.write_all(&document)?;
            age.finish().map(drop)
        });
        written.map_err(|error| Error::unavailable("cannot encrypt the KEKs", error))?;
        Ok(file)
    }
}

fn encryptor(recipients: &[String]) -> Result<age::Encryptor, Refusal> {
    if !(1..=MAX_RECIPIENTS).contains(&recipients.len()) {
        return Err(refused(format!(
            "a file has 1 to {MAX_RECIPIENTS} age recipients"
        )));
    }
    let mut parsed: Vec<Box<dyn age::Recipient>> = Vec::with_capacity(recipients.len());
    for text in recipients {
        parsed.push(recipient(text).ok_or_else(|| {
            refused(format!(
                "`{text}` is no age recipient, such as `age1...` of `age-keygen`"
            ))
        })?);
    }
    age::Encryptor::with_recipients(parsed.iter().map(|recipient| &**recipient as _))
        .map_err(|error| refused(error.to_string()))
}

/// A native recipient: X25519, or one that withstands quantum computers.
fn recipient(text: &str) -> Option<Box<dyn age::Recipient>> {
    if let Ok(recipient) = text.parse::<age::x25519::Recipient>() {
        return Some(Box::new(recipient));
    }
    let recipient: age::tagpq::Recipient = text.parse().ok()?;
    Some(Box::new(recipient))
}

/// Whether these are recipients, before anybody is asked to agree.
pub(crate) fn check_recipients(recipients: &[String]) -> Result<(), Refusal> {
    encryptor(recipients).map(drop)
}

/// A backup file, read with an age identity by whoever has one: never the keystore.
pub struct Reader<R: Read> {
    lines: io::BufReader<age::stream::StreamReader<R>>,
}

/// What a backup file says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// SHA-256 of all that it holds, in hexadecimal: its name.
    pub sha256: String,
    /// When it was made, in milliseconds of Unix time.
    pub unix_ms: u64,
    /// The program's version.
    pub program: String,
    /// How many keys it holds, destroyed ones too.
    pub keys: u64,
    /// How many tombstones there were.
    pub tombstones: u64,
}

impl<R: Read> Reader<R> {
    /// Opens a file with the identities that this text holds, as `age-keygen` writes them.
    ///
    /// # Errors
    /// What is wrong with the file or the identities.
    pub fn open(file: R, identities: &str) -> Result<Self, String> {
        let identities = age::IdentityFile::from_buffer(identities.as_bytes())
            .and_then(|file| file.into_identities().map_err(io::Error::other))
            .map_err(|error| format!("the age identity cannot be read: {error}"))?;
        let decryptor = age::Decryptor::new(file).map_err(|error| error.to_string())?;
        let identities = identities
            .iter()
            .map(|identity| &**identity as &dyn age::Identity);
        let stream = decryptor
            .decrypt(identities)
            .map_err(|error| error.to_string())?;
        Ok(Self {
            lines: io::BufReader::new(stream),
        })
    }

    /// The next line with its newline; `None` after the last.
    ///
    /// # Errors
    /// Those of the file, and that it was changed or cut short.
    pub fn line(&mut self) -> Result<Option<Zeroizing<String>>, String> {
        use io::BufRead as _;
        let mut line = Zeroizing::new(String::new());
        (self.lines.by_ref().take(MAX_LINE as u64))
            .read_line(&mut line)
            .map_err(|error| format!("the backup cannot be read: {error}"))?;
        match line.as_bytes().last() {
            None => Ok(None),
            Some(b'\n') => Ok(Some(line)),
            Some(_) => Err("the backup has no whole last line".to_owned()),
        }
    }

    /// Reads to the end and says what the file is.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn summary(mut self) -> Result<Summary, String> {
        let mut hash = Context::new(&SHA256);
        let mut head = None;
        let mut keys = 0;
        while let Some(text) = self.line()? {
            let line = parse(&text)?;
            match line {
                Line::Head(line) => {
                    check_head(&line)?;
                    head = Some(line);
                }
                Line::Key(_) => keys += 1,
                Line::End(end) => {
                    let (Some(head), None) = (head, self.line()?) else {
                        return Err("the backup does not begin or end as one".to_owned());
                    };
                    if end.keys != keys || end.sha256 != hex(hash.finish().as_ref()) {
                        return Err("the backup is not what was written".to_owned());
                    }
                    return Ok(Summary {
                        sha256: end.sha256,
                        unix_ms: head.unix_ms,
                        program: head.program,
                        keys,
                        tombstones: head.tombstones,
                    });
                }
                Line::Root(_) | Line::SigningKey(_) | Line::Kek(_) => {}
            }
            hash.update(text.as_bytes());
        }
        Err("the backup has no end".to_owned())
    }
}

pub(crate) fn parse(line: &str) -> Result<Line, String> {
    serde_json::from_str(line).map_err(|error| format!("a line of the backup is none: {error}"))
}

pub(crate) fn check_head(head: &Head) -> Result<(), String> {
    match (head.format.as_str(), head.version) {
        (FORMAT, VERSION) => Ok(()),
        (FORMAT, version) => Err(format!(
            "the backup has version {version}, and this program knows {VERSION}: castellum {} has written it",
            head.program
        )),
        _ => Err("this is no backup of a keystore".to_owned()),
    }
}

/// Whether this is the name of a backup.
pub(crate) fn is_name(text: &str) -> bool {
    unhex::<32>(text).is_some()
}
