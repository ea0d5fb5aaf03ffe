//! Who is trusted: issuers of tokens, callers of the keystore, and the cost of its passphrase.

use std::collections::{BTreeMap, HashMap};

use super::Check;
use crate::User;
use crate::document::{Argon2Document, CallerDocument, IssuerDocument};
use crate::settings::{
    Argon2Settings, CallerRight, CallerSettings, IssuerSettings, TokenAlgorithm,
};
use crate::units::Size;

impl Check<'_> {
    pub(super) fn issuers(&mut self, issuers: Vec<IssuerDocument>) -> Vec<IssuerSettings> {
        let mut checked: Vec<IssuerSettings> = Vec::new();
        for (index, issuer) in issuers.into_iter().enumerate() {
            let key = format!("license.issuers[{index}]");
            let secret = self.secret(&key, "key", issuer.key_file, issuer.key_credential);
            let name = self.required(&key, "name", issuer.name);
            let claim = self.required(&key, "issuer", issuer.issuer);
            let audience = self.required(&key, "audience", issuer.audience);
            let algorithm: Option<TokenAlgorithm> =
                self.required(&key, "algorithm", issuer.algorithm);
            let secret = self.required(&key, "key_file", secret);
            let (Some(name), Some(claim), Some(audience), Some(algorithm), Some(secret)) =
                (name, claim, audience, algorithm, secret)
            else {
                continue;
            };
            if checked.iter().any(|other| other.name == name) {
                self.fault(
                    &format!("{key}.name"),
                    "two issuers have this name",
                    "choose another",
                );
            }
            if checked
                .iter()
                .any(|other| other.issuer == claim && other.key_id == issuer.key_id)
            {
                self.fault(
                    &format!("{key}.issuer"),
                    "two issuers have this `iss` and no key_id that tells them apart",
                    "give each a key_id",
                );
            }
            let issuer = IssuerSettings {
                name,
                issuer: claim,
                audience,
                key_id: issuer.key_id,
                algorithm,
                key: secret,
            };
            checked.push(issuer);
        }
        checked
    }

    pub(super) fn callers(
        &mut self,
        callers: BTreeMap<String, CallerDocument>,
    ) -> BTreeMap<String, CallerSettings> {
        let mut users: HashMap<String, String> = HashMap::new();
        let mut checked = BTreeMap::new();
        for (name, caller) in callers {
            let key = format!("keystore.callers.{name}");
            self.name(&key, &name);
            let may: Vec<CallerRight> = self.required(&key, "may", caller.may).unwrap_or_default();
            if let Some(user) = &caller.user
                && let Some(other) = users.insert(user.clone(), name.clone())
            {
                self.fault(
                    &format!("{key}.user"),
                    &format!("the caller `{other}` is the same user, so the keystore could not tell them apart"),
                    "give each caller a user of its own",
                );
            }
            let assets = caller.assets.unwrap_or_else(|| vec!["*".to_owned()]);
            for (index, asset) in assets.iter().enumerate().filter(|(_, asset)| *asset != "*") {
                self.name(&format!("{key}.assets[{index}]"), asset);
            }
            checked.insert(
                name,
                CallerSettings {
                    user: caller.user.map(User::from),
                    may,
                    assets,
                },
            );
        }
        checked
    }

    /// RFC 9106 4 recommends 64 MiB and 3 passes at the least; a little less is let through for small machines
    /// and for tests, nothing that a graphics card would enjoy.
    pub(super) fn argon2(&mut self, argon2: Argon2Document) -> Argon2Settings {
        let memory = self.bytes(
            "keystore.argon2.memory",
            argon2.memory,
            Size::mebibytes(19),
            Size::mebibytes(2048),
        );
        if !(1..=64).contains(&argon2.passes) {
            self.fault(
                "keystore.argon2.passes",
                "is not within 1 to 64",
                "set it to 3",
            );
        }
        if !(1..=64).contains(&argon2.lanes) {
            self.fault(
                "keystore.argon2.lanes",
                "is not within 1 to 64",
                "set it to 4",
            );
        }
        Argon2Settings {
            memory_kib: u32::try_from(memory >> 10).unwrap_or(u32::MAX),
            passes: argon2.passes,
            lanes: argon2.lanes,
        }
    }
}
