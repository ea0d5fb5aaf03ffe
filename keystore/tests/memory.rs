//! What the keystore does where its limits forbid it to guard key memory, or to have memory enough.
//!
//! Limits hold for a whole process, so each case is a child. That pages are locked, left out of dumps and wiped is
//! tested where it is done, in `hardening.rs`.
#![expect(clippy::unwrap_used, reason = "a test's panic is its report")]

use std::process::Command;
use std::sync::Arc;

use keystore::{Local, SystemClock, testing};
use keystore_client::SealState;
use rustix::process::{Resource, Rlimit, setrlimit};

/// What the child does; unset, it is not a child.
const CASE: &str = "CASTELLUM_MEMORY_CASE";

/// What the child says when it is done: its standard output ends otherwise where it was killed.
const DONE: &str = "the case was tried";

/// Runs the child by way of `before`, which may take its rights away.
fn run_child(case: &str, before: &[&str]) -> Result<(), String> {
    let exe = std::env::current_exe().unwrap();
    let exe = exe.to_str().unwrap();
    let child = [exe, "--exact", "child", "--ignored", "--nocapture"];
    let words = [before, &child].concat();
    let output = Command::new(words[0])
        .args(&words[1..])
        .env(CASE, case)
        .output()
        .map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stdout);
    let (said, errors) = (said.into_owned(), String::from_utf8_lossy(&output.stderr));
    match output.status.success() && said.contains(DONE) {
        true => Ok(()),
        false => Err(format!("{said}\n{errors}")),
    }
}

/// Not a test: what runs in the child.
#[tokio::test]
#[ignore = "run by the tests of this file"]
async fn child() {
    let Ok(case) = std::env::var(CASE) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut settings = testing::settings(folder.path());
    settings.require_locked_memory = case == "must lock";
    if case == "little memory" {
        settings.argon2.memory_kib = 1 << 20;
        let most = Rlimit {
            current: Some(900 << 20),
            maximum: Some(900 << 20),
        };
        setrlimit(Resource::As, most).unwrap();
    }
    let local = Local::open(&settings, Arc::new(SystemClock)).await.unwrap();
    let operator = testing::operator(&local);
    let outcome = operator.init("correct horse".into()).await;
    match case.as_str() {
        "must lock" => {
            let error = outcome.unwrap_err().to_string();
            assert!(error.contains("require_locked_memory"), "{error}");
        }
        "may lock" => {
            outcome.unwrap();
            let status = operator.status().await.unwrap();
            assert_eq!(status.memory_locked, Some(false));
        }
        "little memory" => {
            let error = outcome.unwrap_err().to_string();
            assert!(error.contains("Argon2id needs 1024 MiB"), "{error}");
            assert!(error.contains("RLIMIT_AS"), "{error}");
        }
        other => panic!("{other}"),
    }
    if case != "may lock" {
        // Nothing was kept of the root.
        assert_eq!(*local.seal_state().borrow(), SealState::Uninitialised);
        assert_eq!(operator.status().await.unwrap().memory_locked, None);
    }
    println!("{DONE}");
}

#[test]
fn memory_is_looked_for_before_argon2_takes_it() {
    run_child("little memory", &[]).unwrap();
}

#[test]
fn memory_that_cannot_be_locked_is_said_or_refused() {
    // Root may lock what it likes, unless it loses that right.
    let unlocked = [
        "prlimit",
        "--memlock=0:0",
        "setpriv",
        "--bounding-set=-ipc_lock",
    ];
    let tried = [&unlocked[..], &["true"]].concat();
    let works = Command::new(tried[0]).args(&tried[1..]).status();
    if !works.is_ok_and(|status| status.success()) {
        return eprintln!("skipped: prlimit or setpriv is missing, or may not take rights away");
    }
    run_child("must lock", &unlocked).unwrap();
    run_child("may lock", &unlocked).unwrap();
}
