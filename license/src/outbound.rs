//! Requests of this server's own: HTTP/1.1, by TLS except on this host, over connections that are kept for a while. No
//! redirect is followed and no proxy taken; the time and the length of an answer are bounded.
//!
//! ```text
//! Destination --open--> Outbound --get, post--> Answer | Fault
//! ```
//!
//! What an answer means is its caller's to say: every status is an answer. The buffers of TLS and HTTP are not wiped; what
//! must not lie in them comes encrypted.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use conf::SecretSource;
use http::uri::{Authority, PathAndQuery};
use http::{Extensions, HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{self, CaptureConnection, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::Error;
use crate::wiped::Wiped;

/// What is asked, as the settings have it.
#[derive(Clone, Copy, Debug)]
pub struct Destination<'a> {
    /// The table in the configuration, which errors name.
    pub table: &'a str,
    /// How it is reached.
    pub reach: Reach<'a>,
    /// The path, and the query if there is one.
    pub path: &'a str,
    /// How long one request may take, from the connection to the last byte.
    pub timeout: Duration,
    /// The longest answer, in bytes.
    pub limit: usize,
}

/// How a destination is reached.
#[derive(Clone, Copy, Debug)]
pub enum Reach<'a> {
    /// By TCP, unencrypted: on this host.
    Plain {
        /// Host, and port unless that is 80.
        authority: &'a str,
    },
    /// By TLS.
    Tls {
        /// Host, and port unless that is 443.
        authority: &'a str,
        /// The authorities that vouch for it, in PEM.
        ca_file: &'a Path,
        /// What it is shown of a client: a chain in PEM and its private key.
        identity: Option<&'a (PathBuf, SecretSource)>,
    },
    /// By a Unix socket.
    Unix {
        /// Where that lies.
        socket: &'a Path,
    },
}

/// How long a connection that nobody uses is kept. Less than any usual server keeps its end (the shortest is five seconds), so
/// that a request does not go where nobody reads any more.
const IDLE: Duration = Duration::from_secs(4);

/// The most connections that are kept for later.
const MAX_IDLE: usize = 64;

/// A place that can be asked.
pub struct Outbound {
    place: String,
    uri: Uri,
    client: Client<Connector, Full<Bytes>>,
    timeout: Duration,
    limit: usize,
}

/// What was answered.
pub struct Answer {
    /// The status, whatever it is.
    pub status: StatusCode,
    /// The header fields.
    pub headers: HeaderMap,
    /// Where the status is no success (2xx), empty if it is too long or breaks off: then the status says enough.
    pub body: Wiped,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No connection, or it broke.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// It did not answer in time.
    #[error("it did not answer within {} s", .0.as_secs_f32())]
    Late(Duration),
    /// The answer is longer than is read.
    #[error("it answers with more than {0} bytes")]
    TooLong(usize),
}

impl Outbound {
    /// Reads certificates and keys.
    ///
    /// # Errors
    /// One that cannot be read or is not fit, by its file; an authority or a path that is none.
    pub fn open(destination: &Destination<'_>) -> Result<Self, Error> {
        let table = destination.table;
        let malformed =
            |what: &dyn std::fmt::Display| Error::malformed(format!("{table}.url: {what}"));
        let parse =
            |authority: &str| (authority.parse::<Authority>()).map_err(|error| malformed(&error));
        let (way, place) = match destination.reach {
            Reach::Plain { authority } => {
                let authority = parse(authority)?;
                let place = format!("http://{authority}");
                (Way::Tcp(authority), place)
            }
            Reach::Tls {
                authority,
                ca_file,
                identity,
            } => {
                let authority = parse(authority)?;
                let name = ServerName::try_from(host(&authority).to_owned())
                    .map_err(|error| malformed(&error))?;
                let connector = TlsConnector::from(Arc::new(tls(table, ca_file, identity)?));
                let place = format!("https://{authority}");
                (Way::Tls(authority, connector, name), place)
            }
            Reach::Unix { socket } => {
                let place = format!("unix://{}", socket.display());
                (Way::Unix(socket.to_owned()), place)
            }
        };
        // RFC 9112 3.2 wants a host where a socket has none. What is written on a connection of TLS is not of the URI's scheme.
        let authority = match &way {
            Way::Tcp(authority) | Way::Tls(authority, ..) => authority.as_str(),
            Way::Unix(_) => "localhost",
        };
        let path = destination.path.parse::<PathAndQuery>();
        let path = path.map_err(|error| malformed(&error))?;
        // Without the query, which may hold what identifies.
        let place = format!("{place}{}", path.path());
        let uri = Uri::builder().scheme("http").authority(authority);
        let uri = uri.path_and_query(path).build();
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(MAX_IDLE)
            .build(Connector { way: Arc::new(way) });
        Ok(Self {
            place,
            uri: uri.map_err(|error| malformed(&error))?,
            client,
            timeout: destination.timeout,
            limit: destination.limit,
        })
    }

