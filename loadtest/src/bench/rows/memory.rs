//! What the origin holds for a segment whose viewer does not read.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::path::Path;

use rustix::net::{AddressFamily, SocketType, connect, socket, sockopt};
use url::Url;

use super::Measured;
use crate::bench::Failure;
use crate::bench::castellum::Castellum;
use crate::bench::goals::LADDER;
use crate::bench::series::Series;
use crate::bench::stage::{MANIFESTS, Stage};

/// Viewers at once.
const VIEWERS: usize = 256;

/// What the kernel takes in for a viewer: little, so that the segment stays with the origin.
const RECEIVE_BUFFER: usize = 16 << 10;

pub(super) fn measure(policy: &str, stage: &mut Stage) -> Result<Measured, Failure> {
    let (media, rounds) = (stage.plan().media.clone(), stage.plan().rounds);
    let folder = stage.folder();
    let castellum = stage.start(&media, &folder, MANIFESTS)?;
    let pictures = castellum.pictures(LADDER, policy)?;
    let segments = pictures.iter().max_by_key(|track| track.name.clone());
    let segments = segments
        .map(|track| track.segments.clone())
        .unwrap_or_default();
    let mut figures = Series::default();
    let mut queued = Series::default();
    for _ in 0..rounds {
        castellum.settle()?;
        let without = anonymous(&castellum)?;
        let viewers: io::Result<Vec<_>> = segments
            .iter()
            .cycle()
            .take(VIEWERS)
            .map(|segment| begin(castellum.plain, &segment.url))
            .collect();
        let viewers = viewers.map_err(|error| Failure::asking(LADDER, error))?;
        castellum.settle()?;
        let with = anonymous(&castellum)?;
        let table = fs::read_to_string("/proc/net/tcp");
        let table = table.map_err(|error| Failure::at(Path::new("/proc/net/tcp"), error))?;
        figures.push(megabytes_each(with.saturating_sub(without)));
        queued.push(megabytes_each(queued_by(&table, castellum.plain)));
        drop(viewers);
    }
    let note = queued.spread().map(|spread| {
        format!(
            "the kernel has taken {:.2} MB of each; the rest is still to be made",
            spread.median
        )
    });
    Ok(Measured {
        note,
        ..Measured::from(figures)
    })
}

#[expect(clippy::cast_precision_loss, reason = "megabytes for people")]
fn megabytes_each(bytes: u64) -> f64 {
    bytes as f64 / 1e6 / VIEWERS as f64
}

/// Bytes that sockets of this port have been given and not yet sent, by a table of `/proc/net`.
fn queued_by(table: &str, port: u16) -> u64 {
    let of_line = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (_, local) = fields.nth(1)?.rsplit_once(':')?;
        let (sending, _) = fields.nth(2)?.split_once(':')?;
        let is_ours = u16::from_str_radix(local, 16) == Ok(port);
        is_ours.then(|| u64::from_str_radix(sending, 16).ok())?
    };
    table.lines().filter_map(of_line).sum()
}

fn anonymous(castellum: &Castellum) -> Result<u64, Failure> {
    let processes = castellum.processes();
    let usage = processes
        .snapshot()
        .and_then(|start| processes.usage_since(&start));
    let usage = usage.map_err(|error| Failure::at(Path::new("/proc"), error))?;
    Ok(usage.anonymous)
}

/// Asks for a segment and reads no more than its begin.
fn begin(port: u16, url: &Url) -> io::Result<TcpStream> {
    let viewer = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    sockopt::set_socket_recv_buffer_size(&viewer, RECEIVE_BUFFER)?;
    connect(&viewer, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
    let mut viewer = TcpStream::from(viewer);
    let path = url.path();
    write!(
        viewer,
        "GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\r\n"
    )?;
    let mut begin = [0; 12];
    viewer.read_exact(&mut begin)?;
    if begin == *b"HTTP/1.1 200" {
        Ok(viewer)
    } else {
        Err(io::Error::other(
            String::from_utf8_lossy(&begin).into_owned(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_port_has_still_to_send_is_added_up() {
        let table = "  sl  local_address rem_address   st tx_queue:rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            \x20  0: 0100007F:1F90 0100007F:C000 01 00000010:00000001 00:00000000 00000000     0        0 11 1\n\
            \x20  1: 0100007F:1F90 0100007F:C001 01 00000001:00000000 00:00000000 00000000     0        0 12 1\n\
            \x20  2: 0100007F:C000 0100007F:1F90 01 00000100:00000000 00:00000000 00000000     0        0 13 1\n";
        assert_eq!(queued_by(table, 8080), 17);
    }
}
