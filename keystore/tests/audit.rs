//! The audit log against whoever may write to the disk, and against a disk that is full.
//!
//! Nothing here can show what a disk does that lies about its syncs; `crash.rs` kills the process instead.
#![expect(clippy::unwrap_used, reason = "a test's panic is its report")]

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use conf::{AuditSettings, KeystoreSettings};
use keystore::audit::{Checkpoint, Expected, PublicKey, Walk, walk};
use keystore::{Local, SystemClock, testing};
use keystore_client::admin::{Admin, AdminError, CheckpointText, Report};
use keystore_client::{EntitlementRef, Error, ExportRequest, Lease, LeaseRequest, SealState};
use keystore_types::{Generation, KeyContext, KeyId, Label, SUBSAMPLE_RULE, Scheme};
use tempfile::TempDir;

const PASSPHRASE: &str = "correct horse";

struct Opened {
    local: Local,
    operator: Arc<dyn Admin>,
    settings: KeystoreSettings,
}

async fn open(settings: KeystoreSettings) -> Opened {
    let local = Local::open(&settings, Arc::new(SystemClock)).await.unwrap();
    Opened {
        operator: testing::operator(&local),
        local,
        settings,
    }
}

async fn fresh(folder: &TempDir) -> Opened {
    let keystore = open(testing::settings(folder.path())).await;
    keystore.operator.init(PASSPHRASE.into()).await.unwrap();
    keystore
}

impl Opened {
    fn log(&self) -> PathBuf {
        self.settings.state_dir.join("audit.log")
    }

    async fn lease(&self, number: u32) -> Result<Lease, Error> {
        let contexts = vec![KeyContext {
            tenant: "default".to_owned(),
            asset: "film".parse().unwrap(),
            label: Label::Hd,
            scheme: Scheme::Cbcs,
            subsample_rule: SUBSAMPLE_RULE,
            generation: Generation {
                sources: [7; 32],
                number,
            },
        }];
        (testing::origin(&self.local).lease(LeaseRequest { contexts })).await
    }

    async fn export(&self, id: KeyId) -> Result<(), Error> {
        let request = ExportRequest {
            asset: "film".parse().unwrap(),
            key_ids: vec![id],
            entitlement: EntitlementRef {
                issuer: "tests".to_owned(),
                subject: None,
                token_id: None,
                system: "clearkey".to_owned(),
            },
        };
        let keys = testing::license(&self.local).export(request).await?;
        assert_eq!(keys.len(), 1);
        Ok(())
    }

    async fn verify(&self, against: Option<&CheckpointText>) -> Report {
        self.operator.verify(against.cloned()).await.unwrap()
    }
}

/// The lines of a log, with their newlines.
fn lines(log: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(log).unwrap();
    text.split_inclusive('\n').map(str::to_owned).collect()
}

fn offset(lines: &[String], seq: u64) -> u64 {
    let before = usize::try_from(seq - 1).unwrap();
    lines[..before].iter().map(|line| line.len() as u64).sum()
}

/// Verifies a copy of the log, as an auditor does who has nothing but the public key.
fn offline(lines: &[String], key: &str, checkpoint: Option<&CheckpointText>) -> Walk {
    let mut file = tempfile::tempfile().unwrap();
    let text = lines.concat();
    file.write_all(text.as_bytes()).unwrap();
    let checkpoints: Vec<Checkpoint> = checkpoint
        .map(|text| text.try_into().unwrap())
        .into_iter()
        .collect();
    let expected = Expected {
        key: Some(PublicKey::from_pem(key).unwrap()),
        anchor: None,
        checkpoints: &checkpoints,
    };
    walk(&file, text.len() as u64, &expected)
}

/// Makes every link right again, as a forger without the private key can.
fn relink(lines: &mut [String]) {
    let mut prev = "0".repeat(64);
    for (number, line) in (1..).zip(lines) {
        let mut record: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(line).unwrap();
        let old_seq = record["seq"].as_u64().unwrap();
        let old_prev = record["prev"].as_str().unwrap().to_owned();
        record.remove("hash");
        let body = line[..line.find(",\"hash\":").unwrap()]
            .replace(
                &format!("\"prev\":\"{old_prev}\""),
                &format!("\"prev\":\"{prev}\""),
            )
            .replacen(
                &format!("\"seq\":{old_seq},"),
                &format!("\"seq\":{number},"),
                1,
            );
        let digest = ring::digest::digest(&ring::digest::SHA256, body.as_bytes());
        prev = (digest.as_ref().iter())
            .map(|byte| format!("{byte:02x}"))
            .collect();
        *line = format!("{body},\"hash\":\"{prev}\"}}\n");
    }
}

