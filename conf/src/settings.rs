//! What a configuration means: typed and checked, one struct per role, each with everything that its role
//! needs. Only [`crate::load`] makes these, so whoever holds one need not check it again.

mod exchange;
mod issuers;
mod license;
mod sessions;
mod terms;
mod upstreams;
mod webhooks;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

pub use self::exchange::*;
pub use self::issuers::*;
pub use self::license::*;
pub use self::sessions::*;
pub use self::terms::*;
pub use self::upstreams::*;
pub use self::webhooks::*;
use crate::{SecretSource, User};

/// Everything that was configured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The packager and media server.
    pub origin: OriginSettings,
    /// The licence server.
    pub license: LicenseSettings,
    /// The keeper of keys.
    pub keystore: KeystoreSettings,
    /// The keystore of another machine, where the roles of this one ask that.
    pub core: Option<CoreSettings>,
    /// What is logged, and how.
    pub log: LogSettings,
}

/// What the origin needs.
#[derive(Clone, Debug)]
pub struct OriginSettings {
    /// The folder of mezzanine files: `ROOT/NAME.mp4` or `ROOT/NAME/*`.
    pub media_root: PathBuf,
    /// What must survive: the catalogue, a self-signed certificate.
    pub state_dir: PathBuf,
    /// What may be deleted at any time: the indexes.
    pub cache_dir: PathBuf,
    /// The Unix socket on which the verbs that change state are taken.
    pub control_socket: PathBuf,
    /// The keystore's Unix socket, when it runs in another process.
    pub keystore_socket: PathBuf,
    /// How long a file's size and mtime must stand still before it is taken up.
    pub settle: Duration,
    /// How often the media root is looked through.
    pub scan_interval: Duration,
    /// How long a superseded revision or media id stays servable.
    pub hold: Duration,
    /// `max-age` of an alias: how soon a changed title is seen.
    pub alias_ttl: Duration,
    /// Worker threads, each with its own sockets and runtime.
    pub workers: NonZeroUsize,
    /// How mezzanine files are read.
    pub storage: StorageSettings,
    /// How AES is computed.
    pub ciphers: Ciphers,
    /// The listeners, in the order TLS, plain; at least one.
    pub listeners: Vec<ListenerSettings>,
    /// The admin listener.
    pub admin: AdminSettings,
    /// The certificate of the TLS listener.
    pub tls: TlsIdentity,
    /// Bounds of what clients may ask at once.
    pub limits: RequestLimits,
    /// Bounds of what is kept in memory.
    pub cache: CacheLimits,
    /// How the process ends.
    pub drain: Drain,
    /// The base of licence URLs in manifests, without a trailing slash.
    pub license_url: String,
    /// What decides bytes, by name.
    pub packs: BTreeMap<String, PackSettings>,
    /// What decides manifests, by name.
    pub policies: BTreeMap<String, PolicySettings>,
    /// Whose assets these are, and what that tenant allows.
    pub tenant: TenantSettings,
}

