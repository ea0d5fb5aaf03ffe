//! What every keystore does, whichever way it is reached, in the same process or over its Unix sockets, and whichever
//! database holds its records.
//!
//! It cannot show that a key is on disk before it leaves (`crash.rs` does), nor that another user's process is told
//! apart from this one's: all callers here are the same user.

#![expect(clippy::unwrap_used, reason = "a test's panic is its report")]

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use conf::{KeystoreSettings, User};
use keystore::capability::{Caller, Callers};
use keystore::server::{Bound, serve_control, serve_keys};
use keystore::{Local, SystemClock, testing};
use keystore_client::admin::{
    Admin, AdminError, Dealing, Keeping, KeyFilter, Progress, SharePlan, UnlockMethod,
};
use keystore_client::socket::{AdminSocket, Socket};
use keystore_client::{
    DescribeRequest, EntitlementRef, Error, ExportRequest, KeyDescription, Keystore, Lease,
    LeaseRequest, MAX_KEYS, SealState,
};
use keystore_types::{AssetId, Generation, KeyContext, KeyId, Label, SUBSAMPLE_RULE, Scheme};
use secrecy::{ExposeSecret as _, SecretString};
use tempfile::TempDir;
use tokio::sync::oneshot;

mod postgres;

/// A keystore on disk, not yet initialised, and how each caller reaches it.
struct Reached {
    origin: Arc<dyn Keystore>,
    license: Arc<dyn Keystore>,
    operator: Arc<dyn Admin>,
    auditor: Arc<dyn Admin>,
    folder: TempDir,
    /// Dropped to end the servers.
    _servers: Vec<oneshot::Sender<()>>,
}

/// Which database holds the records.
#[derive(Clone, Copy, Debug)]
enum Records {
    Sqlite,
    Postgres,
}

/// `origin` may lease, and `license` export, `film` and `other`; the auditor may audit.
/// `None` where there is no such database.
async fn settings(folder: &TempDir, records: Records) -> Option<KeystoreSettings> {
    let mut settings = testing::settings(folder.path());
    if let Records::Postgres = records {
        let server = postgres::server()?;
        settings.postgres = Some(server.settings(&server.database().await));
    }
    for caller in settings.callers.values_mut() {
        caller.assets = vec!["film".to_owned(), "other".to_owned()];
    }
    let mut auditor = settings.callers["origin"].clone();
    auditor.may = vec![conf::CallerRight::Audit];
    settings.callers.insert("auditor".to_owned(), auditor);
    Some(settings)
}

async fn in_process(records: Records) -> Option<Reached> {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&folder, records).await?;
    let local = Local::open(&settings, Arc::new(SystemClock)).await.unwrap();
    let caller = |name| Caller::configured(&settings, name).unwrap();
    Some(Reached {
        origin: local.handle(caller("origin")),
        license: local.handle(caller("license")),
        operator: local.admin(Caller::operator("operator")),
        auditor: local.admin(caller("auditor")),
        folder,
        _servers: vec![],
    })
}

/// Serves one caller's socket, as if this user were that caller alone.
fn serve(
    local: &Local,
    settings: &KeystoreSettings,
    name: &str,
    servers: &mut Vec<oneshot::Sender<()>>,
) -> std::path::PathBuf {
    let path = settings.state_dir.with_file_name(format!("{name}.sock"));
    let mut settings = settings.clone();
    settings.callers.retain(|caller, _| caller == name);
    for caller in settings.callers.values_mut() {
        caller.user = Some(User::Uid(rustix::process::geteuid().as_raw()));
    }
    let callers = Arc::new(Callers::load(&settings));
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async {
        let _ = stopped.await;
    };
    let bound = Bound::open(&path).unwrap();
    let (local, grace) = (local.clone(), Duration::from_secs(5));
    match name {
        "operator" => tokio::spawn(serve_control(bound, local, callers, shutdown, grace)),
        _ => tokio::spawn(serve_keys(bound, local, callers, shutdown, grace)),
    };
    servers.push(stop);
    path
}

