//! `castellum audit` against a running appliance, with a proxy before it that plants one fault at a time: each is found by
//! its name, and nothing else is; what is served as it is has no finding.
//!
//! Cannot catch faults that other packagers make in ways nobody thought of here.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]
#![allow(dead_code, reason = "other tests use what this one does not")]

mod appliance;
mod proxy;

use std::collections::BTreeSet;
use std::fs;

use appliance::{Demo, Node, Running, castellum, curl, free_port, project};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proxy::change::{bytes_of, guid_of, playready, replace_bytes, text, uuid_of, word};
use proxy::{Change, Proxy};
use serde_json::Value;

const SECRET: &str = "an HS256 secret of the tests, which has 47 bytes";

/// Every name; each is planted below.
const NAMES: [&str; 21] = [
    "not-served",
    "malformed",
    "protection-mismatch",
    "key-id-missing",
    "key-id-byte-order",
    "key-id-mismatch",
    "scheme-mismatch",
    "pssh-mismatch",
    "init-mismatch",
    "session-key-mismatch",
    "key-under-two-schemes",
    "key-shared-across-rules",
    "playready-header-version",
    "playready-checksum",
    "fairplay-with-cenc",
    "license-url-mismatch",
    "license-url-insecure",
    "license-unreachable",
    "license-refused",
    "missing-policy",
    "wrong-key",
];

/// An appliance behind a proxy.
struct Stage {
    folder: tempfile::TempDir,
    node: Node,
    _running: Running,
    proxy: Proxy,
}

