//! Whether what is there is what was written: the audit log, the store, and that they fit together.

use std::sync::Arc;

use keystore_client::Error as CallError;
use keystore_client::admin::{CheckpointText, Finding, KeyFilter, PAGE, Report};

use crate::audit::{Checkpoint, Expected, PublicKey};
use crate::error::Error;
use crate::local::{Inner, blocking};
use crate::store::{KeyBody, Signed};

impl Inner {
    pub(crate) async fn verify(
        self: &Arc<Self>,
        against: Option<&CheckpointText>,
    ) -> Result<Report, CallError> {
        let against = against
            .map(Checkpoint::try_from)
            .transpose()
            .map_err(|what| CallError::Malformed(what.to_owned()))?;
        let mut report = Report {
            audit_records: 0,
            audit_signed: 0,
            keys: 0,
            unwrapped: 0,
            faults: Vec::new(),
        };
        self.verify_log(against, &mut report).await?;
        self.verify_store(&mut report).await?;
        Ok(report)
    }

    async fn verify_log(
        self: &Arc<Self>,
        against: Option<Checkpoint>,
        report: &mut Report,
    ) -> Result<(), Error> {
        // Unsealed, from the private key; sealed, what the store says of it.
        let key = match self.log.public_key() {
            Some(key) => Some(key),
            None => self.stored_public_key(Signed::Audit).await?,
        };
        let forged = against.filter(|checkpoint| !key.is_some_and(|key| checkpoint.is_by(&key)));
        let (anchor, seen) = (self.store.anchor().await?, self.log.store_seen());
        let walk = blocking({
            let inner = self.clone();
            move || {
                let checkpoints: Vec<_> = match forged {
                    Some(_) => vec![],
                    None => against.into_iter().collect(),
                };
                Ok(inner.log.verify(&Expected {
                    key,
                    anchor,
                    checkpoints: &checkpoints,
                }))
            }
        })
        .await?;
        report.audit_records = walk.head.seq;
        report.audit_signed = walk.signed;
        report.faults.extend(walk.fault.map(|fault| Finding {
            place: "audit".to_owned(),
            sequence: Some(fault.seq),
            offset: Some(fault.offset),
            what: fault.what,
        }));
        if forged.is_some() {
            report.faults.push(finding(
                "checkpoint",
                "this keystore has not signed the checkpoint".to_owned(),
            ));
        }
        let writes = self.store.writes().await?;
        let stated = against.map_or(0, |checkpoint| checkpoint.statement.store);
        let known = seen.max(walk.store).max(stated);
        if writes < known {
            report.faults.push(finding(
                "store",
                format!("it was put back: it was written to {writes} times, and once had been {known} times"),
            ));
        }
        let stated = against.map_or(0, |checkpoint| checkpoint.statement.tombstones);
        let known = (self.log.tombstones_seen())
            .max(walk.tombstones)
            .max(stated);
        let count = self.tombstones.count();
        if count < known {
            report.faults.push(finding(
                "tombstones",
                format!("they were put back: there are {count}, and once were {known}"),
            ));
        }
        let foreign = self.foreign_tombstones().await?;
        report
            .faults
            .extend(foreign.map(|what| finding("tombstones", what)));
        Ok(())
    }

    /// What the store says of a signing key.
    pub(crate) async fn stored_public_key(
        &self,
        signs: Signed,
    ) -> Result<Option<PublicKey>, Error> {
        let keys = self.store.signing_keys().await?;
        let key = keys.iter().find(|key| key.signs == signs);
        Ok(key.map(|key| PublicKey::new(key.public)))
    }

    async fn verify_store(&self, report: &mut Report) -> Result<(), Error> {
        let wrong = self.store.integrity().await?;
        let wrong = wrong.into_iter().map(|what| finding("store", what));
        report.faults.extend(wrong);
        let mut filter = KeyFilter::default();
        loop {
            let rows = self.store.page(&filter, PAGE).await?;
            let Some(last) = rows.last() else {
                return Ok(());
            };
            filter.after = Some(last.key_id);
            for row in rows {
                report.keys += 1;
                let KeyBody::Wrapped(_) = row.body else {
                    continue;
                };
                let Ok(unsealed) = self.unsealed() else {
                    continue;
                };
                match unsealed.content_key(self.store.as_ref(), &row).await {
                    Ok(_) => report.unwrapped += 1,
                    Err(error) => {
                        let place = row.key_id.to_string();
                        report.faults.push(finding(&place, error.to_string()));
                    }
                }
            }
        }
    }
}

fn finding(place: &str, what: String) -> Finding {
    Finding {
        place: place.to_owned(),
        sequence: None,
        offset: None,
        what,
    }
}
