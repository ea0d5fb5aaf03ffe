//! CPIX documents: keys that a partner brings, and keys that it is handed.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use cpix::delivery::Certificate;
use cpix::speke::{CONTENT_TYPE, Usage};
use cpix::usage::{Filter, UsageRule};
use cpix::{Document, Key, Limits, Reading, Secret, SystemId, Version};
use http::header;
use keystore_client::exchange::{DepositRequest, DepositedHead, DepositedKey, HandOverRequest};
use keystore_client::{ExportedKey, MAX_KEYS};
use keystore_types::{AssetId, Scheme};
use zeroize::Zeroizing;

use super::partner::Partner;
use super::usage::{Described, usage};
use super::{Exchange, Refusal, Reply};
use crate::decision_log::Draft;

impl Exchange {
    /// Keeps the keys of a document, all or none, and says what becomes of each.
    pub(super) async fn import(
        &self,
        partner: &Partner,
        asset: &AssetId,
        body: &[u8],
        draft: &mut Draft,
    ) -> Result<Reply, Refusal> {
        partner.check_asset(asset)?;
        let reading = Reading {
            limits: Limits {
                bytes: self.body_bytes,
                ..Limits::default()
            },
            ..Reading::default()
        };
        let mut document = Document::read(body, &reading)?;
        draft.key_ids = document.keys.iter().map(|key| key.key_id).collect();
        check_content(&document, asset)?;
        if !(1..=MAX_KEYS).contains(&document.keys.len()) {
            return Err(Refusal::Unfit(format!(
                "a document that is imported holds 1 to {MAX_KEYS} keys"
            )));
        }
        let recipients: Vec<String> = (document.deliveries.iter())
            .map(|delivery| delivery.certificate.fingerprint())
            .collect();
        if let Some(key) = (document.keys.iter()).find(|key| matches!(key.secret, Secret::Clear(_)))
            && !partner.danger_clear
        {
            return Err(Refusal::NotGranted(format!(
                "key {} came in the clear, and that is not switched on for {}: encrypt the document to this server's \
                 certificate",
                key.key_id, partner.name
            )));
        }
        if !document.deliveries.is_empty() {
            let Some(recipient) = &self.recipient else {
                let reason = "this server has no certificate of its own to which documents could be encrypted";
                return Err(Refusal::Unfit(reason.to_owned()));
            };
            document.decrypt(&**recipient, &self.random)?;
        }
        let version = document.version.as_str().unwrap_or("2.0");
        let mut said = String::new();
        let mut keys = Vec::with_capacity(document.keys.len());
        for key in std::mem::take(&mut document.keys) {
            let head = head(&document, &key);
            let place = match &head.usage.elsewhere {
                None => "waits for the title's tracks, or is used for them",
                Some(_) => {
                    "is kept for licences: these are not exactly the tracks of one label in cbcs or cenc"
                }
            };
            // Writing to a string does not fail.
            let _ = writeln!(
                said,
                "{} {} {}: {place}",
                key.key_id, head.usage.label, head.usage.scheme
            );
            let Secret::Clear(secret) = key.secret else {
                return Err(Refusal::Unfit(format!(
                    "key {} is not in the document",
                    key.key_id
                )));
            };
            keys.push(DepositedKey { head, key: secret });
        }
        let request = DepositRequest {
            tenant: self.tenant.clone(),
            asset: asset.clone(),
            keys,
            partner: self.audited(partner, &format!("cpix-{version}"), recipients),
        };
        self.keystore.deposit(request).await?;
        Ok(Reply {
            headers: vec![(
                header::CONTENT_TYPE.as_str(),
                "text/plain; charset=utf-8".to_owned(),
            )],
            body: Zeroizing::new(said),
        })
    }

