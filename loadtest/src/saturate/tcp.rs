//! Many connections on one thread: whichever socket has something is read, and its protocol told.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;

use super::h1::{self, H1};
use super::h2::{self, H2};
use super::wire::{Found, Scratch, Wire};
use super::{Counters, Measured, Refused, STALL, Saturation, TICK, Tally, on_threads};
use crate::client::{Peer, Protocol};
use crate::recorder::Totals;

/// Sockets that are looked at before the clock is.
const READY_AT_ONCE: usize = 64;

/// A protocol on one connection, without I/O.
pub(super) trait Speaker {
    /// What is to be sent; the wire clears it when it has.
    fn outgoing(&mut self) -> &mut Vec<u8>;

    /// Takes bytes as they came.
    fn receive(&mut self, bytes: &[u8], now: Instant, tally: &mut Tally) -> Result<(), Fault>;

    /// How many of the bytes that come next need not be seen.
    fn skippable(&self) -> u64;

    /// Takes note of bytes that came and were not seen: no more than [`Speaker::skippable`].
    fn skip(&mut self, len: u64, now: Instant, tally: &mut Tally);

    /// Whether no answer has begun and not ended, so that a connection may close and nothing is lost.
    fn is_between_answers(&self) -> bool;

    /// Whether the server has announced that it answers no more here, and all it owed is there.
    fn is_done(&self) -> bool;
}

/// Why a connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The transport broke.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// An answer, but not 200; the connection goes on.
    #[error("status {0}")]
    Status(u16),
    /// An HTTP/2 answer whose status is none of the common ones.
    #[error("a status that is not 200")]
    UnknownStatus,
    /// Not the protocol, or more of it than is understood here.
    #[error("{0}")]
    Malformed(&'static str),
    /// The stream or the connection was given up by the server (RFC 9113 7).
    #[error("the server gave up with code {0}")]
    GivenUp(u32),
    /// It closed in the middle of an answer.
    #[error("the connection closed in the middle of an answer")]
    Cut,
    /// Nothing came for too long.
    #[error("nothing came for {} s", STALL.as_secs())]
    Stalled,
}

/// Runs the load over TCP.
pub(super) fn run(saturation: &Saturation, counters: &Counters) -> Result<Measured, Refused> {
    let plan = Plan::new(saturation)?;
    on_threads(
        saturation,
        |numbers| Lines::open(&plan, numbers),
        |lines| lines.run(saturation.duration, counters),
    )
}

/// How every connection is made.
struct Plan {
    address: SocketAddr,
    name: Option<ServerName<'static>>,
    tls: Arc<ClientConfig>,
    streams: usize,
    requests: Requests,
}

enum Requests {
    H1(Arc<[Vec<u8>]>),
    H2(Arc<[Vec<u8>]>),
}

impl Plan {
    fn new(saturation: &Saturation) -> Result<Self, Refused> {
        let urls = &saturation.urls;
        let first = urls.first().ok_or(Refused::Nothing)?;
        let peer = Peer::of(first).ok_or_else(|| Refused::Url(first.clone()))?;
        let invalid = |error| Refused::Connect(io::Error::other(error));
        let name = ServerName::try_from(peer.name()).map_err(invalid)?;
        let mut addresses = (peer.name(), peer.port)
            .to_socket_addrs()
            .map_err(Refused::Connect)?;
        let nowhere = || Refused::Connect(io::ErrorKind::AddrNotAvailable.into());
        Ok(Self {
            address: addresses.next().ok_or_else(nowhere)?,
            name: peer.tls.then_some(name),
            tls: Arc::new(saturation.trust.tls(saturation.protocol)?),
            streams: saturation.streams.get(),
            requests: match saturation.protocol {
                Protocol::H1 => Requests::H1(h1::requests(urls)),
                Protocol::H2 | Protocol::H3 => Requests::H2(h2::requests(urls)),
            },
        })
    }

    fn connect(&self, first: usize) -> io::Result<Line> {
        let tls = self.name.as_ref().map(|name| (&self.tls, name));
        let wire = Wire::connect(self.address, tls)?;
        let now = Instant::now();
        let speaker: Box<dyn Speaker> = match &self.requests {
            Requests::H1(requests) => {
                Box::new(H1::new(Arc::clone(requests), first, self.streams, now))
            }
            Requests::H2(requests) => {
                Box::new(H2::new(Arc::clone(requests), first, self.streams, now))
            }
        };
        Ok(Line {
            wire,
            speaker,
            moved: now,
        })
    }
}

