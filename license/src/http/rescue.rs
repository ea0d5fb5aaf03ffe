//! The one place where a refusal becomes a status.
//!
//! A player without a key learns that it gets none, not why: unknown, not entitled and unmet rules are one and the
//! same response, so that nobody can ask which keys or assets exist.

use http::{HeaderValue, StatusCode, header};
use origin_front::{Problem, Response};

use crate::Refusal;
use crate::entitlement::MAX_NAME_LEN;

/// How soon a player may come again when keys cannot be had, in seconds.
const RETRY_AFTER: u32 = 5;

/// What the DASH-IF licence request model (DASH-IF Guidelines, content protection and security, 10.2.2) calls a token that
/// does not allow the licence: players by that model drop the token and get another.
const INSUFFICIENT_PROOF: &str =
    "https://dashif.org/drm-problems/insufficient-proof-of-authorization";

/// What a player is told.
pub fn rescue(refusal: &Refusal) -> Response {
    let problem = match refusal {
        Refusal::NoToken => Problem::new(
            StatusCode::UNAUTHORIZED,
            "token-missing",
            "A token is needed to get a licence.",
        ),
        Refusal::TokenAmbiguous
        | Refusal::TokenMalformed(_)
        | Refusal::IssuerUnknown(_)
        | Refusal::SignatureInvalid
        | Refusal::ClaimMissing(_)
        | Refusal::ClaimMalformed(_)
        | Refusal::Message(_)
        | Refusal::IdToken
        | Refusal::LifetimeExceeded
        | Refusal::AudienceMismatch
        | Refusal::TokenNotYetValid => Problem::new(
            StatusCode::FORBIDDEN,
            "token-refused",
            "The token is not accepted.",
        ),
        Refusal::TokenExpired => Problem::new(
            StatusCode::FORBIDDEN,
            "token-expired",
            "The token has expired.",
        ),
        Refusal::IssuerKeysUnavailable => Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "issuer-keys-unavailable",
            "The token cannot be verified at the moment.",
        )
        .retry_after(RETRY_AFTER),
        Refusal::PolicyUnmet
        | Refusal::ClearKeyNotAllowed
        | Refusal::AssetNotEntitled
        | Refusal::KeysUnnamed
        | Refusal::KeysNotEntitled
        | Refusal::NotYetAvailable
        | Refusal::NoLongerAvailable
        | Refusal::PersistenceNotAllowed
        | Refusal::RulesUnmet(_)
        | Refusal::KeysUnknown
        | Refusal::KeysRevoked
        | Refusal::NotAuthorised
        | Refusal::KeystoreDenied => Problem::new(
            StatusCode::FORBIDDEN,
            "not-entitled",
            "The token does not allow this licence.",
        )
        .known_as(INSUFFICIENT_PROOF),
        Refusal::RequestMalformed(fault) => Problem::new(
            StatusCode::BAD_REQUEST,
            "request-malformed",
            "This is not a licence request.",
        )
        .detail(fault.to_string()),
        Refusal::RequestIncomplete => Problem::new(
            StatusCode::BAD_REQUEST,
            "request-incomplete",
            "The request did not arrive whole.",
        ),
        Refusal::RequestTooLong => Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "request-too-long",
            "No licence request is that long.",
        ),
        Refusal::SubjectRevoked | Refusal::TokenRevoked => {
            Problem::new(StatusCode::FORBIDDEN, "revoked", "The token was revoked.")
        }
        Refusal::TokenReplayed => Problem::new(
            StatusCode::FORBIDDEN,
            "token-used",
            "The token was good for one licence and was used.",
        ),
        Refusal::AddressNotAllowed | Refusal::CountryNotAllowed => Problem::new(
            StatusCode::FORBIDDEN,
            "location-not-allowed",
            "No licence is given where you are.",
        ),
        Refusal::Unnamed(what) => Problem::new(
            StatusCode::FORBIDDEN,
            "unnamed",
            "The request does not say which session or device it is of.",
        )
        .detail(format!(
            "the {what} is to be named once, by 1 to {MAX_NAME_LEN} visible characters of ASCII"
        )),
        Refusal::StreamLimit { retry_after } => Problem::new(
            StatusCode::FORBIDDEN,
            "stream-limit",
            "As many streams play as may.",
        )
        .retry_after(*retry_after),
        Refusal::DeviceLimit => Problem::new(
            StatusCode::FORBIDDEN,
            "device-limit",
            "As many devices are in use as may.",
        ),
        Refusal::RateExceeded { retry_after, .. } => Problem::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too-many-requests",
            "Too many licences were asked for.",
        )
        .retry_after(*retry_after),
        Refusal::AuthoriserUnavailable => Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "authorisation-unavailable",
            "Nobody says at the moment whether this licence may be given.",
        )
        .retry_after(RETRY_AFTER),
        Refusal::SessionsFull | Refusal::SessionsUnavailable => Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "sessions-unavailable",
            "It cannot be counted who plays at the moment.",
        )
        .retry_after(RETRY_AFTER),
        Refusal::ChallengeMalformed(fault) => Problem::new(
            StatusCode::BAD_REQUEST,
            "request-malformed",
            "This is not a licence request.",
        )
        .detail(fault.to_string()),
        Refusal::UpstreamRefused(_) => Problem::new(
            StatusCode::FORBIDDEN,
            "challenge-refused",
            "The licence service refuses this device or its request.",
        ),
        Refusal::UpstreamUnfit(_) => Problem::new(
            StatusCode::BAD_GATEWAY,
            "license-service-failed",
            "The licence service gives no licence.",
        ),
        Refusal::UpstreamUnavailable(_) => Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "license-service-unavailable",
            "The licence service does not answer at the moment.",
        )
        .retry_after(RETRY_AFTER),
        // As the server itself says where its requests in flight are too many.
        Refusal::Overloaded { retry_after } => Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "overloaded",
            "More licences are asked for than can be given in time.",
        )
        .retry_after(*retry_after),
        Refusal::Sealed => Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "sealed",
            "The keystore is sealed.",
        )
        .retry_after(RETRY_AFTER),
        Refusal::AuditUnavailable => Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "audit-unavailable",
            "What is handed out cannot be recorded at the moment.",
        )
        .retry_after(RETRY_AFTER),
        Refusal::KeystoreUnavailable => Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "keystore-unavailable",
            "Keys cannot be had at the moment.",
        )
        .retry_after(RETRY_AFTER),
    };
    let mut response = problem.into_response();
    if response.status() == StatusCode::UNAUTHORIZED {
        // RFC 9110 15.5.2 asks for it; RFC 6750 3 gives no error code where no token came.
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// No licence URL, or one that is not answered yet.
pub(super) fn not_found() -> Response {
    Problem::new(
        StatusCode::NOT_FOUND,
        "not-found",
        "There is nothing at this URL.",
    )
    .into_response()
}

/// A licence URL with another method than its own.
pub(super) fn method_not_allowed(allow: &'static str) -> Response {
    let mut response = Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method-not-allowed",
        "This URL has another method.",
    )
    .into_response();
    response
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static(allow));
    response
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use http_body_util::BodyExt as _;

    use super::*;
    use crate::entitlement::{Malformation, MessageFault};
    use crate::format::clearkey::RequestFault;
    use crate::refusal::{ChallengeFault, IssuerMismatch};
    use crate::session::RateOf;

    /// One of each kind, and all reasons. A new kind does not compile until it has a place here.
    pub(in crate::http) fn every() -> Vec<Refusal> {
        use Refusal::*;
        let listed = |refusal: &Refusal| match refusal {
            NoToken | TokenAmbiguous | TokenMalformed(_) | IssuerUnknown(_) => (),
            IssuerKeysUnavailable | SignatureInvalid | ClaimMissing(_) | ClaimMalformed(_) => (),
            Message(_) | IdToken | LifetimeExceeded | AudienceMismatch | TokenExpired => (),
            TokenNotYetValid | PolicyUnmet | ClearKeyNotAllowed | AssetNotEntitled => (),
            KeysUnnamed | KeysNotEntitled | NotYetAvailable | NoLongerAvailable => (),
            PersistenceNotAllowed => (),
            RulesUnmet(_) | KeysUnknown | KeystoreDenied | RequestMalformed(_) => (),
            RequestIncomplete | RequestTooLong | AddressNotAllowed | CountryNotAllowed => (),
            RateExceeded { .. } | SubjectRevoked | TokenRevoked | KeysRevoked => (),
            TokenReplayed | Unnamed(_) | StreamLimit { .. } | DeviceLimit | NotAuthorised => (),
            AuthoriserUnavailable | SessionsFull | SessionsUnavailable => (),
            ChallengeMalformed(_) | UpstreamRefused(_) | UpstreamUnavailable(_) => (),
            UpstreamUnfit(_) | Overloaded { .. } => (),
            Sealed | AuditUnavailable | KeystoreUnavailable => (),
        };
        let rate = |of| RateExceeded { of, retry_after: 1 };
        let every = vec![
            NoToken,
            TokenAmbiguous,
            TokenMalformed(Malformation::TooLong),
            IssuerUnknown(IssuerMismatch::Name),
            IssuerUnknown(IssuerMismatch::Algorithm),
            IssuerUnknown(IssuerMismatch::KeyId),
            IssuerKeysUnavailable,
            SignatureInvalid,
            ClaimMissing("exp"),
            ClaimMalformed("exp"),
            Message(MessageFault::Malformed(String::new())),
            Message(MessageFault::FirstVersion),
            Message(MessageFault::NotOneSource),
            Message(MessageFault::KeyEncrypted(String::new())),
            Message(MessageFault::PolicyMissing(String::new())),
            Message(MessageFault::Unsupported(String::new())),
            IdToken,
            LifetimeExceeded,
            AudienceMismatch,
            TokenExpired,
            TokenNotYetValid,
            PolicyUnmet,
            ClearKeyNotAllowed,
            AssetNotEntitled,
            KeysUnnamed,
            KeysNotEntitled,
            NotYetAvailable,
            NoLongerAvailable,
            PersistenceNotAllowed,
            RulesUnmet(vec![]),
            KeysUnknown,
            KeystoreDenied,
            RequestMalformed(RequestFault::Json),
            RequestIncomplete,
            RequestTooLong,
            AddressNotAllowed,
            CountryNotAllowed,
            rate(RateOf::Tenant),
            rate(RateOf::Address),
            rate(RateOf::Subject),
            rate(RateOf::Key),
            SubjectRevoked,
            TokenRevoked,
            KeysRevoked,
            TokenReplayed,
            Unnamed("device"),
            StreamLimit { retry_after: 1 },
            DeviceLimit,
            NotAuthorised,
            AuthoriserUnavailable,
            SessionsFull,
            SessionsUnavailable,
            ChallengeMalformed(ChallengeFault::Empty),
            UpstreamRefused(String::new()),
            UpstreamUnavailable(String::new()),
            UpstreamUnfit(String::new()),
            Overloaded { retry_after: 1 },
            Sealed,
            AuditUnavailable,
            KeystoreUnavailable,
        ];
        every.iter().for_each(listed);
        every
    }

    /// `CASTELLUM_UPDATE_GOLDEN=1 cargo test -p license` writes it anew.
    #[tokio::test]
    async fn the_problems_are_those_of_the_readme() {
        let mut rows: BTreeMap<(u16, String), Vec<String>> = BTreeMap::new();
        for refusal in every() {
            let (head, body) = rescue(&refusal).into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
            let kind = problem["code"].as_str().unwrap();
            let own = format!("urn:castellum:problem:{kind}");
            let known_as = match kind {
                "not-entitled" => INSUFFICIENT_PROOF,
                _ => &own,
            };
            assert_eq!(problem["type"], known_as);
            assert_eq!(problem["status"], head.status.as_u16());
            let again = head.headers.contains_key(header::RETRY_AFTER);
            assert!(
                again || head.status != StatusCode::SERVICE_UNAVAILABLE,
                "{kind}"
            );
            rows.entry((head.status.as_u16(), kind.to_owned()))
                .or_default()
                .push(format!("`{}`", refusal.reason()));
        }
        let rows: String = (rows.into_iter())
            .map(|((status, kind), reasons)| {
                format!("| {status} | `{kind}` | {} |\n", reasons.join(", "))
            })
            .collect();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
        let readme = std::fs::read_to_string(path).unwrap();
        let table = "| status | code | reasons |\n| --- | --- | --- |\n";
        let (before, written) = readme.split_once(table).unwrap();
        if std::env::var_os("CASTELLUM_UPDATE_GOLDEN").is_some() {
            std::fs::write(path, format!("{before}{table}{rows}")).unwrap();
        } else {
            assert_eq!(written, rows);
        }
    }
}
