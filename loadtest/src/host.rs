//! What a server's processes use, where they run on the host that loads them (Linux, `/proc`).
//!
//! Processor time is read in nanoseconds from every thread's `schedstat`; where a thread has ended since, or the
//! kernel keeps no such file, from the process's `stat`, in ticks of 10 ms. Peak memory is `VmHWM`, from the
//! process's start and with the mapped files that lie in memory; anonymous memory is what it took for itself.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fmt, fs, io};

use serde::Serialize;
use url::{Host, Url};

/// What `stat` counts in (`USER_HZ`, which is 100 on every Linux that runs this).
const TICK: Duration = Duration::from_millis(10);

/// `TCP_LISTEN` in `/proc/net/tcp`.
const LISTENING: &str = "0A";

/// The processes of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Processes {
    pids: Vec<u32>,
    proc: PathBuf,
}

/// What they had used at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot(BTreeMap<u32, Process>);

#[derive(Debug, Clone)]
struct Process {
    /// Of each thread; empty where the kernel does not say.
    threads: BTreeMap<u32, Duration>,
    ticks: Duration,
}

/// What they used between two moments, all together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Processor time of all threads.
    #[serde(rename = "cpu_seconds", serialize_with = "seconds")]
    pub cpu: Duration,
    /// The most memory that each had resident since it began, in bytes.
    pub peak_resident: u64,
    /// Memory of their own, in bytes, at the end.
    pub anonymous: u64,
    /// Whose these are.
    pub pids: Vec<u32>,
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cpu = self.cpu.as_secs_f64();
        let [peak, anonymous] = [self.peak_resident, self.anonymous].map(|bytes| bytes >> 20);
        write!(
            f,
            "{cpu:.2} s of processor, {peak} MiB resident at most, {anonymous} MiB of its own at the end"
        )
    }
}

fn seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

impl Processes {
    /// These processes, none of them twice.
    pub fn of(pids: impl IntoIterator<Item = u32>) -> Self {
        let pids: BTreeSet<u32> = pids.into_iter().collect();
        Self {
            pids: pids.into_iter().collect(),
            proc: PathBuf::from("/proc"),
        }
    }

    /// This process.
    pub fn own() -> Self {
        Self::of([std::process::id()])
    }

    /// All that hold a listening TCP socket or a bound UDP socket of this port, such as the workers of a server
    /// with their master; `None` where none is found or may be looked into.
    ///
    /// # Errors
    /// Where `/proc` cannot be read.
    pub fn on_port(port: u16) -> io::Result<Option<Self>> {
        let proc = Path::new("/proc");
        let mut sockets = BTreeSet::new();
        for (table, listening) in [
            ("tcp", true),
            ("tcp6", true),
            ("udp", false),
            ("udp6", false),
        ] {
            // A kernel without IPv6 has no such table.
            if let Ok(text) = fs::read_to_string(proc.join("net").join(table)) {
                sockets.extend(inodes(&text, port, listening));
            }
        }
        let mut pids = Vec::new();
        for entry in fs::read_dir(proc)? {
            let path = entry?.path();
            if let Some(pid) = pid(&path)
                && holds(&path, &sockets)
            {
                pids.push(pid);
            }
        }
        Ok((!pids.is_empty()).then(|| Self::of(pids)))
    }

    /// All that listen on the ports of these URLs, where their hosts are this one; `None` where none is found.
    ///
    /// # Errors
    /// Where `/proc` cannot be read.
    pub fn serving<'a>(urls: impl IntoIterator<Item = &'a Url>) -> io::Result<Option<Self>> {
        let local = urls.into_iter().filter(|url| is_here(url));
        let ports: BTreeSet<u16> = local.filter_map(Url::port_or_known_default).collect();
        let mut pids = BTreeSet::new();
        for port in ports {
            pids.extend(
                Self::on_port(port)?
                    .into_iter()
                    .flat_map(|found| found.pids),
            );
        }
        Ok((!pids.is_empty()).then(|| Self::of(pids)))
    }

    /// Their numbers, in order.
    pub fn pids(&self) -> &[u32] {
        &self.pids
    }

    /// What they have used until now.
    ///
    /// # Errors
    /// Where one of them is gone.
    pub fn snapshot(&self) -> io::Result<Snapshot> {
        let processes = self.pids.iter().map(|&pid| {
            let process = Process::read(&self.proc.join(pid.to_string()));
            process
                .map(|process| (pid, process))
                .map_err(|error| io::Error::new(error.kind(), format!("process {pid}: {error}")))
        });
        processes.collect::<io::Result<_>>().map(Snapshot)
    }

    /// What they have used since `start`.
    ///
    /// # Errors
    /// Where one of them is gone.
    pub fn usage_since(&self, start: &Snapshot) -> io::Result<Usage> {
        let end = self.snapshot()?;
        let mut usage = Usage {
            cpu: Duration::ZERO,
            peak_resident: 0,
            anonymous: 0,
            pids: self.pids.clone(),
        };
        for (pid, process) in &end.0 {
            usage.cpu += match start.0.get(pid) {
                Some(before) => process.since(before),
                None => process.ticks,
            };
            let status = fs::read_to_string(self.proc.join(pid.to_string()).join("status"))?;
            usage.peak_resident += kilobytes(&status, "VmHWM:");
            usage.anonymous += kilobytes(&status, "RssAnon:");
        }
        Ok(usage)
    }
}

