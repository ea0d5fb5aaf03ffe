//! HTTP/3 by quinn and h3. Each connection has a UDP socket of its own, as each viewer's has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use h3::client::{RequestStream, SendRequest};
use h3::error::{Code, StreamError};
use h3_quinn::{BidiStream, OpenStreams};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{TransportConfig, VarInt};
use rustls::ClientConfig;

use super::{BodySink, FetchError, Peer, require_ok};

/// How many bytes a server may send unasked (RFC 9000 4).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Windows {
    /// On one stream.
    pub(crate) stream: u32,
    /// On the whole connection.
    pub(crate) connection: u32,
}

impl Windows {
    /// As browsers have them.
    pub(crate) const PLAYER: Self = Self {
        stream: 6 << 20,
        connection: 15 << 20,
    };
}

/// One HTTP/3 connection.
#[derive(Clone)]
pub(crate) struct Connection {
    quic: quinn::Connection,
    sender: SendRequest<OpenStreams, Bytes>,
    /// Kept: the socket closes with its endpoint.
    _endpoint: quinn::Endpoint,
}

impl Connection {
    pub(crate) async fn connect(
        peer: &Peer,
        tls: &Arc<ClientConfig>,
        windows: Windows,
    ) -> Result<Self, FetchError> {
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
        let mut transport = TransportConfig::default();
        transport.stream_receive_window(VarInt::from_u32(windows.stream));
        transport.receive_window(VarInt::from_u32(windows.connection));
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::new(transport));
        endpoint.set_default_client_config(config);
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

    /// What opens its streams.
    pub(crate) fn sender(&self) -> SendRequest<OpenStreams, Bytes> {
        self.sender.clone()
    }

    pub(crate) fn is_open(&self) -> bool {
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
        match upload(&mut stream, payload).await {
            // RFC 9114 4.1: the server needs no more of the request; its answer stands.
            Err(StreamError::RemoteTerminate { code, .. }) if code == Code::H3_NO_ERROR => {}
            sent => sent.map_err(FetchError::broken)?,
        }
        let response = stream.recv_response().await.map_err(FetchError::broken)?;
        require_ok(&response)?;
        while let Some(chunk) = stream.recv_data().await.map_err(FetchError::broken)? {
            body.push(chunk)?;
        }
        body.check(response.headers())?;
        Ok(body)
    }
}

/// Sends the body and ends the request.
async fn upload(
    stream: &mut RequestStream<BidiStream<Bytes>, Bytes>,
    payload: Bytes,
) -> Result<(), StreamError> {
    if !payload.is_empty() {
        stream.send_data(payload).await?;
    }
    stream.finish().await
}

#[cfg(test)]
mod tests {
    use quinn::ServerConfig;
    use quinn::crypto::rustls::QuicServerConfig;
    use rustls::RootCertStore;
    use rustls_pki_types::PrivateKeyDer;
    use url::Url;

    use super::*;

    /// What a client makes of a server that stops its request with this code and answers.
    async fn answer_after_stop(code: Code) -> Result<BodySink, FetchError> {
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate = certified.cert.der().clone();
        let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        server.alpn_protocols = vec![b"h3".to_vec()];
        let server = QuicServerConfig::try_from(server).unwrap();
        let mut server = ServerConfig::with_crypto(Arc::new(server));
        // The request does not fit, so that the client is still sending when it is stopped.
        let mut transport = TransportConfig::default();
        transport.stream_receive_window(VarInt::from_u32(2048));
        server.transport_config(Arc::new(transport));
        let endpoint = quinn::Endpoint::server(server, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let port = endpoint.local_addr().unwrap().port();
        tokio::spawn(async move {
            let quic = endpoint.accept().await.unwrap().await.unwrap();
            let quic = h3_quinn::Connection::new(quic);
            let mut connection = h3::server::Connection::<_, Bytes>::new(quic).await.unwrap();
            while let Ok(Some(request)) = connection.accept().await {
                let (_, mut stream) = request.resolve_request().await.unwrap();
                stream.stop_sending(code);
                stream.send_response(http::Response::new(())).await.unwrap();
                stream.send_data("enough".into()).await.unwrap();
                stream.finish().await.unwrap();
            }
        });

        let mut roots = RootCertStore::empty();
        roots.add(certificate).unwrap();
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.alpn_protocols = vec![b"h3".to_vec()];
        let url = Url::parse(&format!("https://localhost:{port}/")).unwrap();
        let peer = Peer::of(&url).unwrap();
        let connection = Connection::connect(&peer, &Arc::new(client), Windows::PLAYER).await?;
        let head = http::Request::post(url.as_str()).body(()).unwrap();
        let body = BodySink {
            keep: true,
            kept: Vec::new(),
            len: 0,
        };
        connection.send(head, vec![0; 1 << 20].into(), body).await
    }

    #[tokio::test]
    async fn an_answer_stands_although_the_request_was_not_needed() {
        let body = answer_after_stop(Code::H3_NO_ERROR).await.unwrap();
        assert_eq!(body.kept, b"enough");
    }

    #[tokio::test]
    async fn a_request_that_is_stopped_for_a_fault_has_failed() {
        let refused = answer_after_stop(Code::H3_INTERNAL_ERROR).await;
        assert!(matches!(refused, Err(FetchError::Broken(_))));
    }
}
