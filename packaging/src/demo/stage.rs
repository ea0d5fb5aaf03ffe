//! What the demo's folder holds: media, state, secrets. Made anew, or taken up again where it was kept.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use conf::{
    AdminSettings, Argon2Settings, Drain, IssuerSettings, ListenerSettings, SecretSource, Settings,
    TokenAlgorithm, Transport,
};
use keystore_types::AssetId;
use license::entitlement::mint::{Claims, mint};
use license::entitlement::{Algorithm, AssetGrant, SigningKey};
use license::{Clock as _, SystemClock};
use origin_front::tls::DevCa;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

use super::folder::Folder;
use super::links::Issuer;
use super::title;
use crate::failure::Failure;

/// Where the demo lives.
pub(crate) struct Stage {
    folder: Folder,
    media: PathBuf,
    /// The media is the built-in title, which was written whole before anything looks.
    built_in: bool,
    ca: DevCa,
}

/// What the demo's tokens say of their issuer and of whom they are for.
const ISSUER: &str = "castellum-demo";
const AUDIENCE: &str = "castellum";
/// What signs tokens that are not the demo's own, such as those of a load test's players, and what verifies them.
const SIGNING_KEY: &str = "issuer-es256.pem";
const PUBLIC_KEY: &str = "issuer-es256-public.pem";
/// A token is good for an hour.
const TOKEN_LIFE: Duration = Duration::from_secs(3600);

impl Stage {
    /// Sets the stage: in `keep`, or in a temporary folder; with the files of `media`, or the built-in title.
    pub(crate) fn set(media: Option<&Path>, keep: Option<&Path>) -> Result<Self, Failure> {
        let folder = match keep {
            Some(path) => Folder::keep(path)?,
            None => Folder::temporary()?,
        };
        let ca = DevCa::new().map_err(Failure::failed)?;
        let mut stage = Self {
            media: folder.path().join("media"),
            built_in: media.is_none(),
            folder,
            ca,
        };
        match media {
            Some(media) => {
                let found = media.canonicalize().ok().filter(|path| path.is_dir());
                stage.media = found.ok_or_else(|| {
                    Failure::usage(format!("there is no folder {}", media.display()))
                })?;
            }
            None => title::unpack(&stage.media).map_err(|error| stage.cannot_write(error))?,
        }
        for secret in ["passphrase", "issuer.key"] {
            stage
                .secret(secret)
                .map_err(|error| stage.cannot_write(error))?;
        }
        stage
            .signing_key()
            .map_err(|error| stage.cannot_write(error))?;
        stage
            .ca
            .write_pem(&stage.ca_path())
            .map_err(Failure::failed)?;
        Ok(stage)
    }

