//! A QUIC endpoint for one worker, by quinn.

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;

use conf::RequestLimits;
use quinn::{EndpointConfig, IdleTimeout, ServerConfig, TokioRuntime, TransportConfig, VarInt};

use super::socket::Gathering;
use crate::tls::Tls;

/// Bytes in flight and unsent on one connection: enough for 100 Mb/s over 160 ms. Less starves long fat paths, more
/// keeps the urgent waiting and memory busy.
const SEND_WINDOW: u64 = 2 << 20;

/// What a client may send on one stream before it is read: licence challenges at most.
pub(super) const STREAM_RECEIVE_WINDOW: u32 = 64 << 10;

/// The same for all streams of a connection.
const RECEIVE_WINDOW: u32 = 512 << 10;

/// A client's control stream, its two QPACK streams, and some that only grease.
const UNIDIRECTIONAL_STREAMS: u32 = 8;

/// An endpoint on this socket, driven by the current runtime.
pub(crate) fn endpoint(
    udp: UdpSocket,
    tls: &Tls,
    limits: &RequestLimits,
) -> io::Result<quinn::Endpoint> {
    let mut transport = TransportConfig::default();
    transport
        .send_window(SEND_WINDOW)
        .stream_receive_window(VarInt::from_u32(STREAM_RECEIVE_WINDOW))
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW))
        .max_concurrent_bidi_streams(VarInt::from_u32(limits.streams))
        .max_concurrent_uni_streams(VarInt::from_u32(UNIDIRECTIONAL_STREAMS))
        .max_idle_timeout(IdleTimeout::try_from(limits.idle_timeout).ok())
        .datagram_receive_buffer_size(None)
        // One system call for many packets: without it throughput falls to less than a third.
        .enable_segmentation_offload(true);
    let mut config = ServerConfig::with_crypto(tls.quic());
    config
        .transport_config(Arc::new(transport))
        // Workers share the port by the hash of both addresses: a client that moves reaches another worker.
        .migration(false);
    quinn::Endpoint::new_with_abstract_socket(
        EndpointConfig::default(),
        Some(config),
        Gathering::new(udp)?,
        Arc::new(TokioRuntime),
    )
}
