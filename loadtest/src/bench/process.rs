//! Servers that this program starts, and ends.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::Failure;

/// How long a server may take to answer for the first time, and to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often is looked whether something has come about. Short beside what is measured by it.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// A server; it ends with the value.
pub(super) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; what it says goes to the file `log`.
    pub(super) fn start(mut command: Command, log: &Path) -> Result<Self, Failure> {
        let name = command.get_program().to_owned();
        let said = File::create(log).map_err(|error| Failure::at(log, error))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said)
            .spawn()
            .map_err(|error| Failure::at(Path::new(&name), error))?;
        Ok(Self {
            child,
            log: log.to_owned(),
        })
    }

    /// Its number.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `answers` is so.
    ///
    /// # Errors
    /// Where it ends instead, or never is; with what it said.
    pub(super) fn until(&mut self, mut answers: impl FnMut() -> bool) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        while !answers() {
            let ended = self.child.try_wait().ok().flatten();
            if ended.is_some() || Instant::now() > deadline {
                let said = fs::read_to_string(&self.log).unwrap_or_default();
                return Err(Failure::Server {
                    log: self.log.clone(),
                    said,
                });
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        // A master that is killed outright leaves its workers behind.
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            let _ = kill_process(pid, Signal::TERM);
        }
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port;

    #[test]
    fn a_port_is_not_chosen_twice_and_not_from_those_of_outgoing_connections() {
        let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
        let first: u16 = range.split_whitespace().next().unwrap().parse().unwrap();
        let mut ports: Vec<u16> = (0..100).map(|_| port::free().unwrap()).collect();
        if first > 10_000 {
            assert!(ports.iter().all(|port| *port < first), "{ports:?}");
        }
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 100);
    }

    #[test]
    fn a_server_that_ends_at_once_is_quoted() {
        let folder = std::env::temp_dir().join(format!("loadtest-process-{}", std::process::id()));
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such port >&2; exit 1"]);
        let mut process = Process::start(command, &folder).unwrap();
        let failure = process.until(|| false).unwrap_err().to_string();
        assert!(failure.contains("no such port"), "{failure}");
        fs::remove_file(folder).unwrap();
    }
}
