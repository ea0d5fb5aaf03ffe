//! What is written in `castellum.toml`.
//!
//! The doc comments are the reference: `README.md` is rendered from them. Each key's comment ends with its
//! default; a key without one is not set unless it is written.

mod defaults;
mod exchange;
mod issuers;
mod license;
mod sessions;
mod terms;
mod upstreams;
mod webhooks;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use self::exchange::*;
pub use self::issuers::*;
pub use self::license::*;
pub use self::sessions::*;
pub use self::terms::*;
pub use self::upstreams::*;
pub use self::webhooks::*;

use crate::address::Address;
use crate::settings::*;
use crate::units::{Size, Span};

/// The whole file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Document {
    /// Folder of the Unix sockets, one sub-folder per role. Default `"/run/castellum"`.
    pub runtime_dir: PathBuf,
    /// What is logged.
    pub log: LogDocument,
    /// How a process ends after SIGTERM.
    pub drain: DrainDocument,
    /// The packager and media server.
    pub origin: OriginDocument,
    /// The licence server.
    pub license: LicenseDocument,
    /// The keeper of keys.
    pub keystore: KeystoreDocument,
    /// What decides the bytes of media, by name. A file that has any pack has only its own.
    pub packs: BTreeMap<String, PackDocument>,
    /// Named views of every title, which decide manifests and licences. A file that has any policy has only its own.
    pub policies: BTreeMap<String, PolicyDocument>,
    /// Whose titles these are. There is exactly one, `default`: each tenant has processes and a configuration of its own (`license/README.md`, Tenants).
    pub tenants: BTreeMap<String, TenantDocument>,
}

/// What is logged. Lines go to standard error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogDocument {
    /// `json`, one object a line, or `text` for people. Default `"json"`.
    pub format: LogFormat,
    /// The least severe level that is written, by target: `info`, or `warn,origin=debug`. Default `"info"`.
    pub filter: String,
    /// One line for each request, without its query and without tokens. Those of the licence server have the block of the client's address, unless `license.log_full_addresses` asks for more. Default `true`.
    pub access: bool,
}

/// How a process ends after SIGTERM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DrainDocument {
    /// Not ready, but connections are still taken for this long, so that load balancers notice. Default `"5s"`.
    pub delay: Span,
    /// What is in flight may then take this long. Default `"30s"`.
    pub timeout: Span,
}

/// The origin role.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OriginDocument {
    /// The media: `ROOT/NAME.mp4` is the asset NAME, `ROOT/NAME/*` one asset of several files. Default `"/srv/castellum/media"`.
    pub media_root: PathBuf,
    /// The catalogue and a self-signed certificate. Default `"/var/lib/castellum/origin"`.
    pub state_dir: PathBuf,
    /// Indexes; may be deleted at any time. Default `"/var/cache/castellum/origin"`.
    pub cache_dir: PathBuf,
    /// A file is taken up when its size and mtime have stood still for this long. Default `"2s"`.
    pub settle: Span,
    /// How often the media root is looked through. Default `"2s"`.
    pub scan_interval: Span,
    /// How long superseded manifests and media stay servable. Default `"24h"`.
    pub hold: Span,
    /// `max-age` of `main.m3u8` and `main.mpd`: how soon a changed title is seen. Default `"2s"`.
    pub alias_ttl: Span,
    /// Worker threads; 0 takes one for each processor. Default `0`.
    pub workers: usize,
    /// How AES is computed: `vaes`, `aes-ni` or `portable`, or `auto` for the fastest that the processor has. The bytes are the same. Default `"auto"`.
    pub ciphers: Ciphers,
    /// How mezzanine files are read.
    pub storage: StorageDocument,
    /// HTTP/1.1, /2 and /3 over TLS.
    pub tls: OriginTlsDocument,
    /// HTTP/1.1 and h2c, for CDNs and shields on private networks.
    pub plain: OriginPlainDocument,
    /// Health, metrics, API and console.
    pub admin: OriginAdminDocument,
    /// Bounds of what clients may ask at once.
    pub limits: OriginLimitsDocument,
    /// Bounds of what is kept in memory. Media is not: the page cache keeps it.
    pub cache: CacheDocument,
}

/// How mezzanine files are read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StorageDocument {
    /// `map`, from memory mappings, or `read`, which maps none of them: for network and shared file systems. Default `"map"`.
    pub mode: StorageMode,
    /// How cold bytes are read: `uring`, `blocking`, or `auto`, which takes io_uring where the kernel allows it. Default `"auto"`.
    pub cold: ColdReads,
}

