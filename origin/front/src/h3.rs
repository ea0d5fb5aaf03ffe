//! HTTP/3: requests of a connection, each on a task of its own, answered in pieces.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use http_body::Body as _;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::admission::Permit;
use crate::drain::Phase;
use crate::exchange::{Activity, Front, Patience, Tracked};
use crate::listener;
use crate::priority::{Precedence, Priority};
use crate::quic::{Broken, Connection, Http3, Reply, Stream};
use crate::service::{ConnectionInfo, Protocol, Service};

/// Half-open connections of one worker above which clients must first prove their address (RFC 9000 8.1.2).
const MAX_UNPROVEN: usize = 1000;

/// How long a drained connection stays for what it has sent to arrive: its close would discard what has not.
const LINGER: Duration = Duration::from_secs(3);

/// What is handed to QUIC at once: streams of a connection take turns, so small pieces halve the slowest times.
const PIECE: usize = 64 * 1024;

/// Accepts connections until the drain is closing, and serves them to their end.
pub(crate) async fn accept<S: Service>(endpoint: quinn::Endpoint, front: Front<S>) {
    let mut connections = JoinSet::new();
    let unproven = Arc::new(AtomicUsize::new(0));
    let mut closing = pin!(front.drain.reached(Phase::Closing));
    loop {
        let incoming = tokio::select! {
            biased;
            () = &mut closing => break,
            Some(_) = connections.join_next() => continue,
            incoming = endpoint.accept() => incoming,
        };
        let Some(incoming) = incoming else { break };
        if unproven.load(Ordering::Relaxed) >= MAX_UNPROVEN && incoming.may_retry() {
            // An error means that it may not be retried, which was just asked.
            let _ = incoming.retry();
            continue;
        }
        match front.limits.admit_connection() {
            Some(permit) => {
                let opening = Opening::new(&unproven);
                connections.spawn(serve(incoming, front.clone(), permit, opening));
            }
            None => incoming.refuse(),
        }
    }
    endpoint.set_server_config(None);
    listener::finish(connections, &front.drain).await;
    endpoint.close(quinn::VarInt::from_u32(H3_NO_ERROR), b"");
    // The close frames go out; a peer that is gone is not waited for.
    let _ = tokio::time::timeout(LINGER, endpoint.wait_idle()).await;
}

/// RFC 9114 8.1.
const H3_NO_ERROR: u32 = 0x100;

/// A connection whose client has not proved its address yet.
struct Opening(Arc<AtomicUsize>);

impl Opening {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn serve<S: Service>(
    incoming: quinn::Incoming,
    front: Front<S>,
    _permit: Permit,
    opening: Opening,
) {
    let settings = front.limits.settings().clone();
    let peer = incoming.remote_address();
    let open = async {
        let (waited, accepted) = front.handshakes.turn(|| incoming.accept()).await;
        let connecting = accepted.map_err(|fault| Broken(fault.into()))?;
        let quic = connecting.await.map_err(|fault| Broken(fault.into()))?;
        Ok::<_, Broken>((waited, Http3::open(quic, settings.header_bytes).await?))
    };
    let (waited, http3) = match tokio::time::timeout(settings.header_timeout, open).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(fault)) => {
            let peer = front.peers.show(peer.ip());
            tracing::debug!(listener = front.listener, %peer, %fault, "QUIC handshake");
            return;
        }
        Err(_) => return,
    };
    drop(opening);
    let _open = front.open(Protocol::H3);
    let connection = front.connection(peer, Protocol::H3, true);
    converse(http3, Arc::new(front), connection, waited).await;
}

/// Serves the requests of one connection until it ends, is drained, lies idle or stalls.
async fn converse<C: Connection, S: Service>(
    mut http3: C,
    front: Arc<Front<S>>,
    connection: ConnectionInfo,
    waited: Duration,
) {
    let activity = Activity::new(waited);
    let mut requests = JoinSet::new();
    let mut closing = pin!(front.drain.reached(Phase::Closing));
    let mut is_leaving = false;
    let mut last_answer = None;
    loop {
        let mut look_again = match activity.patience(&front.limits) {
            Patience::Left(left) => left,
            Patience::Stalled => return,
            Patience::Idle if is_leaving => return,
            Patience::Idle => {
                is_leaving = true;
                http3.go_away().await;
                LINGER
            }
        };
        if is_leaving && requests.is_empty() {
            let lingered = last_answer.map_or(LINGER, |at: Instant| at.elapsed());
            match LINGER.checked_sub(lingered) {
                Some(left) if !left.is_zero() => look_again = look_again.min(left),
                Some(_) | None => return,
            }
        }
        tokio::select! {
            stream = http3.next() => match stream {
                Some(stream) => {
                    let (front, activity) = (Arc::clone(&front), activity.clone());
                    requests.spawn(async move {
                        if let Err(fault) = exchange(stream, &front, connection, &activity).await {
                            let peer = front.peers.show(connection.peer.ip());
                            tracing::debug!(%peer, %fault, "HTTP/3 stream");
                        }
                    });
                }
                None => return,
            },
            Some(_) = requests.join_next() => last_answer = Some(Instant::now()),
            () = &mut closing, if !is_leaving => {
                is_leaving = true;
                http3.go_away().await;
            }
            () = tokio::time::sleep(look_again) => {}
        }
    }
}

/// Answers one request. Any early return after the head resets the stream. How long a client may take for the answer is
/// watched for the connection as a whole: a reply may have to wait long for those that go before it.
async fn exchange<T: Stream, S: Service>(
    stream: T,
    front: &Front<S>,
    connection: ConnectionInfo,
    activity: &Activity,
) -> Result<(), Broken> {
    let head_timeout = front.limits.settings().header_timeout;
    let (request, mut reply) = tokio::time::timeout(head_timeout, stream.head())
        .await
        .unwrap_or_else(|_| Err(Broken("the head takes too long".into())))?;
    let asked = Priority::asked(request.headers());
    let response = front.answer(request, connection, activity).await;

    let own = response.extensions().get().copied().unwrap_or_default();
    reply.rank(Precedence::of(asked, own));
    let (mut head, body) = response.into_parts();
    tidy(&mut head.headers);
    let len = body.size_hint().lower();
    reply
        .head(http::Response::from_parts(head, ()), len)
        .await?;
    let mut body = pin!(body);
    while let Some(mut piece) = next_piece(body.as_mut()).await? {
        while !piece.is_empty() {
            reply.data(piece.split_to(piece.len().min(PIECE))).await?;
        }
    }
    reply.finish().await
}

async fn next_piece(mut body: Pin<&mut Tracked>) -> Result<Option<Bytes>, Broken> {
    loop {
        let frame = std::future::poll_fn(|context| body.as_mut().poll_frame(context)).await;
        match frame {
            None => return Ok(None),
            Some(Err(cut)) => return Err(Broken(cut.into())),
            Some(Ok(frame)) => {
                if let Ok(piece) = frame.into_data() {
                    return Ok(Some(piece));
                }
            }
        }
    }
}

/// What hyper does for the other protocols: fields of the connection go (RFC 9114 4.2), the date comes (RFC 9110
/// 6.6.1).
fn tidy(headers: &mut HeaderMap) {
    const OF_THE_CONNECTION: [HeaderName; 5] = [
        header::CONNECTION,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    for name in &OF_THE_CONNECTION {
        headers.remove(name);
    }
    if !headers.contains_key(header::DATE)
        && let Ok(date) = HeaderValue::from_str(&httpdate::fmt_http_date(SystemTime::now()))
    {
        headers.insert(header::DATE, date);
    }
}
