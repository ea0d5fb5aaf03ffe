//! Other machines: what an origin or licence server elsewhere gets, and what whoever steals it does not.
#![expect(clippy::unwrap_used, reason = "a test's panic is its report")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use conf::{CallerRight, KeystoreListenerSettings, KeystoreSettings, NodeSettings, SecretSource};
use keystore::nodes::NodeListener;
use keystore::{Local, SystemClock, testing};
use keystore_client::admin::{AdminError, KeyFilter};
use keystore_client::remote::{Core, Remote};
use keystore_client::wrap::NodeKey;
use keystore_client::{
    EntitlementRef, Error, ExportRequest, Keystore, Lease, LeaseRequest, SealState,
};
use keystore_types::{AssetId, Generation, KeyContext, KeyId, Label, SUBSAMPLE_RULE, Scheme};
use rcgen::{CertificateParams, KeyPair};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const PASSPHRASE: &str = "correct horse";

/// Certificate and key of somebody.
struct Identity {
    certificate: PathBuf,
    key: Vec<u8>,
    node_key: String,
}

fn identity(folder: &Path, name: &str, names: &[&str]) -> Identity {
    let pair = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let made = CertificateParams::new(names).unwrap();
    let certificate = folder.join(format!("{name}.pem"));
    std::fs::write(&certificate, made.self_signed(&pair).unwrap().pem()).unwrap();
    Identity {
        certificate,
        key: pair.serialize_pem().into_bytes(),
        node_key: NodeKey::generate().unwrap().to_text().to_string(),
    }
}

/// A core keystore with the machines `edge` (may lease `film` and `short`) and `shop` (may export `film`).
struct Central {
    local: Local,
    settings: KeystoreSettings,
    address: SocketAddr,
    server: Identity,
    edge: Identity,
    shop: Identity,
    stop: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
    folder: TempDir,
}

async fn central(change: impl FnOnce(&mut KeystoreSettings)) -> Central {
    let folder = tempfile::tempdir().unwrap();
    let server = identity(folder.path(), "core", &["localhost"]);
    let edge = identity(folder.path(), "edge", &[]);
    let shop = identity(folder.path(), "shop", &[]);
    let mut settings = testing::settings(folder.path());
    let key = folder.path().join("core.key");
    std::fs::write(&key, &server.key).unwrap();
    settings.listener = Some(KeystoreListenerSettings {
        address: "127.0.0.1:0".parse().unwrap(),
        certificate: server.certificate.clone(),
        key: SecretSource::file(key),
    });
    let node = |identity: &Identity, right, assets: &[&str]| NodeSettings {
        certificate: identity.certificate.clone(),
        node_key: NodeKey::from_text(identity.node_key.as_bytes())
            .unwrap()
            .public(),
        may: vec![right],
        assets: assets.iter().map(|&name| name.to_owned()).collect(),
        lease_term: Some(Duration::from_secs(7200)),
    };
    (settings.nodes).insert(
        "edge".into(),
        node(&edge, CallerRight::Lease, &["film", "short"]),
    );
    (settings.nodes).insert("shop".into(), node(&shop, CallerRight::Export, &["film"]));
    change(&mut settings);
    let local = Local::open(&settings, Arc::new(SystemClock)).await.unwrap();
    testing::operator(&local)
        .init(PASSPHRASE.into())
        .await
        .unwrap();
    let mut central = Central {
        address: "127.0.0.1:0".parse().unwrap(),
        local,
        settings,
        server,
        edge,
        shop,
        stop: None,
        folder,
    };
    central.listen("127.0.0.1:0".parse().unwrap()).await;
    central
}

impl Central {
    async fn listen(&mut self, address: SocketAddr) {
        let mut listener = self.settings.listener.clone().unwrap();
        listener.address = address;
        let bound = (NodeListener::bind(&listener, self.local.clone()).await).unwrap();
        self.address = bound.address().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async move {
            let _ = stopped.await;
        };
        let served = tokio::spawn(bound.serve(stopped, Duration::from_secs(1)));
        self.stop = Some((stop, served));
    }

    async fn stop(&mut self) {
        let (stop, served) = self.stop.take().unwrap();
        drop(stop);
        served.await.unwrap();
    }

