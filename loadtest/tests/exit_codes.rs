//! What the command says and with which exit code, where there is nothing to load.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

fn loadtest(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that is refused may have ended before it reads.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn complaint(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The line of a demo that nobody runs: its ports were free a moment ago.
fn line(ca: &Path) -> String {
    let [origin, license] = [(); 2].map(|()| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    });
    let stream = |policy: &str| {
        format!(
            r#"{{"policy": "{policy}", "scheme": "{policy}", "license": null, "hls_players": [],
                "hls": "http://{origin}/v1/film/{policy}/main.m3u8", "dash": "http://{origin}/v1/film/{policy}/main.mpd"}}"#
        )
    };
    let line = format!(
        r#"{{"schema": 1, "page": "http://{origin}/", "admin": "http://{origin}", "origin": "http://{origin}",
            "origin_tls": "https://{origin}", "license": "http://{license}", "license_tls": "https://{license}",
            "ca": {ca:?}, "token": "t", "assets": [{{"id": "film", "streams": [{}, {}]}}]}}"#,
        stream("cenc"),
        stream("clear")
    );
    line.replace('\n', " ")
}

/// A certificate of an authority, in a file that is written once for all tests.
fn authority() -> &'static Path {
    static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("loadtest-ca.pem");
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        fs::write(&path, certified.cert.pem()).unwrap();
        path
    });
    &FILE
}

#[test]
fn a_target_that_cannot_be_used_is_2() {
    let output = loadtest(&["run", "--target", "/nowhere/demo.json"], "");
    assert!(complaint(&output).contains("cannot read /nowhere/demo.json"));
    let output = loadtest(&["run", "--target", "-"], "<html>\n");
    assert!(complaint(&output).contains("castellum demo --json"));
    let other = line(Path::new("/ca.pem")).replace("\"schema\": 1", "\"schema\": 7");
    assert!(complaint(&loadtest(&["run", "--target", "-"], &other)).contains("schema 7"));
    let output = loadtest(
        &["run", "--target", "-"],
        &line(Path::new("/nowhere/ca.pem")),
    );
    assert!(complaint(&output).contains("cannot read the CA file /nowhere/ca.pem"));
}

#[test]
fn usage_is_2() {
    assert!(complaint(&loadtest(&["run"], "")).contains("--target"));
    let none = ["run", "--target", "-", "--viewers", "0"];
    assert!(complaint(&loadtest(&none, "")).contains("--viewers"));
    let plain = ["run", "--target", "-", "--protocol", "h3", "--plain"];
    let output = loadtest(&plain, &line(authority()));
    assert!(complaint(&output).contains("HTTP/3 runs over TLS only"));
}

#[test]
fn a_server_that_is_not_there_is_1_and_a_report() {
    for protocol in ["h1", "h2", "h3"] {
        let arguments = [
            "run",
            "--target",
            "-",
            "--protocol",
            protocol,
            "--viewers",
            "2",
        ];
        let arguments = [&arguments[..], &["--seconds", "1", "--json"]].concat();
        let output = loadtest(&arguments, &line(authority()));
        assert_eq!(output.status.code(), Some(1), "{protocol}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            (&report["schema"], &report["passed"]),
            (&1.into(), &false.into())
        );
        assert_eq!(report["protocol"], protocol);
        assert_eq!(
            report["comparable"], true,
            "what the target has, not what came"
        );
        let manifest = &report["routes"][0];
        assert_eq!(
            (&manifest["route"], &manifest["count"]),
            (&"manifest".into(), &0.into())
        );
        assert!(manifest["errors"].as_u64() > Some(0));
    }
}
