//! Who may do what with which keys.
//!
//! A [`Caller`] is fixed where a handle is minted or a socket connected, from what the operating system says of
//! the peer; nothing that a caller sends changes it. Each call is checked against its grants, in one place:
//! [`crate::local`].

use std::collections::BTreeSet;

use conf::{CallerRight, CallerSettings, KeystoreSettings, NodeSettings};
use keystore_types::AssetId;

/// What may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Hold keys to encrypt with.
    Lease,
    /// Take keys that a verified entitlement names.
    Export,
    /// Initialise, unseal, seal, list and destroy; never see a key.
    Operate,
    /// Read how the keystore stands, and verify the audit log.
    Audit,
}

impl Capability {
    /// As in audit records and refusals.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lease => "lease",
            Self::Export => "export",
            Self::Operate => "operate",
            Self::Audit => "audit",
        }
    }
}

impl From<CallerRight> for Capability {
    fn from(right: CallerRight) -> Self {
        match right {
            CallerRight::Lease => Self::Lease,
            CallerRight::Export => Self::Export,
            CallerRight::Operate => Self::Operate,
            CallerRight::Audit => Self::Audit,
        }
    }
}

/// One capability, and the assets for which it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// What may be done.
    pub capability: Capability,
    /// With keys of this tenant.
    pub tenant: String,
    /// With keys of these assets.
    pub assets: Assets,
}

/// Which assets of a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Assets {
    /// Every one, also those that do not exist yet.
    All,
    /// These.
    Named(BTreeSet<AssetId>),
}

impl Assets {
    fn contains(&self, asset: &AssetId) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.contains(asset),
        }
    }
}

/// Somebody who asks, as the audit log names them, with what they are granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    name: String,
    grants: Vec<Grant>,
}

impl Caller {
    /// A caller with these grants.
    pub fn new(name: impl Into<String>, grants: Vec<Grant>) -> Self {
        Self {
            name: name.into(),
            grants,
        }
    }

    /// Whoever runs the host: root, or the keystore's own user.
    pub fn operator(name: impl Into<String>) -> Self {
        let grant = |capability| Grant {
            capability,
            tenant: String::new(),
            assets: Assets::All,
        };
        let grants = [Capability::Operate, Capability::Audit].map(grant);
        Self::new(name, grants.into())
    }

    /// The caller that is configured under this name, such as `origin`: for roles in the keystore's process.
    pub fn configured(settings: &KeystoreSettings, name: &str) -> Option<Self> {
        let caller = settings.callers.get(name)?;
        Some(Self::of(name, caller, &settings.tenant))
    }

    /// Another machine, which leases and exports at the most.
    pub fn node(name: &str, node: &NodeSettings, tenant: &str) -> Self {
        let rights = node.may.iter();
        let rights =
            rights.filter(|right| matches!(right, CallerRight::Lease | CallerRight::Export));
        Self::granted(name, rights, &node.assets, tenant)
    }

    fn of(name: &str, settings: &CallerSettings, tenant: &str) -> Self {
        Self::granted(name, settings.may.iter(), &settings.assets, tenant)
    }

    fn granted<'a>(
        name: &str,
        rights: impl Iterator<Item = &'a CallerRight>,
        assets: &[String],
        tenant: &str,
    ) -> Self {
        let assets = if assets.iter().any(|asset| asset == "*") {
            Assets::All
        } else {
            // A name that cannot name an asset grants nothing.
            let names = assets.iter();
            Assets::Named(names.filter_map(|name| name.parse().ok()).collect())
        };
        let grants = rights.map(|right| Grant {
            capability: (*right).into(),
            tenant: tenant.to_owned(),
            assets: assets.clone(),
        });
        Self::new(name, grants.collect())
    }

    /// Several callers that one user is, as where all roles run under one account.
    fn merged(callers: Vec<Self>) -> Option<Self> {
        callers.into_iter().reduce(|mut all, next| {
            all.name = format!("{}+{}", all.name, next.name);
            all.grants.extend(next.grants);
            all
        })
    }

    /// The name in audit records.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether there is any grant of this capability.
    pub fn may(&self, capability: Capability) -> bool {
        self.grants
            .iter()
            .any(|grant| grant.capability == capability)
    }

    /// Whether the capability is granted for this asset.
    pub fn may_with(&self, capability: Capability, tenant: &str, asset: &AssetId) -> bool {
        self.grants.iter().any(|grant| {
            grant.capability == capability && grant.tenant == tenant && grant.assets.contains(asset)
        })
    }

    /// The tenants for whose keys of this asset the capability is granted.
    pub(crate) fn tenants_with<'a>(
        &'a self,
        capability: Capability,
        asset: &'a AssetId,
    ) -> impl Iterator<Item = &'a str> {
        self.grants
            .iter()
            .filter(move |grant| grant.capability == capability && grant.assets.contains(asset))
            .map(|grant| grant.tenant.as_str())
    }
}

/// Whether two callers are, or may be, one person: a user may be several callers, whose names are joined by `+`.
pub(crate) fn same_person(one: &str, other: &str) -> bool {
    one.split('+')
        .any(|name| other.split('+').any(|also| name == also))
}

/// The callers that Unix users are (`keystore.callers`), looked up once.
#[derive(Clone, Debug)]
pub struct Callers {
    by_uid: Vec<(u32, Caller)>,
    own_uid: u32,
}

