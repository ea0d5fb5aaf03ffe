//! The limits of a core: one pass over memory that lies in no cache, one write to a socket on loopback, and nothing else.
//!
//! For TLS the pass is AES-128-GCM by the provider that the origin uses; for what is encrypted without TLS it is a copy,
//! which no cipher undercuts. A static server does neither: `sendfile` lends the kernel its own pages.

use std::io::{self, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustix::net::RecvFlags;

use crate::bench::Failure;
use crate::bench::cores::Cores;

/// Plaintext of a full record (RFC 8446 5.1).
const RECORD: usize = 16 << 10;
/// Records of one write: as much as a server hands to the kernel at once.
const RECORDS: usize = 16;
const HEADER: [u8; 5] = [0x17, 3, 3, 0x40, 0x11];
const TAG: usize = 16;

/// What is sealed. Larger than the processor's caches, as film is.
const SOURCE: usize = 64 << 20;

/// What a thread does that is as fast as can be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Limit {
    /// Seals records and writes them.
    Sealing,
    /// Copies and writes.
    Copying,
}

impl Limit {
    /// 10^6 bytes of body for each second of the thread's processor time.
    pub(super) fn measure(self, cores: Cores, duration: Duration) -> Result<f64, Failure> {
        match self {
            Self::Sealing => writing(cores, duration, seal_and_write),
            Self::Copying => writing(cores, duration, copy_and_write),
        }
    }
}

/// Runs a writer on the server's core, with a reader on the client's.
fn writing(
    cores: Cores,
    duration: Duration,
    write: fn(TcpStream, Duration) -> io::Result<f64>,
) -> Result<f64, Failure> {
    let failed = |error| Failure::asking("a socket on loopback", error);
    let listener = TcpListener::bind("127.0.0.1:0").map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    std::thread::scope(|scope| {
        let writing = scope.spawn(move || {
            cores.stay_server()?;
            write(TcpStream::connect(address)?, duration)
        });
        let drained = listener.accept().and_then(|(socket, _)| drain(&socket));
        let written = writing
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("it broke down")));
        drained.and(written)
    })
    .map_err(failed)
}

fn source() -> Vec<u8> {
    (0_u32..).map(|n| n.to_le_bytes()[0]).take(SOURCE).collect()
}

fn copy_and_write(mut socket: TcpStream, duration: Duration) -> io::Result<f64> {
    let source = source();
    let mut out = vec![0; RECORDS * RECORD];
    let mut pieces = source.chunks_exact(out.len()).cycle();
    let end = Instant::now() + duration;
    let (before, mut bytes) = (own_cpu()?, 0_u64);
    while Instant::now() < end {
        let Some(piece) = pieces.next() else { break };
        out.copy_from_slice(piece);
        socket.write_all(&out)?;
        bytes += out.len() as u64;
    }
    Ok(rate(bytes, own_cpu()?.saturating_sub(before)) / 1e6)
}

/// How many for each second.
#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
pub(super) fn rate(count: u64, used: Duration) -> f64 {
    count as f64 / used.as_secs_f64().max(f64::EPSILON)
}

fn seal_and_write(mut socket: TcpStream, duration: Duration) -> io::Result<f64> {
    let key = UnboundKey::new(&AES_128_GCM, &[7; 16]).map_err(refused)?;
    let key = LessSafeKey::new(key);
    let source = source();
    let mut out = vec![0; RECORDS * (HEADER.len() + RECORD + 1 + TAG)];
    let mut sequence = 0_u64;
    let mut pieces = source.chunks_exact(RECORD).cycle();
    let end = Instant::now() + duration;
    let (before, mut bytes) = (own_cpu()?, 0_u64);
    while Instant::now() < end {
        for record in out.chunks_exact_mut(HEADER.len() + RECORD + 1 + TAG) {
            let Some(piece) = pieces.next() else { break };
            let (header, rest) = record.split_at_mut(HEADER.len());
            let (text, tag) = rest.split_at_mut(RECORD + 1);
            header.copy_from_slice(&HEADER);
            text[..RECORD].copy_from_slice(piece);
            // The inner content type: application data (RFC 8446 5.2).
            text[RECORD] = 0x17;
            let mut nonce = [0; 12];
            nonce[4..].copy_from_slice(&sequence.to_be_bytes());
            sequence += 1;
            let sealed = key.seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(HEADER),
                text,
            );
            tag.copy_from_slice(sealed.map_err(refused)?.as_ref());
            bytes += RECORD as u64;
        }
        socket.write_all(&out)?;
    }
    Ok(rate(bytes, own_cpu()?.saturating_sub(before)) / 1e6)
}

fn refused(_: ring::error::Unspecified) -> io::Error {
    io::Error::other("the provider does not seal")
}

/// Takes all that comes, and lets the kernel drop it.
fn drain(socket: &TcpStream) -> io::Result<()> {
    let mut dropped = vec![0; 4 << 20];
    loop {
        match rustix::net::recv(socket, &mut dropped[..], RecvFlags::TRUNC) {
            Ok((_, 0)) => return Ok(()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Processor time of this thread.
pub(super) fn own_cpu() -> io::Result<Duration> {
    let text = std::fs::read_to_string(Path::new("/proc/thread-self/schedstat"))?;
    let nanos = text.split(' ').next().and_then(|nanos| nanos.parse().ok());
    nanos
        .map(Duration::from_nanos)
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_writes_and_another_drains() {
        if let Ok(cores) = Cores::pick() {
            for limit in [Limit::Sealing, Limit::Copying] {
                let rate = limit.measure(cores, Duration::from_millis(50)).unwrap();
                assert!(rate > 1.0, "{limit:?}: {rate} MB/CPU-s");
            }
        }
    }
}
