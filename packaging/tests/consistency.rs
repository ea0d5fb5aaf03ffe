//! One policy decides what a title's `tenc`, MPD, HLS playlists and licences say, and they agree: policies are drawn, all
//! of them served by one appliance, and what comes of each is read from outside and held together.
//!
//! The policy is the table `[policies.NAME]`, from which the origin takes its signalling and the licence server its rules. The
//! URLs that the origin writes are read back by the licence server's own router.
//!
//! What a licence withholds is exact: manifests list the renditions within the policy's `max_video`, and of a title's keys one is
//! withheld if and only if the pictures under it are larger, or the rules ask what the system cannot keep. So no rendition
//! that the rules allow waits for a key that does not come, and no key comes for one that is not listed.
//!
//! Cannot catch a disagreement about a title whose keys came from elsewhere, or about licensed systems' own answers.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]
#![allow(dead_code, reason = "other tests use what this one does not")]

mod appliance;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;

use appliance::{Node, castellum, curl, free_port, project};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use keystore_types::{KeyId, Label};
use license::http::route::{LicensedSystem, Route};
use license::policy::{Case, Decision, Rules, System, decide};
use license::{Clock as _, SystemClock};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use reader::manifest::hls::{Attributes, lines};
use reader::manifest::{dash, key_id};
use reader::mp4::{Header, Pssh, Scheme};
use serde_json::{Value, json};
use url::Url;

const SECRET: &str = "an HS256 secret of the tests, which has 47 bytes";

/// Policies that are drawn. The same ones are at every run.
const POLICIES: usize = 32;

const COMMON: &str = "urn:mpeg:dash:mp4protection:2011";
const WIDEVINE: &str = "urn:uuid:edef8ba9-79d6-4ace-a3c8-27dcd51d21ed";
const PLAYREADY: &str = "urn:uuid:9a04f079-9840-4286-ab92-e65be0885f95";
const CLEARKEY: &str = "urn:uuid:e2719d58-a985-b3c9-781a-b030af78d30e";

/// A policy as an operator could write it.
#[derive(Clone, Debug)]
struct Policy {
    scheme: &'static str,
    /// In the order of the manifests.
    systems: Vec<&'static str>,
    hls_clear_key: &'static str,
    max_video: Option<&'static str>,
    /// What the keys of a label ask.
    rules: BTreeMap<&'static str, &'static str>,
}

impl Policy {
    fn toml(&self, name: &str) -> String {
        let mut text = format!(
            "[policies.{name}]\npack = {:?}\nsystems = {:?}\nhls_clear_key = {:?}\n[policies.{name}.license]\n",
            self.scheme, self.systems, self.hls_clear_key
        );
        if let Some(most) = self.max_video {
            let _ = writeln!(text, "max_video = {most:?}");
        }
        for (label, rule) in &self.rules {
            let _ = writeln!(text, "[policies.{name}.license.keys.{label}]\n{rule}");
        }
        text
    }

    /// Whether manifests list the pictures of a label.
    fn lists(&self, label: Label) -> bool {
        let most = match self.max_video {
            None => Label::Uhd2,
            Some("SD") => Label::Sd,
            Some("HD") => Label::Hd,
            Some(other) => panic!("{other}"),
        };
        label == Label::Audio || label <= most
    }

    /// Whether the rules let a system have the key of a label, by the words of conf/README.md.
    fn allows(&self, system: System, label: Label) -> bool {
        let open = matches!(system, System::ClearKey | System::Hls);
        let rule = self.rules.get(label.as_str().to_uppercase().as_str());
        let keeps = match rule {
            None => true,
            // FairPlay knows HDCP, and no other output.
            Some(rule) if system == System::FairPlay => {
                !rule.starts_with("analogue") && !rule.starts_with("digital")
            }
            Some(_) => !open,
        };
        self.lists(label) && keeps
    }

    fn signals(&self, system: System) -> bool {
        let name = match system {
            System::ClearKey | System::Hls => "clearkey",
            System::Widevine => "widevine",
            System::PlayReady => "playready",
            System::FairPlay => "fairplay",
        };
        self.systems.contains(&name)
    }
}

