//! What lies between a socket and the bytes of a protocol: nothing, or TLS.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, SendFlags};
use rustls::ClientConfig;
use rustls::client::UnbufferedClientConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls_pki_types::ServerName;

use super::tcp::{Fault, Speaker};
use super::{STALL, Tally};

/// Bytes taken from a socket by one call. Beyond the caches' size a larger one gains nothing.
const PIECE: usize = 64 << 10;

/// From this on a body is dropped in the kernel, which costs a call of its own but no copy.
const WORTH_DROPPING: u64 = 32 << 10;

/// Bytes dropped by one call: several answers' worth, so that a socket is soon left for the next.
const DROPPED_AT_ONCE: usize = 4 << 20;

/// A TLS record with its header and tag (RFC 8446 5.2).
const RECORD_LIMIT: usize = (16 << 10) + 256 + 5;

/// Buffers that the connections of a thread share, one after the other.
pub(super) struct Scratch {
    piece: Vec<u8>,
    /// Only its length matters: the kernel writes nothing into it, so its pages are never made.
    dropped: Vec<u8>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            piece: vec![0; PIECE],
            dropped: vec![0; DROPPED_AT_ONCE],
        }
    }
}

/// One connection's transport.
pub(super) struct Wire {
    pub(super) socket: TcpStream,
    tls: Option<Box<Tls>>,
}

/// What a look at the socket found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// Something came.
    Some,
    /// Nothing, for now.
    Nothing,
    /// The server is done with the connection.
    End,
}

