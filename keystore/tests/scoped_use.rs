//! Who may do what with which keys: every role, every operation of both sockets, every tenant and asset.
//!
//! Each cell is asked over the real socket by a peer whom the kernel says is another user: the threads that connect have
//! given up root for that user before. A denial is a record in the audit log, and a peer who is nobody's caller is
//! turned away before it can ask for anything.
//!
//! Needs root, to be other users, and says so where it is skipped. The machines that come by mutual TLS are tried in
//! `nodes.rs`.
#![expect(clippy::unwrap_used, reason = "a test's panic is its report")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use conf::CallerRight::{self, Audit, Deposit, Exchange, Export, Lease, Operate};
use conf::{CallerSettings, KeystoreSettings, User};
use keystore::testing;
use keystore_client::admin::{Act, Admin as _, Keeping, UnlockMethod};
use keystore_client::exchange::{
    AskedKey, DepositedHead, ExchangeRequest, HandOverRequest, KeyUsage, Partner,
};
use keystore_client::frame::{self, Frame, Secret};
use keystore_client::message::{
    AdminCall, Call, Fault, Greeting, Hello, KeyCall, KeyReply, Notice, export_of,
};
use keystore_client::socket::AdminSocket;
use keystore_client::{DescribeRequest, EntitlementRef, ExportRequest, LeaseRequest};
use keystore_types::{AssetId, Generation, KeyContext, KeyId, Label, SUBSAMPLE_RULE, Scheme};
use rustix::process::Uid;
use rustix::thread::set_thread_res_uid;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::sync::oneshot;

/// Somebody who asks.
struct Role {
    name: &'static str,
    uid: u32,
    may: &'static [CallerRight],
    assets: &'static [&'static str],
}

const fn role(
    name: &'static str,
    uid: u32,
    may: &'static [CallerRight],
    assets: &'static [&'static str],
) -> Role {
    Role {
        name,
        uid,
        may,
        assets,
    }
}

/// Root is an operator without being configured; the stranger is not configured either.
const ROLES: [Role; 12] = [
    role("operator", 0, &[Operate, Audit], &[]),
    role("stranger", 61_000, &[], &[]),
    role("packager", 61_001, &[Lease], &["*"]),
    role("packager-of-film", 61_002, &[Lease], &["film"]),
    role("licenser", 61_003, &[Export], &["*"]),
    role("licenser-of-film", 61_004, &[Export], &["film"]),
    role("keeper", 61_005, &[Operate], &["*"]),
    role("auditor", 61_006, &[Audit], &["*"]),
    role("both-of-nothing", 61_007, &[Lease, Export], &[]),
    role("exchanger", 61_008, &[Exchange], &["*"]),
    role("exchanger-of-film", 61_009, &[Exchange], &["film"]),
    role("depositor-of-film", 61_010, &[Deposit], &["film"]),
];

/// What a call of the keystore socket needs, and how a denial of it is recorded: a new call does not compile without its
/// row.
fn key_row(call: &KeyCall) -> (CallerRight, &'static str) {
    match call {
        KeyCall::Lease(_) => (Lease, "lease"),
        KeyCall::Export(_) | KeyCall::Describe(_) => (Export, "export"),
        KeyCall::Exchange(_) | KeyCall::HandOver(_) => (Exchange, "exchange"),
        KeyCall::Deposit { .. } => (Deposit, "deposit"),
    }
}

/// What a call of the control socket needs, and its number: a new call does not compile without its row, and no row is
/// asked without a call.
fn row(call: &AdminCall) -> (usize, CallerRight) {
    match call {
        AdminCall::Init => (0, Operate),
        AdminCall::InitWith(_) => (1, Operate),
        AdminCall::DealShare => (2, Operate),
        AdminCall::ConfirmShare => (3, Operate),
        AdminCall::UnsealShare => (4, Operate),
        AdminCall::UnsealBy(_) => (5, Operate),
        AdminCall::Unseal => (6, Operate),
        AdminCall::Seal => (7, Operate),
        AdminCall::RotateRoot { .. } => (8, Operate),
        AdminCall::RotateKeks(_) => (9, Operate),
        AdminCall::Status => (10, Audit),
        AdminCall::Checkpoint => (11, Audit),
        AdminCall::Verify(_) => (12, Audit),
        AdminCall::Act(_) => (13, Operate),
        AdminCall::Backup(_) => (14, Operate),
        AdminCall::BackupChunk(_) => (15, Operate),
        AdminCall::Restore(_) => (16, Operate),
        AdminCall::Approvals => (17, Operate),
        AdminCall::Approve(_) => (18, Operate),
        AdminCall::Cancel(_) => (19, Operate),
        AdminCall::KeyList(_) => (20, Operate),
        AdminCall::KeyShow(_) => (21, Operate),
        AdminCall::KeyDestroy(_) => (22, Operate),
        AdminCall::RevokeNode(_) => (23, Operate),
    }
}