prop_compose! {
    fn policy()(
        cbcs in any::<bool>(),
        order in Just(vec!["clearkey", "widevine", "playready", "fairplay"]).prop_shuffle(),
        count in 1_usize..=4,
        flavour in 0_usize..3,
        max_video in prop_oneof![Just(None), Just(Some("SD")), Just(Some("HD"))],
        rules in prop::collection::btree_map(
            prop::sample::select(vec!["AUDIO", "SD", "HD"]),
            prop::sample::select(vec![
                "hdcp = \"2.2\"", "analogue = false", "digital = false", "widevine = \"L1\"",
                "playready = \"SL3000\"", "fairplay_hdcp = \"type-1\"",
            ]),
            0..=2,
        ),
    ) -> Policy {
        let mut systems: Vec<_> = order.into_iter().take(count).collect();
        if !cbcs {
            // FairPlay plays cbcs only, and a configuration that says otherwise is refused.
            systems.retain(|system| *system != "fairplay");
            if systems.is_empty() {
                systems.push("widevine");
            }
        }
        // Both spellings at once are for cenc only.
        let flavours: &[&str] = if cbcs { &["clearkey", "identity"] } else { &["clearkey", "identity", "both"] };
        Policy {
            scheme: if cbcs { "cbcs" } else { "cenc" },
            systems,
            hls_clear_key: flavours[flavour % flavours.len()],
            max_video,
            rules,
        }
    }
}

/// A track as its init segment says, with the label that its size gives it.
#[derive(Clone, Debug)]
struct Track {
    name: String,
    label: Label,
    key_id: KeyId,
}

/// What one policy's manifests are read with.
struct Reading<'a> {
    policy: &'a Policy,
    /// Where licences are, without a trailing slash.
    base: &'a str,
}