impl Wire {
    /// Connects, with a TLS handshake where a configuration is given. Blocks.
    pub(super) fn connect(
        address: SocketAddr,
        tls: Option<(&Arc<ClientConfig>, &ServerName<'static>)>,
    ) -> io::Result<Self> {
        let socket = TcpStream::connect_timeout(&address, STALL)?;
        socket.set_nodelay(true)?;
        let Some((config, name)) = tls else {
            return Ok(Self { socket, tls: None });
        };
        let connection = UnbufferedClientConnection::new(Arc::clone(config), name.clone());
        let mut tls = Tls {
            connection: connection.map_err(io::Error::other)?,
            incoming: vec![0; PIECE + RECORD_LIMIT],
            filled: 0,
            outgoing: Vec::new(),
        };
        tls.shake_hands(&socket)?;
        // A server without ALPN would be spoken to in the wrong protocol.
        if tls.connection.alpn_protocol() != config.alpn_protocols.first().map(Vec::as_slice) {
            return Err(io::Error::other(
                "the server did not agree to the protocol (ALPN)",
            ));
        }
        Ok(Self {
            socket,
            tls: Some(Box::new(tls)),
        })
    }

    /// Sends what the protocol has to say; small, so that it may block.
    pub(super) fn send(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        match &mut self.tls {
            None => send_all(&self.socket, bytes)?,
            Some(tls) => tls.send(&self.socket, bytes)?,
        }
        bytes.clear();
        Ok(())
    }

    /// Takes what the socket has, once, and tells the protocol.
    pub(super) fn receive(
        &mut self,
        scratch: &mut Scratch,
        speaker: &mut dyn Speaker,
        tally: &mut Tally,
    ) -> Result<Found, Fault> {
        if let Some(tls) = &mut self.tls {
            return tls.receive(&self.socket, speaker, tally);
        }
        let skippable = speaker.skippable();
        if skippable >= WORTH_DROPPING {
            let most =
                usize::try_from(skippable).map_or(DROPPED_AT_ONCE, |len| len.min(DROPPED_AT_ONCE));
            let buffer = &mut scratch.dropped[..most];
            let len = take(&self.socket, buffer, RecvFlags::TRUNC)?;
            return Ok(match len {
                None => Found::Nothing,
                Some(0) => Found::End,
                Some(len) => {
                    speaker.skip(len as u64, Instant::now(), tally);
                    Found::Some
                }
            });
        }
        Ok(
            match take(&self.socket, &mut scratch.piece, RecvFlags::empty())? {
                None => Found::Nothing,
                Some(0) => Found::End,
                Some(len) => {
                    speaker.receive(&scratch.piece[..len], Instant::now(), tally)?;
                    Found::Some
                }
            },
        )
    }
}

/// Takes what is there; `None` where nothing is.
fn take(socket: &TcpStream, buffer: &mut [u8], flags: RecvFlags) -> io::Result<Option<usize>> {
    match rustix::net::recv(socket, buffer, flags | RecvFlags::DONTWAIT) {
        Ok((_, len)) => Ok(Some(len)),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn send_all(socket: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::net::send(socket, bytes, SendFlags::NOSIGNAL) {
            Ok(len) => bytes = &bytes[len..],
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// A TLS session whose records are taken from the socket several at a time, which rustls's own buffer does not do.
struct Tls {
    connection: UnbufferedClientConnection,
    incoming: Vec<u8>,
    filled: usize,
    /// Handshake messages on their way out.
    outgoing: Vec<u8>,
}

/// What a session wants after it has looked at all that came.
enum Wants {
    /// More records.
    Records,
    /// Nothing more: the peer has closed it.
    Nothing,
}

impl Tls {
    fn shake_hands(&mut self, socket: &TcpStream) -> io::Result<()> {
        let deadline = Instant::now() + STALL;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        while self.connection.is_handshaking() {
            if Instant::now() > deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            if let Wants::Nothing = self
                .process(socket, &mut |_| Ok(()))
                .map_err(io::Error::other)?
            {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if !self.connection.is_handshaking() {
                break;
            }
            match rustix::net::recv(
                socket,
                &mut self.incoming[self.filled..],
                RecvFlags::empty(),
            ) {
                Ok((_, 0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((_, len)) => self.filled += len,
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        socket.set_read_timeout(None)
    }

    fn send(&mut self, socket: &TcpStream, bytes: &[u8]) -> io::Result<()> {
        let UnbufferedStatus { state, .. } = self.connection.process_tls_records(&mut []);
        let ConnectionState::WriteTraffic(mut writer) = state.map_err(io::Error::other)? else {
            return Err(io::Error::other("the TLS session takes no requests"));
        };
        self.outgoing.resize(bytes.len() + 1024, 0);
        let len = loop {
            match writer.encrypt(bytes, &mut self.outgoing) {
                Ok(len) => break len,
                Err(EncryptError::InsufficientSize(needed)) => {
                    self.outgoing.resize(needed.required_size, 0);
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        };
        let sent = send_all(socket, &self.outgoing[..len]);
        self.outgoing.clear();
        sent
    }

    fn receive(
        &mut self,
        socket: &TcpStream,
        speaker: &mut dyn Speaker,
        tally: &mut Tally,
    ) -> Result<Found, Fault> {
        match take(
            socket,
            &mut self.incoming[self.filled..],
            RecvFlags::empty(),
        )? {
            None => return Ok(Found::Nothing),
            Some(0) => return Ok(Found::End),
            Some(len) => self.filled += len,
        }
        let now = Instant::now();
        let mut tell = |bytes: &[u8]| match speaker.skippable() {
            whole if whole >= bytes.len() as u64 => {
                speaker.skip(bytes.len() as u64, now, tally);
                Ok(())
            }
            _ => speaker.receive(bytes, now, tally),
        };
        match self.process(socket, &mut tell)? {
            Wants::Records => Ok(Found::Some),
            Wants::Nothing => Ok(Found::End),
        }
    }

    /// Works through the records that are there and hands on what they say.
    fn process(
        &mut self,
        socket: &TcpStream,
        tell: &mut dyn FnMut(&[u8]) -> Result<(), Fault>,
    ) -> Result<Wants, Fault> {
        let mut start = 0;
        let wants = loop {
            let records = &mut self.incoming[start..self.filled];
            let UnbufferedStatus { mut discard, state } =
                self.connection.process_tls_records(records);
            let mut wants = None;
            match state.map_err(io::Error::other)? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(io::Error::other)?;
                        discard += record.discard;
                        tell(record.payload)?;
                    }
                }
                ConnectionState::EncodeTlsData(mut data) => {
                    let at = self.outgoing.len();
                    self.outgoing.resize(at + RECORD_LIMIT, 0);
                    let len = loop {
                        match data.encode(&mut self.outgoing[at..]) {
                            Ok(len) => break len,
                            Err(EncodeError::InsufficientSize(needed)) => {
                                self.outgoing.resize(at + needed.required_size, 0);
                            }
                            Err(error) => return Err(io::Error::other(error).into()),
                        }
                    };
                    self.outgoing.truncate(at + len);
                }
                ConnectionState::TransmitTlsData(data) => {
                    send_all(socket, &self.outgoing)?;
                    self.outgoing.clear();
                    data.done();
                }
                ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_) => {
                    wants = Some(Wants::Records);
                }
                ConnectionState::PeerClosed | ConnectionState::Closed => {
                    wants = Some(Wants::Nothing);
                }
                _ => return Err(io::Error::other("a state of TLS that no client has").into()),
            }
            start += discard;
            if let Some(wants) = wants {
                break wants;
            }
        };
        self.incoming.copy_within(start..self.filled, 0);
        self.filled -= start;
        Ok(wants)
    }
}
