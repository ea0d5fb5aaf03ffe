//! Documents as files: read, written, read again; encrypted ones against an independent implementation; all that is
//! written against the schema, where that is at hand.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

mod key_server;

use std::path::PathBuf;
use std::process::Command;

use cpix::delivery::{KeyCipher, RsaRecipient};
use cpix::usage::{AudioFilter, BitrateFilter, Filter, Media, Track, UsageRule, VideoFilter};
use cpix::{
    ContentProtection, Document, EncryptionScheme, ErrorKind, Hdcp, HlsSignaling, Key, Period,
    Playlist, Reading, Secret, System, SystemId, Version,
};
use key_server::{certificate, file, golden, key_id, key_of, path};
use keystore_types::ConstantIv;
use ring::rand::SystemRandom;

fn read(text: &str) -> Document {
    Document::read(text.as_bytes(), &Reading::default()).unwrap()
}

/// A document with everything in it that its version has.
fn everything(version: Version) -> Document {
    let newest = version == Version::V2_4;
    let mut document = Document::new(version);
    document.id = Some("document".to_owned());
    document.content_id = Some("Film \"<1>\" & more".to_owned());
    document.name = Some("é".to_owned());
    for number in 0..2 {
        document.keys.push(Key {
            explicit_iv: Some(ConstantIv::new([0xf0; 16])),
            scheme: (version > Version::V2_0).then_some(EncryptionScheme::Cbcs),
            hdcp: newest.then(|| Hdcp {
                hls_level: Some("TYPE-0".to_owned()),
                output_protection: Some("<OutputProtection/>".to_owned()),
            }),
            secret: Secret::Clear(key_of(key_id(number))),
            ..Key::new(key_id(number))
        });
    }
    document.keys.push(Key {
        depends_on: Some(key_id(0)),
        ..Key::new(key_id(2))
    });
    let mut system = System {
        name: Some("Widevine".to_owned()),
        pssh: Some(vec![0xff; 5]),
        content_protection: Some(ContentProtection {
            fragment: "<a/>".to_owned(),
            robustness: newest.then(|| "HW".to_owned()),
        }),
        hls_allowed_cpc: newest.then(|| "x:y".to_owned()),
        ..System::new(SystemId::WIDEVINE, key_id(0))
    };
    if version == Version::V2_0 {
        system.legacy.uri_ext_x_key = Some("skd://1".to_owned());
        system.legacy.key_format = Some("identity".to_owned());
        system.legacy.key_format_versions = Some("1".to_owned());
        system.legacy.protection_header = Some("AQID".to_owned());
    } else {
        system.smooth_streaming = Some("AQID".to_owned());
        system.hls = [Playlist::Media, Playlist::Multivariant]
            .map(|playlist| HlsSignaling {
                playlist,
                lines: "#EXT-X-KEY:METHOD=SAMPLE-AES\n#EXT-X-OTHER".to_owned(),
            })
            .into();
    }
    document.systems = vec![system, System::new(SystemId::FAIRPLAY, key_id(1))];
    document.periods = vec![
        Period {
            id: Some("first".to_owned()),
            index: Some(u32::MAX),
            label: Some("news".to_owned()),
            start: Some("2026-11-28T17:00:00Z".to_owned()),
            end: Some("2026-11-28T18:00:00+00:30".to_owned()),
            ..Period::default()
        },
        Period {
            id: Some("second".to_owned()),
            start_offset: Some("PT1H".to_owned()),
            duration: Some("P1DT0.5S".to_owned()),
            ..Period::default()
        },
    ];
    document.rules = vec![
        UsageRule {
            key_id: key_id(0),
            intended_track_type: Some("UHD+HFR".to_owned()),
            filters: vec![
                Filter::KeyPeriod("first".to_owned()),
                Filter::Label("blue".to_owned()),
                Filter::Video(VideoFilter {
                    min_pixels: Some(0),
                    max_pixels: Some(u32::MAX),
                    hdr: Some(true),
                    wcg: Some(false),
                    min_fps: Some(30),
                    max_fps: Some(60),
                }),
                Filter::Bitrate(BitrateFilter {
                    min_bitrate: Some(1),
                    max_bitrate: None,
                }),
            ],
        },
        UsageRule {
            key_id: key_id(1),
            intended_track_type: None,
            filters: vec![Filter::Audio(AudioFilter {
                min_channels: None,
                max_channels: Some(2),
            })],
        },
    ];
    document
}

const VERSIONS: [(Version, &str); 3] = [
    (Version::V2_0, "documents/everything-2.0.xml"),
    (Version::V2_3, "documents/everything-2.3.xml"),
    (Version::V2_4, "documents/everything-2.4.xml"),
];