fn is_checkpoint(line: &str) -> bool {
    line.contains("\"op\":\"checkpoint\"")
}

#[tokio::test]
async fn tamper_evident_audit_flip_drop_reorder_and_truncation_are_located() {
    let folder = tempfile::tempdir().unwrap();
    let keystore = fresh(&folder).await;
    for number in 0..600 {
        keystore.lease(number % 3).await.unwrap();
    }
    let checkpoint = keystore.operator.checkpoint().await.unwrap();
    for number in 0..20 {
        keystore.lease(number % 3).await.unwrap();
    }
    let log = keystore.log();
    let good = lines(&log);
    let key = Checkpoint::try_from(&checkpoint).unwrap().key.to_pem();
    let report = keystore.verify(Some(&checkpoint)).await;
    assert_eq!(report.faults, vec![]);
    assert_eq!(report.audit_records, good.len() as u64);
    assert_eq!(report.audit_signed, checkpoint.seq);
    assert_eq!(offline(&good, &key, Some(&checkpoint)).fault, None);
    // While keys leave, a signature is never far.
    let signed = good.iter().filter(|line| is_checkpoint(line)).count();
    assert_eq!(
        signed, 4,
        "after init, two on the way, and the one that was asked for"
    );

    type Change = fn(&mut Vec<String>);
    let cases: [(&str, u64, Change); 9] = [
        ("the front cut off, up to a checkpoint", 1, |lines| {
            let at = lines.iter().skip(10).position(|line| is_checkpoint(line));
            drop(lines.drain(..10 + at.unwrap()));
        }),
        ("a byte flipped", 300, |lines| {
            lines[299] = lines[299].replacen("film", "fylm", 1);
        }),
        ("a bit of a hash flipped", 300, |lines| {
            let at = lines[299].len() - 10;
            let other = if &lines[299][at..=at] == "0" {
                "1"
            } else {
                "0"
            };
            lines[299].replace_range(at..=at, other);
        }),
        ("dropped", 300, |lines| drop(lines.remove(299))),
        ("the first dropped", 1, |lines| drop(lines.remove(0))),
        ("reordered", 300, |lines| lines.swap(299, 300)),
        ("repeated", 301, |lines| {
            lines.insert(300, lines[299].clone())
        }),
        ("cut short", 501, |lines| lines.truncate(500)),
        ("emptied", 1, Vec::clear),
    ];
    for (what, seq, change) in cases {
        let mut changed = good.clone();
        change(&mut changed);
        let at = offset(&changed, seq);
        let fault = offline(&changed, &key, Some(&checkpoint)).fault.unwrap();
        assert_eq!((fault.seq, fault.offset), (seq, at), "{what}: {fault:?}");
        // As the keystore itself says.
        std::fs::write(&log, changed.concat()).unwrap();
        let faults = keystore.verify(Some(&checkpoint)).await.faults;
        assert_eq!(faults.len(), 1, "{what}: {faults:?}");
        assert_eq!(faults[0].place, "audit", "{what}");
        assert_eq!(faults[0].sequence, Some(seq), "{what}: {faults:?}");
        assert_eq!(faults[0].offset, Some(at), "{what}: {faults:?}");
        std::fs::write(&log, good.concat()).unwrap();
    }
    assert_eq!(keystore.verify(Some(&checkpoint)).await.faults, vec![]);
}

#[tokio::test]
async fn tamper_evident_audit_a_chain_made_anew_is_found_with_the_public_key_alone() {
    let folder = tempfile::tempdir().unwrap();
    let keystore = fresh(&folder).await;
    for number in 0..600 {
        keystore.lease(number % 3).await.unwrap();
    }
    let checkpoint = keystore.operator.checkpoint().await.unwrap();
    let good = lines(&keystore.log());
    let key = Checkpoint::try_from(&checkpoint).unwrap().key.to_pem();

    // One record changed, and every link after it made right: the next checkpoint speaks of another chain.
    let mut forged = good.clone();
    forged[299] = forged[299].replacen("film", "fylm", 1);
    relink(&mut forged);
    let next = (good.iter().enumerate().skip(299))
        .find(|(_, line)| is_checkpoint(line))
        .map(|(at, _)| at as u64 + 1)
        .unwrap();
    let fault = offline(&forged, &key, None).fault.unwrap();
    assert_eq!((fault.seq, fault.offset), (next, offset(&forged, next)));
    assert!(fault.what.contains("written anew"), "{fault:?}");

    // Without the checkpoints too: then too much is unsigned.
    forged.retain(|line| !is_checkpoint(line));
    relink(&mut forged);
    let walk = offline(&forged, &key, None);
    assert_eq!(walk.signed, 0);
    assert_eq!(walk.fault.unwrap().seq, 1);

    // A chain of the forger's own signatures.
    let other = tempfile::tempdir().unwrap();
    let other = fresh(&other).await;
    other.lease(0).await.unwrap();
    let fault = offline(&lines(&other.log()), &key, None).fault.unwrap();
    assert!(fault.what.contains("another key"), "{fault:?}");
    let foreign = other.operator.checkpoint().await.unwrap();
    let faults = keystore.verify(Some(&foreign)).await.faults;
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert_eq!(faults[0].place, "checkpoint");

    // A log that ends early, at any record, is in order by itself: that is what shipped checkpoints are for.
    let early = &good[..500];
    assert_eq!(offline(early, &key, None).fault, None);
    let fault = offline(early, &key, Some(&checkpoint)).fault.unwrap();
    assert_eq!(fault.seq, 501);
    assert!(fault.what.contains("cut short"), "{fault:?}");
}

