//! SPEKE as a client: what is sent keeps the contract, and what comes is held against what was sent.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

mod key_server;

use cpix::delivery::{RecipientKey, RsaRecipient};
use cpix::speke::{
    AudioPreset, Headers, Order, OrderedKey, Request, SpekeVersion, Supply, Usage, VideoPreset,
    usages,
};
use cpix::{EncryptionScheme, Error, ErrorKind, Limits, Namespaces, Period, Reading, SystemId};
use key_server::{certificate, file, headers, key_id, key_of, read, serve};
use keystore_types::{ConstantIv, Label};
use ring::rand::SystemRandom;

const VERSIONS: [SpekeVersion; 3] = [SpekeVersion::V1_0, SpekeVersion::V2_0, SpekeVersion::V2_1];

fn order<'a>(version: SpekeVersion, usages: Vec<Usage>) -> Order<'a> {
    let key = |(number, usage)| OrderedKey {
        key_id: key_id(number),
        scheme: EncryptionScheme::Cbcs,
        explicit_iv: Some(ConstantIv::new([9; 16])),
        usage,
        period: None,
    };
    Order {
        version,
        content_id: "film".to_owned(),
        keys: usages.into_iter().enumerate().map(key).collect(),
        systems: vec![SystemId::WIDEVINE, SystemId::PLAYREADY, SystemId::FAIRPLAY],
        recipient: None,
    }
}

fn labels() -> Vec<Usage> {
    Label::ALL.into_iter().map(Usage::of_label).collect()
}

fn accept(order: &Order<'_>, body: &str) -> Result<Supply, Error> {
    let headers = headers(order.version.header());
    order.accept(
        &headers,
        body.as_bytes(),
        &Reading::default(),
        &SystemRandom::new(),
    )
}

fn answer(order: &Order<'_>) -> String {
    let request = order.request().unwrap();
    let enrolled = [certificate("encryptor")];
    let response = serve(order.version.header(), &request.body, &enrolled).unwrap();
    response.body.to_string()
}

fn recipient(name: &str) -> RsaRecipient {
    let pem = file(&format!("recipients/{name}.key"));
    RsaRecipient::from_pem(certificate(name), &pem).unwrap()
}

#[test]
fn there_and_back() {
    for version in VERSIONS {
        let mut usages = labels();
        if version == SpekeVersion::V1_0 {
            usages.truncate(1);
        }
        let count = usages.len();
        let order = order(version, usages);
        let supply = accept(&order, &answer(&order)).unwrap();
        assert_eq!(supply.keys.len(), count);
        for (number, key) in supply.keys.iter().enumerate() {
            assert_eq!(key.key_id, key_id(number));
            assert_eq!(key.key.expose(), key_of(key.key_id).expose());
            assert_eq!(key.explicit_iv, Some(ConstantIv::new([9; 16])));
            assert_eq!(key.hdcp.is_some(), version == SpekeVersion::V2_1);
        }
        assert_eq!(supply.systems.len(), 3 * count);
    }
}

#[test]
fn there_and_back_encrypted() {
    for version in VERSIONS {
        let recipient = recipient("encryptor");
        let order = Order {
            recipient: Some(&recipient),
            ..order(version, vec![Usage::all()])
        };
        let body = answer(&order);
        assert!(!body.contains("PlainValue"), "{body}");
        let supply = accept(&order, &body).unwrap();
        assert_eq!(supply.keys[0].key.expose(), key_of(key_id(0)).expose());
        // Whoever listens in, or sends the answer on, has nothing.
        let other = self::recipient("stranger");
        let others = Order {
            recipient: Some(&other),
            ..self::order(version, vec![Usage::all()])
        };
        assert_eq!(
            accept(&others, &body).unwrap_err().kind(),
            ErrorKind::Mismatch
        );
        let nobody = self::order(version, vec![Usage::all()]);
        assert_eq!(
            accept(&nobody, &body).unwrap_err().kind(),
            ErrorKind::Mismatch
        );
    }
}