/// The origin's TLS listener.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OriginTlsDocument {
    /// Address and port, or `off`. Default `"[::]:8443"`.
    pub listen: Address,
    /// HTTP/3 on the UDP port of the same number. Default `true`.
    pub h3: bool,
    /// Says in `Alt-Svc` that there is HTTP/3. Off behind a CDN, which would cache it. Default `true`.
    pub alt_svc: bool,
    /// The certificate chain in PEM, leaf first. Without one, a self-signed certificate is made in `state_dir`.
    pub certificate: Option<PathBuf>,
    /// The file of its private key, in PEM.
    pub key_file: Option<PathBuf>,
    /// The systemd credential that is its private key, instead of `key_file`.
    pub key_credential: Option<String>,
}

/// The origin's plain listener.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OriginPlainDocument {
    /// Address and port, or `off`. Default `"[::]:8080"`.
    pub listen: Address,
}

/// The origin's admin listener; also that of all roles in one process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OriginAdminDocument {
    /// Address and port, or `off`. Default `"127.0.0.1:9090"`.
    pub listen: Address,
    /// Names by which it may be addressed besides `localhost` and its own address. Default `[]`.
    pub hosts: Vec<String>,
}

/// The origin's limits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OriginLimitsDocument {
    /// A request's whole header section. Default `"16KiB"`.
    pub header: Size,
    /// From the first byte of a header section to its last. Default `"5s"`.
    pub header_timeout: Span,
    /// A connection with nothing in flight is closed after this. Default `"1m"`.
    pub idle_timeout: Span,
    /// Open connections. Default `10000`.
    pub connections: usize,
    /// Requests whose response is not yet wholly sent; above it, 503 with `Retry-After`. Default `4096`.
    pub in_flight: usize,
    /// Concurrent streams of one h2 or h3 connection. Default `128`.
    pub streams: u32,
}

/// What the origin keeps in memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheDocument {
    /// Planned responses and their generated bytes. Default `"128MiB"`.
    pub layouts: Size,
    /// Rendered manifests. Default `"64MiB"`.
    pub manifests: Size,
}

/// The keystore role.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeystoreDocument {
    /// Key records and the audit log. Default `"/var/lib/castellum/keystore"`.
    pub state_dir: PathBuf,
    /// How long the origin may hold keys before it asks again. Default `"10m"`.
    pub lease_term: Span,
    /// The file of the passphrase to unseal with at the start, of 8 to 4096 bytes. Without one, the keystore waits for `castellum keystore unseal`.
    pub passphrase_file: Option<PathBuf>,
    /// The systemd credential that is the passphrase, instead of `passphrase_file`.
    pub passphrase_credential: Option<String>,
    /// The file of a key to unseal with at the start: 32 random bytes at least, which no person types and nothing stretches.
    pub key_file: Option<PathBuf>,
    /// The systemd credential that is this key, instead of `key_file`.
    pub key_credential: Option<String>,
    /// Makes a root at the first start, kept by all that is configured here: passphrase, key, token, service. Each opens it alone. Default `false`.
    pub init_at_start: bool,
    /// How long shares that are not yet enough, and a ceremony that is not at its end, stay in memory after the last step. Default `"15m"`.
    pub share_patience: Span,
    /// Refuses to start where key memory cannot be locked. Default `false`.
    pub require_locked_memory: bool,
    /// The record of what was destroyed, which a restore needs. It belongs on another disk than the backups. Without one, `tombstones.log` in `state_dir`.
    pub tombstone_file: Option<PathBuf>,
    /// How long a request that needs two operators waits for the second. Default `"1h"`.
    pub approval_term: Span,
    /// The assets whose keys come from outside; `*` is all. None is made here: origin and encryptors are refused until keys were fetched or imported. Those of `license.exchange.vendors` in the same file count as well. Default `[]`.
    pub external_assets: Vec<String>,
    /// The cost of one guess at the passphrase (Argon2id). It is kept with the root when that is made.
    pub argon2: Argon2Document,
    /// The PKCS#11 token that keeps the root, if one does.
    pub pkcs11: Pkcs11Document,
    /// The transit service (Vault, OpenBao) that keeps the root, if one does.
    pub transit: TransitDocument,
    /// The PostgreSQL database that several keystores share. Without one, key records are in SQLite, in `state_dir`.
    pub postgres: PostgresDocument,
    /// Room for the audit log. Without a record no key leaves: from 80 % on there is an alarm, in the reserve no key is made any more, in its second half none is handed out, and the rest is for what operators do.
    pub audit: AuditDocument,
    /// How much of a minute's work is still ordinary, for each caller. Beyond it nothing is handed out to that caller until the minute is over, the audit log says so, and `castellum_keystore_budget_exceeded_total` counts it. Key exchange counts for each of `license.exchange.callers` and `license.exchange.vendors` of the same file by itself, and for the licence role where a partner is not named there.
    pub budget: BudgetDocument,
    /// The keystore's admin listener, for the metrics that alarms hang on.
    pub admin: KeystoreAdminDocument,
    /// Where other machines' origins and licence servers reach the keystore: leases and exports only, by TLS with client certificates.
    pub listener: ListenerDocument,
    /// The machines that may, by name. The name stands in the audit log.
    pub nodes: BTreeMap<String, NodeDocument>,
    /// On such a machine: the keystore that its roles ask, instead of one of its own.
    pub core: CoreDocument,
    /// Who may do what, by name. The roles of one process are the callers `origin` and `license`. A file that has any caller has only its own; root and the keystore's own user are operators in any case.
    pub callers: BTreeMap<String, CallerDocument>,
}

