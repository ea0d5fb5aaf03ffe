//! Tokens that were verified before.

use super::*;

fn remembering() -> Verifier {
    hs256().remembering(1 << 20).unwrap()
}

fn count(verifier: &Verifier) -> u64 {
    verifier.cache.as_ref().unwrap().len()
}

#[test]
fn a_token_is_remembered_and_its_times_are_judged_each_time() {
    let verifier = remembering();
    let token = signed(HEADER, CLAIMS);
    let first = verifier.verify(&token, NOW).unwrap();
    let again = verifier.verify(&token, NOW).unwrap();
    // The same memory: it was not read again.
    assert!(Arc::ptr_eq(&first.0, &again.0));
    assert_eq!(count(&verifier), 1);

    let late = NOW.plus(Duration::from_secs(90));
    let rejection = verifier.verify(&token, late).unwrap_err();
    assert_eq!(rejection.refusal, Refusal::TokenExpired);
    assert_eq!(rejection.bearer.unwrap().issuer, "test");
}

#[test]
fn what_is_refused_is_not_remembered() {
    let verifier = remembering();
    let token = signed(HEADER, CLAIMS);
    let (parts, _) = token.rsplit_once('.').unwrap();
    let forged = format!("{parts}.{}", URL_SAFE_NO_PAD.encode([0; 32]));
    for token in [
        forged,
        "x".to_owned(),
        "x".repeat(Token::MAX_LEN + 1),
        signed(
            HEADER,
            r#"{"iss":"ott","aud":"castellum","exp":1,"assets":["*"]}"#,
        ),
    ] {
        verifier.verify(&token, NOW).unwrap_err();
    }
    assert_eq!(count(&verifier), 0);
}

/// The attack row "another spelling".
#[test]
fn no_spelling_of_a_remembered_token_passes_for_it() {
    let verifier = remembering();
    let token = signed(HEADER, CLAIMS);
    verifier.verify(&token, NOW).unwrap();
    for other in [
        format!("{token} "),
        format!("{token}="),
        token.to_lowercase(),
        token[..token.len() - 1].to_owned(),
    ] {
        verifier.verify(&other, NOW).unwrap_err();
    }
}

#[test]
fn memory_is_bounded() {
    let verifier = hs256().remembering(16 << 10).unwrap();
    for number in 0..200 {
        let claims = format!("{},\"jti\":\"{number}\"}}", &CLAIMS[..CLAIMS.len() - 1]);
        verifier.verify(&signed(HEADER, &claims), NOW).unwrap();
    }
    let count = count(&verifier);
    assert!((1..=20).contains(&count), "{count}");
    assert!(hs256().remembering(0).unwrap().cache.is_none());
}

/// A key that its issuer withdrew proves nothing any more, whatever was proven with it.
#[test]
fn other_keys_make_it_forgotten() {
    let mut verifier = remembering();
    let token = signed(HEADER, CLAIMS);
    verifier.verify(&token, NOW).unwrap();
    let other = b"another HS256 secret of the tests, long enough";
    let mut keys = KeySet::of(
        None,
        VerificationKey::read(Algorithm::Hs256, other).unwrap(),
    );
    keys.generation = 1;
    verifier.issuers[0].keys = Keys::Fixed(keys.clone());
    assert_eq!(refusal(&verifier, &token), Refusal::SignatureInvalid);
    keys.generation = 0;
    keys.until = Some(NOW);
    verifier.issuers[0].keys = Keys::Fixed(keys);
    assert_eq!(refusal(&verifier, &token), Refusal::IssuerKeysUnavailable);
}