/// What the keystore needs.
#[derive(Clone, Debug)]
pub struct KeystoreSettings {
    /// The key records and the audit log.
    pub state_dir: PathBuf,
    /// The Unix socket on which the other roles ask for keys.
    pub socket: PathBuf,
    /// The Unix socket on which operators unseal, list and destroy.
    pub control_socket: PathBuf,
    /// Who may do what, by name. `origin` and `license` are also the callers that the roles of one process are.
    pub callers: BTreeMap<String, CallerSettings>,
    /// Whose keys these are: the tenant of every asset.
    pub tenant: String,
    /// How long a lease may be held.
    pub lease_term: Duration,
    /// The passphrase to unseal with at the start; without one the keystore waits for `keystore unseal`.
    pub passphrase: Option<SecretSource>,
    /// The random key to unseal with at the start, at least 32 bytes.
    pub key: Option<SecretSource>,
    /// The PKCS#11 token to unseal with at the start.
    pub pkcs11: Option<Pkcs11Settings>,
    /// The transit service to unseal with at the start.
    pub transit: Option<TransitSettings>,
    /// The database that several keystores share; none: SQLite in the state folder.
    pub postgres: Option<PostgresSettings>,
    /// Makes a root at the first start, kept by each of those that are set.
    pub init_at_start: bool,
    /// How long shares that are not yet enough, or a ceremony under way, are kept after the last step.
    pub share_patience: Duration,
    /// The cost of one guess at the passphrase; kept with the root when it is made.
    pub argon2: Argon2Settings,
    /// Room for the audit log.
    pub audit: AuditSettings,
    /// What a caller may use in a minute.
    pub budget: BudgetSettings,
    /// The partners of key exchange whose names stand in the same file: each has a budget of its own.
    pub partners: Vec<String>,
    /// Refuses to start where key memory cannot be locked; otherwise says so and goes on.
    pub require_locked_memory: bool,
    /// The record of what was destroyed; none: `tombstones.log` in the state folder.
    pub tombstone_file: Option<PathBuf>,
    /// How long a request that needs two operators waits for the second.
    pub approval_term: Duration,
    /// The assets whose keys come from outside: names, or `*` for all.
    pub external_assets: Vec<String>,
    /// The admin listener of a process that is nothing but a keystore.
    pub admin: AdminSettings,
    /// Where other machines reach it.
    pub listener: Option<KeystoreListenerSettings>,
    /// The machines that may, by name.
    pub nodes: BTreeMap<String, NodeSettings>,
    /// How the process ends.
    pub drain: Drain,
}

/// The keystore's listener for other machines.
#[derive(Clone, Debug)]
pub struct KeystoreListenerSettings {
    /// Where.
    pub address: SocketAddr,
    /// Its certificate, in PEM.
    pub certificate: PathBuf,
    /// The certificate's private key, in PEM.
    pub key: SecretSource,
}

/// A machine that may ask the keystore.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// Its certificate, in PEM: this one and no other.
    pub certificate: PathBuf,
    /// The X25519 public key (RFC 7748) to which what it gets is encrypted.
    pub node_key: [u8; 32],
    /// Leases, exports or both.
    pub may: Vec<CallerRight>,
    /// For these assets: names, or `*` for all.
    pub assets: Vec<String>,
    /// How long it may hold keys; none: as everybody.
    pub lease_term: Option<Duration>,
}

/// The keystore of another machine, as a node reaches it.
#[derive(Clone, Debug)]
pub struct CoreSettings {
    /// Its name, which its certificate bears, or its IP address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The certificates from which its certificate must come, in PEM.
    pub ca_file: PathBuf,
    /// The node's certificate, in PEM.
    pub certificate: PathBuf,
    /// The certificate's private key, in PEM.
    pub key: SecretSource,
    /// The node's X25519 private key, 64 hexadecimal digits.
    pub node_key: SecretSource,
}

/// A PKCS#11 token.
#[derive(Clone, Debug)]
pub struct Pkcs11Settings {
    /// The shared library.
    pub module: PathBuf,
    /// The token's label.
    pub token: String,
    /// The label of the key on it.
    pub key: String,
    /// The user's PIN.
    pub pin: SecretSource,
    /// The most that one question may take.
    pub timeout: Duration,
    /// The program that loads the module and asks; none: the one that runs, started anew.
    pub process: Option<PathBuf>,
}

/// A PostgreSQL database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresSettings {
    /// Where it is.
    pub host: PostgresHost,
    /// As whom.
    pub user: String,
    /// Its name.
    pub database: String,
    /// The user's password.
    pub password: Option<SecretSource>,
    /// Authorities from which the server's certificate may come, beside the system's, in PEM.
    pub ca_file: Option<PathBuf>,
    /// The most connections.
    pub connections: usize,
    /// How long one question may take.
    pub timeout: Duration,
    /// How long keys that were read before are handed out while the database does not answer.
    pub survival: Duration,
}

