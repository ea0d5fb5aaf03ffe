use crate::entitlement::{Malformation, MessageFault};
use crate::format::clearkey::RequestFault;
use crate::format::{fairplay, playready};
use crate::policy::LeftOut;
use crate::session::RateOf;

/// Why no licence is given. A player hears little of it; the decision log and the metrics hear it all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The request carries no token.
    #[error("no token")]
    NoToken,
    /// The request carries more than one token, of which two readers could take one each.
    #[error("more than one token")]
    TokenAmbiguous,
    /// The token is not a JWT that is read here.
    #[error("malformed token: {0}")]
    TokenMalformed(#[from] Malformation),
    /// No configured issuer signs under this `iss`, or none with this algorithm or key id.
    #[error("no issuer is configured for the token's {0}")]
    IssuerUnknown(IssuerMismatch),
    /// The issuer's keys could not be fetched for so long that the last ones are no longer good, or never yet.
    #[error("the keys of the token's issuer cannot be had")]
    IssuerKeysUnavailable,
    /// The signature is not that of the issuer's key.
    #[error("the signature does not verify")]
    SignatureInvalid,
    /// A claim that must be there is not.
    #[error("the claim {0} is missing")]
    ClaimMissing(&'static str),
    /// A claim has the wrong type or is out of bounds.
    #[error("the claim {0} is malformed")]
    ClaimMalformed(&'static str),
    /// The entitlement message within the token is not one that is read here.
    #[error("entitlement message: {0}")]
    Message(#[from] MessageFault),
    /// The token tells a client who signed in, and entitles nobody.
    #[error("the token is an OpenID Connect ID token")]
    IdToken,
    /// The token is good for longer than its issuer may say.
    #[error("the token is good for longer than `max_lifetime` allows")]
    LifetimeExceeded,
    /// The token is meant for someone else, or for others as well.
    #[error("the token is meant for another audience")]
    AudienceMismatch,
    /// `exp` and the leeway have passed.
    #[error("the token has expired")]
    TokenExpired,
    /// `nbf` is still ahead, leeway included.
    #[error("the token is not valid yet")]
    TokenNotYetValid,
    /// The token names a policy that is not configured, or one that does not allow this licence system.
    #[error("the token's policy does not allow this licence")]
    PolicyUnmet,
    /// The tenant does not let keys be handed out in the open.
    #[error("the tenant does not allow ClearKey: `allow_clear_key` is off")]
    ClearKeyNotAllowed,
    /// The token does not name the asset.
    #[error("the token does not cover the asset")]
    AssetNotEntitled,
    /// Neither the URL of an opaque challenge nor the token names a key.
    #[error("neither the URL, by `kid`, nor the token names a key")]
    KeysUnnamed,
    /// The token names none of the requested keys.
    #[error("the token covers none of the requested keys")]
    KeysNotEntitled,
    /// The licences' first moment, by policy or token, is still ahead.
    #[error("licences are not given yet")]
    NotYetAvailable,
    /// Their last moment has passed.
    #[error("licences are given no longer")]
    NoLongerAvailable,
    /// The licence is to be kept, which policy or token does not allow.
    #[error("a licence that may be kept is not allowed")]
    PersistenceNotAllowed,
    /// Of the keys that are requested and entitled, none has a rule that can be kept.
    #[error("the rule of no key is met: {}", reasons(.0))]
    RulesUnmet(Vec<LeftOut>),
    /// The asset has none of the keys that are requested and entitled.
    #[error("the asset has none of the keys")]
    KeysUnknown,
    /// The keystore grants this server nothing of the asset.
    #[error("the keystore does not grant the asset to this server")]
    KeystoreDenied,
    /// The body is not a licence request.
    #[error("malformed request: {0}")]
    RequestMalformed(#[from] RequestFault),
    /// The body broke off, or came too slowly.
    #[error("the request did not arrive whole")]
    RequestIncomplete,
    /// The body is longer than any licence request.
    #[error("the request is too long")]
    RequestTooLong,
    /// No licence is given at the client's address, or no proxy says what that is.
    #[error("no licence is given at the client's address")]
    AddressNotAllowed,
    /// No licence is given in the client's country, or it is not known which that is.
    #[error("no licence is given in the client's country")]
    CountryNotAllowed,
    /// More licences were asked for than the configuration allows in a minute.
    #[error("the rate of licences by {of} is exceeded")]
    RateExceeded {
        /// What is counted.
        of: RateOf,
        /// Seconds until there may be one more.
        retry_after: u32,
    },
    /// The subject was revoked.
    #[error("the subject was revoked")]
    SubjectRevoked,
    /// The token was revoked.
    #[error("the token was revoked")]
    TokenRevoked,
    /// The keys were revoked, as far as the token covers them.
    #[error("the keys were revoked")]
    KeysRevoked,
    /// The token is good for one licence, and another request had that.
    #[error("the token was used before")]
    TokenReplayed,
    /// The request does not say which session or which device it is of, or says it in a way that is not read.
    #[error("the request does not name its {0}")]
    Unnamed(&'static str),
    /// The subject plays as many streams as it may.
    #[error("the subject plays as many streams as it may")]
    StreamLimit {
        /// Seconds until the first of them ends, if it is not renewed.
        retry_after: u32,
    },
    /// The subject has as many devices as it may.
    #[error("the subject has as many devices as it may")]
    DeviceLimit,
    /// Whoever is asked does not allow the licence.
    #[error("the authorisation webhook does not allow it")]
    NotAuthorised,
    /// Whoever is to be asked does not answer.
    #[error("the authorisation webhook does not answer")]
    AuthoriserUnavailable,
    /// The store has no room to remember the licence by.
    #[error("the store of sessions is full")]
    SessionsFull,
    /// The store does not answer, or has not for too long.
    #[error("the store of sessions cannot answer")]
    SessionsUnavailable,
    /// The URL or the body is no challenge of its system.
    #[error("malformed challenge: {0}")]
    ChallengeMalformed(#[from] ChallengeFault),
    /// The licence service refuses the challenge: the device, or what it sent.
    #[error("the licence service refuses: {0}")]
    UpstreamRefused(String),
    /// No licence service answers.
    #[error("no licence service answers: {0}")]
    UpstreamUnavailable(String),
    /// What the licence services answer is no licence.
    #[error("the licence services give no licence: {0}")]
    UpstreamUnfit(String),
    /// More is asked for than can be done in time.
    #[error("more licences are asked for than can be given in time")]
    Overloaded {
        /// Seconds until the player may come again.
        retry_after: u32,
    },
    /// The keystore is sealed.
    #[error("the keystore is sealed")]
    Sealed,
    /// The keystore's audit log is full or cannot be written.
    #[error("the keystore cannot record what it hands out")]
    AuditUnavailable,
    /// The keystore does not answer.
    #[error("the keystore cannot answer")]
    KeystoreUnavailable,
}

/// What of a token fits no configured issuer, the nearest miss last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum IssuerMismatch {
    /// `iss` is unknown.
    #[error("`iss`")]
    Name,
    /// `iss` is known, but signs with another algorithm.
    #[error("`alg`")]
    Algorithm,
    /// `iss` is known, but the header's `kid` names none of its keys.
    #[error("`kid`")]
    KeyId,
}

/// What is wrong with a challenge, in words that hold nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChallengeFault {
    /// `kid` in the query is no lower-case UUID.
    #[error("a `kid` of the URL is no UUID in lower case")]
    KeyId,
    /// Too many of them.
    #[error("the URL names more than {} keys", keystore_client::MAX_KEYS)]
    TooManyKeys,
    /// There is no body.
    #[error("the body is empty")]
    Empty,
    /// No PlayReady challenge.
    #[error(transparent)]
    PlayReady(#[from] playready::ChallengeFault),
    /// No SPC.
    #[error(transparent)]
    FairPlay(#[from] fairplay::SpcFault),
}

impl Refusal {
    /// A short fixed name for logs and metric labels.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoToken => "no_token",
            Self::TokenAmbiguous => "token_ambiguous",
            Self::TokenMalformed(_) => "token_malformed",
            Self::IssuerUnknown(IssuerMismatch::Name) => "issuer_unknown",
            Self::IssuerUnknown(IssuerMismatch::Algorithm) => "algorithm_mismatch",
            Self::IssuerUnknown(IssuerMismatch::KeyId) => "key_id_unknown",
            Self::IssuerKeysUnavailable => "issuer_keys_unavailable",
            Self::SignatureInvalid => "signature_invalid",
            Self::ClaimMissing(_) => "claim_missing",
            Self::ClaimMalformed(_) => "claim_malformed",
            Self::Message(fault) => fault.reason(),
            Self::IdToken => "id_token",
            Self::LifetimeExceeded => "lifetime_exceeded",
            Self::AudienceMismatch => "audience_mismatch",
            Self::TokenExpired => "token_expired",
            Self::TokenNotYetValid => "token_not_yet_valid",
            Self::PolicyUnmet => "policy_unmet",
            Self::ClearKeyNotAllowed => "clear_key_not_allowed",
            Self::AssetNotEntitled => "asset_not_entitled",
            Self::KeysUnnamed => "keys_unnamed",
            Self::KeysNotEntitled => "keys_not_entitled",
            Self::NotYetAvailable => "not_yet_available",
            Self::NoLongerAvailable => "no_longer_available",
            Self::PersistenceNotAllowed => "persistence_not_allowed",
            Self::RulesUnmet(_) => "rules_unmet",
            Self::KeysUnknown => "keys_unknown",
            Self::KeystoreDenied => "keystore_denied",
            Self::RequestMalformed(_) => "request_malformed",
            Self::RequestIncomplete => "request_incomplete",
            Self::RequestTooLong => "request_too_long",
            Self::AddressNotAllowed => "address_not_allowed",
            Self::CountryNotAllowed => "country_not_allowed",
            Self::RateExceeded { of, .. } => match of {
                RateOf::Tenant => "rate_of_tenant",
                RateOf::Address => "rate_of_address",
                RateOf::Subject => "rate_of_subject",
                RateOf::Key => "rate_of_key",
            },
            Self::SubjectRevoked => "subject_revoked",
            Self::TokenRevoked => "token_revoked",
            Self::KeysRevoked => "keys_revoked",
            Self::TokenReplayed => "token_replayed",
            Self::Unnamed(_) => "unnamed",
            Self::StreamLimit { .. } => "stream_limit",
            Self::DeviceLimit => "device_limit",
            Self::NotAuthorised => "not_authorised",
            Self::AuthoriserUnavailable => "authoriser_unavailable",
            Self::SessionsFull => "sessions_full",
            Self::SessionsUnavailable => "sessions_unavailable",
            Self::ChallengeMalformed(_) => "challenge_malformed",
            Self::UpstreamRefused(_) => "upstream_refused",
            Self::UpstreamUnavailable(_) => "upstream_unavailable",
            Self::UpstreamUnfit(_) => "upstream_unfit",
            Self::Overloaded { .. } => "overloaded",
            Self::Sealed => "sealed",
            Self::AuditUnavailable => "audit_unavailable",
            Self::KeystoreUnavailable => "keystore_unavailable",
        }
    }
}

fn reasons(left_out: &[LeftOut]) -> String {
    let reasons: Vec<_> = left_out
        .iter()
        .map(|LeftOut { key_id, why }| format!("{key_id}: {why}"))
        .collect();
    reasons.join("; ")
}
