//! Verifying an audit log where there is nothing but a copy of it.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::Value;

use super::{code, json, run};

/// As an auditor does with a copy of the log, the public key and a checkpoint, on a machine of their own.
pub fn verify(verb: &dyn Fn(&[&str]) -> Output, log: &Path, folder: &Path) {
    let at = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (copy, key, checkpoint) = (at("copy.log"), at("audit.pem"), at("checkpoint.json"));
    let pem = json(&verb(&["keystore", "checkpoint", "--public-key"]));
    fs::write(&key, pem["public_key"].as_str().unwrap()).unwrap();
    fs::write(&checkpoint, verb(&["keystore", "checkpoint"]).stdout).unwrap();
    let signed = fs::read_to_string(&checkpoint).unwrap();
    let signed: Value = serde_json::from_str(&signed).unwrap();
    assert_eq!(
        code(&verb(&["keystore", "verify", "--checkpoint", &checkpoint])),
        0
    );

    fs::copy(log, &copy).unwrap();
    let offline = [
        "keystore",
        "verify",
        "--offline",
        &copy,
        "--public-key",
        &key,
    ];
    let offline = [offline.as_slice(), &["--checkpoint", &checkpoint]].concat();
    let report = run(&[offline.as_slice(), &["--json"]].concat());
    assert_eq!(
        code(&report),
        0,
        "{}",
        String::from_utf8_lossy(&report.stderr)
    );
    assert_eq!(json(&report)["audit_signed"], signed["seq"]);

    let text = fs::read_to_string(&copy).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    fs::write(&copy, lines[..3].concat()).unwrap();
    let report = run(&[offline.as_slice(), &["--json"]].concat());
    assert_eq!(code(&report), 1);
    let fault = &json(&report)["faults"][0];
    assert_eq!(fault["sequence"], 4);
    assert_eq!(fault["offset"], lines[..3].concat().len());
}