/// A server that ignores the certificate, or somebody who takes it out on the way.
#[test]
fn clear_keys_are_no_answer_to_a_recipient() {
    let recipient = recipient("encryptor");
    let clear = order(SpekeVersion::V2_0, labels());
    let body = answer(&clear);
    let order = Order {
        recipient: Some(&recipient),
        ..clear
    };
    let error = accept(&order, &body).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
}

/// Every way in which an encrypted answer can be wrong has one reason.
#[test]
fn what_does_not_open_says_no_more() {
    let recipient = recipient("encryptor");
    let order = Order {
        recipient: Some(&recipient),
        ..order(SpekeVersion::V2_0, vec![Usage::all()])
    };
    let body = answer(&order);
    let mut seen = 0;
    for name in ["CipherValue>", "ValueMAC>"] {
        let mut from = 0;
        while let Some(at) = body[from..].find(name) {
            let start = from + at + name.len();
            let end = start + body[start..].find('<').unwrap();
            let old = body.as_bytes()[start + 5];
            let new = if old == b'A' { "B" } else { "A" };
            let mut text = body.clone();
            text.replace_range(start + 5..start + 6, new);
            let error = accept(&order, &text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unopened, "{error}");
            assert_eq!(error.to_string(), "the encrypted keys do not open");
            seen += 1;
            from = end + name.len() + 2;
        }
    }
    assert_eq!(seen, 4, "document key, MAC key, content key and its MAC");
    let at = body.find("<pskc:ValueMAC>").unwrap();
    let end = body.find("</pskc:ValueMAC>").unwrap() + "</pskc:ValueMAC>".len();
    let mut text = body.clone();
    text.replace_range(at..end, "");
    assert_eq!(
        accept(&order, &text).unwrap_err().kind(),
        ErrorKind::Unopened
    );
}

#[test]
fn every_pair_of_presets() {
    use AudioPreset::{Audio1, Audio2, Audio3};
    use VideoPreset::{Video1, Video2, Video3, Video4, Video5, Video6, Video7, Video8};

    let videos = [
        Video1,
        Video2,
        Video3,
        Video4,
        Video5,
        Video6,
        Video7,
        Video8,
        VideoPreset::Unencrypted,
    ];
    let audios = [Audio1, Audio2, Audio3, AudioPreset::Unencrypted];
    let video_keys = [1, 2, 3, 4, 5, 4, 3, 4, 0];
    let audio_keys = [1, 2, 3, 0];
    for (video, video_keys) in videos.into_iter().zip(video_keys) {
        for (audio, audio_keys) in audios.into_iter().zip(audio_keys) {
            let Ok(usages) = usages(video, audio) else {
                assert_eq!((video_keys, audio_keys), (0, 0));
                continue;
            };
            assert_eq!(
                usages.len(),
                video_keys + audio_keys,
                "{video:?}, {audio:?}"
            );
            let order = order(SpekeVersion::V2_0, usages);
            accept(&order, &answer(&order)).unwrap();
        }
        assert!(usages(video, AudioPreset::Shared).is_err());
    }
    let shared = usages(VideoPreset::Shared, AudioPreset::Shared).unwrap();
    assert_eq!(shared, [Usage::all()]);
    for audio in audios {
        assert!(usages(VideoPreset::Shared, audio).is_err());
    }
}