    /// Started anew on the same folder, and unsealed.
    async fn restart(mut self, change: impl FnOnce(&mut KeystoreSettings)) -> Self {
        self.stop().await;
        // The state folder is locked as long as there is one.
        let elsewhere = testing::uninitialised().await.unwrap();
        drop(std::mem::replace(&mut self.local, elsewhere));
        change(&mut self.settings);
        let opened = Local::open(&self.settings, Arc::new(SystemClock)).await;
        self.local = opened.unwrap();
        let operator = testing::operator(&self.local);
        operator.unseal(PASSPHRASE.into()).await.unwrap();
        self.listen("127.0.0.1:0".parse().unwrap()).await;
        self
    }

    fn reach(&self, as_who: &Identity) -> Remote {
        self.reach_at(self.address.port(), as_who, &as_who.node_key)
    }

    fn reach_at(&self, port: u16, as_who: &Identity, node_key: &str) -> Remote {
        Remote::open(Core {
            host: "localhost".to_owned(),
            port,
            ca_file: &self.server.certificate,
            certificate: &as_who.certificate,
            key: &as_who.key,
            node_key: NodeKey::from_text(node_key.as_bytes()).unwrap(),
        })
        .unwrap()
    }

    fn log(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.settings.state_dir.join("audit.log")).unwrap();
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The records of a caller, by what they are.
    fn ops_of(&self, caller: &str) -> Vec<String> {
        let log = self.log();
        let of = log.iter().filter(|record| record["caller"] == caller);
        of.map(|record| record["op"].as_str().unwrap().to_owned())
            .collect()
    }
}

async fn becomes(keystore: &Remote, wanted: SealState) {
    let mut state = keystore.seal_state();
    let wait = state.wait_for(|state| *state == wanted);
    (tokio::time::timeout(Duration::from_secs(20), wait).await)
        .expect("it becomes so in time")
        .unwrap();
}

fn context(asset: &str, label: Label) -> KeyContext {
    KeyContext {
        tenant: "default".to_owned(),
        asset: asset.parse().unwrap(),
        label,
        scheme: Scheme::Cbcs,
        subsample_rule: SUBSAMPLE_RULE,
        generation: Generation {
            sources: [7; 32],
            number: 0,
        },
    }
}

async fn lease(keystore: &dyn Keystore, asset: &str) -> Result<Lease, Error> {
    let contexts = vec![context(asset, Label::Hd), context(asset, Label::Audio)];
    keystore.lease(LeaseRequest { contexts }).await
}

fn export(asset: &str, key_ids: Vec<KeyId>) -> ExportRequest {
    ExportRequest {
        asset: asset.parse::<AssetId>().unwrap(),
        key_ids,
        entitlement: EntitlementRef {
            issuer: "tests".to_owned(),
            subject: None,
            token_id: None,
            system: "clearkey".to_owned(),
        },
    }
}

#[tokio::test]
async fn leases_and_exports_go_to_other_machines_as_to_this_one() {
    let central = central(|_| {}).await;
    let (edge, shop) = (central.reach(&central.edge), central.reach(&central.shop));
    becomes(&edge, SealState::Unsealed).await;
    becomes(&shop, SealState::Unsealed).await;
    let here = lease(&*testing::origin(&central.local), "film")
        .await
        .unwrap();
    let there = lease(&edge, "film").await.unwrap();
    assert_eq!(there.term, Duration::from_secs(7200));
    for (one, other) in here.keys.iter().zip(&there.keys) {
        assert_eq!(one.key.expose(), other.key.expose());
        assert_eq!((one.key_id, one.iv), (other.key_id, other.iv));
    }
    let ids: Vec<_> = here.keys.iter().map(|key| key.key_id).collect();
    let exported = shop.export(export("film", ids.clone())).await.unwrap();
    assert_eq!(exported.len(), 2);
    assert_eq!(exported[0].key.expose(), here.keys[0].key.expose());
    assert_eq!(central.ops_of("edge"), ["lease"]);
    assert_eq!(central.ops_of("shop"), ["export"]);

    // Each does its own thing only.
    let refused = edge.export(export("film", ids)).await;
    assert!(matches!(refused, Err(Error::Denied(_))), "{refused:?}");
    let refused = lease(&shop, "film").await;
    assert!(matches!(refused, Err(Error::Denied(_))), "{refused:?}");
}

