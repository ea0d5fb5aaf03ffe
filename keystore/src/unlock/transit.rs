//! The root by the transit engine of HashiCorp Vault or OpenBao, over HTTPS.
//!
//! The service encrypts and decrypts the method's key under a key of its own that never leaves it (`POST
//! /v1/MOUNT/encrypt/KEY`, `POST /v1/MOUNT/decrypt/KEY`). It is asked at unsealing and when the root is made or
//! rotated, never for a lease or an export; while it is down, what is unsealed stays so.
//!
//! One connection for each question, HTTP/1.1 over TLS by rustls, to the configured host alone: no redirect is followed
//! and no proxy taken. The service's certificate must come from the configured ones. The token is read anew for each
//! question, since agents renew it. Whatever is answered must open the root ([`super`]).
//!
//! The buffers of the TLS connection are not this module's, and are not wiped; they held the method's key once at
//! unsealing.
//!
//! # Stored parameters
//! The service's ciphertext as it came, such as `vault:v1:...`.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use conf::TransitSettings;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use keystore_client::admin::UnlockMethod;
use ring::rand::SystemRandom;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::SealedRoot;
use crate::error::{Error, ErrorKind};
use crate::seal::{KeyBytes, WrappingKey, random_key};

/// The longest answer, in bytes: a ciphertext of a key has some 100.
const MAX_ANSWER: usize = 64 << 10;

/// Has the service encrypt a key, and wraps `root` under that.
///
/// # Errors
/// [`ErrorKind::DoesNotOpen`] where the service refuses, or does not open what it encrypted; [`ErrorKind::Unavailable`]
/// where it cannot be asked or does not answer in time.
pub(crate) async fn seal(
    root: &KeyBytes,
    settings: &TransitSettings,
    random: &SystemRandom,
) -> Result<SealedRoot, Error> {
    let key = random_key(random)?;
    let mut plaintext = Zeroizing::new([0; 44]);
    (STANDARD.encode_slice(key.as_slice(), plaintext.as_mut_slice()))
        .map_err(|error| Error::unavailable("cannot encode a key", error))?;
    let body = question("plaintext", plaintext.as_slice());
    let answer = ask(settings, "encrypt", body).await?;
    let ciphertext = answer.read()?.ciphertext.ok_or_else(no_answer)?;
    let parameters = ciphertext.as_bytes().to_vec();
    let key = WrappingKey::new(&key)?;
    let sealed = SealedRoot::seal(root, UnlockMethod::Transit, parameters, &key, random)?;
    // Read back: nothing is kept that the service cannot open.
    open(&sealed, settings).await?;
    Ok(sealed)
}

/// The root again.
///
/// # Errors
/// As for [`seal`].
pub(crate) async fn open(
    sealed: &SealedRoot,
    settings: &TransitSettings,
) -> Result<KeyBytes, Error> {
    let graphic = sealed.parameters.iter().all(u8::is_ascii_graphic);
    if !graphic || sealed.parameters.iter().any(|byte| b"\"\\".contains(byte)) {
        return Err(Error::damaged(
            "what is stored of the service's ciphertext is none",
        ));
    }
    let body = question("ciphertext", &sealed.parameters);
    let answer = ask(settings, "decrypt", body).await?;
    let plaintext = answer.read()?.plaintext.ok_or_else(no_answer)?;
    // Room for what base64 may come to, so that another length is told from another text.
    let mut bytes = Zeroizing::new([0; 64]);
    let len = STANDARD
        .decode_slice(plaintext, bytes.as_mut_slice())
        .unwrap_or(0);
    let mut key = KeyBytes::default();
    if len != key.len() {
        return Err(Error::new(
            ErrorKind::DoesNotOpen,
            "the transit service answers something else than a key",
        ));
    }
    key.copy_from_slice(&bytes[..len]);
    sealed.open(&WrappingKey::new(&key)?)
}

/// `{"NAME":"VALUE"}`, for a value that needs no escaping, in a buffer that does not grow.
fn question(name: &str, value: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut body = Zeroizing::new(Vec::with_capacity(16 + name.len() + value.len()));
    for part in [b"{\"", name.as_bytes(), b"\":\"", value, b"\"}"] {
        body.extend_from_slice(part);
    }
    body
}

struct Answer(Zeroizing<Vec<u8>>);

#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    data: Option<Data<'a>>,
}

/// Borrowed, so that nothing secret is copied; what a service would have to escape is neither ciphertext nor base64.
#[derive(Deserialize)]
struct Data<'a> {
    ciphertext: Option<&'a str>,
    plaintext: Option<&'a str>,
}

impl Answer {
    fn read(&self) -> Result<Data<'_>, Error> {
        let document = serde_json::from_slice::<Document>(&self.0);
        // The parser's own words would repeat the answer.
        (document.ok())
            .and_then(|document| document.data)
            .ok_or_else(no_answer)
    }
}

fn no_answer() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "the transit service answers what is no answer: is keystore.transit.url one?",
    )
}

