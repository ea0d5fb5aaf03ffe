use std::path::Path;
use std::time::Duration;

use conf::{IssuerKeys, IssuerSettings, TokenShape};

use super::claims::{self, AudienceRule, Claims};
use super::key::{Algorithm, VerificationKey};
use super::key_set::KeySet;
use super::refresh::{FetchedKeys, Refresher};
use super::token::{Malformation, Token, is_key_id};
use super::{LEEWAY, Rejection, axinom};
use crate::refusal::IssuerMismatch;
use crate::{Error, Refusal, UnixTime};

/// Who may say what a viewer is entitled to, in which shape, and the keys that prove it.
///
/// Two issuers may share `iss`, each with keys of its own.
#[derive(Debug)]
pub struct Issuer {
    /// Its name in logs and audit records.
    pub name: String,
    /// What its tokens look like.
    pub shape: Shape,
    /// The `iss` claim; none where its tokens need none.
    pub iss: Option<String>,
    /// The audience that its tokens name; none where they need name none.
    pub audience: Option<String>,
    /// Whether they may name others as well.
    pub audience_rule: AudienceRule,
    /// Its keys, and with each its algorithm.
    pub keys: Keys,
    /// How far its clock and this machine's may stand apart.
    pub leeway: Duration,
    /// The longest that a token may be good from its issue; none: any time.
    pub max_lifetime: Option<Duration>,
    /// What becomes of a request for keys of which some are not covered.
    pub kid_rule: KidRule,
    /// Whether it is an OpenID provider, whose access tokens are taken and whose ID tokens are not.
    pub openid: bool,
}

/// What an issuer's tokens look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// The claims `assets`, `kids` and `policy`.
    Native,
    /// The claim `authorized_kids` (DASH-IF Guidelines-Security, licence request model).
    DashIf,
    /// An entitlement message of version 2 in its envelope.
    Axinom,
}

/// What becomes of a request for keys of which a token covers only some.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KidRule {
    /// A licence with those (DASH-IF Guidelines-Security, licence request model).
    #[default]
    Subset,
    /// No licence (Axinom).
    Strict,
}

/// An issuer's keys.
#[derive(Debug)]
pub enum Keys {
    /// From a file, for as long as the process lives.
    Fixed(KeySet),
    /// From where the issuer publishes them.
    Fetched(FetchedKeys),
}

impl Keys {
    /// The keys at this moment.
    pub(super) fn current(&self) -> KeySet {
        match self {
            Self::Fixed(set) => set.clone(),
            Self::Fetched(fetched) => fetched.current(),
        }
    }
}

impl Issuer {
    /// An issuer of tokens of our own shape, with one key and the rules that hold where nothing is configured.
    pub fn new(
        name: impl Into<String>,
        iss: impl Into<String>,
        audience: impl Into<String>,
        key: VerificationKey,
    ) -> Self {
        Self {
            name: name.into(),
            shape: Shape::Native,
            iss: Some(iss.into()),
            audience: Some(audience.into()),
            audience_rule: AudienceRule::Only,
            keys: Keys::Fixed(KeySet::of(None, key)),
            leeway: LEEWAY,
            max_lifetime: None,
            kid_rule: KidRule::Subset,
            openid: false,
        }
    }

    /// Reads the issuer's keys: from their file, or where they are fetched, those that were kept in `state_dir`. The
    /// refresher then fetches them anew, when it runs.
    ///
    /// # Errors
    /// Unavailable where a file cannot be read; Malformed where it holds no fit key, or the key id could
    /// not stand in a token.
    pub fn load(
        settings: &IssuerSettings,
        state_dir: &Path,
    ) -> Result<(Self, Option<Refresher>), Error> {
        let name = &settings.name;
        if settings.key_id.as_deref().is_some_and(|id| !is_key_id(id)) {
            return Err(Error::malformed(format!(
                "the key id of issuer {name} could not stand in a token"
            )));
        }
        let algorithms: Vec<Algorithm> = settings
            .algorithms
            .iter()
            .copied()
            .map(Into::into)
            .collect();
        let (keys, refresher) = match &settings.keys {
            IssuerKeys::One(source) => {
                let [algorithm] = algorithms[..] else {
                    return Err(Error::malformed(format!(
                        "the key of issuer {name} has one algorithm"
                    )));
                };
                let attempted = || format!("the key of issuer {name}, {source}");
                let content = source
                    .read()
                    .map_err(|error| Error::unavailable(attempted(), error))?;
                let key = VerificationKey::read(algorithm, &content)
                    .map_err(|error| Error::malformed(format!("{}: {error}", attempted())))?;
                let key_id = match settings.shape {
                    TokenShape::Native | TokenShape::DashIf => settings.key_id.clone(),
                    // It stands in the payload there.
                    TokenShape::Axinom => None,
                };
                (Keys::Fixed(KeySet::of(key_id, key)), None)
            }
            IssuerKeys::Set(source) => {
                let attempted = || format!("the keys of issuer {name}, {source}");
                let content = source
                    .read()
                    .map_err(|error| Error::unavailable(attempted(), error))?;
                let reading = KeySet::read(&content, &algorithms)
                    .map_err(|error| Error::malformed(format!("{}: {error}", attempted())))?;
                for skipped in &reading.skipped {
                    tracing::warn!(
                        issuer = name,
                        "a key of the issuer's set is skipped: {skipped}"
                    );
                }
                (Keys::Fixed(reading.set), None)
            }
            IssuerKeys::Fetched(place) => {
                let (fetched, refresher) = Refresher::open(settings, place, algorithms, state_dir)?;
                (Keys::Fetched(fetched), Some(refresher))
            }
        };
        let issuer = Self {
            name: name.clone(),
            shape: match settings.shape {
                TokenShape::Native => Shape::Native,
                TokenShape::DashIf => Shape::DashIf,
                TokenShape::Axinom => Shape::Axinom,
            },
            // The id of the key is what the envelope names its sender by.
            iss: match settings.shape {
                TokenShape::Native | TokenShape::DashIf => settings.issuer.clone(),
                TokenShape::Axinom => settings.key_id.clone(),
            },
            audience: settings.audience.clone(),
            audience_rule: match settings.shared_audience {
                true => AudienceRule::Among,
                false => AudienceRule::Only,
            },
            keys,
            leeway: settings.leeway,
            max_lifetime: settings.max_lifetime,
            kid_rule: match settings.kid_rule {
                conf::KidRule::Subset => KidRule::Subset,
                conf::KidRule::Strict => KidRule::Strict,
            },
            openid: matches!(&settings.keys, IssuerKeys::Fetched(place) if place.discovery),
        };
        Ok((issuer, refresher))
    }

