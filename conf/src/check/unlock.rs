//! What else than a passphrase keeps the keystore's root: a token, a service.

use super::Check;
use crate::document::{Pkcs11Document, TransitDocument};
use crate::settings::{Pkcs11Settings, TransitSettings};
use crate::units::Span;

impl Check<'_> {
    pub(super) fn pkcs11(&mut self, pkcs11: Pkcs11Document) -> Option<Pkcs11Settings> {
        const TABLE: &str = "keystore.pkcs11";
        let pin = self.secret(TABLE, "pin", pkcs11.pin_file, pkcs11.pin_credential);
        let Some(module) = pkcs11.module else {
            if pkcs11.token.is_some() || pin.is_some() {
                self.fault(
                    "keystore.pkcs11.module",
                    "is not set, so the token is not asked",
                    "write module = \"/path/of/its/library.so\", or leave the whole table out",
                );
            }
            return None;
        };
        if cfg!(target_feature = "crt-static") {
            self.fault(
                "keystore.pkcs11.module",
                "this build is static and cannot load a library",
                "take the Debian package, whose build is dynamic",
            );
        }
        let module = self.absolute("keystore.pkcs11.module", module);
        let timeout = self.patience("keystore.pkcs11.timeout", pkcs11.timeout);
        self.name("keystore.pkcs11.key", &pkcs11.key);
        let token = self.required(TABLE, "token", pkcs11.token);
        // A label is 32 bytes, padded with blanks (CK_TOKEN_INFO).
        if let Some(label) = &token
            && (label.is_empty() || label.len() > 32 || label.ends_with(' '))
        {
            self.fault(
                "keystore.pkcs11.token",
                "is not a token's label",
                "1 to 32 bytes, without blanks at the end, as `pkcs11-tool --list-slots` shows it",
            );
        }
        let pin = self.required(TABLE, "pin_file", pin);
        Some(Pkcs11Settings {
            module,
            token: token?,
            key: pkcs11.key,
            pin: pin?,
            timeout,
            process: None,
        })
    }

    pub(super) fn transit(&mut self, transit: TransitDocument) -> Option<TransitSettings> {
        const TABLE: &str = "keystore.transit";
        let token = self.secret(TABLE, "token", transit.token_file, transit.token_credential);
        let Some(url) = transit.url else {
            if token.is_some() {
                self.fault(
                    "keystore.transit.url",
                    "is not set, so the service is not asked",
                    "write url = \"https://vault.example.com:8200\", or leave the whole table out",
                );
            }
            return None;
        };
        let url = self.url("keystore.transit.url", &url);
        let Some(rest) = url.strip_prefix("https://") else {
            self.fault(
                "keystore.transit.url",
                "is not HTTPS, and what opens the root would go in clear",
                "begin it with https://",
            );
            return None;
        };
        let (authority, base) = match rest.split_once('/') {
            Some((authority, path)) => (authority.to_owned(), format!("/{path}")),
            None => (rest.to_owned(), String::new()),
        };
        for part in transit.mount.split('/') {
            self.name("keystore.transit.mount", part);
        }
        self.name("keystore.transit.key", &transit.key);
        let namespace = transit.namespace;
        if let Some(namespace) = &namespace
            && !namespace.bytes().all(|byte| byte.is_ascii_graphic())
        {
            self.fault(
                "keystore.transit.namespace",
                "is not the path of a namespace",
                "such as media/drm",
            );
        }
        let ca_file = self.absolute("keystore.transit.ca_file", transit.ca_file);
        let timeout = self.patience("keystore.transit.timeout", transit.timeout);
        let token = self.required(TABLE, "token_file", token)?;
        Some(TransitSettings {
            authority,
            base,
            mount: transit.mount,
            key: transit.key,
            namespace,
            token,
            ca_file,
            timeout,
        })
    }

    /// How long what unseals may be waited for: a keystore that starts waits no longer.
    fn patience(&mut self, key: &str, span: Span) -> std::time::Duration {
        self.within(key, span, Span::seconds(1), Span::seconds(120));
        span.0
    }
}
