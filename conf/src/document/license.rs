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
    /// The request header that may carry the token besides `Authorization`, where it stands after `Bearer`; in any other it stands alone. A request with two tokens is refused. Default `"Authorization"`.
    pub token_header: String,
    /// The query parameter that may carry the token, for players that can set no header. URLs are kept by proxies and browsers: set it only where these are yours.
    pub token_query: Option<String>,
    /// Tokens that were verified are remembered in this much memory, so that the next request with the same token costs no signature; `"0B"` remembers none. Default `"32MiB"`.
    pub token_cache: Size,
    /// Logs have clients' whole addresses, which are personal data, and not only the block that each is in: /24 of version 4, /48 of version 6. Default `false`.
    pub log_full_addresses: bool,
    /// HTTP/1.1, /2 and /3 over TLS.
    pub tls: LicenseTlsDocument,
    /// HTTP/1.1 and h2c, behind a TLS terminator.
    pub plain: LicensePlainDocument,
    /// Health, metrics and the API (`license/design/api.md`), when the role runs in a process of its own.
    pub admin: LicenseAdminDocument,
    /// Bounds of what clients may ask at once.
    pub limits: LicenseLimitsDocument,
    /// The policy of tokens that name none. Without it, such a token may have every key that it covers, on no terms.
    pub default_policy: Option<String>,
    /// Who may say what a viewer is entitled to, each a `[[license.issuers]]`. Without one, every token is refused. Default `[]`.
    pub issuers: Vec<IssuerDocument>,
    /// Key exchange with other vendors' encryptors and licence servers: SPEKE 1.0, 2.0 and 2.1 at `/speke/v1.0` and `/speke/v2.0`, CPIX documents at `/cpix/CONTENT-ID`.
    pub exchange: ExchangeDocument,
    /// Streams, devices and tokens that are used up. Unless one of these, or a token, asks for it, no licence touches the store.
    pub sessions: SessionsDocument,
    /// Where streams, devices, used tokens and revocations are kept. Without a database, in SQLite, in `state_dir`.
    pub store: LicenseStoreDocument,
    /// The record of what was decided, `decisions.jsonl` in `state_dir`.
    pub decisions: DecisionsDocument,
    /// From where licences may be asked for.
    pub access: AccessDocument,
    /// How many licences may be asked for in a minute, at this node. A minute's worth may come at once. 0 is no limit.
    pub rates: RatesDocument,
    /// Whoever is told what happened, by name: `license/design/webhooks.md` says what is sent.
    pub webhooks: BTreeMap<String, WebhookDocument>,
    /// Whoever is asked before a licence is given: `license/design/webhooks.md` says what.
    pub authorisation: AuthorisationDocument,
    /// The licence services of the operator's, by name, to which Widevine, PlayReady and FairPlay challenges are forwarded. Without one for a system, its licence URLs are not there.
    pub upstreams: BTreeMap<String, UpstreamDocument>,
    /// The certificates that players fetch before they ask for a licence.
    pub certificates: CertificatesDocument,
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
    /// The file of the token that the API of the licence server wants as `Authorization: Bearer`, at least 16 visible characters, also on the origin's admin listener where all roles are one process. Without one, the API answers peers on loopback alone. Health and metrics want none.
    pub token_file: Option<PathBuf>,
    /// The systemd credential that is this token, instead of `token_file`.
    pub token_credential: Option<String>,
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
    /// Requests that are worked on at once, less than `in_flight`; others wait, and whoever plays goes before whoever begins.
    /// Those that wait for an upstream, the authorisation webhook or an issuer's keys do not count meanwhile. Default `256`.
    pub at_once: usize,
    /// How long one that begins may wait; then it is 503 with `Retry-After`. Default `"500ms"`.
    pub queue_time: Span,
    /// Concurrent streams of one h2 or h3 connection. Default `128`.
    pub streams: u32,
}

/// The record of what was decided, `decisions.jsonl` in `state_dir`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DecisionsDocument {
    /// What the record takes of the disk: some 500 bytes for each licence that was given or refused. At half of it the file becomes `decisions.jsonl.1`, and the last one of that name goes: whoever has to keep more carries it away before. 1 MiB at the least. Default `"128MiB"`.
    pub capacity: Size,
}

impl Default for LicenseDocument {
    fn default() -> Self {
        Self {
            public_url: "https://localhost:8444".to_owned(),
            state_dir: "/var/lib/castellum/license".into(),
            workers: 0,
            token_header: "Authorization".to_owned(),
            default_policy: None,
            token_query: None,
            token_cache: Size::mebibytes(32),
            log_full_addresses: false,
            tls: LicenseTlsDocument::default(),
            plain: LicensePlainDocument::default(),
            admin: LicenseAdminDocument::default(),
            limits: LicenseLimitsDocument::default(),
            issuers: Vec::new(),
            exchange: ExchangeDocument::default(),
            sessions: SessionsDocument::default(),
            store: LicenseStoreDocument::default(),
            decisions: DecisionsDocument::default(),
            access: AccessDocument::default(),
            rates: RatesDocument::default(),
            webhooks: BTreeMap::new(),
            authorisation: AuthorisationDocument::default(),
            upstreams: BTreeMap::new(),
            certificates: CertificatesDocument::default(),
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
            token_file: None,
            token_credential: None,
        }
    }
}

impl Default for DecisionsDocument {
    fn default() -> Self {
        Self {
            capacity: Size::mebibytes(128),
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
            at_once: 256,
            queue_time: Span(std::time::Duration::from_millis(500)),
            streams: 128,
        }
    }
}
