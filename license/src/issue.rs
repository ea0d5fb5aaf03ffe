//! A grant becomes a licence: the keystore exports the keys, and nothing else is let through.

use keystore_client::{EntitlementRef, ExportRequest, ExportedKey, Keystore};
use keystore_types::{ContentKey, KeyId};

use crate::Refusal;
use crate::entitlement::Bearer;
use crate::policy::{Challenge, Grant};

/// Keys on their way to a player, at least one.
#[derive(Debug)]
pub struct License {
    keys: Vec<ExportedKey>,
}

impl License {
    /// The keys, in the order asked for.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = (KeyId, &ContentKey)> {
        self.keys
            .iter()
            .map(|exported| (exported.key_id, &exported.key))
    }

    /// The keys, and what is known of each.
    pub fn exported(&self) -> &[ExportedKey] {
        &self.keys
    }

    /// The first key: the only one where a player can ask for no more.
    pub fn first(&self) -> &ContentKey {
        &self.keys[0].key
    }

    /// The ids of the keys.
    pub fn key_ids(&self) -> Vec<KeyId> {
        self.keys.iter().map(|exported| exported.key_id).collect()
    }
}

/// Has the granted keys exported. The keystore commits its audit record before it answers.
///
/// # Errors
/// [`Refusal::KeysUnknown`] where the asset has none of them, [`Refusal::Sealed`],
/// [`Refusal::KeystoreDenied`], [`Refusal::AuditUnavailable`], [`Refusal::KeystoreUnavailable`].
pub async fn issue(
    keystore: &dyn Keystore,
    challenge: &Challenge,
    grant: &Grant,
    bearer: &Bearer,
) -> Result<License, Refusal> {
    let key_ids = grant.key_ids();
    let request = ExportRequest {
        asset: challenge.asset.clone(),
        key_ids: key_ids.clone(),
        entitlement: EntitlementRef {
            issuer: bearer.issuer.clone(),
            subject: bearer.subject.clone(),
            token_id: bearer.token_id.clone(),
            system: challenge.system.as_str().to_owned(),
        },
    };
    let mut keys = keystore.export(request).await.map_err(refusal)?;
    keys.retain(|exported| {
        key_ids.contains(&exported.key_id)
            && grant.scheme.is_none_or(|scheme| scheme == exported.scheme)
    });
    keys.sort_by_key(|exported| key_ids.iter().position(|key_id| *key_id == exported.key_id));
    if keys.is_empty() {
        Err(Refusal::KeysUnknown)
    } else {
        Ok(License { keys })
    }
}

pub(crate) fn refusal(error: keystore_client::Error) -> Refusal {
    match error {
        keystore_client::Error::Sealed => Refusal::Sealed,
        keystore_client::Error::Denied(reason) => {
            tracing::warn!(
                reason,
                "the keystore does not let this server export keys of the asset"
            );
            Refusal::KeystoreDenied
        }
        keystore_client::Error::AuditUnavailable(reason) => {
            tracing::error!(reason, "the keystore cannot record what it hands out");
            Refusal::AuditUnavailable
        }
        keystore_client::Error::Malformed(reason)
        | keystore_client::Error::Conflict(reason)
        | keystore_client::Error::Unavailable(reason) => {
            tracing::error!(reason, "the keystore cannot answer");
            Refusal::KeystoreUnavailable
        }
    }
}
