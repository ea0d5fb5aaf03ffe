//! Keystores and roles on different machines.

use std::collections::BTreeMap;

use super::Check;
use crate::document::{CoreDocument, ListenerDocument, NodeDocument};
use crate::settings::{CallerRight, CoreSettings, KeystoreListenerSettings, NodeSettings};
use crate::units::Span;

impl Check<'_> {
    pub(super) fn keystore_listener(
        &mut self,
        listener: ListenerDocument,
    ) -> Option<KeystoreListenerSettings> {
        const TABLE: &str = "keystore.listener";
        let key = self.secret(TABLE, "key", listener.key_file, listener.key_credential);
        let address = listener.listen.0?;
        let certificate = self.required(TABLE, "certificate", listener.certificate);
        let key = self.required(TABLE, "key_file", key);
        Some(KeystoreListenerSettings {
            address,
            certificate: self.absolute("keystore.listener.certificate", certificate?),
            key: key?,
        })
    }

    pub(super) fn nodes(
        &mut self,
        nodes: BTreeMap<String, NodeDocument>,
    ) -> BTreeMap<String, NodeSettings> {
        let mut checked = BTreeMap::new();
        for (name, node) in nodes {
            let table = format!("keystore.nodes.{name}");
            self.name(&table, &name);
            let certificate = self.required(&table, "certificate", node.certificate);
            let node_key = self.required(&table, "node_key", node.node_key);
            let may = self.required(&table, "may", node.may);
            let assets = self.required(&table, "assets", node.assets);
            let (Some(certificate), Some(node_key), Some(may), Some(assets)) =
                (certificate, node_key, may, assets)
            else {
                continue;
            };
            for (index, right) in may.iter().enumerate() {
                if !matches!(right, CallerRight::Lease | CallerRight::Export) {
                    self.fault(
                        &format!("{table}.may[{index}]"),
                        "is not for other machines",
                        "lease or export; everything else goes by the control socket",
                    );
                }
            }
            for (index, asset) in assets.iter().enumerate().filter(|(_, asset)| *asset != "*") {
                self.name(&format!("{table}.assets[{index}]"), asset);
            }
            if let Some(term) = node.lease_term {
                self.within(
                    &format!("{table}.lease_term"),
                    term,
                    Span::seconds(10),
                    Span::seconds(30 * 86_400),
                );
            }
            let Some(node_key) = public_key(&node_key) else {
                self.fault(
                    &format!("{table}.node_key"),
                    "is not a node's public key",
                    "64 hexadecimal digits, as `castellum keystore enrol` prints them",
                );
                continue;
            };
            let settings = NodeSettings {
                certificate: self.absolute(&format!("{table}.certificate"), certificate),
                node_key,
                may,
                assets,
                lease_term: node.lease_term.map(|term| term.0),
            };
            checked.insert(name, settings);
        }
        checked
    }

    pub(super) fn core(&mut self, core: CoreDocument) -> Option<CoreSettings> {
        const TABLE: &str = "keystore.core";
        let key = self.secret(TABLE, "key", core.key_file, core.key_credential);
        let node_key = self.secret(
            TABLE,
            "node_key",
            core.node_key_file,
            core.node_key_credential,
        );
        let address = core.address?;
        let Some((host, port)) = split(&address) else {
            self.fault(
                "keystore.core.address",
                "is not a host and a port",
                "such as core.example.com:8445, or [2001:db8::1]:8445",
            );
            return None;
        };
        let ca_file = self.required(TABLE, "ca_file", core.ca_file);
        let certificate = self.required(TABLE, "certificate", core.certificate);
        let key = self.required(TABLE, "key_file", key);
        let node_key = self.required(TABLE, "node_key_file", node_key);
        Some(CoreSettings {
            host,
            port,
            ca_file: self.absolute("keystore.core.ca_file", ca_file?),
            certificate: self.absolute("keystore.core.certificate", certificate?),
            key: key?,
            node_key: node_key?,
        })
    }
}

fn split(address: &str) -> Option<(String, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(host) => host.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    (!host.is_empty()).then_some((host.to_owned(), port.parse().ok()?))
}

fn public_key(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut key = [0; 32];
    for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(key)
}