/// Room for the audit log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuditDocument {
    /// The length at which the log is full: some 400 bytes for each licence; 8 MiB at the least. Default `"1GiB"`.
    pub capacity: Size,
    /// What is taken from the disk ahead of the log: 2 MiB to 1 GiB, and at most a quarter of the capacity. Default `"16MiB"`.
    pub reserve: Size,
}

/// What a caller may use in a minute.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BudgetDocument {
    /// Keys leased and exported, each as often as it is. Default `600000`.
    pub uses: u32,
    /// Different keys: whoever goes through the catalogue asks for many. Default `10000`.
    pub keys: u32,
    /// Refusals: whoever asks for what it was not granted tries to find out what there is. As many refusals to describe keys, which viewers cause who ask a licence server for assets that it was not granted, raise the alarm (`limit="descriptions"`) and stop nothing. Default `16`.
    pub denials: u32,
}

/// The cost of Argon2id (RFC 9106).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Argon2Document {
    /// Memory. Default `"64MiB"`.
    pub memory: Size,
    /// Passes over it. Default `3`.
    pub passes: u32,
    /// Lanes. Default `4`.
    pub lanes: u32,
}

/// A PKCS#11 token (OASIS PKCS #11 v2.40 and later). The key that it makes for this never leaves it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pkcs11Document {
    /// The maker's module, such as `/usr/lib/softhsm/libsofthsm2.so`. It is loaded by a process of its own, never by the keystore's. Not in the static build.
    pub module: Option<PathBuf>,
    /// The token's label. Required with `module`.
    pub token: Option<String>,
    /// The label under which the key is made on the token. Default `"castellum"`.
    pub key: String,
    /// The file of the user's PIN.
    pub pin_file: Option<PathBuf>,
    /// The systemd credential that is the PIN, instead of `pin_file`.
    pub pin_credential: Option<String>,
    /// How long the token may take for one question. Default `"10s"`.
    pub timeout: Span,
}

/// A PostgreSQL database, whose owner the user is. Key records lie there wrapped; each keystore unseals itself, and has its audit log and its tombstones in its own `state_dir`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PostgresDocument {
    /// Where it is and as whom: `postgres://castellum@db.example.com:5432/castellum`, always over TLS, or `postgres://castellum@/castellum?host=/run/postgresql` by a socket on this machine.
    pub url: Option<String>,
    /// The file of the user's password, read anew at each connection.
    pub password_file: Option<PathBuf>,
    /// The systemd credential that is the password, instead of `password_file`.
    pub password_credential: Option<String>,
    /// Authorities from which the server's certificate may come, beside the system's, in PEM.
    pub ca_file: Option<PathBuf>,
    /// The most connections of this keystore. Default `8`.
    pub connections: u32,
    /// How long one question may take. Default `"2s"`.
    pub timeout: Span,
    /// How long keys that were read before are still handed out while the database does not answer, each with its record. What another keystore destroys meanwhile is not known here. Default `"15m"`.
    pub survival: Span,
}

/// The transit engine of HashiCorp Vault or OpenBao. It is asked at unsealing, never for a licence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TransitDocument {
    /// Where it is, by HTTPS: `https://vault.example.com:8200`.
    pub url: Option<String>,
    /// The path at which the engine is mounted. Default `"transit"`.
    pub mount: String,
    /// The name of its key, which must be one that encrypts (`aes256-gcm96`). Default `"castellum"`.
    pub key: String,
    /// The namespace, where the service has them.
    pub namespace: Option<String>,
    /// The file of the token, read anew each time: an agent may renew it.
    pub token_file: Option<PathBuf>,
    /// The systemd credential that is the token, instead of `token_file`.
    pub token_credential: Option<String>,
    /// The certificates from which the service's must come, in PEM. Default `"/etc/ssl/certs/ca-certificates.crt"`.
    pub ca_file: PathBuf,
    /// How long one question may take. Default `"10s"`.
    pub timeout: Span,
}

