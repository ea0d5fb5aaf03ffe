//! Whatever comes, nothing panics, and what is read at all reads the same when it is written.
//!
//! Small and exhaustive where it can be; the fuzz targets go on from here.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

mod key_server;

use cpix::speke::Request;
use cpix::{Document, Limits, Namespaces, Reading};
use key_server::{file, headers, path, serve};
use proptest::prelude::*;

const SEEDS: [&str; 9] = [
    "answers/v1.0.xml",
    "answers/v2.0.xml",
    "answers/v2.1.xml",
    "documents/encrypted-2.3-as-vendors-write-it.xml",
    "documents/encrypted-2.4.xml",
    "documents/everything-2.4.xml",
    "requests/v1.0.xml",
    "requests/v2.0.xml",
    "requests/v2.1.xml",
];

/// Reads in every way; returns whether anything took it.
fn try_all(bytes: &[u8]) -> bool {
    let mut taken = false;
    for namespaces in [Namespaces::Required, Namespaces::Assumed] {
        let reading = Reading {
            namespaces,
            ..Reading::default()
        };
        if let Ok(document) = Document::read(bytes, &reading) {
            taken = true;
            let text = document.export_clear();
            let again = Document::read(text.as_bytes(), &Reading::default()).unwrap();
            assert_eq!(*again.export_clear(), *text);
        }
    }
    for version in [None, Some("2.0"), Some("2.1")] {
        let headers = headers(version);
        if Request::read(&headers, bytes, &Limits::default()).is_ok() {
            taken = true;
            let text = str::from_utf8(bytes).unwrap();
            // A server may refuse it still; what it answers is a document.
            if let Ok(response) = serve(version, text, &[]) {
                Document::read(response.body.as_bytes(), &Reading::default()).unwrap();
            }
        }
    }
    taken
}

#[test]
fn seeds_are_taken() {
    for name in SEEDS {
        assert!(try_all(file(name).as_bytes()), "{name}");
    }
}

/// A document that ends early is none, wherever it ends.
#[test]
fn cut_at_every_byte() {
    for name in SEEDS {
        let text = file(name);
        // The longer ones have nothing that a shorter one has not, and take the square of the time.
        let end = text.trim_end().len().min(4700);
        for len in 0..end {
            let cut = &text.as_bytes()[..len];
            assert!(
                Document::read(cut, &Reading::default()).is_err(),
                "{name}: {len} bytes"
            );
        }
    }
    let version = headers(Some("2.1"));
    let text = file("requests/v2.1.xml");
    for len in 0..text.trim_end().len() {
        let cut = &text.as_bytes()[..len];
        assert!(
            Request::read(&version, cut, &Limits::default()).is_err(),
            "{len} bytes"
        );
    }
}

/// The bytes that change most of what follows, in the place of every byte.
#[test]
fn every_byte_replaced() {
    const BYTES: [u8; 4] = *b"<\"&\xff";

    for (name, version) in [
        ("documents/everything-2.4.xml", "document"),
        ("requests/v1.0.xml", "1.0"),
        ("requests/v2.1.xml", "2.1"),
    ] {
        let text = file(name).into_bytes();
        let headers = headers((version == "2.1").then_some(version));
        for at in 0..text.len() {
            for byte in BYTES {
                let mut bytes = text.clone();
                bytes[at] = byte;
                if version == "document" {
                    drop(Document::read(&bytes, &Reading::default()));
                } else {
                    drop(Request::read(&headers, &bytes, &Limits::default()));
                }
            }
        }
    }
}

/// Every line taken out, and every line twice.
#[test]
fn every_line_missing_or_twice() {
    for name in SEEDS {
        let text = file(name);
        let lines: Vec<&str> = text.lines().collect();
        for at in 0..lines.len() {
            let mut fewer = lines.clone();
            fewer.remove(at);
            try_all(fewer.join("\n").as_bytes());
            let mut more = lines.clone();
            more.insert(at, lines[at]);
            try_all(more.join("\n").as_bytes());
        }
    }
}

#[test]
fn rejects_are_rejected_by_everything_alike() {
    for entry in std::fs::read_dir(path("rejects")).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        try_all(&bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        try_all(&bytes);
    }

    /// Pieces of documents in any order.
    #[test]
    fn pieces(pieces in proptest::collection::vec(piece(), 0..40)) {
        try_all(pieces.concat().as_bytes());
        let root = "<CPIX xmlns=\"urn:dashif:org:cpix\" contentId=\"x\" version=\"2.3\">";
        try_all(format!("{root}{}</CPIX>", pieces.concat()).as_bytes());
    }

    /// Whatever a name, an attribute or a text holds comes back from a document.
    #[test]
    fn text_survives(id in "[ -~éß漢\u{1f600}]{0,40}", lines in "[ -~\n\té]{0,60}") {
        let mut document = Document::new(cpix::Version::V2_4);
        document.content_id = Some(id);
        let mut system = cpix::System::new(cpix::SystemId::WIDEVINE, key_server::key_id(0));
        system.hls = vec![cpix::HlsSignaling { playlist: cpix::Playlist::Media, lines }];
        document.systems.push(system);
        let text = document.export_clear();
        let again = Document::read(text.as_bytes(), &Reading::default()).unwrap();
        prop_assert_eq!(&again.content_id, &document.content_id);
        prop_assert_eq!(&again.systems, &document.systems);
    }
}

fn piece() -> impl Strategy<Value = String> {
    let names = prop_oneof![
        Just("ContentKeyList"),
        Just("ContentKey"),
        Just("Data"),
        Just("p:Secret"),
        Just("DRMSystemList"),
        Just("DRMSystem"),
        Just("PSSH"),
        Just("HLSSignalingData"),
        Just("ContentKeyUsageRuleList"),
        Just("ContentKeyUsageRule"),
        Just("VideoFilter"),
        Just("DeliveryDataList"),
    ];
    let attribute = prop_oneof![
        Just(""),
        Just(" kid=\"0f083e4e-b831-4a3d-917e-000000000000\""),
        Just(" systemId=\"edef8ba9-79d6-4ace-a3c8-27dcd51d21ed\""),
        Just(" commonEncryptionScheme=\"cenc\" kid='0f083e4e-b831-4a3d-917e-000000000000'"),
        Just(" xmlns:p=\"urn:ietf:params:xml:ns:keyprov:pskc\""),
        Just(" xmlns=\"\""),
        Just(" intendedTrackType=\"ALL\""),
    ];
    (names, attribute, 0..5_u8).prop_map(|(name, attribute, form)| match form {
        0 => format!("<{name}{attribute}>"),
        1 => format!("</{name}>"),
        2 => format!("<{name}{attribute}/>"),
        3 => format!("<{name}{attribute}></{name}>"),
        _ => "AQEBAQEBAQEBAQEBAQEBAQ==".to_owned(),
    })
}
