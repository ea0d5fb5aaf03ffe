//! HTTP/1.1 and HTTP/2 over TCP, with and without TLS, by hyper.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::balance::Accepted;
use crate::body::RequestBody;
use crate::client_certificate::ClientCertificate;
use crate::drain::{Drain, Phase};
use crate::exchange::{Activity, Front, Patience, Tracked};
use crate::gather::{Gathered, PIECE};
use crate::io::{Guarded, begins_as_h2};
use crate::service::{ConnectionInfo, Protocol, Service};

/// Serves one accepted connection to its end.
pub(crate) async fn serve<S: Service>(
    accepted: Accepted,
    acceptor: Option<TlsAcceptor>,
    front: Front<S>,
) {
    let Accepted {
        stream,
        peer,
        permit: _permit,
        seat: _seat,
    } = accepted;
    let stream = match TcpStream::from_std(stream) {
        Ok(stream) => stream,
        Err(fault) => {
            tracing::warn!(listener = front.listener, %fault, "taking up a connection");
            return;
        }
    };
    // Bodies are written in large pieces; what is small is the end of something and must not wait.
    let _ = stream.set_nodelay(true);
    // Without it each slow client would hold megabytes in the kernel; a kernel that knows no such limit does so.
    let _ = SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT);
    let opening = front.limits.settings().header_timeout;
    let Some(acceptor) = acceptor else {
        let mut stream = stream;
        let begin = tokio::time::timeout(opening, begins_as_h2(&mut stream)).await;
        if let Ok(Ok(Some((is_h2, replay)))) = begin {
            let protocol = if is_h2 { Protocol::H2 } else { Protocol::H1 };
            speak(
                stream,
                replay,
                front.connection(peer, protocol, false),
                None,
                Duration::ZERO,
                front,
            )
            .await;
        }
        return;
    };
    let handshake = async {
        // Who has said nothing has no turn yet.
        stream.readable().await?;
        let (waited, accepted) = (front.handshakes)
            .turn_of(pin!(acceptor.accept(stream)))
            .await;
        std::io::Result::Ok((waited, accepted?))
    };
    let (waited, mut stream) = match tokio::time::timeout(opening, handshake).await {
        Ok(Ok(accepted)) => accepted,
        Ok(Err(fault)) => {
            let peer = front.peers.show(peer.ip());
            tracing::debug!(listener = front.listener, %peer, %fault, "TLS handshake");
            return;
        }
        Err(_) => return,
    };
    stream.get_mut().1.set_buffer_limit(Some(PIECE));
    let certificate = ClientCertificate::of(stream.get_ref().1);
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        let connection = front.connection(peer, Protocol::H2, true);
        speak(stream, Bytes::new(), connection, certificate, waited, front).await;
        return;
    }
    // The first byte has a deadline here too; what was not negotiated is not spoken (RFC 9113 3.2).
    let begin = tokio::time::timeout(opening, begins_as_h2(&mut stream)).await;
    if let Ok(Ok(Some((false, replay)))) = begin {
        let connection = front.connection(peer, Protocol::H1, true);
        speak(stream, replay, connection, certificate, waited, front).await;
    }
}

