//! A keystore on another machine, by TLS with both sides' certificates: leases and exports, wrapped to this node's key.
//!
//! This machine has no KEK and no store. What it was given it holds in memory for the lease's term, also while the
//! keystore cannot be reached; when it is revoked, and is told so, at once no more.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::sync::watch;

use crate::frame::{Frame, Secret};
use crate::link::{Link, Place};
use crate::message::{Hello, KeyCall, KeyReply, export_of, lease_of};
use crate::socket::{KEY_PATIENCE, as_asked, typed, unexpected};
use crate::wrap::NodeKey;
use crate::{
    Answer, DescribeRequest, Error, ExportRequest, ExportedKey, KeyDescription, Keystore, Lease,
    LeaseRequest, SealState,
};

/// Where the keystore is, and who this node is.
pub struct Core<'a> {
    /// Its name, which its certificate bears, or its IP address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The certificates from which its certificate must come, in PEM.
    pub ca_file: &'a Path,
    /// This node's certificate, in PEM.
    pub certificate: &'a Path,
    /// The certificate's private key, in PEM.
    pub key: &'a [u8],
    /// What comes is encrypted to it.
    pub node_key: NodeKey,
}

/// The client of a keystore's listener.
pub struct Remote {
    link: Link,
    node_key: NodeKey,
}

impl Remote {
    /// Connects, again and again, as [`crate::socket::Socket::open`] does.
    ///
    /// # Errors
    /// Certificates and keys that cannot be read or used.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn open(core: Core<'_>) -> io::Result<Self> {
        let name = ServerName::try_from(core.host.clone()).map_err(invalid)?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates(core.ca_file)? {
            roots.add(certificate).map_err(invalid)?;
        }
        let key = PrivateKeyDer::from_pem_slice(core.key).map_err(invalid)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(invalid)?
            .with_root_certificates(roots)
            .with_client_auth_cert(certificates(core.certificate)?, key)
            .map_err(invalid)?;
        let place = Place::Tls {
            host: core.host,
            port: core.port,
            name,
            connector: Arc::new(config).into(),
        };
        Ok(Self {
            link: Link::open(place, Hello::keystore()),
            node_key: core.node_key,
        })
    }

    async fn call(&self, call: KeyCall) -> Result<Frame<KeyReply>, Error> {
        let reply = (self.link.call(&call, Secret::default(), KEY_PATIENCE)).await?;
        let Frame { header, secret } = typed::<KeyReply>(reply?)?;
        let aad = serde_json::to_vec(&header).map_err(|_| unexpected())?;
        let secret = (self.node_key.unwrap(&secret, &aad))
            .map_err(|error| Error::Unavailable(error.to_string()))?;
        Ok(Frame { header, secret })
    }
}

impl Keystore for Remote {
    fn lease(&self, request: LeaseRequest) -> Answer<'_, Lease> {
        Box::pin(async move {
            let asked = request.contexts.clone();
            let lease = lease_of(self.call(KeyCall::Lease(request)).await?);
            as_asked(lease, &asked)
        })
    }

    fn export(&self, request: ExportRequest) -> Answer<'_, Vec<ExportedKey>> {
        Box::pin(async move {
            export_of(self.call(KeyCall::Export(request)).await?).ok_or_else(unexpected)
        })
    }

    fn describe(&self, request: DescribeRequest) -> Answer<'_, Vec<KeyDescription>> {
        Box::pin(async move {
            match self.call(KeyCall::Describe(request)).await?.header {
                KeyReply::Described(keys) => Ok(keys),
                _ => Err(unexpected()),
            }
        })
    }

    fn seal_state(&self) -> watch::Receiver<SealState> {
        self.link.state()
    }
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let of = |what: String| invalid(format!("{}: {what}", path.display()));
    let read: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
        .map_err(|error| of(error.to_string()))?
        .collect();
    match read {
        Ok(certificates) if certificates.is_empty() => Err(of("there is no certificate".into())),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(of(error.to_string())),
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
