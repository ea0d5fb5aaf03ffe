//! SPEKE 1.0 as a key server: one key, no version header, `CPIX@id`, and the elements that 2.0 replaced.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

mod key_server;

use cpix::speke::SpekeVersion;
use cpix::{Document, ErrorKind, Reading, Secret};
use key_server::{file, golden, key_of, read, serve};

#[test]
fn a_whole_answer() {
    let request = file("requests/v1.0.xml");
    let response = serve(None, &request, &[]).unwrap();
    golden("answers/v1.0.xml", &response.body);
    assert_eq!(
        response.headers("Castellum"),
        [
            ("Content-Type", "application/xml".to_owned()),
            ("Speke-User-Agent", "Castellum".to_owned()),
        ]
    );
    let document = Document::read(response.body.as_bytes(), &Reading::default()).unwrap();
    assert_eq!(document.id.as_deref(), Some("film"));
    let [key] = document.keys.as_slice() else {
        panic!("{document:?}")
    };
    let Secret::Clear(value) = &key.secret else {
        panic!("{document:?}")
    };
    assert_eq!(value.expose(), key_of(key.key_id).expose());
    let [aes_128, fairplay, widevine, playready] = document.systems.as_slice() else {
        panic!("{document:?}")
    };
    let uri = format!("https://license.example/{}", key.key_id);
    assert_eq!(aes_128.legacy.uri_ext_x_key.as_ref(), Some(&uri));
    assert_eq!(aes_128.legacy.key_format.as_deref(), Some("identity"));
    assert_eq!(aes_128.legacy.key_format_versions.as_deref(), Some("1"));
    let uri = format!("skd://{}", key.key_id);
    assert_eq!(fairplay.legacy.uri_ext_x_key, Some(uri));
    assert!(!widevine.pssh.as_ref().unwrap().is_empty());
    assert!(
        !playready
            .legacy
            .protection_header
            .as_ref()
            .unwrap()
            .is_empty()
    );
}

#[test]
fn the_request_says_who_and_when() {
    let request = read(None, &file("requests/v1.0.xml")).unwrap();
    assert_eq!(request.version(), SpekeVersion::V1_0);
    assert_eq!(request.version().path(), "/speke/v1.0");
    assert_eq!(request.content_id(), "film");
    let keys: Vec<_> = request.keys().collect();
    let [key] = keys.as_slice() else {
        panic!("{keys:?}")
    };
    assert_eq!(key.scheme, None);
    assert_eq!(key.periods[0].index, Some(11_425));
    assert_eq!(key.explicit_iv.unwrap().as_bytes(), &[0x11; 16]);
    assert_eq!(request.systems().len(), 4);
}

#[test]
fn what_is_wrong_with_it() {
    let request = file("requests/v1.0.xml");
    let refusal = |text: &str| {
        let error = serve(None, text, &[]).unwrap_err();
        (error.kind(), error.to_string())
    };
    let (kind, words) = refusal(&request.replace(" id=\"film\"", ""));
    assert_eq!(kind, ErrorKind::Invalid);
    assert!(words.contains("missing CPIX@id"), "{words}");

    let second =
        "<cpix:ContentKey kid=\"11111111-2222-3333-4444-555555555555\"/></cpix:ContentKeyList>";
    let (kind, words) = refusal(&request.replace("</cpix:ContentKeyList>", second));
    assert_eq!(kind, ErrorKind::Invalid);
    assert!(words.contains("SPEKE 1.0 has one key"), "{words}");

    let (_, words) = refusal(&request.replace("periodId=\"period\"", "periodId=\"other\""));
    assert!(words.contains("no ContentKeyPeriod has this id"), "{words}");

    // Usage rules are no part of 1.0, and nothing is lost without them.
    let (head, tail) = request.split_once("  <cpix:ContentKeyPeriodList>").unwrap();
    let (_, tail) = tail
        .split_once("</cpix:ContentKeyUsageRuleList>\n")
        .unwrap();
    assert!(serve(None, &format!("{head}{tail}"), &[]).is_ok());
}
