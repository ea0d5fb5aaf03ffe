//! Tokens: a text becomes an [`Entitlement`] through a [`Verifier`], and in no other way.
//!
//! A token is a JWT in the compact form (RFC 7515, RFC 7519), profiled by RFC 8725: its algorithm is that of
//! the issuer's key record, its form is strict, nothing that it names is fetched, and the time is an argument.
//!
//! ```text
//! text -> Token -> issuer, keys -> signature -> claims by the issuer's shape -> times -> Entitlement
//!   \______________________ remembered by the cache ____________________/
//! ```

mod axinom;
mod cache;
mod claims;
mod demands;
pub mod inspect;
mod issuer;
mod jwk;
mod key;
mod key_set;
pub mod mint;
mod provider;
mod refresh;
#[cfg(test)]
mod tests;
mod token;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use keystore_types::{AssetId, KeyId};

pub use self::axinom::MessageFault;
use self::cache::TokenCache;
use self::claims::Claims as ReadClaims;
pub use self::claims::{AssetGrant, AudienceRule};
pub use self::demands::{
    Demands, DrmSystem, KeyDemand, KeyDemands, LicenseDemand, MAX_NAME_LEN, PlayReadyDemand,
    StreamDemand, WidevineDemand, is_name,
};
pub use self::inspect::{Inspection, Verdict, inspect};
pub use self::issuer::{Issuer, Keys, KidRule, Shape};
pub use self::key::{Algorithm, SigningKey, VerificationKey};
pub use self::key_set::{KeySet, Skipped};
pub use self::mint::{Claims, mint};
use self::refresh::Fetch;
pub use self::refresh::{FetchedKeys, Refresher};
pub use self::token::{Malformation, Part, Token};
use crate::refusal::IssuerMismatch;
use crate::{Error, Refusal, UnixTime, telemetry};

/// How far the clocks of an issuer and of this machine may stand apart, where nothing else is configured.
pub const LEEWAY: Duration = Duration::from_secs(30);

/// Tells true tokens from others, with the keys of the issuers of one tenant. Another tenant has a verifier of its own,
/// which knows nothing of these: so no token opens what is not its tenant's, and none gets as far as the keystore.
pub struct Verifier {
    issuers: Vec<Issuer>,
    cache: Option<TokenCache>,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier")
            .field("issuers", &self.issuers)
            .finish_non_exhaustive()
    }
}

impl Verifier {
    /// A verifier that trusts these issuers; with none it refuses every token.
    pub fn new(issuers: Vec<Issuer>) -> Self {
        Self {
            issuers,
            cache: None,
        }
    }

    /// The same, which remembers tokens that it verified in about so many bytes; with none it remembers nothing.
    ///
    /// # Errors
    /// Internal: the system gives no random numbers.
    pub fn remembering(self, bytes: usize) -> Result<Self, Error> {
        let cache = match bytes {
            0 => None,
            bytes => Some(TokenCache::new(bytes)?),
        };
        Ok(Self { cache, ..self })
    }

    /// The keys for want of which the token was refused so, and that its issuer may have published since; none where they
    /// were fetched a moment ago, or many wait for them already.
    pub fn missing_keys(&self, text: &str, refusal: &Refusal) -> Option<MissingKeys> {
        let could_have_more = |issuer: &&Issuer| issuer.could_have_more(refusal).is_some();
        if !self.issuers.iter().any(|issuer| could_have_more(&issuer)) {
            return None;
        }
        let token = Token::parse(text).ok()?;
        let named = self.issuers.iter().filter(could_have_more);
        let named = named.filter(|issuer| issuer.is_named_by(&token).unwrap_or(false));
        let fetches: Vec<_> = named
            .filter_map(|issuer| issuer.could_have_more(refusal)?.wish())
            .collect();
        (!fetches.is_empty()).then_some(MissingKeys(fetches))
    }

    /// What the token entitles its bearer to at this moment, by the keys at hand.
    ///
    /// # Errors
    /// A [`Rejection`] with the first rule that the token breaks: its form, its issuer, its signature, then
    /// its claims.
    pub fn verify(&self, text: &str, now: UnixTime) -> Result<Entitlement, Rejection> {
        let Some(cache) = &self.cache else {
            return self.prove(text, now).map(Entitlement);
        };
        // None that is longer is a token, and their digests would cost.
        if text.len() > Token::MAX_LEN {
            return Err(Refusal::from(Malformation::TooLong).into());
        }
        let digest = cache.digest(text);
        if let Some(proven) = cache.find(&digest) {
            let issuer = &self.issuers[proven.issuer];
            let keys = issuer.keys.current();
            if keys.generation == proven.generation && keys.lasts(now) {
                telemetry::token_verified(true);
                return match issuer.judge_times(&proven.claims, now) {
                    Ok(()) => Ok(Entitlement(proven)),
                    Err(refusal) => Err(Rejection {
                        refusal,
                        bearer: Some(proven.bearer.clone()),
                    }),
                };
            }
        }
        let proven = self.prove(text, now)?;
        telemetry::token_verified(false);
        let leeway = self.issuers[proven.issuer].leeway;
        let end = proven.claims.expires.map(|expires| expires.plus(leeway));
        cache.keep(digest, text.len(), Arc::clone(&proven), end, now);
        Ok(Entitlement(proven))
    }

