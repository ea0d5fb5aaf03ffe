//! Whether there is memory enough for one guess at a passphrase, before it is asked for: Rust ends the process where an
//! allocation fails, and a control group kills it.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};

use crate::error::{Error, ErrorKind};

/// A bound on this process's memory, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Bound {
    /// What sets it.
    name: &'static str,
    most: u64,
    used: u64,
}

/// Whether so many bytes more can be had.
///
/// # Errors
/// [`ErrorKind::Unavailable`], which says what forbids it.
pub(crate) fn room_for(bytes: u64) -> Result<(), Error> {
    let bounds = [
        address_space(),
        control_group(Path::new("/sys/fs/cgroup"), &read("/proc/self/cgroup")),
        available(&read("/proc/meminfo")),
    ];
    check(bytes, bounds.into_iter().flatten())
}

fn check(bytes: u64, bounds: impl Iterator<Item = Bound>) -> Result<(), Error> {
    for Bound { name, most, used } in bounds {
        let left = most.saturating_sub(used);
        if left < bytes {
            return Err(Error::new(
                ErrorKind::Unavailable,
                format!(
                    "Argon2id needs {} MiB of memory, and {name} leaves {} MiB: raise it, or free some",
                    bytes >> 20,
                    left >> 20
                ),
            ));
        }
    }
    Ok(())
}

/// The limit on address space (`ulimit -v`).
fn address_space() -> Option<Bound> {
    let pages: u64 = read("/proc/self/statm").split(' ').next()?.parse().ok()?;
    Some(Bound {
        name: "the limit on address space (RLIMIT_AS)",
        most: getrlimit(Resource::As).current?,
        used: pages * rustix::param::page_size() as u64,
    })
}

/// The limit of the control group, of either version. What files take of it can be had back.
fn control_group(root: &Path, groups: &str) -> Option<Bound> {
    let name = "the control group's limit (MemoryMax=)";
    groups.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let path = path.trim_start_matches('/');
        let (folder, limit, usage): (PathBuf, _, _) = match controllers {
            "" => (root.join(path), "memory.max", "memory.current"),
            _ if controllers.split(',').any(|name| name == "memory") => (
                root.join("memory").join(path),
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
            ),
            _ => return None,
        };
        let number = |file: &str| read(folder.join(file)).trim().parse::<u64>().ok();
        let files = read(folder.join("memory.stat"))
            .lines()
            .filter_map(|line| line.split_once(' '))
            .filter(|(name, _)| matches!(*name, "inactive_file" | "active_file"))
            .filter_map(|(_, bytes)| bytes.parse::<u64>().ok())
            .sum();
        Some(Bound {
            name,
            most: number(limit)?,
            used: number(usage)?.saturating_sub(files),
        })
    })
}

/// What the host has left, as the kernel reckons it. Not to be seen in every sandbox.
fn available(meminfo: &str) -> Option<Bound> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(Bound {
        name: "the host",
        most: kib << 10,
        used: 0,
    })
}

/// What cannot be read bounds nothing.
fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_limits_of_either_control_group_are_found() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("a/b/memory.max", "104857600\n");
        write("a/b/memory.current", "94371840\n");
        write(
            "a/b/memory.stat",
            "anon 1\ninactive_file 20971520\nactive_file 1048576\n",
        );
        write("memory/c/memory.limit_in_bytes", "209715200\n");
        write("memory/c/memory.usage_in_bytes", "1048576\n");
        write("unbounded/memory.max", "max\n");
        write("unbounded/memory.current", "1\n");
        let of = |groups| control_group(root.path(), groups).map(|bound| (bound.most, bound.used));
        assert_eq!(of("0::/a/b\n"), Some((104_857_600, 72_351_744)));
        assert_eq!(
            of("3:cpu:/x\n2:hugetlb,memory:/c\n"),
            Some((209_715_200, 1_048_576))
        );
        assert_eq!(of("0::/unbounded\n"), None);
        assert_eq!(of("0::/nowhere\n"), None);
        assert_eq!(of(""), None);
        let error = check(64 << 20, control_group(root.path(), "0::/a/b").into_iter());
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("needs 64 MiB") && error.contains("leaves 31 MiB"),
            "{error}"
        );
        assert!(check(16 << 20, control_group(root.path(), "0::/a/b").into_iter()).is_ok());
    }

    #[test]
    fn what_the_host_has_left_is_found() {
        let text = "MemTotal: 100 kB\nMemAvailable:     2048 kB\n";
        assert_eq!(available(text).map(|bound| bound.most), Some(2 << 20));
        assert_eq!(available(""), None);
    }
}