impl Reading<'_> {
    /// The route of a licence URL, as the licence server reads it.
    fn route(&self, url: &str) -> (Route, Option<String>) {
        let rest = url
            .strip_prefix(self.base)
            .unwrap_or_else(|| panic!("{url} is elsewhere"));
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let route = Route::parse(path).unwrap_or_else(|| panic!("{url} leads nowhere"));
        assert_eq!(route.to_string(), path);
        let kid = query.strip_prefix("kid=").map(str::to_owned);
        assert!(query.is_empty() || kid.is_some(), "{url}");
        (route, kid)
    }

    fn leads_to(&self, url: &str, system: LicensedSystem, key_id: KeyId) {
        let asset = "film".parse().unwrap();
        let expected = Route::Challenge { system, asset };
        assert_eq!(self.route(url), (expected, Some(key_id.to_string())));
    }

    fn leads_to_clear_key(&self, url: &str, key_id: Option<KeyId>) {
        let asset = "film".parse().unwrap();
        let kid = key_id.map(|id| id.to_string());
        assert_eq!(self.route(url), (Route::ClearKey { asset }, kid));
    }

    fn scheme(&self) -> Scheme {
        match self.policy.scheme {
            "cbcs" => Scheme::Cbcs,
            _ => Scheme::Cenc,
        }
    }

    fn widevine(&self, pssh: &str, key_id: KeyId) {
        let pssh = Pssh::read(&STANDARD.decode(pssh).unwrap()).unwrap();
        assert_eq!(format!("urn:uuid:{}", KeyId::new(pssh.system)), WIDEVINE);
        // One key id (field 2), and the scheme's four letters (field 9) as a varint.
        let field = [&[0x12, 16][..], key_id.as_bytes()].concat();
        assert!(pssh.data.starts_with(&field), "{:x?}", pssh.data);
        let scheme: [u8; 6] = match self.scheme() {
            Scheme::Cenc => [0x48, 0xe3, 0xdc, 0x95, 0x9b, 0x06],
            Scheme::Cbcs => [0x48, 0xf3, 0xc6, 0x89, 0x9b, 0x06],
        };
        assert_eq!(pssh.data[field.len()..], scheme);
    }

    fn playready(&self, object: &[u8], key_id: KeyId) {
        let units: Vec<u16> = (object[10..].as_chunks::<2>().0.iter())
            .map(|unit| u16::from_le_bytes(*unit))
            .collect();
        let xml = String::from_utf16(&units).unwrap();
        let b = key_id.as_bytes();
        let guid = [[b[3], b[2], b[1], b[0]], [b[5], b[4], b[7], b[6]]].concat();
        let guid = STANDARD.encode([&guid, &b[8..]].concat());
        assert!(xml.contains(&guid), "{xml}");
        let (version, algorithm) = match self.scheme() {
            Scheme::Cenc => ("4.0.0.0", "AESCTR"),
            Scheme::Cbcs => ("4.3.0.0", "AESCBC"),
        };
        assert!(xml.contains(&format!("version=\"{version}\"")), "{xml}");
        assert!(xml.contains(algorithm), "{xml}");
        let url = xml.split_once("<LA_URL>").unwrap().1;
        let url = url.split_once('<').unwrap().0;
        self.leads_to(url, LicensedSystem::PlayReady, key_id);
    }

    /// The tracks of an MPD, held against their init segments.
    fn mpd(&self, url: &str) -> Vec<Track> {
        let text = String::from_utf8(curl(&[url]).whole()).unwrap();
        let mpd = dash::document(&text).unwrap();
        let url = Url::parse(url).unwrap();
        let mut tracks = Vec::new();
        for set in mpd.child("Period").unwrap().children("AdaptationSet") {
            let descriptors: Vec<_> = set.children("ContentProtection").collect();
            let named = descriptors
                .iter()
                .map(|descriptor| descriptor.attribute("schemeIdUri").unwrap());
            let systems = self
                .policy
                .systems
                .iter()
                .filter_map(|system| match *system {
                    "clearkey" => Some(CLEARKEY),
                    "widevine" => Some(WIDEVINE),
                    "playready" => Some(PLAYREADY),
                    // FairPlay plays HLS only.
                    _ => None,
                });
            let expected: Vec<_> = std::iter::once(COMMON).chain(systems).collect();
            assert_eq!(named.collect::<Vec<_>>(), expected);
            assert_eq!(descriptors[0].attribute("value"), Some(self.policy.scheme));
            let kid = descriptors[0].attribute("default_KID").unwrap();
            let kid: KeyId = kid.parse().unwrap();
            for descriptor in &descriptors[1..] {
                let text = |name| descriptor.child(name).unwrap().text.as_str();
                let urls = descriptor.children("Laurl").map(|url| url.text.as_str());
                let urls: Vec<_> = urls.collect();
                match descriptor.attribute("schemeIdUri").unwrap() {
                    CLEARKEY => {
                        assert_eq!(urls.len(), 2, "both generations");
                        urls.into_iter()
                            .for_each(|url| self.leads_to_clear_key(url, None));
                        assert!(descriptor.child("pssh").is_none());
                    }
                    WIDEVINE => {
                        self.widevine(text("pssh"), kid);
                        urls.into_iter()
                            .for_each(|url| self.leads_to(url, LicensedSystem::Widevine, kid));
                    }
                    _ => {
                        let object = STANDARD.decode(text("pro")).unwrap();
                        let pssh = Pssh::read(&STANDARD.decode(text("pssh")).unwrap()).unwrap();
                        assert_eq!(pssh.data, object);
                        self.playready(&object, kid);
                        urls.into_iter()
                            .for_each(|url| self.leads_to(url, LicensedSystem::PlayReady, kid));
                    }
                }
            }
            for representation in set.children("Representation") {
                let number = |name| {
                    representation
                        .attribute(name)
                        .map(|text| text.parse().unwrap())
                };
                let label = match number("width").zip(number("height")) {
                    Some((width, height)) => Label::of_video(width, height),
                    None => Label::Audio,
                };
                let template = representation.child("SegmentTemplate").unwrap();
                let name = representation.attribute("id").unwrap();
                let init = url
                    .join(template.attribute("initialization").unwrap())
                    .unwrap();
                self.init(init.as_str(), kid);
                tracks.push(Track {
                    name: name.to_owned(),
                    label,
                    key_id: kid,
                });
            }
        }
        tracks
    }

    fn init(&self, url: &str, key_id: KeyId) {
        let header = Header::read(&curl(&[url]).whole()).unwrap();
        let protection = header.protection.unwrap();
        assert_eq!(protection.scheme, self.scheme());
        assert_eq!(&protection.kid, key_id.as_bytes());
        let [common] = header.pssh.as_slice() else {
            panic!("{:?}", header.pssh)
        };
        // All of the title's keys, so that a player asks for them at once.
        assert!(common.key_ids.contains(key_id.as_bytes()), "{common:?}");
    }

    /// What one key tag says of its key, or of which key it is.
    fn key_tag(&self, attributes: &Attributes<'_>, key_id: KeyId) {
        let method = match self.scheme() {
            Scheme::Cenc => "SAMPLE-AES-CTR",
            Scheme::Cbcs => "SAMPLE-AES",
        };
        assert_eq!(attributes.get("METHOD"), Some(method));
        let uri = attributes.get("URI").unwrap();
        match attributes.get("KEYFORMAT").unwrap() {
            "org.w3.clearkey" => self.leads_to_clear_key(uri, Some(key_id)),
            "identity" => {
                let asset = "film".parse().unwrap();
                let expected = Route::HlsKey { asset, key_id };
                assert_eq!(self.route(uri), (expected, None));
            }
            "com.apple.streamingkeydelivery" => assert_eq!(uri, format!("skd://{key_id}")),
            "com.microsoft.playready" => {
                let object = uri.split_once("base64,").unwrap().1;
                self.playready(&STANDARD.decode(object).unwrap(), key_id);
            }
            WIDEVINE => self.widevine(uri.split_once("base64,").unwrap().1, key_id),
            other => panic!("{other}"),
        }
        if let Some(text) = attributes.get("KEYID") {
            assert_eq!(key_id_of(text), key_id);
        }
    }

    /// The `KEYFORMAT`s that a playlist should have, in their order.
    fn key_formats(&self) -> Vec<&'static str> {
        let mut formats = Vec::new();
        for system in &self.policy.systems {
            match (*system, self.policy.hls_clear_key) {
                ("clearkey", "clearkey") => formats.push("org.w3.clearkey"),
                ("clearkey", "identity") => formats.push("identity"),
                ("clearkey", _) => formats.extend(["org.w3.clearkey", "identity"]),
                ("widevine", _) => formats.push(WIDEVINE),
                ("playready", _) => formats.push("com.microsoft.playready"),
                _ => formats.push("com.apple.streamingkeydelivery"),
            }
        }
        formats
    }

    /// Holds the playlists of a title against its tracks.
    fn hls(&self, url: &str, tracks: &[Track]) {
        let base = Url::parse(url).unwrap();
        let main = String::from_utf8(curl(&[url]).whole()).unwrap();
        let mut tags = BTreeSet::new();
        let mut seen = BTreeSet::new();
        for line in lines(&main).unwrap() {
            let media = line.strip_prefix("#EXT-X-MEDIA:").map(Attributes);
            let uri = match media {
                Some(attributes) => attributes.get("URI").unwrap(),
                None if line.starts_with('#') => continue,
                None => line,
            };
            let name = uri
                .rsplit('/')
                .next()
                .unwrap()
                .strip_suffix(".m3u8")
                .unwrap();
            let track = tracks.iter().find(|track| track.name == name).unwrap();
            seen.insert(name.to_owned());
            let playlist = base.join(uri).unwrap();
            let text = String::from_utf8(curl(&[playlist.as_str()]).whole()).unwrap();
            let keys = lines(&text)
                .unwrap()
                .filter_map(|line| line.strip_prefix("#EXT-X-KEY:"));
            let keys: Vec<_> = keys.collect();
            let formats = keys
                .iter()
                .map(|key| Attributes(key).get("KEYFORMAT").unwrap());
            assert_eq!(formats.collect::<Vec<_>>(), self.key_formats());
            for key in keys {
                self.key_tag(&Attributes(key), track.key_id);
                tags.insert(key.to_owned());
            }
            let map = lines(&text)
                .unwrap()
                .find_map(|line| line.strip_prefix("#EXT-X-MAP:"));
            let init = playlist
                .join(Attributes(map.unwrap()).get("URI").unwrap())
                .unwrap();
            self.init(init.as_str(), track.key_id);
        }
        assert_eq!(
            seen.len(),
            tracks.len(),
            "each representation is a rendition"
        );
        // An identity key has no id in a session key, and is left out there.
        tags.retain(|tag| Attributes(tag).get("KEYFORMAT") != Some("identity"));
        let session = lines(&main).unwrap();
        let session = session.filter_map(|line| line.strip_prefix("#EXT-X-SESSION-KEY:"));
        assert_eq!(session.map(str::to_owned).collect::<BTreeSet<_>>(), tags);
    }
}

