//! SPEKE requests of every version, answered where they can be; and answers, held against an order.
#![no_main]

use cpix::signalling::{SignalledKey, Signalling, Signals};
use cpix::speke::{Headers, IssuedKey, Order, OrderedKey, Release, Request, SpekeVersion, Usage};
use cpix::{Document, EncryptionScheme, Limits, Reading, Secret, SystemId};
use keystore_types::{ContentKey, KeyId};
use libfuzzer_sys::fuzz_target;
use ring::rand::SystemRandom;

struct Payloads;

impl Signalling for Payloads {
    fn signals(&self, system: SystemId, key: &SignalledKey<'_>) -> Option<Signals> {
        (system != SystemId::COMMON).then(|| Signals::widevine(vec![0; 4], key.key_id))
    }
}

fuzz_target!(|data: &[u8]| {
    let random = SystemRandom::new();
    for version in [None, Some("2.0"), Some("2.1")] {
        let headers = Headers {
            content_type: None,
            speke_version: version,
        };
        if let Ok(request) = Request::read(&headers, data, &Limits::default()) {
            answer(&request, &random);
        }
    }
    let order = Order {
        version: SpekeVersion::V2_0,
        content_id: "film".to_owned(),
        keys: vec![OrderedKey {
            key_id: KeyId::new(*b"0123456789abcdef"),
            scheme: EncryptionScheme::Cenc,
            explicit_iv: None,
            usage: Usage::all(),
            period: None,
        }],
        systems: vec![SystemId::WIDEVINE],
        recipient: None,
    };
    let headers = Headers::default();
    if let Ok(supply) = order.accept(&headers, data, &Reading::default(), &random) {
        assert_eq!((supply.keys.len(), supply.systems.len()), (1, 1));
    }
});

/// Whatever is asked for in a way that is accepted is given: every key, once.
fn answer(request: &Request, random: &SystemRandom) {
    let release = Release {
        danger_clear: true,
        ..Release::enrolled(&[], 0, random)
    };
    let Ok(prepared) = request.prepare(&Payloads, &release) else {
        return;
    };
    let key = ContentKey::take(&mut [7; 16]);
    let issued: Vec<_> = (prepared.key_ids())
        .map(|key_id| IssuedKey {
            key_id,
            key: &key,
            explicit_iv: None,
            hdcp: None,
        })
        .collect();
    let response = prepared.respond(&issued).expect("the keys asked for");
    let document = Document::read(response.body.as_bytes(), &Reading::default());
    let document = document.expect("our own writing");
    assert_eq!(document.keys.len(), issued.len());
    let clear = |key: &cpix::Key| matches!(key.secret, Secret::Clear(_));
    assert!(document.keys.iter().all(clear));
    assert_eq!(document.systems.len(), request.systems().len());
}
