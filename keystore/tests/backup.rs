//! Backups, and machines that are lost.
#![expect(clippy::unwrap_used, reason = "a test's panic is its report")]

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use age::secrecy::ExposeSecret as _;
use age::x25519::Identity;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use conf::KeystoreSettings;
use keystore::backup::{Reader, Summary};
use keystore::capability::Caller;
use keystore::{Local, SystemClock, testing};
use keystore_client::admin::{Act, Acted, Admin, AdminError};
use keystore_client::{Error, LeaseRequest, LeasedKey, SealState};
use keystore_types::{Generation, KeyContext, KeyId, Label, SUBSAMPLE_RULE, Scheme};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{Connection as _, Row as _};
use tempfile::TempDir;

const PASSPHRASE: &str = "correct horse";

/// Keys of tenant `default`: more than are read or kept at once.
const KEYS: u32 = 600;

struct Opened {
    local: Local,
    anna: Arc<dyn Admin>,
    berta: Arc<dyn Admin>,
    settings: KeystoreSettings,
}

async fn open(settings: KeystoreSettings) -> Opened {
    let local = Local::open(&settings, Arc::new(SystemClock)).await.unwrap();
    Opened {
        anna: local.admin(Caller::operator("anna")),
        berta: local.admin(Caller::operator("berta")),
        local,
        settings,
    }
}

async fn empty(folder: &TempDir) -> Opened {
    open(testing::settings(folder.path())).await
}

/// A keystore with [`KEYS`] keys, two more of another tenant, and a KEK of the second version.
async fn full(folder: &TempDir) -> Opened {
    let keystore = empty(folder).await;
    keystore.anna.init(PASSPHRASE.into()).await.unwrap();
    keystore.lease("default", 0..KEYS).await.unwrap();
    keystore.lease("other", 0..2).await.unwrap();
    keystore.anna.rotate_keks(None).await.unwrap();
    while keystore
        .anna
        .status()
        .await
        .unwrap()
        .stored
        .unwrap()
        .rotating
    {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    keystore
}

impl Opened {
    async fn lease(
        &self,
        tenant: &str,
        numbers: std::ops::Range<u32>,
    ) -> Result<Vec<LeasedKey>, Error> {
        let mut settings = self.settings.clone();
        settings.tenant = tenant.to_owned();
        let origin = (self.local).handle(Caller::configured(&settings, "origin").unwrap());
        let contexts: Vec<_> = numbers
            .map(|number| KeyContext {
                tenant: tenant.to_owned(),
                asset: "film".parse().unwrap(),
                label: Label::Hd,
                scheme: Scheme::Cbcs,
                subsample_rule: SUBSAMPLE_RULE,
                generation: Generation {
                    sources: [7; 32],
                    number,
                },
            })
            .collect();
        let mut keys = Vec::new();
        for contexts in contexts.chunks(64) {
            let contexts = contexts.to_vec();
            keys.extend(origin.lease(LeaseRequest { contexts }).await?.keys);
        }
        Ok(keys)
    }

    async fn keys(&self) -> BTreeMap<KeyId, [u8; 16]> {
        let keys = self.lease("default", 0..KEYS).await.unwrap();
        (keys.iter())
            .map(|key| (key.key_id, *key.key.expose()))
            .collect()
    }

    async fn backup(&self, recipient: &Identity) -> Result<Vec<u8>, AdminError> {
        let id = (self.anna.backup(vec![recipient.to_public().to_string()])).await?;
        let mut file = Vec::new();
        while let Some(chunk) = self.anna.backup_chunk(id.clone()).await? {
            file.extend_from_slice(&chunk);
        }
        Ok(file)
    }

    async fn agreed(&self, act: Act) -> Acted {
        let Acted::Waits(approval) = self.anna.act(act.clone()).await.unwrap() else {
            panic!("done by one operator alone");
        };
        self.berta.approve(approval.id).await.unwrap();
        self.anna.act(act).await.unwrap()
    }

    async fn restore(
        &self,
        file: &[u8],
        identity: &Identity,
        without_tombstones: bool,
    ) -> Result<String, AdminError> {
        let act = Act::Restore {
            backup: summary(file, identity).unwrap().sha256,
            without_tombstones,
        };
        assert!(matches!(self.agreed(act).await, Acted::Done(_)));
        let mut lines = reader(file, identity).unwrap();
        let mut text = String::new();
        while let Some(line) = lines.line().unwrap() {
            text.push_str(&line);
            if text.len() > 100_000
                && let Some(said) = self.anna.restore(std::mem::take(&mut text)).await?
            {
                return Ok(said);
            }
        }
        Ok(self.anna.restore(text).await?.expect("the backup ends"))
    }

    async fn in_order(&self) {
        let report = self.anna.verify(None).await.unwrap();
        assert_eq!(report.faults, vec![]);
    }
}

fn reader<'a>(file: &'a [u8], identity: &Identity) -> Result<Reader<&'a [u8]>, String> {
    Reader::open(file, identity.to_string().expose_secret())
}