fn key_id_of(text: &str) -> KeyId {
    KeyId::new(key_id(text.strip_prefix("0x").unwrap()).unwrap())
}

/// The keys that the decision gives for all of a title's, or none.
fn decided(
    rules: &Rules,
    name: &str,
    system: System,
    scheme: &str,
    tracks: &[Track],
) -> Option<BTreeSet<KeyId>> {
    let ids: BTreeMap<KeyId, Label> = tracks
        .iter()
        .map(|track| (track.key_id, track.label))
        .collect();
    let asked: Vec<_> = ids.keys().collect();
    let described: Vec<_> = (ids.iter())
        .map(|(key_id, label)| json!({ "key_id": key_id, "label": label, "scheme": scheme }))
        .collect();
    let case = json!({
        "time": SystemClock.now(), "system": system, "asset": "film", "covers_asset": true,
        "requested": asked, "covered": asked, "policy": name, "keys": described,
    });
    let case: Case = serde_json::from_value(case).unwrap();
    match decide(&case, rules) {
        Decision::Grant(grant) => Some(grant.key_ids().into_iter().collect()),
        Decision::Refuse(_) => None,
    }
}

#[test]
fn one_policy_yields_tenc_mpd_hls_and_licence() {
    let mut runner = TestRunner::deterministic();
    let drawn: Vec<Policy> = (0..POLICIES)
        .map(|_| policy().new_tree(&mut runner).unwrap().current())
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let node = Node::new(at, &at.join("run"));
    let port = free_port();
    let base = format!("http://127.0.0.1:{port}");
    let film = at.join("media/film");
    fs::create_dir_all(&film).unwrap();
    for entry in fs::read_dir(project().join("packaging/demo/title")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, film.join(path.file_name().unwrap())).unwrap();
    }
    let secret = at.join("shop.secret");
    fs::write(&secret, SECRET).unwrap();
    let path = at.join("castellum.toml");
    let mut written = fs::read_to_string(&path).unwrap();
    written = written.replace("http://license.invalid", &base).replace(
        "[license.plain]\nlisten = \"127.0.0.1:0\"",
        &format!("[license.plain]\nlisten = \"127.0.0.1:{port}\""),
    );
    let _ = write!(
        written,
        "\n[[license.issuers]]\nname = \"shop\"\nissuer = \"https://shop.example\"\naudience = \"castellum\"\n\
         algorithm = \"HS256\"\nkey_file = {secret:?}\n"
    );
    for (number, policy) in drawn.iter().enumerate() {
        written += &policy.toml(&format!("p{number}"));
    }
    fs::write(&path, &written).unwrap();
    let settings = conf::parse("castellum.toml", &written).unwrap();
    let rules = Rules::from(&settings.license);
    let _running = node.start("origin,license,keystore");
    node.mpd("film", "p0");

    // What there is of the title under each scheme, by all policies' manifests together.
    let mut titles: BTreeMap<&str, BTreeMap<String, Track>> = BTreeMap::new();
    let mut listed = Vec::new();
    for (number, policy) in drawn.iter().enumerate() {
        eprintln!("p{number}: {policy:?}");
        let reading = Reading {
            policy,
            base: &base,
        };
        let manifest = format!("{}/v1/film/p{number}/main", node.origin);
        let tracks = reading.mpd(&format!("{manifest}.mpd"));
        reading.hls(&format!("{manifest}.m3u8"), &tracks);
        let title = titles.entry(policy.scheme).or_default();
        title.extend(
            tracks
                .iter()
                .map(|track| (track.name.clone(), track.clone())),
        );
        listed.push(tracks);
    }

    let (mut withheld, mut licensed) = (0, 0);
    for (number, (policy, listed)) in drawn.iter().zip(&listed).enumerate() {
        let name = format!("p{number}");
        eprintln!("{name}");
        let tracks: Vec<Track> = titles[policy.scheme].values().cloned().collect();
        assert_eq!(tracks.len(), 5);
        let expected = tracks.iter().filter(|track| policy.lists(track.label));
        let expected: BTreeSet<_> = expected.map(|track| (&track.name, track.key_id)).collect();
        let found = listed.iter().map(|track| (&track.name, track.key_id));
        assert_eq!(found.collect::<BTreeSet<_>>(), expected);
        for system in [
            System::ClearKey,
            System::Hls,
            System::Widevine,
            System::PlayReady,
            System::FairPlay,
        ] {
            let given = decided(&rules, &name, system, policy.scheme, &tracks);
            let may = |track: &&Track| policy.signals(system) && policy.allows(system, track.label);
            let allowed: BTreeSet<KeyId> = (tracks.iter().filter(may))
                .map(|track| track.key_id)
                .collect();
            assert_eq!(given.clone().unwrap_or_default(), allowed, "{system:?}");
            // Nobody waits for a key: each track of a withheld one is itself not allowed.
            for track in &tracks {
                assert_eq!(
                    allowed.contains(&track.key_id),
                    may(&track),
                    "{system:?} {track:?}"
                );
                withheld += usize::from(!may(&track));
            }
            if system == System::ClearKey {
                let answered = licence(at, &base, &name, &tracks);
                assert_eq!(answered, given, "{name}");
                licensed += usize::from(answered.is_some());
            }
        }
    }
    // Else what was drawn shows nothing.
    assert!(
        withheld > POLICIES && licensed > 3,
        "{withheld}, {licensed}"
    );
}