async fn over_sockets(records: Records) -> Option<Reached> {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&folder, records).await?;
    let local = Local::open(&settings, Arc::new(SystemClock)).await.unwrap();
    let mut servers = vec![];
    let origin = Socket::open(&serve(&local, &settings, "origin", &mut servers));
    let license = Socket::open(&serve(&local, &settings, "license", &mut servers));
    let operator = AdminSocket::open(&serve(&local, &settings, "operator", &mut servers));
    for keystore in [&origin, &license] {
        let mut state = keystore.seal_state();
        within(state.wait_for(|state| *state != SealState::Unreachable))
            .await
            .unwrap();
    }
    Some(Reached {
        origin: Arc::new(origin),
        license: Arc::new(license),
        operator: Arc::new(operator),
        // This user owns the keystore, and is therefore an operator on any control socket.
        auditor: local.admin(Caller::configured(&settings, "auditor").unwrap()),
        folder,
        _servers: servers,
    })
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    (tokio::time::timeout(Duration::from_secs(20), future).await).expect("it ends in time")
}

const PASSPHRASE: &str = "correct horse";

impl Reached {
    async fn unsealed(self) -> Self {
        self.operator.init(PASSPHRASE.into()).await.unwrap();
        for keystore in [&self.origin, &self.license] {
            wait_for(keystore, SealState::Unsealed).await;
        }
        self
    }

    async fn lease(&self, contexts: Vec<KeyContext>) -> Result<Lease, Error> {
        within(self.origin.lease(LeaseRequest { contexts })).await
    }

