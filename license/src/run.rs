//! Composition: settings and a keystore become a server.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use ::http::HeaderName;
use conf::{LicensePolicySettings, LicenseSettings, PackScheme, Transport};
use keystore_client::Keystore;
use keystore_types::Scheme;
use origin_front::{Bound, Drain, Limits, Tls, WorkerListener};

use crate::decision_log::DecisionLog;
use crate::entitlement::{Issuer, Verifier};
use crate::http::service::{LicenseService, Parts};
use crate::policy::{PolicyRule, Rules};
use crate::{Error, SystemClock};

/// A licence server whose ports are taken: connections queue until it runs.
pub struct Server {
    service: LicenseService,
    decisions: Arc<DecisionLog>,
    limits: Arc<Limits>,
    addresses: Vec<(Transport, SocketAddr)>,
    /// The sockets of each worker.
    workers: Vec<Vec<WorkerListener>>,
}

impl Server {
    /// Reads the issuers' keys, opens the decision log and takes the ports. `tls` stands in for the certificate of
    /// the settings.
    ///
    /// # Errors
    /// A key or certificate that cannot be read or is not fit, a state folder that cannot be written, a port that
    /// cannot be had.
    pub fn open(
        settings: &LicenseSettings,
        keystore: Arc<dyn Keystore>,
        tls: Option<Tls>,
    ) -> Result<Self, Error> {
        let issuers = settings
            .issuers
            .iter()
            .map(Issuer::load)
            .collect::<Result<Vec<_>, _>>()?;
        if issuers.is_empty() {
            tracing::warn!("no issuer is configured: every licence will be refused");
        }
        let decisions = Arc::new(open_decisions(&settings.state_dir)?);
        let token_header = HeaderName::try_from(settings.token_header.as_str())
            .map_err(|error| Error::internal("read the checked name of the token header", error))?;
        let service = LicenseService::new(Parts {
            verifier: Verifier::new(issuers),
            rules: rules(settings),
            keystore,
            decisions: Arc::clone(&decisions),
            clock: Arc::new(SystemClock),
            token_header,
        });

        let tls = match tls {
            Some(tls) => Some(tls),
            None => certificate(settings)?,
        };
        let mut addresses = Vec::new();
        let mut workers: Vec<Vec<WorkerListener>> = Vec::new();
        workers.resize_with(settings.workers.get(), Vec::new);
        for listener in &settings.listeners {
            let name = match listener.transport {
                Transport::Tls { .. } => "license_tls",
                Transport::Plain => "license_plain",
            };
            let bound = Bound::open(name, listener, tls.as_ref(), workers.len())
                .map_err(|error| Error::unavailable("open the licence listener", error))?;
            addresses.push((listener.transport, bound.address()));
            for (worker, sockets) in workers.iter_mut().zip(bound.into_workers()) {
                worker.push(sockets);
            }
        }
        Ok(Self {
            service,
            decisions,
            limits: Limits::new(settings.limits.clone()),
            addresses,
            workers,
        })
    }

    /// The listeners' addresses with their real ports, in the order of the settings.
    pub fn addresses(&self) -> &[(Transport, SocketAddr)] {
        &self.addresses
    }

    /// The decisions, for the admin API.
    pub fn decisions(&self) -> Arc<DecisionLog> {
        Arc::clone(&self.decisions)
    }

    /// What is open and in flight.
    pub fn limits(&self) -> Arc<Limits> {
        Arc::clone(&self.limits)
    }

    /// Serves on threads of its own, one runtime each, so that segments cannot starve licences. Blocks until the
    /// drain is closing and nothing is in flight any more, or has ended.
    ///
    /// # Errors
    /// A worker could not begin; the others end with their drain.
    pub fn run(self, drain: &Drain) -> Result<(), Error> {
        let mut threads = Vec::with_capacity(self.workers.len());
        for (index, sockets) in self.workers.into_iter().enumerate() {
            let (service, limits, drain) = (
                self.service.clone(),
                Arc::clone(&self.limits),
                drain.clone(),
            );
            let worker = thread::Builder::new()
                .name(format!("license-{index}"))
                .spawn(move || work(sockets, service, &limits, &drain))
                .map_err(|error| Error::internal("start a licence worker", error))?;
            threads.push(worker);
        }
        let mut result = Ok(());
        for worker in threads {
            let ended = worker
                .join()
                .unwrap_or_else(|_| Err(Error::internal("run a licence worker", "it panicked")));
            result = result.and(ended);
        }
        result
    }
}

/// One worker: all its sockets on one current-thread runtime.
fn work(
    sockets: Vec<WorkerListener>,
    service: LicenseService,
    limits: &Arc<Limits>,
    drain: &Drain,
) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::internal("start the runtime of a licence worker", error))?;
    runtime.block_on(async {
        let mut serving = tokio::task::JoinSet::new();
        for listener in sockets {
            serving.spawn(listener.serve(service.clone(), Arc::clone(limits), drain.clone()));
        }
        while let Some(ended) = serving.join_next().await {
            ended
                .map_err(|error| Error::internal("serve licences", error))?
                .map_err(|error| Error::unavailable("serve licences", error))?;
        }
        Ok(())
    })
}

fn open_decisions(folder: &Path) -> Result<DecisionLog, Error> {
    std::fs::create_dir_all(folder)
        .and_then(|()| DecisionLog::open(folder))
        .map_err(|error| {
            Error::unavailable(
                format!("open the decision log in {}", folder.display()),
                error,
            )
        })
}

/// The certificate that the settings name, if a listener wants one.
fn certificate(settings: &LicenseSettings) -> Result<Option<Tls>, Error> {
    let wanted = settings
        .listeners
        .iter()
        .any(|listener| matches!(listener.transport, Transport::Tls { .. }));
    if !wanted {
        return Ok(None);
    }
    let host = settings
        .public_url
        .parse::<::http::Uri>()
        .ok()
        .and_then(|uri| {
            uri.host()
                .map(|host| host.trim_matches(['[', ']']).to_owned())
        });
    let names: Vec<String> = host.into_iter().collect();
    Tls::load(&settings.tls, &names)
        .map(Some)
        .map_err(|error| Error::unavailable("load the licence server's certificate", error))
}

fn rules(settings: &LicenseSettings) -> Rules {
    let rule = |policy: &LicensePolicySettings| PolicyRule {
        clear_key: policy.systems.contains(&conf::System::ClearKey),
        scheme: match policy.scheme {
            PackScheme::Cbcs => Some(Scheme::Cbcs),
            PackScheme::Cenc => Some(Scheme::Cenc),
            PackScheme::Clear => None,
        },
    };
    Rules {
        allow_clear_key: settings.tenant.allow_clear_key,
        policies: settings
            .policies
            .iter()
            .map(|(name, policy)| (name.clone(), rule(policy)))
            .collect(),
    }
}
