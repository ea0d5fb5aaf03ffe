//! SPEKE 2.0 as a key server: what AWS's public verification suite looks at, by our own means, and what it leaves out.
//!
//! Cannot catch what an encryptor in the field does that neither that suite nor the specification shows.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

mod key_server;

use cpix::speke::SpekeVersion;
use cpix::{Document, Playlist, Reading, Secret, SystemId};
use key_server::{Text, V2, base64_of, golden, key_id, key_of, read, serve};

type Contract<'a> = &'a [(&'a str, &'a str)];

/// Video presets 1, 3, 5 and 8 with audio presets 1, 2 and 3, video alone, audio alone; filters as AWS's encryptors
/// write them, which is one even for two track types.
const PRESETS: [(&str, Contract<'static>); 6] = [
    (
        "video 1, audio 1",
        &[
            ("VIDEO", "<cpix:VideoFilter/>"),
            ("AUDIO", "<cpix:AudioFilter/>"),
        ],
    ),
    (
        "video 3, audio 2",
        &[
            ("SD", "<cpix:VideoFilter maxPixels=\"589824\"/>"),
            ("HD", "<cpix:VideoFilter minPixels=\"589825\"/>"),
            ("UHD", "<cpix:VideoFilter minPixels=\"2073601\"/>"),
            ("STEREO_AUDIO", "<cpix:AudioFilter maxChannels=\"2\"/>"),
            (
                "MULTICHANNEL_AUDIO",
                "<cpix:AudioFilter minChannels=\"3\"/>",
            ),
        ],
    ),
    (
        "video 5, audio 3",
        &[
            ("SD", "<cpix:VideoFilter maxPixels=\"589824\"/>"),
            (
                "HD1",
                "<cpix:VideoFilter minPixels=\"589825\" maxPixels=\"921600\"/>",
            ),
            (
                "HD2",
                "<cpix:VideoFilter minPixels=\"921601\" maxPixels=\"2073600\"/>",
            ),
            (
                "UHD1",
                "<cpix:VideoFilter minPixels=\"2073601\" maxPixels=\"8847360\"/>",
            ),
            ("UHD2", "<cpix:VideoFilter minPixels=\"8847361\"/>"),
            ("STEREO_AUDIO", "<cpix:AudioFilter maxChannels=\"2\"/>"),
            (
                "MULTICHANNEL_AUDIO_3_6",
                "<cpix:AudioFilter minChannels=\"3\" maxChannels=\"6\"/>",
            ),
            (
                "MULTICHANNEL_AUDIO_7",
                "<cpix:AudioFilter minChannels=\"7\"/>",
            ),
        ],
    ),
    (
        "video 8, audio 2",
        &[
            ("SD+HD1", "<cpix:VideoFilter maxPixels=\"921600\"/>"),
            (
                "HD2",
                "<cpix:VideoFilter minPixels=\"921601\" maxPixels=\"2073600\"/>",
            ),
            (
                "UHD1",
                "<cpix:VideoFilter minPixels=\"2073601\" maxPixels=\"8847360\"/>",
            ),
            ("UHD2", "<cpix:VideoFilter minPixels=\"8847361\"/>"),
            ("STEREO_AUDIO", "<cpix:AudioFilter maxChannels=\"2\"/>"),
            (
                "MULTICHANNEL_AUDIO",
                "<cpix:AudioFilter minChannels=\"3\"/>",
            ),
        ],
    ),
    (
        "video 2, audio unencrypted",
        &[
            ("SD", "<cpix:VideoFilter maxPixels=\"589824\"/>"),
            ("HD", "<cpix:VideoFilter minPixels=\"589825\"/>"),
        ],
    ),
    (
        "video unencrypted, audio 2",
        &[
            ("STEREO_AUDIO", "<cpix:AudioFilter maxChannels=\"2\"/>"),
            (
                "MULTICHANNEL_AUDIO",
                "<cpix:AudioFilter minChannels=\"3\"/>",
            ),
        ],
    ),
];

const WIDEVINE: SystemId = SystemId::WIDEVINE;
const PLAYREADY: SystemId = SystemId::PLAYREADY;
const FAIRPLAY: SystemId = SystemId::FAIRPLAY;

const SYSTEMS: [&[SystemId]; 7] = [
    &[WIDEVINE],
    &[PLAYREADY],
    &[FAIRPLAY],
    &[WIDEVINE, PLAYREADY],
    &[WIDEVINE, FAIRPLAY],
    &[PLAYREADY, FAIRPLAY],
    &[WIDEVINE, PLAYREADY, FAIRPLAY],
];

fn answer(body: &str) -> Document {
    let response = serve(V2, body, &[]).unwrap();
    Document::read(response.body.as_bytes(), &Reading::default()).unwrap()
}

#[test]
fn every_preset_with_every_system_live_and_on_demand() {
    for (name, contract) in PRESETS {
        for systems in SYSTEMS {
            for live in [true, false] {
                let text = Text {
                    systems: systems.to_vec(),
                    scheme: if systems.contains(&FAIRPLAY) {
                        "cbcs"
                    } else {
                        "cenc"
                    },
                    live,
                    ..Text::new(contract)
                };
                check(&text, &format!("{name}, {systems:?}, live {live}"));
            }
        }
    }
}

/// The answer has all that was asked for, filled, and nothing else.
fn check(text: &Text, case: &str) {
    let document = answer(&text.write());
    assert_eq!(document.id, None, "{case}");
    assert_eq!(document.content_id.as_deref(), Some("film"), "{case}");
    assert_eq!(document.version.as_str(), Some("2.3"), "{case}");
    assert_eq!(document.keys.len(), text.contract.len(), "{case}");
    assert_eq!(document.rules.len(), text.contract.len(), "{case}");
    assert_eq!(document.periods.len(), usize::from(text.live), "{case}");
    for (number, key) in document.keys.iter().enumerate() {
        assert_eq!(key.key_id, key_id(number), "{case}");
        assert_eq!(key.scheme.unwrap().as_str(), text.scheme, "{case}");
        assert_eq!(key.explicit_iv.unwrap().as_bytes(), &[9; 16], "{case}");
        let Secret::Clear(value) = &key.secret else {
            panic!("{case}: no key")
        };
        assert_eq!(value.expose(), key_of(key.key_id).expose(), "{case}");
    }
    for (rule, (track_type, _)) in document.rules.iter().zip(&text.contract) {
        assert_eq!(
            rule.intended_track_type.as_ref(),
            Some(track_type),
            "{case}"
        );
        assert!(!rule.filters.is_empty(), "{case}");
    }
    assert_eq!(
        document.systems.len(),
        text.contract.len() * text.systems.len(),
        "{case}"
    );
    for system in &document.systems {
        let pssh = system.pssh.as_ref().unwrap();
        let playlists: Vec<Playlist> = system.hls.iter().map(|it| it.playlist).collect();
        assert_eq!(
            playlists,
            [Playlist::Media, Playlist::Multivariant],
            "{case}"
        );
        let [media, multivariant] = system.hls.as_slice() else {
            panic!("{case}")
        };
        let attributes = media.lines.strip_prefix("#EXT-X-KEY:").unwrap();
        assert_eq!(
            Some(attributes),
            multivariant.lines.strip_prefix("#EXT-X-SESSION-KEY:"),
            "{case}"
        );
        let method = if text.scheme == "cbcs" {
            "SAMPLE-AES"
        } else {
            "SAMPLE-AES-CTR"
        };
        assert!(
            attributes.starts_with(&format!("METHOD={method},URI=\"")),
            "{case}"
        );
        let format = match system.system_id {
            FAIRPLAY => "com.apple.streamingkeydelivery",
            PLAYREADY => "com.microsoft.playready",
            _ => "urn:uuid:edef8ba9-79d6-4ace-a3c8-27dcd51d21ed",
        };
        let format = format!(",KEYFORMAT=\"{format}\",KEYFORMATVERSIONS=\"1\"");
        assert!(attributes.ends_with(&format), "{case}");

        if system.system_id == FAIRPLAY {
            assert_eq!(system.content_protection, None, "{case}");
            assert!(pssh.is_empty(), "{case}");
        } else {
            // The box of the MPD is the box of the file.
            let fragment = &system.content_protection.as_ref().unwrap().fragment;
            let in_base64 = fragment.split(['>', '<']).nth(2).unwrap();
            assert_eq!(in_base64, base64_of(pssh), "{case}");
            assert_eq!(
                fragment.contains("<mspr:pro "),
                system.system_id == PLAYREADY,
                "{case}"
            );
        }
    }
}

#[test]
fn headers_of_the_answer() {
    let response = serve(V2, &Text::separate().write(), &[]).unwrap();
    assert_eq!(
        response.headers("Castellum"),
        [
            ("Content-Type", "application/xml".to_owned()),
            ("X-Speke-User-Agent", "Castellum".to_owned()),
            ("X-Speke-Version", "2.0".to_owned()),
        ]
    );
    let request = read(V2, &Text::separate().write()).unwrap();
    assert_eq!(request.version(), SpekeVersion::V2_0);
    assert_eq!(request.version().path(), "/speke/v2.0");
}

#[test]
fn a_whole_answer() {
    let text = Text {
        systems: vec![WIDEVINE, PLAYREADY, FAIRPLAY, SystemId::CLEAR_KEY],
        scheme: "cbcs",
        live: true,
        ..Text::separate()
    };
    let request = text.write();
    golden("requests/v2.0.xml", &request);
    let response = serve(V2, &request, &[]).unwrap();
    golden("answers/v2.0.xml", &response.body);
}

#[test]
fn the_same_request_gets_the_same_answer() {
    let request = Text::separate().write();
    let answers = [(); 2].map(|()| serve(V2, &request, &[]).unwrap().body);
    assert_eq!(*answers[0], *answers[1]);
}

#[test]
fn one_key_for_everything() {
    let text = Text {
        live: true,
        ..Text::new(&[("ALL", "<cpix:VideoFilter/><cpix:AudioFilter/>")])
    };
    check(&text, "ALL");
}

/// Elements and attributes that this server knows nothing of come back, comments and signatures do not.
#[test]
fn nothing_in_the_request_is_lost() {
    let request = Text::separate()
        .write()
        .replace("<cpix:ContentKeyList>", "<!-- why --><cpix:ContentKeyList id=\"keys\" updateVersion=\"3\">")
        .replace(
            "    </cpix:DRMSystem>",
            "<cpix:HDSSignalingData/><x:y xmlns:x=\"urn:x\" x:z=\"&lt;1&gt;\">text</x:y></cpix:DRMSystem>",
        )
        .replace("contentId=", "id=\"document\" contentId=")
        .replace(
            "</cpix:CPIX>",
            "<cpix:UpdateHistoryItemList><cpix:UpdateHistoryItem index=\"1\"/></cpix:UpdateHistoryItemList>\
             <ds:Signature xmlns:ds=\"http://www.w3.org/2000/09/xmldsig#\"/></cpix:CPIX>",
        );
    let body = serve(V2, &request, &[]).unwrap().body;
    for kept in [
        "<cpix:ContentKeyList id=\"keys\" updateVersion=\"3\">",
        "<cpix:HDSSignalingData/>",
        "<x:y xmlns:x=\"urn:x\" x:z=\"&lt;1&gt;\">text</x:y>",
        "<cpix:UpdateHistoryItem index=\"1\"/>",
    ] {
        assert!(body.contains(kept), "{kept}");
    }
    for gone in ["id=\"document\"", "Signature>", "<!--"] {
        assert!(!body.contains(gone), "{gone}");
    }
}

/// What is not asked for is not given, and what is already there stays.
#[test]
fn only_empty_elements_are_filled() {
    let request = Text::separate().write();
    let first = request.find("      <cpix:PSSH/>\n").unwrap();
    let mut bare = request.clone();
    bare.replace_range(first..first + "      <cpix:PSSH/>\n".len(), "");
    let document = answer(&bare);
    assert_eq!(document.systems[0].pssh, None);
    assert!(!document.systems[1].pssh.as_ref().unwrap().is_empty());
    let filled = request.replace("<cpix:PSSH/>", "<cpix:PSSH>AQID</cpix:PSSH>");
    assert_eq!(
        answer(&filled).systems[0].pssh.as_deref(),
        Some([1, 2, 3].as_slice())
    );
}

/// Prefixes are the encryptor's: none, other ones, and a `pskc` that means something else.
#[test]
fn prefixes_mean_nothing() {
    let request = Text::separate().write();
    let plain = request.replace("xmlns:cpix", "xmlns").replace("cpix:", "");
    let other = request.replace("xmlns:pskc", "xmlns:pksc");
    let taken = request.replace("urn:ietf:params:xml:ns:keyprov:pskc", "urn:x");
    let none = request.replace(" xmlns:pskc=\"urn:ietf:params:xml:ns:keyprov:pskc\"", "");
    let expected = [
        "<pskc:PlainValue>",
        "<pksc:PlainValue>",
        "PlainValue>",
        "<pskc:PlainValue>",
    ];
    for (request, expected) in [plain, other, taken, none].iter().zip(expected) {
        let response = serve(V2, request, &[]).unwrap();
        assert!(response.body.contains(expected), "{}", *response.body);
        let document = answer(request);
        assert!(
            document
                .keys
                .iter()
                .all(|key| matches!(key.secret, Secret::Clear(_)))
        );
    }
}

#[test]
fn key_ids_of_either_case() {
    let request = Text::separate().write().replace("0f083e4e", "0F083E4E");
    let body = serve(V2, &request, &[]).unwrap().body;
    assert!(
        body.contains("kid=\"0F083E4E-b831"),
        "the encryptor's spelling comes back"
    );
    let keys = answer(&request).keys;
    assert_eq!(keys[1].key_id, key_id(1));
}
