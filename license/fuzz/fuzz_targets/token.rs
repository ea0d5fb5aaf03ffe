//! Tokens: the text as it comes, and the text as header and claims under a true signature, so that the rules
//! behind the signature are reached as well.
#![no_main]

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use license::UnixTime;
use license::entitlement::inspect::inspect;
use license::entitlement::{Algorithm, Issuer, Shape, VerificationKey, Verifier};
use ring::hmac;

const SECRET: &[u8] = b"a secret that no fuzzer is going to guess";
const NOW: UnixTime = UnixTime::from_seconds(1_700_000_000);

/// The secret that signs each shape: which one is tried, the fuzzer chooses by the claims.
static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    let key = || VerificationKey::read(Algorithm::Hs256, SECRET).expect("a fit secret");
    let issuer = |name: &str| Issuer::new(name, "ott", "castellum", key());
    Verifier::new(vec![
        issuer("native"),
        Issuer {
            shape: Shape::DashIf,
            iss: Some("dash-if".to_owned()),
            audience: None,
            ..issuer("dash-if")
        },
        Issuer {
            shape: Shape::Axinom,
            iss: Some("00000000-0000-4000-8000-000000000001".to_owned()),
            audience: None,
            ..issuer("axinom")
        },
    ])
    .remembering(1 << 20)
    .expect("random numbers")
});

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = str::from_utf8(data) {
        assert!(VERIFIER.verify(text, NOW).is_err(), "nobody signed this");
        let _ = inspect(text, Some(&VERIFIER), NOW);
    }
    let mut parts = data.splitn(2, |byte| *byte == b'\n');
    if let (Some(header), Some(claims)) = (parts.next(), parts.next()) {
        let token = signed(header, claims);
        let Ok(entitlement) = VERIFIER.verify(&token, NOW) else {
            return;
        };
        let claims: serde_json::Value = serde_json::from_slice(claims).expect("entitled, so JSON");
        match entitlement.bearer().issuer.as_str() {
            "native" => {
                assert_eq!(claims["iss"], "ott");
                assert!(claims["assets"].is_array() || claims["kids"].is_array());
            }
            "dash-if" => assert!(claims["authorized_kids"].is_array()),
            "axinom" => assert_eq!(claims["message"]["version"], 2),
            other => panic!("there is no issuer {other}"),
        }
        let ended = |end: UnixTime| end.as_seconds() + 30 <= NOW.as_seconds();
        assert!(!entitlement.expires().is_some_and(ended));
        // Again, from the cache.
        let again = VERIFIER.verify(&token, NOW).expect("it was good before");
        assert_eq!(again.bearer(), entitlement.bearer());
        assert_eq!(again.demands(), entitlement.demands());
    }
});

fn signed(header: &[u8], claims: &[u8]) -> String {
    let signed = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(claims)
    );
    let tag = hmac::sign(
        &hmac::Key::new(hmac::HMAC_SHA256, SECRET),
        signed.as_bytes(),
    );
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
}