impl Stage {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let node = Node::new(at, &at.join("run"));
        let license = free_port();
        let origin: u16 = node.origin.rsplit(':').next().unwrap().parse().unwrap();
        let proxy = Proxy::start(origin, license);
        let film = at.join("media/film");
        fs::create_dir_all(&film).unwrap();
        for entry in fs::read_dir(project().join("packaging/demo/title")).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, film.join(path.file_name().unwrap())).unwrap();
        }
        let secret = at.join("shop.secret");
        fs::write(&secret, SECRET).unwrap();
        fs::write(at.join("widevine.cer"), b"\x0a\x04cert\x12\x02ok").unwrap();
        let path = at.join("castellum.toml");
        let written = fs::read_to_string(&path).unwrap();
        let written = written
            .replace("http://license.invalid", &proxy.url)
            .replace(
                "[license.plain]\nlisten = \"127.0.0.1:0\"",
                &format!("[license.plain]\nlisten = \"127.0.0.1:{license}\""),
            );
        let more = format!(
            r#"
[[license.issuers]]
name = "shop"
issuer = "https://shop.example"
audience = "castellum"
algorithm = "HS256"
key_file = {secret:?}
[license.certificates]
widevine_file = {certificate:?}
[license.upstreams.vendor]
kind = "vendor"
systems = ["widevine", "playready"]
url = "http://127.0.0.1:9/"
holds_keys = true
[policies.studio]
pack = "cbcs"
systems = ["widevine", "playready", "fairplay"]
[policies.studio-cenc]
pack = "cenc"
systems = ["widevine", "playready"]
[policies.identity]
pack = "cbcs"
systems = ["clearkey"]
hls_clear_key = "identity"
[policies.ruled]
pack = "cbcs"
systems = ["clearkey"]
[policies.ruled.license.keys.HD]
hdcp = "1.0"
"#,
            certificate = at.join("widevine.cer"),
        );
        fs::write(&path, format!("{written}{more}")).unwrap();
        let running = node.start("origin,license,keystore");
        node.mpd("film", "studio");
        let stage = Self {
            folder,
            node,
            _running: running,
            proxy,
        };
        stage.mint("token", &["--asset", "film"]);
        stage
    }

    /// Writes a token to a file.
    fn mint(&self, name: &str, more: &[&str]) {
        let minted = castellum()
            .args(["token", "mint", "--issuer", "https://shop.example"])
            .args(["--audience", "castellum", "--key"])
            .arg(self.folder.path().join("shop.secret"))
            .args(more)
            .output()
            .unwrap();
        assert!(minted.status.success(), "{minted:?}");
        fs::write(self.path(name), minted.stdout).unwrap();
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn url(&self, manifest: &str) -> String {
        format!("{}/v1/film/{manifest}", self.proxy.url)
    }

    /// Audits manifests, such as `cbcs/main.mpd`, with these arguments.
    fn audit(&self, manifests: &[&str], more: &[&str]) -> (i32, Value) {
        let urls = manifests.iter().map(|manifest| self.url(manifest));
        let output = castellum()
            .args(["audit", "--json"])
            .args(urls)
            .args(more)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            !text.is_empty(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let token = fs::read_to_string(self.path("token")).unwrap();
        assert!(!text.contains(token.trim()), "the token is told");
        (
            output.status.code().unwrap(),
            serde_json::from_str(&text).unwrap(),
        )
    }

    /// The key ids of a policy, by representation.
    fn key_ids(&self, policy: &str) -> Vec<(String, String)> {
        let (url, mpd) = self.node.mpd("film", policy);
        let found = appliance::representations(&url, &mpd).into_iter();
        found
            .filter_map(|found| Some((found.id, found.key_id?)))
            .collect()
    }

    fn key_id(&self, policy: &str, begins: &str) -> String {
        let ids = self.key_ids(policy);
        let found = ids.iter().find(|(id, _)| id.starts_with(begins));
        found
            .unwrap_or_else(|| panic!("{begins} in {ids:?}"))
            .1
            .clone()
    }
}

fn names(report: &Value) -> BTreeSet<&str> {
    let findings = report["findings"].as_array().unwrap().iter();
    findings
        .map(|finding| finding["name"].as_str().unwrap())
        .collect()
}

#[test]
fn what_is_served_as_it_is_has_no_finding() {
    let stage = Stage::new();
    let token = stage.path("token");
    let config = stage.path("castellum.toml");
    stage.mint("named", &["--asset", "film", "--policy", "ruled"]);
    let (token, named) = (
        ["--token-file", &token],
        ["--token-file", &stage.path("named"), "-c", &config],
    );
    for (policy, keys, args) in [
        ("cbcs", 3, &token[..]),
        ("identity", 3, &token),
        ("cenc", 3, &token),
        ("ruled", 2, &named),
        ("studio", 0, &token),
        ("studio-cenc", 0, &token),
        ("clear", 0, &token),
    ] {
        let [mpd, playlist] = ["mpd", "m3u8"].map(|kind| format!("{policy}/main.{kind}"));
        for manifests in [&[&*mpd][..], &[&*playlist], &[&*mpd, &*playlist]] {
            let (code, report) = stage.audit(manifests, args);
            assert_eq!(
                (code, &report["findings"]),
                (0, &serde_json::json!([])),
                "{manifests:?}: {report}"
            );
            assert_eq!(report["tracks"], 5 * manifests.len(), "{report}");
            assert_eq!(report["segments"], 15 * manifests.len(), "{report}");
            assert_eq!(report["keys"], keys, "{manifests:?}: {report}");
            let proved = if keys > 0 { 2 * manifests.len() } else { 0 };
            assert_eq!(report["proved"], proved, "{manifests:?}: {report}");
            assert_eq!(report["complete"], true);
        }
    }
}

#[test]
fn the_demo_has_no_finding_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let demo = Demo::start(folder.path(), &[]);
    let token = folder.path().join("token");
    fs::write(&token, demo.base("token")).unwrap();
    for policy in ["cbcs", "cbcs-identity", "cenc", "clear"] {
        let url = format!("{}/v1/castellum/{policy}/main", demo.base("origin_tls"));
        let output = castellum()
            .arg("audit")
            .args([format!("{url}.mpd"), format!("{url}.m3u8")])
            .args(["--ca", demo.base("ca"), "--token-file"])
            .arg(&token)
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(said.ends_with("nothing was found\n"), "{said}");
    }
}

/// What is planted, and what must come of it.
struct Plant<'a> {
    /// What is done, in words.
    about: &'a str,
    manifests: &'a [&'a str],
    change: Change,
    args: Vec<String>,
    names: &'a [&'a str],
}

