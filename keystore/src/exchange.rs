//! Key exchange: keys under ids that others chose, keys that others bring, and which content of ours they protect.
//!
//! The rules and their reasons are in `keystore/design/exchange.md`. In short: an id stands for one key and one use for
//! ever; a key that others encrypt with in counter mode is never used here; and an exchanged key that is used here
//! belongs to the first content that asks for it.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use keystore_client::exchange::{
    AskedKey, DepositRequest, DepositedKey, ExchangeRequest, HandOverRequest, HandedOver, KeyUsage,
    MAX_ELSEWHERE, Partner,
};
use keystore_client::{Error as CallError, ExportedKey, MAX_HANDED_OVER};
use keystore_types::{AssetId, Generation, KeyContext, KeyId, Label, SUBSAMPLE_RULE, Scheme};
use ring::digest::{Context, SHA256};
use subtle::ConstantTimeEq as _;

use crate::audit::{Event, Room};
use crate::budget::{Fingerprint, Spender};
use crate::capability::{Caller, Capability};
use crate::error::{Error, ErrorKind};
use crate::keyring::Keyring;
use crate::local::{Inner, MAX_TRIES, audited, check_count, check_tenant};
use crate::store::{KeyBody, KeyRow};

/// The longest name of a partner or of a protocol, in bytes.
const MAX_NAME: usize = 128;

/// The most recipients of one answer.
const MAX_RECIPIENTS: usize = 64;

/// A SHA-256 fingerprint in hexadecimal.
const FINGERPRINT: usize = 64;

impl Inner {
    pub(crate) async fn exchange(
        &self,
        caller: &Caller,
        request: ExchangeRequest,
    ) -> Result<Vec<ExportedKey>, CallError> {
        let ExchangeRequest {
            tenant,
            asset,
            keys,
            partner,
        } = request;
        let asked = keys.iter().map(|key| (key.key_id, &key.usage));
        check(&tenant, &partner, asked)?;
        let spender = Spender::serving(caller, &partner);
        if !caller.may_with(Capability::Exchange, &tenant, &asset) {
            return Err(self.deny(spender, Capability::Exchange, Some(&asset)).await);
        }
        let unsealed = self.unsealed()?;
        let spent = keys.iter().map(|key| Fingerprint::of_id(&key.key_id));
        self.spend(spender, spent).await?;
        let place = Place {
            tenant: &tenant,
            asset: &asset,
        };
        let (rows, made) = self.find_or_make_asked(&unsealed, place, &keys).await?;
        let given = self.given(&unsealed, &rows).await?;
        let store = match made.is_empty() {
            true => None,
            false => Some(self.saw_store().await?),
        };
        let event = Event::Exchange {
            keys: rows.iter().map(audited).collect(),
            made,
            partner,
            store,
        };
        self.record(caller.name(), event).await?;
        self.unsealed()?;
        Ok(given)
    }

    pub(crate) async fn hand_over(
        &self,
        caller: &Caller,
        request: HandOverRequest,
    ) -> Result<HandedOver, CallError> {
        let HandOverRequest {
            tenant,
            asset,
            scheme,
            partner,
        } = request;
        check_tenant(&tenant)?;
        check_partner(&partner)?;
        let spender = Spender::serving(caller, &partner);
        if !caller.may_with(Capability::Exchange, &tenant, &asset) {
            return Err(self.deny(spender, Capability::Exchange, Some(&asset)).await);
        }
        let unsealed = self.unsealed()?;
        let mut rows = (self.store)
            .keys_of_asset(&tenant, &asset, true, MAX_HANDED_OVER + 1)
            .await?;
        if rows.len() > MAX_HANDED_OVER {
            return Err(conflict(format!(
                "{asset} has more than {MAX_HANDED_OVER} keys, and no more are handed over at once"
            )));
        }
        rows.retain(|row| scheme.is_none_or(|scheme| row.context.scheme == scheme));
        let spent = rows.iter().map(|row| Fingerprint::of_id(&row.key_id));
        self.spend(spender, spent).await?;
        let keys = self.given(&unsealed, &rows).await?;
        let elsewhere = (rows.iter()).filter(|row| row.context.generation.is_elsewhere());
        let elsewhere = elsewhere.map(|row| row.key_id).collect();
        let event = Event::HandOver {
            asset,
            keys: rows.iter().map(audited).collect(),
            partner,
        };
        self.record(caller.name(), event).await?;
        self.unsealed()?;
        Ok(HandedOver { keys, elsewhere })
    }

