//! From [`Document`] to [`Settings`]: every fault that shows only when keys are seen together or bounds are
//! known, all of them at once.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::address::Address;
use crate::document::{
    Argon2Document, CallerDocument, Document, IssuerDocument, KeystoreDocument, LicenseDocument,
    LogDocument, OriginDocument, PackDocument, PolicyDocument, TenantDocument,
};
use crate::fault::Fault;
use crate::settings::{
    AdminSettings, Argon2Settings, CacheLimits, CallerRight, CallerSettings, Drain, HlsClearKey,
    IssuerSettings, KeystoreSettings, LicensePolicySettings, LicenseSettings, ListenerSettings,
    LogSettings, OriginSettings, PackScheme, PackSettings, PolicySettings, RequestLimits, Settings,
    System, TenantSettings, TlsIdentity, TokenAlgorithm, Transport,
};
use crate::units::{Size, Span};
use crate::written::{Places, Written};
use crate::{SecretSource, User};

/// What the host contributes: read by [`crate::load`], so that a check is a function of its arguments.
pub(crate) struct Host {
    /// `$CREDENTIALS_DIRECTORY` (systemd.exec(5)).
    pub(crate) credentials: Option<PathBuf>,
    /// Processors that this process may run on.
    pub(crate) processors: NonZeroUsize,
}

/// Makes settings of what was written.
///
/// # Errors
/// Every fault, those of reading included.
pub(crate) fn check(written: Written, host: &Host) -> Result<Settings, Vec<Fault>> {
    let Written {
        document,
        places,
        faults,
    } = written;
    let mut check = Check {
        places,
        host,
        faults,
    };
    let settings = check.settings(document);
    if check.faults.is_empty() {
        Ok(settings)
    } else {
        Err(check.faults)
    }
}

/// Collects faults. Its methods return a stand-in where something is wrong; nobody sees it, since one fault
/// suffices to refuse the whole.
struct Check<'a> {
    places: Places,
    host: &'a Host,
    faults: Vec<Fault>,
}

/// What more than one role is told.
struct Shared {
    runtime_dir: PathBuf,
    drain: Drain,
    tenant: TenantSettings,
    license_url: String,
}

impl Shared {
    fn control_socket(&self, role: &str) -> PathBuf {
        self.runtime_dir.join(role).join("control.sock")
    }

    fn keystore_socket(&self) -> PathBuf {
        self.runtime_dir.join("keystore").join("keystore.sock")
    }
}

/// The writer numbers that this binary knows, of packs and of policies.
const WRITERS: std::ops::RangeInclusive<u16> = 1..=1;

