//! Composition: settings and a keystore become a server.

use std::fs::{self, DirBuilder};
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;

use ::http::HeaderName;
use conf::{LicenseSettings, Transport};
use keystore_client::Keystore;
use origin_front::access_log::Peers;
use origin_front::{Bound, Drain, Limits, Tls, Workers};

use crate::admin::Api;
use crate::admission::Admission;
use crate::decision_log::DecisionLog;
use crate::entitlement::{Issuer, Refresher, Verifier};
use crate::exchange::vendor::Vendors;
use crate::exchange::{self, Exchange, Signals};
use crate::http::service::{LicenseService, Parts};
use crate::policy::Rules;
use crate::session::Sessions;
use crate::upstream::Upstreams;
use crate::{Error, KeyBook, SystemClock};

/// A licence server whose ports are taken: connections queue until it runs.
pub struct Server {
    service: LicenseService,
    decisions: Arc<DecisionLog>,
    api: axum::Router,
    refreshers: Vec<Refresher>,
    limits: Arc<Limits>,
    addresses: Vec<(Transport, SocketAddr)>,
    listeners: Vec<Bound>,
    worker_count: NonZeroUsize,
}

impl Server {
    /// Reads the issuers' keys, opens the decision log and takes the ports. `tls` stands in for the certificate of
    /// the settings; `signals` is what partners in key exchange are told of keys.
    ///
    /// # Errors
    /// A key, certificate or token that cannot be read or is not fit, a state folder that cannot be written, a port that
    /// cannot be had.
    pub fn open(
        settings: &LicenseSettings,
        keystore: Arc<dyn Keystore>,
        tls: Option<Tls>,
        signals: Signals,
    ) -> Result<Self, Error> {
        let issuers = settings
            .issuers
            .iter()
            .map(|issuer| Issuer::load(issuer, &settings.state_dir))
            .collect::<Result<Vec<_>, _>>()?;
        let (issuers, refreshers): (Vec<_>, Vec<_>) = issuers.into_iter().unzip();
        if issuers.is_empty() {
            tracing::warn!("no issuer is configured: every licence will be refused");
        }
        if !settings.tenant.allow_clear_key && settings.upstreams.is_empty() {
            tracing::warn!(
                tenant = settings.tenant.name,
                "the tenant does not allow ClearKey, and there is no other system: every licence will be refused"
            );
        }
        let decisions = Arc::new(open_decisions(settings)?);
        let token_header = HeaderName::try_from(settings.token_header.as_str())
            .map_err(|error| Error::internal("read the checked name of the token header", error))?;
        let clock = Arc::new(SystemClock);
        let parts = exchange::Parts {
            signals,
            keystore: Arc::clone(&keystore),
            decisions: Arc::clone(&decisions),
            clock: clock.clone(),
            tenant: settings.tenant.name.clone(),
        };
        let (exchange, vendors) = match &settings.exchange {
            Some(exchange) => {
                let vendors = Vendors::open(exchange, &settings.state_dir, parts.clone())?;
                let exchange = Exchange::open(exchange, parts)?;
                (Some(Arc::new(exchange)), Some(Arc::new(vendors)))
            }
            None => (None, None),
        };
        let client_issuers = (exchange.as_ref())
            .map(|exchange| exchange.client_issuers())
            .unwrap_or_default();
        let sessions = Sessions::open(&settings.sessions, &settings.state_dir, clock.clone())?;
        let sessions = Arc::new(sessions);
        let service = LicenseService::new(Parts {
            verifier: Verifier::new(issuers).remembering(settings.token_cache_bytes)?,
            rules: Rules::from(settings),
            keys: KeyBook::new(Arc::clone(&keystore)),
            keystore,
            decisions: Arc::clone(&decisions),
            clock,
            token_header,
            sessions: Arc::clone(&sessions),
            admission: Admission::new(settings.admission.clone()),
            token_query: settings.token_query.clone(),
            body_bytes: settings.body_bytes,
            upstreams: Upstreams::open(&settings.upstreams, &settings.certificates)?,
            exchange,
        });

        let tls = match tls {
            Some(tls) => Some(tls),
            None => certificate(settings)?,
        };
        let tls = match tls {
            Some(tls) if !client_issuers.is_empty() => {
                let asking = tls.asking_clients(client_issuers);
                Some(
                    asking
                        .map_err(|error| Error::unavailable("set up client certificates", error))?,
                )
            }
            tls => tls,
        };
        let api = Api {
            decisions: Arc::clone(&decisions),
            sessions,
            issuers: (settings.issuers.iter())
                .map(|issuer| issuer.name.clone())
                .collect(),
            vendors,
        };
        let mut addresses = Vec::new();
        let mut listeners = Vec::new();
        for listener in &settings.listeners {
            let name = match listener.transport {
                Transport::Tls { .. } => "license_tls",
                Transport::Plain => "license_plain",
            };
            let bound = Bound::open(name, listener, tls.as_ref(), settings.workers.get())
                .map_err(|error| Error::unavailable("open the licence server", error))?
                .logging(match settings.log_full_addresses {
                    true => Peers::Whole,
                    false => Peers::Block,
                });
            addresses.push((listener.transport, bound.address()));
            listeners.push(bound);
        }
        Ok(Self {
            service,
            decisions,
            api: api.guarded(settings.api_token.as_ref())?,
            refreshers: refreshers.into_iter().flatten().collect(),
            limits: Limits::new(settings.limits.clone()),
            addresses,
            listeners,
            worker_count: settings.workers,
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

    /// What operators may ask, for the admin listener: it says who its peers are ([`axum::extract::ConnectInfo`]), as without a token
    /// those of this host alone are answered.
    pub fn api(&self) -> axum::Router {
        self.api.clone()
    }

    /// Serves on workers of its own, so that segments cannot starve licences. Blocks until the drain is closing and
    /// nothing is in flight any more, or has ended.
    ///
    /// # Errors
    /// A worker could not be started; those that were end with the drain.
    pub fn run(self, drain: &Drain) -> Result<(), Error> {
        let starting = |error| Error::unavailable("start the licence workers", error);
        // Waits, and fetches the keys of issuers meanwhile: so nobody who asks for a licence has to.
        let waiting = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| {
                Error::internal(
                    "start the runtime that waits for the licence workers",
                    error,
                )
            })?;
        for refresher in self.refreshers {
            waiting.spawn(refresher.run(Arc::new(SystemClock)));
        }
        let service = self.service;
        let workers = Workers::start(
            "license",
            self.worker_count,
            self.listeners,
            || service.clone(),
            &self.limits,
            drain,
        )
        .map_err(starting)?;
        // The last clone goes with the last worker, and with it the decision log ends its file.
        drop(service);
        waiting.block_on(workers.ended());
        Ok(())
    }
}

fn open_decisions(settings: &LicenseSettings) -> Result<DecisionLog, Error> {
    let folder = &settings.state_dir;
    make_private(folder)
        .and_then(|()| DecisionLog::open(folder, settings.decisions.capacity))
        .map_err(|error| {
            Error::unavailable(
                format!("open the decision log in {}", folder.display()),
                error,
            )
        })
}

/// Makes the folder where there is none, for its owner alone, as it says who watches what; those above it are for other roles
/// as well.
fn make_private(folder: &Path) -> io::Result<()> {
    if let Some(above) = folder.parent() {
        fs::create_dir_all(above)?;
    }
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
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

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;
    use std::path::Path;
    use std::thread;
    use std::time::Duration;

    use conf::{IssuerSettings, ListenerSettings, SecretSource, TokenAlgorithm};
    use cpix::SystemId;
    use cpix::signalling::{SignalledKey, Signalling};
    use keystore_client::{
        Answer, DescribeRequest, ExportRequest, ExportedKey, KeyDescription, Lease, LeaseRequest,
        SealState,
    };
    use origin_front::Phase;
    use tokio::sync::watch;

    use super::*;
    use crate::entitlement::mint::{Claims, mint};
    use crate::entitlement::{Algorithm, AssetGrant, SigningKey};
    use crate::{Clock as _, ErrorKind};

    /// A keystore that nobody has unsealed.
    struct Sealed(watch::Sender<SealState>);

    impl Keystore for Sealed {
        fn describe(&self, _: DescribeRequest) -> Answer<'_, Vec<KeyDescription>> {
            Box::pin(async { Err(keystore_client::Error::Sealed) })
        }

        fn lease(&self, _: LeaseRequest) -> Answer<'_, Lease> {
            Box::pin(async { Err(keystore_client::Error::Sealed) })
        }

        fn export(&self, _: ExportRequest) -> Answer<'_, Vec<ExportedKey>> {
            Box::pin(async { Err(keystore_client::Error::Sealed) })
        }