/// Where a PostgreSQL server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PostgresHost {
    /// On this machine: the folder of its socket, which is reached in clear.
    Socket(PathBuf),
    /// Reached over TLS.
    Tcp {
        /// Its name, as in its certificate, or its address.
        host: String,
        /// Its port.
        port: u16,
    },
}

/// The transit engine of Vault or OpenBao.
#[derive(Clone, Debug)]
pub struct TransitSettings {
    /// The authority of its HTTPS URLs: host, and port where it is not 443.
    pub authority: String,
    /// The path of its URLs before `/v1`, empty or with a leading slash.
    pub base: String,
    /// Where the engine is mounted.
    pub mount: String,
    /// The name of the key.
    pub key: String,
    /// `X-Vault-Namespace`.
    pub namespace: Option<String>,
    /// `X-Vault-Token`, read anew each time.
    pub token: SecretSource,
    /// Certificates in PEM from which the server's must come.
    pub ca_file: PathBuf,
    /// The most that one question may take.
    pub timeout: Duration,
}

/// Room for the audit log, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditSettings {
    /// The length at which the log is full.
    pub capacity: u64,
    /// What is taken from the disk ahead of the log; at most a quarter of the capacity.
    pub reserve: u64,
}

/// What a caller may use in a minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetSettings {
    /// Keys leased and exported, each as often as it is.
    pub uses: u32,
    /// Different keys.
    pub keys: u32,
    /// Refusals.
    pub denials: u32,
}

/// One caller of the keystore.
#[derive(Clone, Debug)]
pub struct CallerSettings {
    /// The Unix user whose processes are this caller; none: in-process only.
    pub user: Option<User>,
    /// What it may do.
    pub may: Vec<CallerRight>,
    /// The assets for which it may lease, export, exchange and deposit: names, or `*` for all.
    pub assets: Vec<String>,
}

/// What a caller of the keystore may do.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum CallerRight {
    /// Hold keys to encrypt with.
    Lease,
    /// Take keys that a verified entitlement names, to put them into a licence.
    Export,
    /// Have keys made under ids that other vendors chose, and hand them out.
    Exchange,
    /// Bring keys from outside.
    Deposit,
    /// Initialise, unseal, seal, list and destroy.
    Operate,
    /// Read the audit log, and nothing else.
    Audit,
}

/// Argon2id's cost (RFC 9106 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argon2Settings {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

/// One listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerSettings {
    /// Where it listens; port 0 takes a free one.
    pub address: SocketAddr,
    /// What it speaks.
    pub transport: Transport,
}

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// HTTP/1.1 and h2c.
    Plain,
    /// HTTP/1.1 and HTTP/2 over TLS.
    Tls {
        /// HTTP/3 on the UDP port of the same number.
        h3: bool,
        /// Says so in `Alt-Svc`.
        alt_svc: bool,
    },
}

/// Where a TLS listener's certificate comes from.
#[derive(Clone, Debug)]
pub enum TlsIdentity {
    /// PEM files: the chain, leaf first, and its private key.
    Files {
        /// The chain.
        certificate: PathBuf,
        /// The key, by file or credential.
        key: SecretSource,
    },
    /// A self-signed certificate, made once and kept in this folder.
    SelfSigned {
        /// The role's state folder.
        state_dir: PathBuf,
    },
}

/// The admin listener of a role: health, metrics, API, console. Plain HTTP.
#[derive(Clone, Debug)]
pub struct AdminSettings {
    /// Where it listens; none: it does not.
    pub address: Option<SocketAddr>,
    /// `Host` names that it answers to besides `localhost` and its own address, so that a foreign page cannot reach it by
    /// rebinding a name.
    pub hosts: Vec<String>,
}