fn summary(file: &[u8], identity: &Identity) -> Result<Summary, String> {
    reader(file, identity)?.summary()
}

fn copy_tombstones(from: &KeystoreSettings, to: &TempDir) {
    let state = testing::settings(to.path()).state_dir;
    std::fs::create_dir_all(&state).unwrap();
    let name = "tombstones.log";
    std::fs::copy(from.state_dir.join(name), state.join(name)).unwrap();
}

fn refused<T: std::fmt::Debug>(result: Result<T, AdminError>) -> String {
    match result.unwrap_err() {
        AdminError::Refused(why) => why,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn backup_and_restore_a_drill_on_an_empty_machine() {
    let folder = tempfile::tempdir().unwrap();
    let lost = full(&folder).await;
    let destroyed = lost.lease("default", 9999..10_000).await.unwrap().remove(0);
    lost.anna.key_destroy(destroyed.key_id).await.unwrap();
    let keys = lost.keys().await;
    let identity = Identity::generate();
    let file = lost.backup(&identity).await.unwrap();
    let said = summary(&file, &identity).unwrap();
    assert_eq!(said.keys, u64::from(KEYS) + 3);
    // The file shows nothing, and its contents are wrapped still.
    let mut text = String::new();
    let mut lines = reader(&file, &identity).unwrap();
    while let Some(line) = lines.line().unwrap() {
        text.push_str(&line);
    }
    for key in keys.values().take(20) {
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(!file.windows(16).any(|window| window == key));
        assert!(!text.contains(&hex) && !text.contains(&STANDARD.encode(key)));
    }
    assert!(text.starts_with("{\"head\":{\"format\":\"castellum keystore backup\",\"version\":1,"));

    let machine = tempfile::tempdir().unwrap();
    copy_tombstones(&lost.settings, &machine);
    drop(lost);
    let found = empty(&machine).await;
    let said = found.restore(&file, &identity, false).await.unwrap();
    assert!(said.starts_with(&format!("{} keys", KEYS + 3)), "{said}");
    assert_eq!(*found.local.seal_state().borrow(), SealState::Sealed);
    let error = (found.anna.unseal("wrong horse".into()).await).unwrap_err();
    assert!(matches!(error, AdminError::WrongPassphrase));
    found.anna.unseal(PASSPHRASE.into()).await.unwrap();
    assert_eq!(found.keys().await, keys);
    assert_eq!(found.lease("other", 0..2).await.unwrap().len(), 2);
    let record = found.anna.key_show(destroyed.key_id).await.unwrap();
    assert!(record.destroyed.is_some());
    found.in_order().await;
    // It lives on: new keys, rotations, a restart, and a backup of its own.
    found.lease("default", KEYS..KEYS + 1).await.unwrap();
    found
        .anna
        .rotate_root(None, Some(PASSPHRASE.into()), None)
        .await
        .unwrap();
    let settings = found.settings.clone();
    drop(found);
    let found = open(settings).await;
    found.anna.unseal(PASSPHRASE.into()).await.unwrap();
    assert_eq!(found.keys().await, keys);
    found.in_order().await;
    assert!(found.backup(&identity).await.is_ok());
}

#[tokio::test]
async fn destroy_outlives_yesterdays_backup() {
    let folder = tempfile::tempdir().unwrap();
    let lost = full(&folder).await;
    let identity = Identity::generate();
    let yesterday = lost.backup(&identity).await.unwrap();
    let old_tombstones = std::fs::read(lost.settings.state_dir.join("tombstones.log")).unwrap();
    let key = lost.lease("default", 5..6).await.unwrap().remove(0);
    lost.anna.key_destroy(key.key_id).await.unwrap();
    let other = Act::DestroyTenant {
        tenant: "other".to_owned(),
    };
    lost.agreed(other).await;
    let checkpoint = lost.anna.checkpoint().await.unwrap();

    // With the tombstones: gone for good.
    let machine = tempfile::tempdir().unwrap();
    copy_tombstones(&lost.settings, &machine);
    let found = empty(&machine).await;
    found.restore(&yesterday, &identity, false).await.unwrap();
    found.anna.unseal(PASSPHRASE.into()).await.unwrap();
    let record = found.anna.key_show(key.key_id).await.unwrap();
    assert!(record.destroyed.is_some());
    let new = found.lease("default", 5..6).await.unwrap().remove(0);
    assert_ne!(new.key.expose(), key.key.expose());
    let refusal = found.lease("other", 0..1).await;
    assert!(matches!(refusal, Err(Error::Denied(_))), "{refusal:?}");
    found.in_order().await;

    // Without: not at all, but by two operators who say so.
    let machine = tempfile::tempdir().unwrap();
    let found = empty(&machine).await;
    let why = refused(found.restore(&yesterday, &identity, false).await);
    assert!(why.contains("tombstones"), "{why}");
    assert_eq!(*found.local.seal_state().borrow(), SealState::Uninitialised);
    found.restore(&yesterday, &identity, true).await.unwrap();
    found.anna.unseal(PASSPHRASE.into()).await.unwrap();
    let back = found.lease("default", 5..6).await.unwrap().remove(0);
    assert_eq!(back.key.expose(), key.key.expose());
    let log = std::fs::read_to_string(found.settings.state_dir.join("audit.log")).unwrap();
    assert!(log.contains("\"without_tombstones\":true"));

    // With yesterday's, which nothing on the machine tells from today's: a checkpoint that was kept does.
    let machine = tempfile::tempdir().unwrap();
    copy_tombstones(&lost.settings, &machine);
    let state = testing::settings(machine.path()).state_dir;
    std::fs::write(state.join("tombstones.log"), old_tombstones).unwrap();
    let found = empty(&machine).await;
    found.restore(&yesterday, &identity, false).await.unwrap();
    found.anna.unseal(PASSPHRASE.into()).await.unwrap();
    let faults = found.anna.verify(Some(checkpoint)).await.unwrap().faults;
    assert!(
        faults.iter().any(|fault| fault.place == "tombstones"),
        "{faults:?}"
    );

    // Of another keystore: not at all.
    let machine = tempfile::tempdir().unwrap();
    let foreign = tempfile::tempdir().unwrap();
    let foreign = full(&foreign).await;
    copy_tombstones(&foreign.settings, &machine);
    let found = empty(&machine).await;
    refused(found.restore(&yesterday, &identity, false).await);
    refused(found.restore(&yesterday, &identity, true).await);
}

#[tokio::test]
async fn a_backup_that_was_changed_or_is_another_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let lost = full(&folder).await;
    let identity = Identity::generate();
    let file = lost.backup(&identity).await.unwrap();
    assert!(reader(&file, &Identity::generate()).is_err());
    assert!(summary(&file[..file.len() - 1], &identity).is_err());
    assert!(summary(&file[..file.len() / 2], &identity).is_err());
    let mut flipped = file.clone();
    flipped[file.len() / 2] ^= 1;
    assert!(summary(&flipped, &identity).is_err());

    let machine = tempfile::tempdir().unwrap();
    copy_tombstones(&lost.settings, &machine);
    let found = empty(&machine).await;
    // Nobody agreed, or on another backup.
    let name = summary(&file, &identity).unwrap().sha256;
    let mut lines = Vec::new();
    let mut file_lines = reader(&file, &identity).unwrap();
    while let Some(line) = file_lines.line().unwrap() {
        lines.push(line.to_string());
    }
    refused(found.anna.restore(lines[0].clone()).await);
    let act = |backup: &str| Act::Restore {
        backup: backup.to_owned(),
        without_tombstones: false,
    };
    refused(found.anna.act(act("yesterday's")).await);
    let another: String = (name.chars())
        .map(|digit| if digit == '0' { '1' } else { '0' })
        .collect();
    found.agreed(act(&another)).await;
    let text = lines.concat();
    let why = async {
        for part in text.split_inclusive('\n') {
            found.anna.restore(part.to_owned()).await?;
        }
        Ok::<_, AdminError>(())
    };
    assert!(refused(why.await).contains("agreed on"));
    // A line changed, left out, or of a newer version.
    type Change = fn(&mut Vec<String>);
    let changes: [Change; 4] = [
        |lines| lines[50] = lines[50].replace("\"hd\"", "\"sd\""),
        |lines| drop(lines.remove(50)),
        |lines| lines[0] = lines[0].replace("\"version\":1", "\"version\":2"),
        |lines| lines[50] = "garbage\n".to_owned(),
    ];
    for change in changes {
        let mut changed = lines.clone();
        change(&mut changed);
        found.agreed(act(&name)).await;
        let mut outcome = Ok(None);
        for line in changed {
            outcome = found.anna.restore(line).await;
            if outcome.is_err() {
                break;
            }
        }
        refused(outcome);
        assert_eq!(*found.local.seal_state().borrow(), SealState::Uninitialised);
    }
    // Cut short by a crash; then whole.
    found.agreed(act(&name)).await;
    for line in &lines[..600] {
        found.anna.restore(line.clone()).await.unwrap();
    }
    let settings = found.settings.clone();
    drop(found);
    let found = open(settings).await;
    assert_eq!(*found.local.seal_state().borrow(), SealState::Uninitialised);
    found.restore(&file, &identity, false).await.unwrap();
    found.anna.unseal(PASSPHRASE.into()).await.unwrap();
    assert_eq!(found.keys().await, lost.keys().await);
    // Into one that has a root: not even agreed on.
    assert!(refused(found.anna.act(act(&name)).await).contains("has a root"));
}

#[tokio::test]
async fn an_unfinished_restore_is_no_hindrance_to_a_new_root() {
    let folder = tempfile::tempdir().unwrap();
    let lost = full(&folder).await;
    let identity = Identity::generate();
    let file = lost.backup(&identity).await.unwrap();
    let machine = tempfile::tempdir().unwrap();
    let found = empty(&machine).await;
    let act = Act::Restore {
        backup: summary(&file, &identity).unwrap().sha256,
        without_tombstones: true,
    };
    found.agreed(act).await;
    let mut lines = reader(&file, &identity).unwrap();
    for _ in 0..600 {
        let line = lines.line().unwrap().unwrap();
        found.anna.restore(line.to_string()).await.unwrap();
    }
    found.anna.init(PASSPHRASE.into()).await.unwrap();
    assert_eq!(found.anna.status().await.unwrap().stored.unwrap().keys, 0);
    found.lease("default", 0..1).await.unwrap();
    found.in_order().await;
    // What was left of it comes too late.
    let mut outcome = Ok(None);
    while let Some(line) = lines.line().unwrap() {
        outcome = found.anna.restore(line.to_string()).await;
        if outcome.is_err() {
            break;
        }
    }
    assert!(outcome.is_err());
    found.in_order().await;
}

#[tokio::test]
async fn a_backup_is_refused_to_no_recipient_and_spoilt_by_a_rotation() {
    let folder = tempfile::tempdir().unwrap();
    let keystore = full(&folder).await;
    for recipients in [vec![], vec!["age1nobody".to_owned()]] {
        refused(keystore.anna.backup(recipients).await);
    }
    let recipient = Identity::generate().to_public().to_string();
    let id = (keystore.anna.backup(vec![recipient.clone()]).await).unwrap();
    (keystore
        .anna
        .rotate_root(None, Some(PASSPHRASE.into()), None)
        .await)
        .unwrap();
    let outcome = loop {
        match keystore.anna.backup_chunk(id.clone()).await {
            Ok(Some(_)) => {}
            other => break other,
        }
    };
    assert!(refused(outcome).contains("rotation"));
    let first = (keystore.anna.backup(vec![recipient.clone()]).await).unwrap();
    (keystore.anna.backup(vec![recipient]).await).unwrap();
    refused(keystore.anna.backup_chunk(first).await);
    let origin = Caller::configured(&keystore.settings, "origin").unwrap();
    let error = (keystore.local.admin(origin))
        .backup(vec![])
        .await
        .unwrap_err();
    assert!(matches!(error, AdminError::Keystore(Error::Denied(_))));
    let log = std::fs::read_to_string(keystore.settings.state_dir.join("audit.log")).unwrap();
    assert_eq!(log.matches("\"op\":\"backup\"").count(), 3);
}

/// Each part with its length before it, as `keystore/design/records.md` says.
fn parts(parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}

#[tokio::test]
async fn dual_control_exported_keks_open_what_the_store_holds_and_nothing_shows_them() {
    let folder = tempfile::tempdir().unwrap();
    let keystore = full(&folder).await;
    let key = keystore.lease("default", 0..1).await.unwrap().remove(0);
    let identity = Identity::generate();
    let act = |tenant: &str, recipients: Vec<String>| Act::ExportKeks {
        tenant: tenant.to_owned(),
        recipients,
    };
    let recipients = vec![identity.to_public().to_string()];
    refused(keystore.anna.act(act("nobody", recipients.clone())).await);
    refused(
        keystore
            .anna
            .act(act("default", vec!["nobody".to_owned()]))
            .await,
    );
    let Acted::File(file) = keystore.agreed(act("default", recipients)).await else {
        panic!("no file");
    };
    let file = STANDARD.decode(file).unwrap();
    let decryptor = age::Decryptor::new(file.as_slice()).unwrap();
    let mut stream = decryptor
        .decrypt(std::iter::once(&identity as &dyn age::Identity))
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["format"], "castellum KEKs");
    assert_eq!(document["tenant"], "default");
    let keks = document["keks"].as_array().unwrap();
    assert_eq!(keks.len(), 2);
    assert_eq!(keks[1]["version"], 2);
    let hex = keks[1]["key"].as_str().unwrap();
    let kek: Vec<u8> = (0..32)
        .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
        .collect();

    // By the format alone.
    let path = keystore.settings.state_dir.join("keystore.sqlite");
    let options = SqliteConnectOptions::new().filename(path);
    let mut database = SqliteConnection::connect_with(&options).await.unwrap();
    let row = sqlx::query("SELECT wrapped, iv FROM content_key WHERE key_id = ?")
        .bind(key.key_id.as_bytes().as_slice())
        .fetch_one(&mut database)
        .await
        .unwrap();
    let (wrapped, iv): (Vec<u8>, Vec<u8>) = (row.get(0), row.get(1));
    let purpose = parts(&[
        b"castellum content key 1",
        key.key_id.as_bytes(),
        b"default",
        b"film",
        b"hd",
        b"cbcs",
        &SUBSAMPLE_RULE.to_be_bytes(),
        &[7; 32],
        &0_u32.to_be_bytes(),
        &iv,
        &2_u32.to_be_bytes(),
    ]);
    let (nonce, sealed) = wrapped.split_at(12);
    let opener = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &kek).unwrap());
    let nonce = Nonce::try_assume_unique_for_key(nonce).unwrap();
    let mut sealed = sealed.to_vec();
    let opened = opener.open_in_place(nonce, Aad::from(purpose), &mut sealed);
    assert_eq!(opened.unwrap(), key.key.expose());

    let log = std::fs::read_to_string(keystore.settings.state_dir.join("audit.log")).unwrap();
    assert!(log.contains("\"op\":\"export_keks\",\"tenant\":\"default\",\"versions\":[1,2]"));
    assert!(!any_file_holds(&keystore.settings.state_dir, &kek));
}

fn any_file_holds(folder: &Path, bytes: &[u8]) -> bool {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    std::fs::read_dir(folder).unwrap().any(|file| {
        let file = std::fs::read(file.unwrap().path()).unwrap();
        [bytes, hex.as_bytes()]
            .iter()
            .any(|needle| file.windows(needle.len()).any(|window| window == *needle))
    })
}
