//! The roles of one process, opened one after the other: keystore, licence server, origin, then the admin listener.
//!
//! ```text
//! keystore ──handle or socket──> license ──its real address──> origin ──> admin (ready)
//! ```
//!
//! A role takes its ports when it is opened and serves on threads of its own. Everything ends by one [`Drain`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use axum::Router;
use conf::{
    CoreSettings, Drain as DrainSettings, KeystoreSettings, LicenseSettings, OriginSettings,
    SecretSource, Transport,
};
use keystore::capability::Caller;
use keystore::local::Local;
use keystore_client::Keystore;
use keystore_client::remote::{Core, Remote};
use keystore_client::socket::Socket;
use keystore_client::wrap::NodeKey;
use metrics_exporter_prometheus::PrometheusHandle;
use origin::catalog::Catalog;
use origin_front::{Drain, Tls};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

use crate::admin::Admin;
use crate::admin::health;
use crate::failure::{Exit, Failure};

/// Threads for what blocks: opening, digesting and copying files, and one guess at a passphrase. Few, so that a slow
/// disk is not asked for everything at once.
const BLOCKING_THREADS: usize = 8;

/// The runtime of the control thread: state, keys, health and metrics. Media and licences have threads of their own.
pub(crate) fn control_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start a runtime: {error}")))
}

/// The roles that were opened, and what ends them.
pub(crate) struct Roles {
    drain: Drain,
    keys: Keys,
    serving: JoinSet<Result<(), Failure>>,
    admin: Option<JoinHandle<()>>,
    api: Router,
}

/// Where the process's roles get keys from.
enum Keys {
    /// A keystore in this process: each role gets a handle of its own, and the same checks as over the socket.
    Local(Local, Box<KeystoreSettings>),
    /// The keystore's socket.
    Remote(Arc<dyn Keystore>),
}

impl Keys {
    /// The keystore as the role `name` sees it.
    fn of(&self, name: &str) -> Result<Arc<dyn Keystore>, Failure> {
        match self {
            Self::Remote(keystore) => Ok(Arc::clone(keystore)),
            Self::Local(local, settings) => {
                let caller = Caller::configured(settings, name).ok_or_else(|| {
                    let message =
                        format!("keystore.callers.{name}: the role has no rights without it");
                    Failure::new(Exit::Config, message)
                })?;
                Ok(local.handle(caller))
            }
        }
    }
}

/// An origin that serves.
pub(crate) struct OpenOrigin {
    /// Its listeners, with their real ports.
    pub(crate) addresses: Vec<(Transport, SocketAddr)>,
    /// Its assets.
    pub(crate) catalog: Arc<Catalog>,
}

impl Roles {
    /// Opens a keystore in this process, with its sockets: other processes and the verbs reach it as well.
    pub(crate) async fn with_keystore(settings: &KeystoreSettings) -> Result<Self, Failure> {
        keystore::harden_process();
        let clock = Arc::new(keystore::SystemClock);
        let local = Local::open(settings, clock)
            .await
            .map_err(Failure::failed)?;
        let sockets =
            (keystore::run::Sockets::bind(settings, &local).await).map_err(Failure::failed)?;
        let mut roles = Self::new(Keys::Local(local.clone(), Box::new(settings.clone())));
        let drain = roles.drain.clone();
        roles.serving.spawn(async move {
            // The roles of this process do not come this way: they are given keys until their last response.
            sockets
                .serve(local, async move {
                    drain.reached(origin_front::Phase::Closing).await
                })
                .await;
            Ok(())
        });
        Ok(roles)
    }

    /// Takes keys from the keystore of another machine.
    pub(crate) fn with_core(settings: &CoreSettings) -> Result<Self, Failure> {
        keystore::harden_process();
        let cannot = |source: &SecretSource, what: &dyn std::fmt::Display| {
            Failure::failed(format!("{source}: {what}"))
        };
        let read = |source: &SecretSource| source.read().map_err(|error| cannot(source, &error));
        let node_key = NodeKey::from_text(&read(&settings.node_key)?).ok_or_else(|| {
            cannot(
                &settings.node_key,
                &"is no node key, which has 64 hexadecimal digits (`castellum keystore enrol`)",
            )
        })?;
        let core = Core {
            host: settings.host.clone(),
            port: settings.port,
            ca_file: &settings.ca_file,
            certificate: &settings.certificate,
            key: &read(&settings.key)?,
            node_key,
        };
        let remote = Remote::open(core)
            .map_err(|error| Failure::failed(format!("keystore.core cannot be used: {error}")))?;
        Ok(Self::new(Keys::Remote(Arc::new(remote))))
    }