    /// Whether the token says that it is this issuer's. It is read before it is proven: it only chooses keys, whose
    /// signature then proves it.
    pub(super) fn is_named_by(&self, token: &Token<'_>) -> Result<bool, Refusal> {
        match self.shape {
            Shape::Native | Shape::DashIf => Ok(match &self.iss {
                Some(ours) => claims::text(&token.claims, "iss")?.as_ref() == Some(ours),
                None => true,
            }),
            Shape::Axinom => {
                let named = axinom::com_key_id(token);
                let ours = self.iss.as_deref();
                Ok(named
                    .zip(ours)
                    .is_some_and(|(named, ours)| named.eq_ignore_ascii_case(ours)))
            }
        }
    }

    /// The claims of a token that this issuer signed, its times unjudged.
    pub(super) fn read(&self, token: &Token<'_>) -> Result<Claims, Rejection> {
        let bearer = match self.shape {
            Shape::Native | Shape::DashIf => Claims::bearer(&token.claims)?,
            Shape::Axinom => Claims::default(),
        };
        let whose = self.bearer(&bearer);
        self.read_claims(token, bearer)
            .map_err(|refusal| Rejection {
                refusal,
                bearer: Some(whose),
            })
    }

    fn read_claims(&self, token: &Token<'_>, bearer: Claims) -> Result<Claims, Refusal> {
        if token.header.access_token && !self.openid {
            return Err(Malformation::Header("typ").into());
        }
        if self.openid && claims::are_of_id_token(&token.claims) {
            return Err(Refusal::IdToken);
        }
        let claims = match self.shape {
            Shape::Native => bearer.native(&token.claims)?,
            Shape::DashIf => bearer.dash_if(token)?,
            Shape::Axinom => axinom::read(token)?,
        };
        if let Some(audience) = &self.audience
            && !claims::audience_is(&token.claims, audience, self.audience_rule)?
        {
            return Err(Refusal::AudienceMismatch);
        }
        Ok(claims)
    }

    /// Whether the token is good at this moment.
    pub(super) fn judge_times(&self, claims: &Claims, now: UnixTime) -> Result<(), Refusal> {
        if let Some(longest) = self.max_lifetime {
            let expires = claims.expires.ok_or(Refusal::ClaimMissing("exp"))?;
            let begun =
                (claims.issued.or(claims.not_before)).ok_or(Refusal::ClaimMissing("iat"))?;
            if expires > begun.plus(longest) {
                return Err(Refusal::LifetimeExceeded);
            }
            if begun > now.plus(self.leeway) {
                return Err(Refusal::TokenNotYetValid);
            }
        }
        if claims
            .expires
            .is_some_and(|expires| now >= expires.plus(self.leeway))
        {
            return Err(Refusal::TokenExpired);
        }
        if claims
            .not_before
            .is_some_and(|not_before| not_before > now.plus(self.leeway))
        {
            return Err(Refusal::TokenNotYetValid);
        }
        Ok(())
    }

    pub(super) fn bearer(&self, claims: &Claims) -> super::Bearer {
        super::Bearer {
            issuer: self.name.clone(),
            subject: claims.subject.clone(),
            token_id: claims.token_id.clone(),
        }
    }

    /// The keys that it publishes, if it does and they are what the refusal misses.
    pub(super) fn could_have_more(&self, refusal: &Refusal) -> Option<&FetchedKeys> {
        let missing = matches!(
            refusal,
            Refusal::IssuerKeysUnavailable
                | Refusal::IssuerUnknown(IssuerMismatch::Algorithm | IssuerMismatch::KeyId)
        );
        match &self.keys {
            Keys::Fetched(fetched) if missing => Some(fetched),
            Keys::Fetched(_) | Keys::Fixed(_) => None,
        }
    }
}
