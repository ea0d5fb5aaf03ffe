//! A limit on the memory of what a row starts, page cache included: a memory cgroup of its own.
//!
//! It lies below the cgroup of this process (version 1), or beside or above it, at the nearest that hands on the
//! controller (version 2), and goes with the value.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where distributions mount the memory controller: alone (version 1), or with all others (version 2).
const SEPARATE: &str = "/sys/fs/cgroup/memory";
const UNIFIED: &str = "/sys/fs/cgroup";

/// A group is busy for a moment after its last process has ended.
const BUSY: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A group that ends with the value.
pub(super) struct Cgroup {
    folder: PathBuf,
    version: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Cgroup {
    /// Makes a group of this name with a limit in bytes.
    ///
    /// # Errors
    /// Where no memory controller is mounted, or this user may make none.
    pub(super) fn new(name: &str, limit: u64) -> io::Result<Self> {
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let (parent, version) = parent(&own, &|folder| {
            let handed_on = fs::read_to_string(folder.join("cgroup.subtree_control"));
            handed_on.is_ok_and(|text| text.split_ascii_whitespace().any(|name| name == "memory"))
        })
        .ok_or_else(|| io::Error::other("no memory controller is handed on to this process"))?;
        let folder = parent.join(format!("castellum-bench-{}-{name}", std::process::id()));
        fs::create_dir(&folder)?;
        let group = Self { folder, version };
        let limits = group.folder.join(match version {
            Version::One => "memory.limit_in_bytes",
            Version::Two => "memory.max",
        });
        fs::write(limits, limit.to_string())?;
        Ok(group)
    }

    /// Writes a program to `at` that joins the group and becomes `program`.
    pub(super) fn entrance(&self, program: &Path, at: &Path) -> io::Result<()> {
        let [procs, program] = [&self.folder.join("cgroup.procs"), program].map(quoted);
        let script = format!("#!/bin/sh\nset -e\necho 0 >{procs}\nexec {program} \"$@\"\n");
        fs::write(at, script)?;
        fs::set_permissions(at, fs::Permissions::from_mode(0o700))
    }

    /// How many processes the kernel has killed for want of memory.
    pub(super) fn killed(&self) -> io::Result<u64> {
        let file = match self.version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        };
        killed(&fs::read_to_string(self.folder.join(file))?)
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let deadline = Instant::now() + BUSY;
        while fs::remove_dir(&self.folder).is_err() && Instant::now() < deadline {
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// Where a group can be made by a process whose `/proc/self/cgroup` reads `own`.
fn parent(own: &str, hands_on: &dyn Fn(&Path) -> bool) -> Option<(PathBuf, Version)> {
    let mut unified = None;
    for line in own.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?.trim_start_matches('/'));
        if controllers.split(',').any(|name| name == "memory") {
            return Some((Path::new(SEPARATE).join(path), Version::One));
        }
        if controllers.is_empty() {
            unified = Some(Path::new(UNIFIED).join(path));
        }
    }
    // A group of version 2 that holds processes hands nothing on, save the root.
    let unified = unified?;
    let mut within = unified.ancestors().take_while(|at| at.starts_with(UNIFIED));
    let found = within.find(|folder| hands_on(folder))?;
    Some((found.to_owned(), Version::Two))
}

fn killed(events: &str) -> Option<u64> {
    let line = events
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "));
    line?.parse().ok()
}

fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_group_is_made_where_the_controller_is() {
        let separate = "8:pids:/\n4:cpu,memory:/user/7\n0::/\n";
        let at = |folder: &str| PathBuf::from(folder);
        assert_eq!(
            parent(separate, &|_| false),
            Some((at("/sys/fs/cgroup/memory/user/7"), Version::One))
        );
        let unified = "0::/user.slice/session-1.scope\n";
        assert_eq!(
            parent(unified, &|folder| folder.ends_with("user.slice")),
            Some((at("/sys/fs/cgroup/user.slice"), Version::Two))
        );
        assert_eq!(parent(unified, &|_| false), None);
        assert_eq!(parent("", &|_| true), None);
    }

    #[test]
    fn kills_are_counted_in_either_spelling() {
        let one = "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n";
        assert_eq!(killed(one), Some(2));
        assert_eq!(killed("low 0\nmax 7\noom 1\noom_kill 1\n"), Some(1));
        assert_eq!(killed("low 0\n"), None);
    }

    #[test]
    fn who_enters_is_a_member() {
        let group = match Cgroup::new("test", 64 << 20) {
            Ok(group) => group,
            Err(error) => {
                eprintln!("skipped: no memory cgroup can be made here: {error}");
                return;
            }
        };
        let name = format!("loadtest it's {}", std::process::id());
        let entrance = std::env::temp_dir().join(name);
        group.entrance(Path::new("/bin/cat"), &entrance).unwrap();
        let output = Command::new(&entrance).arg("/proc/self/cgroup").output();
        fs::remove_file(&entrance).unwrap();
        let said = String::from_utf8(output.unwrap().stdout).unwrap();
        let name = group.folder.file_name().unwrap().to_str().unwrap();
        assert!(said.contains(name), "{said}");
        assert_eq!(group.killed().unwrap(), 0);
        let folder = group.folder.clone();
        drop(group);
        assert!(!folder.exists());
    }
}
