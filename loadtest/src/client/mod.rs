//! One viewer's HTTP client: a connection of its own to each listener, over one protocol.
//!
//! No redirects, no cache, no retries: what the server does to a request is what is counted.

mod h1h2;
mod h3;
mod trust;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use http::{HeaderMap, Method, StatusCode, header};
use rustls::ClientConfig;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use url::{Host, Url};

use crate::recorder::{Recorder, Route, Took};

pub(crate) use h3::{Connection as QuicConnection, Windows as QuicWindows};
pub use trust::{BadAuthority, Trust};

/// A request that takes longer has failed.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of a body that is kept; segments of a mezzanine's bit rate stay below.
const BODY_LIMIT: u64 = 64 << 20;

/// How requests travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1, as many connections as requests at once.
    H1,
    /// HTTP/2, one connection.
    H2,
    /// HTTP/3, one connection.
    H3,
}

impl Protocol {
    fn alpn(self) -> &'static [u8] {
        match self {
            Self::H1 => b"http/1.1",
            Self::H2 => b"h2",
            Self::H3 => b"h3",
        }
    }
}

/// One request.
#[derive(Debug)]
pub struct Request {
    /// Where to.
    pub url: Url,
    /// `POST` with this JSON; `GET` without.
    pub json: Option<String>,
    /// Value of `Authorization`, where the route wants one.
    pub authorization: Option<http::HeaderValue>,
    /// Whether the body is needed, or only its length.
    pub keep: bool,
}

/// What came back.
#[derive(Debug)]
pub struct Reply {
    /// The whole body, or nothing where it was not asked for.
    pub body: Bytes,
    /// Bytes of the body.
    pub len: u64,
    /// From the request, on an open connection, to the last byte.
    pub elapsed: Duration,
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No connection.
    #[error("cannot connect: {0}")]
    Connect(#[source] std::io::Error),
    /// The server ended the connection before the TLS handshake was over.
    #[error("the server would not shake hands")]
    TurnedAway,
    /// The protocol broke off.
    #[error("{0}")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// An answer, but not 200.
    #[error("status {0}")]
    Status(StatusCode),
    /// 503 with `Retry-After` (RFC 9110 10.2.3), in seconds.
    #[error("status 503, to come again after {} s", .0.as_secs())]
    Later(Duration),
    /// Fewer or more bytes than `Content-Length` said.
    #[error("{received} bytes came of {promised} promised")]
    Length {
        /// `Content-Length`.
        promised: u64,
        /// What came.
        received: u64,
    },
    /// A body larger than is read here.
    #[error("the body is longer than {BODY_LIMIT} bytes")]
    TooLong,
    /// Nothing, or not all, in time.
    #[error("not answered within {} s", REQUEST_TIMEOUT.as_secs())]
    Timeout,
}

impl FetchError {
    fn broken(source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Broken(Box::new(source))
    }

    fn connect(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Connect(std::io::Error::other(source))
    }
}

/// Makes the clients of all viewers.
#[derive(Clone)]
pub struct Connector {
    protocol: Protocol,
    tls: Arc<ClientConfig>,
    recorder: Arc<Recorder>,
}

impl Connector {
    /// A connector that believes whom `trust` says.
    ///
    /// # Errors
    /// Where the authority cannot be used.
    pub fn new(
        protocol: Protocol,
        trust: &Trust,
        recorder: Arc<Recorder>,
    ) -> Result<Self, BadAuthority> {
        Ok(Self {
            protocol,
            tls: Arc::new(trust.tls(protocol)?),
            recorder,
        })
    }

    /// A client with no connection yet.
    pub fn client(&self) -> Client {
        Client {
            connector: self.clone(),
            open: Mutex::new(HashMap::new()),
        }
    }
}

/// One viewer's connections.
pub struct Client {
    connector: Connector,
    open: Mutex<HashMap<String, Connection>>,
}

/// The open connection to one listener.
#[derive(Clone)]
enum Connection {
    H1(h1h2::Pool),
    H2(h1h2::Stream),
    H3(h3::Connection),
}

impl Client {
    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// Where no connection, no answer, no 200 or not the whole body comes in time.
    pub async fn fetch(&self, request: &Request) -> Result<Reply, FetchError> {
        tokio::time::timeout(REQUEST_TIMEOUT, self.exchange(request))
            .await
            .unwrap_or(Err(FetchError::Timeout))
    }

    /// Opens a connection to the listener of `url` that nothing has been asked on.
    ///
    /// # Errors
    /// Where that cannot be had in time.
    pub async fn connect(&self, url: &Url) -> Result<(), FetchError> {
        let connecting = async {
            if let Connection::H1(pool) = self.connection(url).await? {
                self.timed(pool.connect(&self.connector.tls)).await?;
            }
            Ok(())
        };
        tokio::time::timeout(REQUEST_TIMEOUT, connecting)
            .await
            .unwrap_or(Err(FetchError::Timeout))
    }

