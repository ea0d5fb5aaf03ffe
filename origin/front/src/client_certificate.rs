//! Certificates of clients: asked for, never required, and judged by nobody here.
//!
//! Whoever sends one proves to hold its private key, and may be anybody all the same: a service trusts the certificates
//! that it knows byte for byte. So a client with a certificate that means nothing here is served as one that has none.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConnection, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::tls::provider;

/// The certificate whose private key the client has proven to hold, among a request's extensions where the listener asks
/// for one: see [`crate::Tls::asking_clients`]. Neither its issuer nor its validity was looked at.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientCertificate(Arc<[u8]>);

impl ClientCertificate {
    /// The one with these bytes.
    pub fn new(der: &[u8]) -> Self {
        Self(der.into())
    }

    /// The certificate's bytes.
    pub fn der(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn of(connection: &ServerConnection) -> Option<Self> {
        let leaf = connection.peer_certificates()?.first()?;
        Some(Self::new(leaf))
    }
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientCertificate({} bytes)", self.0.len())
    }
}

/// Asks for a certificate and takes whatever comes, if its key signs.
#[derive(Debug)]
pub(crate) struct Asking {
    issuers: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Asking {
    /// `issuers` are told to clients, so that a browser does not offer its user a certificate that means nothing here.
    pub(crate) fn new(issuers: Vec<Vec<u8>>) -> Self {
        Self {
            issuers: issuers.into_iter().map(DistinguishedName::from).collect(),
            algorithms: provider().signature_verification_algorithms,
        }
    }
}

impl ClientCertVerifier for Asking {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.issuers
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
