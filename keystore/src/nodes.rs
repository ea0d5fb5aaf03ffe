//! Other machines: origins and licence servers that get leases and exports by TLS, for the assets that they are granted.
//!
//! ```text
//! TLS 1.3 with both certificates -> which machine (its certificate, byte for byte) -> revoked? -> the same rules as for any
//! caller ([`crate::local`]) -> the reply's keys encrypted to the machine's node key
//! ```
//!
//! There is no call that lists anything, and none of administration. What a machine asks for and was not granted is
//! refused in the same words whether it exists or not, recorded, and counted: beyond `keystore.budget.denials` in a
//! minute there is an alarm, and nothing more for that machine.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use conf::{KeystoreListenerSettings, KeystoreSettings};
use keystore_client::SealState;
use keystore_client::frame::{Frame, Secret};
use keystore_client::message::{Fault, Hello, KeyCall, KeyReply};
use keystore_client::wrap::wrap;
use ring::digest::{SHA256, digest};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::audit::{Event, hex};
use crate::capability::Caller;
use crate::error::Error;
use crate::local::{Inner, Local};
use crate::refusal::{Refusal, refused};
use crate::server::{
    ACCEPT_PAUSE, HELLO_TIMEOUT, KeySession, Place, Session, connection, places_of_one,
};

/// The most connections at once: a machine holds one or two.
const MAX_CONNECTIONS: usize = 1024;

/// The machines of the configuration.
#[derive(Default)]
pub(crate) struct Nodes {
    by_name: BTreeMap<String, Arc<Node>>,
    /// Counts revocations, so that connections look again.
    revocations: watch::Sender<u64>,
}

struct Node {
    caller: Caller,
    certificate: CertificateDer<'static>,
    /// SHA-256 of the certificate.
    fingerprint: [u8; 32],
    node_key: [u8; 32],
    lease_term: Option<Duration>,
    /// Its connections.
    places: Arc<Semaphore>,
}

impl Nodes {
    /// # Errors
    /// A certificate that cannot be read.
    pub(crate) fn load(settings: &KeystoreSettings) -> Result<Self, Error> {
        let mut by_name = BTreeMap::new();
        for (name, node) in &settings.nodes {
            let [certificate] = &certificates(&node.certificate)?[..] else {
                return Err(unusable(
                    &node.certificate,
                    "holds more than one certificate",
                ));
            };
            let mut fingerprint = [0; 32];
            fingerprint.copy_from_slice(digest(&SHA256, certificate).as_ref());
            let node = Node {
                caller: Caller::node(name, node, &settings.tenant),
                certificate: certificate.clone(),
                fingerprint,
                node_key: node.node_key,
                lease_term: node.lease_term,
                places: places_of_one(),
            };
            by_name.insert(name.clone(), Arc::new(node));
        }
        Ok(Self {
            by_name,
            revocations: watch::Sender::new(0),
        })
    }

    fn of(&self, certificate: &CertificateDer<'_>) -> Option<Arc<Node>> {
        (self.by_name.values())
            .find(|node| node.certificate == *certificate)
            .cloned()
    }
}

impl Inner {
    pub(crate) async fn revoke_node(&self, caller: &str, name: &str) -> Result<(), Refusal> {
        let _administration = self.administration.lock().await;
        let Some(node) = self.nodes.by_name.get(name) else {
            return Err(refused(format!(
                "no machine is called {name} (keystore.nodes)"
            )));
        };
        let event = Event::RevokeNode {
            node: name.to_owned(),
            certificate: hex(&node.fingerprint),
        };
        self.record(caller, event).await?;
        (self.store.revoke_node(node.fingerprint, name, self.now())).await?;
        self.nodes.revocations.send_modify(|count| *count += 1);
        self.anchor().await?;
        Ok(())
    }
}

/// A bound listener.
pub struct NodeListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    local: Local,
}