    /// The audit log, a line a record.
    fn log(&self) -> Vec<serde_json::Value> {
        let path = self.folder.path().join("state/audit.log");
        let text = std::fs::read_to_string(path).unwrap();
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn ops(&self) -> Vec<String> {
        let log = self.log();
        let op = |record: &serde_json::Value| record["op"].as_str().unwrap().to_owned();
        log.iter().map(op).collect()
    }
}

async fn wait_for(keystore: &Arc<dyn Keystore>, wanted: SealState) {
    let mut state = keystore.seal_state();
    within(state.wait_for(|state| *state == wanted))
        .await
        .unwrap();
}

fn asset(name: &str) -> AssetId {
    name.parse().unwrap()
}

fn context(name: &str, label: Label) -> KeyContext {
    KeyContext {
        tenant: "default".to_owned(),
        asset: asset(name),
        label,
        scheme: Scheme::Cbcs,
        subsample_rule: SUBSAMPLE_RULE,
        generation: Generation {
            sources: [7; 32],
            number: 0,
        },
    }
}

fn export(name: &str, key_ids: &[KeyId]) -> ExportRequest {
    ExportRequest {
        asset: asset(name),
        key_ids: key_ids.to_vec(),
        entitlement: EntitlementRef {
            issuer: "tests".to_owned(),
            subject: Some("viewer".to_owned()),
            token_id: None,
            system: "clearkey".to_owned(),
        },
    }
}

/// Every test runs over each way and each database.
macro_rules! contract {
    ($($test:ident),+ $(,)?) => {
        over!(in_process, in_process, Sqlite, $($test),+);
        over!(over_sockets, over_sockets, Sqlite, $($test),+);
        over!(in_process_over_postgres, in_process, Postgres, $($test),+);
        over!(over_sockets_over_postgres, over_sockets, Postgres, $($test),+);
    };
}

macro_rules! over {
    ($name:ident, $way:ident, $records:ident, $($test:ident),+) => {
        mod $name {
            $(#[tokio::test]
            async fn $test() {
                if let Some(keystore) = super::$way(super::Records::$records).await {
                    super::$test(keystore).await;
                }
            })+
        }
    };
}

contract!(
    a_context_has_one_key_for_ever,
    any_difference_of_context_gives_another_key,
    concurrent_requests_get_the_same_key,
    exports_are_what_was_leased,
    nobody_does_what_they_are_not_granted,
    sealed_no_key_leaves_and_leases_end,
    only_the_passphrase_unseals,
    any_m_shares_open_and_fewer_never,
    a_wrong_share_is_named,
    a_ceremony_keeps_nothing_until_every_share_was_read_back,
    a_destroyed_key_never_comes_back,
    every_key_that_left_is_in_the_log,
    requests_have_limits,
    keys_are_listed_without_keys,
    verify_names_the_record_that_was_changed,
);

async fn a_context_has_one_key_for_ever(keystore: Reached) {
    let keystore = keystore.unsealed().await;
    let contexts = vec![context("film", Label::Audio), context("film", Label::Hd)];
    let first = keystore.lease(contexts.clone()).await.unwrap();
    let again = keystore.lease(contexts.clone()).await.unwrap();
    assert_eq!(first.term, Duration::from_secs(3600));
    for ((one, other), asked) in first.keys.iter().zip(&again.keys).zip(&contexts) {
        assert_eq!(&one.context, asked);
        assert_eq!(one.key_id, other.key_id);
        assert_eq!(one.iv, other.iv);
        assert_eq!(one.key.expose(), other.key.expose());
        // A version 4 UUID.
        assert_eq!(one.key_id.as_bytes()[6] >> 4, 4);
        assert_eq!(one.key_id.as_bytes()[8] >> 6, 2);
    }
    assert_ne!(first.keys[0].key.expose(), first.keys[1].key.expose());
    assert_ne!(first.keys[0].iv, first.keys[1].iv);
}

async fn any_difference_of_context_gives_another_key(keystore: Reached) {
    let keystore = keystore.unsealed().await;
    let mut contexts = vec![context("film", Label::Hd); 6];
    contexts[1].asset = asset("other");
    contexts[2].label = Label::Sd;
    contexts[3].scheme = Scheme::Cenc;
    contexts[4].generation.number = 1;
    contexts[5].generation.sources[0] = 8;
    let lease = keystore.lease(contexts).await.unwrap();
    let ids: BTreeSet<_> = lease.keys.iter().map(|leased| leased.key_id).collect();
    let keys: BTreeSet<_> = lease
        .keys
        .iter()
        .map(|leased| leased.key.expose())
        .collect();
    assert_eq!((ids.len(), keys.len()), (6, 6));
}

async fn concurrent_requests_get_the_same_key(keystore: Reached) {
    let keystore = keystore.unsealed().await;
    let asked = (0..20).map(|_| keystore.lease(vec![context("film", Label::Uhd1)]));
    let leases = futures_util::future::join_all(asked).await;
    let keys: BTreeSet<_> = (leases.iter())
        .map(|lease| *lease.as_ref().unwrap().keys[0].key.expose())
        .collect();
    assert_eq!(keys.len(), 1);
    let made: usize = (keystore.log().iter())
        .filter_map(|record| record["made"].as_array().map(Vec::len))
        .sum();
    assert_eq!(made, 1);
}

async fn exports_are_what_was_leased(keystore: Reached) {
    let keystore = keystore.unsealed().await;
    let contexts = vec![context("film", Label::Audio), context("other", Label::Hd)];
    let lease = keystore.lease(contexts).await.unwrap();
    let ids: Vec<_> = lease.keys.iter().map(|leased| leased.key_id).collect();
    let unknown = KeyId::new([0x4b; 16]);
    let request = export("film", &[ids[0], ids[1], unknown]);
    let exported = within(keystore.license.export(request)).await.unwrap();
    // Of another asset, and unknown: left out alike.
    assert_eq!(exported.len(), 1);
    assert_eq!(exported[0].key_id, ids[0]);
    assert_eq!(exported[0].label, Label::Audio);
    assert_eq!(exported[0].scheme, Scheme::Cbcs);
    assert_eq!(exported[0].iv, lease.keys[0].iv);
    assert_eq!(exported[0].key.expose(), lease.keys[0].key.expose());
    let log = keystore.log();
    let record = log.last().unwrap();
    assert_eq!(record["withheld"], serde_json::json!([ids[1], unknown]));
    assert_eq!(record["subject"], "viewer");
    // What is public about them leaves no record.
    let (asset, key_ids) = (asset("film"), vec![ids[0], ids[1], unknown]);
    let request = DescribeRequest { asset, key_ids };
    let described = within(keystore.license.describe(request)).await.unwrap();
    let expected = KeyDescription {
        key_id: ids[0],
        label: Label::Audio,
        scheme: Scheme::Cbcs,
    };
    assert_eq!(described, [expected]);
    assert_eq!(keystore.log().len(), log.len());
    // Nothing at all is an answer too, and recorded.
    let request = export("film", &[unknown]);
    let given = within(keystore.license.export(request)).await.unwrap();
    assert!(given.is_empty());
    assert_eq!(keystore.ops().last().unwrap(), "export");
}

async fn nobody_does_what_they_are_not_granted(keystore: Reached) {
    let keystore = keystore.unsealed().await;
    let lease = keystore
        .lease(vec![context("film", Label::Hd)])
        .await
        .unwrap();
    let id = lease.keys[0].key_id;
    let before = keystore.log().len();

    let contexts = vec![context("film", Label::Hd)];
    let refused = keystore.license.lease(LeaseRequest { contexts });
    assert!(matches!(within(refused).await, Err(Error::Denied(_))));
    let refused = keystore.origin.export(export("film", &[id]));
    assert!(matches!(within(refused).await, Err(Error::Denied(_))));
    // One asset that is not granted spoils the request.
    let contexts = vec![context("film", Label::Hd), context("secret", Label::Hd)];
    assert!(matches!(
        keystore.lease(contexts).await,
        Err(Error::Denied(_))
    ));
    let refused = keystore.license.export(export("secret", &[id]));
    assert!(matches!(within(refused).await, Err(Error::Denied(_))));
    let mut foreign = context("film", Label::Hd);
    foreign.tenant = "another".to_owned();
    assert!(matches!(
        keystore.lease(vec![foreign]).await,
        Err(Error::Denied(_))
    ));
    for refused in [
        keystore.auditor.seal(),
        keystore.auditor.init(PASSPHRASE.into()),
        keystore.auditor.unseal(PASSPHRASE.into()),
        keystore.auditor.unseal_by(UnlockMethod::Key),
    ] {
        let error = within(refused).await.unwrap_err();
        assert!(
            matches!(error, AdminError::Keystore(Error::Denied(_))),
            "{error}"
        );
    }
    let dealing = keystore.auditor.init_with(by_shares(3, 2), None);
    assert!(within(dealing).await.is_err());
    assert!(within(keystore.auditor.deal_share()).await.is_err());
    for share in [
        keystore.auditor.confirm_share("".into()),
        keystore.auditor.unseal_share("".into()),
    ] {
        assert!(within(share).await.is_err());
    }
    assert!(within(keystore.auditor.key_show(id)).await.is_err());
    assert!(within(keystore.auditor.key_destroy(id)).await.is_err());
    assert!(
        within(keystore.auditor.key_list(KeyFilter::default()))
            .await
            .is_err()
    );

    let log = keystore.log();
    assert_eq!(log.len(), before + 16);
    assert!(log[before..].iter().all(|record| record["op"] == "denied"));
    assert!(within(keystore.auditor.status()).await.is_ok());
    assert_eq!(
        within(keystore.auditor.verify(None)).await.unwrap().faults,
        vec![]
    );
}

async fn sealed_no_key_leaves_and_leases_end(keystore: Reached) {
    let contexts = vec![context("film", Label::Hd)];
    wait_for(&keystore.origin, SealState::Uninitialised).await;
    assert!(matches!(
        keystore.lease(contexts.clone()).await,
        Err(Error::Sealed)
    ));
    let keystore = keystore.unsealed().await;
    let id = keystore.lease(contexts.clone()).await.unwrap().keys[0].key_id;

    within(keystore.operator.seal()).await.unwrap();
    wait_for(&keystore.origin, SealState::Sealed).await;
    wait_for(&keystore.license, SealState::Sealed).await;
    assert!(matches!(
        keystore.lease(contexts.clone()).await,
        Err(Error::Sealed)
    ));
    let refused = keystore.license.export(export("film", &[id]));
    assert!(matches!(within(refused).await, Err(Error::Sealed)));
    assert_eq!(
        within(keystore.operator.status())
            .await
            .unwrap()
            .memory_locked,
        None
    );

    within(keystore.operator.unseal(PASSPHRASE.into()))
        .await
        .unwrap();
    wait_for(&keystore.origin, SealState::Unsealed).await;
    assert_eq!(keystore.lease(contexts).await.unwrap().keys[0].key_id, id);
}

async fn only_the_passphrase_unseals(keystore: Reached) {
    let error = within(keystore.operator.unseal(PASSPHRASE.into()))
        .await
        .unwrap_err();
    assert!(matches!(error, AdminError::Refused(_)), "{error}");
    let error = within(keystore.operator.init("short".into()))
        .await
        .unwrap_err();
    assert!(matches!(error, AdminError::Refused(_)), "{error}");
    let keystore = keystore.unsealed().await;
    let error = within(keystore.operator.init(PASSPHRASE.into()))
        .await
        .unwrap_err();
    assert!(matches!(error, AdminError::Refused(_)), "{error}");

    within(keystore.operator.seal()).await.unwrap();
    let error = within(keystore.operator.unseal("correct horsf".into()))
        .await
        .unwrap_err();
    assert!(matches!(error, AdminError::WrongPassphrase), "{error}");
    let status = within(keystore.operator.status()).await.unwrap();
    assert_eq!(status.state, SealState::Sealed);
    let log = keystore.log();
    assert_eq!(log.last().unwrap()["op"], "unseal");
    assert_eq!(log.last().unwrap()["opened"], false);
}

fn by_shares(shares: u8, threshold: u8) -> Keeping {
    Keeping {
        methods: vec![],
        shares: Some(SharePlan { shares, threshold }),
    }
}

impl Reached {
    async fn deal(&self, shares: u8, threshold: u8) -> (Dealing, Vec<SecretString>) {
        let begun = self.operator.init_with(by_shares(shares, threshold), None);
        let dealing = within(begun).await.unwrap().unwrap();
        let mut dealt = vec![];
        for index in 1..=shares {
            let share = within(self.operator.deal_share()).await.unwrap();
            assert_eq!(share.index, index);
            dealt.push(share.text);
        }
        (dealing, dealt)
    }

