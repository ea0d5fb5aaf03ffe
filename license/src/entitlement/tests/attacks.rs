//! The attacks of RFC 8725 and of those who came after, each on an otherwise perfect token.

use super::*;

/// The attack rows "alg none", "key in the header", "unknown crit, b64 false", "kid as a path or a query" and
/// "JWE or nested JWT".
#[test]
fn headers_that_ask_for_what_is_not_done() {
    let long_kid = format!(r#"{{"alg":"HS256","kid":"{}"}}"#, "k".repeat(129));
    for (header, field) in [
        (r#"{"alg":"none"}"#, "alg"),
        (r#"{"alg":"None"}"#, "alg"),
        (r#"{"alg":"NONE"}"#, "alg"),
        (r#"{"alg":""}"#, "alg"),
        (r#"{"alg":"hs256"}"#, "alg"),
        (r#"{"alg":"HS512"}"#, "alg"),
        (r#"{"alg":"RS512"}"#, "alg"),
        (r#"{"alg":"ES256K"}"#, "alg"),
        (r#"{"alg":["HS256"]}"#, "alg"),
        (r#"{"typ":"JWT"}"#, "alg"),
        (r#"{"alg":"HS256","crit":["exp"],"exp":1}"#, "crit"),
        (r#"{"alg":"HS256","crit":[]}"#, "crit"),
        (r#"{"alg":"HS256","b64":false,"crit":["b64"]}"#, "crit"),
        (r#"{"alg":"HS256","b64":false}"#, "b64"),
        (r#"{"alg":"HS256","zip":"DEF"}"#, "zip"),
        (r#"{"alg":"HS256","enc":"A128GCM"}"#, "enc"),
        (r#"{"alg":"HS256","jwk":{"kty":"oct","k":"AAAA"}}"#, "jwk"),
        (r#"{"alg":"HS256","jku":"http://127.0.0.1/keys"}"#, "jku"),
        (
            r#"{"alg":"HS256","x5u":"http://127.0.0.1/certificate"}"#,
            "x5u",
        ),
        (r#"{"alg":"HS256","x5c":["AAAA"]}"#, "x5c"),
        (r#"{"alg":"HS256","cty":"JWT"}"#, "cty"),
        (r#"{"alg":"HS256","typ":"dpop+jwt"}"#, "typ"),
        (r#"{"alg":"HS256","typ":7}"#, "typ"),
        (r#"{"alg":"HS256","kid":7}"#, "kid"),
        (r#"{"alg":"HS256","kid":""}"#, "kid"),
        (r#"{"alg":"HS256","kid":"../../etc/passwd"}"#, "kid"),
        (r#"{"alg":"HS256","kid":"' OR 1=1 --"}"#, "kid"),
        (r#"{"alg":"HS256","kid":"a\u0000b"}"#, "kid"),
        (&long_kid, "kid"),
    ] {
        assert_eq!(
            refusal(&hs256(), &signed(header, CLAIMS)),
            Refusal::TokenMalformed(Malformation::Header(field)),
            "{header}"
        );
    }
}

#[test]
fn a_signature_must_be_there_and_true() {
    let token = signed(HEADER, CLAIMS);
    let (parts, tag) = token.rsplit_once('.').unwrap();
    let tag = URL_SAFE_NO_PAD.decode(tag).unwrap();
    let mut flipped = tag.clone();
    flipped[0] ^= 1;
    for forged in [
        &[][..],
        &tag[..31],
        &flipped,
        &[tag.as_slice(), &[0]].concat(),
        &[0; 32],
    ] {
        let token = format!("{parts}.{}", URL_SAFE_NO_PAD.encode(forged));
        let rejection = hs256().verify(&token, NOW).unwrap_err();
        assert_eq!(
            rejection,
            Refusal::SignatureInvalid.into(),
            "{}",
            forged.len()
        );
    }
    // Claims of another token under this one's signature.
    let (header, _) = parts.split_once('.').unwrap();
    let other = URL_SAFE_NO_PAD.encode(CLAIMS.replace("film", "*"));
    let spliced = format!("{header}.{other}.{}", URL_SAFE_NO_PAD.encode(&tag));
    assert_eq!(refusal(&hs256(), &spliced), Refusal::SignatureInvalid);
}

/// The attack rows "another spelling" and "JWE or nested JWT".
#[test]
fn one_value_has_one_spelling() {
    let token = signed(HEADER, CLAIMS);
    let [header, claims, tag]: [&str; 3] = token.split('.').collect::<Vec<_>>().try_into().unwrap();
    // 32 bytes leave two stray bits in the last character: the next letter has the same six bits less two.
    let last = tag.as_bytes()[42];
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let index = alphabet.iter().position(|&b| b == last).unwrap();
    let stray = format!("{}{}", &tag[..42], char::from(alphabet[index + 1]));

    use Malformation::{Base64, NotThreeParts};
    for (token, expected) in [
        (
            format!("{header}.{claims}.{stray}"),
            Base64(Part::Signature),
        ),
        (format!("{header}.{claims}.{tag}="), Base64(Part::Signature)),
        (format!("{header}.{claims}.{tag} "), Base64(Part::Signature)),
        (format!("{header}=.{claims}.{tag}"), Base64(Part::Header)),
        (format!("{header}.{claims}\n.{tag}"), Base64(Part::Claims)),
        (format!(" {header}.{claims}.{tag}"), Base64(Part::Header)),
        (
            format!("{header}.{}+.{tag}", &claims[..claims.len() - 1]),
            Base64(Part::Claims),
        ),
        (format!("{header}.{claims}"), NotThreeParts),
        (format!("{header}.{claims}.{tag}."), NotThreeParts),
        (
            format!("{header}.{claims}.{tag}.{tag}.{tag}"),
            NotThreeParts,
        ),
        (String::new(), NotThreeParts),
        (
            format!("{{\"payload\":\"{claims}\",\"signature\":\"{tag}\"}}"),
            NotThreeParts,
        ),
    ] {
        assert_eq!(
            refusal(&hs256(), &token),
            Refusal::TokenMalformed(expected),
            "{token}"
        );
    }
}

/// The attack row "ambiguous JSON".
#[test]
fn one_text_is_one_document() {
    let deep = format!(
        "{{\"iss\":\"ott\",\"a\":{}{}}}",
        "[".repeat(16),
        "]".repeat(16)
    );
    for (header, claims, part) in [
        (r#"{"alg":"none","alg":"HS256"}"#, CLAIMS, Part::Header),
        (r#"{"alg":"HS256"}{}"#, CLAIMS, Part::Header),
        ("[]", CLAIMS, Part::Header),
        (
            HEADER,
            r#"{"iss":"ott","aud":"castellum","exp":1,"exp":1700000060,"assets":["*"]}"#,
            Part::Claims,
        ),
        (
            HEADER,
            r#"{"iss":"ott","aud":"castellum","exp":1700000060,"assets":["*"]} x"#,
            Part::Claims,
        ),
        (HEADER, r#"{"exp":1e400}"#, Part::Claims),
        (HEADER, "\"ott\"", Part::Claims),
        (HEADER, &deep, Part::Claims),
    ] {
        assert_eq!(
            refusal(&hs256(), &signed(header, claims)),
            Refusal::TokenMalformed(Malformation::Json(part)),
            "{header} {claims}"
        );
    }
}

/// The attack row "ambiguous JSON".
#[test]
fn the_longest_token() {
    let padded = |len: usize| {
        let claims = |pad: usize| {
            let end = CLAIMS.len() - 1;
            format!("{},\"pad\":\"{}\"}}", &CLAIMS[..end], "x".repeat(pad))
        };
        let pad = (0..)
            .find(|pad| signed(HEADER, &claims(*pad)).len() >= len)
            .unwrap();
        signed(HEADER, &claims(pad))
    };
    let longest = padded(Token::MAX_LEN - 1);
    assert!((Token::MAX_LEN - 1..=Token::MAX_LEN).contains(&longest.len()));
    hs256().verify(&longest, NOW).unwrap();
    let longer = padded(Token::MAX_LEN + 1);
    assert_eq!(
        refusal(&hs256(), &longer),
        Refusal::TokenMalformed(Malformation::TooLong)
    );
    assert_eq!(
        refusal(&hs256(), &"a".repeat(1 << 20)),
        Refusal::TokenMalformed(Malformation::TooLong)
    );
}

/// The attack row "public key as HMAC secret".
#[test]
fn a_public_key_is_never_an_hmac_secret() {
    let (_, public) = key_pair(Algorithm::Es256);
    let verifier = Verifier::new(vec![issuer(
        VerificationKey::read(Algorithm::Es256, public.as_bytes()).unwrap(),
    )]);
    let parts = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(HEADER),
        URL_SAFE_NO_PAD.encode(CLAIMS)
    );
    let tag = hmac::sign(
        &hmac::Key::new(hmac::HMAC_SHA256, public.as_bytes()),
        parts.as_bytes(),
    );
    let token = format!("{parts}.{}", URL_SAFE_NO_PAD.encode(tag));
    assert_eq!(
        refusal(&verifier, &token),
        Refusal::IssuerUnknown(IssuerMismatch::Algorithm)
    );
    assert!(VerificationKey::read(Algorithm::Hs256, public.as_bytes()).is_err());
}

/// The attack row "ECDSA out of range".
#[test]
fn ecdsa_signatures_are_two_numbers_in_range() {
    let (private, public) = key_pair(Algorithm::Es256);
    let verifier = Verifier::new(vec![issuer(
        VerificationKey::read(Algorithm::Es256, public.as_bytes()).unwrap(),
    )]);
    let parts = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256"}"#),
        URL_SAFE_NO_PAD.encode(CLAIMS)
    );
    let body: String = private
        .lines()
        .filter(|line| !line.starts_with('-'))
        .collect();
    let random = SystemRandom::new();
    let pkcs8 = STANDARD.decode(body).unwrap();
    let order = unhex("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551");

    let sign = |with: &'static EcdsaSigningAlgorithm| {
        let pair = EcdsaKeyPair::from_pkcs8(with, &pkcs8, &random).unwrap();
        pair.sign(&random, parts.as_bytes())
            .unwrap()
            .as_ref()
            .to_vec()
    };
    let good = sign(&ECDSA_P256_SHA256_FIXED_SIGNING);
    let token = |signature: &[u8]| format!("{parts}.{}", URL_SAFE_NO_PAD.encode(signature));
    verifier.verify(&token(&good), NOW).unwrap();
    for bad in [
        vec![0; 64],
        [&[0; 32], &good[32..]].concat(),
        [&good[..32], &[0; 32]].concat(),
        [&order, &good[32..]].concat(),
        [&good[..32], &order].concat(),
        sign(&signature::ECDSA_P256_SHA256_ASN1_SIGNING),
        good[..63].to_vec(),
    ] {
        assert_eq!(refusal(&verifier, &token(&bad)), Refusal::SignatureInvalid);
    }
}

/// The attack row "times": `exp` far in the future, or an issue that lies ahead.
#[test]
fn an_issuer_may_be_held_to_a_lifetime() {
    use Refusal::{ClaimMissing, LifetimeExceeded, TokenNotYetValid};
    let verifier = Verifier::new(vec![Issuer {
        max_lifetime: Some(Duration::from_secs(3600)),
        ..issuer(VerificationKey::read(Algorithm::Hs256, SECRET).unwrap())
    }]);
    for (times, expected) in [
        (r#""iat":1700000000,"exp":1700003600"#, None),
        (
            r#""iat":1700000000,"exp":1700003601"#,
            Some(LifetimeExceeded),
        ),
        (
            r#""iat":1700000000,"exp":253402300799"#,
            Some(LifetimeExceeded),
        ),
        (r#""nbf":1700000000,"exp":1700003600"#, None),
        (r#""exp":1700000060"#, Some(ClaimMissing("iat"))),
        // Otherwise it would only have to be issued later.
        (
            r#""iat":1700000031,"exp":1700003631"#,
            Some(TokenNotYetValid),
        ),
    ] {
        let claims = format!(r#"{{"iss":"ott","aud":"castellum","assets":["*"],{times}}}"#);
        let verdict = verifier.verify(&signed(HEADER, &claims), NOW);
        assert_eq!(verdict.err().map(|it| it.refusal), expected, "{times}");
    }
}

#[test]
fn an_issuers_clock_may_be_given_more_or_no_leeway() {
    for (leeway, taken) in [(0, false), (60, false), (61, true)] {
        let verifier = Verifier::new(vec![Issuer {
            leeway: Duration::from_secs(leeway),
            ..issuer(VerificationKey::read(Algorithm::Hs256, SECRET).unwrap())
        }]);
        let late = NOW.plus(Duration::from_secs(120));
        let verdict = verifier.verify(&signed(HEADER, CLAIMS), late);
        assert_eq!(verdict.is_ok(), taken, "{leeway}");
    }
}

/// The attack row "shared audience": `aud` with ours among others.
#[test]
fn a_shared_audience_is_taken_only_by_policy() {
    let both = CLAIMS.replace(r#""castellum""#, r#"["other","castellum"]"#);
    let others = CLAIMS.replace(r#""castellum""#, r#"["other","another"]"#);
    let verifier = |audience_rule| {
        Verifier::new(vec![Issuer {
            audience_rule,
            ..issuer(VerificationKey::read(Algorithm::Hs256, SECRET).unwrap())
        }])
    };
    let [only, among] = [AudienceRule::Only, AudienceRule::Among].map(verifier);
    among.verify(&signed(HEADER, &both), NOW).unwrap();
    for (verifier, claims) in [(&only, &both), (&only, &others), (&among, &others)] {
        let refusal = refusal(verifier, &signed(HEADER, claims));
        assert_eq!(refusal, Refusal::AudienceMismatch);
    }
}

/// The attack row "another tenant": each has a verifier of its own, which holds its issuers and no others.
#[test]
fn another_tenants_issuer_is_no_issuer_here() {
    let other = b"the secret of another tenant, 32 bytes or more";
    let key = VerificationKey::read(Algorithm::Hs256, other).unwrap();
    let tenant = Verifier::new(vec![Issuer {
        iss: Some("another".to_owned()),
        ..issuer(key)
    }]);
    let token = signed(HEADER, CLAIMS);
    hs256().verify(&token, NOW).unwrap();
    assert_eq!(
        refusal(&tenant, &token),
        Refusal::IssuerUnknown(IssuerMismatch::Name)
    );
}

/// The attack row "timing": ring compares HMACs in constant time, and whoever guesses is told the same. How long it takes is
/// not measured here; what time tells is written down in the table.
#[test]
fn a_player_is_told_the_same_of_every_bad_token() {
    use http_body_util::BodyExt as _;
    let token = signed(r#"{"alg":"HS256","kid":"k1"}"#, CLAIMS);
    let (parts, _) = token.rsplit_once('.').unwrap();
    let forged = format!("{parts}.{}", URL_SAFE_NO_PAD.encode([0; 32]));
    let nobody = signed(HEADER, &CLAIMS.replace("\"ott\"", "\"nobody\""));
    let unknown = signed(r#"{"alg":"HS256","kid":"k2"}"#, CLAIMS);
    let key = VerificationKey::read(Algorithm::Hs256, SECRET).unwrap();
    let verifier = Verifier::new(vec![Issuer {
        keys: Keys::Fixed(KeySet::of(Some("k1".to_owned()), key)),
        ..issuer(VerificationKey::read(Algorithm::Hs256, SECRET).unwrap())
    }]);
    let reasons = [
        (forged, Refusal::SignatureInvalid),
        (nobody, Refusal::IssuerUnknown(IssuerMismatch::Name)),
        (unknown, Refusal::IssuerUnknown(IssuerMismatch::KeyId)),
        (
            "x".to_owned(),
            Refusal::TokenMalformed(Malformation::NotThreeParts),
        ),
    ];
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let told = reasons.map(|(token, reason)| {
        let refusal = refusal(&verifier, &token);
        assert_eq!(refusal, reason);
        let response = crate::http::rescue::rescue(&refusal);
        let status = response.status();
        let body = runtime.block_on(response.into_body().collect());
        (status, body.unwrap().to_bytes())
    });
    assert!(told.iter().all(|one| *one == told[0]), "{told:?}");
}

/// What the verifier says of a token with these claims besides.
fn with(more: &str) -> Result<Entitlement, Refusal> {
    let claims = format!("{},{more}}}", &CLAIMS[..CLAIMS.len() - 1]);
    let verdict = hs256().verify(&signed(HEADER, &claims), NOW);
    verdict.map_err(|rejection| rejection.refusal)
}

#[test]
fn sessions_and_devices_are_named_and_counted_or_the_token_is_refused() {
    let demands = with(r#""session_id":"s1","device_id":"tv","max_streams":2,"max_devices":3"#)
        .unwrap()
        .demands()
        .clone();
    assert_eq!(demands.session.as_deref(), Some("s1"));
    assert_eq!(demands.device.as_deref(), Some("tv"));
    assert_eq!(
        (demands.streams.unwrap().limit, demands.devices),
        (Some(2), Some(3))
    );
    let long = format!(r#""device_id":"{}""#, "x".repeat(129));
    for (claims, name) in [
        (r#""session_id":"""#, "session_id"),
        (r#""session_id":7"#, "session_id"),
        (r#""device_id":"my tv""#, "device_id"),
        (&*long, "device_id"),
        (r#""max_streams":0"#, "max_streams"),
        (r#""max_streams":"2""#, "max_streams"),
        (r#""max_devices":-1"#, "max_devices"),
        (r#""max_devices":4294967296"#, "max_devices"),
    ] {
        assert_eq!(
            with(claims).err(),
            Some(Refusal::ClaimMalformed(name)),
            "{claims}"
        );
    }
}

/// A token that is good once says so, and can be known again.
#[test]
fn a_single_use_token_has_an_id() {
    let entitlement = with(r#""single_use":true,"jti":"t1""#).unwrap();
    assert!(entitlement.demands().single_use);
    assert!(!with(r#""single_use":false"#).unwrap().demands().single_use);
    for (more, expected) in [
        (r#""single_use":true"#, Refusal::ClaimMissing("jti")),
        (
            r#""single_use":"true","jti":"t1""#,
            Refusal::ClaimMalformed("single_use"),
        ),
    ] {
        assert_eq!(with(more).unwrap_err(), expected);
    }
}

/// The attack row "another asset or key". Every requested KID is compared, and what one that is not
/// covered costs is the issuer's rule.
#[test]
fn a_token_opens_its_asset_and_its_keys_and_no_others() {
    use keystore_client::KeyDescription;
    use keystore_types::{Label, Scheme};

    use crate::policy::{Case, Challenge, Decision, Rules, System, decide};
    let rules = Rules {
        allow_clear_key: true,
        ..Rules::default()
    };
    let [ours, theirs] = [KeyId::new([1; 16]), KeyId::new([2; 16])];
    let claims = format!("{},\"kids\":[\"{ours}\"]}}", &CLAIMS[..CLAIMS.len() - 1]);
    let decided = |kid_rule, asset: &str, key_ids: &[KeyId]| {
        let verifier = Verifier::new(vec![Issuer {
            kid_rule,
            ..issuer(VerificationKey::read(Algorithm::Hs256, SECRET).unwrap())
        }]);
        let entitlement = verifier.verify(&signed(HEADER, &claims), NOW).unwrap();
        let challenge = Challenge {
            system: System::ClearKey,
            asset: asset.parse().unwrap(),
            key_ids: key_ids.to_vec(),
            persistent: false,
        };
        let mut case = Case::new(&entitlement, &challenge, NOW);
        let described = case.covered.iter().map(|key_id| KeyDescription {
            key_id: *key_id,
            label: Label::Sd,
            scheme: Scheme::Cbcs,
        });
        case.keys = described.collect();
        match decide(&case, &rules) {
            Decision::Grant(_) => None,
            Decision::Refuse(refusal) => Some(refusal),
        }
    };
    use KidRule::{Strict, Subset};
    for (kid_rule, asset, key_ids, expected) in [
        (Subset, "film", &[ours][..], None),
        (Subset, "film", &[ours, theirs], None),
        (Subset, "film", &[theirs], Some(Refusal::KeysNotEntitled)),
        (Strict, "film", &[ours], None),
        (
            Strict,
            "film",
            &[ours, theirs],
            Some(Refusal::KeysNotEntitled),
        ),
        (Subset, "series", &[ours], Some(Refusal::AssetNotEntitled)),
        (Strict, "series", &[ours], Some(Refusal::AssetNotEntitled)),
    ] {
        assert_eq!(
            decided(kid_rule, asset, key_ids),
            expected,
            "{kid_rule:?} {asset}"
        );
    }
}
