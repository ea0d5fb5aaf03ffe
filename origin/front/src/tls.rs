//! Certificates and TLS settings: rustls over ring, TLS 1.2 and 1.3.
//!
//! A certificate comes from files, is made once and kept in a state folder, or is issued by a throw-away
//! authority for the demo. It may be replaced while connections are open: new handshakes take the new one.

use std::fmt;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use conf::{SecretSource, TlsIdentity};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{self, cipher_suite};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::client_certificate::Asking;
use crate::error::{Error, ErrorKind};

/// What a TLS listener needs. Clones share the certificate.
#[derive(Clone)]
pub struct Tls {
    tcp: Arc<rustls::ServerConfig>,
    quic: Arc<quinn::crypto::rustls::QuicServerConfig>,
    current: Arc<Current>,
    source: Source,
}

/// Where the certificate came from, and so whether it can be read again.
#[derive(Clone)]
enum Source {
    Files {
        certificate: PathBuf,
        key: SecretSource,
    },
    Made,
}

impl Tls {
    /// What the settings name. A self-signed certificate is made on first need for `localhost`, the loopback
    /// addresses and these names.
    ///
    /// # Errors
    /// As for [`Tls::from_files`] and [`Tls::self_signed`].
    pub fn load(identity: &TlsIdentity, names: &[String]) -> Result<Self, Error> {
        match identity {
            TlsIdentity::Files { certificate, key } => Self::from_files(certificate, key),
            TlsIdentity::SelfSigned { state_dir } => Self::self_signed(state_dir, names),
        }
    }

    /// A certificate chain, leaf first, and its private key (PKCS#8, PKCS#1 or SEC 1), both in PEM.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn from_files(certificate: &Path, key: &SecretSource) -> Result<Self, Error> {
        let pair = load(certificate, key)?;
        Self::new(
            pair,
            Source::Files {
                certificate: certificate.to_owned(),
                key: key.clone(),
            },
        )
    }

    /// The self-signed certificate kept in this folder, made there on first need for loopback and these names. Says
    /// in the log that players will not trust it.
    ///
    /// # Errors
    /// The folder cannot be read or written, or what is there is no certificate with its key.
    pub fn self_signed(folder: &Path, names: &[String]) -> Result<Self, Error> {
        let file = folder.join("self-signed.pem");
        if !file.exists() {
            make_self_signed(&file, &[&LOOPBACK.map(str::to_owned), names].concat())?;
        }
        let tls = Self::from_files(&file, &SecretSource::file(&file))?;
        tracing::warn!(
            file = %file.display(),
            "no certificate is configured: using a self-signed one, which players do not trust"
        );
        Ok(tls)
    }

    /// Reads the files again, if the certificate came from files; the old one stays on any error.
    ///
    /// # Errors
    /// As for [`Tls::from_files`].
    pub fn reload(&self) -> Result<(), Error> {
        match &self.source {
            Source::Files { certificate, key } => {
                self.current.0.store(Arc::new(load(certificate, key)?));
                Ok(())
            }
            Source::Made => Ok(()),
        }
    }

    /// The same, asking clients that come over TCP for a certificate of one of these issuers (distinguished names in
    /// DER). Clients without one are served as before; what one sends is a [`crate::ClientCertificate`] among the
    /// extensions of its requests. HTTP/3 asks for none.
    ///
    /// # Errors
    /// The system has no randomness to give.
    pub fn asking_clients(&self, issuers: Vec<Vec<u8>>) -> Result<Self, Error> {
        let asking = Arc::new(Asking::new(issuers));
        Ok(Self {
            tcp: Arc::new(config(
                &self.current,
                TCP_VERSIONS,
                TCP_PROTOCOLS,
                Some(asking),
            )?),
            ..self.clone()
        })
    }

    pub(crate) fn tcp(&self) -> Arc<rustls::ServerConfig> {
        Arc::clone(&self.tcp)
    }

    pub(crate) fn quic(&self) -> Arc<quinn::crypto::rustls::QuicServerConfig> {
        Arc::clone(&self.quic)
    }

    fn new(pair: CertifiedKey, source: Source) -> Result<Self, Error> {
        let current = Arc::new(Current(ArcSwap::from_pointee(pair)));
        let tcp = config(&current, TCP_VERSIONS, TCP_PROTOCOLS, None)?;
        // QUIC knows TLS 1.3 only (RFC 9001 4.2).
        let quic = config(&current, &[&rustls::version::TLS13], &[b"h3"], None)?;
        let quic = quinn::crypto::rustls::QuicServerConfig::try_from(quic)
            .map_err(|fault| Error::new(ErrorKind::Internal, "setting up QUIC").because(fault))?;
        Ok(Self {
            tcp: Arc::new(tcp),
            quic: Arc::new(quic),
            current,
            source,
        })
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("Tls");
        match &self.source {
            Source::Files { certificate, key } => text
                .field("certificate", certificate)
                .field("key", key)
                .finish(),
            Source::Made => text.finish_non_exhaustive(),
        }
    }
}

