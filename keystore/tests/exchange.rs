//! Key exchange: ids that others chose, keys that others bring, and which content they come to protect.
//!
//! It cannot show what a partner is sent: documents are `license`'s and `cpix`'s.

#![expect(clippy::unwrap_used, reason = "a test's panic is its report")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use conf::{CallerRight, KeystoreSettings, User};
use keystore::capability::{Caller, Callers};
use keystore::server::{Bound, serve_keys};
use keystore::{Local, SystemClock, testing};
use keystore_client::exchange::{
    AskedKey, DepositRequest, DepositedHead, DepositedKey, ExchangeRequest, HandOverRequest,
    KeyUsage, Partner,
};
use keystore_client::socket::Socket;
use keystore_client::{Error, Keystore, Lease, LeaseRequest, SealState};
use keystore_types::{
    AssetId, ConstantIv, ContentKey, Generation, KeyContext, KeyId, Label, SUBSAMPLE_RULE, Scheme,
};
use tempfile::TempDir;

const IV: ConstantIv = ConstantIv::new([9; 16]);

/// A keystore on disk whose licence role may exchange and deposit, for `film` and `other` alone.
struct Store {
    local: Local,
    settings: KeystoreSettings,
    folder: TempDir,
}

impl Store {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(bend: impl FnOnce(&mut KeystoreSettings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = testing::settings(folder.path());
        bend(&mut settings);
        let license = settings.callers.get_mut("license").unwrap();
        license.may = vec![CallerRight::Exchange, CallerRight::Deposit];
        license.assets = vec!["film".to_owned(), "other".to_owned()];
        let local = Local::open(&settings, Arc::new(SystemClock)).await.unwrap();
        (testing::operator(&local)
            .init(testing::PASSPHRASE.into())
            .await)
            .unwrap();
        Self {
            local,
            settings,
            folder,
        }
    }

    fn of(&self, name: &str) -> Arc<dyn Keystore> {
        let caller = Caller::configured(&self.settings, name).unwrap();
        self.local.handle(caller)
    }

    async fn reopened(self) -> Self {
        let Self {
            local,
            settings,
            folder,
        } = self;
        drop(local);
        let local = Local::open(&settings, Arc::new(SystemClock)).await.unwrap();
        (testing::operator(&local)
            .unseal(testing::PASSPHRASE.into())
            .await)
            .unwrap();
        Self {
            local,
            settings,
            folder,
        }
    }

    /// The audit log's records of an operation.
    fn records(&self, op: &str) -> Vec<serde_json::Value> {
        let log = std::fs::read_to_string(self.settings.state_dir.join("audit.log")).unwrap();
        let records = log.lines().map(|line| serde_json::from_str(line).unwrap());
        records
            .filter(|record: &serde_json::Value| record["op"] == op)
            .collect()
    }
}

fn asset(name: &str) -> AssetId {
    name.parse().unwrap()
}

fn id(number: u8) -> KeyId {
    KeyId::new([number; 16])
}

fn usage(label: Label, scheme: Scheme) -> KeyUsage {
    KeyUsage {
        label,
        scheme,
        elsewhere: None,
    }
}

fn elsewhere(label: Label, scheme: Scheme, text: &str) -> KeyUsage {
    KeyUsage {
        elsewhere: Some(text.to_owned()),
        ..usage(label, scheme)
    }
}

fn partner() -> Partner {
    Partner {
        name: "encryptor".to_owned(),
        protocol: "speke-2.0".to_owned(),
        recipients: vec!["ab".repeat(32)],
    }
}

fn asking(film: &str, key_id: KeyId, usage: KeyUsage) -> ExchangeRequest {
    ExchangeRequest {
        tenant: "default".to_owned(),
        asset: asset(film),
        keys: vec![AskedKey {
            key_id,
            usage,
            iv: None,
        }],
        partner: partner(),
    }
}

fn bringing(film: &str, key_id: KeyId, usage: KeyUsage, key: [u8; 16]) -> DepositRequest {
    DepositRequest {
        tenant: "default".to_owned(),
        asset: asset(film),
        keys: vec![DepositedKey {
            head: DepositedHead {
                key_id,
                usage,
                iv: Some(IV),
            },
            key: ContentKey::take(&mut { key }),
        }],
        partner: partner(),
    }
}

fn handing(film: &str) -> HandOverRequest {
    HandOverRequest {
        tenant: "default".to_owned(),
        asset: asset(film),
        scheme: None,
        partner: partner(),
    }
}

fn context(film: &str, label: Label, scheme: Scheme, source: u8) -> KeyContext {
    KeyContext {
        tenant: "default".to_owned(),
        asset: asset(film),
        label,
        scheme,
        subsample_rule: SUBSAMPLE_RULE,
        generation: Generation {
            sources: [source; 32],
            number: 0,
        },
    }
}

async fn lease(keystore: &dyn Keystore, context: KeyContext) -> Result<Lease, Error> {
    let contexts = vec![context];
    keystore.lease(LeaseRequest { contexts }).await
}

async fn key_of(keystore: &dyn Keystore, request: ExchangeRequest) -> [u8; 16] {
    let keys = keystore.exchange(request).await.unwrap();
    *keys[0].key.expose()
}

#[tokio::test]
async fn the_same_request_twice_gives_the_same_key_after_a_restart_too() {
    let store = Store::new().await;
    let license = store.of("license");
    for (number, usage) in [
        (1, usage(Label::Sd, Scheme::Cbcs)),
        (2, usage(Label::Sd, Scheme::Cenc)),
        (3, elsewhere(Label::Uhd2, Scheme::Cenc, "cens ALL")),
    ] {
        let first = key_of(&*license, asking("film", id(number), usage.clone())).await;
        let again = key_of(&*license, asking("film", id(number), usage)).await;
        assert_eq!(first, again);
    }
    let before = key_of(
        &*license,
        asking("film", id(2), usage(Label::Sd, Scheme::Cenc)),
    )
    .await;
    drop(license);
    let store = store.reopened().await;
    let after = asking("film", id(2), usage(Label::Sd, Scheme::Cenc));
    assert_eq!(key_of(&*store.of("license"), after).await, before);
}

#[tokio::test]
async fn an_id_never_stands_for_a_second_content_use_or_scheme() {
    let store = Store::new().await;
    let license = store.of("license");
    let sd = usage(Label::Sd, Scheme::Cbcs);
    license
        .exchange(asking("film", id(1), sd.clone()))
        .await
        .unwrap();
    let own = lease(
        &*store.of("origin"),
        context("film", Label::Hd, Scheme::Cbcs, 1),
    )
    .await;
    let own = own.unwrap().keys[0].key_id;
    for request in [
        asking("other", id(1), sd),
        asking("film", id(1), usage(Label::Hd, Scheme::Cbcs)),
        asking("film", id(1), usage(Label::Sd, Scheme::Cenc)),
        asking("film", id(1), elsewhere(Label::Sd, Scheme::Cbcs, "cbc1 SD")),
        // A key that was made for our own tracks.
        asking("film", own, usage(Label::Hd, Scheme::Cbcs)),
    ] {
        let asked = request.clone();
        let error = license.exchange(request).await.unwrap_err();
        assert!(matches!(error, Error::Conflict(_)), "{asked:?}: {error}");
        // What stands there is not told.
        assert!(!error.to_string().contains("film"), "{error}");
    }
}

#[tokio::test]
async fn nobody_exchanges_without_the_grant_and_each_refusal_is_recorded() {
    let store = Store::new().await;
    let (license, origin) = (store.of("license"), store.of("origin"));
    let sd = || usage(Label::Sd, Scheme::Cbcs);
    for (keystore, film) in [(&license, "secret"), (&origin, "film")] {
        let results = [
            keystore.exchange(asking(film, id(1), sd())).await.err(),
            keystore.hand_over(handing(film)).await.err(),
            keystore
                .deposit(bringing(film, id(1), sd(), [1; 16]))
                .await
                .err(),
        ];
        for result in results {
            assert!(
                matches!(result, Some(Error::Denied(_))),
                "{film}: {result:?}"
            );
        }
    }
    let denied = store.records("denied");
    let found: Vec<_> = denied
        .iter()
        .map(|record| {
            (
                record["caller"].as_str().unwrap(),
                record["capability"].as_str().unwrap(),
            )
        })
        .collect();
    let three = |caller| {
        [
            (caller, "exchange"),
            (caller, "exchange"),
            (caller, "deposit"),
        ]
    };
    assert_eq!(found, [three("license"), three("origin")].concat());
    // And whoever exchanges neither leases nor exports.
    let leased = lease(&*license, context("film", Label::Sd, Scheme::Cbcs, 1)).await;
    assert!(matches!(leased, Err(Error::Denied(_))));
}

#[tokio::test]
async fn an_exchanged_key_protects_the_first_content_that_asks_and_no_other() {
    let store = Store::new().await;
    let (license, origin) = (store.of("license"), store.of("origin"));
    let sd = || usage(Label::Sd, Scheme::Cbcs);
    let key = key_of(&*license, asking("film", id(1), sd())).await;
    // The place is taken: the encryptor's next key is its own.
    license.exchange(asking("film", id(2), sd())).await.unwrap();

    let content = || context("film", Label::Sd, Scheme::Cbcs, 1);
    for _ in 0..2 {
        let leased = lease(&*origin, content()).await.unwrap();
        assert_eq!(
            (leased.keys[0].key_id, leased.keys[0].key.expose()),
            (id(1), &key)
        );
        assert_eq!(leased.keys[0].context, content());
    }
    assert_eq!(key_of(&*license, asking("film", id(1), sd())).await, key);
    let leases = store.records("lease");
    assert_eq!(leases[0]["claimed"][0], id(1).to_string());
    assert!(leases[1].get("claimed").is_none());

    let error = lease(&*origin, context("film", Label::Sd, Scheme::Cbcs, 2))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, Error::Conflict(why) if why.contains(&id(1).to_string())),
        "{error}"
    );
    // With the key gone, one is made here.
    testing::operator(&store.local)
        .key_destroy(id(1))
        .await
        .unwrap();
    let leased = lease(&*origin, context("film", Label::Sd, Scheme::Cbcs, 2))
        .await
        .unwrap();
    assert!(![id(1), id(2)].contains(&leased.keys[0].key_id));
    let error = license
        .exchange(asking("film", id(1), sd()))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("was destroyed"), "{error}");
}

