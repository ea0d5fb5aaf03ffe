//! The same bytes on every call and every node, and any part of them as a part of the whole.
//!
//! Cannot catch bytes that are wrong in the same way every time: that they decrypt and play is for
//! `decrypt.rs` and `playback.rs`.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]
#![allow(dead_code, reason = "each test binary uses a part of the harness")]

mod appliance;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;

use appliance::{Demo, Node, curl, project, representations, wait_for};
use ring::digest::{SHA256, digest};

const POLICIES: [&str; 3] = ["cbcs", "cenc", "clear"];

/// Digest and entity tag of everything that an asset's manifests name, by address.
type Fingerprint = BTreeMap<String, (String, String)>;

fn title() -> std::path::PathBuf {
    project().join("packaging/demo/title")
}

/// Copies the demo title into a media root as asset `film`.
fn put_title(media: &Path) {
    let folder = media.join("film");
    fs::create_dir_all(&folder).unwrap();
    for entry in fs::read_dir(title()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
}

fn fingerprint(node: &Node) -> Fingerprint {
    let mut found = Fingerprint::new();
    let mut note = |url: &str| {
        let answer = curl(&[url]);
        assert_eq!(
            (answer.exit, answer.status),
            (0, 200),
            "{url}: {}",
            answer.text()
        );
        let path = url.strip_prefix(&node.origin).unwrap().to_owned();
        let tag = answer.headers["etag"].clone();
        assert!(tag.starts_with('"'), "a strong entity tag: {tag}");
        found.insert(path, (format!("{:?}", digest(&SHA256, &answer.body)), tag));
        answer.text()
    };
    for policy in POLICIES {
        let (url, mpd) = node.mpd("film", policy);
        note(&url);
        let hls = format!("{}/v1/film/{policy}/main.m3u8", node.origin);
        let base = hls.rsplit_once('/').unwrap().0.to_owned();
        for line in note(&hls).lines().filter(|line| line.ends_with(".m3u8")) {
            note(&format!("{base}/{line}"));
        }
        for representation in representations(&url, &mpd) {
            note(&representation.init);
            representation
                .segments
                .iter()
                .for_each(|segment| drop(note(segment)));
        }
    }
    found
}

#[test]
fn no_byte_changes_with_a_restart_a_lost_index_an_ingest_or_another_node() {
    let folder = tempfile::tempdir().unwrap();
    let sockets = folder.path().join("run");
    let first = Node::new(&folder.path().join("first"), &sockets);
    put_title(&first.folder.join("media"));
    let keystore = first.spawn("keystore");
    wait_for("the keystore", || {
        first
            .command(&["keystore", "status"])
            .output()
            .unwrap()
            .status
            .success()
    });
    let expected = {
        let _origin = first.start("origin");
        fingerprint(&first)
    };
    assert!(expected.len() > 100, "{} objects", expected.len());

    {
        let _restarted = first.start("origin");
        assert_eq!(fingerprint(&first), expected, "a restart");
        fs::remove_dir_all(first.folder.join("cache")).unwrap();
        assert_eq!(
            fingerprint(&first),
            expected,
            "an index deleted while it is used"
        );
    }
    {
        let _without_index = first.start("origin");
        assert_eq!(fingerprint(&first), expected, "a deleted index");
        let ingest = first
            .command(&["ingest", "--asset", "film"])
            .arg(first.folder.join("media/film"))
            .output()
            .unwrap();
        assert!(
            ingest.status.success(),
            "{}",
            String::from_utf8_lossy(&ingest.stderr)
        );
        assert_eq!(fingerprint(&first), expected, "an ingest after folder play");
        let again = first
            .command(&["ingest", "--asset", "film"])
            .arg(title())
            .output()
            .unwrap();
        assert!(
            again.status.success(),
            "{}",
            String::from_utf8_lossy(&again.stderr)
        );
        assert_eq!(
            fingerprint(&first),
            expected,
            "an ingest of the same files from elsewhere"
        );
    }
    let second = Node::new(&folder.path().join("second"), &sockets);
    put_title(&second.folder.join("media"));
    {
        let _origin = second.start("origin");
        assert_eq!(
            fingerprint(&second),
            expected,
            "a second node on the same keystore"
        );
    }
    drop(keystore);
}

#[test]
fn content_written_over_in_place_never_meets_the_old_key() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::new(&folder.path().join("node"), &folder.path().join("run"));
    put_title(&node.folder.join("media"));
    let film = node.folder.join("media/film/castellum-720.mp4");
    let keys = |policy: &str| -> Vec<(String, String)> {
        let (url, mpd) = node.mpd("film", policy);
        let found = representations(&url, &mpd);
        found
            .into_iter()
            .filter_map(|found| Some((found.id, found.key_id?)))
            .collect()
    };
    let (before, old_segment);
    {
        let _origin = node.start("keystore,origin");
        before = POLICIES.map(keys);
        let (url, mpd) = node.mpd("film", "cenc");
        let high = representations(&url, &mpd)
            .into_iter()
            .find(|found| found.id.starts_with("v720"))
            .unwrap();
        old_segment = high.segments[3].clone();
        assert_eq!(curl(&[&old_segment]).status, 200);

        overwrite_a_byte(&film, 3);
        let answer = curl(&[&old_segment]);
        assert_eq!(
            answer.status,
            503,
            "noticed at the next stat: {}",
            answer.text()
        );
        wait_for("the end of the quarantine", || {
            curl(&[&format!("{}/v1/film/cenc/main.mpd", node.origin)]).status == 200
        });
        for (policy, before) in POLICIES.iter().zip(&before) {
            for (id, key_id) in keys(policy) {
                let was = &before.iter().find(|(was, _)| *was == id).unwrap().1;
                if id.starts_with("v720") {
                    assert_ne!(&key_id, was, "{policy} {id} was written over");
                } else {
                    assert_eq!(&key_id, was, "{policy} {id} was not touched");
                }
            }
        }
        assert_eq!(curl(&[&old_segment]).status, 410, "the old segment is gone");
    }
    // Once more, now with the process and the cache lost before anyone could notice.
    let known = keys_after_loss(&node, &film, &keys);
    let seen: Vec<_> = before
        .iter()
        .flatten()
        .map(|(_, key_id)| key_id.clone())
        .collect();
    for (id, key_id) in &known {
        assert!(
            !id.starts_with("v720") || !seen.contains(key_id),
            "{id} is under an old key"
        );
    }
}

