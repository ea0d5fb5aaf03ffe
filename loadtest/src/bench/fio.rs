//! What the disk gives to programs that only read: `fio`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::Deserialize;

use super::Failure;
use super::cgroup::Cgroup;
use super::cores::Cores;
use super::nginx;

/// How much a reader asks for at once: the kernel's usual read-ahead.
const BLOCK: u64 = 128 << 10;

/// `fio` within a limit of memory.
pub(super) struct Fio {
    entrance: PathBuf,
    cores: Cores,
}

#[derive(Deserialize)]
struct Output {
    jobs: Vec<Job>,
}

#[derive(Deserialize)]
struct Job {
    error: i64,
    read: Reading,
}

#[derive(Deserialize)]
struct Reading {
    bw_bytes: f64,
}

impl Fio {
    /// Readers in `group`, on the server's core; `folder` holds what starts them.
    pub(super) fn within(group: &Cgroup, cores: Cores, folder: &Path) -> Result<Self, Failure> {
        let program = nginx::find(Path::new("fio")).ok_or_else(|| Failure::NoProgram {
            path: PathBuf::from("fio"),
            hint: "`make bench` installs it",
        })?;
        let entrance = folder.join("fio");
        group
            .entrance(&program, &entrance)
            .map_err(|error| Failure::at(&entrance, error))?;
        Ok(Self { entrance, cores })
    }

    /// 10^6 bytes a second that so many readers get, each of its own part of `file`, in order and through the page
    /// cache, of which the file is first dropped.
    pub(super) fn read(&self, file: &Path, readers: usize) -> Result<f64, Failure> {
        let len = fs::metadata(file).map_err(|error| Failure::at(file, error))?;
        let part = (len.len() / readers as u64 / BLOCK).max(1) * BLOCK;
        let output = self
            .cores
            .server_command(&self.entrance)
            .args(["--name=cold", "--readonly", "--rw=read", "--ioengine=psync"])
            .args([
                "--invalidate=1",
                "--group_reporting",
                "--output-format=json",
            ])
            .arg(format!("--bs={BLOCK}"))
            .arg(format!("--numjobs={readers}"))
            .args([
                format!("--size={part}"),
                format!("--offset_increment={part}"),
            ])
            .arg(format!("--filename={}", file.display()))
            .stdin(Stdio::null())
            .output()
            .map_err(|error| Failure::at(&self.entrance, error))?;
        rate(&output.stdout).ok_or_else(|| {
            Failure::asking("fio", String::from_utf8_lossy(&output.stderr).into_owned())
        })
    }
}

/// The rate of the group in 10^6 bytes a second; `None` where a reader failed.
fn rate(output: &[u8]) -> Option<f64> {
    let output: Output = serde_json::from_slice(output).ok()?;
    match &output.jobs[..] {
        [group] if group.error == 0 && group.read.bw_bytes > 0.0 => Some(group.read.bw_bytes / 1e6),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_read_unless_a_reader_failed() {
        let output = |error| {
            format!(r#"{{"jobs": [{{"error": {error}, "read": {{"bw_bytes": 526000000}}}}]}}"#)
        };
        assert_eq!(rate(output(0).as_bytes()), Some(526.0));
        assert_eq!(rate(output(5).as_bytes()), None);
        assert_eq!(rate(b"fio: no such file"), None);
    }
}
