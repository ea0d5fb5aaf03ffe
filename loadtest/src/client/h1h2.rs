//! HTTP/1.1 and HTTP/2 by hyper, over TCP with or without TLS.

use std::io::ErrorKind;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{BodySink, FetchError, Peer, require_ok};

/// HTTP/2 flow control as browsers have it: megabytes, not the 64 KiB of RFC 9113.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

type Payload = Full<Bytes>;

trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

async fn transport(
    peer: &Peer,
    tls: &Arc<ClientConfig>,
) -> Result<TokioIo<Box<dyn Transport>>, FetchError> {
    let tcp = TcpStream::connect((peer.name(), peer.port))
        .await
        .map_err(FetchError::Connect)?;
    tcp.set_nodelay(true).map_err(FetchError::Connect)?;
    if !peer.tls {
        return Ok(TokioIo::new(Box::new(tcp)));
    }
    let name = ServerName::try_from(peer.name()).map_err(FetchError::connect)?;
    let connector = TlsConnector::from(Arc::clone(tls));
    let shaken = connector.connect(name, tcp).await;
    let stream = shaken.map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
            FetchError::TurnedAway
        }
        _ => FetchError::Connect(error),
    })?;
    // A server without ALPN would be spoken to in the wrong protocol and only time out.
    if stream.get_ref().1.alpn_protocol() != tls.alpn_protocols.first().map(Vec::as_slice) {
        return Err(FetchError::connect(
            "the server did not agree to the protocol (ALPN)",
        ));
    }
    Ok(TokioIo::new(Box::new(stream)))
}

/// HTTP/1.1 connections to one listener; those that are busy are not in it.
#[derive(Clone)]
pub(super) struct Pool {
    peer: Peer,
    idle: Arc<Mutex<Vec<http1::SendRequest<Payload>>>>,
}

impl Pool {
    pub(super) fn new(peer: Peer) -> Self {
        Self {
            peer,
            idle: Arc::default(),
        }
    }

    /// A connection that waits for work.
    pub(super) fn idle(&self) -> Option<http1::SendRequest<Payload>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|sender| !sender.is_closed());
        idle.pop()
    }

    pub(super) async fn connect(
        &self,
        tls: &Arc<ClientConfig>,
    ) -> Result<http1::SendRequest<Payload>, FetchError> {
        let io = transport(&self.peer, tls).await?;
        let (sender, connection) = http1::handshake(io).await.map_err(FetchError::broken)?;
        tokio::spawn(connection);
        Ok(sender)
    }

    pub(super) async fn send(
        &self,
        mut sender: http1::SendRequest<Payload>,
        head: http::Request<()>,
        payload: Bytes,
        body: BodySink,
    ) -> Result<BodySink, FetchError> {
        sender.ready().await.map_err(FetchError::broken)?;
        let request = head.map(|()| Full::new(payload));
        let response = sender
            .send_request(request)
            .await
            .map_err(FetchError::broken)?;
        let body = receive(response, body).await?;
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(sender);
        Ok(body)
    }
}

/// One HTTP/2 connection.
#[derive(Clone)]
pub(super) struct Stream(http2::SendRequest<Payload>);

impl Stream {
    pub(super) async fn connect(peer: &Peer, tls: &Arc<ClientConfig>) -> Result<Self, FetchError> {
        let io = transport(peer, tls).await?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(io)
            .await
            .map_err(FetchError::broken)?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    pub(super) fn is_open(&self) -> bool {
        !self.0.is_closed()
    }

    pub(super) async fn send(
        mut self,
        head: http::Request<()>,
        payload: Bytes,
        body: BodySink,
    ) -> Result<BodySink, FetchError> {
        self.0.ready().await.map_err(FetchError::broken)?;
        let request = head.map(|()| Full::new(payload));
        let response = self
            .0
            .send_request(request)
            .await
            .map_err(FetchError::broken)?;
        receive(response, body).await
    }
}

async fn receive(
    response: http::Response<Incoming>,
    mut body: BodySink,
) -> Result<BodySink, FetchError> {
    require_ok(&response)?;
    let (head, mut incoming) = response.into_parts();
    while let Some(frame) = incoming.frame().await {
        if let Ok(data) = frame.map_err(FetchError::broken)?.into_data() {
            body.push(data)?;
        }
    }
    body.check(&head.headers)?;
    Ok(body)
}
