//! A UDP socket that sends many datagrams with one system call, counts them, and says when the kernel does not segment.
//!
//! quinn hands over ten datagrams at a time, the kernel would take 64. So what goes to one address in datagrams of one
//! size is gathered until no more comes: until every task that was ready to run has run.

use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};

use metrics::{Counter, Gauge};
use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime as _, TokioRuntime, UdpPoller};
use tokio::runtime::Handle;

/// quinn's socket behind a [`Batch`].
#[derive(Debug)]
pub(super) struct Gathering {
    socket: Arc<dyn AsyncUdpSocket>,
    batch: Mutex<Batch>,
    /// Itself, and what it runs on: each batch has a task that sends it.
    this: Weak<Self>,
    runtime: Handle,
    datagrams: Counter,
    calls: Counter,
    offload: Gauge,
    /// Whether the kernel cuts what one call sends into datagrams (UDP_SEGMENT).
    segments: AtomicBool,
}

/// Datagrams of one size for one address, but for the last, which may be shorter.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    datagrams: usize,
    to: Option<To>,
}

/// What all datagrams of a call have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct To {
    destination: SocketAddr,
    ecn: Option<EcnCodepoint>,
    segment_size: usize,
    src_ip: Option<IpAddr>,
}

/// Datagrams that the kernel takes with one call (UDP_MAX_SEGMENTS before Linux 6.9).
const MAX_DATAGRAMS: usize = 64;

/// Bytes that it takes with one call: the payload of the largest IPv4 packet with some options.
const MAX_BYTES: usize = 65_487;

/// How often those that are ready to run may run before the batch goes: quinn hands over twenty datagrams each time.
const ROUNDS: usize = 2;

impl Gathering {
    /// Takes over a socket, for the current runtime.
    pub(super) fn new(udp: UdpSocket) -> io::Result<Arc<Self>> {
        let socket = TokioRuntime.wrap_udp_socket(udp)?;
        let gathering = Arc::new_cyclic(|this| Self {
            batch: Mutex::default(),
            this: Weak::clone(this),
            runtime: Handle::current(),
            datagrams: metrics::counter!("castellum_quic_datagrams_sent_total"),
            calls: metrics::counter!("castellum_quic_send_calls_total"),
            offload: metrics::gauge!("castellum_quic_segmentation_offload"),
            segments: AtomicBool::new(true),
            socket,
        });
        gathering.offload.set(1);
        gathering.look_at_offload();
        Ok(gathering)
    }

    fn lock(&self) -> MutexGuard<'_, Batch> {
        self.batch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the batch, which is empty afterwards unless the socket is full.
    fn send_batch(&self, batch: &mut Batch) -> io::Result<()> {
        let Some(to) = batch.to else {
            return Ok(());
        };
        let transmit = Transmit {
            destination: to.destination,
            ecn: to.ecn,
            contents: &batch.bytes,
            segment_size: (batch.datagrams > 1).then_some(to.segment_size),
            src_ip: to.src_ip,
        };
        match self.send(&transmit, batch.datagrams) {
            Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => return Err(fault),
            // What cannot be sent is lost, as it might be anywhere on its way.
            Ok(()) | Err(_) => {}
        }
        batch.clear();
        Ok(())
    }

    fn send(&self, transmit: &Transmit<'_>, datagrams: usize) -> io::Result<()> {
        self.socket.try_send(transmit)?;
        self.datagrams.increment(datagrams as u64);
        self.calls.increment(1);
        if self.segments.load(Ordering::Relaxed) {
            self.look_at_offload();
        }
        Ok(())
    }

    /// quinn stops asking for segmentation once a call with it has failed, whose datagrams are lost as on any path.
    /// Every worker finds out for itself, and one is enough for the gauge to fall.
    fn look_at_offload(&self) {
        if self.socket.max_transmit_segments() > 1 || !self.segments.swap(false, Ordering::Relaxed)
        {
            return;
        }
        self.offload.set(0);
        tracing::warn!(
            "the kernel does not segment UDP (UDP_SEGMENT): HTTP/3 takes three times the processor time"
        );
    }
}

