//! Listeners, certificates and URLs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::Check;
use crate::address::Address;
use crate::document::Document;
use crate::settings::{ListenerSettings, TlsIdentity, Transport};

impl Check<'_> {
    pub(super) fn tls(
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

    pub(super) fn listeners(
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
    pub(super) fn addresses(&mut self, document: &Document) {
        let Document {
            origin,
            license,
            keystore,
            ..
        } = document;
        let named = [
            ("origin.tls.listen", origin.tls.listen),
            ("origin.plain.listen", origin.plain.listen),
            ("origin.admin.listen", origin.admin.listen),
            ("license.tls.listen", license.tls.listen),
            ("license.plain.listen", license.plain.listen),
            ("license.admin.listen", license.admin.listen),
            ("keystore.admin.listen", keystore.admin.listen),
            ("keystore.listener.listen", keystore.listener.listen),
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

    /// The base of URLs: a scheme, a host, perhaps a path; without its trailing slash.
    pub(super) fn url(&mut self, key: &str, url: &str) -> String {
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

    /// A query parameter's name that needs no escape (RFC 3986 2.3).
    pub(super) fn parameter(&mut self, key: &str, name: String) -> String {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
            self.fault(
                key,
                "is not a parameter's name",
                "such as token: letters, digits, '-', '.', '_' and '~', 64 at most",
            );
        }
        name
    }

    /// A field name (RFC 9110 5.1), in lower case.
    pub(super) fn header(&mut self, key: &str, name: &str) -> String {
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
}
