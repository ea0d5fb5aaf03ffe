//! What is told to others, and what they are asked.

use super::*;

/// Another server that signed requests are sent to.
#[derive(Clone, Debug)]
pub struct HookSettings {
    /// The table that it stands in, which errors name.
    pub table: String,
    /// Whether by TLS; otherwise it is on this host.
    pub tls: bool,
    /// Its host, and its port unless that is the scheme's own.
    pub authority: String,
    /// The path, with a slash at its front.
    pub path: String,
    /// The key that requests are signed with.
    pub secret: SecretSource,
    /// The authorities that vouch for it, in PEM.
    pub ca_file: PathBuf,
    /// How long one request may take.
    pub timeout: Duration,
}

/// Whoever is told what happened.
#[derive(Clone, Debug)]
pub struct WebhookSettings {
    /// Where.
    pub hook: HookSettings,
    /// What; at least one.
    pub events: Vec<WebhookEvent>,
}

/// Whoever is asked before a licence is given.
#[derive(Clone, Debug)]
pub struct AuthorisationSettings {
    /// Where.
    pub hook: HookSettings,
    /// For how long an answer is taken again.
    pub cache: Duration,
    /// The licence is given where no answer comes.
    pub fail_open: bool,
}

/// Something that is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WebhookEvent {
    /// A licence was given.
    Granted,
    /// A licence was refused to somebody who is known.
    Refused,
    /// A stream began.
    SessionStarted,
    /// A player said that its stream ended.
    SessionEnded,
    /// A stream ran out: no renewal came within its lease and the grace.
    SessionExpired,
    /// A subject uses a device that it had not.
    DeviceAdded,
}
