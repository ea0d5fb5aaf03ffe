//! Published vectors, every rule of the token profile, and the attacks of RFC 8725.
//!
//! What these cannot catch: a wrong timing, and a fault in ring itself.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _,
};
use ring::{hmac, signature};

use super::*;

mod attacks;
mod key_sets;
mod remembered;
mod rows;
mod shapes;
mod vectors;

const NOW: UnixTime = UnixTime::from_seconds(1_700_000_000);
const SECRET: &[u8] = b"an HS256 secret of the tests, which has 47 bytes";
const HEADER: &str = r#"{"alg":"HS256"}"#;
const CLAIMS: &str = r#"{"iss":"ott","aud":"castellum","exp":1700000060,"assets":["film"]}"#;

fn issuer(key: VerificationKey) -> Issuer {
    Issuer::new("test", "ott", "castellum", key)
}

fn hs256() -> Verifier {
    Verifier::new(vec![issuer(
        VerificationKey::read(Algorithm::Hs256, SECRET).unwrap(),
    )])
}

/// A token of these parts, rightly signed: only the parts can be at fault.
fn signed(header: &str, claims: &str) -> String {
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

fn refusal(verifier: &Verifier, token: &str) -> Refusal {
    verifier.verify(token, NOW).unwrap_err().refusal
}

fn pem(label: &str, der: &[u8]) -> String {
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        STANDARD.encode(der)
    )
}