impl Check<'_> {
    fn settings(&mut self, document: Document) -> Settings {
        self.addresses(&document);
        let Document {
            runtime_dir,
            log,
            drain,
            origin,
            license,
            keystore,
            packs,
            policies,
            tenants,
        } = document;
        let shared = Shared {
            runtime_dir: self.absolute("runtime_dir", runtime_dir),
            drain: Drain {
                delay: drain.delay.0,
                timeout: drain.timeout.0,
            },
            tenant: self.tenant(&tenants),
            license_url: self.url("license.public_url", &license.public_url),
        };
        let packs = self.packs(packs);
        let policies = self.policies(policies, &packs);
        let licensed = licensed(&policies, &packs);
        Settings {
            origin: self.origin(origin, packs, policies, &shared),
            license: self.license(license, licensed, &shared),
            keystore: self.keystore(keystore, &shared),
            log: self.log(log),
        }
    }

    fn origin(
        &mut self,
        origin: OriginDocument,
        packs: BTreeMap<String, PackSettings>,
        policies: BTreeMap<String, PolicySettings>,
        shared: &Shared,
    ) -> OriginSettings {
        if origin.tls.alt_svc && !origin.tls.h3 {
            self.fault(
                "origin.tls.alt_svc",
                "Alt-Svc would announce HTTP/3, which is off",
                "set origin.tls.alt_svc = false",
            );
        }
        self.within(
            "origin.scan_interval",
            origin.scan_interval,
            Span(Duration::from_millis(100)),
            Span::seconds(3600),
        );
        self.within(
            "origin.settle",
            origin.settle,
            Span::seconds(0),
            Span::seconds(3600),
        );
        let transport = Transport::Tls {
            h3: origin.tls.h3,
            alt_svc: origin.tls.alt_svc,
        };
        let state_dir = self.absolute("origin.state_dir", origin.state_dir);
        let limits = origin.limits;
        OriginSettings {
            media_root: self.absolute("origin.media_root", origin.media_root),
            cache_dir: self.absolute("origin.cache_dir", origin.cache_dir),
            control_socket: shared.control_socket("origin"),
            keystore_socket: shared.keystore_socket(),
            settle: origin.settle.0,
            scan_interval: origin.scan_interval.0,
            hold: origin.hold.0,
            alias_ttl: origin.alias_ttl.0,
            workers: self.workers("origin.workers", origin.workers),
            storage: origin.storage,
            listeners: self.listeners("origin", origin.tls.listen, transport, origin.plain.listen),
            admin: AdminSettings {
                address: origin.admin.listen.0,
                hosts: origin.admin.hosts,
            },
            tls: self.tls(
                "origin.tls",
                origin.tls.certificate,
                origin.tls.key_file,
                origin.tls.key_credential,
                &state_dir,
            ),
            limits: RequestLimits {
                header_bytes: self.bytes(
                    "origin.limits.header",
                    limits.header,
                    Size(4 << 10),
                    Size(256 << 10),
                ),
                header_timeout: self
                    .positive("origin.limits.header_timeout", limits.header_timeout),
                idle_timeout: self.positive("origin.limits.idle_timeout", limits.idle_timeout),
                // The origin only reads: a request that has a body is refused.
                body_bytes: 0,
                connections: self.at_least_one("origin.limits.connections", limits.connections),
                in_flight: self.at_least_one("origin.limits.in_flight", limits.in_flight),
                streams: self.streams("origin.limits.streams", limits.streams),
            },
            cache: CacheLimits {
                layouts: origin.cache.layouts.0,
                indexes: origin.cache.indexes.0,
                manifests: origin.cache.manifests.0,
            },
            state_dir,
            drain: shared.drain,
            license_url: shared.license_url.clone(),
            packs,
            policies,
            tenant: shared.tenant.clone(),
        }
    }

    fn license(
        &mut self,
        license: LicenseDocument,
        policies: BTreeMap<String, LicensePolicySettings>,
        shared: &Shared,
    ) -> LicenseSettings {
        let transport = Transport::Tls {
            h3: license.tls.h3,
            alt_svc: false,
        };
        let state_dir = self.absolute("license.state_dir", license.state_dir);
        let limits = license.limits;
        LicenseSettings {
            control_socket: shared.control_socket("license"),
            keystore_socket: shared.keystore_socket(),
            public_url: shared.license_url.clone(),
            workers: self.workers("license.workers", license.workers),
            listeners: self.listeners(
                "license",
                license.tls.listen,
                transport,
                license.plain.listen,
            ),
            admin: AdminSettings {
                address: license.admin.listen.0,
                hosts: license.admin.hosts,
            },
            tls: self.tls(
                "license.tls",
                license.tls.certificate,
                license.tls.key_file,
                license.tls.key_credential,
                &state_dir,
            ),
            limits: RequestLimits {
                header_bytes: self.bytes(
                    "license.limits.header",
                    limits.header,
                    Size(4 << 10),
                    Size(256 << 10),
                ),
                header_timeout: self
                    .positive("license.limits.header_timeout", limits.header_timeout),
                idle_timeout: self.positive("license.limits.idle_timeout", limits.idle_timeout),
                body_bytes: self.bytes(
                    "license.limits.body",
                    limits.body,
                    Size(1 << 10),
                    Size(16 << 20),
                ),
                connections: self.at_least_one("license.limits.connections", limits.connections),
                in_flight: self.at_least_one("license.limits.in_flight", limits.in_flight),
                streams: self.streams("license.limits.streams", limits.streams),
            },
            state_dir,
            drain: shared.drain,
            token_header: self.header("license.token_header", &license.token_header),
            issuers: self.issuers(license.issuers),
            policies,
            tenant: shared.tenant.clone(),
        }
    }

    fn keystore(&mut self, keystore: KeystoreDocument, shared: &Shared) -> KeystoreSettings {
        let passphrase = self.secret(
            "keystore",
            "passphrase",
            keystore.passphrase_file,
            keystore.passphrase_credential,
        );
        if keystore.init_at_start && passphrase.is_none() {
            self.fault(
                "keystore.init_at_start",
                "there is no passphrase to make a root under",
                "set keystore.passphrase_file or keystore.passphrase_credential",
            );
        }
        self.within(
            "keystore.lease_term",
            keystore.lease_term,
            Span::seconds(10),
            Span::seconds(86_400),
        );
        KeystoreSettings {
            state_dir: self.absolute("keystore.state_dir", keystore.state_dir),
            socket: shared.keystore_socket(),
            control_socket: shared.control_socket("keystore"),
            callers: self.callers(keystore.callers),
            tenant: shared.tenant.name.clone(),
            lease_term: keystore.lease_term.0,
            passphrase,
            init_at_start: keystore.init_at_start,
            argon2: self.argon2(keystore.argon2),
            require_locked_memory: keystore.require_locked_memory,
            drain: shared.drain,
        }
    }

    fn log(&mut self, log: LogDocument) -> LogSettings {
        if log.filter.trim().is_empty() {
            self.fault("log.filter", "is empty", "set it to info");
        }
        LogSettings {
            format: log.format,
            filter: log.filter,
            access: log.access,
        }
    }

    fn packs(&mut self, packs: BTreeMap<String, PackDocument>) -> BTreeMap<String, PackSettings> {
        let mut checked = BTreeMap::new();
        for (name, pack) in packs {
            let key = format!("packs.{name}");
            self.name(&key, &name);
            if name == "img" {
                self.fault(&key, "`img` is where images are", "choose another name");
            }
            let segment_duration = pack.segment_duration.unwrap_or(Span::seconds(4));
            self.within(
                &format!("{key}.segment_duration"),
                segment_duration,
                Span::seconds(1),
                Span::seconds(60),
            );
            let writer = self.writer(&key, pack.writer);
            if let Some(scheme) = self.required(&key, "scheme", pack.scheme) {
                checked.insert(
                    name,
                    PackSettings {
                        scheme,
                        segment_duration: segment_duration.0,
                        writer,
                    },
                );
            }
        }
        checked
    }

    fn policies(
        &mut self,
        policies: BTreeMap<String, PolicyDocument>,
        packs: &BTreeMap<String, PackSettings>,
    ) -> BTreeMap<String, PolicySettings> {
        let mut checked = BTreeMap::new();
        for (name, policy) in policies {
            let key = format!("policies.{name}");
            self.name(&key, &name);
            let systems = policy.systems.unwrap_or_default();
            let hls_clear_key = policy.hls_clear_key.unwrap_or(HlsClearKey::ClearKey);
            let writer = self.writer(&key, policy.writer);
            let Some(pack) = self.required(&key, "pack", policy.pack) else {
                continue;
            };
            let Some(PackSettings { scheme, .. }) = packs.get(&pack) else {
                let known: Vec<&str> = packs.keys().map(String::as_str).collect();
                let help = format!("there are: {}", known.join(", "));
                self.fault(
                    &format!("{key}.pack"),
                    &format!("there is no pack `{pack}`"),
                    &help,
                );
                continue;
            };
            self.systems(&key, *scheme, &systems, hls_clear_key);
            checked.insert(
                name,
                PolicySettings {
                    pack,
                    systems,
                    hls_clear_key,
                    writer,
                },
            );
        }
        checked
    }

    /// What a scheme and its systems forbid each other.
    fn systems(&mut self, key: &str, scheme: PackScheme, systems: &[System], hls: HlsClearKey) {
        let at = format!("{key}.systems");
        match scheme {
            PackScheme::Clear if !systems.is_empty() => {
                self.fault(
                    &at,
                    "a clear pack has no keys to license",
                    "leave systems out",
                );
            }
            PackScheme::Cbcs | PackScheme::Cenc if systems.is_empty() => {
                self.fault(
                    &at,
                    "an encrypted pack needs a system to license its keys",
                    "such as systems = [\"clearkey\"]",
                );
            }
            PackScheme::Cenc if systems.contains(&System::FairPlay) => {
                self.fault(
                    &at,
                    "FairPlay plays cbcs only",
                    "choose a cbcs pack, or leave fairplay out",
                );
            }
            PackScheme::Clear | PackScheme::Cbcs | PackScheme::Cenc => {}
        }
        let mut seen = systems.to_vec();
        seen.sort_unstable();
        seen.dedup();
        if seen.len() != systems.len() {
            self.fault(&at, "names a system twice", "name each once");
        }
        if scheme == PackScheme::Cbcs && hls == HlsClearKey::Both {
            self.fault(
                &format!("{key}.hls_clear_key"),
                "no player plays cbcs with both spellings in one playlist",
                "make two policies, one with clearkey and one with identity",
            );
        }
    }

    fn tenant(&mut self, tenants: &BTreeMap<String, TenantDocument>) -> TenantSettings {
        const ONLY: &str = "default";
        for name in tenants.keys().filter(|name| *name != ONLY) {
            self.fault(
                &format!("tenants.{name}"),
                "there is only the tenant `default`",
                "rename it",
            );
        }
        let tenant = tenants.get(ONLY).cloned().unwrap_or_default();
        TenantSettings {
            name: ONLY.to_owned(),
            allow_clear: tenant.allow_clear,
            allow_clear_key: tenant.allow_clear_key,
        }
    }

    fn issuers(&mut self, issuers: Vec<IssuerDocument>) -> Vec<IssuerSettings> {
        let mut checked: Vec<IssuerSettings> = Vec::new();
        for (index, issuer) in issuers.into_iter().enumerate() {
            let key = format!("license.issuers[{index}]");
            let secret = self.secret(&key, "key", issuer.key_file, issuer.key_credential);
            let name = self.required(&key, "name", issuer.name);
            let claim = self.required(&key, "issuer", issuer.issuer);
            let audience = self.required(&key, "audience", issuer.audience);
            let algorithm: Option<TokenAlgorithm> =
                self.required(&key, "algorithm", issuer.algorithm);
            let secret = self.required(&key, "key_file", secret);
            let (Some(name), Some(claim), Some(audience), Some(algorithm), Some(secret)) =
                (name, claim, audience, algorithm, secret)
            else {
                continue;
            };
            if checked.iter().any(|other| other.name == name) {
                self.fault(
                    &format!("{key}.name"),
                    "two issuers have this name",
                    "choose another",
                );
            }
            if checked
                .iter()
                .any(|other| other.issuer == claim && other.key_id == issuer.key_id)
            {
                self.fault(
                    &format!("{key}.issuer"),
                    "two issuers have this `iss` and no key_id that tells them apart",
                    "give each a key_id",
                );
            }
            let issuer = IssuerSettings {
                name,
                issuer: claim,
                audience,
                key_id: issuer.key_id,
                algorithm,
                key: secret,
            };
            checked.push(issuer);
        }
        checked
    }

    fn callers(
        &mut self,
        callers: BTreeMap<String, CallerDocument>,
    ) -> BTreeMap<String, CallerSettings> {
        let mut users: HashMap<String, String> = HashMap::new();
        let mut checked = BTreeMap::new();
        for (name, caller) in callers {
            let key = format!("keystore.callers.{name}");
            self.name(&key, &name);
            let may: Vec<CallerRight> = self.required(&key, "may", caller.may).unwrap_or_default();
            if let Some(user) = &caller.user
                && let Some(other) = users.insert(user.clone(), name.clone())
            {
                self.fault(
                    &format!("{key}.user"),
                    &format!("the caller `{other}` is the same user, so the keystore could not tell them apart"),
                    "give each caller a user of its own",
                );
            }
            let assets = caller.assets.unwrap_or_else(|| vec!["*".to_owned()]);
            for (index, asset) in assets.iter().enumerate().filter(|(_, asset)| *asset != "*") {
                self.name(&format!("{key}.assets[{index}]"), asset);
            }
            checked.insert(
                name,
                CallerSettings {
                    user: caller.user.map(User::from),
                    may,
                    assets,
                },
            );
        }
        checked
    }

    /// RFC 9106 4 recommends 64 MiB and 3 passes at the least; a little less is let through for small machines
    /// and for tests, nothing that a graphics card would enjoy.
    fn argon2(&mut self, argon2: Argon2Document) -> Argon2Settings {
        let memory = self.bytes(
            "keystore.argon2.memory",
            argon2.memory,
            Size::mebibytes(19),
            Size::mebibytes(2048),
        );
        if !(1..=64).contains(&argon2.passes) {
            self.fault(
                "keystore.argon2.passes",
                "is not within 1 to 64",
                "set it to 3",
            );
        }
        if !(1..=64).contains(&argon2.lanes) {
            self.fault(
                "keystore.argon2.lanes",
                "is not within 1 to 64",
                "set it to 4",
            );
        }
        Argon2Settings {
            memory_kib: u32::try_from(memory >> 10).unwrap_or(u32::MAX),
            passes: argon2.passes,
            lanes: argon2.lanes,
        }
    }

    fn tls(
        &mut self,
        key: &str,
        certificate: Option<PathBuf>,
        key_file: Option<PathBuf>,
        key_credential: Option<String>,
        state_dir: &Path,
    ) -> TlsIdentity {
        match (
            certificate,
            self.secret(key, "key", key_file, key_credential),
        ) {
            (Some(certificate), Some(secret)) => TlsIdentity::Files {
                certificate,
                key: secret,
            },
            (certificate, secret) => {
                if certificate.is_some() {
                    self.fault(
                        &format!("{key}.certificate"),
                        "there is no private key to this certificate",
                        &format!("set {key}.key_file or {key}.key_credential"),
                    );
                }
                if let Some(secret) = secret {
                    self.fault(
                        key,
                        &format!("there is no certificate to the private key in {secret}"),
                        &format!("set {key}.certificate"),
                    );
                }
                TlsIdentity::SelfSigned {
                    state_dir: state_dir.to_owned(),
                }
            }
        }
    }

    fn listeners(
        &mut self,
        role: &str,
        tls: Address,
        transport: Transport,
        plain: Address,
    ) -> Vec<ListenerSettings> {
        let tls = tls.0.map(|address| ListenerSettings { address, transport });
        let plain = plain.0.map(|address| ListenerSettings {
            address,
            transport: Transport::Plain,
        });
        if tls.is_none() && plain.is_none() {
            self.fault(
                &format!("{role}.tls.listen"),
                "no listener is on",
                &format!("set {role}.tls.listen or {role}.plain.listen"),
            );
        }
        tls.into_iter().chain(plain).collect()
    }

    /// Two listeners of one machine cannot have one port, unless their addresses differ and neither is a
    /// wildcard.
    fn addresses(&mut self, document: &Document) {
        let Document {
            origin, license, ..
        } = document;
        let named = [
            ("origin.tls.listen", origin.tls.listen),
            ("origin.plain.listen", origin.plain.listen),
            ("origin.admin.listen", origin.admin.listen),
            ("license.tls.listen", license.tls.listen),
            ("license.plain.listen", license.plain.listen),
            ("license.admin.listen", license.admin.listen),
        ];
        let mut taken: Vec<(&str, SocketAddr)> = Vec::new();
        for (key, address) in named {
            let Some(address) = address.0.filter(|address| address.port() != 0) else {
                continue;
            };
            let same = |other: &SocketAddr| {
                other.port() == address.port()
                    && (other.ip() == address.ip()
                        || other.ip().is_unspecified()
                        || address.ip().is_unspecified())
            };
            if let Some((other, _)) = taken.iter().find(|(_, other)| same(other)) {
                let message = format!("port {} is taken by {other}", address.port());
                self.fault(key, &message, "choose another port");
            }
            taken.push((key, address));
        }
    }

    fn secret(
        &mut self,
        table: &str,
        name: &str,
        file: Option<PathBuf>,
        credential: Option<String>,
    ) -> Option<SecretSource> {
        let key = format!("{table}.{name}_credential");
        match (file, credential) {
            (Some(file), Some(_)) => {
                let message = format!("{name}_file is set as well");
                self.fault(&key, &message, "leave one of them out");
                Some(SecretSource::file(file))
            }
            (Some(file), None) => Some(SecretSource::file(file)),
            (None, Some(name)) if name.is_empty() || name.contains('/') => {
                self.fault(
                    &key,
                    "is not the name of a credential",
                    "name it as LoadCredential= does",
                );
                None
            }
            (None, Some(name)) => match &self.host.credentials {
                Some(folder) => Some(SecretSource::credential(folder, &name)),
                // `check-config` runs outside the unit, where the folder is not set; reading it says so then.
                None => Some(SecretSource::credential(
                    Path::new("/run/credentials"),
                    &name,
                )),
            },
            (None, None) => None,
        }
    }

    fn workers(&mut self, key: &str, count: usize) -> NonZeroUsize {
        if count > 1024 {
            self.fault(key, "is above 1024", "0 takes one for each processor");
        }
        NonZeroUsize::new(count).unwrap_or(self.host.processors)
    }

    fn writer(&mut self, table: &str, writer: Option<u16>) -> u16 {
        let writer = writer.unwrap_or(1);
        if !WRITERS.contains(&writer) {
            let message = format!(
                "this version knows the writers {} to {} only",
                WRITERS.start(),
                WRITERS.end()
            );
            self.fault(
                &format!("{table}.writer"),
                &message,
                "a newer castellum may know it",
            );
        }
        writer
    }

    /// The characters that need no escaping in a URL (design section 3).
    fn name(&mut self, key: &str, name: &str) {
        let begins = name
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_alphanumeric());
        let goes_on = name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if !begins || !goes_on || name.len() > 128 {
            self.fault(
                key,
                &format!("`{name}` cannot be a name"),
                "begin with a letter or digit and go on with those, '.', '_' and '-', 128 at most",
            );
        }
    }

    /// A field name (RFC 9110 5.1), in lower case.
    fn header(&mut self, key: &str, name: &str) -> String {
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || !name.bytes().all(token) {
            self.fault(
                key,
                "is not a header's name",
                "such as Authorization or X-Token",
            );
        }
        name.to_ascii_lowercase()
    }

    /// The base of URLs: a scheme, a host, perhaps a path; without its trailing slash.
    fn url(&mut self, key: &str, url: &str) -> String {
        let authority = url
            .strip_prefix("https://")
            .or_else(|| url.strip_prefix("http://"));
        let plausible = authority.is_some_and(|rest| {
            !rest.is_empty()
                && !rest.starts_with('/')
                && rest
                    .bytes()
                    .all(|byte| byte.is_ascii_graphic() && !b"?#\"<>\\^`{|}@".contains(&byte))
        });
        if !plausible {
            self.fault(
                key,
                "is not the base of a URL",
                "such as https://license.example.com, without user, query or fragment",
            );
        }
        url.trim_end_matches('/').to_owned()
    }

    fn absolute(&mut self, key: &str, path: PathBuf) -> PathBuf {
        if !path.is_absolute() {
            self.fault(key, "is not an absolute path", "begin it with /");
        }
        path
    }

    fn within(&mut self, key: &str, span: Span, least: Span, most: Span) {
        if !(least..=most).contains(&span) {
            self.fault(
                key,
                &format!("{span} is not within {least} to {most}"),
                "see conf/README.md",
            );
        }
    }

    fn positive(&mut self, key: &str, span: Span) -> Duration {
        self.within(
            key,
            span,
            Span(Duration::from_millis(100)),
            Span::seconds(86_400),
        );
        span.0
    }

    fn bytes(&mut self, key: &str, size: Size, least: Size, most: Size) -> usize {
        if !(least..=most).contains(&size) {
            self.fault(
                key,
                &format!("{size} is not within {least} to {most}"),
                "see conf/README.md",
            );
        }
        usize::try_from(size.0).unwrap_or(usize::MAX)
    }

    fn at_least_one(&mut self, key: &str, count: usize) -> usize {
        if count == 0 {
            self.fault(
                key,
                "is 0, which would refuse everyone",
                "set it to 1 or more",
            );
        }
        count
    }

    fn streams(&mut self, key: &str, count: u32) -> u32 {
        if !(1..=10_000).contains(&count) {
            self.fault(
                key,
                &format!("{count} is not within 1 to 10000"),
                "set it to 128",
            );
        }
        count
    }

    fn required<T>(&mut self, table: &str, name: &str, value: Option<T>) -> Option<T> {
        let key = format!("{table}.{name}");
        // What was written but could not be read has its fault already.
        if value.is_none() && !self.faults.iter().any(|fault| fault.key.starts_with(&key)) {
            self.fault(&key, "is required", &format!("write {name} = ..."));
        }
        value
    }

    fn fault(&mut self, key: &str, message: &str, help: &str) {
        self.faults.push(Fault {
            key: key.to_owned(),
            message: message.to_owned(),
            help: Some(help.to_owned()),
            place: self.places.find(key),
            unreadable: false,
        });
    }
}

/// What policies say of licences. One whose pack is unknown is a fault already.
fn licensed(
    policies: &BTreeMap<String, PolicySettings>,
    packs: &BTreeMap<String, PackSettings>,
) -> BTreeMap<String, LicensePolicySettings> {
    policies
        .iter()
        .filter_map(|(name, policy)| {
            let settings = LicensePolicySettings {
                scheme: packs.get(&policy.pack)?.scheme,
                systems: policy.systems.clone(),
            };
            Some((name.clone(), settings))
        })
        .collect()
}
