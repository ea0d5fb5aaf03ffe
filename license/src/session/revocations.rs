//! What was revoked, in memory: no licence asks the store for it.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use conf::RevocationSettings;
use keystore_types::KeyId;

use crate::entitlement::Bearer;
use crate::store::{Revocation, Revoked, Store};
use crate::{Clock, Error, Refusal};

/// What is revoked, and as of when.
#[derive(Debug)]
pub(super) struct Revocations {
    settings: RevocationSettings,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    revoked: HashSet<Revoked>,
    /// When that was so; none: never yet.
    read: Option<Instant>,
}

impl Revocations {
    pub(super) fn new(
        settings: RevocationSettings,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            settings,
            store,
            clock,
            known: RwLock::default(),
        }
    }

    /// Reads them anew, which takes effect at once.
    pub(super) async fn read(&self) -> Result<Vec<Revocation>, Error> {
        // Before it is asked: what comes while it answers may be missing.
        let read = Some(Instant::now());
        let revocations = self.store.revocations(self.clock.now()).await?;
        let what = revocations.iter().map(|revocation| revocation.what.clone());
        let known = Known {
            revoked: what.collect(),
            read,
        };
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = known;
        Ok(revocations)
    }

    /// Reads them anew, again and again.
    pub(super) async fn follow(self: Arc<Self>) {
        loop {
            tokio::time::sleep(self.settings.interval).await;
            if let Err(error) = self.read().await {
                tracing::error!(%error, "what was revoked cannot be read");
            }
        }
    }

    /// Whether neither subject nor token is revoked.
    pub(super) fn judge(&self, bearer: &Bearer) -> Result<(), Refusal> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if (known.read).is_none_or(|read| read.elapsed() > self.settings.staleness) {
            return Err(Refusal::SessionsUnavailable);
        }
        if known.revoked.is_empty() {
            return Ok(());
        }
        let is_revoked = |what: fn(Option<String>, String) -> Revoked, name: &Option<String>| {
            let Some(name) = name else {
                return false;
            };
            [None, Some(bearer.issuer.clone())]
                .into_iter()
                .any(|issuer| known.revoked.contains(&what(issuer, name.clone())))
        };
        if is_revoked(Revoked::Subject, &bearer.subject) {
            return Err(Refusal::SubjectRevoked);
        }
        if is_revoked(Revoked::Token, &bearer.token_id) {
            return Err(Refusal::TokenRevoked);
        }
        Ok(())
    }

    /// Leaves out keys that are revoked.
    pub(super) fn retain(&self, key_ids: &mut Vec<KeyId>) -> Result<(), Refusal> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        key_ids.retain(|key_id| !known.revoked.contains(&Revoked::Key(*key_id)));
        match key_ids.is_empty() {
            true => Err(Refusal::KeysRevoked),
            false => Ok(()),
        }
    }
}
