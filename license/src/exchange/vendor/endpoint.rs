//! One request to a vendor's key server: HTTP/1.1, by TLS except on this host, over a connection of its own. No redirect is
//! followed and no proxy taken; the time and the length of an answer are bounded.
//!
//! The buffers of TLS and HTTP are not wiped; keys that come encrypted are not in them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use conf::{SecretSource, VendorSettings};
use cpix::speke::{Headers, VERSION_HEADER};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::FetchError;
use crate::Error;
use crate::exchange::Wiped;

/// Where a vendor is asked, and as whom.
pub(super) struct Endpoint {
    vendor: String,
    place: String,
    authority: Authority,
    path: String,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    user: Option<String>,
    secret: Option<SecretSource>,
    timeout: Duration,
    /// The longest answer, in bytes.
    limit: usize,
}

/// What a vendor answered with 200.
pub(super) struct Answer {
    headers: HeaderMap,
    pub(super) body: Wiped,
}

impl Answer {
    /// The headers that mean something; one that is no text is taken for another than it should be.
    pub(super) fn headers(&self) -> Headers<'_> {
        let field = |name: &str| {
            let value = self.headers.get(name)?;
            Some(value.to_str().unwrap_or_default())
        };
        Headers {
            content_type: field(header::CONTENT_TYPE.as_str()),
            speke_version: field(VERSION_HEADER),
        }
    }
}

impl Endpoint {
    /// Reads certificates and keys.
    ///
    /// # Errors
    /// One that cannot be read or is not fit, by its file.
    pub(super) fn open(
        vendor: &str,
        settings: &VendorSettings,
        limit: usize,
    ) -> Result<Self, Error> {
        let malformed = |what: &dyn std::fmt::Display| {
            Error::malformed(format!("license.exchange.vendors.{vendor}.url: {what}"))
        };
        let authority: Authority = (settings.authority.parse())
            .map_err(|error: http::uri::InvalidUri| malformed(&error))?;
        let tls = match settings.tls {
            true => {
                let name = ServerName::try_from(host(&authority).to_owned())
                    .map_err(|error| malformed(&error))?;
                Some((TlsConnector::from(Arc::new(tls(vendor, settings)?)), name))
            }
            false => None,
        };
        let scheme = if settings.tls { "https" } else { "http" };
        Ok(Self {
            vendor: vendor.to_owned(),
            place: format!("{scheme}://{authority}{}", settings.path),
            authority,
            path: settings.path.clone(),
            tls,
            user: settings.user.clone(),
            secret: settings.secret.clone(),
            timeout: settings.timeout,
            limit,
        })
    }

    /// Posts a document.
    ///
    /// # Errors
    /// Whatever comes that is not a whole answer with 200 in time.
    pub(super) async fn post(
        &self,
        headers: &[(&'static str, &'static str)],
        body: String,
    ) -> Result<Answer, FetchError> {
        let request = self.request(headers, body)?;
        (tokio::time::timeout(self.timeout, self.send(request)).await).unwrap_or_else(|_| {
            Err(FetchError::Late {
                vendor: self.vendor.clone(),
                place: self.place.clone(),
                seconds: self.timeout.as_secs(),
            })
        })
    }