/// Used where the keystore has a process of its own, whose unit then needs a drop-in for the network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeystoreAdminDocument {
    /// Address and port, or `off`. Default `"off"`.
    pub listen: Address,
    /// Names by which it may be addressed besides `localhost` and its own address. Default `[]`.
    pub hosts: Vec<String>,
}

/// The keystore's listener for other machines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListenerDocument {
    /// Address and port, or `"off"`. Default `"off"`.
    pub listen: Address,
    /// Its certificate, in PEM. Required where it listens.
    pub certificate: Option<PathBuf>,
    /// The file of the certificate's private key, in PEM.
    pub key_file: Option<PathBuf>,
    /// The systemd credential that is this key, instead of `key_file`.
    pub key_credential: Option<String>,
}

/// One machine that may ask the keystore.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeDocument {
    /// The machine's certificate, in PEM: this one and no other, as `castellum keystore enrol` makes it. Required.
    pub certificate: Option<PathBuf>,
    /// The public half of the machine's node key, 64 hexadecimal digits: what is handed out is encrypted to it. Required.
    pub node_key: Option<String>,
    /// `lease` (hold keys to encrypt with), `export` (take keys for a licence), or both. Required.
    pub may: Option<Vec<CallerRight>>,
    /// The assets for which it may; `*` is all. Required.
    pub assets: Option<Vec<String>>,
    /// How long it may hold keys, also while it cannot reach the keystore; it asks anew after three quarters of that. Without one, `keystore.lease_term`.
    pub lease_term: Option<Span>,
}

/// The keystore of another machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CoreDocument {
    /// Its listener, such as `"core.example.com:8445"`. Without one, the roles ask the keystore of this machine.
    pub address: Option<String>,
    /// The certificates from which its certificate must come, in PEM; it may be itself. Required with `address`.
    pub ca_file: Option<PathBuf>,
    /// This machine's certificate, in PEM. Required with `address`.
    pub certificate: Option<PathBuf>,
    /// The file of the certificate's private key, in PEM.
    pub key_file: Option<PathBuf>,
    /// The systemd credential that is this key, instead of `key_file`.
    pub key_credential: Option<String>,
    /// The file of this machine's node key.
    pub node_key_file: Option<PathBuf>,
    /// The systemd credential that is the node key, instead of `node_key_file`.
    pub node_key_credential: Option<String>,
}

/// One caller of the keystore.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CallerDocument {
    /// The Unix user whose processes are this caller: a name of `/etc/passwd`, or a number in quotes. Without one, it is in-process only.
    pub user: Option<String>,
    /// Any of `lease` (hold keys to encrypt with), `export` (take keys for a licence), `exchange` (have keys made under ids that other vendors chose, and hand them out), `deposit` (bring keys from outside), `operate` (unseal, list, destroy) and `audit` (read the log). Required.
    pub may: Option<Vec<CallerRight>>,
    /// The assets for which it may lease, export, exchange and deposit; `*` is all. Default `["*"]`.
    pub assets: Option<Vec<String>>,
}

/// What decides the bytes of media.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PackDocument {
    /// `cbcs`, `cenc` or `clear`. Required.
    pub scheme: Option<PackScheme>,
    /// A segment begins at the first key frame at or after each multiple of this. Default `"4s"`.
    pub segment_duration: Option<Span>,
    /// The version of the byte layout. Raising it renames and rewrites all media of the pack. Default `1`.
    pub writer: Option<u16>,
}

/// A named view of every title.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PolicyDocument {
    /// The pack. Required.
    pub pack: Option<String>,
    /// The DRM systems, in the order in which manifests name them: `clearkey`, `widevine`, `playready`, `fairplay`. None for a clear pack. Default `[]`.
    pub systems: Option<Vec<System>>,
    /// How ClearKey is spelled in HLS: `clearkey` (hls.js), `identity` (shaka-player), or `both` (`cenc` only). Default `"clearkey"`.
    pub hls_clear_key: Option<HlsClearKey>,
    /// The version of the manifests' text. Default `1`.
    pub writer: Option<u16>,
    /// What its licences say.
    pub license: PolicyLicenseDocument,
}

/// What a tenant allows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TenantDocument {
    /// Its titles may be had clear. Default `false`.
    pub allow_clear: bool,
    /// Its keys may be handed to players in the open, as ClearKey does. Default `false`.
    pub allow_clear_key: bool,
}