fn keys_after_loss(
    node: &Node,
    film: &Path,
    keys: &dyn Fn(&str) -> Vec<(String, String)>,
) -> Vec<(String, String)> {
    fs::remove_dir_all(node.folder.join("cache")).unwrap();
    overwrite_a_byte(film, 5);
    let _origin = node.start("keystore,origin");
    keys("cenc")
}

/// Changes one byte of the film's samples, at a place that no probe and no table sees, and keeps the length.
fn overwrite_a_byte(film: &Path, seventeenths: u64) {
    let mut file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(film)
        .unwrap();
    let len = file.metadata().unwrap().len();
    let at = len * seventeenths / 17 + 9001;
    file.seek(SeekFrom::Start(at)).unwrap();
    let mut byte = [0];
    std::io::Read::read_exact(&mut file, &mut byte).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&[byte[0] ^ 1]).unwrap();
    file.sync_all().unwrap();
}

#[test]
fn any_range_equals_the_slice_of_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let demo = Demo::start(folder.path(), &[]);
    // The same ranges on every run: a failure can be looked at again.
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut below = |limit: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % limit
    };
    for policy in POLICIES {
        let url = format!("{}/v1/castellum/{policy}/main.mpd", demo.base("origin"));
        let found = representations(&url, &String::from_utf8(curl(&[&url]).whole()).unwrap());
        for representation in &found {
            for object in [&representation.init, &representation.segments[1]] {
                let whole = curl(&[object]);
                let tag = whole.headers["etag"].clone();
                let whole = whole.whole();
                for _ in 0..6 {
                    let from = below(whole.len());
                    let to = from + below(whole.len() - from);
                    let part = curl(&["--range", &format!("{from}-{to}"), object]);
                    assert_eq!((part.exit, part.status), (0, 206), "{object} {from}-{to}");
                    assert_eq!(part.body, &whole[from..=to], "{object} {from}-{to}");
                    assert_eq!(
                        part.headers["content-range"],
                        format!("bytes {from}-{to}/{}", whole.len())
                    );
                    assert_eq!(part.headers["etag"], tag);
                }
                let tail = curl(&["--range", "-7", object]);
                assert_eq!(tail.body, &whole[whole.len() - 7..], "{object}");
            }
        }
    }
}

#[test]
fn conditions_heads_and_cross_origin_headers() {
    let folder = tempfile::tempdir().unwrap();
    let demo = Demo::start(folder.path(), &[]);
    let alias = format!("{}/v1/castellum/cbcs/main.mpd", demo.base("origin"));
    let answer = curl(&[&alias]);
    assert!(
        answer.headers["cache-control"].contains("max-age=2,"),
        "{:?}",
        answer.headers
    );
    let found = representations(&alias, &answer.text());
    let segment = &found[0].segments[0];
    let answer = curl(&[segment]);
    assert_eq!(
        answer.headers["cache-control"],
        "public, max-age=31536000, immutable"
    );
    assert_eq!(answer.headers["access-control-allow-origin"], "*");
    assert_eq!(answer.headers["timing-allow-origin"], "*");
    let tag = &answer.headers["etag"];

    let again = curl(&["-H", &format!("If-None-Match: {tag}"), segment]);
    assert_eq!((again.status, again.body.len()), (304, 0));
    assert_eq!(&again.headers["etag"], tag);
    assert_eq!(
        again.headers["cache-control"],
        answer.headers["cache-control"]
    );
    let head = curl(&["--head", segment]);
    assert_eq!(
        head.headers["content-length"],
        answer.body.len().to_string()
    );
    let right = curl(&["--range", "0-9", "-H", &format!("If-Range: {tag}"), segment]);
    assert_eq!((right.status, right.body.len()), (206, 10));
    let wrong = curl(&["--range", "0-9", "-H", "If-Range: \"other\"", segment]);
    assert_eq!((wrong.status, wrong.body.len()), (200, answer.body.len()));
    let beyond = curl(&["--range", "999999999-", segment]);
    assert_eq!(beyond.status, 416);
    let preflight = curl(&[
        "-X",
        "OPTIONS",
        "-H",
        "Origin: http://example.test",
        segment,
    ]);
    assert_eq!(preflight.status, 204);

    let origin = demo.base("origin");
    for (path, status) in [
        ("/v1/castellum/cbcs/f;al=en/main.mpd", 404),
        ("/v1/castellum/cbcs/main.mpd?token=x", 200),
        ("/v1/none/cbcs/main.mpd", 404),
        ("/v1/castellum/none/main.mpd", 404),
        ("/v1/castellum/%63bcs/main.mpd", 400),
        ("/v1/castellum//main.mpd", 400),
    ] {
        let answer = curl(&["--path-as-is", &format!("{origin}{path}")]);
        assert_eq!(answer.status, status, "{path}");
    }
    let posted = curl(&["-X", "POST", "-d", "x", &alias]);
    assert_eq!(posted.status, 405);
}