/// The certificate that the next handshake takes.
#[derive(Debug)]
struct Current(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// The one provider. AES-128-GCM comes first: with AES instructions it is the fastest by far, and a client without
/// them still finds ChaCha20 if it offers nothing else.
pub fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
            cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        ],
        ..ring::default_provider()
    }
}

const TCP_VERSIONS: &[&rustls::SupportedProtocolVersion] =
    &[&rustls::version::TLS13, &rustls::version::TLS12];

const TCP_PROTOCOLS: &[&[u8]] = &[b"h2", b"http/1.1"];

fn config(
    current: &Arc<Current>,
    versions: &[&'static rustls::SupportedProtocolVersion],
    protocols: &[&[u8]],
    asking: Option<Arc<Asking>>,
) -> Result<rustls::ServerConfig, Error> {
    let fault = |source| Error::new(ErrorKind::Internal, "setting up TLS").because(source);
    let builder = rustls::ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(versions)
        .map_err(fault)?;
    let builder = match asking {
        Some(asking) => builder.with_client_cert_verifier(asking),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::clone(current) as Arc<dyn ResolvesServerCert>);
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    config.ignore_client_order = true;
    // Tickets resume on whichever worker the client meets next; nothing is stored.
    config.ticketer = ring::Ticketer::new().map_err(fault)?;
    Ok(config)
}

fn load(certificate: &Path, key: &SecretSource) -> Result<CertifiedKey, Error> {
    let chain = load_chain(certificate)?;
    let key_der = load_key(key)?;
    CertifiedKey::from_der(chain, key_der, &provider()).map_err(|fault| match fault {
        rustls::Error::InconsistentKeys(_) => Error::new(
            ErrorKind::Malformed,
            format!(
                "the private key in {key} does not belong to the first certificate in {}",
                certificate.display()
            ),
        ),
        rustls::Error::InvalidCertificate(fault) => Error::new(
            ErrorKind::Malformed,
            format!(
                "reading the first certificate in {}: {fault}",
                certificate.display()
            ),
        ),
        fault => Error::new(
            ErrorKind::Malformed,
            format!("reading the private key in {key}"),
        )
        .because(fault),
    })
}

fn load_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let malformed = |what: &str| {
        Error::new(
            ErrorKind::Malformed,
            format!("reading the certificates in {}: {what}", path.display()),
        )
    };
    let pem =
        fs::read(path).map_err(|fault| Error::io(format!("reading {}", path.display()), fault))?;
    let chain = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|fault| malformed("the PEM is broken").because(fault))?;
    if chain.is_empty() {
        return Err(malformed("no BEGIN CERTIFICATE in it"));
    }
    Ok(chain)
}

fn load_key(source: &SecretSource) -> Result<PrivateKeyDer<'static>, Error> {
    use rustls_pki_types::pem::Error as Pem;
    let malformed = |what: &str| {
        Error::new(
            ErrorKind::Malformed,
            format!("reading the private key in {source}: {what}"),
        )
    };
    let pem = source
        .read()
        .map_err(|fault| Error::io(format!("reading {source}"), fault))?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|fault| match fault {
        Pem::NoItemsFound if contains(&pem, b"BEGIN ENCRYPTED PRIVATE KEY") => {
            malformed("it is encrypted; `openssl pkey` writes it in the clear")
        }
        Pem::NoItemsFound => malformed("no BEGIN PRIVATE KEY in it"),
        // The message of any other fault may quote the file.
        _ => malformed("the PEM is broken"),
    })
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}

