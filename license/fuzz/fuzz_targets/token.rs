//! Tokens: the text as it comes, and the text as header and claims under a true signature, so that the rules
//! behind the signature are reached as well.
#![no_main]

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use license::UnixTime;
use license::entitlement::inspect::inspect;
use license::entitlement::{Algorithm, Issuer, VerificationKey, Verifier};
use ring::hmac;

const SECRET: &[u8] = b"a secret that no fuzzer is going to guess";
const NOW: UnixTime = UnixTime::from_seconds(1_700_000_000);

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    Verifier::new(vec![Issuer {
        name: "fuzz".to_owned(),
        iss: "ott".to_owned(),
        audience: "castellum".to_owned(),
        key_id: None,
        key: VerificationKey::read(Algorithm::Hs256, SECRET).expect("a fit secret"),
    }])
});

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = str::from_utf8(data) {
        assert!(VERIFIER.verify(text, NOW).is_err(), "nobody signed this");
        let _ = inspect(text, Some(&VERIFIER), NOW);
    }
    let mut parts = data.splitn(2, |byte| *byte == b'\n');
    if let (Some(header), Some(claims)) = (parts.next(), parts.next()) {
        let token = signed(header, claims);
        if VERIFIER.verify(&token, NOW).is_ok() {
            let claims: serde_json::Value =
                serde_json::from_slice(claims).expect("entitled, so JSON");
            assert_eq!(claims["iss"], "ott");
            assert!(
                claims["exp"]
                    .as_u64()
                    .is_some_and(|exp| exp + 30 > NOW.as_seconds())
            );
            assert!(claims["assets"].is_array() || claims["kids"].is_array());
        }
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