    /// Takes keys from the keystore behind this socket.
    pub(crate) fn with_keystore_at(socket: &std::path::Path) -> Self {
        // Every role holds content keys, not the keystore alone.
        keystore::harden_process();
        Self::new(Keys::Remote(Arc::new(Socket::open(socket))))
    }

    fn new(keys: Keys) -> Self {
        Self {
            drain: Drain::new(),
            keys,
            serving: JoinSet::new(),
            admin: None,
            api: Router::new(),
        }
    }

    /// Opens the licence server. `tls` stands in for the certificate of the settings.
    pub(crate) fn license(
        &mut self,
        settings: &LicenseSettings,
        tls: Option<Tls>,
    ) -> Result<Vec<(Transport, SocketAddr)>, Failure> {
        let server =
            license::Server::open(settings, self.keys.of("license")?, tls).map_err(|error| {
                Failure::failed(format!("the licence server cannot start: {error}"))
            })?;
        let addresses = server.addresses().to_vec();
        self.api = std::mem::take(&mut self.api).merge(server.api());
        self.run("license", move |drain| {
            server.run(drain).map_err(Failure::failed)
        })?;
        Ok(addresses)
    }

    /// Opens the origin. `tls` stands in for the certificate of the settings.
    pub(crate) async fn origin(
        &mut self,
        settings: &OriginSettings,
        tls: Option<Tls>,
    ) -> Result<OpenOrigin, Failure> {
        let cannot = |error: &dyn std::fmt::Display| {
            Failure::failed(format!("the origin cannot start: {error}"))
        };
        let wanted = settings
            .listeners
            .iter()
            .any(|listener| listener.transport != Transport::Plain);
        let tls = match tls {
            None if wanted => Some(Tls::load(&settings.tls, &[]).map_err(|error| cannot(&error))?),
            tls => tls,
        };
        let keystore = self.keys.of("origin")?;
        let origin = origin::run::start(settings, tls.as_ref(), keystore, &self.drain)
            .await
            .map_err(|error| cannot(&error))?;
        let opened = OpenOrigin {
            addresses: origin.listeners().to_vec(),
            catalog: origin.catalog(),
        };
        self.api = std::mem::take(&mut self.api).merge(origin.admin());
        self.serving.spawn(async move {
            origin.ended().await;
            Ok(())
        });
        Ok(opened)
    }

    /// Answers on the admin listener, when every role is open: its answers mean that they are. `api` is what the
    /// verb adds.
    pub(crate) fn admin(&mut self, admin: Admin, metrics: PrometheusHandle, api: Router) {
        let seal = match &self.keys {
            Keys::Local(local, _) => local.seal_state(),
            Keys::Remote(keystore) => keystore.seal_state(),
        };
        let readiness = health::readiness(self.drain.clone(), seal);
        let api = std::mem::take(&mut self.api).merge(api);
        self.admin = Some(tokio::spawn(admin.serve(readiness, metrics, api)));
    }

    /// Runs a role's blocking `run` on a thread of its own.
    fn run(
        &mut self,
        name: &str,
        run: impl FnOnce(&Drain) -> Result<(), Failure> + Send + 'static,
    ) -> Result<(), Failure> {
        let (ended, end) = oneshot::channel();
        let drain = self.drain.clone();
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let _ = ended.send(run(&drain));
            })
            .map_err(|error| Failure::failed(format!("cannot start a thread: {error}")))?;
        let panicked = format!("the {name} role panicked");
        self.serving
            .spawn(async move { end.await.unwrap_or_else(|_| Err(Failure::failed(panicked))) });
        Ok(())
    }

    /// Serves until `shutdown`, then lets go of clients in order. Ends early, and as a failure, when a role ends by
    /// itself: half an appliance is better restarted.
    pub(crate) async fn until(
        mut self,
        shutdown: impl Future<Output = ()>,
        settings: DrainSettings,
    ) -> Result<(), Failure> {
        let by_itself = tokio::select! {
            () = shutdown => None,
            Some(ended) = self.serving.join_next() => Some(ended),
        };
        let drain = self.drain.clone();
        let timing = tokio::spawn(async move { drain.run(settings.delay, settings.timeout).await });
        let mut outcome = match by_itself {
            None => Ok(()),
            Some(ended) => {
                self.drain.advance(origin_front::Phase::Closing);
                ended
                    .map_err(Failure::failed)?
                    .and(Err(Failure::failed("a role ended by itself")))
            }
        };
        while let Some(ended) = self.serving.join_next().await {
            outcome = outcome.and(ended.map_err(Failure::failed)?);
        }
        timing.abort();
        if let Some(admin) = self.admin {
            admin.abort();
        }
        outcome
    }
}
