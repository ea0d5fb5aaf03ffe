//! Why a licence is given or refused, and what other rules would change: `castellum license` beside a running appliance.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]
#![allow(dead_code, reason = "other tests use what this one does not")]

mod appliance;

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Output, Stdio};

use appliance::{Node, castellum, curl, free_port, project, wait_for};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

const SECRET: &str = "an HS256 secret of the tests, which has 47 bytes";

/// A node with a film, an issuer, and a licence server at this port.
fn node(folder: &Path, port: u16) -> Node {
    let node = Node::new(folder, &folder.join("run"));
    let film = folder.join("media/film");
    fs::create_dir_all(&film).unwrap();
    let title = project().join("packaging/demo/title");
    for name in ["castellum-180.mp4", "castellum-eng.mp4"] {
        fs::copy(title.join(name), film.join(name)).unwrap();
    }
    let secret = folder.join("shop.secret");
    fs::write(&secret, SECRET).unwrap();
    let path = folder.join("castellum.toml");
    let written = fs::read_to_string(&path).unwrap();
    let written = written.replace(
        "[license.plain]\nlisten = \"127.0.0.1:0\"",
        &format!("[license.plain]\nlisten = \"127.0.0.1:{port}\""),
    );
    let issuer = format!(
        "[[license.issuers]]\nname = \"shop\"\nissuer = \"https://shop.example\"\naudience = \"castellum\"\n\
         algorithm = \"HS256\"\nkey_file = {secret:?}\n"
    );
    // Nobody is there: no licence of the system is asked for.
    let signing_key = folder.join("signing.key");
    fs::write(
        &signing_key,
        format!("{}\n{}\n", "5a".repeat(32), "5a".repeat(16)),
    )
    .unwrap();
    let upstream = format!(
        "[license.upstreams.service]\nkind = \"widevine\"\nurl = \"http://127.0.0.1:9/widevine\"\n\
         provider = \"me\"\nsigner = \"me\"\nsigning_key_file = {signing_key:?}\n"
    );
    fs::write(&path, format!("{written}\n{upstream}\n{issuer}")).unwrap();
    node
}

fn mint(folder: &Path, more: &[&str]) -> String {
    let minted = castellum()
        .args(["token", "mint", "--issuer", "https://shop.example"])
        .args(["--audience", "castellum", "--key"])
        .arg(folder.join("shop.secret"))
        .args(more)
        .output()
        .unwrap();
    assert!(minted.status.success(), "{minted:?}");
    String::from_utf8(minted.stdout).unwrap()
}

fn license(config: &Path, args: &[&str], input: &str) -> (i32, Value) {
    let Output { status, stdout, .. } = said(&["--json"], config, args, input);
    (
        status.code().unwrap(),
        serde_json::from_slice(&stdout).unwrap(),
    )
}

