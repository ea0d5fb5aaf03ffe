//! A service with every kind of answer, served on its own threads, and clients of every protocol that share no code
//! with the server's side.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "a module of every test file, each of which uses its part"
)]

use std::net::SocketAddr;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use conf::{ListenerSettings, RequestLimits, Transport};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use origin_front::tls::DevCa;
use origin_front::{
    Body, Bound, Chunks, ConnectionInfo, Cut, Drain, ETag, Entity, Limits, Phase, Problem, Request,
    Response, RouteName, Service, Tls, Urgency, cors, entity,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;

pub const LIMITS: RequestLimits = RequestLimits {
    header_bytes: 16 * 1024,
    header_timeout: Duration::from_secs(5),
    idle_timeout: Duration::from_secs(75),
    connections: 1000,
    in_flight: 1000,
    streams: 128,
};

/// The longest body that `/echo` takes.
const ECHOED: usize = 1024;

/// What no test should ever wait for.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub const BIG: u64 = 3_000_001;

/// The most that a frame of HTTP/3 can hold.
const ENDLESS: u64 = (1 << 62) - 1;

/// The byte at each position of every long body here.
pub fn pattern(range: Range<u64>) -> Bytes {
    range.map(|at| u8::try_from(at % 251).unwrap()).collect()
}

/// Answers by path.
#[derive(Clone, Default)]
pub struct Trial {
    /// Lets `/wait` answer.
    pub go: Arc<Notify>,
    /// Told when `/wait` has been asked.
    pub asked: Arc<Notify>,
}

impl Service for Trial {
    async fn call(&self, request: Request) -> Response {
        let path = request.uri().path().to_owned();
        let mut response = match path.as_str() {
            "/hello" => Response::new(Body::full("hello")),
            "/big" => {
                let (parts, _) = request.into_parts();
                entity::serve(&parts, &Big)
            }
            "/soon" => {
                let (parts, _) = request.into_parts();
                let mut response = entity::serve(&parts, &Big);
                response.extensions_mut().insert(Urgency::of(0));
                response
            }
            "/cut" => Response::new(Body::chunks(BIG, Pieces::cut_at(1_000_000))),
            "/cut-at-once" => Response::new(Body::chunks(BIG, Pieces::cut_at(0))),
            "/short" => Response::new(Body::chunks(BIG, Pieces::new(0..BIG - 1))),
            "/long" => Response::new(Body::chunks(BIG, Pieces::new(0..BIG + 1))),
            "/endless" => Response::new(Body::chunks(ENDLESS, Pieces::new(0..ENDLESS))),
            "/empty" => Response::new(Body::empty()),
            "/wait" => {
                self.asked.notify_one();
                self.go.notified().await;
                Response::new(Body::full("waited"))
            }
            "/info" => {
                let info = request.extensions().get::<ConnectionInfo>().unwrap();
                let text = format!("{} {} {}", info.protocol, info.tls, info.peer.ip());
                Response::new(Body::full(text))
            }
            "/echo" => match request.into_body().read(ECHOED).await {
                Ok(bytes) => Response::new(Body::full(bytes)),
                Err(fault) => Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body", "No")
                    .detail(fault.to_string())
                    .into_response(),
            },
            _ => Problem::new(StatusCode::NOT_FOUND, "not-found", "No such thing").into_response(),
        };
        cors::allow(response.headers_mut());
        response.extensions_mut().insert(RouteName("trial"));
        response
    }
}

struct Big;

impl Entity for Big {
    fn etag(&self) -> ETag {
        ETag::strong("big").unwrap()
    }
    fn len(&self) -> u64 {
        BIG
    }
    fn content_type(&self) -> HeaderValue {
        HeaderValue::from_static("application/octet-stream")
    }
    fn add_headers(&self, headers: &mut HeaderMap) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("immutable"));
    }
    fn body(&self, range: Range<u64>) -> Body {
        Body::chunks(range.end - range.start, Pieces::new(range))
    }
}

/// The pattern in pieces of about 100 KiB.
struct Pieces {
    left: Range<u64>,
    cut: bool,
}

impl Pieces {
    fn new(left: Range<u64>) -> Self {
        Self { left, cut: false }
    }
    fn cut_at(at: u64) -> Self {
        Self {
            left: 0..at,
            cut: true,
        }
    }
}