    /// The authority's certificate, for clients that shall trust it.
    pub(crate) fn ca_path(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// The authority.
    pub(crate) fn ca(&self) -> &DevCa {
        &self.ca
    }

    /// The built-in configuration with what is the demo's own, at these ports.
    pub(crate) fn settings(&self, ports: &Ports) -> Result<Settings, Failure> {
        let mut settings = conf::parse("built-in castellum.toml", conf::DEFAULT)?;
        let loopback = |port| (std::net::Ipv4Addr::LOCALHOST, port).into();
        let listeners = |tls, plain, alt_svc| {
            vec![
                ListenerSettings {
                    address: loopback(tls),
                    transport: Transport::Tls { h3: true, alt_svc },
                },
                ListenerSettings {
                    address: loopback(plain),
                    transport: Transport::Plain,
                },
            ]
        };
        let state = |role: &str| self.folder.path().join("state").join(role);
        let socket = |role: &str, name: &str| self.folder.path().join("run").join(role).join(name);
        let drain = Drain {
            delay: Duration::ZERO,
            timeout: Duration::from_secs(2),
        };
        let workers = std::thread::available_parallelism().map_err(Failure::failed)?;

        let origin = &mut settings.origin;
        origin.media_root.clone_from(&self.media);
        origin.state_dir = state("origin");
        origin.cache_dir = self.folder.path().join("cache");
        origin.control_socket = socket("origin", "control.sock");
        origin.keystore_socket = socket("keystore", "keystore.sock");
        origin.listeners = listeners(ports.origin_tls, ports.origin_plain, true);
        origin.admin = AdminSettings {
            address: Some(loopback(ports.admin)),
            hosts: Vec::new(),
        };
        if self.built_in {
            origin.settle = Duration::ZERO;
        }
        origin.tenant.allow_clear = true;
        origin.tenant.allow_clear_key = true;
        origin.workers = workers;
        origin.drain = drain;

        let license = &mut settings.license;
        license.state_dir = state("license");
        license.listeners = listeners(ports.license_tls, ports.license_plain, false);
        license.tenant = settings.origin.tenant.clone();
        license.drain = drain;
        let issuer = |name, algorithm, key| {
            let key = SecretSource::file(self.folder.path().join(key));
            IssuerSettings::of_key(name, ISSUER, AUDIENCE, algorithm, key)
        };
        license.issuers = vec![
            issuer("demo", TokenAlgorithm::Hs256, "issuer.key"),
            issuer("demo-es256", TokenAlgorithm::Es256, PUBLIC_KEY),
        ];

        let keystore = &mut settings.keystore;
        keystore.state_dir = state("keystore");
        keystore.socket = socket("keystore", "keystore.sock");
        keystore.control_socket = socket("keystore", "control.sock");
        keystore.passphrase = Some(SecretSource::file(self.folder.path().join("passphrase")));
        keystore.init_at_start = true;
        // The roles are in-process: no other user has business here.
        for caller in keystore.callers.values_mut() {
            caller.user = None;
        }
        // The passphrase has 256 bits: a costly guess adds nothing but a slow start.
        keystore.argon2 = Argon2Settings {
            memory_kib: 19 << 10,
            passes: 2,
            lanes: 1,
        };
        keystore.drain = drain;
        Ok(settings)
    }

    /// A token for these titles, good for an hour from now.
    pub(crate) fn token(&self, assets: &[AssetId]) -> Result<String, Failure> {
        let secret = SecretSource::file(self.folder.path().join("issuer.key"))
            .read()
            .map_err(Failure::failed)?;
        let key = SigningKey::read(Algorithm::Hs256, &secret).map_err(Failure::failed)?;
        let now = SystemClock.now();
        let claims = Claims {
            iat: Some(now),
            sub: Some("demo".to_owned()),
            assets: Some(grant(assets)),
            ..Claims::new(ISSUER, AUDIENCE, now.plus(TOKEN_LIFE))
        };
        mint(&claims, None, &key).map_err(Failure::failed)
    }

    /// Who else may sign tokens: whoever has this key.
    pub(crate) fn issuer(&self) -> Issuer {
        Issuer {
            iss: ISSUER,
            aud: AUDIENCE,
            algorithm: "ES256",
            key_file: self.folder.path().join(SIGNING_KEY),
        }
    }

    /// Makes a pair of keys for ES256 where there is none.
    fn signing_key(&self) -> io::Result<()> {
        let at = |name: &str| self.folder.path().join(name);
        if at(SIGNING_KEY).exists() && at(PUBLIC_KEY).exists() {
            return Ok(());
        }
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(io::Error::other)?;
        fs::write(at(PUBLIC_KEY), pair.public_key_pem())?;
        let pem = Zeroizing::new(pair.serialize_pem());
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600);
        file.open(at(SIGNING_KEY))?.write_all(pem.as_bytes())
    }

    /// Makes a secret of 256 random bits where there is none: hexadecimal, so that no byte of it is a line feed.
    fn secret(&self, name: &str) -> io::Result<()> {
        let mut options = fs::OpenOptions::new();
        match options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.folder.path().join(name))
        {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
            Ok(mut file) => file.write_all(random_hex()?.as_bytes()),
        }
    }

    fn cannot_write(&self, error: io::Error) -> Failure {
        Failure::failed(format!(
            "cannot write to {}: {error}",
            self.folder.path().display()
        ))
    }
}

