//! From [`Document`] to [`Settings`]: every fault that shows only when keys are seen together or bounds are
//! known, all of them at once.

mod exchange;
mod issuers;
mod license;
mod network;
mod nodes;
mod people;
mod postgres;
mod rules;
mod served;
mod sessions;
mod terms;
mod unlock;
mod upstreams;
mod vendors;
mod webhooks;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use self::served::licensed;
use crate::document::{
    AuditDocument, BudgetDocument, Document, KeystoreDocument, LogDocument, OriginDocument,
};
use crate::fault::Fault;
use crate::settings::{
    AdminSettings, AuditSettings, BudgetSettings, CacheLimits, Drain, KeystoreSettings,
    LogSettings, OriginSettings, PackSettings, PolicySettings, RequestLimits, Settings,
    StorageSettings, TenantSettings, Transport,
};
use crate::units::{Size, Span};
use crate::written::{Places, Written};

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
        let external = self.external_assets(&keystore.external_assets, &license.exchange);
        let exchange = &license.exchange;
        let partners = exchange.callers.keys().chain(exchange.vendors.keys());
        let partners = partners.cloned().collect();
        Settings {
            origin: self.origin(origin, packs, policies, &shared),
            license: self.license(license, licensed, &shared),
            core: self.core(keystore.core.clone()),
            keystore: self.keystore(keystore, external, partners, &shared),
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
            storage: StorageSettings {
                mode: origin.storage.mode,
                cold: origin.storage.cold,
            },
            ciphers: origin.ciphers,
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
                connections: self.at_least_one("origin.limits.connections", limits.connections),
                in_flight: self.at_least_one("origin.limits.in_flight", limits.in_flight),
                streams: self.streams("origin.limits.streams", limits.streams),
            },
            cache: CacheLimits {
                layouts: origin.cache.layouts.0,
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

    fn keystore(
        &mut self,
        keystore: KeystoreDocument,
        external_assets: Vec<String>,
        partners: Vec<String>,
        shared: &Shared,
    ) -> KeystoreSettings {
        let listener = self.keystore_listener(keystore.listener);
        let nodes = self.nodes(keystore.nodes);
        let passphrase = self.secret(
            "keystore",
            "passphrase",
            keystore.passphrase_file,
            keystore.passphrase_credential,
        );
        let key = self.secret(
            "keystore",
            "key",
            keystore.key_file,
            keystore.key_credential,
        );
        let pkcs11 = self.pkcs11(keystore.pkcs11);
        let transit = self.transit(keystore.transit);
        let postgres = self.postgres("keystore.postgres", keystore.postgres);
        let kept = passphrase.is_some() || key.is_some() || pkcs11.is_some() || transit.is_some();
        if keystore.init_at_start && !kept {
            self.fault(
                "keystore.init_at_start",
                "there is nothing to keep a root by",
                "set keystore.passphrase_file or keystore.passphrase_credential, or a key, a token or a service",
            );
        }
        self.within(
            "keystore.share_patience",
            keystore.share_patience,
            Span::seconds(60),
            Span::seconds(86_400),
        );
        self.within(
            "keystore.lease_term",
            keystore.lease_term,
            Span::seconds(10),
            Span::seconds(86_400),
        );
        self.within(
            "keystore.approval_term",
            keystore.approval_term,
            Span::seconds(60),
            Span::seconds(7 * 86_400),
        );
        let tombstone_file =
            (keystore.tombstone_file).map(|path| self.absolute("keystore.tombstone_file", path));
        KeystoreSettings {
            state_dir: self.absolute("keystore.state_dir", keystore.state_dir),
            socket: shared.keystore_socket(),
            control_socket: shared.control_socket("keystore"),
            callers: self.callers(keystore.callers),
            tenant: shared.tenant.name.clone(),
            lease_term: keystore.lease_term.0,
            passphrase,
            key,
            pkcs11,
            transit,
            postgres,
            init_at_start: keystore.init_at_start,
            share_patience: keystore.share_patience.0,
            argon2: self.argon2(keystore.argon2),
            audit: self.audit(keystore.audit),
            budget: self.budget(&keystore.budget),
            partners,
            require_locked_memory: keystore.require_locked_memory,
            tombstone_file,
            approval_term: keystore.approval_term.0,
            external_assets,
            admin: AdminSettings {
                address: keystore.admin.listen.0,
                hosts: keystore.admin.hosts,
            },
            listener,
            nodes,
            drain: shared.drain,
        }
    }

    /// A record has up to 256 KiB: the operators' half of the reserve holds a few of the longest.
    fn audit(&mut self, audit: AuditDocument) -> AuditSettings {
        let capacity = self.bytes(
            "keystore.audit.capacity",
            audit.capacity,
            Size::mebibytes(8),
            Size::mebibytes(1 << 20),
        );
        let reserve = self.bytes(
            "keystore.audit.reserve",
            audit.reserve,
            Size::mebibytes(2),
            Size::mebibytes(1024),
        );
        if reserve > capacity / 4 {
            self.fault(
                "keystore.audit.reserve",
                "is more than a quarter of the capacity",
                "set it to 16MiB, or raise keystore.audit.capacity",
            );
        }
        AuditSettings {
            capacity: capacity as u64,
            reserve: reserve as u64,
        }
    }

    /// A request has up to 64 keys; and what is remembered of a minute must fit in memory.
    fn budget(&mut self, budget: &BudgetDocument) -> BudgetSettings {
        if budget.uses < 64 {
            self.fault(
                "keystore.budget.uses",
                "is below 64, which would refuse whole requests",
                "set it to 600000",
            );
        }
        if !(64..=1_000_000).contains(&budget.keys) {
            self.fault(
                "keystore.budget.keys",
                "is not within 64 to 1000000",
                "set it to 10000",
            );
        }
        BudgetSettings {
            uses: budget.uses,
            keys: budget.keys,
            denials: budget.denials,
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
}