    pub(crate) async fn deposit(
        &self,
        caller: &Caller,
        request: DepositRequest,
    ) -> Result<(), CallError> {
        let DepositRequest {
            tenant,
            asset,
            keys,
            partner,
        } = request;
        let brought = keys.iter().map(|key| (key.head.key_id, &key.head.usage));
        check(&tenant, &partner, brought)?;
        let spender = Spender::serving(caller, &partner);
        if !caller.may_with(Capability::Deposit, &tenant, &asset) {
            return Err(self.deny(spender, Capability::Deposit, Some(&asset)).await);
        }
        let unsealed = self.unsealed()?;
        let spent = (keys.iter()).map(|key| Fingerprint::of_id(&key.head.key_id));
        self.spend(spender, spent).await?;
        let place = Place {
            tenant: &tenant,
            asset: &asset,
        };
        let (rows, new) = self.find_or_keep(&unsealed, place, &keys).await?;
        let store = match new.is_empty() {
            true => None,
            false => Some(self.saw_store().await?),
        };
        let event = Event::Deposit {
            keys: rows.iter().map(audited).collect(),
            new,
            partner,
            store,
        };
        self.record(caller.name(), event).await?;
        Ok(())
    }

    /// The row of each key that is asked for, and the ids of those that this call made.
    async fn find_or_make_asked(
        &self,
        unsealed: &Keyring,
        place: Place<'_>,
        asked: &[AskedKey],
    ) -> Result<(Vec<KeyRow>, Vec<KeyId>), CallError> {
        let mut made = Vec::new();
        for _ in 0..MAX_TRIES {
            let ids: Vec<KeyId> = asked.iter().map(|key| key.key_id).collect();
            let mut standing = self.rows_by_id(&ids).await?;
            let mut taken = self.taken(place).await?;
            let mut drawn = Vec::new();
            for key in asked {
                if let Some(row) = standing.get(&key.key_id) {
                    place.check_asked(row, key)?;
                    continue;
                }
                let usage = &key.usage;
                self.external
                    .check(&place.context(usage, Generation::UNCLAIMED))?;
                self.check_room_to_make()?;
                // A key that others use in counter mode would meet their counters here: each side draws its own.
                let here = usage.elsewhere.is_none()
                    && usage.scheme == Scheme::Cbcs
                    && !taken.contains(&(usage.label, usage.scheme));
                let generation = match here {
                    true => {
                        taken.push((usage.label, usage.scheme));
                        Generation::UNCLAIMED
                    }
                    false => elsewhere(key.key_id, usage.elsewhere.as_deref()),
                };
                let context = place.context(usage, generation);
                let store = self.store.as_ref();
                let row = unsealed.make_as(
                    store,
                    &self.random,
                    &context,
                    key.key_id,
                    key.iv,
                    self.now(),
                );
                drawn.push(row.await?);
            }
            made.extend(self.put(drawn, &mut standing).await?);
            let rows: Option<Vec<KeyRow>> = (asked.iter())
                .map(|key| standing.get(&key.key_id).cloned())
                .collect();
            if let Some(rows) = rows {
                return Ok((rows, made));
            }
            // Somebody else took an id or a place in between, or a rotation has overtaken the making.
        }
        Err(CallError::Unavailable(
            "others overtake the making of keys".to_owned(),
        ))
    }