const ROWS: usize = 24;

/// One call of each row. The answers of those who may differ, and are the business of other tests.
fn calls() -> Vec<AdminCall> {
    let (id, key_id) = ("00000000".to_owned(), KeyId::new([9; 16]));
    vec![
        AdminCall::Status,
        AdminCall::Checkpoint,
        AdminCall::Verify(None),
        AdminCall::KeyList(Default::default()),
        AdminCall::KeyShow(key_id),
        AdminCall::KeyDestroy(key_id),
        AdminCall::Init,
        AdminCall::InitWith(Keeping::default()),
        AdminCall::DealShare,
        AdminCall::ConfirmShare,
        AdminCall::UnsealShare,
        AdminCall::UnsealBy(UnlockMethod::Key),
        AdminCall::Unseal,
        AdminCall::RotateRoot {
            shares: None,
            passphrase: 0,
        },
        AdminCall::RotateKeks(Some("nobody".to_owned())),
        AdminCall::Act(Act::AcceptRollback {}),
        AdminCall::Backup(vec![]),
        AdminCall::BackupChunk(id.clone()),
        AdminCall::Restore(String::new()),
        AdminCall::Approvals,
        AdminCall::Approve(id.clone()),
        AdminCall::Cancel(id),
        AdminCall::RevokeNode("nobody".to_owned()),
        AdminCall::Seal,
    ]
}

fn settings(folder: &Path) -> KeystoreSettings {
    let callers = ROLES.iter().filter(|role| role.uid > 61_000);
    let caller = |role: &Role| CallerSettings {
        user: Some(User::Uid(role.uid)),
        may: role.may.to_vec(),
        assets: role.assets.iter().map(|&asset| asset.to_owned()).collect(),
    };
    KeystoreSettings {
        callers: callers
            .map(|role| (role.name.to_owned(), caller(role)))
            .collect(),
        ..testing::settings(folder)
    }
}

/// A connection that the kernel says is this user's: of a thread which was that user when it connected.
fn connect(uid: u32, path: &Path) -> UnixStream {
    let path = path.to_owned();
    let connected = std::thread::spawn(move || {
        let uid = Uid::from_raw(uid);
        // Of this thread alone, which ends with it.
        set_thread_res_uid(uid, uid, uid).unwrap();
        std::os::unix::net::UnixStream::connect(path).unwrap()
    });
    let stream = connected.join().unwrap();
    stream.set_nonblocking(true).unwrap();
    UnixStream::from_std(stream).unwrap()
}

/// One peer's conversation with one socket.
struct Peer {
    stream: UnixStream,
    asked: u64,
}

impl Peer {
    /// # Errors
    /// The fault with which it is turned away.
    async fn greet(uid: u32, path: &Path, hello: Hello) -> Result<Self, Fault> {
        let mut stream = connect(uid, path);
        frame::write(&mut stream, &Frame::open(hello))
            .await
            .unwrap();
        let greeting = within(frame::read(&mut stream)).await.unwrap().unwrap();
        match greeting.header {
            Greeting::Hello(_) => Ok(Self { stream, asked: 0 }),
            Greeting::Fault(fault) => Err(fault),
        }
    }

