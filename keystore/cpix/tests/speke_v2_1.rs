//! What SPEKE 2.1 adds to 2.0.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

mod key_server;

use cpix::speke::SpekeVersion;
use cpix::{Document, EncryptionScheme, ErrorKind, Playlist, Reading, SystemId};
use key_server::{Text, golden, read, serve};

const V2_1: Option<&str> = Some("2.1");

fn text() -> Text {
    Text {
        cpix_version: "2.4",
        live: true,
        ..Text::separate()
    }
}

#[test]
fn a_whole_answer() {
    let request = text().write();
    golden("requests/v2.1.xml", &request);
    let response = serve(V2_1, &request, &[]).unwrap();
    golden("answers/v2.1.xml", &response.body);
    let version = ("X-Speke-Version", "2.1".to_owned());
    assert!(response.headers("Castellum").contains(&version));
    let document = Document::read(response.body.as_bytes(), &Reading::default()).unwrap();
    for system in &document.systems {
        assert_eq!(system.hls[1].playlist, Playlist::Multivariant);
        assert!(system.hls[1].lines.starts_with("#EXT-X-SESSION-KEY:"));
        let robustness = system
            .content_protection
            .as_ref()
            .unwrap()
            .robustness
            .as_deref();
        assert_eq!(robustness, Some("HW_SECURE_ALL"));
        assert!(system.hls_allowed_cpc.is_some());
    }
    for key in &document.keys {
        assert_eq!(
            key.hdcp.as_ref().unwrap().hls_level.as_deref(),
            Some("TYPE-1")
        );
    }
}

/// It comes to the address of 2.0, and is told by its header.
#[test]
fn one_address_for_both() {
    let request = read(V2_1, &text().write()).unwrap();
    assert_eq!(request.version(), SpekeVersion::V2_1);
    assert_eq!(request.version().path(), SpekeVersion::V2_0.path());
}

/// 2.0 has none of the additions, even where the keystore would.
#[test]
fn an_answer_of_2_0_has_no_additions() {
    let body = serve(Some("2.0"), &Text::separate().write(), &[])
        .unwrap()
        .body;
    for added in ["HDCPData", "robustness", "HLSAllowedCPC"] {
        assert!(!body.contains(added), "{added}");
    }
}

#[test]
fn both_words_for_the_multivariant_playlist() {
    let request = text().write();
    let old_word = request.replace("multiVariant", "master");
    let response = serve(V2_1, &old_word, &[]).unwrap();
    assert!(
        response
            .body
            .contains("<cpix:HLSSignalingData playlist=\"master\">I0VYVC1YLVNFU1NJT04t")
    );
    let both = request.replace("playlist=\"media\"", "playlist=\"master\"");
    let error = serve(V2_1, &both, &[]).unwrap_err().to_string();
    assert!(
        error.contains("each playlist has one HLSSignalingData"),
        "{error}"
    );
    let early = Text::separate().write().replace("master", "multiVariant");
    let error = serve(Some("2.0"), &early, &[]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed);
    assert!(
        error
            .to_string()
            .contains("the playlist is 'media' or 'master'"),
        "{error}"
    );
}

#[test]
fn methods_of_hls_are_schemes() {
    for (scheme, system) in [
        ("AES-128", SystemId::HLS_AES_128),
        ("SAMPLE-AES", SystemId::FAIRPLAY),
        ("SAMPLE-AES-CTR", SystemId::WIDEVINE),
    ] {
        let text = Text {
            scheme,
            systems: vec![system],
            ..text()
        };
        let request = read(V2_1, &text.write()).unwrap();
        assert_eq!(
            request
                .keys()
                .next()
                .unwrap()
                .scheme
                .map(EncryptionScheme::as_str),
            Some(scheme)
        );
        let response = serve(V2_1, &text.write(), &[]).unwrap();
        let document = Document::read(response.body.as_bytes(), &Reading::default()).unwrap();
        let tag = format!("#EXT-X-KEY:METHOD={scheme},");
        assert!(document.systems[0].hls[0].lines.starts_with(&tag));

        let early = Text {
            cpix_version: "2.3",
            ..text
        };
        let error = serve(Some("2.0"), &early.write(), &[])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("the schemes are cenc, cbc1, cens and cbcs"),
            "{error}"
        );
    }
    let clash = Text {
        scheme: "AES-128",
        systems: vec![SystemId::FAIRPLAY],
        ..text()
    };
    assert!(serve(V2_1, &clash.write(), &[]).is_err());
}

#[test]
fn periods_have_bounds() {
    let request = text().write();
    let bounded = |bounds: &str| {
        let text = request.replace("index=\"7\"", &format!("index=\"7\" {bounds}"));
        read(V2_1, &text).map(|request| request.periods()[0].clone())
    };
    let live = "start=\"2026-11-28T17:00:00Z\" end=\"2026-11-28T18:00:00Z\"";
    let period = bounded(live).unwrap();
    assert_eq!(period.start.as_deref(), Some("2026-11-28T17:00:00Z"));
    assert_eq!(period.index, Some(7));
    assert!(bounded("startOffset=\"PT0S\" endOffset=\"PT1H\"").is_ok());
    for (bounds, attribute) in [
        ("start=\"2026-11-28T17:00:00Z\"", "@start "),
        (
            "start=\"2026-11-28T18:00:00Z\" end=\"2026-11-28T17:00:00Z\"",
            "@end ",
        ),
        ("start=\"yesterday\" duration=\"PT1H\"", "@start "),
        ("startOffset=\"PT1H\" duration=\"1h\"", "@duration "),
        ("startOffset=\"PT1H\" endOffset=\"PT1H\"", "@endOffset "),
    ] {
        let error = bounded(bounds).unwrap_err().to_string();
        let place = format!("/ContentKeyPeriod[1]/{attribute}(line ");
        assert!(error.contains(&place), "{bounds}: {error}");
    }
}