/// Machine x call x tenant x asset, over TLS.
#[tokio::test]
async fn scoped_use_by_other_machines() {
    use conf::CallerRight::{Export, Lease};
    const MACHINES: [(&str, &[CallerRight], &[&str]); 6] = [
        ("leases-all", &[Lease], &["*"]),
        ("leases-film", &[Lease], &["film"]),
        ("exports-all", &[Export], &["*"]),
        ("exports-film", &[Export], &["film"]),
        ("both-of-film", &[Lease, Export], &["film"]),
        ("both-of-nothing", &[Lease, Export], &[]),
    ];
    let identities = tempfile::tempdir().unwrap();
    let machines = MACHINES.map(|(name, may, assets)| {
        let identity = identity(identities.path(), name, &[]);
        (name, may, assets, identity)
    });
    let central = central(|settings| {
        for (name, may, assets, identity) in &machines {
            let node = NodeSettings {
                certificate: identity.certificate.clone(),
                node_key: NodeKey::from_text(identity.node_key.as_bytes())
                    .unwrap()
                    .public(),
                may: may.to_vec(),
                assets: assets.iter().map(|&name| name.to_owned()).collect(),
                lease_term: None,
            };
            settings.nodes.insert((*name).to_owned(), node);
        }
    })
    .await;
    let origin = testing::origin(&central.local);
    let mut made = vec![];
    for asset in ["film", "series"] {
        let lease = lease(&*origin, asset).await.unwrap();
        made.push((asset, lease.keys[0].key_id));
    }
    for (name, may, assets, identity) in &machines {
        let machine = central.reach(identity);
        becomes(&machine, SealState::Unsealed).await;
        let mut denied = 0;
        for asset in ["film", "series", "invented"] {
            let granted =
                |right| may.contains(&right) && (assets.contains(&"*") || assets.contains(&asset));
            for tenant in ["default", "another"] {
                let cell = format!("{name} leases {asset} of {tenant}");
                let contexts = vec![KeyContext {
                    tenant: tenant.to_owned(),
                    ..context(asset, Label::Hd)
                }];
                let allowed = granted(Lease) && tenant == "default";
                match machine.lease(LeaseRequest { contexts }).await {
                    Ok(_) => assert!(allowed, "{cell}"),
                    Err(Error::Denied(_)) => assert!(!allowed, "{cell}"),
                    Err(other) => panic!("{cell}: {other}"),
                }
                denied += usize::from(!allowed);
            }
            for (of, key_id) in &made {
                let cell = format!("{name} exports {of}'s key as {asset}'s");
                match machine.export(export(asset, vec![*key_id])).await {
                    Ok(given) => {
                        assert!(granted(Export), "{cell}");
                        assert_eq!(given.len(), usize::from(*of == asset), "{cell}");
                    }
                    Err(Error::Denied(_)) => assert!(!granted(Export), "{cell}"),
                    Err(other) => panic!("{cell}: {other}"),
                }
                denied += usize::from(!granted(Export));
            }
        }
        let recorded = central.ops_of(name);
        let recorded = recorded.iter().filter(|op| *op == "denied").count();
        assert_eq!(recorded, denied, "{name}");
    }
}

/// Whoever has an edge, with all that is on it, tries everything that there is and much that there is not.
#[tokio::test]
async fn a_stolen_edge_gets_what_it_was_granted_and_raises_the_alarm() {
    let central = central(|settings| settings.budget.denials = 16).await;
    let catalogue: Vec<String> = (0..40).map(|number| format!("title-{number}")).collect();
    let origin = testing::origin(&central.local);
    let mut ids = vec![];
    for asset in catalogue
        .iter()
        .map(String::as_str)
        .chain(["film", "short"])
    {
        let lease = lease(&*origin, asset).await.unwrap();
        ids.extend(lease.keys.iter().map(|key| key.key_id));
    }
    let before = central.log().len();

    let thief = central.reach(&central.edge);
    becomes(&thief, SealState::Unsealed).await;
    for granted in ["film", "short"] {
        lease(&thief, granted).await.unwrap();
    }
    let mut answers = vec![];
    let invented = (0..40).map(|number| format!("invented-{number}"));
    for asset in catalogue
        .iter()
        .cloned()
        .zip(invented)
        .flat_map(|(a, b)| [a, b])
    {
        answers.push((asset.clone(), lease(&thief, &asset).await.unwrap_err()));
    }
    // What exists and what does not are refused in the same words.
    for (asset, error) in &answers[..16] {
        assert!(
            matches!(error, Error::Denied(why) if *why == format!("edge may not lease {asset}")),
            "{error}"
        );
    }
    for (_, error) in &answers[16..] {
        assert!(
            matches!(error, Error::Unavailable(why) if why.contains("16 denials")),
            "{error}"
        );
    }
    // Nor does it get its own any more, in this minute.
    assert!(lease(&thief, "film").await.is_err());
    // Ids that it may have seen in manifests open nothing by the way of an asset that it has.
    for chunk in ids.chunks(16) {
        let refused = thief.export(export("film", chunk.to_vec())).await;
        assert!(refused.is_err());
    }
    // The alarm is in the log, once; and no key that it was not granted left to it.
    let log = central.log();
    let of_thief = || {
        log[before..]
            .iter()
            .filter(|record| record["caller"] == "edge")
    };
    let alarms: Vec<_> = of_thief()
        .filter(|record| record["op"] == "budget")
        .collect();
    assert_eq!(alarms.len(), 1);
    assert_eq!(alarms[0]["limit"], "denials");
    let leases: Vec<_> = of_thief()
        .filter(|record| record["op"] == "lease")
        .collect();
    assert_eq!(leases.len(), 2);
    for lease in leases {
        for key in lease["keys"].as_array().unwrap() {
            assert!(["film", "short"].contains(&key["asset"].as_str().unwrap()));
        }
    }
    // And no key was made for what it invented.
    let page = testing::operator(&central.local)
        .key_list(KeyFilter::default())
        .await
        .unwrap();
    assert_eq!(page.keys.len(), ids.len());
}