    /// Initialised by shares, and sealed again.
    async fn kept_by_shares(&self, shares: u8, threshold: u8) -> Vec<SecretString> {
        let (_, dealt) = self.deal(shares, threshold).await;
        for share in &dealt {
            let read_back = self.operator.confirm_share(share.clone());
            within(read_back).await.unwrap();
        }
        within(self.operator.seal()).await.unwrap();
        wait_for(&self.origin, SealState::Sealed).await;
        dealt
    }

    async fn give(&self, share: &SecretString) -> Result<Progress, AdminError> {
        within(self.operator.unseal_share(share.clone())).await
    }
}

async fn any_m_shares_open_and_fewer_never(keystore: Reached) {
    let contexts = vec![context("film", Label::Hd)];
    let dealt = keystore.kept_by_shares(5, 3).await;
    let status = within(keystore.operator.status()).await.unwrap();
    assert_eq!(status.stored.unwrap().kept_by, [UnlockMethod::Shares]);
    let error = within(keystore.operator.unseal(PASSPHRASE.into())).await;
    assert!(matches!(error, Err(AdminError::Refused(_))), "{error:?}");
    for three in [[0, 1, 2], [4, 2, 0], [1, 4, 3]] {
        let mut given = vec![];
        for (count, at) in (1..).zip(three) {
            let progress = keystore.give(&dealt[at]).await.unwrap();
            given.push(u8::try_from(at + 1).unwrap());
            given.sort_unstable();
            assert_eq!((&progress.given, progress.needed), (&given, 3));
            assert_eq!(progress.done, count == 3);
            if !progress.done {
                let status = within(keystore.operator.status()).await.unwrap();
                assert_eq!(status.state, SealState::Sealed);
                assert_eq!(status.shares, Some(progress));
                let refused = keystore.lease(contexts.clone()).await;
                assert!(matches!(refused, Err(Error::Sealed)));
            }
        }
        wait_for(&keystore.origin, SealState::Unsealed).await;
        assert!(keystore.lease(contexts.clone()).await.is_ok());
        let status = within(keystore.operator.status()).await.unwrap();
        assert_eq!(status.shares, None);
        within(keystore.operator.seal()).await.unwrap();
        wait_for(&keystore.origin, SealState::Sealed).await;
    }
    // A seal also wipes shares that wait.
    keystore.give(&dealt[0]).await.unwrap();
    keystore.give(&dealt[1]).await.unwrap();
    within(keystore.operator.seal()).await.unwrap();
    let progress = keystore.give(&dealt[2]).await.unwrap();
    assert_eq!((progress.given, progress.done), (vec![3], false));
    // The log has who gave which share, and none of any.
    let log = serde_json::to_string(&keystore.log()).unwrap();
    assert!(log.contains(r#""op":"share""#) && !log.contains("CS1-"));
}

async fn a_wrong_share_is_named(keystore: Reached) {
    let (other, foreign) = keystore.deal(3, 2).await;
    let dealt = keystore.kept_by_shares(3, 2).await;
    keystore.give(&dealt[1]).await.unwrap();
    let mut mistyped = dealt[2].expose_secret().to_owned();
    let end = if mistyped.ends_with('0') { "4" } else { "0" };
    mistyped.replace_range(mistyped.len() - 1.., end);
    for (wrong, said) in [
        (&dealt[1], "share 2 was given already".to_owned()),
        (&foreign[0], format!("share 1 is of the set {}", other.set)),
        (&mistyped.into(), "typed or copied wrongly".to_owned()),
        (&"open sesame, the door".into(), "not a share".to_owned()),
    ] {
        let error = keystore.give(wrong).await.unwrap_err();
        let AdminError::WrongShare(what) = &error else {
            panic!("{error}")
        };
        assert!(what.contains(&said), "{what}");
        assert!(!what.contains(&wrong.expose_secret()[10..]), "{what}");
        assert_eq!(keystore.log().last().unwrap()["accepted"], false);
    }
    // The right one that was given before still counts.
    assert!(keystore.give(&dealt[0]).await.unwrap().done);
    wait_for(&keystore.origin, SealState::Unsealed).await;
}

async fn a_ceremony_keeps_nothing_until_every_share_was_read_back(keystore: Reached) {
    for (shares, threshold) in [(3, 1), (2, 3), (0, 0), (33, 2)] {
        let refused = keystore
            .operator
            .init_with(by_shares(shares, threshold), None);
        let error = within(refused).await.unwrap_err();
        assert!(matches!(error, AdminError::Refused(_)), "{error}");
    }
    let nothing = keystore.operator.init_with(Keeping::default(), None);
    assert!(within(nothing).await.is_err());
    assert!(within(keystore.operator.deal_share()).await.is_err());

    let (_, given_up) = keystore.deal(3, 2).await;
    let (dealing, dealt) = keystore.deal(3, 2).await;
    assert!(within(keystore.operator.deal_share()).await.is_err());
    for share in &dealt[..2] {
        let read_back = keystore.operator.confirm_share(share.clone());
        assert!(!within(read_back).await.unwrap().done);
    }
    for wrong in [&dealt[0], &given_up[2]] {
        let read_back = keystore.operator.confirm_share(wrong.clone());
        let error = within(read_back).await.unwrap_err();
        assert!(matches!(error, AdminError::WrongShare(_)), "{error}");
    }
    let status = within(keystore.operator.status()).await.unwrap();
    assert_eq!(status.state, SealState::Uninitialised);
    assert_eq!(status.stored.unwrap().kept_by, []);
    assert_eq!(status.shares.unwrap().given, [1, 2]);
    assert!(matches!(
        keystore.lease(vec![context("film", Label::Hd)]).await,
        Err(Error::Sealed)
    ));

    let read_back = keystore.operator.confirm_share(dealt[2].clone());
    assert!(within(read_back).await.unwrap().done);
    wait_for(&keystore.origin, SealState::Unsealed).await;
    let begun = keystore.operator.init_with(by_shares(3, 2), None);
    assert!(matches!(within(begun).await, Err(AdminError::Refused(_))));
    let log = keystore.log();
    let ops: Vec<_> = keystore.ops().split_off(log.len() - 6);
    let wanted = ["dealing", "dealt", "dealt", "dealt", "init", "checkpoint"];
    assert_eq!(ops, wanted);
    assert_eq!(log[log.len() - 6]["set"], dealing.set.as_str());
    let record = &log[log.len() - 2];
    assert_eq!(record["kept_by"], serde_json::json!(["shares"]));
}

async fn a_destroyed_key_never_comes_back(keystore: Reached) {
    let keystore = keystore.unsealed().await;
    let contexts = vec![context("film", Label::Hd)];
    let old = keystore
        .lease(contexts.clone())
        .await
        .unwrap()
        .keys
        .remove(0);
    let record = within(keystore.operator.key_destroy(old.key_id))
        .await
        .unwrap();
    assert!(record.destroyed.is_some());
    let again = within(keystore.operator.key_destroy(old.key_id))
        .await
        .unwrap();
    assert_eq!(again, record);
    assert_eq!(
        within(keystore.operator.key_show(old.key_id))
            .await
            .unwrap(),
        record
    );

    let new = keystore.lease(contexts).await.unwrap().keys.remove(0);
    assert_ne!(new.key_id, old.key_id);
    assert_ne!(new.key.expose(), old.key.expose());
    let request = export("film", &[old.key_id, new.key_id]);
    let exported = within(keystore.license.export(request)).await.unwrap();
    assert_eq!(exported.len(), 1);
    assert_eq!(exported[0].key_id, new.key_id);

    let unknown = KeyId::new([0x4b; 16]);
    let error = within(keystore.operator.key_destroy(unknown))
        .await
        .unwrap_err();
    assert!(
        matches!(error, AdminError::NotFound(id) if id == unknown),
        "{error}"
    );
    let status = within(keystore.operator.status()).await.unwrap();
    let stored = status.stored.unwrap();
    assert_eq!((stored.keys, stored.destroyed), (1, 1));
    assert_eq!(
        within(keystore.operator.verify(None)).await.unwrap().faults,
        vec![]
    );
}

async fn every_key_that_left_is_in_the_log(keystore: Reached) {
    let keystore = keystore.unsealed().await;
    let contexts = vec![context("film", Label::Audio), context("film", Label::Hd)];
    let lease = keystore.lease(contexts.clone()).await.unwrap();
    let ids: Vec<_> = lease
        .keys
        .iter()
        .map(|leased| leased.key_id.to_string())
        .collect();
    let log = keystore.log();
    let record = log.last().unwrap();
    assert_eq!(record["caller"], "origin");
    assert_eq!(record["made"], serde_json::json!(ids));
    assert_eq!(record["keys"][1]["key_id"], ids[1]);
    assert_eq!(record["keys"][1]["label"], "hd");
    keystore.lease(contexts).await.unwrap();
    let log = keystore.log();
    assert_eq!(log.last().unwrap()["made"], serde_json::json!([]));
    assert_eq!(
        keystore.ops(),
        ["start", "init", "checkpoint", "lease", "lease"]
    );
    // No key is in any file, not even as the text of its bytes.
    for file in std::fs::read_dir(keystore.folder.path().join("state")).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        for leased in &lease.keys {
            let key = leased.key.expose();
            assert!(!bytes.windows(16).any(|window| window == key));
            let hex = key.map(|byte| format!("{byte:02x}")).concat();
            assert!(!bytes.windows(32).any(|window| window == hex.as_bytes()));
        }
    }
}

async fn requests_have_limits(keystore: Reached) {
    let keystore = keystore.unsealed().await;
    for count in [0, MAX_KEYS + 1] {
        let contexts = vec![context("film", Label::Hd); count];
        assert!(
            matches!(keystore.lease(contexts).await, Err(Error::Malformed(_))),
            "{count}"
        );
        let ids = vec![KeyId::new([1; 16]); count];
        let refused = within(keystore.license.export(export("film", &ids))).await;
        assert!(matches!(refused, Err(Error::Malformed(_))), "{count}");
    }
    // The most that fits, and the same key as often as it is asked for.
    let lease = keystore
        .lease(vec![context("film", Label::Hd); MAX_KEYS])
        .await
        .unwrap();
    assert!(
        lease
            .keys
            .iter()
            .all(|leased| leased.key_id == lease.keys[0].key_id)
    );
    let mut long = export("film", &[lease.keys[0].key_id]);
    long.entitlement.subject = Some("x".repeat(10_000));
    let refused = within(keystore.license.export(long)).await;
    assert!(matches!(refused, Err(Error::Malformed(_))));
    // Still there afterwards.
    assert!(
        keystore
            .lease(vec![context("film", Label::Hd)])
            .await
            .is_ok()
    );
}

async fn keys_are_listed_without_keys(keystore: Reached) {
    let keystore = keystore.unsealed().await;
    let contexts: Vec<_> = (0..30)
        .map(|number| {
            let mut context = context(if number < 20 { "film" } else { "other" }, Label::Hd);
            context.generation.number = number;
            context
        })
        .collect();
    let lease = keystore.lease(contexts).await.unwrap();
    within(keystore.operator.key_destroy(lease.keys[0].key_id))
        .await
        .unwrap();
    let list = async |filter| within(keystore.operator.key_list(filter)).await.unwrap();
    assert_eq!(list(KeyFilter::default()).await.keys.len(), 30);
    let films = KeyFilter {
        asset: Some(asset("film")),
        active_only: true,
        after: None,
    };
    let page = list(films).await;
    assert_eq!(page.keys.len(), 19);
    assert_eq!(page.next, None);
    assert!(page.keys.is_sorted_by_key(|record| record.key_id));
    let after = KeyFilter {
        after: Some(page.keys[17].key_id),
        asset: Some(asset("film")),
        active_only: true,
    };
    assert_eq!(list(after).await.keys, page.keys[18..]);
}

async fn verify_names_the_record_that_was_changed(keystore: Reached) {
    let keystore = keystore.unsealed().await;
    keystore
        .lease(vec![context("film", Label::Hd)])
        .await
        .unwrap();
    keystore
        .lease(vec![context("film", Label::Hd)])
        .await
        .unwrap();
    let report = within(keystore.operator.verify(None)).await.unwrap();
    assert_eq!(
        (report.audit_records, report.keys, report.unwrapped),
        (5, 1, 1)
    );
    assert_eq!(report.faults, vec![]);

    let path = keystore.folder.path().join("state/audit.log");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines[3] = lines[3].replace("\"caller\":\"origin\"", "\"caller\":\"nobody\"");
    std::fs::write(&path, lines.join("\n") + "\n").unwrap();
    let report = within(keystore.operator.verify(None)).await.unwrap();
    assert_eq!(report.audit_records, 3);
    assert_eq!(report.faults.len(), 1);
    assert_eq!(report.faults[0].place, "audit");
    assert_eq!(report.faults[0].sequence, Some(4));
    let offset = lines[..3].iter().map(|line| line.len() + 1).sum::<usize>();
    assert_eq!(report.faults[0].offset, Some(offset.try_into().unwrap()));
}
