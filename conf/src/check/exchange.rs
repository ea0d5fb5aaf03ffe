//! Partners in key exchange, and vendors whose keys are used.

use std::path::PathBuf;

use super::Check;
use crate::document::{ExchangeCallerDocument, ExchangeDocument};
use crate::settings::{ExchangeCallerSettings, ExchangeRecipient, ExchangeRight, ExchangeSettings};
use crate::units::Size;

impl Check<'_> {
    /// `tls`: whether there is a listener to which clients may show certificates.
    pub(super) fn exchange(
        &mut self,
        exchange: ExchangeDocument,
        tls: bool,
    ) -> Option<ExchangeSettings> {
        let body_bytes = self.bytes(
            "license.exchange.body",
            exchange.body,
            Size(4 << 10),
            Size(1 << 20),
        );
        if exchange.enabled && exchange.callers.is_empty() && exchange.vendors.is_empty() {
            self.fault(
                "license.exchange.enabled",
                "nobody may exchange keys",
                "write a [license.exchange.callers.NAME] or a [license.exchange.vendors.NAME]",
            );
        }
        let recipient = self.recipient(
            exchange.recipient_certificate,
            exchange.recipient_key_file,
            exchange.recipient_key_credential,
        );
        let callers = exchange.callers.into_iter();
        let callers = callers
            .map(|(name, caller)| {
                let key = format!("license.exchange.callers.{name}");
                self.name(&key, &name);
                let settings = self.partner(&key, caller, tls);
                (name, settings)
            })
            .collect();
        let vendors = self.vendors(exchange.vendors, recipient.is_some());
        exchange.enabled.then_some(ExchangeSettings {
            body_bytes,
            recipient,
            callers,
            vendors,
        })
    }

    fn recipient(
        &mut self,
        certificate: Option<PathBuf>,
        key_file: Option<PathBuf>,
        key_credential: Option<String>,
    ) -> Option<ExchangeRecipient> {
        let table = "license.exchange";
        let key = self.secret(table, "recipient_key", key_file, key_credential);
        match (certificate, key) {
            (Some(certificate), Some(key)) => Some(ExchangeRecipient {
                certificate: self.absolute("license.exchange.recipient_certificate", certificate),
                key,
            }),
            (None, None) => None,
            (Some(_), None) => {
                self.fault(
                    "license.exchange.recipient_certificate",
                    "without its private key nothing that is encrypted to it can be read",
                    "set recipient_key_file or recipient_key_credential",
                );
                None
            }
            (None, Some(_)) => {
                self.fault(
                    table,
                    "a private key opens nothing without its certificate",
                    "set recipient_certificate",
                );
                None
            }
        }
    }

    fn partner(
        &mut self,
        key: &str,
        caller: ExchangeCallerDocument,
        tls: bool,
    ) -> ExchangeCallerSettings {
        let may: Vec<ExchangeRight> = self.required(key, "may", caller.may).unwrap_or_default();
        let assets: Vec<String> = (self.required(key, "assets", caller.assets)).unwrap_or_default();
        for (index, asset) in assets.iter().enumerate().filter(|(_, asset)| *asset != "*") {
            self.name(&format!("{key}.assets[{index}]"), asset);
        }
        let secret = self.secret(key, "secret", caller.secret_file, caller.secret_credential);
        if secret.is_none() && caller.certificate_files.is_empty() {
            self.fault(
                key,
                "nothing tells who this caller is",
                "set certificate_files, secret_file or secret_credential",
            );
        }
        if !tls && !caller.certificate_files.is_empty() {
            self.fault(
                &format!("{key}.certificate_files"),
                "there is no TLS listener to which a client could show a certificate",
                "set license.tls.listen, or secret_file in place of this",
            );
        }
        let receives = [ExchangeRight::Speke, ExchangeRight::Export]
            .iter()
            .any(|right| may.contains(right));
        let somehow =
            caller.danger_clear || caller.danger_unenrolled || !caller.recipient_files.is_empty();
        if receives && !somehow {
            self.fault(
                key,
                "keys could reach this caller in no way: none of its certificates is enrolled",
                "set recipient_files",
            );
        }
        let mut absolute = |name: &str, paths: Vec<PathBuf>| -> Vec<PathBuf> {
            let paths = paths.into_iter().enumerate();
            paths
                .map(|(index, path)| self.absolute(&format!("{key}.{name}[{index}]"), path))
                .collect()
        };
        ExchangeCallerSettings {
            certificates: absolute("certificate_files", caller.certificate_files),
            recipients: absolute("recipient_files", caller.recipient_files),
            may,
            assets,
            secret,
            key_cipher: caller.key_cipher,
            danger_clear: caller.danger_clear,
            danger_unenrolled: caller.danger_unenrolled,
        }
    }
}
