//! Keys to and from other vendors.

use super::*;

/// Key exchange with other vendors.
#[derive(Clone, Debug)]
pub struct ExchangeSettings {
    /// The longest document, in bytes.
    pub body_bytes: usize,
    /// To whom partners encrypt the keys that they bring.
    pub recipient: Option<ExchangeRecipient>,
    /// Who may exchange keys, by name; at least one, or a vendor.
    pub callers: BTreeMap<String, ExchangeCallerSettings>,
    /// Key servers from which keys are ordered, by name. No asset is named by two.
    pub vendors: BTreeMap<String, VendorSettings>,
}

/// A key server of another vendor.
#[derive(Clone, Debug)]
pub struct VendorSettings {
    /// Whether by TLS; otherwise it is on this host.
    pub tls: bool,
    /// Its host, and its port unless that is the scheme's own.
    pub authority: String,
    /// The path at which it answers, with a slash at its front.
    pub path: String,
    /// What it speaks.
    pub protocol: VendorProtocol,
    /// The assets whose keys come from it: names, or `*` for all that no other vendor names.
    pub assets: Vec<String>,
    /// The tracks that get a key each; at least one.
    pub labels: Vec<TrackLabel>,
    /// `cbcs`, `cenc` or both.
    pub schemes: Vec<PackScheme>,
    /// The systems that orders name; at least one for each scheme.
    pub systems: Vec<System>,
    /// What it is shown as a TLS client: a certificate chain in PEM and its private key.
    pub identity: Option<(PathBuf, SecretSource)>,
    /// The user name of `Basic`; none: `Bearer`.
    pub user: Option<String>,
    /// The secret that is sent to it, less one trailing line feed.
    pub secret: Option<SecretSource>,
    /// The authorities that vouch for it, in PEM.
    pub ca_file: PathBuf,
    /// How long one request may take.
    pub timeout: Duration,
    /// Keys are ordered in the clear.
    pub danger_clear: bool,
}

/// What a key server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum VendorProtocol {
    /// SPEKE 1.0.
    #[serde(rename = "speke-1.0")]
    Speke10,
    /// SPEKE 2.0.
    #[serde(rename = "speke-2.0")]
    Speke20,
    /// SPEKE 2.1.
    #[serde(rename = "speke-2.1")]
    Speke21,
}

/// Tracks that have a key of their own.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "UPPERCASE")]
pub enum TrackLabel {
    /// Pictures up to 1024x576.
    Sd,
    /// Up to 1920x1080.
    Hd,
    /// Up to 4096x2160.
    Uhd1,
    /// Above.
    Uhd2,
    /// Sound.
    Audio,
}

/// This server as a recipient of keys.
#[derive(Clone, Debug)]
pub struct ExchangeRecipient {
    /// Its certificate, in PEM.
    pub certificate: PathBuf,
    /// Its private key, in PEM.
    pub key: SecretSource,
}

/// One partner in key exchange. It is known by a certificate or a secret, or by either.
#[derive(Clone, Debug)]
pub struct ExchangeCallerSettings {
    /// What it may do.
    pub may: Vec<ExchangeRight>,
    /// The assets for which it may: names, or `*` for all.
    pub assets: Vec<String>,
    /// Its TLS client certificates, in PEM.
    pub certificates: Vec<PathBuf>,
    /// Its secret, less one trailing line feed.
    pub secret: Option<SecretSource>,
    /// The enrolled certificates to which keys are encrypted for it, in PEM.
    pub recipients: Vec<PathBuf>,
    /// What content keys are encrypted with, under a document's key.
    pub key_cipher: KeyCipher,
    /// Documents need not be encrypted.
    pub danger_clear: bool,
    /// Keys are encrypted to certificates that merely come with a request.
    pub danger_unenrolled: bool,
}

/// What content keys are encrypted with in a document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyCipher {
    /// AES-256-CBC, as CPIX has it.
    #[default]
    AesCbc,
    /// AES-256 key wrap (RFC 3394).
    AesKw,
}

/// What a partner in key exchange may do.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum ExchangeRight {
    /// Have keys made under ids that it chooses, and get them.
    Speke,
    /// Get all keys of an asset.
    Export,
    /// Bring keys of its own.
    Import,
}
