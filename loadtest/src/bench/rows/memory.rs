//! What the origin holds for a segment whose viewer does not read.

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
        #[expect(clippy::cast_precision_loss, reason = "megabytes for people")]
        figures.push((with.saturating_sub(without) / viewers.len().max(1) as u64) as f64 / 1e6);
    }
    Ok(figures.into())
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
