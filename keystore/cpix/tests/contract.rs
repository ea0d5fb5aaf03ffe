//! Requests of SPEKE 2.0 that break the encryption contract, each with what is said of it and where.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

mod key_server;

use cpix::speke::{Headers, MAX_KEYS, Request};
use cpix::{ErrorKind, Limits, SystemId};
use key_server::{Text, V2, key_id, read, refusal, serve};

const FAIRPLAY: SystemId = SystemId::FAIRPLAY;
const WIDEVINE: SystemId = SystemId::WIDEVINE;

/// Each list and each member of it, both filters, and each attribute: without it there is no answer.
#[test]
fn whatever_is_mandatory_is_missed() {
    let request = Text::separate().write();
    let without = |name: &str| {
        let mut text = String::new();
        let mut inside = false;
        for line in request.lines() {
            let opens = line.contains(&format!("<cpix:{name}>"))
                || line.contains(&format!("<cpix:{name} "));
            let closes = line.contains(&format!("</cpix:{name}>"));
            inside |= opens && !closes && !line.ends_with("/>");
            if !inside && !opens {
                text += &format!("{line}\n");
            }
            inside &= !closes;
        }
        assert_ne!(text, request);
        text
    };
    for name in [
        "ContentKeyList",
        "DRMSystemList",
        "ContentKeyUsageRuleList",
        "ContentKey",
        "DRMSystem",
        "ContentKeyUsageRule",
    ] {
        let (kind, words) = refusal(&without(name));
        assert!(
            matches!(kind, ErrorKind::Malformed | ErrorKind::Invalid),
            "{name}: {words}"
        );
        assert!(
            words.contains(&format!("{name} is missing")),
            "{name}: {words}"
        );
    }
    let bare = request
        .replace("<cpix:VideoFilter/>", "")
        .replace("<cpix:AudioFilter/>", "");
    let (kind, words) = refusal(&bare);
    assert_eq!(kind, ErrorKind::Invalid);
    assert_eq!(
        words
            .matches("a usage rule has a VideoFilter or an AudioFilter")
            .count(),
        2
    );

    for (element, attribute) in [
        ("CPIX", "contentId"),
        ("CPIX", "version"),
        ("ContentKey", "kid"),
        ("ContentKey", "commonEncryptionScheme"),
        ("DRMSystem", "kid"),
        ("DRMSystem", "systemId"),
        ("ContentKeyUsageRule", "kid"),
        ("ContentKeyUsageRule", "intendedTrackType"),
    ] {
        let mut text = request.clone();
        let tag = text.find(&format!("<cpix:{element} ")).unwrap();
        let start = tag + text[tag..].find(&format!(" {attribute}=\"")).unwrap();
        let value = start + attribute.len() + 3;
        let end = value + text[value..].find('"').unwrap() + 1;
        text.replace_range(start..end, "");
        let error = serve(V2, &text, &[]).unwrap_err();
        let place = error.faults()[0].place.as_ref().unwrap();
        assert!(
            place.path.ends_with(&format!("/@{attribute}")),
            "{element}@{attribute}: {error}"
        );
        // The place of what is not there is that of its element.
        let line = 1 + text[..tag].matches('\n').count();
        assert_eq!(
            usize::try_from(place.position.line).unwrap(),
            line,
            "{error}"
        );
    }
}

#[test]
fn versions_must_agree_and_be_served() {
    let request = Text::separate().write();
    let version = |header: Option<&str>, cpix: &str| {
        let text = request.replace("version=\"2.3\"", &format!("version=\"{cpix}\""));
        let error = serve(header, &text, &[]).unwrap_err();
        (error.kind(), error.to_string())
    };
    for header in ["1.0", "3.0", "2", "", "2.0, 2.1"] {
        let words = "Unsupported SPEKE version".to_owned();
        assert_eq!(
            version(Some(header), "2.3"),
            (ErrorKind::Unsupported, words),
            "{header}"
        );
    }
    for (header, cpix) in [
        ("2.0", "4.0"),
        ("2.0", "2.4"),
        ("2.1", "2.3"),
        ("2.0", "2.0"),
        ("2.0", ""),
    ] {
        let (kind, words) = version(Some(header), cpix);
        assert_eq!(kind, ErrorKind::Unsupported, "{header} {cpix}");
        assert!(words.contains("/CPIX/@version (line 2, column "), "{words}");
        assert!(words.contains("unsupported CPIX@version"), "{words}");
    }
    let (kind, words) = version(None, "2.3");
    assert_eq!(kind, ErrorKind::Invalid);
    assert!(
        words.contains("comes with the header X-Speke-Version"),
        "{words}"
    );
}

