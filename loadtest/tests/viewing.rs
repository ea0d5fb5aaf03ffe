//! Scenarios against a title that the tests serve: who comes, who is turned away, what they fetch, and what an
//! operator's thresholds make of it.
//!
//! What it cannot catch: anything of encryption, licences, TLS, HTTP/2 and /3, which the appliance's own tests meet.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

mod stand_in;
#[path = "stand_in/title.rs"]
mod title;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use stand_in::Answer;
use title::{LENGTHS, SEGMENTS};

/// What was asked for, and how often.
type Asked = Arc<Mutex<BTreeMap<String, usize>>>;

fn serve(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> (String, Asked) {
    let asked = Asked::default();
    let log = Arc::clone(&asked);
    let base = stand_in::serve(move |path| {
        *log.lock().unwrap().entry(path.to_owned()).or_default() += 1;
        answer(path)
    });
    (base, asked)
}

fn file(name: &str, text: &str) -> String {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Runs a group against so many titles at `base`, for as long as they have something to see.
fn run(name: &str, base: &str, titles: usize, group: &str, thresholds: &str) -> (Output, Value) {
    let scenario = format!(
        "name = {name:?}\ndescription = 'd'\nprotocol = 'h1'\ntls = false\nseconds = 20\n\
         [[groups]]\nname = 'g'\n{group}\n[thresholds]\n{thresholds}"
    );
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let ca = file(&format!("{name}.pem"), &certified.cert.pem());
    let assets = (0..titles).map(|number| {
        let url = |file: &str| format!("{base}/film{number}/{file}");
        let (hls, dash) = (url("main.m3u8"), url("main.mpd"));
        serde_json::json!({"id": format!("film{number}"), "streams": [{"policy": "clear", "hls": hls, "dash": dash}]})
    });
    let target = serde_json::json!({
        "schema": 1, "origin": base, "origin_tls": "https://127.0.0.1:9", "license": base,
        "license_tls": "https://127.0.0.1:9", "ca": ca, "token": "secret-token", "assets": assets.collect::<Vec<_>>(),
    });
    let target = file(&format!("{name}.json"), &target.to_string());
    let scenario = file(&format!("{name}.toml"), &scenario);
    let output = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args(["run", &scenario, "--target", &target, "--json", "--quiet"])
        .output()
        .unwrap();
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    (output, report)
}

fn row<'a>(report: &'a Value, route: &str) -> &'a Value {
    let rows = report["routes"].as_array().unwrap();
    let row = rows.iter().find(|row| row["route"] == route);
    row.unwrap_or_else(|| panic!("no {route} in {report:#}"))
}

#[test]
fn viewers_watch_a_title_to_its_end() {
    let (base, asked) = serve(title::answer);
    let group = "at_most = 9\narrivals = { shape = 'burst', count = 4, within = 0.2, spacing = 'fixed' }\n\
                 behaviour = { kind = 'watch', pace = 20, buffer_seconds = 2 }";
    let (output, report) = run("watch", &base, 1, group, "");
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    let found = &report["groups"][0];
    let counts =
        ["arrived", "shed", "finished", "cut", "failed"].map(|name| found[name].as_u64().unwrap());
    assert_eq!(counts, [4, 0, 4, 0, 0], "{found}");
    assert_eq!(found["segments"], 4 * SEGMENTS);
    // Two came by DASH and two by HLS; all begin at the lowest rung, and a loopback carries the highest.
    assert_eq!(
        (
            &row(&report, "manifest")["count"],
            &row(&report, "segment")["count"]
        ),
        (&4.into(), &(4 * SEGMENTS).into())
    );
    assert!(row(&report, "playlist")["count"].as_u64() >= Some(2));
    assert!(
        found["mean_rung"].as_f64() > Some(0.5) && found["switches"].as_u64() >= Some(4),
        "{found}"
    );
    assert!(
        row(&report, "segment")["corrected"].is_null(),
        "an open loop needs no correction"
    );
    let asked = asked.lock().unwrap();
    assert_eq!(asked["/film0/low/1.m4s"], 4);
    let segments = asked.iter().filter(|(path, _)| path.ends_with(".m4s"));
    let bytes: usize = segments
        .map(|(path, times)| times * LENGTHS[usize::from(path.contains("/high/"))])
        .sum();
    assert_eq!(row(&report, "segment")["bytes"], bytes);
    assert_eq!(
        report["server"]["pids"][0],
        std::process::id(),
        "the test is the server"
    );
}