    /// Hands over all keys of an asset, or those of one scheme (`?scheme=cbcs`).
    pub(super) async fn export(
        &self,
        partner: &Partner,
        asset: &AssetId,
        query: Option<&str>,
        draft: &mut Draft,
    ) -> Result<Reply, Refusal> {
        partner.check_asset(asset)?;
        let scheme = scheme_of(query)?;
        if partner.recipients.is_empty() && !partner.danger_clear {
            return Err(Refusal::NotGranted(format!(
                "no certificate of {} is enrolled, and keys in the clear are not switched on",
                partner.name
            )));
        }
        for recipient in &partner.recipients {
            recipient.check_valid_at(draft.time.as_seconds())?;
        }
        let version = Version::V2_3;
        let request = HandOverRequest {
            tenant: self.tenant.clone(),
            asset: asset.clone(),
            scheme,
            partner: self.audited(
                partner,
                &format!("cpix-{}", version.as_str().unwrap_or("2.0")),
                partner
                    .recipients
                    .iter()
                    .map(Certificate::fingerprint)
                    .collect(),
            ),
        };
        let handed = self.keystore.hand_over(request).await?;
        if handed.keys.is_empty() {
            return Err(Refusal::NoKeys(asset.clone()));
        }
        draft.key_ids = handed.keys.iter().map(|key| key.key_id).collect();
        let mut document = Document::new(version);
        document.content_id = Some(asset.as_str().to_owned());
        // Two keys for one track make a document invalid: then the keys stand without rules.
        let here = |key: &&ExportedKey| !handed.elsewhere.contains(&key.key_id);
        let labels: BTreeSet<_> = handed
            .keys
            .iter()
            .filter(here)
            .map(|key| key.label)
            .collect();
        if labels.len() == handed.keys.iter().filter(here).count() {
            document.rules = (handed.keys.iter().filter(here)).map(rule).collect();
        }
        document.keys = handed.keys.into_iter().map(written).collect();
        let body = if partner.recipients.is_empty() {
            document.export_clear()
        } else {
            let recipients: Vec<&Certificate> = partner.recipients.iter().collect();
            document.encrypt(&recipients, partner.key_cipher, &self.random)?;
            document.to_xml()?
        };
        Ok(Reply {
            headers: vec![(header::CONTENT_TYPE.as_str(), CONTENT_TYPE.to_owned())],
            body,
        })
    }
}

/// The content that a document names, if it does, is the one that the URL names.
fn check_content(document: &Document, asset: &AssetId) -> Result<(), Refusal> {
    let of_keys = document.keys.iter().map(|key| key.content_id.as_ref());
    let mut named = of_keys.chain([document.content_id.as_ref()]).flatten();
    match named.find(|named| *named != asset.as_str()) {
        None => Ok(()),
        Some(_) => Err(Refusal::Unfit(format!(
            "the document is of another content than the URL: @contentId is to be {asset}"
        ))),
    }
}

fn head(document: &Document, key: &Key) -> DepositedHead {
    let rules = document.rules.iter();
    let rules: Vec<&UsageRule> = rules.filter(|rule| rule.key_id == key.key_id).collect();
    let systems = document.systems.iter();
    let systems: Vec<SystemId> = systems
        .filter(|system| system.key_id == key.key_id)
        .map(|system| system.system_id)
        .collect();
    let rotates = (rules.iter().flat_map(|rule| &rule.filters))
        .any(|filter| matches!(filter, Filter::KeyPeriod(_)));
    DepositedHead {
        key_id: key.key_id,
        usage: usage(&Described {
            scheme: key.scheme,
            rules: &rules,
            rotates,
            systems: &systems,
        }),
        iv: key.explicit_iv,
    }
}

fn scheme_of(query: Option<&str>) -> Result<Option<Scheme>, Refusal> {
    match query {
        None | Some("") => Ok(None),
        Some("scheme=cbcs") => Ok(Some(Scheme::Cbcs)),
        Some("scheme=cenc") => Ok(Some(Scheme::Cenc)),
        Some(_) => Err(Refusal::Unfit(
            "the query is scheme=cbcs, scheme=cenc, or none".to_owned(),
        )),
    }
}

fn rule(key: &ExportedKey) -> UsageRule {
    let Usage {
        intended_track_type,
        filters,
    } = Usage::of_label(key.label);
    UsageRule {
        key_id: key.key_id,
        intended_track_type: Some(intended_track_type),
        filters,
    }
}

fn written(key: ExportedKey) -> Key {
    Key {
        explicit_iv: (key.scheme == Scheme::Cbcs).then_some(key.iv),
        scheme: Some(key.scheme.into()),
        secret: Secret::Clear(key.key),
        ..Key::new(key.key_id)
    }
}