    /// The URL without its query, for logs and errors.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Asks for what is there.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn get(&self, headers: HeaderMap) -> Result<Answer, Fault> {
        self.ask(Method::GET, headers, Bytes::new()).await
    }

    /// Posts a body.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn post(&self, headers: HeaderMap, body: Bytes) -> Result<Answer, Fault> {
        self.ask(Method::POST, headers, body).await
    }

    async fn ask(&self, method: Method, headers: HeaderMap, body: Bytes) -> Result<Answer, Fault> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = headers;
        (tokio::time::timeout(self.timeout, self.send(request)).await)
            .unwrap_or(Err(Fault::Late(self.timeout)))
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer, Fault> {
        let response = loop {
            let mut request = request.clone();
            let connection = connect::capture_connection(&mut request);
            match self.client.request(request).await {
                Ok(response) => {
                    if let Some(answered) = Answered::on(&connection) {
                        answered.0.store(true, Relaxed);
                    }
                    break response;
                }
                // The other end may close a connection in the moment in which it is used again. Whatever is asked here may be
                // asked twice, and each turn takes one connection away, until a new one is made.
                Err(_) if Answered::on(&connection).is_some_and(|it| it.0.load(Relaxed)) => {}
                Err(error) => return Err(unreachable(&error)),
            }
        };
        let (head, body) = response.into_parts();
        // A body that is not read to its end takes its connection with it.
        let body = match Limited::new(body, self.limit).collect().await {
            Ok(body) => Wiped::new(body.to_bytes()),
            Err(_) if !head.status.is_success() => Wiped::default(),
            Err(error) if error.is::<LengthLimitError>() => {
                return Err(Fault::TooLong(self.limit));
            }
            Err(error) => return Err(unreachable(&*error)),
        };
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body,
        })
    }
}

/// Opens connections to one place.
#[derive(Clone)]
struct Connector {
    way: Arc<Way>,
}

enum Way {
    Tcp(Authority),
    Tls(Authority, TlsConnector, ServerName<'static>),
    Unix(PathBuf),
}

impl Connector {
    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match &*self.way {
            Way::Tcp(authority) => Box::new(tcp(authority, 80).await?),
            Way::Tls(authority, connector, name) => {
                let stream = tcp(authority, 443).await?;
                Box::new(connector.connect(name.clone(), stream).await?)
            }
            Way::Unix(socket) => Box::new(UnixStream::connect(socket).await?),
        })
    }
}

impl tower_service::Service<Uri> for Connector {
    type Response = Connected;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Connected>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            connector
                .connect()
                .await
                .map(|stream| Connected(TokioIo::new(stream)))
        })
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Whether a connection has brought an answer before.
#[derive(Clone, Default)]
struct Answered(Arc<AtomicBool>);

impl Answered {
    fn on(connection: &CaptureConnection) -> Option<Self> {
        let mut extras = Extensions::new();
        let metadata = connection.connection_metadata();
        metadata.as_ref()?.get_extras(&mut extras);
        extras.remove()
    }
}

/// A connection.
struct Connected(TokioIo<Box<dyn Stream>>);

impl Connection for Connected {
    fn connected(&self) -> connect::Connected {
        connect::Connected::new().extra(Answered::default())
    }
}

