//! Other vendors' key servers, and the assets whose keys come from them.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use super::Check;
use crate::SecretSource;
use crate::document::{ExchangeDocument, VendorDocument};
use crate::settings::{PackScheme, System, VendorSettings};
use crate::units::Span;

impl Check<'_> {
    /// `can_open`: whether there is a certificate to which keys could be encrypted.
    pub(super) fn vendors(
        &mut self,
        vendors: BTreeMap<String, VendorDocument>,
        can_open: bool,
    ) -> BTreeMap<String, VendorSettings> {
        let mut named: HashMap<String, String> = HashMap::new();
        let mut checked = BTreeMap::new();
        for (name, vendor) in vendors {
            let key = format!("license.exchange.vendors.{name}");
            self.name(&key, &name);
            for asset in vendor.assets.iter().flatten() {
                if let Some(other) = named.insert(asset.clone(), name.clone()) {
                    let message = format!("`{asset}` is named by the vendor `{other}` already");
                    let help = "the keys of an asset come from one vendor";
                    self.fault(&format!("{key}.assets"), &message, help);
                }
            }
            if let Some(settings) = self.vendor(&key, vendor, can_open) {
                checked.insert(name, settings);
            }
        }
        checked
    }

    fn vendor(
        &mut self,
        key: &str,
        vendor: VendorDocument,
        can_open: bool,
    ) -> Option<VendorSettings> {
        let url = self.required(key, "url", vendor.url);
        let address = url.and_then(|url| self.remote(&format!("{key}.url"), &url));
        let assets = self.required(key, "assets", vendor.assets);
        for (index, asset) in assets.iter().flatten().enumerate() {
            self.asset(&format!("{key}.assets[{index}]"), asset);
        }
        if vendor.labels.is_empty() || has_twice(&vendor.labels) {
            let help = "write labels = [\"SD\", \"HD\", \"AUDIO\"]";
            self.fault(
                &format!("{key}.labels"),
                "names no label, or one twice",
                help,
            );
        }
        let schemes = &vendor.schemes;
        if schemes.is_empty() || has_twice(schemes) || schemes.contains(&PackScheme::Clear) {
            let message = "is neither cbcs, nor cenc, nor both";
            self.fault(
                &format!("{key}.schemes"),
                message,
                "write schemes = [\"cbcs\"]",
            );
        }
        let only_cbcs = |system: &System| *system == System::FairPlay;
        let unnamed = match schemes.contains(&PackScheme::Cenc) {
            true => vendor.systems.iter().all(only_cbcs),
            false => vendor.systems.is_empty(),
        };
        if unnamed || has_twice(&vendor.systems) {
            let message = "names no system for a scheme, or one twice";
            let help = "write systems = [\"widevine\", \"playready\"]";
            self.fault(&format!("{key}.systems"), message, help);
        }
        let secret = self.secret(key, "secret", vendor.secret_file, vendor.secret_credential);
        if let Some(user) = &vendor.user
            && (secret.is_none()
                || user.contains(':')
                || !user.bytes().all(|it| it.is_ascii_graphic()))
        {
            let message = "goes with a secret, and is graphic ASCII without a colon";
            self.fault(
                &format!("{key}.user"),
                message,
                "set secret_file or secret_credential",
            );
        }
        let identity = self.client_identity(
            key,
            vendor.certificate,
            vendor.key_file,
            vendor.key_credential,
        );
        if !vendor.danger_clear && !can_open {
            let message = "there is no certificate of ours to which its keys could be encrypted";
            let help = "set license.exchange.recipient_certificate and its key";
            self.fault(key, message, help);
        }
        let ca_file = self.absolute(&format!("{key}.ca_file"), vendor.ca_file);
        let (least, most) = (Span::seconds(1), Span::seconds(120));
        self.within(&format!("{key}.timeout"), vendor.timeout, least, most);
        let (tls, authority, path) = address?;
        Some(VendorSettings {
            tls,
            authority,
            path,
            protocol: vendor.protocol,
            assets: assets?,
            labels: vendor.labels,
            schemes: vendor.schemes,
            systems: vendor.systems,
            identity,
            user: vendor.user,
            secret,
            ca_file,
            timeout: vendor.timeout.0,
            danger_clear: vendor.danger_clear,
        })
    }

    /// What is shown to a server: a certificate and its private key.
    pub(super) fn client_identity(
        &mut self,
        key: &str,
        certificate: Option<PathBuf>,
        key_file: Option<PathBuf>,
        key_credential: Option<String>,
    ) -> Option<(PathBuf, SecretSource)> {
        let private = self.secret(key, "key", key_file, key_credential);
        match (certificate, private) {
            (Some(certificate), Some(private)) => Some((
                self.absolute(&format!("{key}.certificate"), certificate),
                private,
            )),
            (None, None) => None,
            _ => {
                let message = "a certificate and its private key are shown together or not at all";
                let help = "set certificate, and key_file or key_credential";
                self.fault(key, message, help);
                None
            }
        }
    }

    /// Where a server answers that gets keys: whether by TLS, the authority, and the path.
    pub(super) fn remote(&mut self, key: &str, url: &str) -> Option<(bool, String, String)> {
        // A slash at the end of a path that is complete is a part of it.
        self.url(key, url);
        let (scheme, rest) = url.split_once("://")?;
        let (authority, path) = match rest.split_once('/') {
            Some((authority, path)) => (authority, format!("/{path}")),
            None => (rest, "/".to_owned()),
        };
        let host = match authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|it| it.is_ascii_digit()) => host,
            _ => authority,
        };
        if scheme != "https" && !["localhost", "127.0.0.1", "[::1]"].contains(&host) {
            let message = "is not HTTPS, and all would cross the network in the open";
            let help = "begin it with https://, or name this host: 127.0.0.1, [::1] or localhost";
            self.fault(key, message, help);
            return None;
        }
        Some((scheme == "https", authority.to_owned(), path))
    }

    /// The assets whose keys are not made here: those that the keystore's section names, and those of vendors.
    pub(super) fn external_assets(
        &mut self,
        named: &[String],
        exchange: &ExchangeDocument,
    ) -> Vec<String> {
        for (index, asset) in named.iter().enumerate() {
            self.asset(&format!("keystore.external_assets[{index}]"), asset);
        }
        let vendors = exchange.vendors.values();
        let of_vendors = vendors.flat_map(|vendor| vendor.assets.iter().flatten());
        named.iter().chain(of_vendors).cloned().collect()
    }

    /// An asset's name, or `*`.
    fn asset(&mut self, key: &str, asset: &str) {
        if asset != "*" {
            self.name(key, asset);
        }
    }
}

fn has_twice<T: PartialEq>(list: &[T]) -> bool {
    (list.iter().enumerate()).any(|(index, item)| list[..index].contains(item))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_vendors_assets_have_their_keys_from_outside() {
        let text = r#"
            [keystore]
            external_assets = ["other"]
            [license.exchange.vendors.drm]
            url = "http://[::1]:8080"
            assets = ["film"]
            danger_clear = true
        "#;
        let settings = crate::parse("vendor.toml", text).unwrap();
        // Also while key exchange is switched off.
        assert!(settings.license.exchange.is_none());
        assert_eq!(settings.keystore.external_assets, ["other", "film"]);
    }

    #[test]
    fn callers_and_vendors_are_the_keystores_partners() {
        let text = r#"
            [license.exchange.callers.encryptor]
            may = ["speke"]
            assets = ["film"]
            secret_file = "/etc/castellum/encryptor.secret"
            danger_clear = true
            [license.exchange.vendors.drm]
            url = "http://[::1]:8080"
            assets = ["film"]
            danger_clear = true
        "#;
        let settings = crate::parse("partners.toml", text).unwrap();
        assert_eq!(settings.keystore.partners, ["encryptor", "drm"]);
    }
}
