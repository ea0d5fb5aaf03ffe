//! From whom licences of licensed systems come.

use super::*;

/// One licence service of the operator's.
#[derive(Clone, Debug)]
pub struct UpstreamSettings {
    /// Its name in logs.
    pub name: String,
    /// What it is.
    pub kind: UpstreamKind,
    /// The systems that it answers for; at least one, and never ClearKey.
    pub systems: Vec<System>,
    /// The assets that it answers for, at least one; none: those that no upstream of the same system names.
    pub assets: Option<Vec<String>>,
    /// Where it answers.
    pub place: UpstreamPlace,
    /// It has the content keys itself.
    pub holds_keys: bool,
    /// The name of the content provider; there for Widevine.
    pub provider: Option<String>,
    /// Under which name requests are signed, and with what; there for Widevine.
    pub signer: Option<(String, SecretSource)>,
    /// The header that carries a grant, in lower case, and the secret under which that is signed. There wherever keys travel
    /// in a grant.
    pub grant: Option<(String, SecretSource)>,
    /// What is sent to a vendor.
    pub body: UpstreamBody,
    /// Members that are added to the JSON of a request: for Widevine, and for a vendor's JSON. None is one that this server writes,
    /// `policy_overrides` apart, whose members are added likewise. Each is JSON.
    pub request: toml::Table,
    /// A FairPlay module says first which key an SPC is for.
    pub two_steps: bool,
    /// How long one request may take.
    pub timeout: Duration,
    /// Requests at once.
    pub in_flight: usize,
    /// Failures in a row after which it is left alone.
    pub breaker_failures: usize,
    /// For how long.
    pub breaker_pause: Duration,
}

/// What an upstream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UpstreamKind {
    /// A licensed Widevine service.
    Widevine,
    /// A server by Microsoft's PlayReady SDK.
    PlayReady,
    /// A FairPlay key security module.
    FairPlay,
    /// Any other service.
    Vendor,
}

/// Where an upstream answers.
#[derive(Clone, Debug)]
pub enum UpstreamPlace {
    /// At a URL.
    Url {
        /// Whether by TLS; otherwise it is on this host.
        tls: bool,
        /// Its host, and its port unless that is the scheme's own.
        authority: String,
        /// The path, with a slash at its front.
        path: String,
        /// The authorities that vouch for it, in PEM.
        ca_file: PathBuf,
        /// What it is shown as a TLS client: a certificate chain in PEM and its private key.
        identity: Option<(PathBuf, SecretSource)>,
    },
    /// At a Unix socket.
    Socket {
        /// Where that lies.
        socket: PathBuf,
        /// The path, with a slash at its front.
        path: String,
    },
}

/// What is sent to a vendor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UpstreamBody {
    /// The challenge as it came.
    #[default]
    Raw,
    /// A JSON object around it.
    Json,
}

/// The certificates that players fetch.
#[derive(Clone, Debug, Default)]
pub struct CertificateSettings {
    /// Widevine's service certificate; none: it is fetched.
    pub widevine: Option<PathBuf>,
    /// FairPlay's application certificate.
    pub fairplay: Option<PathBuf>,
    /// That of assets which have another.
    pub fairplay_assets: BTreeMap<String, PathBuf>,
}