#[test]
fn everything_is_written_and_read_again() {
    for (version, name) in VERSIONS {
        let written = everything(version);
        let text = written.export_clear();
        golden(name, &text);
        let document = read(&text);
        assert_eq!(*document.export_clear(), *text);
        // Debug shows everything but the keys, which are compared by themselves.
        assert_eq!(format!("{document:?}"), format!("{written:?}"));
        for (one, other) in document.keys.iter().zip(&written.keys) {
            match (&one.secret, &other.secret) {
                (Secret::Clear(one), Secret::Clear(other)) => {
                    assert_eq!(one.expose(), other.expose());
                }
                (Secret::Absent, Secret::Absent) => {}
                pair => panic!("{pair:?}"),
            }
        }
    }
}

#[test]
fn a_clear_key_is_not_written_by_accident() {
    for (version, _) in VERSIONS {
        let mut document = everything(version);
        let error = document.to_xml().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
        document
            .encrypt(
                &[&certificate("encryptor")],
                KeyCipher::AesCbc,
                &SystemRandom::new(),
            )
            .unwrap();
        assert!(document.to_xml().is_ok());
        assert!(!document.export_clear().contains("PlainValue"));
    }
}

#[test]
fn encrypted_for_several_and_opened_by_each() {
    let random = SystemRandom::new();
    let names = ["encryptor", "stranger"];
    let certificates = names.map(certificate);
    let recipients: Vec<_> = certificates.iter().collect();
    for (cipher, algorithm) in [
        (KeyCipher::AesCbc, "aes256-cbc"),
        (KeyCipher::AesKw, "kw-aes256"),
    ] {
        let mut document = everything(Version::V2_4);
        document.encrypt(&recipients, cipher, &random).unwrap();
        let text = document.to_xml().unwrap();
        assert!(text.contains(&format!("xmlenc#{algorithm}")));
        for name in names {
            let pem = file(&format!("recipients/{name}.key"));
            let recipient = RsaRecipient::from_pem(certificate(name), &pem).unwrap();
            let mut document = read(&text);
            assert_eq!(document.deliveries.len(), 2);
            document.decrypt(&recipient, &random).unwrap();
            assert!(document.deliveries.is_empty());
            assert_eq!(
                *document.export_clear(),
                *everything(Version::V2_4).export_clear()
            );
        }
    }
}

#[test]
fn there_is_no_encryption_to_nobody() {
    let mut document = everything(Version::V2_4);
    let random = SystemRandom::new();
    let error = document
        .encrypt(&[], KeyCipher::AesCbc, &random)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(document.to_xml().is_err());
    // Nor to a second recipient afterwards: the keys are no longer there to encrypt.
    document
        .encrypt(&[&certificate("encryptor")], KeyCipher::AesCbc, &random)
        .unwrap();
    let error = document
        .encrypt(&[&certificate("stranger")], KeyCipher::AesCbc, &random)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
}

/// Made with Python's `cryptography` for the certificate `encryptor`, in the form of the specification and in that
/// of AWS's examples (`MACMethod/Key`, white space in base64, a stated digest).
#[test]
fn documents_of_another_implementation() {
    let random = SystemRandom::new();
    let pem = file("recipients/encryptor.key");
    let recipient = RsaRecipient::from_pem(certificate("encryptor"), &pem).unwrap();
    for name in ["encrypted-2.4", "encrypted-2.3-as-vendors-write-it"] {
        let mut document = read(&file(&format!("documents/{name}.xml")));
        document.decrypt(&recipient, &random).unwrap();
        let keys: Vec<[u8; 16]> = (document.keys.iter())
            .map(|key| match &key.secret {
                Secret::Clear(key) => *key.expose(),
                other => panic!("{other:?}"),
            })
            .collect();
        let expected = [
            0x0011_2233_4455_6677_8899_aabb_ccdd_eeff_u128,
            0x1666_34c6_7582_3c23_5a4a_9446_fad5_2e4d,
        ];
        assert_eq!(keys, expected.map(u128::to_be_bytes), "{name}");
    }
}

/// Two document keys, each for some of the keys: what is under the other one stays shut.
#[test]
fn a_recipient_of_some_keys() {
    let random = SystemRandom::new();
    let name = certificate("encryptor");
    let seal = |number: usize| {
        let mut document = Document::new(Version::V2_4);
        document.keys.push(Key {
            secret: Secret::Clear(key_of(key_id(number))),
            ..Key::new(key_id(number))
        });
        document
            .encrypt(&[&name], KeyCipher::AesCbc, &random)
            .unwrap();
        document
    };
    let mut document = seal(0);
    let mut other = seal(1);
    document.deliveries[0].document_keys[0].encrypts = vec![key_id(0), key_id(7)];
    document.keys.append(&mut other.keys);
    let text = document.to_xml().unwrap();
    assert!(text.contains(&format!("encryptsKey=\"{} {}\"", key_id(0), key_id(7))));
    let pem = file("recipients/encryptor.key");
    let recipient = RsaRecipient::from_pem(name, &pem).unwrap();
    let mut document = read(&text);
    document.decrypt(&recipient, &random).unwrap();
    assert!(matches!(document.keys[0].secret, Secret::Clear(_)));
    assert!(matches!(document.keys[1].secret, Secret::Encrypted(_)));
    assert!(document.to_xml().is_err(), "one key is clear now");
}