/// Every track has one key under every preset: no gap between the bounds, and no overlap.
#[test]
fn presets_cover_every_track_once() {
    use VideoPreset::{Video1, Video2, Video3, Video4, Video5, Video6, Video7, Video8};
    use cpix::usage::{Media, Track, UsageRule, key_of};

    let bounds = [589_824, 921_600, 2_073_600, 8_847_360];
    let pixels = bounds
        .into_iter()
        .flat_map(|bound| [bound, bound + 1])
        .chain([0, u32::MAX]);
    let video = pixels.map(|pixels| Media::Video {
        pixels,
        fps: None,
        hdr: None,
        wcg: None,
    });
    let audio = (0..9).map(|channels| Media::Audio { channels });
    let tracks: Vec<Media> = video.chain(audio).collect();
    for video in [
        Video1, Video2, Video3, Video4, Video5, Video6, Video7, Video8,
    ] {
        for audio in [
            AudioPreset::Audio1,
            AudioPreset::Audio2,
            AudioPreset::Audio3,
        ] {
            let usages = usages(video, audio).unwrap();
            let rules: Vec<UsageRule> = (usages.into_iter().enumerate())
                .map(|(number, usage)| UsageRule {
                    key_id: key_id(number),
                    intended_track_type: Some(usage.intended_track_type),
                    filters: usage.filters,
                })
                .collect();
            for media in &tracks {
                let track = Track {
                    media: *media,
                    bitrate: None,
                    labels: Vec::new(),
                    period: None,
                };
                let key = key_of(&rules, &track).unwrap();
                assert!(key.is_some(), "{video:?}, {audio:?}: {media:?}");
            }
        }
    }
}

#[test]
fn a_broken_order_is_not_sent() {
    let mut twice = order(SpekeVersion::V2_0, labels());
    twice.keys[1].key_id = twice.keys[0].key_id;
    assert_eq!(twice.request().unwrap_err().kind(), ErrorKind::Invalid);
    let mut cenc = order(SpekeVersion::V2_0, labels());
    cenc.keys
        .iter_mut()
        .for_each(|key| key.scheme = EncryptionScheme::Cenc);
    assert!(
        cenc.request()
            .unwrap_err()
            .to_string()
            .contains("FairPlay takes cbcs")
    );
    let many = order(SpekeVersion::V1_0, labels());
    assert!(
        many.request()
            .unwrap_err()
            .to_string()
            .contains("SPEKE 1.0 has one key")
    );
    let nothing = order(SpekeVersion::V2_0, Vec::new());
    assert!(
        nothing
            .request()
            .unwrap_err()
            .to_string()
            .contains("ContentKeyList is missing")
    );
    let mut nameless = order(SpekeVersion::V2_0, labels());
    nameless.content_id = " ".to_owned();
    assert!(
        nameless
            .request()
            .unwrap_err()
            .to_string()
            .contains("missing CPIX@contentId")
    );
}

#[test]
fn keys_are_ordered_by_period() {
    for version in [SpekeVersion::V2_0, SpekeVersion::V2_1] {
        let mut order = order(version, vec![Usage::all(), Usage::all()]);
        for (index, key) in (7..).zip(&mut order.keys) {
            key.period = Some(Period {
                index: Some(index),
                ..Period::default()
            });
        }
        let request = order.request().unwrap();
        let read = read(version.header(), &request.body).unwrap();
        let indices: Vec<_> = read.keys().map(|key| key.periods[0].index).collect();
        assert_eq!(indices, [Some(7), Some(8)]);
        assert!(accept(&order, &answer(&order)).is_ok());
    }
}

