//! No key lies in the open in any file.
//!
//! Searched for are content keys and KEKs; a root cannot be, since nothing shows one. Memory is another matter.
#![expect(clippy::unwrap_used, reason = "a test's panic is its report")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use age::secrecy::ExposeSecret as _;
use age::x25519::Identity;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use keystore::backup::Reader;
use keystore::capability::Caller;
use keystore::{Local, SystemClock, testing};
use keystore_client::admin::{Act, Acted, Admin};
use keystore_client::{EntitlementRef, ExportRequest, LeaseRequest};
use keystore_types::{Generation, KeyContext, Label, SUBSAMPLE_RULE, Scheme};

const PASSPHRASE: &str = "correct horse battery staple";

async fn agreed(local: &Local, act: Act) -> Acted {
    let [anna, berta] = ["anna", "berta"].map(|name| local.admin(Caller::operator(name)));
    let Acted::Waits(approval) = anna.act(act.clone()).await.unwrap() else {
        panic!("done by one operator alone");
    };
    berta.approve(approval.id).await.unwrap();
    anna.act(act).await.unwrap()
}

async fn lease(local: &Local, number: u32) -> Vec<[u8; 16]> {
    let contexts: Vec<_> = Label::ALL
        .map(|label| KeyContext {
            tenant: "default".to_owned(),
            asset: "film".parse().unwrap(),
            label,
            scheme: Scheme::Cbcs,
            subsample_rule: SUBSAMPLE_RULE,
            generation: Generation {
                sources: [7; 32],
                number,
            },
        })
        .into();
    let lease = (testing::origin(local).lease(LeaseRequest { contexts }))
        .await
        .unwrap();
    let key_ids = lease.keys.iter().map(|key| key.key_id).collect();
    let request = ExportRequest {
        asset: "film".parse().unwrap(),
        key_ids,
        entitlement: EntitlementRef {
            issuer: "tests".to_owned(),
            subject: Some("viewer".to_owned()),
            token_id: None,
            system: "clearkey".to_owned(),
        },
    };
    testing::license(local).export(request).await.unwrap();
    lease.keys.iter().map(|key| *key.key.expose()).collect()
}

async fn keks(local: &Local, identity: &Identity) -> Vec<Vec<u8>> {
    let act = Act::ExportKeks {
        tenant: "default".to_owned(),
        recipients: vec![identity.to_public().to_string()],
    };
    let Acted::File(file) = agreed(local, act).await else {
        panic!("no file");
    };
    let file = STANDARD.decode(file).unwrap();
    let document = age::decrypt(identity, &file).unwrap();
    let document: serde_json::Value = serde_json::from_slice(&document).unwrap();
    let digits = |text: &str| {
        (0..32)
            .map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
            .collect()
    };
    let keks = document["keks"].as_array().unwrap();
    keks.iter()
        .map(|kek| digits(kek["key"].as_str().unwrap()))
        .collect()
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        match path.is_dir() {
            true => files(&path, found),
            false => found.push(path),
        }
    }
}

/// A key as it is, and as the texts in which it might stand.
fn spellings(key: &[u8]) -> Vec<Vec<u8>> {
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    vec![
        key.to_vec(),
        hex.to_uppercase().into_bytes(),
        hex.into_bytes(),
        URL_SAFE_NO_PAD.encode(key).into_bytes(),
        STANDARD_NO_PAD.encode(key).into_bytes(),
    ]
}

fn holds(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

#[tokio::test]
async fn nothing_at_rest_in_clear() {
    let folder = tempfile::tempdir().unwrap();
    let settings = testing::settings(folder.path());
    let local = Local::open(&settings, Arc::new(SystemClock)).await.unwrap();
    let operator: Arc<dyn Admin> = testing::operator(&local);
    operator.init(PASSPHRASE.into()).await.unwrap();
    let identity = Identity::generate();

    // A whole life.
    let mut keys: Vec<Vec<u8>> = Vec::new();
    for number in 0..20 {
        keys.extend(lease(&local, number).await.into_iter().map(Vec::from));
    }
    keys.extend(keks(&local, &identity).await);
    operator.rotate_keks(None).await.unwrap();
    while operator.status().await.unwrap().stored.unwrap().rotating {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    operator
        .rotate_root(None, Some(PASSPHRASE.into()), None)
        .await
        .unwrap();
    keys.extend(keks(&local, &identity).await);
    operator.seal().await.unwrap();
    operator.unseal(PASSPHRASE.into()).await.unwrap();
    keys.extend(lease(&local, 100).await.into_iter().map(Vec::from));
    let page = operator.key_list(Default::default()).await.unwrap();
    operator.key_destroy(page.keys[0].key_id).await.unwrap();
    agreed(&local, Act::SetAsideLog {}).await;
    operator.checkpoint().await.unwrap();
    let id = (operator
        .backup(vec![identity.to_public().to_string()])
        .await)
        .unwrap();
    let mut backup = Vec::new();
    while let Some(chunk) = operator.backup_chunk(id.clone()).await.unwrap() {
        backup.extend_from_slice(&chunk);
    }
    let mut opened = String::new();
    let mut lines = Reader::open(&backup[..], identity.to_string().expose_secret()).unwrap();
    while let Some(line) = lines.line().unwrap() {
        opened.push_str(&line);
    }

    let mut found = Vec::new();
    files(folder.path(), &mut found);
    let names: Vec<_> = found
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    for name in ["audit.log", "audit-", "keystore.sqlite", "tombstones.log"] {
        assert!(names.iter().any(|path| path.contains(name)), "{names:?}");
    }
    let mut contents: Vec<(String, Vec<u8>)> = (found.iter())
        .map(|path| (path.display().to_string(), std::fs::read(path).unwrap()))
        .collect();
    contents.push(("the backup".to_owned(), backup));
    contents.push(("the backup, opened".to_owned(), opened.into_bytes()));
    // The search finds what is there.
    let log = std::fs::read(settings.state_dir.join("audit.log")).unwrap();
    assert!(holds(&log, b"checkpoint"));
    assert!(keys.len() > 100, "{}", keys.len());
    for (name, bytes) in &contents {
        for key in &keys {
            for spelling in spellings(key) {
                assert!(!holds(bytes, &spelling), "a key is in {name}");
            }
        }
        assert!(
            !holds(bytes, PASSPHRASE.as_bytes()),
            "the passphrase is in {name}"
        );
    }
}