impl Process {
    fn read(folder: &Path) -> io::Result<Self> {
        let stat = fs::read_to_string(folder.join("stat"))?;
        let ticks = ticks(&stat).ok_or(io::ErrorKind::InvalidData)?;
        let mut threads = BTreeMap::new();
        for entry in fs::read_dir(folder.join("task"))? {
            let path = entry?.path();
            let Ok(text) = fs::read_to_string(path.join("schedstat")) else {
                continue; // it has just ended
            };
            let nanos = text.split(' ').next().and_then(|text| text.parse().ok());
            if let (Some(thread), Some(nanos)) = (pid(&path), nanos) {
                threads.insert(thread, Duration::from_nanos(nanos));
            }
        }
        Ok(Self {
            threads,
            ticks: TICK * u32::try_from(ticks).unwrap_or(u32::MAX),
        })
    }

    fn since(&self, before: &Self) -> Duration {
        let all_there = before
            .threads
            .keys()
            .all(|thread| self.threads.contains_key(thread));
        if !all_there || self.threads.is_empty() {
            return self.ticks.saturating_sub(before.ticks);
        }
        let used = self.threads.iter().map(|(thread, time)| {
            let before = before.threads.get(thread).copied().unwrap_or_default();
            time.saturating_sub(before)
        });
        used.sum()
    }
}

/// Whether a URL's host is a loopback address or a name of it (RFC 6761 6.3).
fn is_here(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// The number that a folder of `/proc`, or of a `task`, is named by.
fn pid(path: &Path) -> Option<u32> {
    path.file_name()?.to_str()?.parse().ok()
}

/// The inodes of sockets on this port in a table of `/proc/net`.
fn inodes(table: &str, port: u16, listening: bool) -> Vec<u64> {
    let of_line = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (_, local) = fields.nth(1)?.rsplit_once(':')?;
        let state = fields.nth(1)?;
        let inode = fields.nth(5)?.parse().ok()?;
        let is_ours = u16::from_str_radix(local, 16) == Ok(port);
        (is_ours && (!listening || state == LISTENING) && inode != 0).then_some(inode)
    };
    table.lines().skip(1).filter_map(of_line).collect()
}

/// Whether a process has one of these sockets open. Those of other users may not be looked into.
fn holds(process: &Path, sockets: &BTreeSet<u64>) -> bool {
    let Ok(files) = fs::read_dir(process.join("fd")) else {
        return false;
    };
    files.flatten().any(|file| {
        let target = fs::read_link(file.path()).unwrap_or_default();
        let name = target.to_str().and_then(|text| {
            text.strip_prefix("socket:[")?
                .strip_suffix(']')?
                .parse()
                .ok()
        });
        name.is_some_and(|inode| sockets.contains(&inode))
    })
}

/// User and system time (fields 14 and 15). The name before them may hold spaces and brackets.
fn ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    user.checked_add(system)
}

/// A line of `status`, in bytes; zero where there is none.
fn kilobytes(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|text| text.split_ascii_whitespace().next()?.parse().ok());
    number.map_or(0, |kilobytes: u64| kilobytes.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found_by_its_port_and_seen_to_work() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let found = Processes::on_port(port).unwrap().unwrap();
        assert_eq!(found, Processes::own());
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        assert_eq!(Processes::on_port(port).unwrap(), Some(Processes::own()));

        let start = found.snapshot().unwrap();
        let mut sum = 0_u64;
        while found.usage_since(&start).unwrap().cpu.is_zero() {
            sum = (0..1_000_000).fold(sum, |sum, n| std::hint::black_box(sum ^ n));
        }
        let usage = found.usage_since(&start).unwrap();
        assert!(usage.peak_resident > 0 && usage.anonymous > 0, "{usage:?}");
        assert_eq!(usage.pids, [std::process::id()]);
    }

    #[test]
    fn a_server_is_found_by_its_url_on_this_host_only() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let found = |host: &str| {
            let url = Url::parse(&format!("http://{host}:{port}/")).unwrap();
            Processes::serving([&url]).unwrap()
        };
        assert_eq!(found("127.0.0.1"), Some(Processes::own()));
        assert_eq!(found("localhost"), Some(Processes::own()));
        assert_eq!(found("192.0.2.1"), None);
        assert_eq!(found("localhost.example"), None);
        assert_eq!(Processes::serving([]).unwrap(), None);
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        let gone = Processes::of([u32::MAX]);
        let error = gone.snapshot().unwrap_err();
        assert!(
            error.to_string().starts_with("process 4294967295: "),
            "{error}"
        );
    }

    #[test]
    fn a_socket_on_the_port_that_does_not_listen_is_not_the_servers() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            \x20  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1\n\
            \x20  1: 0100007F:1F90 0100007F:C000 01 00000000:00000000 00:00000000 00000000     0        0 12 1\n\
            \x20  2: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 13 1\n";
        assert_eq!(inodes(table, 8080, true), [11]);
        assert_eq!(inodes(table, 8080, false), [11, 12]);
    }

    #[test]
    fn times_are_read_past_a_name_of_any_kind() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 0 1 2 3 4 250 50 9 9 20 0 1";
        assert_eq!(ticks(stat), Some(300));
    }

    #[test]
    fn threads_that_end_are_counted_by_the_process() {
        let process = |threads: &[(u32, u64)], ticks| Process {
            threads: threads
                .iter()
                .map(|(thread, ms)| (*thread, Duration::from_millis(*ms)))
                .collect(),
            ticks: Duration::from_millis(ticks),
        };
        let before = process(&[(1, 5), (2, 7)], 10);
        let grown = process(&[(1, 6), (2, 9), (3, 4)], 20);
        assert_eq!(grown.since(&before), Duration::from_millis(1 + 2 + 4));
        let ended = process(&[(1, 6)], 50);
        assert_eq!(ended.since(&before), Duration::from_millis(40));
    }
}
