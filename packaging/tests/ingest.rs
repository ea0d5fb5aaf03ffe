//! Taking up files: by `castellum ingest`, and by finding them in the folder.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]
#![allow(dead_code, reason = "each test binary uses a part of the harness")]

mod appliance;

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Output;

use appliance::{Node, Running, curl, project};
use serde_json::Value;

struct Fixture {
    node: Node,
    origin: Running,
    folder: tempfile::TempDir,
}

fn start() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::new(&folder.path().join("node"), &folder.path().join("run"));
    let origin = node.start("keystore,origin");
    Fixture {
        node,
        origin,
        folder,
    }
}

fn film(name: &str) -> PathBuf {
    project().join("packaging/demo/title").join(name)
}

fn ingest(node: &Node, files: &[PathBuf]) -> Output {
    let mut command = node.command(&["ingest", "--json", "--asset", "film"]);
    command.args(files).output().unwrap()
}

fn report(output: &Output) -> Value {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Every file below the media root, hidden ones too.
fn files(node: &Node) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![node.folder.join("media")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path.clone());
            }
            let shown = path.strip_prefix(node.folder.join("media")).unwrap();
            found.push(shown.display().to_string());
        }
    }
    found.sort();
    found
}

fn api(node: &Node, path: &str) -> Value {
    let answer = curl(&[&format!("{}/api/v1/{path}", node.admin)]);
    serde_json::from_slice(&answer.body).unwrap()
}

#[test]
fn files_become_an_asset_and_others_take_its_place() {
    let fixture = start();
    let node = &fixture.node;
    let first = report(&ingest(
        node,
        &[film("castellum-360.mp4"), film("castellum-eng.mp4")],
    ));
    assert_eq!(first["asset"], "film");
    assert_eq!(first["sources"].as_array().unwrap().len(), 2);
    assert_eq!(first["renditions"].as_array().unwrap().len(), 2);
    assert_eq!(
        first["keys"].as_array().unwrap().len(),
        4,
        "two labels under two schemes"
    );
    let manifest = format!("{}/v1/film/cbcs/main.mpd", node.origin);
    let before = curl(&[&manifest]);
    assert_eq!(before.status, 200, "served at once: {}", before.text());

    let second = report(&ingest(node, &[film("castellum-180.mp4")]));
    assert_eq!(second["sources"].as_array().unwrap().len(), 1);
    let after = curl(&[&manifest]);
    assert_eq!(after.status, 200);
    assert_ne!(after.text(), before.text());
    assert_eq!(files(node), ["film", "film/castellum-180.mp4"]);
}

#[test]
fn what_cannot_be_served_changes_nothing() {
    let fixture = start();
    let (node, folder) = (&fixture.node, &fixture.folder);
    report(&ingest(node, &[film("castellum-180.mp4")]));
    let manifest = format!("{}/v1/film/cbcs/main.mpd", node.origin);
    let (before, held) = (curl(&[&manifest]).whole(), files(node));

    let at = |name: &str| folder.path().join(name);
    let whole = fs::read(film("castellum-180.mp4")).unwrap();
    fs::write(at("short.mp4"), &whole[..whole.len() / 2]).unwrap();
    fs::write(at("noise.mp4"), b"no film at all").unwrap();
    for name in ["film.ts", ".hidden.mp4"] {
        fs::write(at(name), &whole).unwrap();
    }
    let pipe = at("pipe.mp4");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    for (name, reason) in [
        ("short.mp4", "not complete yet"),
        ("noise.mp4", "noise"),
        ("film.ts", "not called like a film"),
        (".hidden.mp4", "not called like a film"),
        ("pipe.mp4", "not a regular file"),
        ("absent.mp4", "absent.mp4"),
    ] {
        let refused = ingest(node, &[at(name)]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success(), "{name}");
        assert!(said.contains(reason), "{name}: {said}");
        assert_eq!(files(node), held, "{name}");
        assert!(curl(&[&manifest]).whole() == before, "{name}");
    }
}

#[test]
fn a_name_that_a_file_has_is_not_given_to_a_folder() {
    let fixture = start();
    let node = &fixture.node;
    fs::copy(
        film("castellum-180.mp4"),
        node.folder.join("media/film.m4v"),
    )
    .unwrap();
    let refused = ingest(node, &[film("castellum-360.mp4")]);
    assert!(!refused.status.success());
    assert_eq!(files(node), ["film.m4v"]);
    node.mpd("film", "clear");
}

#[test]
fn what_the_folder_holds_is_served_or_listed_with_the_reason() {
    let fixture = start();
    let node = &fixture.node;
    let media = node.folder.join("media");
    for folder in ["both", "ladder"] {
        fs::create_dir(media.join(folder)).unwrap();
    }
    for path in [
        "both.mp4",
        "both/high.mp4",
        "ladder/low.mp4",
        "ladder/.partial.mp4",
        ".hidden.mp4",
        "no spaces.mp4",
    ] {
        fs::copy(film("castellum-180.mp4"), media.join(path)).unwrap();
    }
    fs::write(media.join("notes.txt"), "not film").unwrap();
    node.mpd("ladder", "clear");
    let assets = api(node, "assets");
    let ids: Vec<_> = assets["assets"].as_array().unwrap().iter().collect();
    assert_eq!(ids.len(), 1, "{assets}");
    assert_eq!(ids[0]["id"], "ladder");
    assert_eq!(ids[0]["files"], serde_json::json!(["low"]));
    let left_out = assets["left_out"].as_array().unwrap();
    let reason = |path: &str| {
        let left = left_out.iter().find(|left| left["path"] == path);
        left.unwrap_or_else(|| panic!("{path} in {assets}"))["reason"].to_string()
    };
    assert!(reason("both").contains("keep one"));
    assert!(reason("both.mp4").contains("keep one"));
    assert!(reason("no spaces.mp4").contains("rename"));
    assert!(reason("notes.txt").contains("not an .mp4 file"));
    assert_eq!(left_out.len(), 4, "{assets}");
    assert_eq!(
        curl(&[&format!("{}/v1/both/clear/main.mpd", node.origin)]).status,
        404
    );
}

#[test]
fn a_file_that_grows_is_served_when_it_is_whole() {
    let fixture = start();
    let node = &fixture.node;
    let whole = fs::read(film("castellum-180.mp4")).unwrap();
    let mut file = fs::File::create(node.folder.join("media/film.mp4")).unwrap();
    let (begin, rest) = whole.split_at(whole.len() / 2);
    file.write_all(begin).unwrap();
    node.wait_for("the part to be looked at", || {
        let asset = curl(&[&format!("{}/api/v1/assets/film", node.admin)]);
        asset.text().contains("not complete yet")
    });
    let manifest = format!("{}/v1/film/clear/main.mpd", node.origin);
    assert_eq!(curl(&[&manifest]).status, 404);
    file.write_all(rest).unwrap();
    drop(file);
    node.mpd("film", "clear");
}
