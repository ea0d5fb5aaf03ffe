//! What is in force where nothing is written. `castellum.toml` says the same.

use super::*;

impl Default for Document {
    fn default() -> Self {
        let pack = |scheme| PackDocument {
            scheme: Some(scheme),
            ..PackDocument::default()
        };
        let policy = |pack: &str, hls: Option<HlsClearKey>| PolicyDocument {
            pack: Some(pack.to_owned()),
            systems: hls.is_some().then(|| vec![System::ClearKey]),
            hls_clear_key: hls,
            writer: None,
        };
        Self {
            runtime_dir: "/run/castellum".into(),
            log: LogDocument::default(),
            drain: DrainDocument::default(),
            origin: OriginDocument::default(),
            license: LicenseDocument::default(),
            keystore: KeystoreDocument::default(),
            packs: named([
                ("cbcs", pack(PackScheme::Cbcs)),
                ("cenc", pack(PackScheme::Cenc)),
                ("clear", pack(PackScheme::Clear)),
            ]),
            policies: named([
                ("cbcs", policy("cbcs", Some(HlsClearKey::ClearKey))),
                ("cbcs-identity", policy("cbcs", Some(HlsClearKey::Identity))),
                ("cenc", policy("cenc", Some(HlsClearKey::Both))),
                ("clear", policy("clear", None)),
            ]),
            tenants: named([("default", TenantDocument::default())]),
        }
    }
}

fn named<T, const N: usize>(entries: [(&str, T); N]) -> BTreeMap<String, T> {
    entries
        .into_iter()
        .map(|(name, entry)| (name.to_owned(), entry))
        .collect()
}

impl Default for LogDocument {
    fn default() -> Self {
        Self {
            format: LogFormat::Json,
            filter: "info".to_owned(),
            access: true,
        }
    }
}

impl Default for DrainDocument {
    fn default() -> Self {
        Self {
            delay: Span::seconds(5),
            timeout: Span::seconds(30),
        }
    }
}

impl Default for OriginDocument {
    fn default() -> Self {
        Self {
            media_root: "/srv/castellum/media".into(),
            state_dir: "/var/lib/castellum/origin".into(),
            cache_dir: "/var/cache/castellum/origin".into(),
            settle: Span::seconds(2),
            scan_interval: Span::seconds(2),
            hold: Span::seconds(24 * 3600),
            alias_ttl: Span::seconds(2),
            workers: 0,
            ciphers: Ciphers::Auto,
            storage: StorageDocument::default(),
            tls: OriginTlsDocument::default(),
            plain: OriginPlainDocument::default(),
            admin: OriginAdminDocument::default(),
            limits: OriginLimitsDocument::default(),
            cache: CacheDocument::default(),
        }
    }
}

impl Default for StorageDocument {
    fn default() -> Self {
        Self {
            mode: StorageMode::Map,
            cold: ColdReads::Auto,
        }
    }
}

impl Default for OriginTlsDocument {
    fn default() -> Self {
        Self {
            listen: any(8443),
            h3: true,
            alt_svc: true,
            certificate: None,
            key_file: None,
            key_credential: None,
        }
    }
}

impl Default for OriginPlainDocument {
    fn default() -> Self {
        Self { listen: any(8080) }
    }
}

impl Default for OriginAdminDocument {
    fn default() -> Self {
        Self {
            listen: loopback(9090),
            hosts: Vec::new(),
        }
    }
}

impl Default for OriginLimitsDocument {
    fn default() -> Self {
        Self {
            header: Size(16 << 10),
            header_timeout: Span::seconds(5),
            idle_timeout: Span::seconds(60),
            connections: 10_000,
            in_flight: 4096,
            streams: 128,
        }
    }
}

impl Default for CacheDocument {
    fn default() -> Self {
        Self {
            layouts: Size::mebibytes(128),
            manifests: Size::mebibytes(64),
        }
    }
}

impl Default for KeystoreDocument {
    fn default() -> Self {
        let caller = |user: &str, may: &[CallerRight]| CallerDocument {
            user: Some(user.to_owned()),
            may: Some(may.to_vec()),
            assets: None,
        };
        Self {
            state_dir: "/var/lib/castellum/keystore".into(),
            lease_term: Span::seconds(600),
            passphrase_file: None,
            passphrase_credential: None,
            key_file: None,
            key_credential: None,
            init_at_start: false,
            share_patience: Span::seconds(900),
            require_locked_memory: false,
            tombstone_file: None,
            approval_term: Span::seconds(3600),
            external_assets: Vec::new(),
            argon2: Argon2Document::default(),
            pkcs11: Pkcs11Document::default(),
            transit: TransitDocument::default(),
            postgres: PostgresDocument::default(),
            admin: KeystoreAdminDocument::default(),
            listener: ListenerDocument::default(),
            nodes: BTreeMap::new(),
            core: CoreDocument::default(),
            audit: AuditDocument::default(),
            budget: BudgetDocument::default(),
            callers: named([
                ("origin", caller("castellum-origin", &[CallerRight::Lease])),
                (
                    "license",
                    caller("castellum-license", &[CallerRight::Export]),
                ),
                (
                    "operator",
                    caller("root", &[CallerRight::Operate, CallerRight::Audit]),
                ),
            ]),
        }
    }
}

impl Default for AuditDocument {
    fn default() -> Self {
        Self {
            capacity: Size::mebibytes(1024),
            reserve: Size::mebibytes(16),
        }
    }
}

impl Default for BudgetDocument {
    fn default() -> Self {
        Self {
            uses: 600_000,
            keys: 10_000,
            denials: 16,
        }
    }
}

impl Default for Argon2Document {
    fn default() -> Self {
        Self {
            memory: Size::mebibytes(64),
            passes: 3,
            lanes: 4,
        }
    }
}

impl Default for Pkcs11Document {
    fn default() -> Self {
        Self {
            module: None,
            token: None,
            key: "castellum".to_owned(),
            pin_file: None,
            pin_credential: None,
            timeout: Span::seconds(10),
        }
    }
}

impl Default for PostgresDocument {
    fn default() -> Self {
        Self {
            url: None,
            password_file: None,
            password_credential: None,
            ca_file: None,
            connections: 8,
            timeout: Span::seconds(2),
            survival: Span::seconds(900),
        }
    }
}

impl Default for KeystoreAdminDocument {
    fn default() -> Self {
        Self {
            listen: Address(None),
            hosts: Vec::new(),
        }
    }
}

impl Default for ListenerDocument {
    fn default() -> Self {
        Self {
            listen: Address(None),
            certificate: None,
            key_file: None,
            key_credential: None,
        }
    }
}

impl Default for TransitDocument {
    fn default() -> Self {
        Self {
            url: None,
            mount: "transit".to_owned(),
            key: "castellum".to_owned(),
            namespace: None,
            token_file: None,
            token_credential: None,
            ca_file: "/etc/ssl/certs/ca-certificates.crt".into(),
            timeout: Span::seconds(10),
        }
    }
}

/// Every address of the host, v6 and v4.
pub(super) fn any(port: u16) -> Address {
    Address(Some((std::net::Ipv6Addr::UNSPECIFIED, port).into()))
}

pub(super) fn loopback(port: u16) -> Address {
    Address(Some((std::net::Ipv4Addr::LOCALHOST, port).into()))
}