    fn prove(&self, text: &str, now: UnixTime) -> Result<Arc<Proven>, Rejection> {
        let token = Token::parse(text).map_err(Refusal::from)?;
        let mut rejection = None;
        let mut nearest = IssuerMismatch::Name;
        let mut tried = false;
        let mut keys_missing = false;
        for (index, issuer) in self.issuers.iter().enumerate() {
            if !issuer.is_named_by(&token)? {
                continue;
            }
            let keys = issuer.keys.current();
            if !keys.lasts(now) {
                keys_missing = true;
                continue;
            }
            for key in keys.fitting(&token.header, &mut nearest) {
                tried = true;
                if !key.verifies(token.signed, token.signature) {
                    continue;
                }
                match issuer.entitle(index, keys.generation, &token, now) {
                    Ok(proven) => return Ok(Arc::new(proven)),
                    // Another issuer may trust the same key for another audience.
                    Err(refused) => rejection = Some(refused),
                }
            }
        }
        Err(match rejection {
            Some(rejection) => rejection,
            None if tried => Refusal::SignatureInvalid.into(),
            None if keys_missing => Refusal::IssuerKeysUnavailable.into(),
            None if nearest == IssuerMismatch::Name && names_nobody(&token) => {
                Refusal::ClaimMissing("iss").into()
            }
            None => Refusal::IssuerUnknown(nearest).into(),
        })
    }
}

/// Keys that are being fetched for a token that was refused for want of them.
#[derive(Debug)]
pub struct MissingKeys(Vec<Fetch>);

impl MissingKeys {
    /// Waits for them, but not long. Whether any were fetched.
    pub async fn fetched(self) -> bool {
        let ended = join_all(self.0.into_iter().map(Fetch::ended)).await;
        ended.contains(&true)
    }
}

/// Whether a token says in no way whose it is.
fn names_nobody(token: &Token<'_>) -> bool {
    !token.claims.contains_key("iss") && axinom::com_key_id(token).is_none()
}

impl Issuer {
    fn entitle(
        &self,
        index: usize,
        generation: u64,
        token: &Token<'_>,
        now: UnixTime,
    ) -> Result<Proven, Rejection> {
        let claims = self.read(token)?;
        let bearer = self.bearer(&claims);
        if let Err(refusal) = self.judge_times(&claims, now) {
            let bearer = Some(bearer);
            return Err(Rejection { refusal, bearer });
        }
        Ok(Proven {
            issuer: index,
            generation,
            bearer,
            kid_rule: self.kid_rule,
            claims,
        })
    }
}

/// What a signature proved once.
#[derive(Debug)]
struct Proven {
    /// The issuer's place among the verifier's.
    issuer: usize,
    /// That of the issuer's keys then.
    generation: u64,
    bearer: Bearer,
    kid_rule: KidRule,
    claims: ReadClaims,
}

/// What a true token entitles its bearer to. Only a [`Verifier`] makes one.
#[derive(Clone, Debug)]
pub struct Entitlement(Arc<Proven>);

impl Entitlement {
    /// Who bears it, on whose word.
    pub fn bearer(&self) -> &Bearer {
        &self.0.bearer
    }

    /// Whether the asset is covered. A token without `assets` names keys instead, whatever their asset.
    pub fn covers_asset(&self, asset: &AssetId) -> bool {
        (self.0.claims.assets.as_ref()).is_none_or(|assets| assets.covers(asset))
    }

    /// Whether the key is covered, for all that it belongs to a covered asset.
    pub fn covers_key(&self, key_id: &KeyId) -> bool {
        (self.0.claims.key_ids.as_ref()).is_none_or(|key_ids| key_ids.contains(key_id))
    }

    /// The keys that the token names; none where it names assets only.
    pub fn key_ids(&self) -> impl Iterator<Item = KeyId> {
        self.0.claims.key_ids.iter().flatten().copied()
    }

    /// What becomes of a request for keys of which some are not covered.
    pub fn kid_rule(&self) -> KidRule {
        self.0.kid_rule
    }

    /// The licence policy that the token names.
    pub fn policy(&self) -> Option<&str> {
        self.0.claims.policy.as_deref()
    }

    /// What else the token demands.
    pub fn demands(&self) -> &Demands {
        &self.0.claims.demands
    }

    /// When the token ends, leeway apart; none: never.
    pub fn expires(&self) -> Option<UnixTime> {
        self.0.claims.expires
    }
}

/// Who presented a token that its issuer signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bearer {
    /// The configured issuer's name.
    pub issuer: String,
    /// `sub`, as issued.
    pub subject: Option<String>,
    /// `jti`, as issued.
    pub token_id: Option<String>,
}

/// Why a token was refused, and whose it is, if its issuer did sign it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The rule that it breaks.
    pub refusal: Refusal,
    /// Known once the signature was verified.
    pub bearer: Option<Bearer>,
}

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Self {
        Self {
            refusal,
            bearer: None,
        }
    }
}