impl hyper::rt::Read for Connected {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl hyper::rt::Write for Connected {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// Without the brackets of an IPv6 address.
fn host(authority: &Authority) -> &str {
    authority.host().trim_matches(['[', ']'])
}

async fn tcp(authority: &Authority, port: u16) -> io::Result<TcpStream> {
    let port = authority.port_u16().unwrap_or(port);
    let stream = TcpStream::connect((host(authority), port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn unreachable(error: &(dyn std::error::Error + 'static)) -> Fault {
    // The cause says more than the libraries' own words, such as "connection error".
    let mut what = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        what = format!("{what}: {cause}");
        source = cause.source();
    }
    Fault::Unreachable(what)
}

fn tls(
    table: &str,
    ca_file: &Path,
    identity: Option<&(PathBuf, SecretSource)>,
) -> Result<ClientConfig, Error> {
    let mut roots = RootCertStore::empty();
    // A host's bundle may hold one that rustls does not take; the others still count.
    let authorities = certificates(ca_file, &format!("{table}.ca_file"))?;
    let (added, _) = roots.add_parsable_certificates(authorities);
    if added == 0 {
        return Err(Error::malformed(format!(
            "{} ({table}.ca_file) holds no authority",
            ca_file.display(),
        )));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::internal("set up TLS", error))?
        .with_root_certificates(roots);
    let Some((chain, source)) = identity else {
        return Ok(config.with_no_client_auth());
    };
    let chain = certificates(chain, &format!("{table}.certificate"))?;
    let attempted = format!("use the private key {source} ({table}.key_file)");
    let pem = (source.read()).map_err(|error| Error::unavailable(attempted.clone(), error))?;
    let private = PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|_| Error::malformed(format!("{attempted}: it is no private key in PEM")))?;
    (config.with_client_auth_cert(chain, private))
        .map_err(|error| Error::malformed(format!("{attempted}: {error}")))
}

fn certificates(path: &Path, key: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| Error::unavailable(format!("read {} ({key})", path.display()), error))
}

/// A header whose value no log shows: a scheme such as `Bearer`, and what a secret makes of it.
///
/// # Errors
/// The secret cannot be read, or its value is none for a header. The message names the source and nothing of the secret.
pub(crate) fn secret_header(
    source: &SecretSource,
    write: impl FnOnce(&str) -> zeroize::Zeroizing<String>,
) -> io::Result<HeaderValue> {
    let failed = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let secret = source.read_line();
    let secret = secret.map_err(|error| failed(format!("the secret {source}: {error}")))?;
    let no_secret = || failed(format!("what {source} holds is no secret for a header"));
    let text = str::from_utf8(&secret).map_err(|_| no_secret())?;
    let mut value = HeaderValue::from_str(&write(text)).map_err(|_| no_secret())?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, UnixListener};

    use super::*;

    const LIMIT: usize = 64;

    /// How long anything may take on the slowest machine.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn outbound(reach: Reach<'_>) -> Outbound {
        waiting(reach, PATIENCE)
    }

    fn waiting(reach: Reach<'_>, timeout: Duration) -> Outbound {
        Outbound::open(&Destination {
            table: "license.test",
            reach,
            path: "/a?b=secret",
            timeout,
            limit: LIMIT,
        })
        .unwrap()
    }

    /// Says this to whoever comes, and gives what came.
    async fn told(listener: TcpListener, answer: Vec<u8>, close: bool) -> String {
        let (mut stream, _) = listener.accept().await.unwrap();
        said(&mut stream, &answer, close).await
    }

    async fn said(
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        answer: &[u8],
        close: bool,
    ) -> String {
        let mut came = vec![0; 4096];
        let read = stream.read(&mut came).await.unwrap();
        came.truncate(read);
        stream.write_all(answer).await.unwrap();
        if !close {
            std::future::pending::<()>().await;
        }
        String::from_utf8(came).unwrap()
    }

    async fn asked(answer: impl Into<Vec<u8>>, close: bool) -> Result<(Answer, String), Fault> {
        asked_within(PATIENCE, answer, close).await
    }

    async fn asked_within(
        timeout: Duration,
        answer: impl Into<Vec<u8>>,
        close: bool,
    ) -> Result<(Answer, String), Fault> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let told = tokio::spawn(told(listener, answer.into(), close));
        let reach = Reach::Plain {
            authority: &authority,
        };
        let answer = waiting(reach, timeout)
            .post(HeaderMap::new(), Bytes::from_static(b"body"))
            .await;
        match answer {
            Ok(answer) => Ok((answer, told.await.unwrap())),
            Err(fault) => {
                told.abort();
                Err(fault)
            }
        }
    }

    fn fault(asked: Result<(Answer, String), Fault>) -> Fault {
        match asked {
            Ok((answer, _)) => panic!("an answer came: {}", answer.status),
            Err(fault) => fault,
        }
    }

