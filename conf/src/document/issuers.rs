//! `[[license.issuers]]`: who may say what a viewer is entitled to.

use super::*;

/// One issuer of entitlement tokens. Its keys are one of `key_file`, `key_credential`, `jwks_file`, `jwks_url` and `discovery`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IssuerDocument {
    /// Its name in logs and audit records. Required.
    pub name: Option<String>,
    /// What its tokens look like: `native` has the claims `assets`, `kids` and `policy`; `dash-if` has `authorized_kids`; `axinom` is an entitlement message of version 2. Default `"native"`.
    pub shape: TokenShape,
    /// The `iss` claim. Required, except with `dash-if`, where it is then not looked at, and with `axinom`, which has none.
    pub issuer: Option<String>,
    /// The audience that the `aud` claim names. Required as `issuer` is.
    pub audience: Option<String>,
    /// Takes tokens that name other audiences as well. Others could then replay them here. Default `false`.
    pub shared_audience: bool,
    /// The `kid` that a token's header may name; a token that names another is not this issuer's. With `axinom` it is the `com_key_id`, and required. A key set has its own.
    pub key_id: Option<String>,
    /// `HS256`, `ES256`, `ES384`, `EdDSA`, `RS256` or `PS256`: the one algorithm that the key is used with, whatever a token says. Required with `key_file` and `key_credential`.
    pub algorithm: Option<TokenAlgorithm>,
    /// The algorithms that the keys of a set may be for; its other keys are skipped. Required with `jwks_file`, `jwks_url` and `discovery`.
    pub algorithms: Vec<TokenAlgorithm>,
    /// The file of the key. HS256: the secret, at least 32 bytes; the others: the public key in PEM. Either may be a JWK.
    pub key_file: Option<PathBuf>,
    /// The systemd credential that is the key, instead of `key_file`.
    pub key_credential: Option<String>,
    /// The file of a JWK Set, read at the start.
    pub jwks_file: Option<PathBuf>,
    /// The URL of a JWK Set, HTTPS except on this host. It is fetched anew as its `max-age` says, within 1 minute and 12 hours, and once in 30 seconds when a token names a key that is not there. While the issuer is down, its last keys are good for 24 hours, also through a restart.
    pub jwks_url: Option<String>,
    /// The issuer is an OpenID provider: `issuer` is its URL, and its discovery document says where its keys are. ID tokens are refused. Default `false`.
    pub discovery: bool,
    /// The certificate authorities that vouch for the URL, in PEM. Default `"/etc/ssl/certs/ca-certificates.crt"`.
    pub ca_file: PathBuf,
    /// How long one request to the URL may take. Default `"5s"`.
    pub timeout: Span,
    /// How far the issuer's clock and this machine's may stand apart, at most 10 minutes. Default `"30s"`.
    pub leeway: Span,
    /// The longest that a token may be good, from `iat`, or else from its begin, to its end; both must then be there.
    pub max_lifetime: Option<Span>,
    /// When a request asks for keys of which the token covers some: `subset` gives a licence with those, `strict` gives none. With `axinom` it is `strict` where nothing is written, else `subset`.
    pub kid_rule: Option<KidRule>,
}

impl Default for IssuerDocument {
    fn default() -> Self {
        Self {
            name: None,
            shape: TokenShape::Native,
            issuer: None,
            audience: None,
            shared_audience: false,
            key_id: None,
            algorithm: None,
            algorithms: Vec::new(),
            key_file: None,
            key_credential: None,
            jwks_file: None,
            jwks_url: None,
            discovery: false,
            ca_file: "/etc/ssl/certs/ca-certificates.crt".into(),
            timeout: Span::seconds(5),
            leeway: Span::seconds(30),
            max_lifetime: None,
            kid_rule: None,
        }
    }
}