/// One file for both, so that one rename makes both.
fn make_self_signed(file: &Path, names: &[String]) -> Result<(), Error> {
    let made = |fault| Error::new(ErrorKind::Internal, "making a certificate").because(fault);
    let key = rcgen::KeyPair::generate().map_err(made)?;
    let certificate = params(names, "Castellum, self-signed", TEN_YEARS)
        .map_err(made)?
        .self_signed(&key)
        .map_err(made)?;
    write_private(
        file,
        &format!("{}{}", certificate.pem(), key.serialize_pem()),
    )
}

const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const TEN_YEARS: Duration = Duration::from_secs(3650 * 24 * 60 * 60);

fn params(
    names: &[String],
    common_name: &str,
    lifetime: Duration,
) -> Result<rcgen::CertificateParams, rcgen::Error> {
    let mut params = rcgen::CertificateParams::new(names)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, common_name);
    let now = SystemTime::now();
    // A day back, for clients whose clock is behind.
    params.not_before = (now - DAY).into();
    params.not_after = (now + lifetime).into();
    params
        .extended_key_usages
        .push(rcgen::ExtendedKeyUsagePurpose::ServerAuth);
    Ok(params)
}

/// Writes a file that only its owner may read, whole or not at all.
fn write_private(file: &Path, text: &str) -> Result<(), Error> {
    let failed = |fault| Error::io(format!("writing {}", file.display()), fault);
    if let Some(folder) = file.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(failed)?;
    }
    let draft = file.with_extension(format!("{}.draft", std::process::id()));
    let mut open = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)
        .map_err(failed)?;
    open.write_all(text.as_bytes())
        .and_then(|()| open.sync_all())
        .and_then(|()| fs::rename(&draft, file))
        .map_err(failed)
}

/// A throw-away authority for the demo and for tests. Its key is never written down.
pub struct DevCa {
    issuer: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
}

/// How long the demo's certificates are good for.
const DEMO: Duration = Duration::from_secs(30 * 24 * 60 * 60);

impl DevCa {
    /// A new authority.
    ///
    /// # Errors
    /// The system has no randomness to give.
    pub fn new() -> Result<Self, Error> {
        let made =
            |fault| Error::new(ErrorKind::Internal, "making a demo authority").because(fault);
        let mut params = params(&[], "Castellum demo authority", DEMO).map_err(made)?;
        params.extended_key_usages.clear();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        params.key_usages = vec![
            rcgen::KeyUsagePurpose::KeyCertSign,
            rcgen::KeyUsagePurpose::CrlSign,
        ];
        let key = rcgen::KeyPair::generate().map_err(made)?;
        let issuer = rcgen::CertifiedIssuer::self_signed(params, key).map_err(made)?;
        Ok(Self { issuer })
    }

    /// The authority's certificate in PEM, for clients that shall trust it.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Writes the authority's certificate in PEM.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_pem(&self, file: &Path) -> Result<(), Error> {
        fs::write(file, self.pem())
            .map_err(|fault| Error::io(format!("writing {}", file.display()), fault))
    }

    /// A certificate for 127.0.0.1, ::1 and localhost.
    ///
    /// # Errors
    /// The system has no randomness to give.
    pub fn issue(&self) -> Result<Tls, Error> {
        let made =
            |fault| Error::new(ErrorKind::Internal, "making a demo certificate").because(fault);
        let mut params =
            params(&LOOPBACK.map(str::to_owned), "Castellum demo", DEMO).map_err(made)?;
        params.use_authority_key_identifier_extension = true;
        let key = rcgen::KeyPair::generate().map_err(made)?;
        let leaf = params.signed_by(&key, &self.issuer).map_err(made)?;
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let pair = CertifiedKey::from_der(vec![leaf.der().clone()], key.into(), &provider())
            .map_err(|fault| {
                Error::new(ErrorKind::Internal, "taking up a demo certificate").because(fault)
            })?;
        Tls::new(pair, Source::Made)
    }
}

impl fmt::Debug for DevCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DevCa")
    }
}