/// Sends what has been gathered when nothing is added to it any more.
async fn send_soon(gathering: Arc<Gathering>) {
    for _ in 0..ROUNDS {
        let mut has_run = false;
        let others_first = poll_fn(|context| {
            if std::mem::replace(&mut has_run, true) {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        });
        others_first.await;
    }
    let mut poller = Arc::clone(&gathering.socket).create_io_poller();
    loop {
        let sent = gathering.send_batch(&mut gathering.lock());
        match sent {
            Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => {
                let _ = poll_fn(|context| poller.as_mut().poll_writable(context)).await;
            }
            Ok(()) | Err(_) => return,
        }
    }
}

impl AsyncUdpSocket for Gathering {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let mut batch = self.lock();
        let to = To {
            destination: transmit.destination,
            ecn: transmit.ecn,
            segment_size: transmit.segment_size.unwrap_or(transmit.contents.len()),
            src_ip: transmit.src_ip,
        };
        if !batch.takes(&to, transmit.contents.len()) {
            self.send_batch(&mut batch)?;
        }
        let datagrams = transmit.contents.len().div_ceil(to.segment_size.max(1));
        if (datagrams < 2 && batch.to.is_none()) || !self.segments.load(Ordering::Relaxed) {
            // Alone it would only be late; and without segmentation there is nothing to gather for.
            return self.send(transmit, datagrams);
        }
        if batch.to.is_none() {
            batch.to = Some(to);
            if let Some(this) = self.this.upgrade() {
                self.runtime.spawn(send_soon(this));
            }
        }
        batch.bytes.extend_from_slice(transmit.contents);
        batch.datagrams += datagrams;
        Ok(())
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.socket.poll_recv(context, buffers, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

impl Batch {
    fn clear(&mut self) {
        self.bytes.clear();
        self.datagrams = 0;
        self.to = None;
    }

    /// Whether datagrams may be added: nothing can follow a shorter one.
    fn takes(&self, more: &To, len: usize) -> bool {
        let Some(to) = &self.to else {
            return true;
        };
        let fits = To {
            segment_size: to.segment_size,
            ..*more
        } == *to;
        let datagrams = len.div_ceil(more.segment_size.max(1));
        fits && more.segment_size <= to.segment_size
            && (more.segment_size == to.segment_size || datagrams == 1)
            && self.bytes.len() == self.datagrams * to.segment_size
            && self.bytes.len() + len <= MAX_BYTES
            && self.datagrams + datagrams <= MAX_DATAGRAMS
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("to", &self.to)
            .field("datagrams", &self.datagrams)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    /// The kernel's side: what comes out of the socket, datagram by datagram.
    fn received(socket: &UdpSocket, count: usize) -> Vec<Vec<u8>> {
        socket
            .set_read_timeout(Some(std::time::Duration::from_secs(20)))
            .unwrap();
        let datagram = |_| {
            let mut bytes = vec![0; 2000];
            let len = socket.recv(&mut bytes).unwrap();
            bytes.truncate(len);
            bytes
        };
        (0..count).map(datagram).collect()
    }

    fn transmit(contents: &[u8], destination: SocketAddr, segment_size: usize) -> Transmit<'_> {
        Transmit {
            destination,
            ecn: None,
            contents,
            segment_size: (contents.len() > segment_size).then_some(segment_size),
            src_ip: None,
        }
    }

    #[tokio::test]
    async fn what_is_gathered_arrives_whole_and_in_order() {
        let loopback = (Ipv4Addr::LOCALHOST, 0);
        let sending = UdpSocket::bind(loopback).unwrap();
        sending.set_nonblocking(true).unwrap();
        let gathering = Gathering::new(sending).unwrap();
        let mut poller = Arc::clone(&gathering).create_io_poller();
        poll_fn(|context| poller.as_mut().poll_writable(context))
            .await
            .unwrap();
        let receivers = [0, 1].map(|_| UdpSocket::bind(loopback).unwrap());
        let to = [0, 1].map(|at: usize| receivers[at].local_addr().unwrap());
        let bytes: Vec<u8> = (0..30_000_u32).map(|at| at.to_le_bytes()[0]).collect();
        // Ten full ones, twenty of which the last is short, what cannot follow it, another size, another address,
        // one alone, and some behind
        // which nothing comes.
        let sent = [
            (0, &bytes[..10_000], 1000),
            (0, &bytes[..19_500], 1000),
            (0, &bytes[..2000], 1000),
            (0, &bytes[..3000], 1200),
            (1, &bytes[..5000], 1000),
            (1, &bytes[..700], 1000),
            (0, &bytes[..900], 1000),
            (0, &bytes[..3000], 1000),
        ];
        let mut expected = [Vec::new(), Vec::new()];
        for (receiver, contents, size) in sent {
            gathering
                .try_send(&transmit(contents, to[receiver], size))
                .unwrap();
            expected[receiver].extend(contents.chunks(size).map(<[u8]>::to_vec));
        }
        // The last batch goes by itself.
        while gathering.lock().to.is_some() {
            tokio::task::yield_now().await;
        }
        for (receiver, expected) in receivers.iter().zip(&expected) {
            assert!(received(receiver, expected.len()) == *expected);
        }
    }

    #[test]
    fn a_batch_takes_what_one_call_can_send() {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let to = |segment_size| To {
            destination: address,
            ecn: None,
            segment_size,
            src_ip: None,
        };
        let batch = |datagrams, short| Batch {
            bytes: vec![0; datagrams * 1000 - short],
            datagrams,
            to: Some(to(1000)),
        };
        assert!(Batch::default().takes(&to(1000), 10_000));
        assert!(batch(20, 0).takes(&to(1000), 10_000));
        assert!(batch(20, 0).takes(&to(900), 900), "a last, shorter one");
        assert!(!batch(20, 1).takes(&to(1000), 1000), "behind a short one");
        assert!(!batch(20, 0).takes(&to(900), 1800), "several shorter ones");
        assert!(
            !batch(20, 0).takes(&to(500), 1000),
            "two that fill one's place"
        );
        assert!(!batch(20, 0).takes(&to(1001), 1001), "a longer one");
        assert!(batch(54, 0).takes(&to(1000), 10_000));
        assert!(!batch(55, 0).takes(&to(1000), 10_000), "over 64");
        let elsewhere = To {
            destination: SocketAddr::from((Ipv4Addr::LOCALHOST, 2)),
            ..to(1000)
        };
        assert!(!batch(20, 0).takes(&elsewhere, 1000));
        let large = Batch {
            bytes: vec![0; 44 * 1452],
            datagrams: 44,
            to: Some(to(1452)),
        };
        assert!(large.takes(&to(1452), 1452));
        assert!(!large.takes(&to(1452), 2 * 1452), "over 65,487 bytes");
    }
}