impl Chunks for Pieces {
    fn poll_chunk(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Cut>>> {
        if self.left.is_empty() {
            return Poll::Ready(self.cut.then(|| Err(Cut::because("the trial said so"))));
        }
        let next = self.left.start..self.left.end.min(self.left.start + 100_003);
        self.left.start = next.end;
        Poll::Ready(Some(Ok(pattern(next))))
    }
}

/// A server on loopback; cut when dropped.
pub struct Server {
    pub address: SocketAddr,
    pub trial: Trial,
    pub drain: Drain,
    pub limits: Arc<Limits>,
    pub ca: DevCa,
    workers: Vec<JoinHandle<()>>,
}

pub const TLS: Transport = Transport::Tls {
    h3: true,
    alt_svc: true,
};

impl Server {
    pub fn start(transport: Transport) -> Self {
        Self::start_with(transport, Limits::new(LIMITS))
    }

    pub fn start_with(transport: Transport, limits: Arc<Limits>) -> Self {
        let settings = ListenerSettings {
            address: "127.0.0.1:0".parse().unwrap(),
            transport,
        };
        let ca = DevCa::new().unwrap();
        let tls = ca.issue().unwrap();
        Self::start_tls(&settings, &tls, ca, limits)
    }

    pub fn start_tls(
        settings: &ListenerSettings,
        tls: &Tls,
        ca: DevCa,
        limits: Arc<Limits>,
    ) -> Self {
        let mut bound = Bound::open("trial", settings, Some(tls), 2).unwrap();
        let (trial, drain) = (Trial::default(), Drain::new());
        let workers = (0..2).map(|index| {
            let worker = bound.take_worker(index).unwrap();
            let (trial, limits, drain) = (trial.clone(), limits.clone(), drain.clone());
            std::thread::spawn(move || {
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap()
                    .block_on(worker.serve(trial, limits, drain))
                    .unwrap();
            })
        });
        let workers = workers.collect();
        Self {
            address: bound.address(),
            trial,
            drain,
            limits,
            ca,
            workers,
        }
    }

    /// Writes to a plain connection and reads until the server closes it.
    pub async fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let reading = stream.read_to_end(&mut answer);
        // A refused connection may be reset while our bytes are still unread there.
        let closed = tokio::time::timeout(PATIENCE, reading).await.is_ok();
        assert!(closed, "still open after {request:?}");
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Waits until every worker has ended by itself.
    pub async fn ended(&mut self) {
        let workers = std::mem::take(&mut self.workers);
        let join = tokio::task::spawn_blocking(|| {
            for worker in workers {
                worker.join().unwrap();
            }
        });
        tokio::time::timeout(PATIENCE, join)
            .await
            .expect("the workers end when nothing is in flight")
            .unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.drain.advance(Phase::Ended);
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

pub type Fault = Box<dyn std::error::Error + Send + Sync>;

/// A whole answer, or what came before it broke.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Result<Bytes, Fault>,
}

/// The ways to reach a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    H1,
    H1Tls,
    H2c,
    H2Tls,
    H3,
}

pub const WAYS: [Way; 5] = [Way::H1, Way::H1Tls, Way::H2c, Way::H2Tls, Way::H3];

impl Way {
    pub fn transport(self) -> Transport {
        match self {
            Self::H1 | Self::H2c => Transport::Plain,
            Self::H1Tls | Self::H2Tls | Self::H3 => TLS,
        }
    }

    pub async fn get(self, server: &Server, path: &str) -> Answer {
        self.ask(server, Method::GET, path, &[], Bytes::new())
            .await
            .unwrap()
    }

    /// One request on a connection of its own.
    pub async fn ask(
        self,
        server: &Server,
        method: Method,
        path: &str,
        fields: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Answer, Fault> {
        let uri = match self {
            Self::H1 | Self::H1Tls => path.to_owned(),
            Self::H2c => format!("http://localhost{path}"),
            Self::H2Tls | Self::H3 => format!("https://localhost{path}"),
        };
        let mut request = http::Request::builder().method(method).uri(uri);
        if matches!(self, Self::H1 | Self::H1Tls) {
            request = request.header("host", "localhost");
        }
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        match self {
            Self::H1 | Self::H1Tls => {
                let io: Box<dyn Io> = if self == Self::H1 {
                    Box::new(TcpStream::connect(server.address).await?)
                } else {
                    tls(server, b"http/1.1").await?
                };
                let (mut send, connection) =
                    hyper::client::conn::http1::handshake(TokioIo::new(io)).await?;
                tokio::spawn(connection);
                gather(send.send_request(request.body(Full::new(body))?).await?).await
            }
            Self::H2c | Self::H2Tls => {
                let io: Box<dyn Io> = if self == Self::H2c {
                    Box::new(TcpStream::connect(server.address).await?)
                } else {
                    tls(server, b"h2").await?
                };
                let (mut send, connection) =
                    hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io))
                        .await?;
                tokio::spawn(connection);
                gather(send.send_request(request.body(Full::new(body))?).await?).await
            }
            Self::H3 => {
                let client = H3Client::connect(server).await?;
                client.ask(request.body(())?, body).await
            }
        }
    }
}