    /// The row of each key that is brought, and the ids of those that were not there yet.
    async fn find_or_keep(
        &self,
        unsealed: &Keyring,
        place: Place<'_>,
        brought: &[DepositedKey],
    ) -> Result<(Vec<KeyRow>, Vec<KeyId>), CallError> {
        let mut new = Vec::new();
        for _ in 0..MAX_TRIES {
            let ids: Vec<KeyId> = brought.iter().map(|key| key.head.key_id).collect();
            let mut standing = self.rows_by_id(&ids).await?;
            let mut taken = self.taken(place).await?;
            let mut fresh = Vec::new();
            for deposited in brought {
                let head = &deposited.head;
                if let Some(row) = standing.get(&head.key_id) {
                    place.check_brought(row, deposited)?;
                    let key = unsealed.content_key(self.store.as_ref(), row).await?;
                    let same = key.expose().ct_eq(deposited.key.expose());
                    if !bool::from(same) || head.iv.is_some_and(|iv| iv != row.iv) {
                        return Err(conflict(format!(
                            "there is another key under the id {}",
                            head.key_id
                        )));
                    }
                    continue;
                }
                self.check_room_to_make()?;
                let usage = &head.usage;
                let generation = match &usage.elsewhere {
                    Some(text) => elsewhere(head.key_id, Some(text)),
                    None if taken.contains(&(usage.label, usage.scheme)) => {
                        return Err(conflict(format!(
                            "{} has a key for {} in {} already: destroy it first, or leave the new one out",
                            place.asset, usage.label, usage.scheme
                        )));
                    }
                    None => {
                        taken.push((usage.label, usage.scheme));
                        Generation::UNCLAIMED
                    }
                };
                let context = place.context(usage, generation);
                let store = self.store.as_ref();
                let now = self.now();
                let row = unsealed.keep(store, &self.random, &context, head, &deposited.key, now);
                fresh.push(row.await?);
            }
            new.extend(self.put(fresh, &mut standing).await?);
            let rows: Option<Vec<KeyRow>> = (brought.iter())
                .map(|key| standing.get(&key.head.key_id).cloned())
                .collect();
            if let Some(rows) = rows {
                return Ok((rows, new));
            }
        }
        Err(CallError::Unavailable(
            "others overtake the keeping of keys".to_owned(),
        ))
    }

    /// Keeps rows, and adds those that were kept to those that stand; returns their ids.
    async fn put(
        &self,
        rows: Vec<KeyRow>,
        standing: &mut HashMap<KeyId, KeyRow>,
    ) -> Result<Vec<KeyId>, CallError> {
        if rows.is_empty() {
            return Ok(vec![]);
        }
        let standing_now = self.store.put_keys(rows.clone()).await?;
        // What stands in a row's place may be another's, even under its id.
        let kept = standing_now.into_iter().flatten();
        let kept: Vec<KeyRow> = kept.filter(|row| rows.contains(row)).collect();
        let ids = kept.iter().map(|row| row.key_id).collect();
        standing.extend(kept.into_iter().map(|row| (row.key_id, row)));
        Ok(ids)
    }

    /// Finds exchanged keys for contexts that have no key of their own, and gives them those that wait. Returns the ids
    /// of the latter.
    pub(crate) async fn claim_exchanged(
        &self,
        unsealed: &Keyring,
        contexts: &[KeyContext],
        found: &mut [Option<KeyRow>],
    ) -> Result<Vec<KeyId>, CallError> {
        let mut claimed_now = Vec::new();
        // Each asset's once: a title with a long history has many.
        let mut used_here: HashMap<(&str, &AssetId), Vec<KeyRow>> = HashMap::new();
        for (context, found) in contexts.iter().zip(found.iter_mut()) {
            if found.is_some() {
                continue;
            }
            let at = |generation| KeyContext {
                generation,
                ..context.clone()
            };
            let claimed = at(context.generation.claimed());
            for _ in 0..MAX_TRIES {
                let both = [claimed.clone(), at(Generation::UNCLAIMED)];
                let mut rows = self.store.keys_of(&both).await?.into_iter();
                let (own, waiting) = (rows.next().flatten(), rows.next().flatten());
                if let Some(row) = own {
                    *found = Some(row);
                    break;
                }
                let Some(row) = waiting else { break };
                let store = self.store.as_ref();
                let replaced =
                    (unsealed.move_to(store, &self.random, row, claimed.clone())).await?;
                let moved = replaced.new.clone();
                // Not as it was read: another content was faster, or a rotation. The next look tells.
                if self.store.rewrap(vec![replaced]).await? == 1 {
                    claimed_now.push(moved.key_id);
                    *found = Some(moved);
                    break;
                }
            }
            if found.is_some() {
                continue;
            }
            let KeyContext { tenant, asset, .. } = context;
            let rows = match used_here.entry((tenant, asset)) {
                Entry::Occupied(rows) => rows.into_mut(),
                Entry::Vacant(place) => place.insert(self.used_here(tenant, asset).await?),
            };
            let other = rows.iter().find(|row| {
                row.context.generation.is_exchanged_for_here()
                    && (row.context.label, row.context.scheme) == (context.label, context.scheme)
            });
            if let Some(other) = other {
                return Err(conflict(format!(
                    "key {} came from outside for another content of {} ({}, {}): bring a new one for what it is now, \
                     or destroy the old one, and a key is made here",
                    other.key_id, context.asset, context.label, context.scheme
                )));
            }
        }
        Ok(claimed_now)
    }