#[test]
fn each_fault_is_found_by_its_name() {
    let stage = Stage::new();
    let (token, config) = (stage.path("token"), stage.path("castellum.toml"));
    stage.mint("other", &["--asset", "other"]);
    stage.mint("gone", &["--asset", "film", "--policy", "gone"]);
    let own = |args: &[&str]| args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>();
    let with = own(&["--token-file", &token]);
    let keys_elsewhere = own(&[
        "--token-file",
        &token,
        "--license-url",
        &format!("{}/license/clearkey/film", stage.proxy.url),
    ]);
    let sound = stage.key_id("cbcs", "a-");
    let sound_cenc = stage.key_id("cenc", "a-");
    let (sd, hd) = (stage.key_id("cbcs", "v360"), stage.key_id("cbcs", "v720"));
    let turned = uuid_of(guid_of(bytes_of(&sound)));
    let other = format!("{}0", &sound[..35]);
    let other = if other == sound {
        format!("{}1", &sound[..35])
    } else {
        other
    };
    let hex = |uuid: &str| uuid.replace('-', "");
    let proxy = stage.proxy.url.clone();
    let key_of_sound = {
        let token = fs::read_to_string(&token).unwrap();
        let url = format!("{proxy}/license/hls/film/{sound_cenc}");
        let key = curl(&[
            "-H",
            &format!("authorization: Bearer {}", token.trim()),
            &url,
        ])
        .whole();
        <[u8; 16]>::try_from(key).unwrap()
    };
    let checksum_of =
        |guid: [u8; 16]| STANDARD.encode(reader::decrypt::checksum(&key_of_sound, &guid));
    let wrong_checksum = checksum_of(bytes_of(&sound_cenc));
    let right_checksum = checksum_of(guid_of(bytes_of(&sound_cenc)));
    let kid_of_sound = STANDARD.encode(guid_of(bytes_of(&sound_cenc)));
    let with_checksum = |checksum: &str| {
        let (kid, checksum) = (format!("<KID>{kid_of_sound}</KID>"), checksum.to_owned());
        playready(move |xml| xml.replace(&kid, &format!("{kid}<CHECKSUM>{checksum}</CHECKSUM>")))
    };
    let plants = [
        Plant {
            about: "segments are missing",
            manifests: &["cbcs/main.mpd"],
            change: Box::new(|path, answer| {
                if path.ends_with("/1.m4s") {
                    answer.status = 404;
                }
            }),
            args: with.clone(),
            names: &["not-served"],
        },
        Plant {
            about: "init segments are cut off",
            manifests: &["cbcs/main.m3u8"],
            change: Box::new(|path, answer| {
                if path.ends_with("init.mp4") {
                    answer.body.truncate(300);
                }
            }),
            args: with.clone(),
            names: &["malformed"],
        },
        Plant {
            about: "the MPD says nothing of protection",
            manifests: &["cbcs/main.mpd"],
            change: text("main.mpd", |mpd| {
                mpd.replace("ContentProtection", "SomethingElse")
            }),
            args: with.clone(),
            names: &["protection-mismatch"],
        },
        Plant {
            about: "default_KID is left out",
            manifests: &["cbcs/main.mpd"],
            change: text("main.mpd", |mpd| {
                mpd.replace("cenc:default_KID", "cenc:kid")
            }),
            args: with.clone(),
            names: &["key-id-missing"],
        },
        Plant {
            about: "default_KID in GUID order",
            manifests: &["cbcs/main.mpd"],
            change: word("main.mpd", &sound, &turned),
            args: with.clone(),
            names: &["key-id-byte-order"],
        },
        Plant {
            about: "KEYID in GUID order",
            manifests: &["cbcs/main.m3u8"],
            change: {
                let (from, to) = (
                    format!("KEYID=0x{}", hex(&sound)),
                    format!("KEYID=0x{}", hex(&turned)),
                );
                text(".m3u8", move |playlist| playlist.replace(&from, &to))
            },
            args: with.clone(),
            names: &["key-id-byte-order"],
        },
        Plant {
            about: "PlayReady's KID in UUID order",
            manifests: &["studio-cenc/main.mpd"],
            change: {
                let (from, to) = (kid_of_sound.clone(), STANDARD.encode(bytes_of(&sound_cenc)));
                playready(move |xml| xml.replace(&from, &to))
            },
            args: with.clone(),
            names: &["key-id-byte-order"],
        },
        Plant {
            about: "tenc has another key id, and the box beside it too",
            manifests: &["cbcs/main.mpd"],
            change: {
                let (from, to) = (bytes_of(&sound), guid_of(bytes_of(&sound)));
                Box::new(move |path, answer| {
                    if path.ends_with("init.mp4") {
                        replace_bytes(&mut answer.body, from, to);
                    }
                })
            },
            args: Vec::new(),
            names: &["key-id-byte-order"],
        },
        Plant {
            about: "default_KID of another key",
            manifests: &["cbcs/main.mpd"],
            change: word("main.mpd", &sound, &other),
            args: with.clone(),
            names: &["key-id-mismatch"],
        },
        Plant {
            about: "KEYID of another key",
            manifests: &["cbcs/main.m3u8"],
            change: {
                let (from, to) = (
                    format!("KEYID=0x{}", hex(&sound)),
                    format!("KEYID=0x{}", hex(&other)),
                );
                text(".m3u8", move |playlist| playlist.replace(&from, &to))
            },
            args: with.clone(),
            names: &["key-id-mismatch"],
        },
        Plant {
            about: "the MPD says cenc over cbcs",
            manifests: &["cbcs/main.mpd"],
            change: word("main.mpd", "value=\"cbcs\"", "value=\"cenc\""),
            args: with.clone(),
            names: &["scheme-mismatch"],
        },
        Plant {
            about: "a box in the MPD that is not that of the init segment",
            manifests: &["cbcs/main.mpd"],
            change: {
                let mut pssh = b"\0\0\0\x35pssh\x01\0\0\0\x10\x77\xef\xec\xc0\xb2\x4d\x02\xac\xe3\x3c\x1e\x52\xe2\xfb\x4b\0\0\0\x01".to_vec();
                pssh.extend(bytes_of(&sound));
                pssh.extend(b"\0\0\0\x01x");
                let pssh = STANDARD.encode(pssh);
                let kid = format!("cenc:default_KID=\"{sound}\"");
                text("main.mpd", move |mpd| {
                    let (before, after) = mpd.split_once(&kid).unwrap();
                    let (tag, after) = after.split_once('>').unwrap();
                    format!(
                        "{before}{kid}{tag}><ContentProtection \
                         schemeIdUri=\"urn:uuid:1077efec-c0b2-4d02-ace3-3c1e52e2fb4b\"><cenc:pssh>{pssh}</cenc:pssh>\
                         </ContentProtection>{after}"
                    )
                })
            },
            args: with.clone(),
            names: &["pssh-mismatch"],
        },
        Plant {
            about: "HLS has an init segment of its own",
            manifests: &["cbcs/main.mpd", "cbcs/main.m3u8"],
            change: Box::new(|path, answer| {
                if path.ends_with(".m3u8") {
                    let before = String::from_utf8(std::mem::take(&mut answer.body)).unwrap();
                    answer.body = before.replace("init.mp4", "init.mp4?other").into_bytes();
                }
                if path.ends_with("?other") {
                    answer.body[12] ^= 1;
                }
            }),
            args: with.clone(),
            names: &["init-mismatch"],
        },
        Plant {
            about: "a session key with another URI",
            manifests: &["cbcs/main.m3u8"],
            change: word("main.m3u8", "?kid=", "?key="),
            args: with.clone(),
            names: &["session-key-mismatch"],
        },
        Plant {
            about: "one key for cenc and cbcs",
            manifests: &["cbcs/main.mpd", "cenc/main.mpd"],
            change: {
                let (from, to) = (sound_cenc.clone(), sound.clone());
                Box::new(move |path, answer| {
                    if path.ends_with("init.mp4") {
                        replace_bytes(&mut answer.body, bytes_of(&from), bytes_of(&to));
                    } else if path.ends_with("cenc/main.mpd") {
                        let before = String::from_utf8(std::mem::take(&mut answer.body)).unwrap();
                        answer.body = before.replace(&from, &to).into_bytes();
                    }
                })
            },
            args: with.clone(),
            names: &["key-under-two-schemes", "wrong-key"],
        },
        Plant {
            about: "one key for SD and HD, and a rule for HD",
            manifests: &["ruled/main.mpd"],
            change: {
                let (from, to) = (hd.clone(), sd.clone());
                Box::new(move |path, answer| {
                    if path.ends_with("init.mp4") {
                        replace_bytes(&mut answer.body, bytes_of(&from), bytes_of(&to));
                    } else if path.ends_with("main.mpd") {
                        let before = String::from_utf8(std::mem::take(&mut answer.body)).unwrap();
                        answer.body = before.replace(&from, &to).into_bytes();
                    }
                })
            },
            args: own(&["-c", &config]),
            names: &["key-shared-across-rules"],
        },
        Plant {
            about: "one key for two variants, of which one wants HDCP",
            manifests: &["cbcs/main.m3u8"],
            change: word(
                "main.m3u8",
                "RESOLUTION=640x360",
                "HDCP-LEVEL=TYPE-0,RESOLUTION=640x360",
            ),
            args: with.clone(),
            names: &["key-shared-across-rules"],
        },
        Plant {
            about: "cbcs with a 4.0 header",
            manifests: &["studio/main.mpd"],
            change: playready(|xml| xml.replace("4.3.0.0", "4.0.0.0")),
            args: with.clone(),
            names: &["playready-header-version"],
        },
        Plant {
            about: "a checksum over the key id in UUID order",
            manifests: &["studio-cenc/main.mpd"],
            change: with_checksum(&wrong_checksum),
            args: keys_elsewhere.clone(),
            names: &["playready-checksum"],
        },
        Plant {
            about: "a right checksum",
            manifests: &["studio-cenc/main.mpd"],
            change: with_checksum(&right_checksum),
            args: keys_elsewhere.clone(),
            names: &[],
        },
        Plant {
            about: "FairPlay with cenc",
            manifests: &["cenc/main.m3u8"],
            change: text(".m3u8", |playlist| {
                playlist.replace(
                    "#EXT-X-MAP:",
                    "#EXT-X-KEY:METHOD=SAMPLE-AES-CTR,URI=\"skd://x\",\
                     KEYFORMAT=\"com.apple.streamingkeydelivery\",KEYFORMATVERSIONS=\"1\"\n#EXT-X-MAP:",
                )
            }),
            args: with.clone(),
            names: &["fairplay-with-cenc"],
        },
        Plant {
            about: "FairPlay over cenc that is called cbcs",
            manifests: &["cenc/main.m3u8"],
            change: text(".m3u8", |playlist| {
                playlist.replace(
                    "#EXT-X-MAP:",
                    "#EXT-X-KEY:METHOD=SAMPLE-AES,URI=\"skd://x\",\
                     KEYFORMAT=\"com.apple.streamingkeydelivery\",KEYFORMATVERSIONS=\"1\"\n#EXT-X-MAP:",
                )
            }),
            args: with.clone(),
            names: &["fairplay-with-cenc"],
        },
        Plant {
            about: "Laurl and LA_URL differ",
            manifests: &["studio/main.mpd"],
            change: word(
                "main.mpd",
                format!("<dashif:Laurl>{proxy}/license/playready/film"),
                format!("<dashif:Laurl>{proxy}/license/playready/other"),
            ),
            args: with.clone(),
            names: &["license-url-mismatch"],
        },
        Plant {
            about: "two adaptation sets ask at different places",
            manifests: &["studio/main.mpd"],
            change: {
                let (from, to) = (
                    format!("license/widevine/film?kid={sound}"),
                    format!("license/widevine/other?kid={sound}"),
                );
                word("main.mpd", from, to)
            },
            args: with.clone(),
            names: &["license-url-mismatch"],
        },
        Plant {
            about: "a licence URL in the open, where nobody is",
            manifests: &["cbcs/main.mpd"],
            change: word(
                "main.mpd",
                format!("{proxy}/license"),
                "http://license.invalid/license",
            ),
            args: with.clone(),
            names: &["license-url-insecure", "license-unreachable"],
        },
        Plant {
            about: "the licence server is down",
            manifests: &["cbcs/main.mpd"],
            change: Box::new(|path, answer| {
                if path.starts_with("/license/") {
                    answer.status = 503;
                }
            }),
            args: with.clone(),
            names: &["license-unreachable"],
        },
        Plant {
            about: "a page answers where licences should",
            manifests: &["cbcs/main.mpd"],
            change: Box::new(|path, answer| {
                if path.starts_with("/license/") {
                    answer.body = b"<html>Welcome</html>".to_vec();
                }
            }),
            args: with.clone(),
            names: &["license-unreachable"],
        },
        Plant {
            about: "a licensed system that nobody answers for",
            manifests: &["studio/main.mpd"],
            change: Box::new(|path, answer| {
                if path.starts_with("/license/widevine/") {
                    answer.status = 404;
                }
            }),
            args: with.clone(),
            names: &["license-unreachable"],
        },
        Plant {
            about: "a token for another asset",
            manifests: &["cbcs/main.mpd"],
            change: Box::new(|_, _| {}),
            args: own(&["--token-file", &stage.path("other")]),
            names: &["license-refused"],
        },
        Plant {
            about: "the URL names a policy that is not there",
            manifests: &["gone/main.mpd"],
            change: Box::new(|_, _| {}),
            args: own(&["-c", &config]),
            names: &["missing-policy"],
        },
        Plant {
            about: "the token names a policy that is not there",
            manifests: &["cbcs/main.mpd"],
            change: Box::new(|_, _| {}),
            args: own(&["-c", &config, "--token-file", &stage.path("gone")]),
            names: &["license-refused", "missing-policy"],
        },
        Plant {
            about: "rules that no policy brings to the licence",
            manifests: &["ruled/main.mpd"],
            change: Box::new(|_, _| {}),
            args: own(&["-c", &config, "--token-file", &token]),
            names: &["missing-policy"],
        },
        Plant {
            about: "the licence has other keys",
            manifests: &["cenc/main.mpd"],
            change: Box::new(|path, answer| {
                if path.starts_with("/license/") {
                    let mut set: Value = serde_json::from_slice(&answer.body).unwrap();
                    for jwk in set["keys"].as_array_mut().unwrap() {
                        jwk["k"] = "AAAAAAAAAAAAAAAAAAAAAA".into();
                    }
                    answer.body = set.to_string().into_bytes();
                }
            }),
            args: with.clone(),
            names: &["wrong-key"],
        },
        Plant {
            about: "the HLS key is another",
            manifests: &["identity/main.m3u8"],
            change: Box::new(|path, answer| {
                if path.starts_with("/license/") {
                    answer.body[0] ^= 1;
                }
            }),
            args: with.clone(),
            names: &["wrong-key"],
        },
    ];
    let mut planted = BTreeSet::new();
    for plant in plants {
        let Plant {
            about,
            manifests,
            change,
            args,
            names: expected,
        } = plant;
        stage.proxy.change(change);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let (code, report) = stage.audit(manifests, &args);
        let expected: BTreeSet<&str> = expected.iter().copied().collect();
        assert_eq!(names(&report), expected, "{about}: {report:#}");
        assert_eq!(code, i32::from(!expected.is_empty()), "{about}");
        for finding in report["findings"].as_array().unwrap() {
            for text in [&finding["what"], &finding["help"], &finding["where"]["at"]] {
                assert!(!text.as_str().unwrap().is_empty(), "{finding}");
            }
        }
        planted.extend(expected);
    }
    assert_eq!(planted, BTreeSet::from(NAMES), "each name is planted");
}

