//! Packs, policies and tenants: what is served, and what these forbid each other.

use std::collections::BTreeMap;

use super::Check;
use crate::document::{PackDocument, PolicyDocument, TenantDocument};
use crate::settings::{
    HlsClearKey, LicensePolicySettings, PackScheme, PackSettings, PolicySettings, System,
    TenantSettings,
};
use crate::units::Span;

impl Check<'_> {
    pub(super) fn packs(
        &mut self,
        packs: BTreeMap<String, PackDocument>,
    ) -> BTreeMap<String, PackSettings> {
        let mut checked = BTreeMap::new();
        for (name, pack) in packs {
            let key = format!("packs.{name}");
            self.name(&key, &name);
            if name == "img" {
                self.fault(&key, "`img` is where images are", "choose another name");
            }
            let segment_duration = pack.segment_duration.unwrap_or(Span::seconds(4));
            self.within(
                &format!("{key}.segment_duration"),
                segment_duration,
                Span::seconds(1),
                Span::seconds(60),
            );
            let writer = self.writer(&key, pack.writer);
            if let Some(scheme) = self.required(&key, "scheme", pack.scheme) {
                checked.insert(
                    name,
                    PackSettings {
                        scheme,
                        segment_duration: segment_duration.0,
                        writer,
                    },
                );
            }
        }
        checked
    }

    pub(super) fn policies(
        &mut self,
        policies: BTreeMap<String, PolicyDocument>,
        packs: &BTreeMap<String, PackSettings>,
    ) -> BTreeMap<String, PolicySettings> {
        let mut checked = BTreeMap::new();
        for (name, policy) in policies {
            let key = format!("policies.{name}");
            self.name(&key, &name);
            let systems = policy.systems.unwrap_or_default();
            let hls_clear_key = policy.hls_clear_key.unwrap_or(HlsClearKey::ClearKey);
            let writer = self.writer(&key, policy.writer);
            let license = self.terms(&key, policy.license);
            let Some(pack) = self.required(&key, "pack", policy.pack) else {
                continue;
            };
            let Some(PackSettings { scheme, .. }) = packs.get(&pack) else {
                // It is there, but its own fault left it out.
                let unsound = format!("packs.{pack}.scheme");
                if self.faults.iter().any(|fault| fault.key == unsound) {
                    continue;
                }
                let known: Vec<&str> = packs.keys().map(String::as_str).collect();
                let help = match &known[..] {
                    [] => format!("write one as [packs.{pack}]"),
                    known => format!("there are: {}", known.join(", ")),
                };
                self.fault(
                    &format!("{key}.pack"),
                    &format!("there is no pack `{pack}`"),
                    &help,
                );
                continue;
            };
            self.systems(&key, *scheme, &systems, hls_clear_key);
            checked.insert(
                name,
                PolicySettings {
                    pack,
                    systems,
                    hls_clear_key,
                    writer,
                    license,
                },
            );
        }
        checked
    }

    /// What a scheme and its systems forbid each other.
    pub(super) fn systems(
        &mut self,
        key: &str,
        scheme: PackScheme,
        systems: &[System],
        hls: HlsClearKey,
    ) {
        let at = format!("{key}.systems");
        match scheme {
            PackScheme::Clear if !systems.is_empty() => {
                self.fault(
                    &at,
                    "a clear pack has no keys to license",
                    "leave systems out",
                );
            }
            PackScheme::Cbcs | PackScheme::Cenc if systems.is_empty() => {
                self.fault(
                    &at,
                    "an encrypted pack needs a system to license its keys",
                    "such as systems = [\"clearkey\"]",
                );
            }
            PackScheme::Cenc if systems.contains(&System::FairPlay) => {
                self.fault(
                    &at,
                    "FairPlay plays cbcs only",
                    "choose a cbcs pack, or leave fairplay out",
                );
            }
            PackScheme::Clear | PackScheme::Cbcs | PackScheme::Cenc => {}
        }
        let mut seen = systems.to_vec();
        seen.sort_unstable();
        seen.dedup();
        if seen.len() != systems.len() {
            self.fault(&at, "names a system twice", "name each once");
        }
        if scheme == PackScheme::Cbcs && hls == HlsClearKey::Both {
            self.fault(
                &format!("{key}.hls_clear_key"),
                "no player plays cbcs with both spellings in one playlist",
                "make two policies, one with clearkey and one with identity",
            );
        }
    }

    pub(super) fn tenant(&mut self, tenants: &BTreeMap<String, TenantDocument>) -> TenantSettings {
        const ONLY: &str = "default";
        for name in tenants.keys().filter(|name| *name != ONLY) {
            self.fault(
                &format!("tenants.{name}"),
                "there is only the tenant `default`",
                "rename it",
            );
        }
        let tenant = tenants.get(ONLY).cloned().unwrap_or_default();
        TenantSettings {
            name: ONLY.to_owned(),
            allow_clear: tenant.allow_clear,
            allow_clear_key: tenant.allow_clear_key,
        }
    }
}

/// What policies say of licences. One whose pack is unknown is a fault already.
pub(super) fn licensed(
    policies: &BTreeMap<String, PolicySettings>,
    packs: &BTreeMap<String, PackSettings>,
) -> BTreeMap<String, LicensePolicySettings> {
    policies
        .iter()
        .filter_map(|(name, policy)| {
            let settings = LicensePolicySettings {
                scheme: packs.get(&policy.pack)?.scheme,
                systems: policy.systems.clone(),
                terms: policy.license.clone(),
            };
            Some((name.clone(), settings))
        })
        .collect()
}
