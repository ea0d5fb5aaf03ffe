//! That `loadtest bench` still measures: one row of it, with the demo title in place of its own titles.
//!
//! Cannot catch a figure that is wrong: this build is not optimised, and other tests run beside it.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

use std::fs;
use std::path::{Path, PathBuf};

use loadtest::bench::{self, Against, Args, Verdict};

#[test]
fn a_row_is_measured_beside_nginx() {
    let nginx = Path::new("/usr/sbin/nginx");
    if !nginx.exists() {
        // Only `make bench` needs it, and on Debian it comes with a service.
        eprintln!("skipped: no nginx (`make bench` sees to it)");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir_all(at("media/abr")).unwrap();
    let title = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/title");
    for entry in fs::read_dir(title).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), at("media/abr").join(entry.file_name())).unwrap();
    }
    let report = bench::run(&Args {
        media: at("media"),
        castellum: Some(PathBuf::from(env!("CARGO_BIN_EXE_castellum"))),
        nginx: nginx.to_owned(),
        nginx_quic: None,
        work: at("work"),
        rounds: 1,
        seconds: 1,
        quick: false,
        rows: vec!["cenc-h1".to_owned()],
        json: Some(at("report.json")),
    })
    .unwrap();
    assert_eq!(report.lines.len(), 3, "{report}");
    let beside = &report.lines[0];
    assert_eq!(beside.against, Against::Nginx);
    assert!(beside.ours.unwrap().median > 0.0, "{report}");
    assert!(beside.ratio.unwrap().median > 0.0, "{report}");
    for line in &report.lines[..2] {
        assert!(
            matches!(line.verdict, Verdict::Met | Verdict::NotMet),
            "{report}"
        );
    }
    assert_eq!(report.lines[2].verdict, Verdict::Shown, "{report}");
    let json: serde_json::Value =
        serde_json::from_slice(&fs::read(at("report.json")).unwrap()).unwrap();
    assert_eq!(json["lines"][0]["id"], "cenc-h1");
    assert_eq!(json["lines"][0]["against"], "nginx");
    assert!(
        !at("work").exists(),
        "what was made for the run goes with it"
    );
}
