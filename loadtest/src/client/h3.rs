//! HTTP/3 by quinn and h3. Each connection has a UDP socket of its own, as each viewer's has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use h3::client::SendRequest;
use h3_quinn::OpenStreams;
use quinn::crypto::rustls::QuicClientConfig;
use rustls::ClientConfig;

use super::{BodySink, FetchError, Peer, require_ok};

/// One HTTP/3 connection.
#[derive(Clone)]
pub(super) struct Connection {
    quic: quinn::Connection,
    sender: SendRequest<OpenStreams, Bytes>,
    /// Kept: the socket closes with its endpoint.
    _endpoint: quinn::Endpoint,
}

impl Connection {
    pub(super) async fn connect(peer: &Peer, tls: &Arc<ClientConfig>) -> Result<Self, FetchError> {
        let mut addresses = tokio::net::lookup_host((peer.name(), peer.port))
            .await
            .map_err(FetchError::Connect)?;
        let address = addresses
            .next()
            .ok_or_else(|| FetchError::connect("no address"))?;
        let any: IpAddr = match address {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let mut endpoint =
            quinn::Endpoint::client(SocketAddr::new(any, 0)).map_err(FetchError::Connect)?;
        let crypto = QuicClientConfig::try_from(Arc::clone(tls)).map_err(FetchError::connect)?;
        endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
        let connecting = endpoint
            .connect(address, &peer.name())
            .map_err(FetchError::connect)?;
        let quic = connecting.await.map_err(FetchError::connect)?;
        let (mut driver, sender) = h3::client::new(h3_quinn::Connection::new(quic.clone()))
            .await
            .map_err(FetchError::broken)?;
        tokio::spawn(async move { driver.wait_idle().await });
        Ok(Self {
            quic,
            sender,
            _endpoint: endpoint,
        })
    }

    pub(super) fn is_open(&self) -> bool {
        self.quic.close_reason().is_none()
    }

    pub(super) async fn send(
        mut self,
        head: http::Request<()>,
        payload: Bytes,
        mut body: BodySink,
    ) -> Result<BodySink, FetchError> {
        let mut stream = self
            .sender
            .send_request(head)
            .await
            .map_err(FetchError::broken)?;
        if !payload.is_empty() {
            stream
                .send_data(payload)
                .await
                .map_err(FetchError::broken)?;
        }
        stream.finish().await.map_err(FetchError::broken)?;
        let response = stream.recv_response().await.map_err(FetchError::broken)?;
        require_ok(response.status())?;
        while let Some(chunk) = stream.recv_data().await.map_err(FetchError::broken)? {
            body.push(chunk)?;
        }
        body.check(response.headers())?;
        Ok(body)
    }
}