async fn speak<S: Service>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    replay: Bytes,
    connection: ConnectionInfo,
    certificate: Option<ClientCertificate>,
    waited: Duration,
    front: Front<S>,
) {
    let _open = front.open(connection.protocol);
    let front = Arc::new(front);
    let limits = Arc::clone(&front.limits);
    let peers = front.peers;
    let settings = limits.settings();
    let drain = front.drain.clone();
    let activity = Activity::new(waited);
    let service = {
        let activity = activity.clone();
        hyper::service::service_fn(move |request: http::Request<Incoming>| {
            let (front, activity) = (Arc::clone(&front), activity.clone());
            let certificate = certificate.clone();
            async move {
                let mut request =
                    request.map(|body| RequestBody::incoming(body.map_err(Into::into)));
                if let Some(certificate) = certificate {
                    request.extensions_mut().insert(certificate);
                }
                let response = front.answer(request, connection, &activity).await;
                Ok::<http::Response<Tracked>, Infallible>(response)
            }
        })
    };
    let stall = limits.stall_timeout();
    let patience = || activity.patience(&limits);
    let ended = match connection.protocol {
        Protocol::H1 => {
            let stream = Guarded::new(stream, replay, stall)
                .with_head_guard(settings.header_bytes, settings.header_timeout);
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                // Heads have the guard's deadline from their first byte on; this one runs between requests.
                .header_read_timeout(settings.idle_timeout)
                .max_header_size(settings.header_bytes)
                // Bounds what is read before a head ends, and what is gathered for one write.
                .max_buf_size((4 * settings.header_bytes).max(PIECE))
                .serve_connection(TokioIo::new(stream), service);
            watch(connection, patience, &drain).await
        }
        // HTTP/3 never comes here, by TCP.
        Protocol::H2 | Protocol::H3 => {
            let stream = Guarded::new(Gathered::new(stream), replay, stall);
            let connection = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_concurrent_streams(settings.streams)
                .max_header_list_size(u32::try_from(settings.header_bytes).unwrap_or(u32::MAX))
                .initial_stream_window_size(RECEIVE_WINDOW)
                .initial_connection_window_size(4 * RECEIVE_WINDOW)
                .max_pending_accept_reset_streams(MAX_PENDING_ACCEPT_RESETS)
                .max_local_error_reset_streams(MAX_LOCAL_ERROR_RESETS)
                .keep_alive_interval(PING_INTERVAL)
                .keep_alive_timeout(PING_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            watch(connection, patience, &drain).await
        }
    };
    if let Err(fault) = ended {
        let peer = peers.show(connection.peer.ip());
        tracing::debug!(%peer, protocol = %connection.protocol, %fault, "connection");
    }
}

/// Bytes that a socket takes which are not yet on their way. What is in flight is not counted, so that it bounds no
/// throughput; and what has just been written is still in the processor's cache when it is sent.
const UNSENT: u32 = 256 * 1024;

/// Requests bring licence challenges at most: what a client may send before it is read, in bytes.
const RECEIVE_WINDOW: u32 = 64 * 1024;

/// Streams reset by the client before we had seen them, after which the connection ends (CVE-2023-44487).
const MAX_PENDING_ACCEPT_RESETS: usize = 20;

/// Streams that we had to reset, after which the connection ends (CVE-2024-2758 and its like).
const MAX_LOCAL_ERROR_RESETS: usize = 1024;

/// Finds dead peers on connections that lie idle behind a NAT.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// A hyper connection of either version.
trait Graceful: Future<Output = hyper::Result<()>> {
    /// Finishes what is in flight and takes nothing more.
    fn finish(self: Pin<&mut Self>);
}

type Io<S> = TokioIo<Guarded<S>>;

impl<S, V> Graceful for http1::Connection<Io<S>, V>
where
    S: AsyncRead + AsyncWrite + Unpin,
    V: hyper::service::HttpService<Incoming, ResBody = Tracked, Error = Infallible>,
{
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<S, V> Graceful for http2::Connection<Io<S>, V, TokioExecutor>
where
    S: AsyncRead + AsyncWrite + Unpin,
    V: hyper::service::HttpService<Incoming, ResBody = Tracked, Error = Infallible>,
    V::Future: Send + 'static,
{
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Runs a connection until it ends, is drained, lies idle or stalls. A stalled one is dropped as it stands.
async fn watch(
    connection: impl Graceful,
    patience: impl Fn() -> Patience,
    drain: &Drain,
) -> hyper::Result<()> {
    let mut connection = pin!(connection);
    let mut closing = pin!(drain.reached(Phase::Closing));
    let mut is_finishing = false;
    loop {
        let look_again = match patience() {
            Patience::Left(left) => left,
            Patience::Stalled => return Ok(()),
            Patience::Idle if is_finishing => return Ok(()),
            Patience::Idle => {
                is_finishing = true;
                connection.as_mut().finish();
                PING_TIMEOUT
            }
        };
        tokio::select! {
            ended = &mut connection => return ended,
            () = &mut closing, if !is_finishing => {
                is_finishing = true;
                connection.as_mut().finish();
            }
            () = tokio::time::sleep(look_again) => {}
        }
    }
}
