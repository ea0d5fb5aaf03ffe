//! Whose certificates are believed.

use std::path::Path;
use std::sync::Arc;
use std::{fmt, io};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::Protocol;

/// Whose certificates are believed.
#[derive(Clone, PartialEq, Eq)]
pub enum Trust {
    /// The authorities of this PEM text, and nobody else.
    Authority(Vec<u8>),
    /// Anyone: what is fetched is counted, and nothing is sent that anybody may not have.
    DangerAnyone,
}

/// The authority's PEM cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the CA file holds no usable certificate")]
pub struct BadAuthority;

impl Trust {
    /// Reads the authorities of a PEM file.
    ///
    /// # Errors
    /// Where the file cannot be read; what it holds is looked at later.
    pub fn read(path: &Path) -> io::Result<Self> {
        std::fs::read(path).map(Self::Authority)
    }

    /// The TLS of a client of this protocol.
    pub(crate) fn tls(&self, protocol: Protocol) -> Result<ClientConfig, BadAuthority> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|_| BadAuthority)?;
        let builder = match self {
            Self::Authority(pem) => builder.with_root_certificates(roots(pem)?),
            Self::DangerAnyone => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anyone(provider))),
        };
        let mut tls = builder.with_no_client_auth();
        tls.alpn_protocols = vec![protocol.alpn().to_vec()];
        // Viewers are strangers to each other: one who resumed another's session would shake hands at half the price.
        tls.resumption = Resumption::disabled();
        Ok(tls)
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Authority(_) => "Authority(..)",
            Self::DangerAnyone => "DangerAnyone",
        })
    }
}

fn roots(pem: &[u8]) -> Result<RootCertStore, BadAuthority> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots
            .add(certificate.map_err(|_| BadAuthority)?)
            .map_err(|_| BadAuthority)?;
    }
    if roots.is_empty() {
        return Err(BadAuthority);
    }
    Ok(roots)
}

/// Believes every certificate whose key the server has.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