/// What another one than the right answer is told.
#[test]
fn nothing_but_what_was_ordered() {
    let order = order(SpekeVersion::V2_0, labels());
    let body = answer(&order);
    assert!(accept(&order, &body).is_ok());
    let kid = key_id(1).to_string();
    let stranger = "11111111-2222-3333-4444-555555555555";
    let once = |old: &str, new: &str| {
        assert!(body.contains(old), "{old}");
        body.replacen(old, new, 1)
    };
    let element = |name: &str, number: usize| {
        let open = format!("<cpix:{name} ");
        let close = format!("</cpix:{name}>");
        let (start, _) = body.match_indices(&open).nth(number).unwrap();
        let end = start + body[start..].find(&close).unwrap() + close.len();
        (start, end)
    };
    let without = |name: &str, number: usize| {
        let (start, end) = element(name, number);
        format!("{}{}", &body[..start], &body[end..])
    };
    let doubled = |name: &str, number: usize| {
        let (start, end) = element(name, number);
        format!("{}{}{}", &body[..end], &body[start..end], &body[end..])
    };
    let emptied = |name: &str| {
        let start = body.find(&format!("<cpix:{name}")).unwrap();
        let start = start + body[start..].find('>').unwrap() + 1;
        let end = start + body[start..].find('<').unwrap();
        format!("{}{}", &body[..start], &body[end..])
    };
    let cases = [
        (
            once("contentId=\"film\"", "contentId=\"other\""),
            "the answer is for another content",
        ),
        (
            once("contentId=\"film\"", "id=\"film\""),
            "the answer is for another content",
        ),
        (
            once("version=\"2.3\"", "version=\"2.4\""),
            "the answer is of another CPIX version",
        ),
        (once(&kid, stranger), "was ordered and did not come"),
        (
            once(&kid, stranger),
            "key 11111111-2222-3333-4444-555555555555 came and was not ordered",
        ),
        (
            without("ContentKey", 2),
            "key 0f083e4e-b831-4a3d-917e-000000000002 was ordered and did not come",
        ),
        (
            doubled("ContentKey", 2),
            "key 0f083e4e-b831-4a3d-917e-000000000002 came twice",
        ),
        (without("DRMSystem", 0), "was ordered and did not come"),
        (doubled("DRMSystem", 0), "came twice"),
        (
            once("systemId=\"edef8ba9", "systemId=\"edef8baa"),
            "came and was not ordered",
        ),
        (
            once("\"cbcs\"", "\"cenc\""),
            "came for another encryption scheme",
        ),
        (
            once("CQkJCQkJCQkJCQkJCQkJCQ==", "CQkJCQkJCQkJCQkJCQkJCA=="),
            "came with another explicitIV",
        ),
        (emptied("PSSH"), "PSSH is missing"),
        (
            once("<cpix:PSSH>AAAA", "<cpix:PSSH>AAAB"),
            "PSSH is not one whole box",
        ),
        (
            emptied("ContentProtectionData"),
            "ContentProtectionData is missing",
        ),
        (
            emptied("HLSSignalingData"),
            "HLSSignalingData is missing for a playlist",
        ),
        (
            once(
                "<cpix:ContentProtectionData>PGNl",
                "<cpix:ContentProtectionData>PDwh",
            ),
            "ContentProtectionData is no well-formed XML",
        ),
        (
            once(">I0VYVC1Y", ">I0VYVC1Z"),
            "HLSSignalingData has no key tag of its playlist",
        ),
        (
            once(">I0VYVC1Y", ">IUVYVC1Y"),
            "HLSSignalingData has a line that is no tag",
        ),
    ];
    for (text, words) in cases {
        let error = accept(&order, &text).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch, "{words}: {error}");
        assert!(error.to_string().contains(words), "{words}: {error}");
    }
    let (start, end) = element("ContentKey", 0);
    let key = &body[start..end];
    let no_value = body.replace(
        key,
        &key.replace(
            &key[key.find("<cpix:Data>").unwrap()..key.find("</cpix:Data>").unwrap() + 12],
            "",
        ),
    );
    assert!(
        accept(&order, &no_value)
            .unwrap_err()
            .to_string()
            .contains("came without its value")
    );
    // A key of another length is none.
    let value = key.find("PlainValue>").unwrap() + 11;
    let short = body.replace(&key[value..value + 24], "AQID");
    let error = accept(&order, &short).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed);
    assert!(
        error
            .to_string()
            .contains("a content key is base64 of 16 bytes"),
        "{error}"
    );
    assert!(!error.to_string().contains("AQID"));
}

