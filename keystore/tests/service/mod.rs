//! A transit engine in small: what Vault and OpenBao answer to `encrypt` and `decrypt`, over HTTPS, well and badly.
//!
//! Its ciphertext is the plaintext behind a mask, which no test takes for encryption.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use conf::{SecretSource, TransitSettings};
use futures_util::stream;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

pub const TOKEN: &str = "hvs.a-token-of-the-tests";

/// How it answers.
#[derive(Clone, Copy, Debug)]
pub enum Mood {
    Well,
    /// Takes the request and never answers.
    Silent,
    Status(u16),
    Garbage,
    /// Another key than the one that it was given.
    AnotherKey,
    ShortKey,
    /// A body without an end.
    Endless,
    HangsUp,
}

pub struct Service {
    port: u16,
    folder: PathBuf,
    mood: Arc<Mutex<Mood>>,
    asked: Arc<Mutex<VecDeque<String>>>,
}

impl Service {
    pub async fn start(folder: &Path) -> Self {
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(folder.join("ca.pem"), certified.cert.pem()).unwrap();
        std::fs::write(folder.join("token"), format!("{TOKEN}\n")).unwrap();
        let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certified.cert.der().clone()],
                PrivateKeyDer::Pkcs8(key),
            )
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("localhost:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mood = Arc::new(Mutex::new(Mood::Well));
        let asked = Arc::new(Mutex::new(VecDeque::new()));
        let service = Self {
            port,
            folder: folder.to_owned(),
            mood: mood.clone(),
            asked: asked.clone(),
        };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, mood, asked) = (acceptor.clone(), mood.clone(), asked.clone());
                tokio::spawn(async move {
                    // A client that does not trust it hangs up.
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let answer = service_fn(|request| {
                        let mood = *mood.lock().unwrap();
                        answer(request, mood, asked.clone())
                    });
                    let connection = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), answer);
                    let _ = connection.await;
                });
            }
        });
        service
    }

    pub fn settings(&self) -> TransitSettings {
        TransitSettings {
            authority: format!("localhost:{}", self.port),
            base: "/behind".to_owned(),
            mount: "media/transit".to_owned(),
            key: "castellum".to_owned(),
            namespace: Some("drm".to_owned()),
            token: SecretSource::file(self.folder.join("token")),
            ca_file: self.folder.join("ca.pem"),
            timeout: Duration::from_secs(5),
        }
    }

    pub fn becomes(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// The verbs that it was asked, in order.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().iter().cloned().collect()
    }
}

type Body = BoxBody<Bytes, Infallible>;

fn said(status: u16, text: String) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(text)).boxed());
    *response.status_mut() = status.try_into().unwrap();
    response
}

async fn answer(
    request: Request<Incoming>,
    mood: Mood,
    asked: Arc<Mutex<VecDeque<String>>>,
) -> Result<Response<Body>, std::io::Error> {
    let path = request.uri().path().to_owned();
    let header = |name| {
        let value: Option<&http::HeaderValue> = request.headers().get(name);
        value
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
    };
    let token = header("x-vault-token");
    assert_eq!(header("x-vault-namespace").as_deref(), Some("drm"));
    let verb = path
        .strip_prefix("/behind/v1/media/transit/")
        .and_then(|rest| rest.strip_suffix("/castellum"))
        .unwrap_or_else(|| panic!("{path}"))
        .to_owned();
    asked.lock().unwrap().push_back(verb.clone());
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    match mood {
        Mood::Silent => std::future::pending::<()>().await,
        Mood::Status(status) => return Ok(said(status, r#"{"errors":["no"]}"#.to_owned())),
        Mood::Garbage => return Ok(said(200, "<html>welcome</html>".to_owned())),
        Mood::HangsUp => return Err(std::io::ErrorKind::ConnectionReset.into()),
        Mood::Endless => {
            let chunk = || Ok(Frame::data(Bytes::from_static(&[b' '; 4096])));
            let chunks = stream::iter(std::iter::repeat_with(chunk));
            return Ok(Response::new(BoxBody::new(StreamBody::new(chunks))));
        }
        Mood::Well | Mood::AnotherKey | Mood::ShortKey => {}
    }
    if token.as_deref() != Some(TOKEN) {
        return Ok(said(403, r#"{"errors":["permission denied"]}"#.to_owned()));
    }
    let masked = |bytes: Vec<u8>| {
        bytes
            .into_iter()
            .map(|byte| byte ^ 0x5a)
            .collect::<Vec<u8>>()
    };
    let data = match verb.as_str() {
        "encrypt" => {
            let plaintext = STANDARD
                .decode(body["plaintext"].as_str().unwrap())
                .unwrap();
            let ciphertext = format!("vault:v1:{}", STANDARD.encode(masked(plaintext)));
            serde_json::json!({ "ciphertext": ciphertext, "key_version": 1 })
        }
        "decrypt" => {
            let ciphertext = body["ciphertext"].as_str().unwrap();
            let sealed = ciphertext.strip_prefix("vault:v1:").unwrap();
            let mut plaintext = masked(STANDARD.decode(sealed).unwrap());
            match mood {
                Mood::AnotherKey => plaintext[0] ^= 1,
                Mood::ShortKey => plaintext.truncate(16),
                _ => {}
            }
            serde_json::json!({ "plaintext": STANDARD.encode(plaintext) })
        }
        other => panic!("{other}"),
    };
    let document = serde_json::json!({ "request_id": "1", "lease_id": "", "data": data });
    Ok(said(200, document.to_string()))
}