async fn ask(
    settings: &TransitSettings,
    verb: &str,
    body: Zeroizing<Vec<u8>>,
) -> Result<Answer, Error> {
    let late = |_| {
        Error::unavailable(
            attempted(settings),
            format!("no answer within {:?}", settings.timeout),
        )
    };
    (tokio::time::timeout(settings.timeout, exchange(settings, verb, body)).await).map_err(late)?
}

fn attempted(settings: &TransitSettings) -> String {
    format!(
        "the transit service at {} cannot be asked",
        settings.authority
    )
}

async fn exchange(
    settings: &TransitSettings,
    verb: &str,
    body: Zeroizing<Vec<u8>>,
) -> Result<Answer, Error> {
    let request = request(settings, verb, body)?;
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
        Error::unavailable(attempted(settings), error)
    };
    let authority: http::uri::Authority = (settings.authority.parse())
        .map_err(|error: http::uri::InvalidUri| failed(error.into()))?;
    // Without the brackets of an IPv6 address.
    let host = authority
        .host()
        .trim_start_matches('[')
        .trim_end_matches(']');
    let name = ServerName::try_from(host.to_owned()).map_err(|error| failed(error.into()))?;
    let tls = TlsConnector::from(Arc::new(tls(settings)?));
    let tcp = TcpStream::connect((host, authority.port_u16().unwrap_or(443)))
        .await
        .map_err(|error| failed(error.into()))?;
    let stream = tls
        .connect(name, tcp)
        .await
        .map_err(|error| failed(error.into()))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed(error.into()))?;
    let connection = tokio::spawn(connection);
    let answer = async {
        let response =
            (sender.send_request(request).await).map_err(|error| failed(error.into()))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER)
            .collect()
            .await
            .map_err(failed)?;
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_ANSWER));
        bytes.extend_from_slice(&body.to_bytes());
        judge(settings, head.status, Answer(bytes))
    }
    .await;
    connection.abort();
    answer
}

fn request(
    settings: &TransitSettings,
    verb: &str,
    body: Zeroizing<Vec<u8>>,
) -> Result<Request<Full<Bytes>>, Error> {
    let token = (settings.token.read_line()).map_err(|error| {
        Error::unavailable(
            format!("cannot read the token from {}", settings.token),
            error,
        )
    })?;
    let mut token = HeaderValue::from_bytes(&token).map_err(|_| {
        Error::new(
            ErrorKind::DoesNotOpen,
            format!("what {} holds is no token", settings.token),
        )
    })?;
    token.set_sensitive(true);
    let TransitSettings {
        authority,
        base,
        mount,
        key,
        namespace,
        ..
    } = settings;
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(format!("{base}/v1/{mount}/{verb}/{key}"))
        .header(header::HOST, authority.as_str())
        .header(header::CONTENT_TYPE, "application/json")
        // An agent between here and the service may insist on it (`require_request_header`), against forged requests.
        .header("x-vault-request", "true")
        .header("x-vault-token", token);
    if let Some(namespace) = namespace {
        request = request.header("x-vault-namespace", namespace.as_str());
    }
    (request.body(Full::new(Bytes::from_owner(body))))
        .map_err(|error| Error::unavailable(attempted(settings), error))
}

/// What a status means: who can do something about it.
fn judge(settings: &TransitSettings, status: StatusCode, answer: Answer) -> Result<Answer, Error> {
    let TransitSettings {
        authority,
        mount,
        key,
        ..
    } = settings;
    let refuses = |what: String| {
        Err(Error::new(
            ErrorKind::DoesNotOpen,
            format!("the transit service at {authority} refuses: {what}"),
        ))
    };
    let unavailable = |what: String| Err(Error::unavailable(attempted(settings), what));
    match status {
        StatusCode::OK => Ok(answer),
        // An agent may renew the token, so asking again is of use.
        StatusCode::FORBIDDEN => unavailable(format!(
            "its token is refused for the key {key} of {mount}/ (403): expired, or without the policy for it"
        )),
        StatusCode::NOT_FOUND => refuses(format!("no engine at {mount}/, or no such key (404)")),
        StatusCode::BAD_REQUEST => refuses(format!(
            "the key {key} of {mount}/ does not exist, does not encrypt, or did not make this ciphertext (400)"
        )),
        StatusCode::SERVICE_UNAVAILABLE => {
            unavailable("it is sealed itself, or in maintenance (503)".to_owned())
        }
        other if other.is_redirection() => refuses(format!(
            "it sends elsewhere ({other}), and no redirect is followed: name the active node"
        )),
        other => unavailable(format!("it answers {other}")),
    }
}

fn tls(settings: &TransitSettings) -> Result<ClientConfig, Error> {
    let path = settings.ca_file.display();
    let unreadable = |error: Box<dyn std::error::Error + Send + Sync>| {
        Error::unavailable(format!("cannot read the certificates in {path}"), error)
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(&settings.ca_file)
        .map_err(|error| unreadable(error.into()))?
    {
        let certificate = certificate.map_err(|error| unreadable(error.into()))?;
        // A host's bundle may hold one that rustls does not take; the others still count.
        if let Err(error) = roots.add(certificate) {
            tracing::debug!(%error, %path, "a certificate is passed over");
        }
    }
    if roots.is_empty() {
        return Err(unreadable("there is none".into()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::unavailable("cannot set up TLS", error))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
