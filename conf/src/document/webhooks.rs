//! `[license.webhooks.NAME]` and `[license.authorisation]`: what is told to others, and what they are asked.

use super::*;

/// Whoever is told what happened. Each request is signed (Standard Webhooks: `webhook-id`, `webhook-timestamp`, `webhook-signature`) and repeated until it is answered by 2xx, for a week.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebhookDocument {
    /// Where it is told, in full: `https`, or `http` on this host's loopback. No redirect is followed. Required.
    pub url: Option<String>,
    /// What is told: any of `granted`, `refused`, `session_started`, `session_ended`, `session_expired` and `device_added`. Required.
    pub events: Option<Vec<WebhookEvent>>,
    /// The file of the key that requests are signed with (HMAC-SHA-256): `whsec_` and at least 24 bytes in Base64, as libraries of Standard Webhooks have it, or else at least 32 bytes, which are taken as they stand.
    pub secret_file: Option<PathBuf>,
    /// The systemd credential that is this key, instead of `secret_file`.
    pub secret_credential: Option<String>,
    /// The authorities, in PEM, one of which must vouch for its certificate. Default `"/etc/ssl/certs/ca-certificates.crt"`.
    pub ca_file: PathBuf,
    /// How long one request may take. Default `"5s"`.
    pub timeout: Span,
}

/// Whoever is asked before a licence is given. Requests are signed as those of webhooks are; an answer is `{"allow": true}` or `{"allow": false}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthorisationDocument {
    /// Where it is asked, in full: `https`, or `http` on this host's loopback. Without one, nobody is asked.
    pub url: Option<String>,
    /// The file of the key that requests are signed with (HMAC-SHA-256): `whsec_` and at least 24 bytes in Base64, as libraries of Standard Webhooks have it, or else at least 32 bytes, which are taken as they stand.
    pub secret_file: Option<PathBuf>,
    /// The systemd credential that is this key, instead of `secret_file`.
    pub secret_credential: Option<String>,
    /// The authorities, in PEM, one of which must vouch for its certificate. Default `"/etc/ssl/certs/ca-certificates.crt"`.
    pub ca_file: PathBuf,
    /// How long a licence waits for the answer. A viewer's questions are put one after the other, and 128 of all viewers at once: a question waits for its turn at most twice as long. Default `"1s"`.
    pub timeout: Span,
    /// For how long an answer is taken again for the same question, which is of one token, asset, keys, system, policy, stream, device and country; `"0s"`: it is not. Default `"10s"`.
    pub cache: Span,
    /// Gives the licence where no answer comes: the request fails, takes too long, or is not made for 10 s after five that did. Not where a question waits too long for its turn, which viewers could bring about who are denied: they are refused. Default `false`.
    pub fail_open: bool,
}

impl Default for WebhookDocument {
    fn default() -> Self {
        Self {
            url: None,
            events: None,
            secret_file: None,
            secret_credential: None,
            ca_file: "/etc/ssl/certs/ca-certificates.crt".into(),
            timeout: Span::seconds(5),
        }
    }
}

impl Default for AuthorisationDocument {
    fn default() -> Self {
        Self {
            url: None,
            secret_file: None,
            secret_credential: None,
            ca_file: "/etc/ssl/certs/ca-certificates.crt".into(),
            timeout: Span::seconds(1),
            cache: Span::seconds(10),
            fail_open: false,
        }
    }
}