    #[tokio::test]
    async fn an_answer_is_one_whatever_its_status_and_no_redirect_is_followed() {
        let ok = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\netag: x\r\n\r\nhi";
        let (answer, came) = asked(ok, true).await.unwrap();
        assert_eq!((answer.status, &*answer.body), (StatusCode::OK, &b"hi"[..]));
        assert_eq!(answer.headers["etag"], "x");
        assert!(came.starts_with("POST /a?b=secret HTTP/1.1\r\n"), "{came}");
        assert!(came.ends_with("\r\n\r\nbody"), "{came}");
        let redirect =
            "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 2\r\n\r\nhi";
        let (answer, _) = asked(redirect, true).await.unwrap();
        assert_eq!(
            (answer.status, &*answer.body),
            (StatusCode::FOUND, &b"hi"[..])
        );
        let long = format!("HTTP/1.1 500 Oh\r\n\r\n{}", "x".repeat(LIMIT + 1));
        let (answer, _) = asked(long, true).await.unwrap();
        assert_eq!((answer.status.as_u16(), &*answer.body), (500, &b""[..]));
    }

    #[tokio::test]
    async fn time_and_length_of_an_answer_are_bounded() {
        let long = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(LIMIT + 1));
        assert_eq!(fault(asked(long, false).await), Fault::TooLong(LIMIT));
        let brief = Duration::from_millis(500);
        let half = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhi";
        for unended in ["", half] {
            let fault = fault(asked_within(brief, unended, false).await);
            assert_eq!(fault, Fault::Late(brief), "{unended}");
        }
        for broken in [half, "", "nonsense\r\n\r\n"] {
            let fault = fault(asked(broken, true).await);
            assert!(matches!(fault, Fault::Unreachable(_)), "{broken}: {fault}");
        }
    }

    #[tokio::test]
    async fn a_connection_is_kept_until_the_other_end_closes_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let outbound = outbound(Reach::Plain {
            authority: &authority,
        });
        // Three answers on a connection, in which its number stands.
        let served = tokio::spawn(async move {
            let mut came = vec![0; 4096];
            for connection in 0.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                for _ in 0..3 {
                    assert!(stream.read(&mut came).await.unwrap() > 0);
                    let ok = format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{connection}");
                    stream.write_all(ok.as_bytes()).await.unwrap();
                }
            }
        });
        let mut connections = String::new();
        for _ in 0..7 {
            let body = Bytes::from_static(b"body");
            let answer = outbound.post(HeaderMap::new(), body).await.unwrap();
            connections.push_str(str::from_utf8(&answer.body).unwrap());
            // The end of a connection comes before the next request.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        served.abort();
        assert_eq!(connections, "0001112");
    }

    /// As a server does that was just restarted, or one that keeps connections and does not say for how long.
    #[tokio::test]
    async fn a_connection_that_is_closed_as_it_is_used_again_is_no_failure() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let outbound = outbound(Reach::Plain {
            authority: &authority,
        });
        let served = tokio::spawn(async move {
            let mut came = vec![0; 4096];
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                assert!(stream.read(&mut came).await.unwrap() > 0);
                let ok = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx";
                stream.write_all(ok).await.unwrap();
                // It takes one request more, and closes without a word.
                let _ = stream.read(&mut came).await;
            }
        });
        for _ in 0..5 {
            let body = Bytes::from_static(b"body");
            let answer = outbound.post(HeaderMap::new(), body).await.unwrap();
            assert_eq!(answer.status, StatusCode::OK);
        }
        served.abort();
    }

    #[tokio::test]
    async fn a_unix_socket_is_asked_too() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("ksm.sock");
        let outbound = outbound(Reach::Unix { socket: &socket });
        assert_eq!(outbound.place(), format!("unix://{}/a", socket.display()));
        let fault = outbound.get(HeaderMap::new()).await.err().unwrap();
        assert!(matches!(fault, Fault::Unreachable(_)), "{fault}");

        let listener = UnixListener::bind(&socket).unwrap();
        let told = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            said(&mut stream, b"HTTP/1.1 204 No Content\r\n\r\n", true).await
        });
        let answer = outbound.get(HeaderMap::new()).await.unwrap();
        assert_eq!(answer.status, StatusCode::NO_CONTENT);
        let came = told.await.unwrap();
        assert!(came.starts_with("GET /a?b=secret HTTP/1.1\r\n"), "{came}");
        assert!(came.contains("host: localhost\r\n"), "{came}");
    }

    #[test]
    fn a_secret_becomes_a_header_that_nothing_shows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let header = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let source = SecretSource::file(&path);
            secret_header(&source, |text| format!("Bearer {text}").into())
        };
        let value = header("hush\n").unwrap();
        assert_eq!(value, "Bearer hush");
        assert!(!format!("{value:?}").contains("hush"));
        let error = header("hu\nsh").unwrap_err().to_string();
        assert!(error.contains("no secret for a header"), "{error}");
        assert!(!error.contains("sh "), "{error}");
    }
}