#[test]
fn who_finds_no_room_is_turned_away_and_counted() {
    let (base, _) = serve(|path| {
        std::thread::sleep(Duration::from_millis(50));
        title::answer(path)
    });
    let group = "at_most = 2\narrivals = { shape = 'burst', count = 10, within = 0.1 }\n\
                 behaviour = { kind = 'watch', pace = 50 }";
    let (output, report) = run("shed", &base, 1, group, "");
    assert_eq!(output.status.code(), Some(0));
    let found = &report["groups"][0];
    assert_eq!(
        (&found["arrived"], &found["at_once"]),
        (&10.into(), &2.into())
    );
    let (shed, finished) = (
        found["shed"].as_u64().unwrap(),
        found["finished"].as_u64().unwrap(),
    );
    assert!(shed > 0 && shed + finished == 10, "{found}");
}

#[test]
fn a_cold_catalogue_is_walked_through_once() {
    let (base, asked) = serve(title::answer);
    let group = "at_most = 9\nconnection = 'kept'\narrivals = { shape = 'constant', rate = 50 }\n\
                 titles = { choice = 'once', formats = ['dash'] }\n\
                 behaviour = { kind = 'watch', pace = 20, session_seconds = 2, buffer_seconds = 1 }";
    let (output, report) = run("cold", &base, 7, group, "");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        report["groups"][0]["arrived"], 7,
        "the eighth has nothing to see"
    );
    assert!(
        report["elapsed_seconds"].as_f64() < Some(20.0),
        "it ends by itself"
    );
    let asked = asked.lock().unwrap();
    let manifests: Vec<_> = asked
        .iter()
        .filter(|(path, _)| path.ends_with(".mpd"))
        .collect();
    assert!(
        manifests.len() == 7 && manifests.iter().all(|(_, times)| **times == 1),
        "{manifests:?}"
    );
}

#[test]
fn those_in_a_hurry_take_title_after_title_and_are_corrected() {
    let (base, _) = serve(title::answer);
    let group = "at_most = 3\narrivals = { shape = 'burst', count = 3, within = 0.1 }\n\
                 titles = { choice = 'once' }\nbehaviour = { kind = 'hurry' }";
    let (output, report) = run("hurry", &base, 8, group, "");
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    let found = &report["groups"][0];
    assert!(
        found["arrived"].as_u64() <= Some(3) && found["segments"] == 8 * SEGMENTS,
        "{found}"
    );
    let segment = row(&report, "segment");
    assert!(
        segment["corrected"]["max_us"] == segment["max_us"],
        "{segment}"
    );
}

#[test]
fn failures_and_thresholds_decide_and_no_token_is_told() {
    let (base, _) = serve(|path| match path {
        "/film0/low/3.m4s" | "/film0/high/3.m4s" => (503, Vec::new()),
        _ => title::answer(path),
    });
    let group = "at_most = 9\narrivals = { shape = 'burst', count = 3, within = 0.1 }\n\
                 behaviour = { kind = 'watch', pace = 50 }";
    let (output, report) = run("failing", &base, 1, group, "");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(report["groups"][0]["failed"], 3);
    assert_eq!(
        (&row(&report, "segment")["errors"], &report["failed"]),
        (&3.into(), &3.into())
    );
    assert!(
        report["failures"][0]
            .as_str()
            .unwrap()
            .ends_with("3.m4s: status 503 Service Unavailable")
    );
    assert!(!String::from_utf8_lossy(&output.stdout).contains("secret-token"));

    let (output, report) = run(
        "allowed",
        &base,
        1,
        group,
        "max_error_share = 0.5\nmax_p99_ms = { segment = 60000 }",
    );
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    let (output, report) = run(
        "missed",
        &base,
        1,
        group,
        "max_error_share = 0.5\nmin_mb_per_s = 1e9",
    );
    assert_eq!(output.status.code(), Some(1));
    let met: Vec<_> = report["thresholds"]
        .as_array()
        .unwrap()
        .iter()
        .map(|verdict| &verdict["met"])
        .collect();
    assert_eq!(met, [true, false]);
}
