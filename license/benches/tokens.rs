//! What a token costs: `cargo bench -p license --bench tokens`.
//!
//! The rows `raw` are ring's verification of the same bytes and nothing else: what is above them is the price of a strict
//! reading. `cached` is the same token again. `decide` is the decision on a verified token.
#![allow(clippy::unwrap_used, reason = "a benchmark's own data is sound")]

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use divan::Bencher;
use keystore_types::KeyId;
use license::UnixTime;
use license::entitlement::{
    Algorithm, AssetGrant, Claims, Issuer, SigningKey, VerificationKey, Verifier, mint,
};
use license::policy::{Challenge, Rules, System, decide};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    UnparsedPublicKey,
};

const NOW: UnixTime = UnixTime::from_seconds(1_700_000_000);
const SECRET: &[u8] = b"an HS256 secret of the benchmark, 32 bytes or more";

fn main() {
    divan::main();
}

/// A token of a common size, and who takes it.
struct Case {
    token: String,
    verifier: Verifier,
}

fn case(algorithm: Algorithm, signing: &[u8], public: &[u8]) -> Case {
    let claims = Claims {
        iat: Some(NOW),
        sub: Some("viewer-8f0c2b9e".to_owned()),
        jti: Some("1f3a5c7e9b".to_owned()),
        assets: Some(AssetGrant::Only(["film".parse().unwrap()].into())),
        kids: Some((0..3).map(|byte| KeyId::new([byte; 16])).collect()),
        ..Claims::new("ott", "castellum", NOW.plus(Duration::from_secs(3600)))
    };
    let key = SigningKey::read(algorithm, signing).unwrap();
    let token = mint(&claims, Some("2026-01"), &key).unwrap();
    let key = VerificationKey::read(algorithm, public).unwrap();
    let verifier = Verifier::new(vec![Issuer::new("bench", "ott", "castellum", key)]);
    Case { token, verifier }
}

fn hs256() -> Case {
    case(Algorithm::Hs256, SECRET, SECRET)
}

/// With the public point.
fn es256() -> (Case, Vec<u8>) {
    let random = SystemRandom::new();
    let with = &ECDSA_P256_SHA256_FIXED_SIGNING;
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(with, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(with, pkcs8.as_ref(), &random).unwrap();
    let point = pair.public_key().as_ref().to_vec();
    let pem = format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        STANDARD.encode(pkcs8.as_ref())
    );
    let [x, y] = [&point[1..33], &point[33..]].map(|it| URL_SAFE_NO_PAD.encode(it));
    let jwk = format!(r#"{{"kty":"EC","crv":"P-256","x":"{x}","y":"{y}"}}"#);
    (
        case(Algorithm::Es256, pem.as_bytes(), jwk.as_bytes()),
        point,
    )
}

fn parts(token: &str) -> (&[u8], Vec<u8>) {
    let (signed, signature) = token.rsplit_once('.').unwrap();
    (
        signed.as_bytes(),
        URL_SAFE_NO_PAD.decode(signature).unwrap(),
    )
}

#[divan::bench]
fn hs256_raw(bencher: Bencher<'_, '_>) {
    let case = hs256();
    let (signed, tag) = parts(&case.token);
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
    bencher.bench_local(|| hmac::verify(&key, divan::black_box(signed), &tag).unwrap());
}

#[divan::bench]
fn hs256_verify(bencher: Bencher<'_, '_>) {
    let Case { token, verifier } = hs256();
    bencher.bench_local(|| verifier.verify(divan::black_box(&token), NOW).unwrap());
}

#[divan::bench]
fn hs256_cached(bencher: Bencher<'_, '_>) {
    let Case { token, verifier } = hs256();
    let verifier = verifier.remembering(1 << 20).unwrap();
    bencher.bench_local(|| verifier.verify(divan::black_box(&token), NOW).unwrap());
}

#[divan::bench]
fn es256_raw(bencher: Bencher<'_, '_>) {
    let (case, point) = es256();
    let (signed, signature) = parts(&case.token);
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
    bencher.bench_local(|| key.verify(divan::black_box(signed), &signature).unwrap());
}

#[divan::bench]
fn es256_verify(bencher: Bencher<'_, '_>) {
    let (Case { token, verifier }, _) = es256();
    bencher.bench_local(|| verifier.verify(divan::black_box(&token), NOW).unwrap());
}

#[divan::bench]
fn es256_cached(bencher: Bencher<'_, '_>) {
    let (Case { token, verifier }, _) = es256();
    let verifier = verifier.remembering(1 << 20).unwrap();
    bencher.bench_local(|| verifier.verify(divan::black_box(&token), NOW).unwrap());
}

#[divan::bench]
fn decide_on_three_keys(bencher: Bencher<'_, '_>) {
    let Case { token, verifier } = hs256();
    let entitlement = verifier.verify(&token, NOW).unwrap();
    let challenge = Challenge {
        system: System::ClearKey,
        asset: "film".parse().unwrap(),
        key_ids: (0..3).map(|byte| KeyId::new([byte; 16])).collect(),
    };
    let rules = Rules {
        allow_clear_key: true,
        policies: BTreeMap::new(),
    };
    bencher.bench_local(|| decide(divan::black_box(&entitlement), &challenge, &rules));
}
