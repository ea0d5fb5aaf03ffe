//! `[license.exchange]`: keys to and from other vendors.

use super::*;

/// Key exchange.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExchangeDocument {
    /// Answers at these URLs. The keystore must also allow it: see `exchange` and `deposit` in `keystore.callers`. Default `false`.
    pub enabled: bool,
    /// A request's document. Default `"1MiB"`.
    pub body: Size,
    /// This server's own certificate (PEM, RSA of at least 2048 bits), to which partners encrypt the keys that they bring.
    pub recipient_certificate: Option<PathBuf>,
    /// The file of its private key, PKCS#8 in PEM.
    pub recipient_key_file: Option<PathBuf>,
    /// The systemd credential that is its private key, instead of `recipient_key_file`.
    pub recipient_key_credential: Option<String>,
    /// Who may exchange keys, by name. Each is known by a client certificate or a secret.
    pub callers: BTreeMap<String, ExchangeCallerDocument>,
    /// Other vendors' key servers, by name, from which keys are ordered by SPEKE (`castellum key fetch ASSET`).
    pub vendors: BTreeMap<String, VendorDocument>,
}

/// One partner in key exchange.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExchangeCallerDocument {
    /// Any of `speke` (have keys made under ids that it chooses, and get them), `export` (get all keys of an asset in a CPIX document) and `import` (bring keys of its own in one). Required.
    pub may: Option<Vec<ExchangeRight>>,
    /// The assets for which it may: their names are the content ids of documents; `*` is all. Required.
    pub assets: Option<Vec<String>>,
    /// Its TLS client certificates in PEM, each trusted byte for byte, whoever issued it. Default `[]`.
    pub certificate_files: Vec<PathBuf>,
    /// The file of its secret, at least 16 bytes, sent as `Bearer` or as the password of `Basic` under the caller's name.
    pub secret_file: Option<PathBuf>,
    /// The systemd credential that is its secret, instead of `secret_file`.
    pub secret_credential: Option<String>,
    /// The enrolled certificates (PEM, RSA of at least 2048 bits) to which keys are encrypted for it. A document's own certificates count only if they are among these. Default `[]`.
    pub recipient_files: Vec<PathBuf>,
    /// What content keys are encrypted with for it, under the document's key: `aes-cbc`, as CPIX has it, or `aes-kw` (RFC 3394), for those who take that. Default `"aes-cbc"`.
    pub key_cipher: KeyCipher,
    /// Lets keys leave for it, and come from it, in documents that are not encrypted: they are then as safe as the connection. Default `false`.
    pub danger_clear: bool,
    /// Encrypts keys to certificates that merely come with a request. Whoever may send requests can then read the keys. Default `false`.
    pub danger_unenrolled: bool,
}

/// A key server of another vendor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VendorDocument {
    /// Where it answers SPEKE, in full: `https`, or `http` on this host's loopback. No redirect is followed. Required.
    pub url: Option<String>,
    /// `speke-1.0`, `speke-2.0` or `speke-2.1`. In 1.0 each key is ordered in a request of its own. Default `"speke-2.0"`.
    pub protocol: VendorProtocol,
    /// The assets whose keys come from it: their names are the content ids; `*` is all that no other vendor names. No key is made here for them, as if `keystore.external_assets` named them. Required.
    pub assets: Option<Vec<String>>,
    /// The tracks that get a key each. Default `["SD", "HD", "AUDIO"]`.
    pub labels: Vec<TrackLabel>,
    /// `cbcs`, `cenc` or both: each has keys of its own. Default `["cbcs"]`.
    pub schemes: Vec<PackScheme>,
    /// The systems that are named in orders; what comes back for them is checked and not used. FairPlay is named in `cbcs` only. Default `["widevine", "playready", "fairplay"]`.
    pub systems: Vec<System>,
    /// The certificate that is shown to it, a chain in PEM.
    pub certificate: Option<PathBuf>,
    /// The file of its private key, in PEM.
    pub key_file: Option<PathBuf>,
    /// The systemd credential that is its private key, instead of `key_file`.
    pub key_credential: Option<String>,
    /// The name that goes with the secret, which is then sent as `Basic`; without one it is sent as `Bearer`.
    pub user: Option<String>,
    /// The file of the secret that is sent to it. It is read anew for each order.
    pub secret_file: Option<PathBuf>,
    /// The systemd credential that is this secret, instead of `secret_file`.
    pub secret_credential: Option<String>,
    /// The authorities, in PEM, one of which must vouch for its certificate. Default `"/etc/ssl/certs/ca-certificates.crt"`.
    pub ca_file: PathBuf,
    /// How long one request may take. Default `"30s"`.
    pub timeout: Span,
    /// Orders keys in the clear instead of encrypted to `license.exchange.recipient_certificate`: they are then as safe as the connection. Default `false`.
    pub danger_clear: bool,
}

impl Default for ExchangeDocument {
    fn default() -> Self {
        Self {
            enabled: false,
            body: Size(1 << 20),
            recipient_certificate: None,
            recipient_key_file: None,
            recipient_key_credential: None,
            callers: BTreeMap::new(),
            vendors: BTreeMap::new(),
        }
    }
}

impl Default for VendorDocument {
    fn default() -> Self {
        Self {
            url: None,
            protocol: VendorProtocol::Speke20,
            assets: None,
            labels: vec![TrackLabel::Sd, TrackLabel::Hd, TrackLabel::Audio],
            schemes: vec![PackScheme::Cbcs],
            systems: vec![System::Widevine, System::PlayReady, System::FairPlay],
            certificate: None,
            key_file: None,
            key_credential: None,
            user: None,
            secret_file: None,
            secret_credential: None,
            ca_file: "/etc/ssl/certs/ca-certificates.crt".into(),
            timeout: Span::seconds(30),
            danger_clear: false,
        }
    }
}
