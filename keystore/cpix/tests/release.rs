//! Keys leave for whom an operator enrolled, and only those that were asked for.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

mod key_server;

use cpix::delivery::RsaRecipient;
use cpix::speke::{IssuedKey, Release};
use cpix::{Document, ErrorKind, Reading, Secret};
use key_server::{
    NOW, Payloads, Text, V2, base64_of, certificate, file, key_id, key_of, read, refusal, respond,
};
use keystore_types::KeyId;
use ring::rand::SystemRandom;

#[test]
fn the_keys_must_be_those_asked_for() {
    let random = SystemRandom::new();
    let request = read(V2, &Text::separate().write()).unwrap();
    let release = Release {
        danger_clear: true,
        ..Release::enrolled(&[], NOW, &random)
    };
    let prepared = request.prepare(&Payloads, &release).unwrap();
    let key = key_of(key_id(0));
    let issue = |ids: &[KeyId]| {
        let issued = |key_id: &KeyId| IssuedKey {
            key_id: *key_id,
            key: &key,
            explicit_iv: None,
            hdcp: None,
        };
        let keys: Vec<_> = ids.iter().map(issued).collect();
        prepared.respond(&keys)
    };
    let [first, second, third] = [key_id(0), key_id(1), key_id(2)];
    assert!(issue(&[second, first]).is_ok());
    for ids in [
        &[][..],
        &[first],
        &[first, first],
        &[first, third],
        &[first, second, third],
    ] {
        assert_eq!(
            issue(ids).unwrap_err().kind(),
            ErrorKind::Mismatch,
            "{ids:?}"
        );
    }
}

/// What a request says of its certificate, before and behind it.
fn with_certificate(text: &str, name: &str) -> String {
    let der = base64_of(certificate(name).der());
    text.replace(
        "  <cpix:ContentKeyList>",
        &format!(
            "  <cpix:DeliveryDataList><cpix:DeliveryData id=\"{name}\"><cpix:DeliveryKey>\
             <ds:X509Data xmlns:ds=\"http://www.w3.org/2000/09/xmldsig#\"><ds:X509Certificate>{der}\
             </ds:X509Certificate></ds:X509Data></cpix:DeliveryKey></cpix:DeliveryData></cpix:DeliveryDataList>\n  \
             <cpix:ContentKeyList>"
        ),
    )
}

#[test]
fn keys_leave_for_enrolled_certificates_alone() {
    let random = SystemRandom::new();
    let enrolled = [certificate("encryptor")];
    let plain = Text::separate().write();
    let own = with_certificate(&plain, "encryptor");
    let others = with_certificate(&plain, "stranger");
    let both = with_certificate(&own, "stranger").replacen(
        "</cpix:DeliveryDataList>\n  <cpix:DeliveryDataList>",
        "",
        1,
    );

    let try_release = |text: &str, release: Release<'_>| {
        let request = read(V2, text).unwrap();
        respond(&request, &release).map_err(|error| {
            assert_eq!(error.kind(), ErrorKind::Denied);
            error.to_string()
        })
    };
    let strict = Release::enrolled(&enrolled, NOW, &random);
    let error = try_release(&plain, strict).unwrap_err();
    assert!(error.contains("the request names no recipient"), "{error}");
    for text in [&others, &both] {
        let error = try_release(text, strict).unwrap_err();
        let fingerprint = certificate("stranger").fingerprint();
        assert_eq!(
            error,
            format!("the certificate {fingerprint} is not enrolled for this caller")
        );
        // Switching clear keys on changes nothing for whoever asks for encrypted ones.
        let clear = Release {
            danger_clear: true,
            ..strict
        };
        assert!(try_release(text, clear).is_err());
    }
    let unenrolled = Release {
        danger_unenrolled: true,
        ..strict
    };
    assert!(try_release(&others, unenrolled).is_ok());
    for (now, words) in [
        (1_700_000_000, "is not valid yet"),
        (5_000_000_000, "has expired"),
    ] {
        let error = try_release(&own, Release { now, ..strict }).unwrap_err();
        assert!(error.ends_with(words), "{error}");
    }
    let body = try_release(&own, strict).unwrap().body;
    assert!(!body.contains("PlainValue"));
    assert!(body.contains("<cpix:DeliveryData id=\"encryptor\">"));
    assert!(
        body.contains(
            "<cpix:DocumentKey Algorithm=\"http://www.w3.org/2001/04/xmlenc#aes256-cbc\">"
        )
    );
    let mut document = Document::read(body.as_bytes(), &Reading::default()).unwrap();
    let pem = file("recipients/encryptor.key");
    let recipient = RsaRecipient::from_pem(certificate("encryptor"), &pem).unwrap();
    document.decrypt(&recipient, &random).unwrap();
    for key in &document.keys {
        let Secret::Clear(value) = &key.secret else {
            panic!("{} did not open", key.key_id)
        };
        assert_eq!(value.expose(), key_of(key.key_id).expose());
    }
}

#[test]
fn a_recipient_brings_a_certificate_and_nothing_else() {
    let own = with_certificate(&Text::separate().write(), "encryptor");
    let certificate = base64_of(certificate("encryptor").der());
    for (name, words) in [
        (
            "sha1",
            "the certificate is signed over MD5 or SHA-1: issue it with SHA-256",
        ),
        ("short", "the certificate's RSA key has 2048 to 8192 bits"),
        ("ec", "the certificate has no usable RSA key"),
    ] {
        let pem = file(&format!("recipients/{name}.pem"));
        let der: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let (kind, said) = refusal(&own.replace(&certificate, &der));
        assert_eq!(kind, ErrorKind::Malformed, "{name}");
        assert!(
            said.contains(words) && said.contains("/X509Certificate[1]"),
            "{said}"
        );
    }
    assert!(
        refusal(&own.replace(&certificate, "AAAA"))
            .1
            .contains("this is no X.509 certificate")
    );
    assert!(
        refusal(&own.replace(&certificate, "*"))
            .1
            .contains("the text is not base64")
    );
    let with_key = own.replace(
        "</cpix:DeliveryKey>",
        "</cpix:DeliveryKey><cpix:MACMethod Algorithm=\"http://www.w3.org/2001/04/xmldsig-more#hmac-sha512\">\
         <pskc:MACKey><enc:EncryptionMethod xmlns:enc=\"http://www.w3.org/2001/04/xmlenc#\" \
         Algorithm=\"http://www.w3.org/2001/04/xmlenc#rsa-oaep-mgf1p\"/><enc:CipherData \
         xmlns:enc=\"http://www.w3.org/2001/04/xmlenc#\"><enc:CipherValue>AAAA</enc:CipherValue></enc:CipherData>\
         </pskc:MACKey></cpix:MACMethod>",
    );
    assert!(
        refusal(&with_key)
            .1
            .contains("a request brings no keys of its own")
    );
}

/// Leasing keys is asynchronous: what stands around it moves between threads.
#[test]
fn everything_may_wait_on_any_thread() {
    fn moves<T: Send + Sync>() {}
    moves::<cpix::speke::Request>();
    moves::<cpix::speke::Prepared<'_>>();
    moves::<cpix::speke::Response>();
    moves::<cpix::speke::Order<'_>>();
    moves::<cpix::speke::Supply>();
    moves::<Document>();
    moves::<cpix::Error>();
}