impl Callers {
    /// Looks up the users. One that the host does not have is no caller, and is logged.
    pub fn load(settings: &KeystoreSettings) -> Self {
        let mut by_uid = Vec::new();
        for (name, caller) in &settings.callers {
            let Some(user) = &caller.user else { continue };
            match user.uid() {
                Ok(Some(uid)) => by_uid.push((uid, Caller::of(name, caller, &settings.tenant))),
                Ok(None) => tracing::warn!(caller = name, %user, "this host has no such user"),
                Err(error) => tracing::warn!(caller = name, %user, %error, "cannot look up"),
            }
        }
        Self {
            by_uid,
            own_uid: rustix::process::geteuid().as_raw(),
        }
    }

    /// Who a process of this user is on the keystore socket: nobody, unless configured so.
    pub fn of_keys(&self, uid: u32) -> Option<Caller> {
        let may = |caller: &Caller| caller.may(Capability::Lease) || caller.may(Capability::Export);
        Caller::merged(self.of_uid(uid, may))
    }

    /// Who a process of this user is on the control socket: root and the keystore's own user are operators.
    pub fn of_control(&self, uid: u32) -> Option<Caller> {
        let may =
            |caller: &Caller| caller.may(Capability::Operate) || caller.may(Capability::Audit);
        let mut callers = self.of_uid(uid, may);
        if uid == 0 || uid == self.own_uid {
            callers.push(Caller::operator("operator"));
        }
        Caller::merged(callers)
    }

    fn of_uid(&self, uid: u32, may: impl Fn(&Caller) -> bool) -> Vec<Caller> {
        let callers = self.by_uid.iter();
        callers
            .filter(|(theirs, caller)| *theirs == uid && may(caller))
            .map(|(_, caller)| caller.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use conf::User;

    use super::*;

    fn caller(user: u32, may: &[CallerRight], assets: &[&str]) -> CallerSettings {
        CallerSettings {
            user: Some(User::Uid(user)),
            may: may.to_vec(),
            assets: assets.iter().map(|&asset| asset.to_owned()).collect(),
        }
    }

    fn callers(settings: &[(&str, CallerSettings)]) -> Callers {
        let of = |(name, caller): &(&str, CallerSettings)| {
            let Some(User::Uid(uid)) = caller.user else {
                panic!("tests use numbers")
            };
            (uid, Caller::of(name, caller, "default"))
        };
        Callers {
            by_uid: settings.iter().map(of).collect(),
            own_uid: 500,
        }
    }

    #[test]
    fn a_grant_holds_for_its_capability_tenant_and_assets() {
        let film = "film".parse().unwrap();
        let other = "other".parse().unwrap();
        let one = Caller::of(
            "origin",
            &caller(1, &[CallerRight::Lease], &["film"]),
            "default",
        );
        assert!(one.may_with(Capability::Lease, "default", &film));
        assert!(!one.may_with(Capability::Lease, "default", &other));
        assert!(!one.may_with(Capability::Lease, "another", &film));
        assert!(!one.may_with(Capability::Export, "default", &film));
        let all = Caller::of(
            "origin",
            &caller(1, &[CallerRight::Lease], &["*"]),
            "default",
        );
        assert!(all.may_with(Capability::Lease, "default", &other));
        let none = Caller::of("origin", &caller(1, &[CallerRight::Lease], &[]), "default");
        assert!(!none.may_with(Capability::Lease, "default", &film));
    }

    #[test]
    fn sockets_know_their_callers() {
        let callers = callers(&[
            ("license", caller(2, &[CallerRight::Export], &["*"])),
            ("origin", caller(1, &[CallerRight::Lease], &["*"])),
            ("auditor", caller(3, &[CallerRight::Audit], &[])),
        ]);
        assert_eq!(callers.of_keys(1).unwrap().name(), "origin");
        assert_eq!(callers.of_control(1), None);
        assert_eq!(callers.of_keys(3), None);
        assert!(!callers.of_control(3).unwrap().may(Capability::Operate));
        // Root operates; it gets keys only where it is configured to.
        assert_eq!(callers.of_keys(0), None);
        assert!(callers.of_control(0).unwrap().may(Capability::Operate));
        assert!(callers.of_control(500).unwrap().may(Capability::Operate));
        assert_eq!(callers.of_control(4), None);
    }

    #[test]
    fn root_and_the_keystores_own_user_are_one_person() {
        let callers = callers(&[
            ("anna", caller(1, &[CallerRight::Operate], &[])),
            ("chief", caller(0, &[CallerRight::Operate], &[])),
        ]);
        let name = |uid| callers.of_control(uid).unwrap().name().to_owned();
        assert!(same_person(&name(0), &name(500)));
        assert!(!same_person(&name(0), &name(1)));
        assert!(!same_person(&name(500), &name(1)));
    }

    #[test]
    fn one_user_may_be_several_callers() {
        let callers = callers(&[
            ("license", caller(1, &[CallerRight::Export], &["a"])),
            ("origin", caller(1, &[CallerRight::Lease], &["*"])),
        ]);
        let both = callers.of_keys(1).unwrap();
        assert_eq!(both.name(), "license+origin");
        assert!(both.may_with(Capability::Lease, "default", &"b".parse().unwrap()));
        assert!(!both.may_with(Capability::Export, "default", &"b".parse().unwrap()));
    }
}
