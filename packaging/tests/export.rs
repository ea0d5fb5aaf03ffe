//! An exported asset is what HTTP serves: every file, byte for byte, and no file more.
//!
//! Cannot catch a manifest that names too little: that titles play to their end is for `playback.rs`.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]
#![allow(dead_code, reason = "each test binary uses a part of the harness")]

mod appliance;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Output;

use appliance::{Demo, Node, castellum, curl, project, representations};
use serde_json::Value;

/// Everything that the manifests under these policies name, and they themselves, as paths below the origin.
fn walk(origin: &str, asset: &str, policies: &[&str]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut note = |url: &str| {
        let path = url.strip_prefix(origin).unwrap();
        found.insert(path.trim_start_matches('/').to_owned());
    };
    for policy in policies {
        let base = format!("{origin}/v1/{asset}/{policy}");
        let (mpd, hls) = (format!("{base}/main.mpd"), format!("{base}/main.m3u8"));
        note(&mpd);
        note(&hls);
        let text = String::from_utf8(curl(&[&hls]).whole()).unwrap();
        let mut playlists: BTreeSet<&str> = text.lines().filter(|l| l.starts_with('~')).collect();
        playlists.extend(text.split('"').filter(|uri| uri.ends_with(".m3u8")));
        assert!(playlists.len() > 1, "{text}");
        for playlist in &playlists {
            note(&format!("{base}/{playlist}"));
            let revision = playlist.split_once('/').unwrap().0;
            note(&format!("{base}/{revision}/main.mpd"));
            note(&format!("{base}/{revision}/main.m3u8"));
        }
        for representation in representations(&mpd, &curl(&[&mpd]).text()) {
            note(&representation.init);
            representation.segments.iter().for_each(|url| note(url));
        }
    }
    found
}

/// Every file below `folder`.
fn files(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let relative = path.strip_prefix(folder).unwrap();
                found.insert(relative.to_str().unwrap().to_owned());
            }
        }
    }
    found
}

fn export(node: &Node, args: &[&str]) -> Output {
    let args = [&["export", "--json"], args].concat();
    node.command(&args).output().unwrap()
}

fn report(output: &Output) -> Value {
    assert!(output.status.success(), "{}", said(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A node with the demo title as `film`.
fn node(folder: &Path) -> Node {
    let node = Node::new(&folder.join("node"), &folder.join("run"));
    let film = node.folder.join("media/film");
    fs::create_dir_all(&film).unwrap();
    for entry in fs::read_dir(project().join("packaging/demo/title")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), film.join(entry.file_name())).unwrap();
    }
    node
}

#[test]
fn an_export_is_what_is_served_and_no_file_more() {
    let folder = tempfile::tempdir().unwrap();
    let node = node(folder.path());
    let _origin = node.start("keystore,origin");
    node.mpd("film", "clear");
    let twin = folder.path().join("twin");
    let report = report(&export(&node, &["film", twin.to_str().unwrap()]));
    let policies = ["cbcs", "cenc", "clear"];
    assert_eq!(report["policies"], serde_json::json!(policies));

    let served = walk(&node.origin, "film", &policies);
    assert!(served.len() > 100, "{} files", served.len());
    assert_eq!(files(&twin), served);
    assert_eq!(report["files"], served.len());
    let mut bytes = 0;
    for path in &served {
        let answer = curl(&[&format!("{}/{path}", node.origin)]).whole();
        bytes += answer.len();
        assert!(fs::read(twin.join(path)).unwrap() == answer, "{path}");
    }
    assert_eq!(report["bytes"], bytes);
}

#[test]
fn one_policy_brings_its_own_files_over_those_that_are_there() {
    let folder = tempfile::tempdir().unwrap();
    let node = node(folder.path());
    let _origin = node.start("keystore,origin");
    node.mpd("film", "clear");
    let twin = folder.path().join("twin");
    let mpd = twin.join("v1/film/clear/main.mpd");
    fs::create_dir_all(mpd.parent().unwrap()).unwrap();
    fs::write(&mpd, "something else").unwrap();
    let args = ["film", twin.to_str().unwrap(), "--policy", "clear"];
    report(&export(&node, &args));
    assert_eq!(files(&twin), walk(&node.origin, "film", &["clear"]));
    let served = curl(&[&format!("{}/v1/film/clear/main.mpd", node.origin)]);
    assert!(fs::read(&mpd).unwrap() == served.whole());
}

#[test]
fn what_cannot_be_exported_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let node = node(folder.path());
    let _origin = node.start("keystore,origin");
    node.mpd("film", "clear");
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::write(at("file"), "").unwrap();
    let refused = |args: &[&str], exit: i32, reason: &str| {
        let output = export(&node, args);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(exit), "{args:?}: {said}");
        assert!(said.contains(reason), "{args:?}: {said}");
    };
    refused(&["other", &at("twin")], 1, "there is no asset other");
    refused(
        &["film", &at("twin"), "--policy", "gold"],
        1,
        "no policy gold; it has cbcs, cenc, clear",
    );
    refused(&["film", &at("file/twin")], 1, "cannot write");

    let sealed = node.command(&["keystore", "seal"]).output().unwrap();
    assert!(sealed.status.success(), "{}", said(&sealed));
    refused(&["film", &at("twin"), "--policy", "cbcs"], 5, "sealed");
    report(&export(&node, &["film", &at("twin"), "--policy", "clear"]));
}

#[test]
fn a_demo_that_is_kept_can_be_exported() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("kept");
    let demo = Demo::start(folder.path(), &["--keep", kept.to_str().unwrap()]);
    let asset = demo.assets().swap_remove(0);
    let twin = folder.path().join("twin");
    let output = castellum()
        .env("CASTELLUM__RUNTIME_DIR", kept.join("run"))
        .args(["export", "--json", &asset, twin.to_str().unwrap()])
        .args(["--policy", "cbcs", "--policy", "cbcs-identity"])
        .output()
        .unwrap();
    report(&output);
    // Two policies of one pack: their media is there once.
    let walked = walk(demo.base("origin"), &asset, &["cbcs", "cbcs-identity"]);
    assert_eq!(files(&twin), walked);
}