#[test]
fn tracks_find_their_keys() {
    let document = everything(Version::V2_4);
    let mut track = Track {
        media: Media::Video {
            pixels: 100,
            fps: Some((60, 1)),
            hdr: Some(true),
            wcg: Some(false),
        },
        bitrate: Some(1),
        labels: vec!["blue".to_owned()],
        period: Some("first".to_owned()),
    };
    assert_eq!(document.key_of(&track), Ok(Some(key_id(0))));
    track.media = Media::Audio { channels: 2 };
    assert_eq!(document.key_of(&track), Ok(Some(key_id(1))));
    track.bitrate = None;
    assert!(document.key_of(&track).is_err());
}

#[test]
fn signatures_are_counted_and_not_kept() {
    let text = everything(Version::V2_4).export_clear().replace(
        "</cpix:CPIX>",
        "<Signature xmlns=\"http://www.w3.org/2000/09/xmldsig#\"><SignedInfo/></Signature></cpix:CPIX>",
    );
    let document = read(&text);
    assert_eq!(document.signatures, 1);
    assert!(!document.export_clear().contains("Signature"));
}

/// What later versions, earlier ones and vendors have besides.
#[test]
fn what_is_not_known_is_skipped() {
    let text = everything(Version::V2_3).export_clear();
    let more = text
        .replace(
            "</cpix:DRMSystem>",
            "<cpix:HDSSignalingData>AQID</cpix:HDSSignalingData></cpix:DRMSystem>",
        )
        .replace(
            "<cpix:DRMSystemList>",
            "<cpix:FutureList future=\"1\"/><cpix:DRMSystemList updateVersion=\"1\">",
        );
    assert_eq!(*read(&more).export_clear(), *text);
    let rule = text.replace(
        "<cpix:AudioFilter",
        "<x:MoonFilter xmlns:x=\"urn:x\"/><cpix:AudioFilter",
    );
    let document = read(&rule);
    let unknown = Filter::Unknown("MoonFilter".to_owned());
    assert_eq!(document.rules[1].filters[0], unknown);
}

#[test]
fn a_byte_order_mark_is_no_text() {
    let text = format!("\u{feff}{}", *everything(Version::V2_3).export_clear());
    assert_eq!(read(&text).keys.len(), 3);
}

/// Where `CPIX_SCHEMA` or the shared schemas have it: it carries no licence, so it is not kept here.
fn schema() -> Option<PathBuf> {
    let shared = || {
        let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        here.join("../../../shared/schemas/cpix.xsd")
    };
    let path = std::env::var_os("CPIX_SCHEMA").map_or_else(shared, PathBuf::from);
    if !path.exists() {
        eprintln!(
            "skipped: no {} (Dash-Industry-Forum/CPIX has it)",
            path.display()
        );
        return None;
    }
    if Command::new("xmllint").arg("--version").output().is_err() {
        eprintln!("skipped: xmllint is not installed (libxml2-utils)");
        return None;
    }
    Some(path)
}

#[test]
fn the_schema_agrees() {
    let Some(schema) = schema() else {
        return;
    };
    let mut encrypted = everything(Version::V2_4);
    encrypted
        .encrypt(
            &[&certificate("encryptor")],
            KeyCipher::AesCbc,
            &SystemRandom::new(),
        )
        .unwrap();
    let folder = std::env::temp_dir().join(format!("cpix-schema-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let sealed = folder.join("encrypted.xml");
    std::fs::write(&sealed, encrypted.to_xml().unwrap().as_bytes()).unwrap();
    // Older versions are checked but for what 2.4 renamed: 'master', DocumentKey@Algorithm, URIExtXKey.
    let files = [
        "documents/everything-2.4.xml",
        "answers/v2.1.xml",
        "requests/v2.1.xml",
    ];
    for file in files.map(path).into_iter().chain([sealed]) {
        let output = Command::new("xmllint")
            .args(["--nonet", "--noout", "--schema"])
            .args([&schema, &file])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn keys_are_16_bytes() {
    for len in (0..40).filter(|len| *len != 16) {
        let text = everything(Version::V2_3).export_clear();
        let start = text.find("<pskc:PlainValue>").unwrap() + 17;
        let mut bad = text.to_string();
        let value = base64(&vec![7; len]);
        bad.replace_range(start..start + 24, &value);
        let error = Document::read(bad.as_bytes(), &Reading::default()).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("a content key is base64 of 16 bytes"),
            "{len}: {error}"
        );
        assert!(value.is_empty() || !error.to_string().contains(&value));
    }
}

/// Bytes that are all 7.
fn base64(sevens: &[u8]) -> String {
    let whole = "BwcH".repeat(sevens.len() / 3);
    let rest = ["", "Bw==", "Bwc="][sevens.len() % 3];
    format!("{whole}{rest}")
}