        fn seal_state(&self) -> watch::Receiver<SealState> {
            self.0.subscribe()
        }
    }

    /// No system is signalled.
    struct Nothing;

    impl Signalling for Nothing {
        fn signals(&self, _: SystemId, _: &SignalledKey<'_>) -> Option<cpix::signalling::Signals> {
            None
        }
    }

    fn nothing() -> Signals {
        Arc::new(Nothing)
    }

    fn sealed() -> Arc<dyn Keystore> {
        Arc::new(Sealed(watch::Sender::new(SealState::Sealed)))
    }

    /// The built-in default on free loopback ports, with one issuer.
    fn settings(folder: &Path) -> LicenseSettings {
        let secret = folder.join("issuer.secret");
        fs::write(&secret, SECRET).unwrap();
        let listener = ListenerSettings {
            address: (std::net::Ipv4Addr::LOCALHOST, 0).into(),
            transport: Transport::Plain,
        };
        let tls = Transport::Tls {
            h3: true,
            alt_svc: false,
        };
        let default = conf::load(None).unwrap().license;
        LicenseSettings {
            tenant: conf::TenantSettings {
                allow_clear_key: true,
                ..default.tenant.clone()
            },
            state_dir: folder.join("state"),
            workers: NonZeroUsize::MIN,
            listeners: vec![
                ListenerSettings {
                    transport: tls,
                    ..listener
                },
                listener,
            ],
            tls: conf::TlsIdentity::SelfSigned {
                state_dir: folder.join("state"),
            },
            issuers: vec![IssuerSettings::of_key(
                "test",
                "ott",
                "castellum",
                TokenAlgorithm::Hs256,
                SecretSource::file(secret),
            )],
            ..default
        }
    }

    const SECRET: &[u8] = b"an HS256 secret of the tests, which has 47 bytes";

    #[test]
    fn a_state_folder_is_private_and_those_above_it_are_not() {
        use std::os::unix::fs::PermissionsExt as _;
        let above = tempfile::tempdir().unwrap();
        let (roles, state) = (
            above.path().join("roles"),
            above.path().join("roles/license"),
        );
        let beside = above.path().join("beside");
        fs::create_dir(&beside).unwrap();
        for _ in 0..2 {
            make_private(&state).unwrap();
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode(&state), 0o700);
            assert_eq!(mode(&roles), mode(&beside), "as the umask has it");
        }
    }

    #[test]
    fn settings_become_a_server_that_answers_and_drains() {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::open(&settings(folder.path()), sealed(), None, nothing()).unwrap();
        let [(Transport::Tls { .. }, tls), (Transport::Plain, plain)] = *server.addresses() else {
            panic!("two listeners were asked for, TLS first");
        };
        assert!(tls.port() != 0 && plain.port() != 0);
        let decisions = server.decisions();
        let drain = Drain::new();
        let running = {
            let drain = drain.clone();
            thread::spawn(move || server.run(&drain))
        };

        let exp = SystemClock.now().plus(Duration::from_secs(60));
        let claims = Claims {
            assets: Some(AssetGrant::All),
            ..Claims::new("ott", "castellum", exp)
        };
        let key = SigningKey::read(Algorithm::Hs256, SECRET).unwrap();
        let token = mint(&claims, None, &key).unwrap();
        let body = r#"{"kids":["nrQFDeRLSAKTLifXUIPiZg"]}"#;
        for (authorization, status) in [
            (String::new(), "401"),
            (format!("authorization: Bearer {token}\r\n"), "503"),
        ] {
            let mut stream = TcpStream::connect(plain).unwrap();
            write!(
                stream,
                "POST /license/clearkey/film HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
                 {authorization}content-length: {}\r\n\r\n{body}",
                body.len()
            )
            .unwrap();
            let mut reply = String::new();
            stream.read_to_string(&mut reply).unwrap();
            assert!(reply.starts_with(&format!("HTTP/1.1 {status} ")), "{reply}");
        }
        assert_eq!(decisions.latest(10).len(), 2);

        drain.advance(Phase::Closing);
        running.join().unwrap().unwrap();
        // The service, and with it the file, has ended.
        drop(decisions);
        let path = folder
            .path()
            .join("state")
            .join(crate::decision_log::FILE_NAME);
        let written = fs::read_to_string(path).unwrap();
        let reasons: Vec<_> = ["no_token", "sealed"]
            .into_iter()
            .filter(|reason| written.contains(reason))
            .collect();
        assert_eq!(reasons, ["no_token", "sealed"]);
        assert!(!written.contains(&token));
    }

    #[test]
    fn a_weak_secret_stops_the_start_and_is_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(folder.path());
        fs::write(folder.path().join("issuer.secret"), "hunter2").unwrap();
        let Err(error) = Server::open(&settings, sealed(), None, nothing()) else {
            panic!("seven bytes are no secret");
        };
        assert_eq!(error.kind(), ErrorKind::Malformed);
        assert!(error.to_string().contains("issuer test"), "{error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}
