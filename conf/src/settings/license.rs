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
    /// The certificate of the TLS listener.
    pub tls: TlsIdentity,
    /// Bounds of what clients may ask at once.
    pub limits: RequestLimits,
    /// The longest body of a licence request, in bytes.
    pub body_bytes: usize,
    /// How the process ends.
    pub drain: Drain,
    /// The request header that carries the token, in lower case. In `authorization` it stands after `Bearer `;
    /// in any other header it stands alone.
    pub token_header: String,
    /// Who may say what a viewer is entitled to. Without one, every token is refused.
    pub issuers: Vec<IssuerSettings>,
    /// Key exchange; none: its URLs are not there.
    pub exchange: Option<ExchangeSettings>,
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
}

/// One issuer of entitlement tokens.
#[derive(Clone, Debug)]
pub struct IssuerSettings {
    /// Its name in logs and audit records.
    pub name: String,
    /// The `iss` claim.
    pub issuer: String,
    /// The `aud` claim.
    pub audience: String,
    /// The `kid` that a token's header may name; a token that names another is not this issuer's.
    pub key_id: Option<String>,
    /// The one algorithm that its key is used with, whatever a token says.
    pub algorithm: TokenAlgorithm,
    /// HS256: the secret itself, at least 32 bytes, less one trailing line feed. ES256 and EdDSA: the public key in PEM.
    pub key: SecretSource,
}

/// A signature algorithm of tokens (RFC 7518 3.1, RFC 8037 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum TokenAlgorithm {
    /// HMAC with SHA-256.
    #[serde(rename = "HS256")]
    Hs256,
    /// ECDSA on P-256 with SHA-256.
    #[serde(rename = "ES256")]
    Es256,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
}