#[test]
fn what_is_no_document() {
    for body in [
        "",
        " ",
        "film",
        "{}",
        "<a/>",
        "<CPIX/>",
        "<CPIX xmlns=\"urn:other\"/>",
    ] {
        assert!(serve(V2, body, &[]).is_err(), "{body}");
    }
    let headers = Headers {
        content_type: Some("application/json"),
        speke_version: V2,
    };
    let body = Text::separate().write();
    let error = Request::read(&headers, body.as_bytes(), &Limits::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn fairplay_takes_no_cenc() {
    for scheme in ["cenc", "cens", "cbc1"] {
        let text = Text {
            systems: vec![WIDEVINE, FAIRPLAY],
            scheme,
            ..Text::separate()
        };
        let (kind, words) = refusal(&text.write());
        assert_eq!(kind, ErrorKind::Invalid);
        let place = "/CPIX/DRMSystemList[1]/DRMSystem[3]/@systemId (line ";
        assert!(words.starts_with(place), "{words}");
        let reason = format!("FairPlay takes cbcs, and this key is for {scheme}");
        assert_eq!(
            words.matches(&reason).count(),
            2,
            "one for each key: {words}"
        );
    }
}

#[test]
fn a_contract_contradicts_itself() {
    let video = "<cpix:VideoFilter/>";
    let audio = "<cpix:AudioFilter/>";
    let sd = "<cpix:VideoFilter maxPixels=\"589824\"/>";
    let both = "<cpix:VideoFilter/><cpix:AudioFilter/>";
    let cases: [(&[(&str, &str)], &str); 13] = [
        (
            &[("ALL", both), ("AUDIO", audio)],
            "beside track type ALL there is no other",
        ),
        (
            &[("AUDIO", audio), ("ALL", both)],
            "beside track type ALL there is no other",
        ),
        (
            &[("ALL", both), ("ALL", both)],
            "each track type has one usage rule",
        ),
        (
            &[("ALL", sd), ("ALL", video), ("STEREO_AUDIO", audio)],
            "track type ALL has one VideoFilter and",
        ),
        (&[("ALL", video)], "track type ALL has one VideoFilter and"),
        (&[("ALL", audio)], "track type ALL has one VideoFilter and"),
        (
            &[("ALL", "<cpix:VideoFilter hdr=\"true\"/><cpix:AudioFilter/>")],
            "track type ALL has one VideoFilter and",
        ),
        (
            &[(
                "ALL",
                "<cpix:VideoFilter/><cpix:VideoFilter/><cpix:AudioFilter/>",
            )],
            "track type ALL has one VideoFilter and",
        ),
        (
            &[("VIDEO", video), ("VIDEO", sd)],
            "each track type has one usage rule",
        ),
        (
            &[("VIDEO", both)],
            "2 filters are more than the track types of 'VIDEO'",
        ),
        (
            &[("SD+", video)],
            "track types are joined by '+', none is empty",
        ),
        (
            &[("", video)],
            "track types are joined by '+', none is empty",
        ),
        (
            &[("VIDEO", "<cpix:BitrateFilter minBitrate=\"1\"/>")],
            "a usage rule has a VideoFilter or an AudioFilter",
        ),
    ];
    for (contract, reason) in cases {
        let (kind, words) = refusal(&Text::new(contract).write());
        assert_eq!(kind, ErrorKind::Invalid, "{contract:?}");
        assert!(words.contains(reason), "{contract:?}: {words}");
    }
    // Two filters for two track types, and the wide gamut that SPEKE ignores.
    for contract in [
        (
            "SD+HD",
            "<cpix:VideoFilter maxPixels=\"5\"/><cpix:VideoFilter minPixels=\"6\"/>",
        ),
        ("VIDEO+AUDIO", both),
        ("ALL", "<cpix:VideoFilter wcg=\"true\"/><cpix:AudioFilter/>"),
    ] {
        let text = Text::new(&[contract]).write();
        assert!(serve(V2, &text, &[]).is_ok(), "{contract:?}");
    }
}

/// With rotation, each key period has a contract of its own.
#[test]
fn track_types_may_come_again_in_another_period() {
    let text = Text {
        live: true,
        ..Text::new(&[
            ("VIDEO", "<cpix:VideoFilter/>"),
            ("VIDEO", "<cpix:VideoFilter/>"),
        ])
    };
    let request = text.write();
    assert!(
        refusal(&request)
            .1
            .contains("each track type has one usage rule")
    );
    let last = request.rfind("periodId=\"period_7\"").unwrap();
    let mut rotated = request.replace(
        "</cpix:ContentKeyPeriodList>",
        "<cpix:ContentKeyPeriod id=\"period_8\" index=\"8\"/></cpix:ContentKeyPeriodList>",
    );
    let last = last + rotated.len() - request.len();
    rotated.replace_range(last..last + 19, "periodId=\"period_8\"");
    let request = read(V2, &rotated).unwrap();
    let periods: Vec<_> = request
        .keys()
        .map(|key| key.periods[0].index.unwrap())
        .collect();
    assert_eq!(periods, [7, 8]);
    let rules: Vec<_> = request
        .keys()
        .map(|key| key.rules[0].intended_track_type.clone())
        .collect();
    assert_eq!(rules, [Some("VIDEO".to_owned()), Some("VIDEO".to_owned())]);
}

#[test]
fn lists_refer_to_each_other() {
    let request = Text {
        live: true,
        ..Text::separate()
    }
    .write();
    let kid = key_id(1).to_string();
    let stranger = "11111111-2222-3333-4444-555555555555";
    let nth = |number: usize, old: &str, new: &str| {
        let (at, _) = request.match_indices(old).nth(number).unwrap();
        format!("{}{new}{}", &request[..at], &request[at + old.len()..])
    };
    let cases = [
        (
            nth(0, &kid, stranger),
            "ContentKey[2]/@kid",
            "each key has a ContentKeyUsageRule",
        ),
        (
            nth(0, &kid, &key_id(0).to_string()),
            "ContentKey[2]/@kid",
            "each key is asked for once",
        ),
        (
            nth(1, &kid, stranger),
            "DRMSystem[2]/@kid",
            "no ContentKey has this id",
        ),
        (
            nth(1, &kid, &key_id(0).to_string()),
            "DRMSystem[2]/@systemId",
            "each system is asked once for each key",
        ),
        (
            nth(2, &kid, stranger),
            "ContentKeyUsageRule[2]/@kid",
            "no ContentKey has this id",
        ),
        (
            nth(2, "period_7", "period_8"),
            "ContentKeyUsageRule[2]/KeyPeriodFilter[1]/@periodId",
            "no ContentKeyPeriod has this id",
        ),
        (
            nth(1, "\"cenc\"", "\"cbcs\""),
            "ContentKey[2]/@commonEncryptionScheme",
            "non compliant ContentKey@commonEncryptionScheme combination",
        ),
    ];
    for (text, place, reason) in cases {
        let (kind, words) = refusal(&text);
        assert_eq!(kind, ErrorKind::Invalid, "{words}");
        assert!(
            words.contains(place) && words.contains(reason),
            "{place}, {reason}: {words}"
        );
    }
    let twice = request.replace(
        "<cpix:ContentKeyPeriod id",
        "<cpix:ContentKeyPeriod id=\"period_7\"/><cpix:ContentKeyPeriod id",
    );
    assert!(
        refusal(&twice)
            .1
            .contains("each key period has an id of its own")
    );
}

#[test]
fn a_request_brings_no_keys() {
    let request = Text::separate().write();
    let secret = "<cpix:Data><pskc:Secret><pskc:PlainValue>AQEBAQEBAQEBAQEBAQEBAQ==</pskc:PlainValue>\
                  </pskc:Secret></cpix:Data></cpix:ContentKey>";
    let at = request.find("/>\n").unwrap();
    let text = format!("{}>{secret}{}", &request[..at], &request[at + 2..]);
    let (kind, words) = refusal(&text);
    assert_eq!(kind, ErrorKind::Invalid);
    assert!(words.contains("ContentKey[1]/Data[1]"), "{words}");
    assert!(!words.contains("AQEB"), "{words}");
}

#[test]
fn all_faults_are_told_at_once() {
    let request = Text::separate().write();
    let text = request
        .replace(" commonEncryptionScheme=\"cenc\"", "")
        .replace(" intendedTrackType=\"AUDIO\"", "");
    let error = serve(V2, &text, &[]).unwrap_err();
    let paths: Vec<_> = error
        .faults()
        .iter()
        .map(|it| it.place.as_ref().unwrap().path.as_str())
        .collect();
    assert_eq!(
        paths,
        [
            "/CPIX/ContentKeyList[1]/ContentKey[1]/@commonEncryptionScheme",
            "/CPIX/ContentKeyList[1]/ContentKey[2]/@commonEncryptionScheme",
            "/CPIX/ContentKeyUsageRuleList[1]/ContentKeyUsageRule[2]/@intendedTrackType",
        ]
    );
}

#[test]
fn too_many_keys_are_one_fault() {
    let names: Vec<String> = (0..=MAX_KEYS).map(|number| format!("T{number}")).collect();
    let contract: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), "<cpix:VideoFilter/>"))
        .collect();
    let as_many = Text::new(&contract[..MAX_KEYS]).write();
    assert!(serve(V2, &as_many, &[]).is_ok());
    let (kind, words) = refusal(&Text::new(&contract).write());
    assert_eq!(kind, ErrorKind::Invalid);
    assert!(
        words.contains("too many keys: at most 256 are served at once"),
        "{words}"
    );
    assert!(words.contains("ContentKey[257]"), "{words}");
}

#[test]
fn a_system_that_is_not_served() {
    let text = Text {
        systems: vec![WIDEVINE, SystemId::COMMON],
        ..Text::separate()
    };
    let (kind, words) = refusal(&text.write());
    assert_eq!(kind, ErrorKind::Unsupported);
    assert!(words.contains("DRMSystem[3]/@systemId"), "{words}");
    assert!(
        words.contains("the system 1077efec-c0b2-4d02-ace3-3c1e52e2fb4b is not served"),
        "{words}"
    );
    // HLS cannot signal a scheme that it has not.
    let text = Text {
        scheme: "cbc1",
        ..Text::separate()
    };
    assert!(
        refusal(&text.write())
            .1
            .contains("HLS has no key tag for the scheme cbc1")
    );
}