/// The keys that the licence server hands out for all of a title's, under a policy.
fn licence(
    folder: &std::path::Path,
    base: &str,
    policy: &str,
    tracks: &[Track],
) -> Option<BTreeSet<KeyId>> {
    let minted = castellum()
        .args(["token", "mint", "--issuer", "https://shop.example"])
        .args([
            "--audience",
            "castellum",
            "--asset",
            "film",
            "--policy",
            policy,
            "--key",
        ])
        .arg(folder.join("shop.secret"))
        .output()
        .unwrap();
    let token = String::from_utf8(minted.stdout).unwrap();
    let kids: BTreeSet<_> = tracks
        .iter()
        .map(|track| track.key_id.to_base64url())
        .collect();
    let body = json!({ "kids": kids, "type": "temporary" }).to_string();
    let answer = curl(&[
        "-d",
        &body,
        "-H",
        &format!("authorization: Bearer {}", token.trim()),
        &format!("{base}/license/clearkey/film"),
    ]);
    if answer.status == 403 {
        return None;
    }
    let set: Value = serde_json::from_slice(&answer.whole()).unwrap();
    assert_eq!(set["type"], "temporary");
    let keys = set["keys"].as_array().unwrap().iter();
    let kid = |jwk: &Value| {
        URL_SAFE_NO_PAD
            .decode(jwk["kid"].as_str().unwrap())
            .unwrap()
    };
    Some(
        keys.map(|jwk| KeyId::new(kid(jwk).try_into().unwrap()))
            .collect(),
    )
}