/// One connection.
struct Line {
    wire: Wire,
    speaker: Box<dyn Speaker>,
    /// When something last came.
    moved: Instant,
}

/// The connections of one thread.
struct Lines<'a> {
    plan: &'a Plan,
    poll: std::os::fd::OwnedFd,
    first: usize,
    lines: Vec<Line>,
    tally: Tally,
}

impl<'a> Lines<'a> {
    fn open(plan: &'a Plan, numbers: Range<usize>) -> io::Result<Self> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let first = numbers.start;
        let lines = numbers.map(|number| plan.connect(number));
        let lines: Vec<_> = lines.collect::<Result<_, _>>()?;
        for (number, line) in lines.iter().enumerate() {
            watch(&poll, &line.wire, number)?;
        }
        Ok(Self {
            plan,
            poll,
            first,
            lines,
            tally: Tally::default(),
        })
    }

    fn run(mut self, duration: Duration, counters: &Counters) -> io::Result<Tally> {
        let now = Instant::now();
        let end = now + duration;
        for number in 0..self.lines.len() {
            // Counted from here, and not from when the other connections were still being made.
            let line = &mut self.lines[number];
            line.moved = now;
            if let Err(error) = line.wire.send(line.speaker.outgoing()) {
                self.reopen(number, &Fault::Io(error))?;
            }
        }
        let mut scratch = Scratch::default();
        let mut events = Vec::with_capacity(READY_AT_ONCE);
        let mut looked = now;
        let mut told = Totals::default();
        loop {
            let now = Instant::now();
            if now >= end {
                return Ok(self.tally);
            }
            if now - looked > TICK {
                looked = now;
                counters.tell(&self.tally, &mut told);
                self.find_stalled(now)?;
            }
            events.clear();
            let tick = rustix::event::Timespec::try_from(TICK.min(end - now)).ok();
            match epoll::wait(
                &self.poll,
                rustix::buffer::spare_capacity(&mut events),
                tick.as_ref(),
            ) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                let number = usize::try_from(event.data.u64()).unwrap_or(usize::MAX);
                self.serve(number, &mut scratch)?;
            }
        }
    }

    /// Reads once from a socket that has something.
    fn serve(&mut self, number: usize, scratch: &mut Scratch) -> io::Result<()> {
        let Some(line) = self.lines.get_mut(number) else {
            return Ok(());
        };
        let speaker = line.speaker.as_mut();
        let found = line.wire.receive(scratch, speaker, &mut self.tally);
        let found = found.and_then(|found| {
            line.wire.send(speaker.outgoing())?;
            Ok(found)
        });
        match found {
            Ok(Found::Some) => {
                line.moved = Instant::now();
                if line.speaker.is_done() {
                    self.replace(number)?;
                }
                Ok(())
            }
            Ok(Found::Nothing) => Ok(()),
            Ok(Found::End) if line.speaker.is_between_answers() => self.replace(number),
            // A server that closes while more requests are on their way resets the connection.
            Err(Fault::Io(error))
                if line.speaker.is_between_answers()
                    && matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
                    ) =>
            {
                self.replace(number)
            }
            Ok(Found::End) => self.reopen(number, &Fault::Cut),
            Err(fault) => self.reopen(number, &fault),
        }
    }

    fn find_stalled(&mut self, now: Instant) -> io::Result<()> {
        for number in 0..self.lines.len() {
            if now.saturating_duration_since(self.lines[number].moved) > STALL {
                self.reopen(number, &Fault::Stalled)?;
            }
        }
        Ok(())
    }

    /// A connection in place of one that failed.
    fn reopen(&mut self, number: usize, fault: &Fault) -> io::Result<()> {
        self.tally.failed(fault);
        self.replace(number)
    }

    /// A connection in place of one that has ended.
    fn replace(&mut self, number: usize) -> io::Result<()> {
        self.tally.reopened += 1;
        let mut line = self.plan.connect(self.first + number)?;
        line.wire.send(line.speaker.outgoing())?;
        watch(&self.poll, &line.wire, number)?;
        // The old socket leaves the poll as it closes.
        self.lines[number] = line;
        Ok(())
    }
}

fn watch(poll: &std::os::fd::OwnedFd, wire: &Wire, number: usize) -> io::Result<()> {
    let data = epoll::EventData::new_u64(number as u64);
    epoll::add(poll, &wire.socket, data, epoll::EventFlags::IN)?;
    Ok(())
}