    async fn exchange(&self, request: &Request) -> Result<Reply, FetchError> {
        let connection = self.connection(&request.url).await?;
        let body = BodySink {
            keep: request.keep,
            kept: Vec::new(),
            len: 0,
        };
        match connection {
            Connection::H1(pool) => {
                // Connecting is counted apart, so the clock starts once a connection is there.
                let sender = match pool.idle() {
                    Some(sender) => sender,
                    None => self.timed(pool.connect(&self.connector.tls)).await?,
                };
                let start = Instant::now();
                let body = pool
                    .send(sender, request.head(true)?, request.payload(), body)
                    .await?;
                Ok(body.reply(start))
            }
            Connection::H2(stream) => {
                let start = Instant::now();
                let body = stream
                    .send(request.head(false)?, request.payload(), body)
                    .await?;
                Ok(body.reply(start))
            }
            Connection::H3(connection) => {
                let start = Instant::now();
                let body = connection
                    .send(request.head(false)?, request.payload(), body)
                    .await?;
                Ok(body.reply(start))
            }
        }
    }

    /// The open connection to the listener of `url`, made where there is none.
    async fn connection(&self, url: &Url) -> Result<Connection, FetchError> {
        let authority = format!("{}://{}", url.scheme(), url.authority());
        let mut open = self.open.lock().await;
        if let Some(connection) = open.get(&authority)
            && connection.is_open()
        {
            return Ok(connection.clone());
        }
        let peer = Peer::of(url).ok_or_else(|| FetchError::connect("the URL names no host"))?;
        let tls = &self.connector.tls;
        let connection = match self.connector.protocol {
            Protocol::H1 => Connection::H1(h1h2::Pool::new(peer)),
            Protocol::H2 => Connection::H2(self.timed(h1h2::Stream::connect(&peer, tls)).await?),
            Protocol::H3 => Connection::H3(
                self.timed(h3::Connection::connect(&peer, tls, h3::Windows::PLAYER))
                    .await?,
            ),
        };
        open.insert(authority, connection.clone());
        Ok(connection)
    }

    async fn timed<T>(
        &self,
        connecting: impl Future<Output = Result<T, FetchError>>,
    ) -> Result<T, FetchError> {
        let start = Instant::now();
        let made = connecting.await?;
        let took = Took::SinceDue(start.elapsed());
        self.connector.recorder.answered(Route::Connect, took, 0);
        Ok(made)
    }
}

impl Connection {
    fn is_open(&self) -> bool {
        match self {
            Self::H1(_) => true, // the pool looks at each of its connections
            Self::H2(stream) => stream.is_open(),
            Self::H3(connection) => connection.is_open(),
        }
    }
}

/// The listener that a URL means.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    host: Host<String>,
    /// Its port.
    pub(crate) port: u16,
    /// Whether it speaks TLS.
    pub(crate) tls: bool,
}

impl Peer {
    /// `None` where the URL has no host or no port.
    pub(crate) fn of(url: &Url) -> Option<Self> {
        Some(Self {
            host: url.host()?.to_owned(),
            port: url.port_or_known_default()?,
            tls: url.scheme() == "https",
        })
    }

    /// The host as TLS names it: IPv6 without brackets.
    pub(crate) fn name(&self) -> String {
        match &self.host {
            Host::Domain(domain) => domain.clone(),
            Host::Ipv4(address) => address.to_string(),
            Host::Ipv6(address) => address.to_string(),
        }
    }
}

impl Request {
    /// Line and headers; HTTP/1.1 sends only the path and names the host apart.
    fn head(&self, origin_form: bool) -> Result<http::Request<()>, FetchError> {
        let method = if self.json.is_some() {
            Method::POST
        } else {
            Method::GET
        };
        let url = &self.url;
        let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
        let target = if origin_form { path } else { url.as_str() };
        let mut head = http::Request::builder().method(method).uri(target);
        if origin_form {
            head = head.header(header::HOST, url.authority());
        }
        if let Some(json) = &self.json {
            head = head
                .header(header::CONTENT_TYPE, "application/json")
                .header(header::CONTENT_LENGTH, json.len());
        }
        if let Some(authorization) = &self.authorization {
            head = head.header(header::AUTHORIZATION, authorization);
        }
        head.body(()).map_err(FetchError::broken)
    }

    fn payload(&self) -> Bytes {
        self.json.clone().map_or_else(Bytes::new, Bytes::from)
    }
}

/// Where a body goes: kept within a limit, or only counted.
struct BodySink {
    keep: bool,
    kept: Vec<u8>,
    len: u64,
}