#[tokio::test]
async fn what_others_encrypt_in_counter_mode_is_never_used_here() {
    let store = Store::new().await;
    let (license, origin) = (store.of("license"), store.of("origin"));
    let request = asking("film", id(1), usage(Label::Sd, Scheme::Cenc));
    license.exchange(request).await.unwrap();
    let leased = lease(&*origin, context("film", Label::Sd, Scheme::Cenc, 1))
        .await
        .unwrap();
    assert_ne!(leased.keys[0].key_id, id(1));
    // The other way round too: what is used here is not given to an encryptor.
    let brought = bringing("other", id(2), usage(Label::Sd, Scheme::Cenc), [7; 16]);
    license.deposit(brought).await.unwrap();
    let leased = lease(&*origin, context("other", Label::Sd, Scheme::Cenc, 1))
        .await
        .unwrap();
    assert_eq!(
        (leased.keys[0].key_id, leased.keys[0].key.expose()),
        (id(2), &[7; 16])
    );
    let request = asking("other", id(2), usage(Label::Sd, Scheme::Cenc));
    assert!(matches!(
        license.exchange(request).await,
        Err(Error::Conflict(_))
    ));
}

#[tokio::test]
async fn no_lease_reaches_keys_that_wait_or_are_elsewhere() {
    let store = Store::new().await;
    let license = store.of("license");
    let request = asking("film", id(1), usage(Label::Sd, Scheme::Cbcs));
    license.exchange(request).await.unwrap();
    for generation in [
        Generation::UNCLAIMED,
        Generation::elsewhere([1; 32]),
        Generation {
            sources: [0; 32],
            number: 0,
        },
    ] {
        let context = KeyContext {
            generation,
            ..context("film", Label::Sd, Scheme::Cbcs, 1)
        };
        let result = lease(&*store.of("origin"), context).await;
        assert!(matches!(result, Err(Error::Malformed(_))), "{generation:?}");
    }
}