async fn gather(response: http::Response<hyper::body::Incoming>) -> Result<Answer, Fault> {
    let (head, body) = response.into_parts();
    Ok(Answer {
        status: head.status,
        headers: head.headers,
        body: body
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes)
            .map_err(Into::into),
    })
}

pub trait Io: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send> Io for T {}

pub fn client_config(ca: &DevCa, protocol: &[u8]) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(ca.pem().as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    config
}

pub async fn tls(server: &Server, protocol: &[u8]) -> Result<Box<dyn Io>, Fault> {
    let config = Arc::new(client_config(&server.ca, protocol));
    let tcp = TcpStream::connect(server.address).await?;
    let name = ServerName::try_from("localhost")?;
    let stream = tokio_rustls::TlsConnector::from(config)
        .connect(name, tcp)
        .await?;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol));
    Ok(Box::new(stream))
}

/// The certificate that a server shows, whoever signed it.
pub async fn leaf(server: &Server) -> Vec<u8> {
    #[derive(Debug)]
    struct Anyone;
    impl ServerCertVerifier for Anyone {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            Ok(ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            rustls::crypto::ring::default_provider()
                .signature_verification_algorithms
                .supported_schemes()
        }
    }
    let mut config = client_config(&server.ca, b"http/1.1");
    config
        .dangerous()
        .set_certificate_verifier(Arc::new(Anyone));
    let tcp = TcpStream::connect(server.address).await.unwrap();
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(ServerName::try_from("localhost").unwrap(), tcp)
        .await
        .unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

/// An HTTP/3 connection that may carry several requests.
pub struct H3Client {
    pub quic: quinn::Connection,
    send: h3::client::SendRequest<h3_quinn::OpenStreams, Bytes>,
    _endpoint: quinn::Endpoint,
}

impl H3Client {
    pub async fn connect(server: &Server) -> Result<Self, Fault> {
        Self::with_transport(server, quinn::TransportConfig::default()).await
    }

    /// One to which only so many bytes may be sent before they are read: on a stream, and in all.
    pub async fn with_windows(server: &Server, stream: u32, all: u32) -> Result<Self, Fault> {
        let mut transport = quinn::TransportConfig::default();
        transport
            .stream_receive_window(stream.into())
            .receive_window(all.into());
        Self::with_transport(server, transport).await
    }

    async fn with_transport(
        server: &Server,
        transport: quinn::TransportConfig,
    ) -> Result<Self, Fault> {
        let config = client_config(&server.ca, b"h3");
        let config = quinn::crypto::rustls::QuicClientConfig::try_from(config)?;
        let mut config = quinn::ClientConfig::new(Arc::new(config));
        config.transport_config(Arc::new(transport));
        let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse()?)?;
        endpoint.set_default_client_config(config);
        let quic = endpoint.connect(server.address, "localhost")?.await?;
        let (mut driver, send) = h3::client::new(h3_quinn::Connection::new(quic.clone())).await?;
        tokio::spawn(async move {
            std::future::poll_fn(|context| driver.poll_close(context)).await;
        });
        Ok(Self {
            quic,
            send,
            _endpoint: endpoint,
        })
    }

    /// Sends a head and leaves the rest to the caller.
    pub async fn open(
        &self,
        request: http::Request<()>,
    ) -> h3::client::RequestStream<h3_quinn::BidiStream<Bytes>, Bytes> {
        self.send.clone().send_request(request).await.unwrap()
    }

    pub async fn ask(&self, request: http::Request<()>, body: Bytes) -> Result<Answer, Fault> {
        let mut stream = self.send.clone().send_request(request).await?;
        if !body.is_empty() {
            stream.send_data(body).await?;
        }
        stream.finish().await?;
        let response = stream.recv_response().await?;
        let mut bytes = Vec::new();
        let body = loop {
            match stream.recv_data().await {
                Ok(Some(mut piece)) => {
                    bytes.extend_from_slice(&piece.copy_to_bytes(piece.remaining()))
                }
                Ok(None) => break Ok(bytes.into()),
                Err(fault) => break Err(fault.into()),
            }
        };
        Ok(Answer {
            status: response.status(),
            headers: response.headers().clone(),
            body,
        })
    }
}