impl BodySink {
    fn push(&mut self, mut chunk: impl Buf) -> Result<(), FetchError> {
        self.len += chunk.remaining() as u64;
        if self.len > BODY_LIMIT {
            return Err(FetchError::TooLong);
        }
        while self.keep && chunk.has_remaining() {
            let part = chunk.chunk();
            self.kept.extend_from_slice(part);
            let len = part.len();
            chunk.advance(len);
        }
        Ok(())
    }

    fn check(&self, headers: &HeaderMap) -> Result<(), FetchError> {
        let promised = headers.get(header::CONTENT_LENGTH);
        let promised = promised.and_then(|value| value.to_str().ok()?.parse().ok());
        match promised {
            Some(promised) if promised != self.len => Err(FetchError::Length {
                promised,
                received: self.len,
            }),
            Some(_) | None => Ok(()),
        }
    }

    fn reply(self, start: Instant) -> Reply {
        Reply {
            body: self.kept.into(),
            len: self.len,
            elapsed: start.elapsed(),
        }
    }
}

fn require_ok<T>(answer: &http::Response<T>) -> Result<(), FetchError> {
    let again = answer.headers().get(header::RETRY_AFTER);
    let again = again.and_then(|value| value.to_str().ok()?.parse().ok());
    match (answer.status(), again) {
        (StatusCode::OK, _) => Ok(()),
        (StatusCode::SERVICE_UNAVAILABLE, Some(seconds)) => {
            Err(FetchError::Later(Duration::from_secs(seconds)))
        }
        (status, _) => Err(FetchError::Status(status)),
    }
}

#[cfg(test)]
mod tests {
    //! HTTP/1.1 against canned bytes; HTTP/2, HTTP/3 and TLS are met in the appliance's own tests.

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// What a client makes of a server that sends these bytes and hangs up.
    async fn answer(bytes: &'static [u8]) -> (Result<Reply, FetchError>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let len = stream.read(&mut request).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            String::from_utf8(request[..len].to_vec()).unwrap()
        });
        let trust = Trust::DangerAnyone;
        let connector = Connector::new(Protocol::H1, &trust, Arc::default()).unwrap();
        let request = Request {
            url: Url::parse(&format!("http://{address}/license/clearkey/demo?kid=1")).unwrap(),
            json: Some("{}".to_owned()),
            authorization: Some(http::HeaderValue::from_static("Bearer t")),
            keep: true,
        };
        let reply = connector.client().fetch(&request).await;
        (reply, server.await.unwrap())
    }

    #[tokio::test]
    async fn sends_the_path_the_token_and_the_body() {
        let (reply, request) = answer(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nkeys").await;
        assert_eq!(reply.unwrap().body, "keys");
        assert!(
            request.starts_with("POST /license/clearkey/demo?kid=1 HTTP/1.1\r\n"),
            "{request}"
        );
        assert!(request.contains("authorization: Bearer t\r\n"), "{request}");
        assert!(request.contains("host: 127.0.0.1:"), "{request}");
    }

    #[tokio::test]
    async fn a_server_that_hangs_up_on_a_greeting_turns_away() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
        });
        let connector = Connector::new(Protocol::H1, &Trust::DangerAnyone, Arc::default()).unwrap();
        let url = Url::parse(&format!("https://{address}/")).unwrap();
        let turned_away = connector.client().connect(&url).await;
        assert!(
            matches!(turned_away, Err(FetchError::TurnedAway)),
            "{turned_away:?}"
        );
    }

    #[tokio::test]
    async fn another_status_and_a_cut_body_are_failures() {
        let (reply, _) = answer(b"HTTP/1.1 503 Sealed\r\ncontent-length: 0\r\n\r\n").await;
        assert!(matches!(
            reply,
            Err(FetchError::Status(StatusCode::SERVICE_UNAVAILABLE))
        ));
        let later = b"HTTP/1.1 503 Overloaded\r\nretry-after: 3\r\ncontent-length: 0\r\n\r\n";
        let (reply, _) = answer(later).await;
        assert!(matches!(reply, Err(FetchError::Later(after)) if after.as_secs() == 3));
        let (reply, _) = answer(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\ncut").await;
        assert!(matches!(reply, Err(FetchError::Broken(_))));
    }

    #[test]
    fn a_body_of_another_length_than_promised_is_a_failure() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_LENGTH, http::HeaderValue::from_static("9"));
        let mut body = BodySink {
            keep: false,
            kept: Vec::new(),
            len: 0,
        };
        body.push(&b"cut"[..]).unwrap();
        assert!(body.kept.is_empty());
        let length = FetchError::Length {
            promised: 9,
            received: 3,
        }
        .to_string();
        assert_eq!(body.check(&headers).unwrap_err().to_string(), length);
    }
}