/// Bounds of what clients may ask at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    /// A request's whole header section, in bytes.
    pub header_bytes: usize,
    /// From the first byte of a header section to its last.
    pub header_timeout: Duration,
    /// A connection with no request in flight is closed after this.
    pub idle_timeout: Duration,
    /// Open connections, over all workers.
    pub connections: usize,
    /// Requests whose response is not yet wholly sent, over all workers.
    pub in_flight: usize,
    /// Concurrent streams of one h2 or h3 connection.
    pub streams: u32,
}

/// Bounds of what the origin keeps in memory, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheLimits {
    /// Planned responses and their generated headers.
    pub layouts: u64,
    /// Rendered manifests.
    pub manifests: u64,
}

/// How mezzanine files are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StorageSettings {
    /// Whether they are mapped.
    pub mode: StorageMode,
    /// How what is not in memory is read.
    pub cold: ColdReads,
}

/// Whether mezzanine files are mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StorageMode {
    /// From memory mappings, where the kernel says truly what of them is in memory.
    Map,
    /// By system calls only: for file systems whose files change behind a mapping's back.
    Read,
}

/// How AES is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ciphers {
    /// By the fastest of these that the processor has.
    Auto,
    /// Two blocks to a register (VAES with AVX2).
    Vaes,
    /// One block to a register (AES-NI).
    AesNi,
    /// By safe portable code.
    Portable,
}

/// How cold bytes are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ColdReads {
    /// By io_uring where the kernel lets us, else by the blocking pool.
    Auto,
    /// By io_uring, or not at all.
    Uring,
    /// By the blocking pool.
    Blocking,
}

/// How a process ends after SIGTERM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// Readiness is already false and connections are still taken, so that load balancers notice.
    pub delay: Duration,
    /// What is in flight may take this much longer.
    pub timeout: Duration,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// One JSON object a line, or text for people.
    pub format: LogFormat,
    /// A `tracing` filter, such as `info` or `info,origin=debug`.
    pub filter: String,
    /// One line for each request.
    pub access: bool,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// Text for people.
    Text,
}

/// What decides the bytes of media.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackSettings {
    /// How it is protected.
    pub scheme: PackScheme,
    /// The length that segments aim at.
    pub segment_duration: Duration,
    /// The version of the byte layout; raising it renames and rewrites all media of the pack.
    pub writer: u16,
}

/// How a pack is protected (ISO/IEC 23001-7 10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PackScheme {
    /// AES-CBC in a pattern, one constant IV.
    Cbcs,
    /// AES-CTR over subsamples.
    Cenc,
    /// Not at all.
    Clear,
}

/// What decides manifests and licences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicySettings {
    /// The name of its pack, which exists.
    pub pack: String,
    /// The systems signalled, in this order; empty exactly when the pack is clear.
    pub systems: Vec<System>,
    /// How ClearKey is spelled in HLS.
    pub hls_clear_key: HlsClearKey,
    /// The version of the manifests' text.
    pub writer: u16,
    /// What its licences say.
    pub license: LicenseTermsSettings,
}

/// A DRM system.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum System {
    /// W3C ClearKey.
    ClearKey,
    /// Google Widevine.
    Widevine,
    /// Microsoft PlayReady.
    PlayReady,
    /// Apple FairPlay Streaming; `cbcs` only.
    FairPlay,
}

/// How a ClearKey policy is spelled in an HLS playlist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HlsClearKey {
    /// `KEYFORMAT="org.w3.clearkey"`: hls.js.
    ClearKey,
    /// `KEYFORMAT="identity"`: shaka-player.
    Identity,
    /// Both, `org.w3.clearkey` first: both players, `cenc` only.
    Both,
}

/// Whose assets these are, and what that tenant allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantSettings {
    /// Its name, which is part of every key's context.
    pub name: String,
    /// Whether its titles may be had clear.
    pub allow_clear: bool,
    /// Whether its keys may be handed to players in the open.
    pub allow_clear_key: bool,
}
