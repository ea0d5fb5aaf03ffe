//! A throw-away machine with a real systemd, for tests that install packages. `boot.sh` says how it comes about.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A machine boots in seconds; a loaded host may take longer.
const BOOT_LIMIT: Duration = Duration::from_secs(120);

/// A running machine. Dropped, it is gone with all that was changed in it.
pub(crate) struct Machine {
    unshare: Child,
    /// Process id of its systemd, as the host counts.
    systemd: String,
    name: String,
    folder: PathBuf,
}

impl Machine {
    /// What this host lacks to boot one, if anything.
    pub(crate) fn missing() -> Option<&'static str> {
        let namespaces = || {
            let unshare = Command::new("unshare")
                .args(["--mount", "--pid", "--net", "--cgroup", "--fork", "mount"])
                .args(["-t", "tmpfs", "tmpfs", "/mnt"])
                .stderr(Stdio::null())
                .status();
            unshare.is_ok_and(|status| status.success())
        };
        if !Path::new("/lib/systemd/systemd").exists() {
            Some("no systemd")
        } else if !namespaces() {
            Some("this host gives root no namespaces of its own")
        } else {
            None
        }
    }

    /// Boots one, with an empty `folder` for its own use.
    pub(crate) fn boot(folder: &Path) -> Self {
        let name = format!(
            "castellum-{}",
            folder.file_name().unwrap().to_str().unwrap()
        );
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/machine/boot.sh");
        let unshare = Command::new(script)
            .arg(folder)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut machine = Self {
            unshare,
            systemd: String::new(),
            name,
            folder: folder.to_owned(),
        };
        let pid_file = folder.with_extension("pid");
        let begin = Instant::now();
        loop {
            assert!(begin.elapsed() < BOOT_LIMIT, "the machine did not boot");
            assert_eq!(machine.unshare.try_wait().unwrap(), None, "boot.sh failed");
            machine.systemd = fs::read_to_string(&pid_file)
                .unwrap_or_default()
                .trim()
                .to_owned();
            if !machine.systemd.is_empty() {
                let state = machine.run(&["systemctl", "is-system-running"]);
                let state = String::from_utf8_lossy(&state.stdout).trim().to_owned();
                if ["running", "degraded"].contains(&state.as_str()) {
                    return machine;
                }
            }
            sleep(Duration::from_millis(100));
        }
    }

    /// Runs a command in it, as root.
    pub(crate) fn run(&self, command: &[&str]) -> Output {
        Command::new("nsenter")
            .args([
                "-t",
                &self.systemd,
                "-m",
                "-p",
                "-u",
                "-i",
                "-C",
                "-n",
                "--",
            ])
            .args(command)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs a command that must succeed, and returns what it says.
    pub(crate) fn must(&self, command: &[&str]) -> String {
        let output = self.run(command);
        if !output.status.success() {
            let journal = self.run(&["journalctl", "--no-pager", "--lines=60", "--output=cat"]);
            panic!(
                "{command:?} failed:\n{}{}\njournal:\n{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr),
                String::from_utf8_lossy(&journal.stdout)
            );
        }
        String::from_utf8(output.stdout).unwrap()
    }

    /// Where a path of the machine is for the host.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.systemd))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // `unshare` ignores SIGTERM while it waits; its death is its child's, by --kill-child.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        let _ = fs::remove_file(self.folder.with_extension("pid"));
        for tree in [
            "/sys/fs/cgroup",
            "/sys/fs/cgroup/unified",
            "/sys/fs/cgroup/systemd",
        ] {
            remove_groups(&Path::new(tree).join(&self.name));
        }
    }
}

/// Removes a control group and those below it, once the kernel has buried their processes.
fn remove_groups(group: &Path) {
    let Ok(entries) = fs::read_dir(group) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    for _ in 0..50 {
        if fs::remove_dir(group).is_ok() {
            return;
        }
        sleep(Duration::from_millis(20));
    }
}