    async fn ask<T: Serialize, R: DeserializeOwned>(
        &mut self,
        call: T,
        secret: Secret,
    ) -> Result<Frame<R>, Fault> {
        self.asked += 1;
        let header = Call {
            id: self.asked,
            call,
        };
        let frame = Frame { header, secret };
        frame::write(&mut self.stream, &frame).await.unwrap();
        loop {
            let answer = within(frame::read::<Notice<R>>(&mut self.stream)).await;
            let Frame { header, secret } = answer.unwrap().unwrap();
            match header {
                Notice::Reply { reply, .. } => {
                    return Ok(Frame {
                        header: reply,
                        secret,
                    });
                }
                Notice::Fault { fault, .. } => return Err(fault),
                Notice::State(_) => {}
            }
        }
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    (tokio::time::timeout(Duration::from_secs(60), future).await).expect("it ends in time")
}

/// The audit log's records of denials: caller, capability, asset.
fn denials(settings: &KeystoreSettings) -> Vec<(String, String, Option<String>)> {
    let log = std::fs::read_to_string(settings.state_dir.join("audit.log")).unwrap();
    let denial = |line: &str| {
        let record: Value = serde_json::from_str(line).unwrap();
        (record["op"] == "denied").then(|| {
            (
                record["caller"].as_str().unwrap().to_owned(),
                record["capability"].as_str().unwrap().to_owned(),
                record["asset"].as_str().map(str::to_owned),
            )
        })
    };
    log.lines().filter_map(denial).collect()
}

fn context(tenant: &str, asset: &str) -> KeyContext {
    KeyContext {
        tenant: tenant.to_owned(),
        asset: asset.parse().unwrap(),
        label: Label::Hd,
        scheme: Scheme::Cbcs,
        subsample_rule: SUBSAMPLE_RULE,
        generation: Generation {
            sources: [3; 32],
            number: 1,
        },
    }
}

fn lease_of(tenant: &str, asset: &str) -> KeyCall {
    let contexts = vec![context(tenant, asset)];
    KeyCall::Lease(LeaseRequest { contexts })
}

fn export_from(asset: &str, key_id: KeyId) -> KeyCall {
    KeyCall::Export(ExportRequest {
        asset: asset.parse().unwrap(),
        key_ids: vec![key_id],
        entitlement: EntitlementRef {
            issuer: "tests".to_owned(),
            subject: None,
            token_id: None,
            system: "clearkey".to_owned(),
        },
    })
}

/// Key exchange about an asset of a tenant, with a key of its own in each call, and that key's bytes where it is brought.
fn exchanges(tenant: &str, asset: &str, number: u8) -> [(KeyCall, Secret); 3] {
    let (tenant, asset): (_, AssetId) = (tenant.to_owned(), asset.parse().unwrap());
    let partner = Partner {
        name: "partner".to_owned(),
        protocol: "tests".to_owned(),
        recipients: vec![],
    };
    let usage = KeyUsage {
        label: Label::Audio,
        scheme: Scheme::Cbcs,
        elsewhere: Some(number.to_string()),
    };
    let asked = AskedKey {
        key_id: KeyId::new([number; 16]),
        usage: usage.clone(),
        iv: None,
    };
    let brought = DepositedHead {
        key_id: KeyId::new([number | 0x80; 16]),
        usage,
        iv: None,
    };
    [
        (
            KeyCall::Exchange(ExchangeRequest {
                tenant: tenant.clone(),
                asset: asset.clone(),
                keys: vec![asked],
                partner: partner.clone(),
            }),
            Secret::default(),
        ),
        (
            KeyCall::HandOver(HandOverRequest {
                tenant: tenant.clone(),
                asset: asset.clone(),
                scheme: None,
                partner: partner.clone(),
            }),
            Secret::default(),
        ),
        (
            KeyCall::Deposit {
                tenant,
                asset,
                keys: vec![brought],
                partner,
            },
            Secret::new(vec![number; 16]),
        ),
    ]
}

const TENANTS: [&str; 3] = ["default", "another", "nobody"];
const ASSETS: [&str; 3] = ["film", "series", "invented"];

#[tokio::test]
async fn scoped_use() {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CASTELLUM_NO_SKIP").is_none(), "not root");
        return eprintln!("skipped: only root can be other users");
    }
    let folder = tempfile::tempdir().unwrap();
    // The other users reach the sockets, and nothing else.
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o711)).unwrap();
    let settings = settings(folder.path());
    let (stop, stopped) = oneshot::channel::<()>();
    let daemon = tokio::spawn(keystore::run(settings.clone(), async {
        let _ = stopped.await;
    }));
    let operator = AdminSocket::open(&settings.control_socket);
    let initialised = async {
        while operator.init(testing::PASSPHRASE.into()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(initialised).await;

    keys(&settings).await;
    control(&settings).await;

    stop.send(()).unwrap();
    within(daemon).await.unwrap().unwrap();
}

/// Role x call of the keystore socket x tenant x asset.
async fn keys(settings: &KeystoreSettings) {
    // Keys of two assets, made by who may lease everything.
    let mut made = BTreeMap::new();
    let socket = &settings.socket;
    let mut packager = (Peer::greet(61_001, socket, Hello::keystore()).await).unwrap();
    for asset in ["film", "series"] {
        let reply = packager.ask(lease_of("default", asset), Secret::default());
        let lease = keystore_client::message::lease_of(reply.await.unwrap()).unwrap();
        made.insert(asset, (lease.keys[0].key_id, *lease.keys[0].key.expose()));
    }
    let mut number = 0;
    for role in &ROLES {
        let peer = Peer::greet(role.uid, socket, Hello::keystore()).await;
        let of_keys = [Lease, Export, Exchange, Deposit];
        let is_caller = of_keys.iter().any(|right| role.may.contains(right));
        let Ok(mut peer) = peer else {
            assert!(!is_caller, "{} is turned away", role.name);
            continue;
        };
        assert!(is_caller, "{} is let in", role.name);
        for asset in ASSETS {
            let granted = |right| {
                role.may.contains(&right)
                    && (role.assets.contains(&"*") || role.assets.contains(&asset))
            };
            for tenant in TENANTS {
                number += 1;
                let lease = (lease_of(tenant, asset), Secret::default());
                let calls = std::iter::once(lease).chain(exchanges(tenant, asset, number));
                for (call, secret) in calls {
                    let (right, noun) = key_row(&call);
                    let cell = format!("{}: {noun} {asset} of {tenant}, {call:?}", role.name);
                    let before = denials(settings);
                    let allowed = granted(right) && tenant == "default";
                    match peer.ask::<_, KeyReply>(call, secret).await {
                        Ok(_) => assert!(allowed, "{cell}"),
                        Err(Fault::Denied(_)) => assert!(!allowed, "{cell}"),
                        Err(other) => panic!("{cell}: {other:?}"),
                    }
                    let denial = (role.name, noun, Some(asset));
                    noted(settings, &before, denial, allowed, &cell);
                }
            }
            // Any key there is, asked for under this asset.
            for (of, (key_id, key)) in &made {
                let cell = format!("{} exports {of}'s key as {asset}'s", role.name);
                let before = denials(settings);
                let answer =
                    peer.ask::<_, KeyReply>(export_from(asset, *key_id), Secret::default());
                let allowed = granted(Export);
                match answer.await {
                    Ok(reply) => {
                        assert!(allowed, "{cell}");
                        let given = export_of(reply).unwrap();
                        let given: Vec<_> = given.iter().map(|it| *it.key.expose()).collect();
                        let expected = if *of == asset { vec![*key] } else { vec![] };
                        assert_eq!(given, expected, "{cell}");
                    }
                    Err(Fault::Denied(_)) => assert!(!allowed, "{cell}"),
                    Err(other) => panic!("{cell}: {other:?}"),
                }
                let denial = (role.name, "export", Some(asset));
                noted(settings, &before, denial, allowed, &cell);
                // What is public about it, too.
                let cell = format!("{} describes {of}'s key as {asset}'s", role.name);
                let before = denials(settings);
                let call = KeyCall::Describe(DescribeRequest {
                    asset: asset.parse().unwrap(),
                    key_ids: vec![*key_id],
                });
                match peer.ask::<_, KeyReply>(call, Secret::default()).await {
                    Ok(reply) => {
                        assert!(allowed, "{cell}");
                        let KeyReply::Described(keys) = reply.header else {
                            panic!("{cell}: {:?}", reply.header)
                        };
                        let described: Vec<_> = keys.iter().map(|key| key.key_id).collect();
                        let expected = if *of == asset { vec![*key_id] } else { vec![] };
                        assert_eq!(described, expected, "{cell}");
                    }
                    Err(Fault::Denied(_)) => assert!(!allowed, "{cell}"),
                    Err(other) => panic!("{cell}: {other:?}"),
                }
                noted(settings, &before, denial, allowed, &cell);
            }
        }
    }
}

/// Role x call of the control socket.
async fn control(settings: &KeystoreSettings) {
    let rows: BTreeSet<usize> = calls().iter().map(|call| row(call).0).collect();
    assert!(rows.into_iter().eq(0..ROWS), "a call of each row");
    for role in &ROLES {
        let hello = Hello::control();
        let peer = Peer::greet(role.uid, &settings.control_socket, hello).await;
        let is_caller = role.may.contains(&Operate) || role.may.contains(&Audit);
        let Ok(mut peer) = peer else {
            assert!(!is_caller, "{} is turned away", role.name);
            continue;
        };
        assert!(is_caller, "{} is let in", role.name);
        for call in calls() {
            let cell = format!("{}: {call:?}", role.name);
            let right = row(&call).1;
            let allowed = role.may.contains(&right);
            let before = denials(settings);
            let secret = Secret::new(testing::PASSPHRASE.as_bytes().to_vec());
            let answer = peer.ask::<_, Value>(call, secret).await;
            let denied = matches!(answer, Err(Fault::Denied(_)));
            assert_eq!(denied, !allowed, "{cell}: {:?}", answer.err());
            let right = if right == Audit { "audit" } else { "operate" };
            noted(settings, &before, (role.name, right, None), allowed, &cell);
        }
    }
}

/// A denial is one more record, of this caller, and nothing else is.
fn noted(
    settings: &KeystoreSettings,
    before: &[(String, String, Option<String>)],
    (caller, capability, asset): (&str, &str, Option<&str>),
    allowed: bool,
    cell: &str,
) {
    let after = denials(settings);
    let new = &after[before.len()..];
    match allowed {
        true => assert!(new.is_empty(), "{cell}: {new:?}"),
        false => assert_eq!(
            new,
            [(
                caller.to_owned(),
                capability.to_owned(),
                asset.map(str::to_owned)
            )],
            "{cell}"
        ),
    }
}