#[tokio::test]
async fn a_licence_server_elsewhere_finds_no_key_by_its_id_alone() {
    let central = central(|_| {}).await;
    let other = lease(&*testing::origin(&central.local), "other")
        .await
        .unwrap();
    let ids: Vec<_> = other.keys.iter().map(|key| key.key_id).collect();
    let shop = central.reach(&central.shop);
    becomes(&shop, SealState::Unsealed).await;
    assert_eq!(
        shop.export(export("film", ids.clone()))
            .await
            .unwrap()
            .len(),
        0
    );
    let refused = shop.export(export("other", ids)).await;
    assert!(matches!(refused, Err(Error::Denied(_))), "{refused:?}");
}

#[tokio::test]
async fn keys_are_encrypted_to_the_node_beneath_tls() {
    let central = central(|_| {}).await;
    let other = NodeKey::generate().unwrap().to_text().to_string();
    let port = central.address.port();
    let without_node_key = central.reach_at(port, &central.edge, &other);
    becomes(&without_node_key, SealState::Unsealed).await;
    let error = lease(&without_node_key, "film").await.unwrap_err();
    assert!(error.to_string().contains("this node's key"), "{error}");
}

#[tokio::test]
async fn strangers_are_turned_away() {
    let central = central(|_| {}).await;
    // No certificate of the configuration, though it names itself alike.
    let stranger = identity(central.folder.path(), "stranger", &["edge"]);
    let remote = central.reach(&stranger);
    assert!(lease(&remote, "film").await.is_err());
    assert_eq!(*remote.seal_state().borrow(), SealState::Unreachable);
    // Not TLS at all.
    let mut stream = TcpStream::connect(central.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = vec![];
    let read = stream.read_to_end(&mut answer);
    let read = tokio::time::timeout(Duration::from_secs(20), read).await;
    assert!(read.is_ok());
    assert!(!answer.starts_with(b"HTTP"));
    // And a core that cannot show its certificate gets no request.
    let impostor = identity(central.folder.path(), "impostor", &["localhost"]);
    let edge = Remote::open(Core {
        host: "localhost".to_owned(),
        port: central.address.port(),
        ca_file: &impostor.certificate,
        certificate: &central.edge.certificate,
        key: &central.edge.key,
        node_key: NodeKey::generate().unwrap(),
    })
    .unwrap();
    assert!(lease(&edge, "film").await.is_err());
    assert!(central.ops_of("edge").is_empty());
}

#[tokio::test]
async fn a_revoked_machine_is_told_that_its_leases_end_and_comes_no_more() {
    let central = central(|_| {}).await;
    let (edge, shop) = (central.reach(&central.edge), central.reach(&central.shop));
    becomes(&edge, SealState::Unsealed).await;
    becomes(&shop, SealState::Unsealed).await;
    lease(&edge, "film").await.unwrap();
    let operator = testing::operator(&central.local);
    let unknown = operator.revoke_node("nobody".into()).await;
    assert!(
        matches!(unknown, Err(AdminError::Refused(_))),
        "{unknown:?}"
    );
    operator.revoke_node("edge".into()).await.unwrap();
    // What holds leases drops them at this, also who looks when the connection is closed already.
    becomes(&edge, SealState::Sealed).await;
    let refused = lease(&edge, "film").await;
    assert!(matches!(refused, Err(Error::Denied(_))), "{refused:?}");
    assert_eq!(*edge.seal_state().borrow(), SealState::Sealed);
    assert!(shop.export(export("film", vec![])).await.is_err());
    assert_eq!(*shop.seal_state().borrow(), SealState::Unsealed);

    // Nor after a restart; with a new certificate it is another machine.
    drop((edge, shop, operator));
    let mut central = central.restart(|_| {}).await;
    let again = central.reach(&central.edge);
    let refused = lease(&again, "film").await;
    assert!(matches!(refused, Err(Error::Denied(_))), "{refused:?}");
    drop(again);
    central.edge = identity(central.folder.path(), "replaced", &[]);
    let (certificate, node_key) = (
        central.edge.certificate.clone(),
        NodeKey::from_text(central.edge.node_key.as_bytes()).unwrap(),
    );
    let central = (central.restart(|settings| {
        let node = settings.nodes.get_mut("edge").unwrap();
        node.certificate = certificate;
        node.node_key = node_key.public();
    }))
    .await;
    let replaced = central.reach(&central.edge);
    becomes(&replaced, SealState::Unsealed).await;
    lease(&replaced, "film").await.unwrap();
}

#[tokio::test]
async fn a_machine_that_was_revoked_while_it_was_away_is_told_when_it_is_back() {
    let mut central = central(|_| {}).await;
    let edge = central.reach(&central.edge);
    becomes(&edge, SealState::Unsealed).await;
    central.stop().await;
    becomes(&edge, SealState::Unreachable).await;
    let operator = testing::operator(&central.local);
    operator.revoke_node("edge".into()).await.unwrap();
    central.listen(central.address).await;
    becomes(&edge, SealState::Sealed).await;
}

#[tokio::test]
async fn a_lease_outlives_a_core_that_is_away_and_is_renewed_when_it_is_back() {
    let mut central = central(|_| {}).await;
    let edge = central.reach(&central.edge);
    becomes(&edge, SealState::Unsealed).await;
    let held = lease(&edge, "film").await.unwrap();
    central.stop().await;
    // Not sealed: what is held is held until its term is over, which the caller counts.
    becomes(&edge, SealState::Unreachable).await;
    assert!(lease(&edge, "film").await.is_err());
    central.listen(central.address).await;
    becomes(&edge, SealState::Unsealed).await;
    let renewed = lease(&edge, "film").await.unwrap();
    assert_eq!(renewed.keys[0].key.expose(), held.keys[0].key.expose());
    // A seal ends it at once, there too.
    (testing::operator(&central.local).seal().await).unwrap();
    becomes(&edge, SealState::Sealed).await;
    assert!(matches!(lease(&edge, "film").await, Err(Error::Sealed)));
}

#[tokio::test]
async fn one_who_says_nothing_holds_nobody_up() {
    let central = central(|_| {}).await;
    let mut silent = vec![];
    for _ in 0..64 {
        silent.push(TcpStream::connect(central.address).await.unwrap());
    }
    let edge = central.reach(&central.edge);
    becomes(&edge, SealState::Unsealed).await;
    lease(&edge, "film").await.unwrap();
}

/// What a machine sees that sits between the two and has broken TLS: only what was wrapped.
#[tokio::test]
async fn what_goes_over_the_wire_holds_no_key() {
    let central = central(|_| {}).await;
    let tap = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = tap.local_addr().unwrap().port();
    let to = central.address;
    let tapped = tokio::spawn(async move {
        let (mut edge, _) = tap.accept().await.unwrap();
        let mut core = TcpStream::connect(to).await.unwrap();
        let (mut edge_reads, mut edge_writes) = edge.split();
        let (mut core_reads, mut core_writes) = core.split();
        let mut seen = vec![];
        let up = tokio::io::copy(&mut edge_reads, &mut core_writes);
        let down = async {
            let mut piece = [0; 4096];
            loop {
                match core_reads.read(&mut piece).await {
                    Ok(0) | Err(_) => break,
                    Ok(read) => {
                        seen.extend_from_slice(&piece[..read]);
                        edge_writes.write_all(&piece[..read]).await.unwrap();
                    }
                }
            }
        };
        tokio::select! {
            _ = up => {}
            () = down => {}
        }
        seen
    });
    let edge = central.reach_at(port, &central.edge, &central.edge.node_key);
    becomes(&edge, SealState::Unsealed).await;
    let held = lease(&edge, "film").await.unwrap();
    drop(edge);
    let seen = tapped.await.unwrap();
    assert!(seen.len() > 500);
    for key in &held.keys {
        assert!(!seen.windows(16).any(|bytes| bytes == key.key.expose()));
    }
}
