//! `saturate` and `compare` as commands, against small servers of the test.
//!
//! What they cannot catch: whether the figures are right. Those of one server against itself are near one another,
//! but no test asserts a time.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

mod stand_in;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

fn loadtest(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args(arguments)
        .output()
        .unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

fn complaint(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn file(name: &str, text: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, text).unwrap();
    path
}

/// Bodies as long as the path says.
fn server() -> String {
    stand_in::serve(|path| match path.trim_start_matches('/').parse() {
        Ok(len) => (200, vec![b'x'; len]),
        Err(_) => (404, Vec::new()),
    })
}

#[test]
fn saturate_counts_and_reads_the_server_by_its_port() {
    let base = server();
    let url = format!("{base}/70000");
    let arguments = ["saturate", &url, "--connections", "2", "--seconds", "1"];
    let output = loadtest(&[&arguments[..], &["--json"]].concat());
    assert_eq!(output.status.code(), Some(0));
    let report = json(&output);
    assert_eq!(
        (&report["schema"], &report["errors"]),
        (&1.into(), &0.into())
    );
    let (requests, bytes) = (
        report["requests"].as_u64().unwrap(),
        report["bytes"].as_u64().unwrap(),
    );
    assert!(requests > 2 && bytes >= requests * 70_000, "{report}");
    assert_eq!(
        report["server"]["pids"][0],
        std::process::id(),
        "the test is the server"
    );
    assert!(report["mb_per_cpu_s"].as_f64() > Some(0.0));
    assert!(report["corrected"]["p99_us"].as_u64() >= report["whole"]["p50_us"].as_u64());

    let output = loadtest(&[&arguments[..], &["--server-pid", "none"]].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("HTTP/1.1 (plain), 2 connections") && !text.contains("server:"),
        "{text}"
    );
}

#[test]
fn saturate_fails_where_the_server_does() {
    let url = format!("{}/nothing", server());
    let output = loadtest(&["saturate", &url, "--seconds", "0.2", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(json(&output)["first_error"], "status 404");
}

#[test]
fn compare_takes_turns_and_tells_ratios() {
    let (a, b) = (server(), server());
    let a = file(
        "a.urls",
        &format!("# small and large\n{a}/10\n\n{a}/100000\n"),
    );
    let b = file("b.urls", &format!("{b}/50000\n"));
    let (a, b) = (a.to_str().unwrap(), b.to_str().unwrap());
    let arguments = [
        "compare",
        "--a",
        a,
        "--b",
        b,
        "--rounds",
        "3",
        "--seconds",
        "0.1",
    ];
    let output = loadtest(&[&arguments[..], &["--json", "--connections", "2"]].concat());
    let turns = String::from_utf8(output.stderr.clone()).unwrap();
    let sides: Vec<&str> = turns
        .lines()
        .filter_map(|line| line.split([',', ':']).nth(1))
        .collect();
    assert_eq!(sides, [" A", " B", " B", " A", " A", " B"]);
    assert_eq!(output.status.code(), Some(0));
    let report = json(&output);
    assert_eq!(report["rounds"].as_array().unwrap().len(), 3);
    let measures = report["measures"].as_array().unwrap();
    let names: Vec<&str> = measures
        .iter()
        .map(|measure| measure["name"].as_str().unwrap())
        .collect();
    let all = [
        "mb_per_s",
        "mb_per_cpu_s",
        "requests_per_s",
        "requests_per_cpu_s",
        "p50_ms",
        "p99_ms",
    ];
    assert_eq!(names, all);
    for measure in measures {
        let ratio = measure["ratio_of_medians"].as_f64().unwrap();
        let medians = ["a", "b"].map(|side| measure[side]["median"].as_f64().unwrap());
        assert!((ratio - medians[0] / medians[1]).abs() < 1e-9, "{measure}");
    }

    let failing = file("failing.urls", &format!("{}/nothing", server()));
    let arguments = [
        "compare",
        "--a",
        a,
        "--b",
        failing.to_str().unwrap(),
        "--rounds",
        "1",
    ];
    let output = loadtest(&[&arguments[..], &["--seconds", "0.1", "--quiet"]].concat());
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stderr.is_empty());
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .ends_with("FAILED\n")
    );
}

#[test]
fn what_cannot_begin_is_2() {
    assert!(complaint(&loadtest(&["saturate"])).contains("<URL>"));
    let tls = loadtest(&["saturate", "https://127.0.0.1:9/"]);
    assert!(complaint(&tls).contains("--ca"));
    let many = loadtest(&["saturate", "http://127.0.0.1:9/", "--connections", "10001"]);
    assert!(complaint(&many).contains("10001"));
    let nobody = loadtest(&[
        "saturate",
        "http://127.0.0.1:9/",
        "--server-pid",
        "4294967295",
    ]);
    assert!(complaint(&nobody).contains("loadtest: "));
    let nowhere = loadtest(&["compare", "--a", "/nowhere/a", "--b", "/nowhere/b"]);
    assert!(complaint(&nowhere).contains("/nowhere/a"));
    let pace = loadtest(&["compare", "--a", "/a", "--b", "/b", "--pace", "2"]);
    assert!(
        complaint(&pace).contains("--scenario"),
        "pace is of viewers"
    );
    let wrong = file("wrong.urls", "http://127.0.0.1:9/\n/path\n");
    let wrong = wrong.to_str().unwrap();
    let relative = loadtest(&["compare", "--a", wrong, "--b", wrong]);
    assert!(complaint(&relative).contains("wrong.urls: line 2: "));
    let empty = file("empty.urls", "# nothing\n");
    let empty = empty.to_str().unwrap();
    let nothing = loadtest(&["compare", "--a", empty, "--b", empty]);
    assert!(complaint(&nothing).contains("there is no URL to fetch"));
}