/// What a manifest names is relative to where it was found, not to where it was asked for.
#[test]
fn a_redirect_is_followed_and_relative_urls_with_it() {
    let stage = Stage::new();
    let proxy = stage.proxy.url.clone();
    stage.proxy.change(Box::new(move |path, answer| {
        if let Some((before, after)) = path.split_once("/elsewhere/") {
            answer.status = 302;
            answer.location = Some(format!("{proxy}{before}/{after}"));
        }
    }));
    let asked = ["cbcs/elsewhere/main.mpd", "cbcs/elsewhere/main.m3u8"];
    let (code, report) = stage.audit(&asked, &[]);
    assert_eq!((code, names(&report)), (0, BTreeSet::new()), "{report}");
    assert_eq!(
        (&report["manifests"], &report["tracks"]),
        (&2.into(), &10.into())
    );
}

#[test]
fn what_never_ends_is_left() {
    let stage = Stage::new();
    let proxy = stage.proxy.url.clone();
    stage.proxy.change(Box::new(move |path, answer| {
        if path.starts_with("/v1/") {
            answer.status = 302;
            answer.location = Some(format!("{proxy}{path}x"));
        }
    }));
    let (code, report) = stage.audit(&["cbcs/main.mpd"], &[]);
    assert_eq!(code, 1);
    assert_eq!(names(&report), BTreeSet::from(["not-served"]));
    assert_eq!(report["requests"], 6, "five redirects are followed");
    let said = report["findings"][0]["what"].as_str().unwrap();
    assert!(said.ends_with("too many redirects"), "{said}");
}

#[test]
fn what_is_no_url_is_a_usage_error() {
    for args in [
        &["audit"][..],
        &["audit", "main.mpd"],
        &["audit", "ftp://o.example/main.mpd"],
        &[
            "audit",
            "https://o.example/main.mpd",
            "--token-file",
            "/nonexistent",
        ],
        &["audit", "https://o.example/main.mpd", "--ca", "/dev/null"],
        &["audit", "https://o.example/main.mpd", "--policy", "hd"],
    ] {
        let output = castellum().args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {output:?}");
    }
}
