//! What the command says and with which exit code, where there is nothing to load.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

use loadtest::port;

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

/// The line of a demo that nobody runs: nobody listens on its ports.
fn line(ca: &Path) -> String {
    let [origin, license] = [(); 2].map(|()| format!("127.0.0.1:{}", port::free().unwrap()));
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

/// A scenario that three viewers play, in a file that is written once for all tests.
fn scenario() -> &'static str {
    static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("exit-codes.toml");
        let text = r#"
            name = "three"
            description = "Three at once."
            seconds = 1
            [[groups]]
            name = "viewers"
            at_most = 3
            verify = 0.5
            arrivals = { shape = "burst", count = 3, within = 0.1 }
            behaviour = { kind = "watch" }
        "#;
        fs::write(&path, text).unwrap();
        path
    });
    FILE.to_str().unwrap()
}

#[test]
fn a_target_that_cannot_be_used_is_2() {
    let run = |target: &str, input: &str| {
        complaint(&loadtest(&["run", scenario(), "--target", target], input))
    };
    assert!(run("/nowhere/demo.json", "").contains("cannot read /nowhere/demo.json"));
    assert!(run("-", "<html>\n").contains("castellum demo --json"));
    let other = line(Path::new("/ca.pem")).replace("\"schema\": 1", "\"schema\": 7");
    assert!(run("-", &other).contains("schema 7"));
    let without = line(Path::new("/nowhere/ca.pem"));
    assert!(run("-", &without).contains("cannot read the CA file /nowhere/ca.pem"));
}

#[test]
fn usage_is_2() {
    assert!(complaint(&loadtest(&["run"], "")).contains("--target"));
    let run = |more: &[&str]| {
        let arguments = [&["run", scenario(), "--target", "-"], more].concat();
        complaint(&loadtest(&arguments, &line(authority())))
    };
    assert!(run(&["--seconds", "0"]).contains("--seconds"));
    assert!(run(&["--protocol", "h3", "--plain"]).contains("HTTP/3 runs over TLS only"));
    assert!(run(&["--plain", "--tls"]).contains("--tls"));
    let scenario = Path::new(env!("CARGO_TARGET_TMPDIR")).join("wrong.toml");
    let text = fs::read_to_string(self::scenario()).unwrap();
    let policy = "at_most = 3\ntitles = { policies = [\"cbcs\"] }";
    fs::write(&scenario, text.replace("at_most = 3", policy)).unwrap();
    let nothing = ["run", scenario.to_str().unwrap(), "--target", "-"];
    let nothing = complaint(&loadtest(&nothing, &line(authority())));
    assert!(nothing.contains("no title under the policies"), "{nothing}");
}

#[test]
fn what_is_wrong_with_a_scenario_is_told_at_once_and_its_check_is_1() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("faulty.toml");
    fs::write(&path, "name = 3\nseconds = 0\nfilms = []\n").unwrap();
    let path = path.to_str().unwrap();
    let output = loadtest(&["run", path, "--target", "-"], "");
    let text = complaint(&output);
    for key in [
        "name: ",
        "seconds: ",
        "films: ",
        "groups: is missing",
        "description: is missing",
    ] {
        assert!(text.contains(key), "{key} in {text}");
    }
    let output = loadtest(&["check", scenario(), path], "");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("exit-codes.toml: three: Three at once."),
        "{text}"
    );
    assert_eq!(
        text.lines()
            .filter(|line| line.contains("faulty.toml: "))
            .count(),
        5,
        "{text}"
    );
}

#[test]
fn a_server_that_is_not_there_is_1_and_a_report() {
    // Side by side, as QUIC does not notice that nobody is there and waits.
    let protocols = ["h1", "h2", "h3"].map(|protocol| {
        std::thread::spawn(move || {
            let arguments = ["run", scenario(), "--target", "-", "--protocol", protocol];
            let output = loadtest(
                &[&arguments[..], &["--json", "--quiet"]].concat(),
                &line(authority()),
            );
            (protocol, output)
        })
    });
    for (protocol, output) in protocols.map(|thread| thread.join().unwrap()) {
        assert_eq!(output.status.code(), Some(1), "{protocol}");
        assert!(output.stderr.is_empty());
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            (&report["schema"], &report["passed"]),
            (&2.into(), &false.into())
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
        assert_eq!(manifest["errors"], 3);
        assert_eq!(report["groups"][0]["failed"], 3);
        assert!(report["server"].is_null());
    }
}