    fn request(
        &self,
        headers: &[(&'static str, &'static str)],
        body: String,
    ) -> Result<Request<Full<Bytes>>, FetchError> {
        let unready = |what: String| FetchError::Unready {
            vendor: self.vendor.clone(),
            what,
        };
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(self.path.as_str())
            .header(header::HOST, self.authority.as_str());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(source) = &self.secret {
            let secret = (source.read_line())
                .map_err(|error| unready(format!("the secret {source}: {error}")))?;
            let no_secret = || unready(format!("what {source} holds is no secret for a header"));
            let text = str::from_utf8(&secret).map_err(|_| no_secret())?;
            let credentials = Zeroizing::new(match &self.user {
                Some(user) => {
                    let pair = Zeroizing::new(format!("{user}:{text}"));
                    format!("Basic {}", STANDARD.encode(pair.as_bytes()))
                }
                None => format!("Bearer {text}"),
            });
            let mut value = HeaderValue::from_str(&credentials).map_err(|_| no_secret())?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        (request.body(Full::new(Bytes::from(body)))).map_err(|error| unready(error.to_string()))
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer, FetchError> {
        let port = if self.tls.is_some() { 443 } else { 80 };
        let port = self.authority.port_u16().unwrap_or(port);
        let tcp = TcpStream::connect((host(&self.authority), port)).await;
        let tcp = tcp.map_err(|error| self.unreachable(&error))?;
        match &self.tls {
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), tcp).await;
                let stream = stream.map_err(|error| self.unreachable(&error))?;
                self.exchange(stream, request).await
            }
            None => self.exchange(tcp, request).await,
        }
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        request: Request<Full<Bytes>>,
    ) -> Result<Answer, FetchError> {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.unreachable(&error))?;
        let answer = async {
            let response = sender.send_request(request).await;
            let (head, body) = (response.map_err(|error| self.unreachable(&error))?).into_parts();
            self.judge(head.status)?;
            let body = Limited::new(body, self.limit).collect().await;
            let body = body.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
                Some(_) => FetchError::TooLong {
                    vendor: self.vendor.clone(),
                    limit: self.limit,
                },
                None => self.unreachable(&*error),
            })?;
            Ok(Answer {
                headers: head.headers,
                body: Wiped(Some(body.to_bytes())),
            })
        };
        tokio::pin!(answer, connection);
        // The connection is driven here, and ends with this call, however that ends.
        tokio::select! {
            answer = &mut answer => answer,
            // The answer may have come whole before, and otherwise the connection knows why not.
            ended = &mut connection => match (answer.await, ended) {
                (Err(FetchError::Unreachable { .. }), Err(error)) => Err(self.unreachable(&error)),
                (answer, _) => answer,
            },
        }
    }

    fn judge(&self, status: StatusCode) -> Result<(), FetchError> {
        let help = match status {
            StatusCode::OK => return Ok(()),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                ": it does not know this server, or not for this content"
            }
            status if status.is_redirection() => {
                ": no redirect is followed; write where it really is"
            }
            _ => "",
        };
        Err(FetchError::Refused {
            vendor: self.vendor.clone(),
            place: self.place.clone(),
            status,
            help,
        })
    }

    fn unreachable(&self, error: &(dyn std::error::Error + 'static)) -> FetchError {
        // The cause says more than the libraries' own words, such as "connection error".
        let mut what = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            what = format!("{what}: {cause}");
            source = cause.source();
        }
        FetchError::Unreachable {
            vendor: self.vendor.clone(),
            place: self.place.clone(),
            what,
        }
    }
}

/// Without the brackets of an IPv6 address.
fn host(authority: &Authority) -> &str {
    authority.host().trim_matches(['[', ']'])
}

fn tls(vendor: &str, settings: &VendorSettings) -> Result<ClientConfig, Error> {
    let key = |name: &str| format!("license.exchange.vendors.{vendor}.{name}");
    let mut roots = RootCertStore::empty();
    // A host's bundle may hold one that rustls does not take; the others still count.
    let (added, _) =
        roots.add_parsable_certificates(certificates(&settings.ca_file, &key("ca_file"))?);
    if added == 0 {
        return Err(Error::malformed(format!(
            "{} ({}) holds no authority",
            settings.ca_file.display(),
            key("ca_file")
        )));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::internal("set up TLS", error))?
        .with_root_certificates(roots);
    let Some((chain, source)) = &settings.identity else {
        return Ok(config.with_no_client_auth());
    };
    let chain = certificates(chain, &key("certificate"))?;
    let attempted = format!("use the private key {source} ({})", key("key_file"));
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
