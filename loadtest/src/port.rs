//! Ports that are chosen ahead of the server which then listens on them, as its configuration has to name them.
//!
//! A port that `bind` gives for 0 is a bad choice: once it is given back it is one of those that the kernel gives to
//! outgoing connections (`net.ipv4.ip_local_port_range`, ip(7)), and whoever connects somewhere before the server
//! listens may get it.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{fs, io, process};

/// The lowest port that is chosen: well-known servers have theirs below.
const LOWEST: u16 = 10_000;

/// How far the first choices of processes with successive ids are apart.
const APART: usize = 101;

/// A port of loopback that nobody listens on, TCP or UDP, and that no outgoing connection gets.
///
/// No two calls in a process return the same port until all have had their turn, and processes begin at different places,
/// so that what runs at once hardly ever wants the same. On a machine whose outgoing connections may have any port, so
/// may they have this one.
///
/// # Errors
/// [`io::ErrorKind::AddrInUse`] where all are taken.
pub fn free() -> io::Result<u16> {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let outgoing = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let outgoing = outgoing.split_whitespace().next();
    let end = outgoing
        .and_then(|first| first.parse().ok())
        .filter(|end| *end > LOWEST)
        .unwrap_or(u16::MAX);
    let ports: Vec<u16> = (LOWEST..end).collect();
    let begin = usize::try_from(process::id())
        .unwrap_or_default()
        .wrapping_mul(APART);
    (0..ports.len())
        .map(|_| {
            let place = begin.wrapping_add(CALLS.fetch_add(1, Ordering::Relaxed));
            ports[place % ports.len()]
        })
        .find(|port| {
            let here = (Ipv4Addr::LOCALHOST, *port);
            TcpListener::bind(here).is_ok() && UdpSocket::bind(here).is_ok()
        })
        .ok_or_else(|| io::Error::new(io::ErrorKind::AddrInUse, "all ports of loopback are taken"))
}
