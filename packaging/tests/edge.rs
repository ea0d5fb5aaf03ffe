//! An origin on another machine than its keystore: enrolled, granted one title, revoked.
//!
//! Both are processes of the real binary on one host; that they are two machines is what their folders pretend.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]
#![allow(dead_code, reason = "other tests use what this one does not")]

mod appliance;

use std::fs;
use std::path::Path;

use appliance::{Node, castellum, curl, free_port, project, representations, wait_for};
use serde_json::Value;

fn append(folder: &Path, text: &str) {
    let path = folder.join("castellum.toml");
    let before = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{before}\n{text}")).unwrap();
}

fn put(node: &Node, asset: &str) {
    let folder = node.folder.join("media").join(asset);
    fs::create_dir_all(&folder).unwrap();
    let title = project().join("packaging/demo/title");
    for name in ["castellum-180.mp4", "castellum-eng.mp4"] {
        fs::copy(title.join(name), folder.join(name)).unwrap();
    }
}

fn segments(node: &Node, asset: &str) -> Vec<Vec<u8>> {
    let (url, mpd) = node.mpd(asset, "cbcs");
    let found = representations(&url, &mpd);
    let of = found
        .iter()
        .map(|representation| curl(&[&representation.segments[0]]).whole());
    of.collect()
}

#[test]
fn an_edge_serves_what_it_was_granted_with_keys_of_the_core_until_it_is_revoked() {
    let (core_folder, edge_folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let core = Node::new(core_folder.path(), &core_folder.path().join("run"));
    let edge = Node::new(edge_folder.path(), &edge_folder.path().join("run"));
    for node in [&core, &edge] {
        put(node, "film");
    }
    put(&edge, "other");

    // What the runbook says: the edge makes its keys, and the core is given what is public of them.
    let enrolled = castellum()
        .args(["keystore", "enrol", "edge1"])
        .arg(edge_folder.path())
        .arg("--json")
        .output()
        .unwrap();
    assert!(enrolled.status.success(), "{enrolled:?}");
    let enrolled: Value = serde_json::from_slice(&enrolled.stdout).unwrap();
    let again = castellum()
        .args(["keystore", "enrol", "edge1"])
        .arg(edge_folder.path())
        .output()
        .unwrap();
    assert_eq!(again.status.code(), Some(2), "a machine keeps its keys");
    for name in ["", "../elsewhere", "a b", "a/b"] {
        let odd = castellum()
            .args(["keystore", "enrol", name])
            .arg(edge_folder.path())
            .output()
            .unwrap();
        assert_eq!(odd.status.code(), Some(2), "{name:?} is no name");
    }
    assert!(!edge_folder.path().with_file_name("elsewhere.key").exists());
    for secret in ["edge1.key", "edge1.node-key"] {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = fs::metadata(edge_folder.path().join(secret)).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
    }

    let pair = rcgen::KeyPair::generate().unwrap();
    let parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = core_folder.path().join("core.pem");
    let key = core_folder.path().join("core.key");
    fs::write(&certificate, parameters.self_signed(&pair).unwrap().pem()).unwrap();
    fs::write(&key, pair.serialize_pem()).unwrap();
    let port = free_port();
    append(
        core_folder.path(),
        &format!(
            "[keystore.listener]\nlisten = \"127.0.0.1:{port}\"\ncertificate = {certificate:?}\nkey_file = {key:?}\n\
             [keystore.nodes.edge1]\ncertificate = {}\nnode_key = {}\nmay = [\"lease\"]\nassets = [\"film\"]\n",
            enrolled["certificate"], enrolled["node_key"],
        ),
    );
    append(
        edge_folder.path(),
        &format!(
            "[keystore.core]\naddress = \"localhost:{port}\"\nca_file = {certificate:?}\ncertificate = {}\n\
             key_file = {}\nnode_key_file = {}\n",
            enrolled["certificate"], enrolled["key_file"], enrolled["node_key_file"],
        ),
    );

    // A machine of another's keystore has none of its own.
    let both = edge.command(&["serve"]).output().unwrap();
    assert_eq!(both.status.code(), Some(3), "{both:?}");

    let _core = core.start("keystore,origin");
    let _edge = edge.start("origin");
    assert_eq!(segments(&edge, "film"), segments(&core, "film"));
    assert!(!edge_folder.path().join("keystore/keystore.sqlite").exists());

    let url = format!("{}/v1/other/cbcs/main.mpd", edge.origin);
    wait_for("the other title to be there", || {
        curl(&[&url]).status != 404
    });
    assert_eq!(curl(&[&url]).status, 503);
    assert!(
        edge.log().contains("edge1 may not lease other"),
        "{}",
        edge.log()
    );

    let revoked = core
        .command(&["keystore", "revoke", "edge1"])
        .output()
        .unwrap();
    assert!(revoked.status.success(), "{revoked:?}");
    let mpd = format!("{}/v1/film/cbcs/main.mpd", edge.origin);
    edge.wait_for("the edge to lose its keys", || curl(&[&mpd]).status == 503);
    core.mpd("film", "cbcs");
    let audit = fs::read_to_string(core_folder.path().join("keystore/audit.log")).unwrap();
    for op in [
        "\"op\":\"lease\"",
        "\"op\":\"denied\"",
        "\"op\":\"revoke_node\"",
    ] {
        assert!(audit.contains(op), "{op}");
    }
}
