//! `[license.sessions]` and what goes with it: who may have a licence now, from where and how often.

use super::*;

/// Streams, devices and tokens that are used up. Unless one of these, or a token, asks for it, no licence touches the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SessionsDocument {
    /// How many streams a subject may play at once; a token may say another number. 0: as many as it likes. Default `0`.
    pub streams: u32,
    /// How long a stream counts after a licence or a renewal. Players come again before. Default `"2m"`.
    pub lease: Span,
    /// How much longer its place stays taken. Nodes' clocks may stand apart by less than this. Default `"30s"`.
    pub grace: Span,
    /// The request header by which a player says which of its streams it is, such as `X-Session-Id`. Without one it is the token's `jti`.
    pub session_header: Option<String>,
    /// How many devices a subject may use. 0: as many as it likes. Default `0`.
    pub devices: u32,
    /// A device that was not used for this long counts no longer. Default `"720h"`.
    pub device_term: Span,
    /// The request header in which a player names its device, such as `X-Device-Id`. Required with `devices`.
    pub device_header: Option<String>,
    /// Every token is good for one licence, whether or not it says so itself. It then needs a `jti`. Default `false`.
    pub single_use: bool,
    /// For how long the same request with a used token is answered again: its answer may have been lost. Default `"30s"`.
    pub retry_window: Span,
    /// Looks whether subjects, tokens and keys were revoked (`/api/v1/revocations`). Default `false`.
    pub revocations: bool,
    /// How often each node reads what was revoked: so long until it takes effect everywhere. Default `"5s"`.
    pub revocation_interval: Span,
    /// When it could not be read for this long no licence is given any more. Default `"1m"`.
    pub revocation_staleness: Span,
}

/// Where streams, devices, used tokens and revocations are kept. Without a database, in SQLite, in `state_dir`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LicenseStoreDocument {
    /// The most rows of each kind. What cannot be remembered is refused. Default `1000000`.
    pub capacity: u64,
    /// The PostgreSQL database that several licence servers share.
    pub postgres: LicensePostgresDocument,
}

/// A PostgreSQL database, whose owner the user is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LicensePostgresDocument {
    /// Where it is and as whom: `postgres://castellum@db.example.com:5432/castellum`, always over TLS, or `postgres://castellum@/castellum?host=/run/postgresql` by a socket on this machine.
    pub url: Option<String>,
    /// The file of the user's password, read anew at each connection.
    pub password_file: Option<PathBuf>,
    /// The systemd credential that is the password, instead of `password_file`.
    pub password_credential: Option<String>,
    /// Authorities from which the server's certificate may come, beside the system's, in PEM.
    pub ca_file: Option<PathBuf>,
    /// The most connections. Default `8`.
    pub connections: u32,
    /// How long one question may take. Default `"2s"`.
    pub timeout: Span,
}

/// From where licences may be asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccessDocument {
    /// The addresses of proxies that are believed in what the two headers below say, each an address or a block such as `10.0.0.0/8`. Default `[]`.
    pub proxies: Vec<String>,
    /// The header in which a proxy gives the client's address, such as `X-Forwarded-For`: of several, the last that is no proxy's. What a proxy sends without it is refused. Without this key, the connection's address counts.
    pub address_header: Option<String>,
    /// The header in which a proxy gives the client's country in two letters (ISO 3166-1), such as `CloudFront-Viewer-Country`. The proxy must set it, not add to it: several values are refused where countries matter.
    pub country_header: Option<String>,
    /// A MaxMind DB file with countries by address. It is read again when it has changed.
    pub country_file: Option<PathBuf>,
    /// The addresses that get licences; none: all. Default `[]`.
    pub allow: Vec<String>,
    /// The addresses that get none, also of those that `allow` names. Default `[]`.
    pub deny: Vec<String>,
    /// The countries that get licences, such as `SE`; none: all. Who is in no country that is known gets none. Default `[]`.
    pub countries: Vec<String>,
    /// The countries that get none. Default `[]`.
    pub denied_countries: Vec<String>,
}

/// How many licences may be asked for in a minute, at this node. A minute's worth may come at once. 0 is no limit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RatesDocument {
    /// By all. Default `0`.
    pub tenant: u32,
    /// From one address; in version 6 from one /64. Default `0`.
    pub address: u32,
    /// By one subject. Default `0`.
    pub subject: u32,
    /// For one key. Default `0`.
    pub key: u32,
}

impl Default for SessionsDocument {
    fn default() -> Self {
        Self {
            streams: 0,
            lease: Span::seconds(120),
            grace: Span::seconds(30),
            session_header: None,
            devices: 0,
            device_term: Span::seconds(720 * 3600),
            device_header: None,
            single_use: false,
            retry_window: Span::seconds(30),
            revocations: false,
            revocation_interval: Span::seconds(5),
            revocation_staleness: Span::seconds(60),
        }
    }
}

impl Default for LicenseStoreDocument {
    fn default() -> Self {
        Self {
            capacity: 1_000_000,
            postgres: LicensePostgresDocument::default(),
        }
    }
}

impl Default for LicensePostgresDocument {
    fn default() -> Self {
        Self {
            url: None,
            password_file: None,
            password_credential: None,
            ca_file: None,
            connections: 8,
            timeout: Span::seconds(2),
        }
    }
}