/// Names the titles, or all where their names would not fit into a token (8 KiB, as base64).
fn grant(assets: &[AssetId]) -> AssetGrant {
    const MAX_NAMES: usize = 4096;
    if assets
        .iter()
        .map(|asset| asset.as_str().len() + 3)
        .sum::<usize>()
        > MAX_NAMES
    {
        AssetGrant::All
    } else {
        AssetGrant::Only(assets.iter().cloned().collect())
    }
}

fn random_hex() -> io::Result<Zeroizing<String>> {
    let mut bytes = Zeroizing::new([0; 32]);
    SystemRandom::new()
        .fill(&mut *bytes)
        .map_err(|_| io::Error::other("no random numbers"))?;
    let mut text = Zeroizing::new(String::with_capacity(64));
    for byte in bytes.iter() {
        for digit in [byte >> 4, byte & 15] {
            text.extend(char::from_digit(u32::from(digit), 16));
        }
    }
    Ok(text)
}

/// The demo's ports; 0 takes a free one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ports {
    pub(crate) origin_tls: u16,
    pub(crate) origin_plain: u16,
    pub(crate) license_tls: u16,
    pub(crate) license_plain: u16,
    pub(crate) admin: u16,
}

impl Ports {
    /// Free ones.
    pub(crate) const FREE: Self = Self {
        origin_tls: 0,
        origin_plain: 0,
        license_tls: 0,
        license_plain: 0,
        admin: 0,
    };

    /// Five in a row.
    pub(crate) fn from(first: u16) -> Option<Self> {
        Some(Self {
            origin_tls: first,
            origin_plain: first.checked_add(1)?,
            license_tls: first.checked_add(2)?,
            license_plain: first.checked_add(3)?,
            admin: first.checked_add(4)?,
        })
    }

    /// The usual ones, each that is busy replaced by a free one.
    pub(crate) fn usual() -> Self {
        let or_free = |port: u16| {
            let tcp = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, port));
            let udp = std::net::UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, port));
            if tcp.is_ok() && udp.is_ok() { port } else { 0 }
        };
        Self {
            origin_tls: or_free(8443),
            origin_plain: or_free(8080),
            license_tls: or_free(8444),
            license_plain: or_free(8081),
            admin: or_free(9090),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_ports_in_a_row() {
        let ports = Ports::from(9000).unwrap();
        assert_eq!(
            (ports.origin_tls, ports.license_plain, ports.admin),
            (9000, 9003, 9004)
        );
        assert_eq!(Ports::from(u16::MAX - 3), None);
    }

    #[test]
    fn a_token_fits_whatever_the_library() {
        let kept = tempfile::tempdir().unwrap();
        let stage = Stage::set(None, Some(kept.path())).unwrap();
        for count in [1, 100, 10_000] {
            let assets: Vec<AssetId> = (0..count)
                .map(|n| {
                    format!("a-film-with-a-rather-long-name-{n}")
                        .parse()
                        .unwrap()
                })
                .collect();
            assert!(
                stage.token(&assets).unwrap().len() <= license::entitlement::Token::MAX_LEN,
                "{count}"
            );
        }
    }

    #[test]
    fn a_kept_stage_keeps_its_secrets_and_a_temporary_one_goes() {
        let kept = tempfile::tempdir().unwrap();
        let folder = kept.path().join("keep");
        let first = Stage::set(None, Some(&folder)).unwrap();
        let secret = fs::read(folder.join("issuer.key")).unwrap();
        assert_eq!(secret.len(), 64);
        drop(first);
        drop(Stage::set(None, Some(&folder)).unwrap());
        assert_eq!(fs::read(folder.join("issuer.key")).unwrap(), secret);

        let temporary = Stage::set(None, None).unwrap();
        let folder = temporary.folder.path().to_owned();
        assert!(folder.join("ca.pem").exists());
        drop(temporary);
        assert!(!folder.exists());
    }
}