#[test]
fn the_header_may_be_missing_but_not_differ() {
    let order = order(SpekeVersion::V2_0, labels());
    let body = answer(&order);
    let with = |speke_version| {
        let headers = Headers {
            content_type: Some("application/xml;charset=utf-8"),
            speke_version,
        };
        order.accept(
            &headers,
            body.as_bytes(),
            &Reading::default(),
            &SystemRandom::new(),
        )
    };
    assert!(with(Some("2.0")).is_ok());
    assert!(with(None).is_ok());
    for other in ["2.1", "1.0", ""] {
        assert_eq!(with(Some(other)).unwrap_err().kind(), ErrorKind::Mismatch);
    }
    let html = Headers {
        content_type: Some("text/html"),
        speke_version: None,
    };
    assert!(
        order
            .accept(
                &html,
                body.as_bytes(),
                &Reading::default(),
                &SystemRandom::new()
            )
            .is_err()
    );
}

#[test]
fn a_server_that_forgets_namespaces() {
    let order = order(SpekeVersion::V2_0, labels());
    let body = answer(&order);
    let bare = body
        .replace("cpix:", "")
        .replace("pskc:", "")
        .replace("xmlns:cpix=\"urn:dashif:org:cpix\"", "")
        .replace("xmlns:pskc=\"urn:ietf:params:xml:ns:keyprov:pskc\"", "");
    // Written once more after the prefixes were taken out of the declarations as well.
    let bare = bare
        .replace("xmlns:=", "x=")
        .replace(" xmlns=\"urn:dashif:org:cpix\"", "");
    assert_eq!(
        accept(&order, &bare).unwrap_err().kind(),
        ErrorKind::Malformed
    );
    let lenient = Reading {
        namespaces: Namespaces::Assumed,
        ..Reading::default()
    };
    let headers = headers(Some("2.0"));
    let supply = order
        .accept(&headers, bare.as_bytes(), &lenient, &SystemRandom::new())
        .unwrap();
    assert_eq!(supply.keys.len(), 5);
}

#[test]
fn debug_shows_no_key() {
    let recipient = recipient("encryptor");
    let order = Order {
        recipient: Some(&recipient),
        ..order(SpekeVersion::V2_0, labels())
    };
    let supply = accept(&order, &answer(&order)).unwrap();
    let shown = format!("{order:?} {supply:?} {recipient:?}");
    for key in &supply.keys {
        assert!(!shown.contains(&format!("{:?}", key.key.expose())));
    }
    assert!(shown.contains("ContentKey(..)"));
    assert!(shown.contains(&format!("{:?}", recipient.certificate())));
}

#[test]
fn a_private_key_belongs_to_its_certificate() {
    let other = file("recipients/stranger.key");
    let error = RsaRecipient::from_pem(certificate("encryptor"), &other).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    for pem in [
        "",
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    ] {
        let error = RsaRecipient::from_pem(certificate("encryptor"), pem).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed);
    }
}

/// The request as it is sent, with everything in it.
#[test]
fn a_whole_request() {
    let recipient = recipient("encryptor");
    let mut order = Order {
        recipient: Some(&recipient),
        ..order(
            SpekeVersion::V2_1,
            usages(VideoPreset::Video7, AudioPreset::Audio1).unwrap(),
        )
    };
    order.systems.push(SystemId::CLEAR_KEY);
    order.keys[0].period = Some(Period {
        id: Some("p".to_owned()),
        index: Some(1),
        start: Some("2026-11-28T17:00:00Z".to_owned()),
        duration: Some("PT1H".to_owned()),
        ..Period::default()
    });
    let request = order.request().unwrap();
    let expected = [
        ("Content-Type", "application/xml"),
        ("X-Speke-Version", "2.1"),
    ];
    assert_eq!(request.headers, expected);
    key_server::golden("requests/order.xml", &request.body);
    let headers = headers(Some("2.1"));
    Request::read(&headers, request.body.as_bytes(), &Limits::default()).unwrap();
}