    /// No key is made any more when the log's reserve is begun.
    pub(crate) fn check_room_to_make(&self) -> Result<(), Error> {
        if self.log.room() < Room::Plenty {
            return Err(Error::new(
                ErrorKind::AuditUnavailable,
                "the audit log is down to its reserve, and no key is made any more: set the log aside",
            ));
        }
        Ok(())
    }

    /// The labels and schemes for which the asset has a key that is used here, or waits to be.
    async fn taken(&self, place: Place<'_>) -> Result<Vec<(Label, Scheme)>, CallError> {
        let rows = self.used_here(place.tenant, place.asset).await?;
        let of = |row: &KeyRow| (row.context.label, row.context.scheme);
        Ok(rows.iter().map(of).collect())
    }

    async fn used_here(&self, tenant: &str, asset: &AssetId) -> Result<Vec<KeyRow>, CallError> {
        let rows = self
            .store
            .keys_of_asset(tenant, asset, false, MAX_USED_HERE);
        Ok(rows.await?)
    }

    async fn rows_by_id(&self, ids: &[KeyId]) -> Result<HashMap<KeyId, KeyRow>, CallError> {
        let rows = self.store.keys_by_id(ids).await?;
        Ok(rows.into_iter().map(|row| (row.key_id, row)).collect())
    }

    /// The keys of these rows.
    pub(crate) async fn given(
        &self,
        unsealed: &Keyring,
        rows: &[KeyRow],
    ) -> Result<Vec<ExportedKey>, Error> {
        let mut keys = Vec::with_capacity(rows.len());
        for row in rows {
            keys.push(ExportedKey {
                key_id: row.key_id,
                label: row.context.label,
                scheme: row.context.scheme,
                iv: row.iv,
                key: unsealed.content_key(self.store.as_ref(), row).await?,
            });
        }
        Ok(keys)
    }
}

/// The assets whose keys come from outside, and are never made here.
pub(crate) struct External {
    all: bool,
    named: HashSet<String>,
}

impl External {
    /// Names, or `*` for all.
    pub(crate) fn new(assets: &[String]) -> Self {
        Self {
            all: assets.iter().any(|asset| asset == "*"),
            named: assets.iter().cloned().collect(),
        }
    }

    /// Refuses to have a key made: the vendor who licenses the asset would not know it.
    pub(crate) fn check(&self, context: &KeyContext) -> Result<(), CallError> {
        let KeyContext {
            asset,
            label,
            scheme,
            ..
        } = context;
        if !self.all && !self.named.contains(asset.as_str()) {
            return Ok(());
        }
        Err(conflict(format!(
            "the keys of {asset} come from outside, and there is none yet for {label} in {scheme}: fetch it with \
             `castellum key fetch {asset}`, or import it"
        )))
    }
}

/// The most keys of an asset that are looked through: one for each label, scheme and version of its sources.
const MAX_USED_HERE: usize = 4096;

/// An asset of a tenant.
#[derive(Clone, Copy)]
struct Place<'a> {
    tenant: &'a str,
    asset: &'a AssetId,
}