impl NodeListener {
    /// Binds it.
    ///
    /// # Errors
    /// Certificate and key that cannot be read or used, an address that is taken.
    pub async fn bind(settings: &KeystoreListenerSettings, local: Local) -> Result<Self, Error> {
        let tls = tls(settings, &local.0.nodes)?;
        let listener = (TcpListener::bind(settings.address).await).map_err(|error| {
            Error::unavailable(format!("cannot listen on {}", settings.address), error)
        })?;
        Ok(Self {
            listener,
            acceptor: Arc::new(tls).into(),
            local,
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// Those of the system.
    pub fn address(&self) -> std::io::Result<std::net::SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown`, then lets calls under way finish for `grace` at most.
    pub async fn serve(self, shutdown: impl Future<Output = ()>, grace: Duration) {
        let mut shutdown = pin!(shutdown);
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let (closing, close) = watch::channel(false);
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = &mut shutdown => break,
                Some(_) = connections.join_next() => continue,
                accepted = self.listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a machine's connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = places.clone().try_acquire_owned() else {
                tracing::warn!(%peer, "too many connections of other machines");
                continue;
            };
            let (acceptor, local, close) =
                (self.acceptor.clone(), self.local.clone(), close.clone());
            connections.spawn(async move {
                if let Err(why) = converse(stream, acceptor, local, close, place).await {
                    metrics::counter!("castellum_keystore_node_refusals_total").increment(1);
                    tracing::warn!(%peer, why, "another machine is turned away");
                }
            });
        }
        closing.send_replace(true);
        let finished = async { while connections.join_next().await.is_some() {} };
        if timeout(grace, finished).await.is_err() {
            tracing::warn!("closed with calls of other machines under way");
        }
    }
}

/// One connection, to its end. Fails where it is turned away.
async fn converse(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    local: Local,
    close: watch::Receiver<bool>,
    place: tokio::sync::OwnedSemaphorePermit,
) -> Result<(), String> {
    let _ = stream.set_nodelay(true);
    let stream = (timeout(HELLO_TIMEOUT, acceptor.accept(stream)).await)
        .map_err(|_| "no handshake in time".to_owned())?
        .map_err(|error| error.to_string())?;
    let certificate = stream.get_ref().1.peer_certificates();
    let certificate = certificate.and_then(<[_]>::first);
    let Some(node) = certificate.and_then(|certificate| local.0.nodes.of(certificate)) else {
        return Err("its certificate is no machine's of keystore.nodes".to_owned());
    };
    let own = (node.places.clone().try_acquire_owned())
        .map_err(|_| format!("{} has too many connections", node.caller.name()))?;
    let place = Place {
        _of_all: place,
        _own: Some(own),
    };
    let hello = Hello::keystore();
    // Listened to before anything is looked at, so that no change falls in between.
    let mut news = News {
        seal: local.seal_state(),
        revocations: local.0.nodes.revocations.subscribe(),
        close,
    };
    let (state_sender, state) = watch::channel(*news.seal.borrow_and_update());
    let session = match local.0.store.is_node_revoked(node.fingerprint).await {
        Ok(false) => Ok(()),
        Ok(true) => Err(is_revoked(&node)),
        Err(error) => Err(Fault::Unavailable(error.to_string())),
    };
    let turned_away = session.as_ref().err().map(|fault| format!("{fault:?}"));
    let session = match session {
        Ok(()) => Ok((
            NodeSession {
                keys: KeySession(local.handle(node.caller.clone())),
                local: local.clone(),
                node: node.clone(),
            },
            place,
        )),
        Err(fault) => Err((fault, place)),
    };
    let (closing, closed) = watch::channel(false);
    tokio::select! {
        () = connection(stream, hello, session, state, closed) => {}
        () = tell(&local, &node, news, &state_sender, closing) => {}
    }
    turned_away.map_or(Ok(()), Err)
}

/// What a connected machine is told.
struct News {
    seal: watch::Receiver<SealState>,
    revocations: watch::Receiver<u64>,
    close: watch::Receiver<bool>,
}

/// Says how the keystore stands to a machine: sealed, once that is revoked. Never ends by itself.
async fn tell(
    local: &Local,
    node: &Node,
    news: News,
    state: &watch::Sender<SealState>,
    closing: watch::Sender<bool>,
) {
    let News {
        mut seal,
        mut revocations,
        mut close,
    } = news;
    loop {
        tokio::select! {
            Ok(()) = seal.changed() => {
                let now = *seal.borrow_and_update();
                state.send_if_modified(|told| std::mem::replace(told, now) != now);
            }
            Ok(()) = revocations.changed() => {
                // Where the store cannot say whom it was about, it may have been this one.
                if local.0.store.is_node_revoked(node.fingerprint).await.unwrap_or(true) {
                    state.send_replace(SealState::Sealed);
                    closing.send_replace(true);
                    return std::future::pending().await;
                }
            }
            () = closes(&mut close) => {
                closing.send_replace(true);
                return std::future::pending().await;
            }
        }
    }
}

async fn closes(close: &mut watch::Receiver<bool>) {
    // An error says that the sender is gone, which is a close too.
    let _ = close.wait_for(|&closing| closing).await;
}

fn is_revoked(node: &Node) -> Fault {
    Fault::Denied(format!("{} is revoked", node.caller.name()))
}

/// A machine's side of the conversation.
struct NodeSession {
    keys: KeySession,
    local: Local,
    node: Arc<Node>,
}

impl Session for NodeSession {
    type Call = KeyCall;
    type Reply = KeyReply;

    async fn answer(&self, call: KeyCall, secret: Secret) -> Result<Frame<KeyReply>, Fault> {
        let node = &self.node;
        match self.local.0.store.is_node_revoked(node.fingerprint).await {
            Ok(false) => {}
            Ok(true) => return Err(is_revoked(node)),
            Err(error) => return Err(Fault::Unavailable(error.to_string())),
        }
        let Frame { mut header, secret } = self.keys.answer(call, secret).await?;
        if let (KeyReply::Lease { term_ms, .. }, Some(term)) = (&mut header, node.lease_term) {
            *term_ms = u64::try_from(term.as_millis()).unwrap_or(u64::MAX);
        }
        let secret = (self.wrapped(&header, &secret)).map_err(Fault::Unavailable)?;
        Ok(Frame { header, secret })
    }
}

impl NodeSession {
    fn wrapped(&self, header: &KeyReply, secret: &Secret) -> Result<Secret, String> {
        let aad = serde_json::to_vec(header).map_err(|error| error.to_string())?;
        wrap(&self.node.node_key, secret, &aad).map_err(|error| {
            let name = self.node.caller.name();
            format!("cannot encrypt to {name} (keystore.nodes.{name}.node_key): {error}")
        })
    }
}

fn tls(settings: &KeystoreListenerSettings, nodes: &Nodes) -> Result<rustls::ServerConfig, Error> {
    let cannot = |error: &dyn std::fmt::Display| {
        unusable(&settings.certificate, format!("cannot be used: {error}"))
    };
    let mut roots = RootCertStore::empty();
    for node in nodes.by_name.values() {
        roots.add(node.certificate.clone()).map_err(|error| {
            let name = node.caller.name();
            cannot(&format!("the certificate of {name}: {error}"))
        })?;
    }
    if roots.is_empty() {
        return Err(Error::new(
            crate::ErrorKind::Unavailable,
            "keystore.listener is set, and there is no machine in keystore.nodes that may come",
        ));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone())
        .build()
        .map_err(|error| cannot(&error))?;
    let key = (settings.key.read())
        .map_err(|error| Error::unavailable(format!("cannot read {}", settings.key), error))?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| cannot(&error))?;
    rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| cannot(&error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&settings.certificate)?, key)
        .map_err(|error| cannot(&error))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let cannot = |error| unusable(path, format!("cannot be read: {error}"));
    let read: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
        .map_err(cannot)?
        .collect();
    match read.map_err(cannot)? {
        none if none.is_empty() => Err(unusable(path, "holds no certificate")),
        certificates => Ok(certificates),
    }
}

fn unusable(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::new(
        crate::ErrorKind::Unavailable,
        format!("the certificate {} {what}", path.display()),
    )
}
