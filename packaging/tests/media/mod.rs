//! The films that tests are run on.

use std::path::PathBuf;
use std::process::Command;

use crate::appliance::project;

/// The files that developers share beside the project, or none, said aloud.
pub fn shared() -> Option<PathBuf> {
    let folder = project().join("../shared/media");
    if folder.exists() {
        return Some(folder);
    }
    eprintln!("skipped: no {}", folder.display());
    None
}

/// The files that the tests make for themselves.
pub fn made() -> PathBuf {
    let script = project().join("packaging/tests/media/make-test-media.sh");
    let output = Command::new(script).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}