impl Place<'_> {
    fn context(&self, usage: &KeyUsage, generation: Generation) -> KeyContext {
        KeyContext {
            tenant: self.tenant.to_owned(),
            asset: self.asset.clone(),
            label: usage.label,
            scheme: usage.scheme,
            subsample_rule: SUBSAMPLE_RULE,
            generation,
        }
    }

    /// An encryptor gets the key of an id only for what that was made for, and none that is used here in counter mode.
    fn check_asked(&self, row: &KeyRow, asked: &AskedKey) -> Result<(), CallError> {
        let generation = row.context.generation;
        let usage = &asked.usage;
        let shared = usage.elsewhere.is_none()
            && usage.scheme == Scheme::Cbcs
            && generation.is_exchanged_for_here();
        let own = generation == elsewhere(asked.key_id, usage.elsewhere.as_deref());
        self.check_row(row, usage, shared || own)
    }

    fn check_brought(&self, row: &KeyRow, brought: &DepositedKey) -> Result<(), CallError> {
        let generation = row.context.generation;
        let head = &brought.head;
        let as_brought = match &head.usage.elsewhere {
            Some(text) => generation == elsewhere(head.key_id, Some(text)),
            None => generation.is_exchanged_for_here(),
        };
        self.check_row(row, &head.usage, as_brought)
    }

    /// Whoever asks hears that an id is taken, and not by what: it may be another's.
    fn check_row(&self, row: &KeyRow, usage: &KeyUsage, fits: bool) -> Result<(), CallError> {
        let KeyContext {
            tenant,
            asset,
            label,
            scheme,
            ..
        } = &row.context;
        let same = *tenant == self.tenant
            && asset == self.asset
            && (*label, *scheme) == (usage.label, usage.scheme);
        match (&row.body, same && fits) {
            (KeyBody::Wrapped(_), true) => Ok(()),
            (KeyBody::Destroyed(_), true) => {
                Err(conflict(format!("key {} was destroyed", row.key_id)))
            }
            (_, false) => Err(conflict(format!(
                "the key id {} stands for another key already: another content, other tracks, another scheme, or a key \
                 that was not exchanged",
                row.key_id
            ))),
        }
    }
}

/// Where a key of this id and use stands that is used elsewhere only.
fn elsewhere(key_id: KeyId, usage: Option<&str>) -> Generation {
    let mut context = Context::new(&SHA256);
    context.update(b"castellum key used elsewhere 1\0");
    context.update(key_id.as_bytes());
    context.update(usage.unwrap_or_default().as_bytes());
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    Generation::elsewhere(digest)
}

fn check<'a>(
    tenant: &str,
    partner: &Partner,
    keys: impl ExactSizeIterator<Item = (KeyId, &'a KeyUsage)>,
) -> Result<(), CallError> {
    check_tenant(tenant)?;
    check_partner(partner)?;
    check_count(keys.len())?;
    let mut seen = Vec::with_capacity(keys.len());
    for (key_id, usage) in keys {
        if (usage.elsewhere.as_ref()).is_some_and(|text| text.len() > MAX_ELSEWHERE) {
            return Err(CallError::Malformed(format!(
                "what a key is used for has at most {MAX_ELSEWHERE} bytes"
            )));
        }
        if seen.contains(&key_id) {
            return Err(CallError::Malformed(format!("key {key_id} is named twice")));
        }
        seen.push(key_id);
    }
    Ok(())
}

fn check_partner(partner: &Partner) -> Result<(), CallError> {
    let named = |name: &str| (1..=MAX_NAME).contains(&name.len());
    let fingerprints = partner.recipients.iter();
    if named(&partner.name)
        && named(&partner.protocol)
        && partner.recipients.len() <= MAX_RECIPIENTS
        && fingerprints.into_iter().all(|it| it.len() == FINGERPRINT)
    {
        return Ok(());
    }
    Err(CallError::Malformed(format!(
        "a partner has a name and a protocol of 1 to {MAX_NAME} bytes, and at most {MAX_RECIPIENTS} recipients"
    )))
}

/// What an origin may ask for.
pub(crate) fn check_content(generation: Generation) -> Result<(), CallError> {
    if generation.is_content() && generation.sources != [0; 32] {
        return Ok(());
    }
    Err(CallError::Malformed(format!(
        "a key's generation is the digest of its sources, and a number below {}",
        Generation::MAX_NUMBER
    )))
}

fn conflict(why: String) -> CallError {
    CallError::Conflict(why)
}
