//! Issuers of entitlement tokens.

use std::path::PathBuf;
use std::time::Duration;

use crate::SecretSource;

/// One issuer of entitlement tokens.
#[derive(Clone, Debug)]
pub struct IssuerSettings {
    /// Its name in logs and audit records.
    pub name: String,
    /// What its tokens look like.
    pub shape: TokenShape,
    /// The `iss` claim; none where its tokens need not have one.
    pub issuer: Option<String>,
    /// The audience that its tokens name; none where they need name none.
    pub audience: Option<String>,
    /// Whether they may name other audiences as well.
    pub shared_audience: bool,
    /// The `kid` that a token's header may name, or the `com_key_id` of its payload; a token that names another is not this
    /// issuer's.
    pub key_id: Option<String>,
    /// The algorithms that its keys may be used with, whatever a token says: for a single key just one.
    pub algorithms: Vec<TokenAlgorithm>,
    /// Its keys.
    pub keys: IssuerKeys,
    /// How far its clock and this machine's may stand apart.
    pub leeway: Duration,
    /// The longest that a token may be good from its issue; none: any time.
    pub max_lifetime: Option<Duration>,
    /// What becomes of a request for keys of which its token covers some.
    pub kid_rule: KidRule,
}

impl IssuerSettings {
    /// An issuer of tokens of our own shape with one key, and of all else what holds where nothing is written.
    pub fn of_key(
        name: impl Into<String>,
        issuer: impl Into<String>,
        audience: impl Into<String>,
        algorithm: TokenAlgorithm,
        key: SecretSource,
    ) -> Self {
        Self {
            name: name.into(),
            shape: TokenShape::Native,
            issuer: Some(issuer.into()),
            audience: Some(audience.into()),
            shared_audience: false,
            key_id: None,
            algorithms: vec![algorithm],
            keys: IssuerKeys::One(key),
            leeway: Duration::from_secs(30),
            max_lifetime: None,
            kid_rule: KidRule::Subset,
        }
    }
}

/// Where an issuer's keys are.
#[derive(Clone, Debug)]
pub enum IssuerKeys {
    /// One, in a file. HS256: the secret itself, at least 32 bytes, less one trailing line feed, or a JWK. The others: the
    /// public key in PEM, or a JWK.
    One(SecretSource),
    /// A JWK Set in a file.
    Set(SecretSource),
    /// A JWK Set that the issuer publishes.
    Fetched(KeyPlace),
}

/// Where an issuer publishes its keys.
#[derive(Clone, Debug)]
pub struct KeyPlace {
    /// Whether by HTTPS; without, it is on this host.
    pub tls: bool,
    /// Host, and port unless it is the scheme's own.
    pub authority: String,
    /// The path: of the JWK Set, or of the discovery document that says where that is.
    pub path: String,
    /// Whether the path is that of an OpenID discovery document.
    pub discovery: bool,
    /// The authorities that vouch for its certificate, in PEM.
    pub ca_file: PathBuf,
    /// How long one request may take.
    pub timeout: Duration,
}

/// What an issuer's tokens look like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenShape {
    /// The claims `assets`, `kids` and `policy`.
    #[default]
    Native,
    /// The claim `authorized_kids`, as the guidelines of DASH-IF have it.
    DashIf,
    /// An entitlement message of version 2, as Axinom has it.
    Axinom,
}

/// What becomes of a request for keys of which a token covers some.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KidRule {
    /// A licence with those.
    Subset,
    /// No licence.
    Strict,
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
    /// ECDSA on P-384 with SHA-384.
    #[serde(rename = "ES384")]
    Es384,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    #[serde(rename = "RS256")]
    Rs256,
    /// RSASSA-PSS with SHA-256.
    #[serde(rename = "PS256")]
    Ps256,
}
