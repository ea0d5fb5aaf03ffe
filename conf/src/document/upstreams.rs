//! `[license.upstreams.NAME]` and `[license.certificates]`: from whom licences of licensed systems come.

use super::*;

/// One licence service of the operator's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpstreamDocument {
    /// `widevine` (a licensed Widevine service), `playready` (a server by Microsoft's SDK), `fairplay` (a key security module behind `license/design/fairplay-sidecar.md`) or `vendor` (any other, for the systems that it names). Required.
    pub kind: Option<UpstreamKind>,
    /// The systems that a `vendor` answers for: `widevine`, `playready`, `fairplay`. Default `[]`.
    pub systems: Vec<System>,
    /// Those of one system are asked in this order, the lowest first; the next one when one cannot answer. Default `0`.
    pub order: u32,
    /// The assets that it answers for, and in its system no upstream that names none does: as during a change of FairPlay's SDK. Without it: all assets that no other names.
    pub assets: Option<Vec<String>>,
    /// Where it answers, in full: `https`, or `http` on this host's loopback. No redirect is followed.
    pub url: Option<String>,
    /// The Unix socket at which it answers HTTP, instead of `url`.
    pub socket: Option<PathBuf>,
    /// The path at that socket. Default `"/"`.
    pub path: String,
    /// The authorities, in PEM, one of which must vouch for its certificate. Default `"/etc/ssl/certs/ca-certificates.crt"`.
    pub ca_file: PathBuf,
    /// The certificate that is shown to it, a chain in PEM.
    pub certificate: Option<PathBuf>,
    /// The file of its private key, in PEM.
    pub key_file: Option<PathBuf>,
    /// The systemd credential that is its private key, instead of `key_file`.
    pub key_credential: Option<String>,
    /// It has the content keys itself: none is sent to it, though the keystore exports those of the licence, for its record and its say. All upstreams that stand in for each other, of one system and the same assets, have them, or none. Default `false`.
    pub holds_keys: bool,
    /// `widevine`: the name of the content provider.
    pub provider: Option<String>,
    /// The name under which requests are signed: for `widevine`, and for a `vendor` whose body is `json`.
    pub signer: Option<String>,
    /// The file of the signing key: an RSA private key in PEM, or a line of 64 hex digits (AES key) and one of 32 (initialisation vector).
    pub signing_key_file: Option<PathBuf>,
    /// The systemd credential that is this key, instead of `signing_key_file`.
    pub signing_key_credential: Option<String>,
    /// `playready` and `vendor`: the file of the secret, at least 32 bytes, under which the grant is signed that goes along (`license/design/upstreams.md`); keys stand in it wrapped.
    pub secret_file: Option<PathBuf>,
    /// The systemd credential that is this secret, instead of `secret_file`.
    pub secret_credential: Option<String>,
    /// The header that carries the grant. Default `"X-Castellum-Grant"`.
    pub grant_header: String,
    /// What is sent to a `vendor`: `raw`, the challenge as it came, or `json`. Default `"raw"`.
    pub body: UpstreamBody,
    /// `widevine`, and a `vendor` whose body is `json`: members that the JSON of each request gets besides Castellum's own, as the service knows them; for `widevine` within `policy_overrides`, too. No secrets.
    pub request: Option<toml::Table>,
    /// `fairplay`: the module is asked first which key an SPC is for, where the URL does not say it. Default `false`.
    pub two_steps: bool,
    /// How long one request may take. Default `"3s"`.
    pub timeout: Span,
    /// Requests at once; above it, the next upstream is asked. Default `64`.
    pub in_flight: usize,
    /// Failures in a row after which it is left alone for a while. Default `5`.
    pub breaker_failures: usize,
    /// How long that is; then one request tries whether it is back. Default `"10s"`.
    pub breaker_pause: Span,
}

/// The certificates that players fetch before they ask for a licence.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CertificatesDocument {
    /// The Widevine service certificate. Without one it is fetched from the upstreams and kept for a day.
    pub widevine_file: Option<PathBuf>,
    /// The FairPlay application certificate, in DER.
    pub fairplay_file: Option<PathBuf>,
    /// Further FairPlay certificates by name, for assets that need another one, as during a change of the SDK.
    pub fairplay: BTreeMap<String, FairPlayCertificateDocument>,
}

/// One more FairPlay certificate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FairPlayCertificateDocument {
    /// The certificate, in DER. Required.
    pub file: Option<PathBuf>,
    /// The assets that get it at `/license/fairplay/certificate/ASSET`. Required.
    pub assets: Option<Vec<String>>,
}

impl Default for UpstreamDocument {
    fn default() -> Self {
        Self {
            kind: None,
            systems: Vec::new(),
            order: 0,
            assets: None,
            url: None,
            socket: None,
            path: "/".to_owned(),
            ca_file: "/etc/ssl/certs/ca-certificates.crt".into(),
            certificate: None,
            key_file: None,
            key_credential: None,
            holds_keys: false,
            provider: None,
            signer: None,
            signing_key_file: None,
            signing_key_credential: None,
            secret_file: None,
            secret_credential: None,
            grant_header: "X-Castellum-Grant".to_owned(),
            body: UpstreamBody::Raw,
            request: None,
            two_steps: false,
            timeout: Span::seconds(3),
            in_flight: 64,
            breaker_failures: 5,
            breaker_pause: Span::seconds(10),
        }
    }
}
