//! A UDP socket that counts what it sends, and says when the kernel does not segment.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use metrics::{Counter, Gauge};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime as _, TokioRuntime, UdpPoller};

/// quinn's socket, counted.
#[derive(Debug)]
pub(super) struct Counted {
    socket: Arc<dyn AsyncUdpSocket>,
    datagrams: Counter,
    calls: Counter,
    segments: Gauge,
    /// Whether the kernel cuts what one call sends into datagrams (UDP_SEGMENT).
    segmenting: AtomicBool,
}

impl Counted {
    /// Takes over a socket, for the current runtime.
    pub(super) fn new(udp: UdpSocket) -> io::Result<Arc<Self>> {
        let socket = TokioRuntime.wrap_udp_socket(udp)?;
        let counted = Self {
            datagrams: metrics::counter!("castellum_quic_datagrams_sent_total"),
            calls: metrics::counter!("castellum_quic_send_calls_total"),
            segments: metrics::gauge!("castellum_quic_segmentation_offload"),
            segmenting: AtomicBool::new(true),
            socket,
        };
        counted.segments.set(1);
        counted.look_at_segmentation();
        Ok(Arc::new(counted))
    }

    /// quinn stops asking for segmentation once a call with it has failed. Every worker finds out for itself, and one
    /// is enough for the gauge to fall.
    fn look_at_segmentation(&self) {
        if self.socket.max_transmit_segments() > 1
            || !self.segmenting.swap(false, Ordering::Relaxed)
        {
            return;
        }
        self.segments.set(0);
        tracing::warn!(
            "the kernel does not segment UDP (UDP_SEGMENT): HTTP/3 takes three times the processor time"
        );
    }
}

impl AsyncUdpSocket for Counted {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send(transmit)?;
        let len = transmit.contents.len();
        let datagrams = len.div_ceil(transmit.segment_size.unwrap_or(len).max(1));
        self.datagrams.increment(datagrams as u64);
        self.calls.increment(1);
        if self.segmenting.load(Ordering::Relaxed) {
            self.look_at_segmentation();
        }
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