/// Private and public PEM of a key.
fn key_pair(algorithm: Algorithm) -> (String, String) {
    let random = SystemRandom::new();
    let ecdsa = |with: &'static EcdsaSigningAlgorithm, prefix: &'static str| {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(with, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(with, pkcs8.as_ref(), &random).unwrap();
        (pkcs8, prefix, pair.public_key().as_ref().to_vec())
    };
    let (pkcs8, prefix, public) = match algorithm {
        Algorithm::Hs256 => panic!("HS256 has no key pair"),
        Algorithm::Es256 => ecdsa(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            "3059301306072a8648ce3d020106082a8648ce3d030107034200",
        ),
        Algorithm::Es384 => ecdsa(
            &ECDSA_P384_SHA384_FIXED_SIGNING,
            "3076301006072a8648ce3d020106052b81040022036200",
        ),
        Algorithm::EdDsa => {
            let pkcs8 = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
            let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
            let public = pair.public_key().as_ref().to_vec();
            (pkcs8, "302a300506032b6570032100", public)
        }
        // ring makes none; this one is for tests and for nothing else.
        Algorithm::Rs256 | Algorithm::Ps256 => {
            return (
                include_str!("rsa.pem").to_owned(),
                include_str!("rsa.pub.pem").to_owned(),
            );
        }
    };
    let mut spki = unhex(prefix);
    spki.extend(public);
    (pem("PRIVATE KEY", pkcs8.as_ref()), pem("PUBLIC KEY", &spki))
}

fn unhex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

mod claims {
    use super::*;

    fn entitlement(claims: &str) -> Entitlement {
        hs256().verify(&signed(HEADER, claims), NOW).unwrap()
    }

    #[test]
    fn assets_and_key_ids_narrow_each_other() {
        let kid = "9eb4050d-e44b-4802-932e-27d75083e266";
        let (key_id, other): (KeyId, _) = (kid.parse().unwrap(), KeyId::new([0; 16]));
        let [film, series]: [AssetId; 2] = ["film", "series"].map(|name| name.parse().unwrap());
        for (grant, film_covered, series_covered, key_covered, other_covered) in [
            (r#""assets":["film"]"#.to_owned(), true, false, true, true),
            (r#""assets":["*"]"#.to_owned(), true, true, true, true),
            (r#""assets":[]"#.to_owned(), false, false, true, true),
            (format!(r#""kids":["{kid}"]"#), true, true, true, false),
            (
                format!(r#""kids":["{}"]"#, kid.to_uppercase()),
                true,
                true,
                true,
                false,
            ),
            (
                format!(r#""assets":["film"],"kids":["{kid}"]"#),
                true,
                false,
                true,
                false,
            ),
            (
                r#""assets":["film"],"kids":[]"#.to_owned(),
                true,
                false,
                false,
                false,
            ),
        ] {
            let entitlement = entitlement(&format!(
                r#"{{"iss":"ott","aud":"castellum","exp":1700000060,{grant}}}"#
            ));
            assert_eq!(entitlement.covers_asset(&film), film_covered, "{grant}");
            assert_eq!(entitlement.covers_asset(&series), series_covered, "{grant}");
            assert_eq!(entitlement.covers_key(&key_id), key_covered, "{grant}");
            assert_eq!(entitlement.covers_key(&other), other_covered, "{grant}");
        }
    }

    #[test]
    fn who_bears_it() {
        let entitlement = entitlement(
            r#"{"iss":"ott","aud":["castellum"],"exp":1700000060,"nbf":0,"iat":1,"sub":"viewer-1","jti":"t1",
                "assets":["film"],"policy":"cbcs","https://example.com/own":{"a":[1.5]}}"#,
        );
        let bearer = Bearer {
            issuer: "test".to_owned(),
            subject: Some("viewer-1".to_owned()),
            token_id: Some("t1".to_owned()),
        };
        assert_eq!(entitlement.bearer(), &bearer);
        assert_eq!(entitlement.policy(), Some("cbcs"));
    }

    #[test]
    fn a_fraction_of_a_second_is_cut_off() {
        for time in ["1700000060.9", "1700000060.0", "1.70000006e9"] {
            let claims = format!(
                r#"{{"iss":"ott","aud":"castellum","exp":{time},"nbf":1.5e9,"iat":1.5,"assets":["film"]}}"#
            );
            let expected = UnixTime::from_seconds(1_700_000_060);
            assert_eq!(entitlement(&claims).expires(), Some(expected), "{time}");
        }
        let late = signed(HEADER, &CLAIMS.replace("1700000060", "1e300"));
        assert_eq!(refusal(&hs256(), &late), Refusal::ClaimMalformed("exp"));
    }

    /// The attack row "times".
    #[test]
    fn the_leeway_is_thirty_seconds_at_both_ends() {
        let token = signed(
            HEADER,
            r#"{"iss":"ott","aud":"castellum","nbf":1000,"exp":2000,"assets":["*"]}"#,
        );
        for (now, expected) in [
            (0, Some(Refusal::TokenNotYetValid)),
            (969, Some(Refusal::TokenNotYetValid)),
            (970, None),
            (2029, None),
            (2030, Some(Refusal::TokenExpired)),
            (u64::MAX, Some(Refusal::TokenExpired)),
        ] {
            let verdict = hs256().verify(&token, UnixTime::from_seconds(now));
            assert_eq!(
                verdict.err().map(|rejection| rejection.refusal),
                expected,
                "{now}"
            );
        }
    }

    /// The attack row "times".
    #[test]
    fn each_broken_claim_is_refused_by_name() {
        use Refusal::{AudienceMismatch, ClaimMalformed, ClaimMissing, TokenExpired};
        let long = "x".repeat(257);
        for (claims, expected) in [
            (
                r#""aud":"castellum","exp":1700000060,"assets":["*"]"#,
                ClaimMissing("iss"),
            ),
            (
                r#""iss":["ott"],"aud":"castellum","exp":1700000060,"assets":["*"]"#,
                ClaimMalformed("iss"),
            ),
            (
                r#""iss":"ott","exp":1700000060,"assets":["*"]"#,
                ClaimMissing("aud"),
            ),
            (
                r#""iss":"ott","aud":"other","exp":1700000060,"assets":["*"]"#,
                AudienceMismatch,
            ),
            (
                r#""iss":"ott","aud":["castellum","other"],"exp":1700000060,"assets":["*"]"#,
                AudienceMismatch,
            ),
            (
                r#""iss":"ott","aud":[],"exp":1700000060,"assets":["*"]"#,
                ClaimMalformed("aud"),
            ),
            (
                r#""iss":"ott","aud":null,"exp":1700000060,"assets":["*"]"#,
                ClaimMalformed("aud"),
            ),
            (
                r#""iss":"ott","aud":"castellum","assets":["*"]"#,
                ClaimMissing("exp"),
            ),
            (
                r#""iss":"ott","aud":"castellum","exp":null,"assets":["*"]"#,
                ClaimMalformed("exp"),
            ),
            (
                r#""iss":"ott","aud":"castellum","exp":"1700000060","assets":["*"]"#,
                ClaimMalformed("exp"),
            ),
            (
                r#""iss":"ott","aud":"castellum","exp":-1,"assets":["*"]"#,
                ClaimMalformed("exp"),
            ),
            (
                r#""iss":"ott","aud":"castellum","exp":253402300800,"assets":["*"]"#,
                ClaimMalformed("exp"),
            ),
            (
                r#""iss":"ott","aud":"castellum","exp":18446744073709551616,"assets":["*"]"#,
                ClaimMalformed("exp"),
            ),
            (
                r#""iss":"ott","aud":"castellum","exp":0,"assets":["*"]"#,
                TokenExpired,
            ),
            (
                r#""iss":"ott","aud":"castellum","exp":1700000060,"nbf":"0","assets":["*"]"#,
                ClaimMalformed("nbf"),
            ),
            (
                r#""iss":"ott","aud":"castellum","exp":1700000060,"iat":-1.5,"assets":["*"]"#,
                ClaimMalformed("iat"),
            ),
            (
                r#""iss":"ott","aud":"castellum","exp":1700000060,"sub":7,"assets":["*"]"#,
                ClaimMalformed("sub"),
            ),
            (
                r#""iss":"ott","aud":"castellum","exp":1700000060,"sub":"a\u0000","assets":["*"]"#,
                ClaimMalformed("sub"),
            ),
            (
                r#""iss":"ott","aud":"castellum","exp":1700000060,"jti":"a\u0000","assets":["*"]"#,
                ClaimMalformed("jti"),
            ),
            (
                r#""iss":"ott","aud":"castellum","exp":1700000060,"policy":"a\n","assets":["*"]"#,
                ClaimMalformed("policy"),
            ),
            (
                r#""iss":"ott","aud":"castellum","exp":1700000060,"session_id":"a\u0000","assets":["*"]"#,
                ClaimMalformed("session_id"),
            ),
            (
                r#""iss":"ott","aud":"castellum","exp":1700000060"#,
                ClaimMissing("assets"),
            ),
            (
                r#""iss":"ott","aud":"castellum","exp":1700000060,"assets":"*""#,
                ClaimMalformed("assets"),
            ),
            (
                r#""iss":"ott","aud":"castellum","exp":1700000060,"assets":["*","film"]"#,
                ClaimMalformed("assets"),
            ),
            (
                r#""iss":"ott","aud":"castellum","exp":1700000060,"assets":["../film"]"#,
                ClaimMalformed("assets"),
            ),
            (
                r#""iss":"ott","aud":"castellum","exp":1700000060,"assets":[1]"#,
                ClaimMalformed("assets"),
            ),
            (
                r#""iss":"ott","aud":"castellum","exp":1700000060,"kids":["*"]"#,
                ClaimMalformed("kids"),
            ),
            (
                r#""iss":"ott","aud":"castellum","exp":1700000060,"kids":{}"#,
                ClaimMalformed("kids"),
            ),
            (
                r#""iss":"ott","aud":"castellum","exp":1700000060,"assets":["*"],"policy":[]"#,
                ClaimMalformed("policy"),
            ),
            (
                &format!(
                    r#""iss":"ott","aud":"castellum","exp":1700000060,"assets":["*"],"jti":"{long}""#
                ),
                ClaimMalformed("jti"),
            ),
        ] {
            assert_eq!(
                refusal(&hs256(), &signed(HEADER, &format!("{{{claims}}}"))),
                expected,
                "{claims}"
            );
        }
    }
}

mod issuers {
    use super::*;

    #[test]
    fn a_token_is_tried_only_with_keys_of_its_issuer_algorithm_and_key_id() {
        let key = || VerificationKey::read(Algorithm::Hs256, SECRET).unwrap();
        let named = |id: &str| Issuer {
            keys: Keys::Fixed(KeySet::of(Some(id.to_owned()), key())),
            ..issuer(key())
        };
        let (_, public) = key_pair(Algorithm::EdDsa);
        let ed = || issuer(VerificationKey::read(Algorithm::EdDsa, public.as_bytes()).unwrap());
        let with_kid = r#"{"alg":"HS256","kid":"2024"}"#;
        use IssuerMismatch::{Algorithm as Alg, KeyId as Kid, Name};
        for (issuers, header, expected) in [
            (vec![], HEADER, Some(Name)),
            (
                vec![Issuer {
                    iss: Some("other".to_owned()),
                    ..issuer(key())
                }],
                HEADER,
                Some(Name),
            ),
            (vec![ed()], HEADER, Some(Alg)),
            (vec![ed(), issuer(key())], HEADER, None),
            (vec![issuer(key())], with_kid, None),
            (vec![named("2024")], HEADER, None),
            (vec![named("2024")], with_kid, None),
            (vec![named("2023")], with_kid, Some(Kid)),
            (vec![named("2023"), ed()], with_kid, Some(Kid)),
            (vec![named("2023"), named("2024")], with_kid, None),
        ] {
            let verdict = Verifier::new(issuers).verify(&signed(header, CLAIMS), NOW);
            let refusal = verdict.err().map(|rejection| rejection.refusal);
            assert_eq!(refusal, expected.map(Refusal::IssuerUnknown));
        }
    }

    #[test]
    fn two_records_hand_a_key_over() {
        let old = b"the secret of last year, 32 bytes or more";
        let issuers =
            [old, SECRET].map(|key| issuer(VerificationKey::read(Algorithm::Hs256, key).unwrap()));
        Verifier::new(issuers.into())
            .verify(&signed(HEADER, CLAIMS), NOW)
            .unwrap();
    }

    /// The attack row "weak keys".
    #[test]
    fn weak_and_wrong_keys_are_refused_when_they_are_read() {
        let (private_ec, public_ec) = key_pair(Algorithm::Es256);
        let (private_ed, public_ed) = key_pair(Algorithm::EdDsa);
        let off_curve = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a1"}"#;
        let off_curve = off_curve.replace("5a1", "5a8");
        let short_x = r#"{"kty":"EC","crv":"P-256","x":"AAAA","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;
        let small_order = format!(
            r#"{{"kty":"OKP","crv":"Ed25519","x":"{}"}}"#,
            URL_SAFE_NO_PAD.encode([0; 32])
        );
        let private_jwk = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"}"#;
        let for_encryption = r#"{"kty":"OKP","crv":"Ed25519","use":"enc","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
        let short_oct = r#"{"kty":"oct","k":"c2hvcnQ"}"#;
        let (_, public_p384) = key_pair(Algorithm::Es384);
        let rsa = |modulus: &[u8], exponent: &[u8], more: &str| {
            let [n, e] = [modulus, exponent].map(|it| URL_SAFE_NO_PAD.encode(it));
            format!(r#"{{"kty":"RSA","n":"{n}","e":"{e}"{more}}}"#)
        };
        let fit = [[0x80; 255].as_slice(), &[1]].concat();
        VerificationKey::read(Algorithm::Rs256, rsa(&fit, &[1, 0, 1], "").as_bytes()).unwrap();
        let even_modulus = rsa(&[0x80; 256], &[1, 0, 1], "");
        let modulus_of_8200_bits = rsa(&[0xff; 1025], &[1, 0, 1], "");
        let exponent_too_long = rsa(&fit, &[1, 0, 0, 0, 0, 0, 0, 0, 1], "");
        let of_pss = rsa(&fit, &[1, 0, 1], r#","alg":"PS256""#);
        let other_alg =
            r#"{"kty":"oct","alg":"HS512","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T"}"#;
        for (algorithm, content) in [
            (Algorithm::Hs256, ""),
            (Algorithm::Hs256, "thirty-one bytes are not enough"),
            (Algorithm::Hs256, "thirty-one bytes are not enough\n"),
            (Algorithm::Hs256, public_ec.as_str()),
            (Algorithm::Hs256, private_ed.as_str()),
            (Algorithm::Hs256, short_oct),
            (Algorithm::Hs256, other_alg),
            (Algorithm::Es256, public_ed.as_str()),
            (Algorithm::Es256, private_ec.as_str()),
            (Algorithm::Es256, off_curve.as_str()),
            (Algorithm::Es256, short_x),
            (Algorithm::Es256, "{}"),
            (Algorithm::Es256, "not a key"),
            (Algorithm::EdDsa, public_ec.as_str()),
            (Algorithm::EdDsa, private_ed.as_str()),
            (Algorithm::EdDsa, small_order.as_str()),
            (Algorithm::EdDsa, private_jwk),
            (Algorithm::EdDsa, for_encryption),
            (Algorithm::Es384, public_ec.as_str()),
            (Algorithm::Es256, public_p384.as_str()),
            (Algorithm::Rs256, public_ec.as_str()),
            (Algorithm::Rs256, include_str!("rsa.pem")),
            (Algorithm::Rs256, include_str!("rsa_1024.pub.pem")),
            (Algorithm::Ps256, include_str!("rsa_e3.pub.pem")),
            (Algorithm::Rs256, even_modulus.as_str()),
            (Algorithm::Rs256, modulus_of_8200_bits.as_str()),
            (Algorithm::Rs256, exponent_too_long.as_str()),
            (Algorithm::Rs256, of_pss.as_str()),
            (Algorithm::Hs256, include_str!("rsa.pub.pem")),
        ] {
            let error = VerificationKey::read(algorithm, content.as_bytes()).unwrap_err();
            assert!(
                !error.to_string().contains("bytes are not enough"),
                "an error repeats the secret"
            );
        }
    }
}

mod tools {
    use super::*;

    fn claims() -> Claims {
        Claims {
            sub: Some("viewer-1".to_owned()),
            iat: Some(NOW),
            assets: Some(AssetGrant::All),
            kids: Some(vec![KeyId::new([7; 16])]),
            ..Claims::new("ott", "castellum", NOW.plus(Duration::from_secs(60)))
        }
    }

    #[test]
    fn what_is_minted_verifies_under_each_algorithm() {
        let secret = String::from_utf8(SECRET.to_vec()).unwrap();
        for algorithm in Algorithm::ALL {
            let (private, public) = match algorithm {
                Algorithm::Hs256 => (format!("{secret}\n"), secret.clone()),
                other => key_pair(other),
            };
            let key = SigningKey::read(algorithm, private.as_bytes()).unwrap();
            let token = mint(&claims(), Some("2024"), &key).unwrap();
            let key = VerificationKey::read(algorithm, public.as_bytes()).unwrap();
            let verifier = Verifier::new(vec![issuer(key)]);
            let entitlement = verifier.verify(&token, NOW).unwrap();
            assert_eq!(entitlement.bearer().subject.as_deref(), Some("viewer-1"));
            assert!(entitlement.covers_key(&KeyId::new([7; 16])));
            assert!(!entitlement.covers_key(&KeyId::new([8; 16])));
        }
    }

    #[test]
    fn nothing_is_minted_that_no_one_would_take() {
        let key = SigningKey::read(Algorithm::Hs256, SECRET).unwrap();
        for (claims, key_id) in [
            (
                Claims {
                    assets: None,
                    kids: None,
                    ..claims()
                },
                None,
            ),
            (
                Claims {
                    exp: UnixTime::from_seconds(u64::MAX),
                    ..claims()
                },
                None,
            ),
            (
                Claims {
                    sub: Some("x".repeat(300)),
                    ..claims()
                },
                None,
            ),
            (
                Claims {
                    kids: Some(vec![KeyId::new([0; 16]); 300]),
                    ..claims()
                },
                None,
            ),
            (claims(), Some("a b")),
        ] {
            mint(&claims, key_id, &key).unwrap_err();
        }
    }

    #[test]
    fn inspection_shows_the_claims_and_the_verdict() {
        let token = signed(HEADER, CLAIMS);
        let shown = inspect(&token, Some(&hs256()), NOW).unwrap();
        assert_eq!(shown.header["alg"], "HS256");
        assert_eq!(shown.claims["iss"], "ott");
        assert_eq!(
            shown.verdict,
            Some(Verdict::Valid {
                issuer: "test".to_owned()
            })
        );

        let late = NOW.plus(Duration::from_secs(3600));
        let shown = inspect(&token, Some(&hs256()), late).unwrap();
        let json = serde_json::to_value(&shown).unwrap();
        assert_eq!(json["verdict"]["result"], "refused");
        assert_eq!(json["verdict"]["reason"], "token_expired");
        assert_eq!(json["verdict"]["issuer"], "test");
        let tag = token.rsplit_once('.').unwrap().1;
        assert!(
            !json.to_string().contains(tag),
            "what is shown must be no token"
        );

        assert_eq!(inspect(&token, None, NOW).unwrap().verdict, None);
        inspect("not a token", None, NOW).unwrap_err();
    }

    #[test]
    fn debug_shows_no_secret() {
        let verification = VerificationKey::read(Algorithm::Hs256, SECRET).unwrap();
        let signing = SigningKey::read(Algorithm::Hs256, SECRET).unwrap();
        let shown = format!("{verification:?} {signing:?}");
        let token = signed(HEADER, CLAIMS);
        assert!(!format!("{:?}", Token::parse(&token)).contains(token.rsplit_once('.').unwrap().1));
        assert_eq!(
            shown,
            "VerificationKey { algorithm: Hs256, .. } SigningKey { algorithm: Hs256, .. }"
        );
    }
}