#[tokio::test]
async fn sealed_there_is_nothing_to_sign_with() {
    let folder = tempfile::tempdir().unwrap();
    let keystore = fresh(&folder).await;
    let key = keystore.operator.status().await.unwrap().audit_key;
    let signed = keystore.operator.checkpoint().await.unwrap();
    keystore.operator.seal().await.unwrap();
    let error = keystore.operator.checkpoint().await.unwrap_err();
    assert!(
        matches!(error, AdminError::Keystore(Error::Sealed)),
        "{error}"
    );
    // What was signed can be checked all the same, and the key stays.
    assert_eq!(keystore.verify(Some(&signed)).await.faults, vec![]);
    keystore.operator.unseal(PASSPHRASE.into()).await.unwrap();
    (keystore
        .operator
        .rotate_root(None, Some(PASSPHRASE.into()), None)
        .await)
        .unwrap();
    assert_eq!(keystore.operator.status().await.unwrap().audit_key, key);
    assert_eq!(key.as_ref(), Some(&signed.key));
    assert_eq!(keystore.verify(Some(&signed)).await.faults, vec![]);
}

fn is_audit_unavailable<T>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::AuditUnavailable(_)))
}

/// Fills the log as `more` allows, and looks on as it is refused: first new keys, then leases and exports, and
/// operators last of all.
async fn fills_up(keystore: &Opened) {
    let known = keystore.lease(0).await.unwrap().keys[0].key_id;
    let mut number = 1;
    while keystore.lease(number).await.is_ok() {
        number += 1;
    }
    assert!(is_audit_unavailable(&keystore.lease(number).await));
    // Degraded: no new key, and what there is goes on.
    let mut served = 0;
    while keystore.export(known).await.is_ok() && keystore.lease(0).await.is_ok() {
        served += 1;
    }
    assert!(served > 10, "{served}");
    while keystore.export(known).await.is_ok() {}
    assert!(is_audit_unavailable(&keystore.export(known).await));
    while keystore.lease(0).await.is_ok() {}
    assert!(is_audit_unavailable(&keystore.lease(0).await));
    // Operators go on.
    assert_eq!(keystore.verify(None).await.faults, vec![]);
    keystore.operator.seal().await.unwrap();
    keystore.operator.unseal(PASSPHRASE.into()).await.unwrap();
    let checkpoint = keystore.operator.checkpoint().await.unwrap();
    // Nothing was lost: each refusal left the chain as it was.
    assert_eq!(keystore.verify(Some(&checkpoint)).await.faults, vec![]);
    let log = lines(&keystore.log());
    let leases = (log.iter())
        .filter(|line| line.contains("\"op\":\"lease\""))
        .count();
    assert!(leases >= usize::try_from(number).unwrap() + served);
    // Until the very end, which is an answer too.
    let error = loop {
        match keystore.operator.checkpoint().await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(
        matches!(error, AdminError::Keystore(Error::AuditUnavailable(_))),
        "{error}"
    );
    // On the way to safety nothing stands in the way.
    let _ = keystore.operator.seal().await;
    assert_eq!(*keystore.local.seal_state().borrow(), SealState::Sealed);
    assert!(matches!(keystore.lease(0).await, Err(Error::Sealed)));
}

#[tokio::test]
async fn audit_full_new_keys_are_refused_first_then_licences_and_operators_last() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = testing::settings(folder.path());
    settings.audit = AuditSettings {
        capacity: 256 << 10,
        reserve: 64 << 10,
    };
    let keystore = open(settings.clone()).await;
    keystore.operator.init(PASSPHRASE.into()).await.unwrap();
    fills_up(&keystore).await;
    let len = keystore.log().metadata().unwrap().len();
    assert!(len <= settings.audit.capacity, "{len}");
    // A greater capacity, and all is well again.
    drop(keystore);
    settings.audit.capacity = 1 << 20;
    let keystore = open(settings).await;
    keystore.operator.unseal(PASSPHRASE.into()).await.unwrap();
    keystore.lease(10_000).await.unwrap();
    assert_eq!(keystore.verify(None).await.faults, vec![]);
}

