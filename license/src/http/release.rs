//! The release of a ClearKey licence that was kept, and its acknowledgement (W3C EME 9.1.5 and 9.1.6).
//!
//! No key leaves, so the keystore has no part in it. That the player has destroyed its keys is its own word: the record
//! says who gave it, for which keys, and when.

use std::time::Instant;

use bytes::Bytes;
use http::request;
use keystore_types::AssetId;
use origin_front::{BodyError, Response};

use super::rescue::rescue;
use super::service::{LicenseService, demanded, respond, unread};
use crate::decision_log::{Draft, Outcome};
use crate::entitlement::KidRule;
use crate::format::clearkey::{self, Release};
use crate::policy::System;
use crate::{Refusal, session, telemetry};

impl LicenseService {
    /// Acknowledges and records a release, and ends the stream that the request names.
    pub(super) async fn release(
        &self,
        asset: AssetId,
        head: &request::Parts,
        body: Result<Bytes, BodyError>,
    ) -> Response {
        let begun = Instant::now();
        let (now, system) = (self.parts.clock.now(), System::ClearKey.as_str());
        let mut draft = Draft::new(now, system, Some(asset.clone()));
        let result = self.give_up(&asset, head, body, &mut draft).await;
        // As with licences, nothing was decided.
        if let Err(refusal @ Refusal::Overloaded { .. }) = &result {
            return rescue(refusal);
        }
        let outcome = match &result {
            Ok(()) => Outcome::Released,
            Err(refusal) => Outcome::from(refusal),
        };
        telemetry::decided(&outcome, begun.elapsed());
        let acknowledgement = clearkey::acknowledge(&draft.key_ids);
        self.parts.decisions.record(draft, outcome);
        match result {
            Ok(()) => respond("application/json", acknowledgement.into()),
            Err(refusal) => rescue(&refusal),
        }
    }

    /// The keys that are given up are noted in the draft: those that the token covers.
    async fn give_up(
        &self,
        asset: &AssetId,
        head: &request::Parts,
        body: Result<Bytes, BodyError>,
        draft: &mut Draft,
    ) -> Result<(), Refusal> {
        let (_place, entitlement) =
            (self.recognise(head, draft.time).await).map_err(|rejection| {
                draft.bearer = rejection.bearer;
                rejection.refusal
            })?;
        draft.bearer = Some(entitlement.bearer().clone());
        // Nothing more is asked of a viewer: whoever may do nothing any more may still give up what there was.
        let release = Release::read(&body.map_err(unread)?)?;
        draft.key_ids = release.key_ids;
        if !entitlement.covers_asset(asset) {
            return Err(Refusal::AssetNotEntitled);
        }
        let covered = |key_id: &_| entitlement.covers_key(key_id);
        let mut key_ids = draft.key_ids.iter();
        let enough = match entitlement.kid_rule() {
            KidRule::Subset => key_ids.any(covered),
            KidRule::Strict => key_ids.all(covered),
        };
        if !enough {
            return Err(Refusal::KeysNotEntitled);
        }
        draft.key_ids.retain(covered);
        let ask = session::Ask {
            bearer: entitlement.bearer(),
            demanded: demanded(&entitlement),
            headers: &head.headers,
            asset,
            request: &[],
            now: draft.time,
        };
        match self.parts.sessions.release(ask).await {
            // A licence that was kept may be given up long after its stream: where none is named, none ends.
            Ok(()) | Err(Refusal::Unnamed(_) | Refusal::ClaimMissing(_)) => Ok(()),
            Err(refusal) => Err(refusal),
        }
    }
}
