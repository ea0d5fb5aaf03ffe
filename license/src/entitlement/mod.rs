//! Tokens: a text becomes an [`Entitlement`] through [`Verifier::verify`], and in no other way.
//!
//! A token is a JWT in the compact form (RFC 7515, RFC 7519), profiled by RFC 8725: its algorithm is that of
//! the issuer's key record, its form is strict, nothing that it names is fetched, and the time is an argument.

mod claims;
pub mod inspect;
mod issuer;
mod jwk;
mod key;
pub mod mint;
mod provider;
#[cfg(test)]
mod tests;
mod token;

use std::collections::BTreeSet;
use std::time::Duration;

use keystore_types::{AssetId, KeyId};

pub use self::claims::AssetGrant;
pub use self::inspect::{Inspection, Verdict, inspect};
pub use self::issuer::Issuer;
pub use self::key::{Algorithm, SigningKey, VerificationKey};
pub use self::mint::{Claims, mint};
pub use self::token::{Malformation, Part, Token};
use crate::refusal::IssuerMismatch;
use crate::{Refusal, UnixTime};

/// How far the clocks of an issuer and of this machine may stand apart.
pub const LEEWAY: Duration = Duration::from_secs(30);

/// Tells true tokens from others, with the keys of the configured issuers.
#[derive(Debug)]
pub struct Verifier {
    issuers: Vec<Issuer>,
}

impl Verifier {
    /// A verifier that trusts these issuers; with none it refuses every token.
    pub fn new(issuers: Vec<Issuer>) -> Self {
        Self { issuers }
    }

    /// What the token entitles its bearer to at this moment.
    ///
    /// # Errors
    /// A [`Rejection`] with the first rule that the token breaks: its form, its issuer, its signature, then
    /// its claims.
    pub fn verify(&self, text: &str, now: UnixTime) -> Result<Entitlement, Rejection> {
        let token = Token::parse(text).map_err(Refusal::from)?;
        let mut rejection = None;
        for issuer in self.candidates(&token)? {
            if !issuer.key.verifies(token.signed, token.signature) {
                continue;
            }
            match issuer.entitle(&token, now) {
                Ok(entitlement) => return Ok(entitlement),
                // Another record may trust the same key for another audience.
                Err(refused) => rejection = Some(refused),
            }
        }
        Err(rejection.unwrap_or_else(|| Refusal::SignatureInvalid.into()))
    }

    /// The issuers whose key may have signed the token, at least one.
    ///
    /// `iss` is read before it is proven: it only chooses keys, whose signature then proves it.
    fn candidates(&self, token: &Token<'_>) -> Result<Vec<&Issuer>, Refusal> {
        let iss = claims::text(&token.claims, "iss")?.ok_or(Refusal::ClaimMissing("iss"))?;
        let mut mismatch = IssuerMismatch::Name;
        let mut fits = |issuer: &&Issuer| {
            if issuer.iss != iss {
                return false;
            }
            if issuer.key.algorithm() != token.header.algorithm {
                mismatch = mismatch.max(IssuerMismatch::Algorithm);
                return false;
            }
            mismatch = IssuerMismatch::KeyId;
            issuer.may_use(token.header.key_id.as_deref())
        };
        let candidates: Vec<_> = self.issuers.iter().filter(|issuer| fits(issuer)).collect();
        if candidates.is_empty() {
            Err(Refusal::IssuerUnknown(mismatch))
        } else {
            Ok(candidates)
        }
    }
}

impl Issuer {
    /// Reads the claims of a token that this issuer signed.
    fn entitle(&self, token: &Token<'_>, now: UnixTime) -> Result<Entitlement, Rejection> {
        let bearer = Bearer {
            issuer: self.name.clone(),
            subject: claims::text(&token.claims, "sub")?,
            token_id: claims::text(&token.claims, "jti")?,
        };
        match self.check(token, now) {
            Ok(claims) => Ok(Entitlement {
                bearer,
                assets: claims.assets,
                key_ids: claims.key_ids,
                policy: claims.policy,
            }),
            Err(refusal) => Err(Rejection {
                refusal,
                bearer: Some(bearer),
            }),
        }
    }

    fn check(&self, token: &Token<'_>, now: UnixTime) -> Result<claims::Claims, Refusal> {
        let claims = claims::Claims::read(&token.claims)?;
        if !claims::audience_is(&token.claims, &self.audience)? {
            return Err(Refusal::AudienceMismatch);
        }
        if now >= claims.expires.plus(LEEWAY) {
            return Err(Refusal::TokenExpired);
        }
        if claims
            .not_before
            .is_some_and(|not_before| not_before > now.plus(LEEWAY))
        {
            return Err(Refusal::TokenNotYetValid);
        }
        Ok(claims)
    }
}

/// What a true token entitles its bearer to. Only [`Verifier::verify`] makes one.
#[derive(Clone, Debug)]
pub struct Entitlement {
    bearer: Bearer,
    assets: Option<AssetGrant>,
    key_ids: Option<BTreeSet<KeyId>>,
    policy: Option<String>,
}

impl Entitlement {
    /// Who bears it, on whose word.
    pub fn bearer(&self) -> &Bearer {
        &self.bearer
    }

    /// Whether the asset is covered. A token without `assets` names keys instead, whatever their asset.
    pub fn covers_asset(&self, asset: &AssetId) -> bool {
        self.assets
            .as_ref()
            .is_none_or(|assets| assets.covers(asset))
    }

    /// Whether the key is covered, for all that it belongs to a covered asset.
    pub fn covers_key(&self, key_id: &KeyId) -> bool {
        self.key_ids
            .as_ref()
            .is_none_or(|key_ids| key_ids.contains(key_id))
    }

    /// The licence policy that the token names.
    pub fn policy(&self) -> Option<&str> {
        self.policy.as_deref()
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
