//! What a request to a licensed system's URL asks for. Most of it is opaque here: Widevine's and FairPlay's keys are named
//! by the URL, PlayReady's by the header within the message.

use keystore_types::KeyId;

use super::route::LicensedSystem;
use crate::ChallengeFault;
use crate::format::{fairplay, playready};
use crate::policy::System;

/// The most key ids of a URL: as many as the keystore exports at once.
const MAX_KEYS: usize = keystore_client::MAX_KEYS;

impl From<LicensedSystem> for System {
    fn from(system: LicensedSystem) -> Self {
        match system {
            LicensedSystem::Widevine => Self::Widevine,
            LicensedSystem::PlayReady => Self::PlayReady,
            LicensedSystem::FairPlay => Self::FairPlay,
        }
    }
}

/// The keys that a challenge is for, each once, in order. None where it is opaque and the URL names none: then those that the
/// token names are asked for.
///
/// # Errors
/// [`ChallengeFault`], where the URL or the body is no challenge of the system.
pub(super) fn key_ids(
    system: LicensedSystem,
    query: Option<&str>,
    body: &[u8],
) -> Result<Vec<KeyId>, ChallengeFault> {
    match system {
        LicensedSystem::Widevine if body.is_empty() => Err(ChallengeFault::Empty),
        LicensedSystem::Widevine => named(query),
        LicensedSystem::PlayReady => Ok(playready::key_ids(body)?),
        LicensedSystem::FairPlay => {
            fairplay::Spc::read(body)?;
            named(query)
        }
    }
}

/// Every `kid` of the query. What else stands there is not read, and neither are escapes: no key id needs one.
pub(super) fn named(query: Option<&str>) -> Result<Vec<KeyId>, ChallengeFault> {
    let mut key_ids = Vec::new();
    let pairs = query.unwrap_or_default().split('&');
    for value in pairs.filter_map(|pair| pair.strip_prefix("kid=")) {
        let key_id = value.parse().map_err(|_| ChallengeFault::KeyId)?;
        if key_ids.contains(&key_id) {
            continue;
        }
        if key_ids.len() == MAX_KEYS {
            return Err(ChallengeFault::TooManyKeys);
        }
        key_ids.push(key_id);
    }
    Ok(key_ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_names_keys() {
        let one = KeyId::new([0x11; 16]);
        let two = KeyId::new([0xaa; 16]);
        for (query, expected) in [
            (None, Ok(vec![])),
            (Some(String::new()), Ok(vec![])),
            (Some("x=1&kids=2&KID=3".to_owned()), Ok(vec![])),
            (Some(format!("kid={two}")), Ok(vec![two])),
            (
                Some(format!("a&kid={two}&kid={one}&kid={two}")),
                Ok(vec![two, one]),
            ),
            (Some("kid=".to_owned()), Err(ChallengeFault::KeyId)),
            (
                Some(format!("kid={}", two.to_string().to_uppercase())),
                Err(ChallengeFault::KeyId),
            ),
            (Some(format!("kid={one},{two}")), Err(ChallengeFault::KeyId)),
            (Some(format!("kid=%31{one}")), Err(ChallengeFault::KeyId)),
        ] {
            assert_eq!(named(query.as_deref()), expected, "{query:?}");
        }
        let many = |count: usize| {
            let ids = (0..count as u128).map(|n| format!("kid={}&", KeyId::new(n.to_be_bytes())));
            named(Some(&ids.collect::<String>()))
        };
        assert_eq!(many(MAX_KEYS).unwrap().len(), MAX_KEYS);
        assert_eq!(many(MAX_KEYS + 1), Err(ChallengeFault::TooManyKeys));
    }

    #[test]
    fn an_empty_body_challenges_nothing() {
        let empty = key_ids(LicensedSystem::Widevine, None, b"");
        assert_eq!(empty, Err(ChallengeFault::Empty));
        assert_eq!(key_ids(LicensedSystem::Widevine, None, &[8, 1]), Ok(vec![]));
        let spc = key_ids(LicensedSystem::FairPlay, None, b"");
        assert_eq!(
            spc,
            Err(ChallengeFault::FairPlay(fairplay::SpcFault::Shape))
        );
        let message = key_ids(LicensedSystem::PlayReady, None, b"");
        let fault = playready::ChallengeFault::Header;
        assert_eq!(message, Err(ChallengeFault::PlayReady(fault)));
    }
}
