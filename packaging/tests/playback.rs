//! Real players in real browsers: runs each suite of `tests/browser` with Node and Debian's Chromium or Firefox
//! against `castellum demo` or an appliance with a configuration of the suite's own.
//!
//! Without Node, the suite's browser or the npm packages it is skipped, and says so; under `make test`, which
//! installs them, it fails instead.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// One suite at a time: each keeps two browsers busy, and a machine may have two cores.
static STAGE: Mutex<()> = Mutex::new(());

/// A browser and the npm package that drives it.
struct Browser {
    program: &'static str,
    driver: &'static str,
}

const CHROMIUM: Browser = Browser {
    program: "chromium",
    driver: "playwright-core",
};

const FIREFOX: Browser = Browser {
    program: "firefox-esr",
    driver: "puppeteer-core",
};

#[test]
fn every_stream_in_every_player() {
    run("matrix.test.mjs", &CHROMIUM);
}

#[test]
fn every_protocol() {
    run("protocols.test.mjs", &CHROMIUM);
}

#[test]
fn refusals() {
    run("refusals.test.mjs", &CHROMIUM);
}

#[test]
fn tokens() {
    run("tokens.test.mjs", &CHROMIUM);
}

#[test]
fn tokens_in_firefox() {
    run("firefox.test.mjs", &FIREFOX);
}

#[test]
fn limits() {
    run("limits.test.mjs", &CHROMIUM);
}

#[test]
fn player_page() {
    run("page.test.mjs", &CHROMIUM);
}

fn run(suite: &str, browser: &Browser) {
    if let Some(missing) = missing(browser) {
        assert!(
            std::env::var_os("CASTELLUM_NO_SKIP").is_none(),
            "{suite} cannot run: {missing}"
        );
        eprintln!("skipped: {suite}: {missing} (`make setup` sees to it)");
        return;
    }
    let _alone = STAGE
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    // A browser on a busy machine now and then misses an event that a test waits for. What is wrong with a stream is
    // wrong twice.
    let passed = (1..=2).any(|attempt| {
        let output = Command::new("node")
            .args(["--test", "--test-reporter=spec", suite])
            .current_dir(packaging().join("tests/browser"))
            .env("CASTELLUM", env!("CARGO_BIN_EXE_castellum"))
            .output()
            .expect("node was found a moment ago");
        let report = String::from_utf8_lossy(&output.stdout);
        eprintln!("{suite}, attempt {attempt}:\n{report}");
        assert!(!report.contains("tests 0"), "{suite} ran no test");
        output.status.success()
    });
    assert!(passed, "{suite} failed twice: see above");
}

/// What stands in the way of a test in this browser, if anything does.
fn missing(browser: &Browser) -> Option<String> {
    for (program, argument) in [
        ("node", "--version"),
        (browser.program, "--version"),
        ("certutil", "-H"),
    ] {
        if Command::new(program).arg(argument).output().is_err() {
            return Some(format!("no {program}"));
        }
    }
    for file in [
        format!("node_modules/{}", browser.driver),
        "page/dist/index.html".to_owned(),
    ] {
        if !packaging().join(&file).exists() {
            return Some(format!("no packaging/{file}"));
        }
    }
    None
}

fn packaging() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}