#[tokio::test]
async fn audit_full_a_disk_without_room_leaves_the_reserve() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=2m", "none"])
        .arg(&disk)
        .output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        return eprintln!("skipped: a tmpfs cannot be mounted here");
    }
    let _unmount = Unmount(disk.clone());
    let mut settings = testing::settings(&disk);
    settings.audit = AuditSettings {
        capacity: 1 << 30,
        reserve: 64 << 10,
    };
    let keystore = open(settings).await;
    keystore.operator.init(PASSPHRASE.into()).await.unwrap();
    let known = keystore.lease(0).await.unwrap().keys[0].key_id;
    // Somebody fills the disk.
    let mut filler = File::create(disk.join("filler")).unwrap();
    while filler.write_all(&[0; 4096]).is_ok() {}
    let mut served = 0;
    while keystore.export(known).await.is_ok() {
        served += 1;
    }
    assert!(served > 50, "{served}");
    assert!(is_audit_unavailable(&keystore.export(known).await));
    keystore.operator.seal().await.unwrap();
    keystore.operator.unseal(PASSPHRASE.into()).await.unwrap();
    assert_eq!(keystore.verify(None).await.faults, vec![]);
    // And gives it back.
    drop(filler);
    std::fs::remove_file(disk.join("filler")).unwrap();
    // The first record asks the disk for room again.
    keystore.export(known).await.unwrap();
    keystore.lease(1).await.unwrap();
    assert_eq!(keystore.verify(None).await.faults, vec![]);
}

struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        // Lazily: the keystore's files are still open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Copies the store's files.
#[tokio::test]
async fn rollback_of_the_store_is_detected_by_the_log_and_by_a_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let keystore = fresh(&folder).await;
    let settings = keystore.settings.clone();
    let state = settings.state_dir.clone();
    keystore.lease(0).await.unwrap();
    drop(keystore);
    let yesterday = folder.path().join("yesterday");
    testing::copy_store(&state, &yesterday).await.unwrap();
    std::fs::copy(state.join("audit.log"), yesterday.join("audit.log")).unwrap();

    // One key more is enough.
    let keystore = open(settings.clone()).await;
    keystore.operator.unseal(PASSPHRASE.into()).await.unwrap();
    keystore.lease(1).await.unwrap();
    let checkpoint = keystore.operator.checkpoint().await.unwrap();
    assert_eq!(keystore.verify(Some(&checkpoint)).await.faults, vec![]);
    drop(keystore);

    testing::copy_store(&yesterday, &state).await.unwrap();
    let keystore = open(settings.clone()).await;
    let error = (keystore.operator.unseal(PASSPHRASE.into()).await).unwrap_err();
    assert!(
        matches!(&error, AdminError::Refused(why) if why.contains("was put back")),
        "{error}"
    );
    assert!(matches!(keystore.lease(0).await, Err(Error::Sealed)));
    let faults = keystore.verify(None).await.faults;
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert_eq!(faults[0].place, "store");
    drop(keystore);

    // With the log as old as the store, the checkpoint that was kept elsewhere tells.
    std::fs::copy(yesterday.join("audit.log"), state.join("audit.log")).unwrap();
    let keystore = open(settings).await;
    keystore.operator.unseal(PASSPHRASE.into()).await.unwrap();
    assert_eq!(keystore.verify(None).await.faults, vec![]);
    let faults = keystore.verify(Some(&checkpoint)).await.faults;
    let places: Vec<_> = faults.iter().map(|fault| fault.place.as_str()).collect();
    assert_eq!(places, ["audit", "store"], "{faults:?}");
}

#[tokio::test]
async fn rollback_of_the_log_is_detected_by_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let keystore = fresh(&folder).await;
    let settings = keystore.settings.clone();
    let log = keystore.log();
    let good = lines(&log);
    for number in 0..10 {
        keystore.lease(number).await.unwrap();
    }
    keystore.operator.checkpoint().await.unwrap();
    drop(keystore);
    // Cut short, and cut short and grown again.
    for records in 0..15_u32 {
        let mut old = good[..2].to_vec();
        for _ in 0..records {
            old.push(good[1].clone());
        }
        relink(&mut old);
        std::fs::write(&log, old.concat()).unwrap();
        let keystore = open(settings.clone()).await;
        let error = (keystore.operator.unseal(PASSPHRASE.into()).await).unwrap_err();
        assert!(
            matches!(&error, AdminError::Refused(why) if why.contains("the audit log was put back")),
            "{records}: {error}"
        );
    }
}
