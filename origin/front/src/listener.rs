//! Listeners: bound once, then served by every worker with its own sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use conf::{ListenerSettings, Transport};
use http::HeaderValue;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::access_log::Peers;
use crate::admission::Limits;
use crate::balance::{Accepted, Balance};
use crate::drain::{Drain, Phase};
use crate::error::{Error, ErrorKind};
use crate::exchange::Front;
use crate::h1h2;
use crate::h3;
use crate::handshakes::Handshakes;
use crate::quic;
use crate::service::Service;
use crate::socket::{self, Sockets};
use crate::tls::Tls;

/// A listener with its ports taken; connections queue until the workers serve.
pub struct Bound {
    address: SocketAddr,
    workers: Vec<Option<WorkerListener>>,
}

impl Bound {
    /// Takes the ports: TCP, and UDP of the same number for HTTP/3. `name` labels what comes by this listener.
    ///
    /// # Errors
    /// The address is taken, not allowed or not of this host; or the settings want TLS and there is none.
    pub fn open(
        name: &'static str,
        settings: &ListenerSettings,
        tls: Option<&Tls>,
        workers: usize,
    ) -> Result<Self, Error> {
        let (tls, h3, alt_svc) = match settings.transport {
            Transport::Plain => (None, false, false),
            Transport::Tls { h3, alt_svc } => {
                let tls = tls.ok_or_else(|| {
                    let missing = format!("opening listener {name}: TLS without a certificate");
                    Error::new(ErrorKind::NotFound, missing)
                })?;
                (Some(tls), h3, h3 && alt_svc)
            }
        };
        let (address, sockets) = socket::open(settings.address, workers, h3).map_err(|fault| {
            Error::io(format!("listening on {} ({name})", settings.address), fault)
        })?;
        let alt_svc = alt_svc.then(|| advertise(address.port())).flatten();
        let workers = sockets
            .into_iter()
            .zip(Balance::among(workers))
            .map(|(sockets, balance)| {
                Some(WorkerListener {
                    balance,
                    name,
                    peers: Peers::default(),
                    sockets,
                    tls: tls.cloned(),
                    alt_svc: alt_svc.clone(),
                })
            })
            .collect();
        Ok(Self { address, workers })
    }

    /// The same, whose logs have so much of clients' addresses.
    #[must_use]
    pub fn logging(mut self, peers: Peers) -> Self {
        for worker in self.workers.iter_mut().flatten() {
            worker.peers = peers;
        }
        self
    }

    /// The address that it listens on, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The sockets of worker `index` (from 0), once.
    pub fn take_worker(&mut self, index: usize) -> Option<WorkerListener> {
        self.workers.get_mut(index)?.take()
    }
}

/// HTTP/3 on the UDP port of the same number, for a day (RFC 7838 3, RFC 9114 3.1.1).
fn advertise(port: u16) -> Option<HeaderValue> {
    HeaderValue::from_str(&format!("h3=\":{port}\"; ma=86400")).ok()
}

/// A listener's sockets for one worker.
pub struct WorkerListener {
    name: &'static str,
    peers: Peers,
    balance: Balance,
    sockets: Sockets,
    tls: Option<Tls>,
    alt_svc: Option<HeaderValue>,
}

/// After a failed accept, such as for want of file descriptors: trying again at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl WorkerListener {
    /// Serves until the drain is closing and nothing is in flight any more, or the drain has ended. Runs on a
    /// current-thread runtime with I/O and time.
    ///
    /// # Errors
    /// The runtime takes no more sockets.
    pub async fn serve<S: Service>(
        self,
        service: S,
        limits: Arc<Limits>,
        drain: Drain,
    ) -> Result<(), Error> {
        let taking_up = |fault| {
            Error::io(
                format!("taking up the sockets of listener {}", self.name),
                fault,
            )
        };
        let front = Front {
            service,
            limits,
            drain,
            listener: self.name,
            peers: self.peers,
            alt_svc: self.alt_svc,
            handshakes: Handshakes::new(),
        };
        let tcp = TcpListener::from_std(self.sockets.tcp).map_err(taking_up)?;
        let quic = match (self.sockets.udp, &self.tls) {
            (Some(udp), Some(tls)) => {
                Some(quic::endpoint(udp, tls, front.limits.settings()).map_err(taking_up)?)
            }
            (Some(_) | None, _) => None,
        };
        let acceptor = self
            .tls
            .map(|tls| tokio_rustls::TlsAcceptor::from(tls.tcp()));
        tokio::join!(accept(tcp, acceptor, self.balance, front.clone()), async {
            if let Some(endpoint) = quic {
                h3::accept(endpoint, front).await;
            }
        });
        Ok(())
    }
}

async fn accept<S: Service>(
    listener: TcpListener,
    acceptor: Option<tokio_rustls::TlsAcceptor>,
    mut balance: Balance,
    front: Front<S>,
) {
    let mut connections = JoinSet::new();
    let serve = |connections: &mut JoinSet<()>, accepted: Accepted| {
        let (acceptor, front) = (acceptor.clone(), front.clone());
        connections.spawn(h1h2::serve(accepted, acceptor, front));
    };
    // Nothing where there are connections enough: it is closed then.
    let seated = |balance: &Balance, stream: TcpStream, peer: SocketAddr| {
        let permit = front.limits.admit_connection()?;
        let stream = stream.into_std().ok()?;
        let seat = balance.seat();
        Some(Accepted {
            stream,
            peer,
            permit,
            seat,
        })
    };
    let closing = front.drain.reached(Phase::Closing);
    tokio::pin!(closing);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut closing => break,
            Some(_) = connections.join_next() => continue,
            Some(accepted) = balance.handed_over() => {
                serve(&mut connections, accepted);
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                if let Some(accepted) = seated(&balance, stream, peer)
                    && let Some(ours) = balance.hand_over(accepted)
                {
                    serve(&mut connections, ours);
                }
            }
            Err(fault) => {
                tracing::warn!(listener = front.listener, %fault, "accepting a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    for accepted in balance.close() {
        serve(&mut connections, accepted);
    }
    // What the kernel has already accepted for us would be reset with the socket.
    while let Some(Ok((stream, peer))) = now_or_never(listener.accept()) {
        if let Some(accepted) = seated(&balance, stream, peer) {
            serve(&mut connections, accepted);
        }
    }
    drop(listener);
    finish(connections, &front.drain).await;
}

fn now_or_never<T>(future: impl Future<Output = T>) -> Option<T> {
    futures_util::FutureExt::now_or_never(future)
}

/// Waits until every connection has ended, or the drain has.
pub(crate) async fn finish(mut connections: JoinSet<()>, drain: &Drain) {
    tokio::select! {
        () = drain.reached(Phase::Ended) => {
            connections.abort_all();
            while connections.join_next().await.is_some() {}
        }
        () = async { while connections.join_next().await.is_some() {} } => {}
    }
}