#[tokio::test]
async fn a_key_that_is_brought_is_the_one_that_is_leased() {
    let store = Store::new().await;
    let (license, origin) = (store.of("license"), store.of("origin"));
    let hd = || usage(Label::Hd, Scheme::Cbcs);
    for _ in 0..2 {
        license
            .deposit(bringing("film", id(1), hd(), [7; 16]))
            .await
            .unwrap();
    }
    let leased = lease(&*origin, context("film", Label::Hd, Scheme::Cbcs, 1))
        .await
        .unwrap();
    let key = &leased.keys[0];
    assert_eq!(
        (key.key_id, key.iv, key.key.expose()),
        (id(1), IV, &[7; 16])
    );
    // It may be brought again, and is what it was.
    license
        .deposit(bringing("film", id(1), hd(), [7; 16]))
        .await
        .unwrap();

    for (request, why) in [
        (
            bringing("film", id(1), hd(), [8; 16]),
            "another key under the id",
        ),
        (
            bringing("film", id(2), hd(), [8; 16]),
            "has a key for hd in cbcs already",
        ),
        (
            bringing("other", id(1), hd(), [7; 16]),
            "stands for another key",
        ),
    ] {
        let error = license.deposit(request).await.unwrap_err();
        assert!(matches!(&error, Error::Conflict(_)), "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
    let handed = license.hand_over(handing("film")).await.unwrap();
    let ids: Vec<_> = handed.keys.iter().map(|key| key.key_id).collect();
    assert_eq!((ids, handed.elsewhere), (vec![id(1)], vec![]));
}

#[tokio::test]
async fn all_keys_of_a_deposit_are_kept_or_none() {
    let store = Store::new().await;
    let license = store.of("license");
    let mut request = bringing("film", id(1), usage(Label::Sd, Scheme::Cbcs), [7; 16]);
    let second = bringing("film", id(2), usage(Label::Sd, Scheme::Cbcs), [8; 16]);
    request.keys.extend(second.keys);
    assert!(matches!(
        license.deposit(request).await,
        Err(Error::Conflict(_))
    ));
    assert!(
        license
            .hand_over(handing("film"))
            .await
            .unwrap()
            .keys
            .is_empty()
    );
}

#[tokio::test]
async fn each_exchange_is_recorded_with_whom_it_was() {
    let store = Store::new().await;
    let license = store.of("license");
    let request = asking("film", id(1), usage(Label::Sd, Scheme::Cbcs));
    license.exchange(request.clone()).await.unwrap();
    license.exchange(request).await.unwrap();
    license.hand_over(handing("film")).await.unwrap();
    let brought = bringing("film", id(2), usage(Label::Hd, Scheme::Cbcs), [7; 16]);
    license.deposit(brought).await.unwrap();

    let exchanges = store.records("exchange");
    assert_eq!(exchanges.len(), 2);
    assert_eq!(exchanges[0]["made"][0], id(1).to_string());
    assert_eq!(exchanges[1]["made"].as_array().unwrap().len(), 0);
    for record in [
        &exchanges[0],
        &store.records("hand_over")[0],
        &store.records("deposit")[0],
    ] {
        assert_eq!(record["caller"], "license");
        assert_eq!(record["partner"]["name"], "encryptor");
        assert_eq!(record["partner"]["recipients"][0], "ab".repeat(32));
        assert_eq!(record["keys"][0]["asset"], "film");
    }
    assert_eq!(store.records("deposit")[0]["new"][0], id(2).to_string());
    let log = std::fs::read_to_string(store.settings.state_dir.join("audit.log")).unwrap();
    assert!(!log.contains(&"07".repeat(16)));
}

#[tokio::test]
async fn budget_of_one_partner_is_not_anothers() {
    let store = Store::with(|settings| {
        settings.partners = vec!["encryptor".to_owned(), "vendor".to_owned()];
        settings.budget.keys = 2;
    })
    .await;
    let license = store.of("license");
    let asking = |number, partner: &str| {
        let mut request = asking("film", id(number), usage(Label::Sd, Scheme::Cbcs));
        request.partner.name = partner.to_owned();
        license.exchange(request)
    };
    for number in [1, 2] {
        asking(number, "encryptor").await.unwrap();
    }
    for _ in 0..2 {
        let refused = asking(3, "encryptor").await.unwrap_err();
        let Error::Unavailable(why) = &refused else {
            panic!("{refused:?}")
        };
        assert!(why.contains("license for encryptor"), "{why}");
    }
    assert_eq!(
        license
            .hand_over(handing("other"))
            .await
            .unwrap()
            .keys
            .len(),
        0
    );
    assert!(
        license.hand_over(handing("film")).await.is_ok(),
        "the same keys"
    );
    let mut brought = bringing("other", id(4), usage(Label::Sd, Scheme::Cbcs), [7; 16]);
    assert!(license.deposit(brought).await.is_err());
    // The other partner's, and the role's own, are as they were.
    brought = bringing("other", id(4), usage(Label::Sd, Scheme::Cbcs), [7; 16]);
    brought.partner.name = "vendor".to_owned();
    license.deposit(brought).await.unwrap();
    asking(5, "vendor").await.unwrap();
    assert!(asking(6, "vendor").await.is_err());
    // A role that makes up names uses its own.
    asking(7, "somebody").await.unwrap();
    asking(8, "somebody else").await.unwrap();
    assert!(asking(9, "a third").await.is_err());

    let records = store.records("budget");
    let whose: Vec<_> = (records.iter())
        .map(|record| (record["caller"].as_str(), record["partner"].as_str()))
        .collect();
    let license = Some("license");
    let expected = [
        (license, Some("encryptor")),
        (license, Some("vendor")),
        (license, None),
    ];
    assert_eq!(whose, expected);
}

#[tokio::test]
async fn while_sealed_no_key_is_exchanged() {
    let store = Store::new().await;
    let license = store.of("license");
    testing::operator(&store.local).seal().await.unwrap();
    let sd = || usage(Label::Sd, Scheme::Cbcs);
    assert!(matches!(
        license.exchange(asking("film", id(1), sd())).await,
        Err(Error::Sealed)
    ));
    assert!(matches!(
        license.hand_over(handing("film")).await,
        Err(Error::Sealed)
    ));
    let deposited = license
        .deposit(bringing("film", id(1), sd(), [7; 16]))
        .await;
    assert!(matches!(deposited, Err(Error::Sealed)));
}

#[tokio::test]
async fn a_claimed_key_opens_after_a_rotation_and_a_restart() {
    let store = Store::new().await;
    let brought = bringing("film", id(1), usage(Label::Sd, Scheme::Cenc), [7; 16]);
    store.of("license").deposit(brought).await.unwrap();
    let content = || context("film", Label::Sd, Scheme::Cenc, 1);
    lease(&*store.of("origin"), content()).await.unwrap();
    testing::operator(&store.local)
        .rotate_keks(None)
        .await
        .unwrap();
    let store = store.reopened().await;
    let leased = lease(&*store.of("origin"), content()).await.unwrap();
    assert_eq!(
        (leased.keys[0].key_id, leased.keys[0].key.expose()),
        (id(1), &[7; 16])
    );
}

#[tokio::test]
async fn over_the_socket_it_is_the_same() {
    let store = Store::new().await;
    let mut settings = store.settings.clone();
    settings.callers.retain(|name, _| name == "license");
    settings.callers.get_mut("license").unwrap().user =
        Some(User::Uid(rustix::process::geteuid().as_raw()));
    let path = store.folder.path().join("license.sock");
    let bound = Bound::open(&path).unwrap();
    let callers = Arc::new(Callers::load(&settings));
    tokio::spawn(serve_keys(
        bound,
        store.local.clone(),
        callers,
        std::future::pending(),
        Duration::from_secs(5),
    ));
    let license = connected(&path).await;
    let sd = || usage(Label::Sd, Scheme::Cbcs);
    let key = key_of(&license, asking("film", id(1), sd())).await;
    assert_eq!(
        key_of(&*store.of("license"), asking("film", id(1), sd())).await,
        key
    );
    let hd = usage(Label::Hd, Scheme::Cenc);
    license
        .deposit(bringing("film", id(2), hd, [7; 16]))
        .await
        .unwrap();
    let all = elsewhere(Label::Uhd2, Scheme::Cbcs, "cbcs ALL");
    license.exchange(asking("film", id(3), all)).await.unwrap();
    let handed = license.hand_over(handing("film")).await.unwrap();
    let keys: Vec<_> = handed
        .keys
        .iter()
        .map(|key| (key.key_id, *key.key.expose()))
        .collect();
    assert_eq!(keys[..2], [(id(1), key), (id(2), [7; 16])]);
    assert_eq!(handed.elsewhere, [id(3)]);
    let error = license
        .exchange(asking("other", id(1), sd()))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Conflict(_)), "{error}");
}

async fn connected(path: &Path) -> Socket {
    let socket = Socket::open(path);
    let mut state = socket.seal_state();
    let unsealed = state.wait_for(|state| *state == SealState::Unsealed);
    tokio::time::timeout(Duration::from_secs(20), unsealed)
        .await
        .unwrap()
        .unwrap();
    socket
}
