//! Who is trusted: callers of the keystore, and the cost of its passphrase.

use std::collections::{BTreeMap, HashMap};

use super::Check;
use crate::User;
use crate::document::{Argon2Document, CallerDocument};
use crate::settings::{Argon2Settings, CallerRight, CallerSettings};
use crate::units::Size;

impl Check<'_> {
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
