//! The licence server.

use super::*;

/// What the licence server needs.
#[derive(Clone, Debug)]
pub struct LicenseSettings {
    /// What must survive: the decision log, a self-signed certificate.
    pub state_dir: PathBuf,
    /// The base of its own URLs, without a trailing slash.
    pub public_url: String,
    /// Worker threads, each with its own sockets and runtime.
    pub workers: NonZeroUsize,
    /// The listeners, in the order TLS, plain; at least one.
    pub listeners: Vec<ListenerSettings>,
    /// The admin listener.
    pub admin: AdminSettings,
    /// The token that the API of the admin listener wants; none: it answers peers on loopback alone.
    pub api_token: Option<SecretSource>,
    /// The certificate of the TLS listener.
    pub tls: TlsIdentity,
    /// Bounds of what clients may ask at once.
    pub limits: RequestLimits,
    /// Who is worked for first where all cannot be.
    pub admission: AdmissionSettings,
    /// The longest body of a licence request, in bytes.
    pub body_bytes: usize,
    /// How the process ends.
    pub drain: Drain,
    /// The request header that may carry the token besides `authorization`, in lower case. In `authorization` it stands after
    /// `Bearer `; in any other header it stands alone.
    pub token_header: String,
    /// The query parameter that may carry the token; none: the URL carries none.
    pub token_query: Option<String>,
    /// Verified tokens are remembered in so many bytes; 0: not at all.
    pub token_cache_bytes: usize,
    /// Logs have clients' whole addresses, and not only the block that each is in.
    pub log_full_addresses: bool,
    /// Who may say what a viewer is entitled to. Without one, every token is refused.
    pub issuers: Vec<IssuerSettings>,
    /// Key exchange; none: its URLs are not there.
    pub exchange: Option<ExchangeSettings>,
    /// The policy of tokens that name none.
    pub default_policy: Option<String>,
    /// Room for the record of decisions.
    pub decisions: DecisionsSettings,
    /// Who may have a licence now, from where and how often.
    pub sessions: SessionSettings,
    /// From whom licences of licensed systems come, in the order in which they are asked.
    pub upstreams: Vec<UpstreamSettings>,
    /// The certificates that players fetch.
    pub certificates: CertificateSettings,
    /// The policies that a token may name.
    pub policies: BTreeMap<String, LicensePolicySettings>,
    /// Whose assets these are, and what that tenant allows.
    pub tenant: TenantSettings,
}

/// What a policy says of licences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LicensePolicySettings {
    /// The scheme of its pack: a licence holds keys of no other.
    pub scheme: PackScheme,
    /// The systems that it signals, and no other is licensed.
    pub systems: Vec<System>,
    /// What its licences say.
    pub terms: LicenseTermsSettings,
}

/// Room for the record of decisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecisionsSettings {
    /// What it takes of the disk, in bytes.
    pub capacity: u64,
}

/// How many licence requests are worked on at once, and who may wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdmissionSettings {
    /// Requests that are worked on at once, at least one.
    pub at_once: usize,
    /// How long a request of a viewer who begins may wait.
    pub queue_time: Duration,
    /// How many of those may wait: so few that the others always find room among the requests in flight.
    pub starts_waiting: usize,
    /// How many requests of viewers who are playing may wait.
    pub renewals_waiting: usize,
}