fn said(options: &[&str], config: &Path, args: &[&str], input: &str) -> Output {
    let mut child = castellum()
        .arg("license")
        .args(options)
        .arg("-c")
        .arg(config)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    (child.stdin.take().unwrap().write_all(input.as_bytes())).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn a_licence_is_explained_and_recorded_decisions_are_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (folder, port) = (folder.path(), free_port());
    let node = node(folder, port);
    let _running = node.start("origin,license,keystore");
    let (_, mpd) = node.mpd("film", "cbcs");
    let mut key_ids: Vec<&str> = (mpd.split("cenc:default_KID=\"").skip(1))
        .map(|rest| &rest[..36])
        .collect();
    key_ids.sort_unstable();
    key_ids.dedup();
    assert_eq!(key_ids.len(), 2, "sound and pictures");

    // What is given is what is explained.
    let token = mint(folder, &["--asset", "film", "--policy", "cbcs"]);
    let kids = key_ids.iter().map(|key_id| {
        let bytes: Vec<u8> = (key_id.replace('-', "").as_bytes().chunks(2))
            .map(|digits| u8::from_str_radix(str::from_utf8(digits).unwrap(), 16).unwrap())
            .collect();
        URL_SAFE_NO_PAD.encode(bytes)
    });
    let body = json!({ "kids": kids.collect::<Vec<_>>() }).to_string();
    let bearer = format!("authorization: Bearer {}", token.trim());
    let url = format!("http://127.0.0.1:{port}/license/clearkey/film");
    let ask = |bearer: &str| curl(&["-d", &body, "-H", bearer, &url]);
    let answer = ask(&bearer);
    assert_eq!(answer.status, 200);
    let given: Value = serde_json::from_slice(&answer.whole()).unwrap();
    assert_eq!(given["keys"].as_array().unwrap().len(), 2);
    let config = folder.join("castellum.toml");
    let explain = ["explain", "film"];
    let (code, explained) = license(&config, &explain, &token);
    assert_eq!((code, &explained["result"]), (0, &json!("granted")));
    assert_eq!(explained["keys"].as_array().unwrap().len(), 2);

    // And so is what is refused.
    let other = mint(folder, &["--asset", "other"]);
    let refused = ask(&format!("authorization: Bearer {}", other.trim()));
    assert_eq!(refused.status, 403);
    let (code, explained) = license(&config, &explain, &other);
    assert_eq!(
        (code, &explained["reason"]),
        (6, &json!("asset_not_entitled"))
    );
    let (code, explained) = license(&config, &["explain", "film", "--persistent"], &token);
    assert_eq!(
        (code, &explained["reason"]),
        (6, &json!("persistence_not_allowed"))
    );
    let (code, explained) = license(
        &config,
        &["explain", "film", "--system", "widevine"],
        &token,
    );
    assert_eq!((code, &explained["reason"]), (6, &json!("policy_unmet")));
    // An asset without keys, where the token names none either: a player asks for some all the same.
    let all = mint(folder, &["--asset", "*"]);
    let (code, explained) = license(&config, &["explain", "nothing"], &all);
    assert_eq!((code, &explained["reason"]), (6, &json!("keys_unknown")));
    // Of an opaque challenge it says what the server does: the URL names the keys, or the token, or they are refused.
    let widevine = |token: &[&str], kids: &[&str]| {
        let token = mint(folder, &[&["--asset", "film"], token].concat());
        let kids = kids.iter().flat_map(|kid| ["--kid", kid]);
        let args = ["explain", "film", "--system", "widevine"].into_iter();
        let args: Vec<_> = args.chain(kids).collect();
        license(&config, &args, &token).1
    };
    assert_eq!(widevine(&[], &[])["reason"], "keys_unnamed");
    for explained in [
        widevine(&[], &key_ids[..1]),
        widevine(&["--kid", key_ids[0]], &[]),
        widevine(&["--kid", key_ids[0]], &key_ids),
    ] {
        assert_eq!(explained["keys"].as_array().unwrap().len(), 1);
        assert_eq!(explained["keys"][0]["key_id"], key_ids[0]);
    }
    let (code, explained) = license(&config, &explain, &format!("{}x", token.trim()));
    assert_eq!((code, &explained["result"]), (6, &json!("refused")));

    // A system that nobody answers for has no URL, for whatever token, as in the server.
    let url = format!("http://127.0.0.1:{port}/license/playready/film");
    assert_eq!(curl(&["-d", "x", "-H", &bearer, &url]).status, 404);
    let (code, explained) = license(
        &config,
        &["explain", "film", "--system", "playready"],
        &token,
    );
    assert_eq!((code, &explained["reason"]), (6, &json!("not_found")));

    // For people: by which policy, and what each key asks of a device.
    let premium = folder.join("premium.toml");
    let written = fs::read_to_string(&config).unwrap();
    let policy = "[policies.premium]\npack = \"cbcs\"\nsystems = [\"widevine\"]\n\
        [policies.premium.license]\nduration = \"6h\"\nexpires = 2100-01-01T00:00:00Z\n\
        [policies.premium.license.keys.SD]\nhdcp = \"2.2\"\nwidevine = \"L1\"\n";
    fs::write(&premium, format!("{written}\n{policy}")).unwrap();
    let asks_all: Vec<_> = ["explain", "film", "--system", "widevine"]
        .into_iter()
        .chain(key_ids.iter().flat_map(|kid| ["--kid", kid]))
        .collect();
    let token_of = |more: &[&str]| mint(folder, &[&["--asset", "film"], more].concat());
    let output = said(
        &[],
        &premium,
        &asks_all,
        &token_of(&["--policy", "premium"]),
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}{error}");
    for expected in [
        "granted by the policy premium\n",
        "  audio  any device\n",
        "  sd  hdcp 2.2, widevine HW_SECURE_DECODE\n",
        "ends at: 2100-01-01T00:00:00Z\n",
        "good for: 6h\n",
        "may not be kept\n",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let output = said(&[], &premium, &asks_all, &token_of(&[]));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("granted by the token alone"), "{text}");
    assert!(text.contains("does not end\n"), "{text}");

    // Other rules: pictures ask for protected outputs, which ClearKey has none of.
    let stricter = folder.join("stricter.toml");
    let written = fs::read_to_string(&config).unwrap();
    let rule = "[policies.cbcs.license.keys.SD]\nhdcp = \"1.0\"\n";
    fs::write(&stricter, format!("{written}\n{rule}")).unwrap();
    let (code, explained) = license(&stricter, &explain, &token);
    assert_eq!((code, &explained["result"]), (0, &json!("granted")));
    assert_eq!(explained["keys"].as_array().unwrap().len(), 1);
    assert_eq!(explained["keys"][0]["label"], "audio");
    assert_eq!(explained["left_out"][0]["why"], "outputs");

    let log = folder.join("license/decisions.jsonl");
    wait_for("both decisions to be written", || {
        fs::read_to_string(&log).is_ok_and(|text| text.lines().count() == 2)
    });
    let replay = ["replay", log.to_str().unwrap()];
    let (code, report) = license(&config, &replay, "");
    assert_eq!((code, &report["same"]), (0, &json!(2)), "{report}");
    let (code, report) = license(&stricter, &replay, "");
    assert_eq!((code, &report["same"]), (1, &json!(1)), "{report}");
    let difference = &report["differences"][0];
    assert_eq!(difference["keys_before"].as_array().unwrap().len(), 2);
    assert_eq!(difference["now"]["keys"].as_array().unwrap().len(), 1);

    // What cannot be read passes no gate, and does not hide what can.
    let records = fs::read_to_string(&log).unwrap();
    let (first, second) = records.split_once('\n').unwrap();
    let long = "x".repeat(3 << 20);
    let odd = folder.join("odd.jsonl");
    for (line, why) in [
        ("{\"number\":7,\"ki", "EOF"),
        (&long, "longer"),
        ("", "EOF"),
    ] {
        fs::write(&odd, format!("{first}\n{line}\n{second}")).unwrap();
        let replay = ["replay", odd.to_str().unwrap()];
        let (code, report) = license(&config, &replay, "");
        assert_eq!((code, &report["unread"]), (1, &json!(1)), "{report}");
        assert_eq!(
            (&report["same"], &report["first_unread"]["line"]),
            (&json!(2), &json!(2))
        );
        assert!(
            report["first_unread"]["why"]
                .as_str()
                .unwrap()
                .contains(why),
            "{report}"
        );
        let error = String::from_utf8(said(&["--json"], &config, &replay, "").stderr).unwrap();
        assert!(error.contains("line 2"), "{error}");
    }
}
