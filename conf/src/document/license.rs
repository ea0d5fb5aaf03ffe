//! `[license]`: the licence server.

use super::defaults::{any, loopback};
use super::*;

/// The license role.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LicenseDocument {
    /// The base of licence URLs in manifests, as players reach it. Default `"https://localhost:8444"`.
    pub public_url: String,
    /// A self-signed certificate. Default `"/var/lib/castellum/license"`.
    pub state_dir: PathBuf,
    /// Worker threads; 0 takes one for each processor. Default `0`.
    pub workers: usize,
    /// The request header that carries the token. In `Authorization` it stands after `Bearer`. Default `"Authorization"`.
    pub token_header: String,
    /// HTTP/1.1, /2 and /3 over TLS.
    pub tls: LicenseTlsDocument,
    /// HTTP/1.1 and h2c, behind a TLS terminator.
    pub plain: LicensePlainDocument,
    /// Health and metrics, when the role runs in a process of its own.
    pub admin: LicenseAdminDocument,
    /// Bounds of what clients may ask at once.
    pub limits: LicenseLimitsDocument,
    /// Who may say what a viewer is entitled to, each a `[[license.issuers]]`. Without one, every token is refused. Default `[]`.
    pub issuers: Vec<IssuerDocument>,
    /// Key exchange with other vendors' encryptors and licence servers: SPEKE 1.0, 2.0 and 2.1 at `/speke/v1.0` and `/speke/v2.0`, CPIX documents at `/cpix/CONTENT-ID`.
    pub exchange: ExchangeDocument,
}

/// The licence server's TLS listener.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LicenseTlsDocument {
    /// Address and port, or `off`. Default `"[::]:8444"`.
    pub listen: Address,
    /// HTTP/3 on the UDP port of the same number. Default `true`.
    pub h3: bool,
    /// The certificate chain in PEM, leaf first. Without one, a self-signed certificate is made in `state_dir`.
    pub certificate: Option<PathBuf>,
    /// The file of its private key, in PEM.
    pub key_file: Option<PathBuf>,
    /// The systemd credential that is its private key, instead of `key_file`.
    pub key_credential: Option<String>,
}

/// The licence server's plain listener.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LicensePlainDocument {
    /// Address and port, or `off`. Default `"off"`.
    pub listen: Address,
}

/// The licence server's admin listener.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LicenseAdminDocument {
    /// Address and port, or `off`. Default `"127.0.0.1:9091"`.
    pub listen: Address,
    /// Names by which it may be addressed besides `localhost` and its own address. Default `[]`.
    pub hosts: Vec<String>,
}

/// The licence server's limits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LicenseLimitsDocument {
    /// A request's whole header section. Default `"16KiB"`.
    pub header: Size,
    /// From the first byte of a header section to its last. Default `"5s"`.
    pub header_timeout: Span,
    /// A connection with nothing in flight is closed after this. Default `"1m"`.
    pub idle_timeout: Span,
    /// A licence request. Default `"64KiB"`.
    pub body: Size,
    /// Open connections. Default `10000`.
    pub connections: usize,
    /// Requests whose response is not yet wholly sent; above it, 503 with `Retry-After`. Default `1024`.
    pub in_flight: usize,
    /// Concurrent streams of one h2 or h3 connection. Default `128`.
    pub streams: u32,
}

/// One issuer of entitlement tokens.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IssuerDocument {
    /// Its name in logs and audit records. Required.
    pub name: Option<String>,
    /// The `iss` claim. Required.
    pub issuer: Option<String>,
    /// The `aud` claim. Required.
    pub audience: Option<String>,
    /// The `kid` that a token's header may name. A token that names another is not this issuer's.
    pub key_id: Option<String>,
    /// `HS256`, `ES256` or `EdDSA`: the one algorithm that the key is used with, whatever a token says. Required.
    pub algorithm: Option<TokenAlgorithm>,
    /// The file of the key. HS256: the secret, at least 32 bytes; ES256 and EdDSA: the public key in PEM.
    pub key_file: Option<PathBuf>,
    /// The systemd credential that is the key, instead of `key_file`.
    pub key_credential: Option<String>,
}

impl Default for LicenseDocument {
    fn default() -> Self {
        Self {
            public_url: "https://localhost:8444".to_owned(),
            state_dir: "/var/lib/castellum/license".into(),
            workers: 0,
            token_header: "Authorization".to_owned(),
            tls: LicenseTlsDocument::default(),
            plain: LicensePlainDocument::default(),
            admin: LicenseAdminDocument::default(),
            limits: LicenseLimitsDocument::default(),
            issuers: Vec::new(),
            exchange: ExchangeDocument::default(),
        }
    }
}

impl Default for LicenseTlsDocument {
    fn default() -> Self {
        Self {
            listen: any(8444),
            h3: true,
            certificate: None,
            key_file: None,
            key_credential: None,
        }
    }
}

impl Default for LicensePlainDocument {
    fn default() -> Self {
        Self {
            listen: Address(None),
        }
    }
}

impl Default for LicenseAdminDocument {
    fn default() -> Self {
        Self {
            listen: loopback(9091),
            hosts: Vec::new(),
        }
    }
}

impl Default for LicenseLimitsDocument {
    fn default() -> Self {
        Self {
            header: Size(16 << 10),
            header_timeout: Span::seconds(5),
            idle_timeout: Span::seconds(60),
            body: Size(64 << 10),
            connections: 10_000,
            in_flight: 1024,
            streams: 128,
        }
    }
}
