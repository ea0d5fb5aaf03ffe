//! An origin that is killed at any write, sync or rename of an ingest leaves the asset absent or whole.
//!
//! `strace` is attached to the serving process and kills it at the n-th call of one kind. The kernel lives on, so this
//! cannot show what a power cut does to writes that were not synced.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]
#![allow(dead_code, reason = "each test binary uses a part of the harness")]

mod appliance;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use appliance::{Node, Running, curl, project, representations};

/// What the kernel is asked that changes files: each kind is a sweep of its own.
const CALLS: [&str; 6] = [
    "write,pwrite64",
    "fsync,fdatasync",
    "rename,renameat,renameat2",
    "mkdir,mkdirat",
    "unlink,unlinkat,rmdir",
    "ftruncate",
];

/// Sweeps that cannot be empty.
const ALWAYS: [&str; 4] = [CALLS[0], CALLS[1], CALLS[2], CALLS[3]];

/// No sweep is longer: an ingest of two small films makes fewer calls of a kind in any one thread, and strace counts
/// those of each thread apart.
const MOST_KILLS: u32 = 60;

#[test]
fn killed_at_any_point_of_an_ingest() {
    if !strace_works() {
        assert!(
            std::env::var_os("CASTELLUM_NO_SKIP").is_none(),
            "strace does not trace"
        );
        eprintln!("skipped: strace is missing, or may not trace");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let node = Node::new(&folder.path().join("node"), &folder.path().join("run"));
    let expected = {
        let _origin = node.start("keystore,origin");
        assert!(ingest(&node));
        segments(&node)
    };
    let (mut absent, mut whole) = (0, 0);
    for calls in CALLS {
        let mut kills = 0;
        for nth in 1..=MOST_KILLS {
            clean(&node);
            let killed = killed_at(&node, calls, nth);
            // What a process that starts afterwards makes of it.
            let _origin = node.start("keystore,origin");
            let at = format!("{calls} {nth}");
            let names = names(&node);
            assert!(
                names.is_empty() || names == ["film"],
                "{at}: the media root holds {names:?}"
            );
            if names.is_empty() {
                assert!(killed, "{at}: the ingest said that it was done");
                absent += 1;
            } else {
                assert!(segments(&node) == expected, "{at}: other bytes");
                whole += 1;
            }
            if !killed {
                break;
            }
            kills += 1;
        }
        assert!(kills < MOST_KILLS, "{calls} without end");
        assert!(
            kills > 0 || !ALWAYS.contains(&calls),
            "no {calls}: the sweep tests nothing"
        );
        eprintln!("killed {kills} times at {calls}");
    }
    assert!(absent > 0 && whole > 0, "{absent} absent, {whole} whole");
}

fn strace_works() -> bool {
    let strace = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e"])
        .args(["inject=fsync:signal=KILL:when=1", "true"])
        .stderr(Stdio::null())
        .status();
    strace.is_ok_and(|status| status.success())
}

/// The node as it was before its first ingest. Its keystore stays, so that the bytes must too.
fn clean(node: &Node) {
    for state in ["media", "origin", "cache"] {
        fs::remove_dir_all(node.folder.join(state)).unwrap();
        fs::create_dir(node.folder.join(state)).unwrap();
    }
}

/// Ingests under an strace that kills the origin at the `nth` of `calls`; whether it did.
fn killed_at(node: &Node, calls: &str, nth: u32) -> bool {
    let mut origin = node.start("keystore,origin");
    let log = node.folder.join("strace.log");
    let _ = fs::remove_file(&log);
    let strace = Command::new("strace")
        .args(["-f", "-p", &origin.0.id().to_string(), "-o", "/dev/null"])
        .args(["-e", &format!("trace={calls}")])
        .args(["-e", &format!("inject={calls}:signal=KILL:when={nth}")])
        .stderr(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let _strace = Running(strace);
    node.wait_for("strace to attach", || {
        fs::read_to_string(&log).is_ok_and(|said| said.contains("attached"))
    });
    let done = ingest(node);
    if done {
        return false;
    }
    node.wait_for("the origin to be killed", || {
        origin.0.try_wait().unwrap().is_some()
    });
    true
}

/// Whether the ingest was acknowledged.
fn ingest(node: &Node) -> bool {
    let mut command = node.command(&["ingest", "--asset", "film"]);
    let files = ["castellum-180.mp4", "castellum-eng.mp4"];
    command.args(files.map(|file| project().join("packaging/demo/title").join(file)));
    command.output().unwrap().status.success()
}

/// Everything in the media root, hidden or not.
fn names(node: &Node) -> Vec<String> {
    let entries = fs::read_dir(node.folder.join("media")).unwrap();
    let path = |entry: fs::DirEntry| PathBuf::from(entry.file_name());
    entries
        .map(|entry| path(entry.unwrap()).display().to_string())
        .collect()
}

/// Address and bytes of the first segment of every representation under an encrypted policy.
fn segments(node: &Node) -> Vec<(String, Vec<u8>)> {
    let (url, mpd) = node.mpd("film", "cenc");
    let found = representations(&url, &mpd);
    assert_eq!(found.len(), 2, "{mpd}");
    found
        .into_iter()
        .map(|found| {
            let url = found.segments[0].clone();
            let bytes = curl(&[&url]).whole();
            (url, bytes)
        })
        .collect()
}
