//! Sockets of one address, one for each worker, among which the kernel spreads connections (SO_REUSEPORT).

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// The sockets of one worker.
pub(crate) struct Sockets {
    pub(crate) tcp: TcpListener,
    pub(crate) udp: Option<UdpSocket>,
}

/// Connections waiting to be accepted, for each worker; the kernel's own limit may be lower.
const BACKLOG: i32 = 1024;

/// What a UDP socket asks for; the kernel grants at most `net.core.rmem_max` and `wmem_max`.
const UDP_BUFFER: usize = 4 << 20;

/// How often a port for both TCP and UDP is looked for where any will do.
const ATTEMPTS: usize = 32;

/// Opens sockets for each worker at one address, UDP with the number of TCP. Port 0 takes a free one. `[::]` takes
/// IPv4 too, and is `0.0.0.0` on a host without IPv6.
pub(crate) fn open(
    address: SocketAddr,
    workers: usize,
    with_udp: bool,
) -> io::Result<(SocketAddr, Vec<Sockets>)> {
    let open = |address: SocketAddr| {
        let attempts = if address.port() == 0 { ATTEMPTS } else { 1 };
        let mut outcome = open_once(address, workers, with_udp);
        for _ in 1..attempts {
            match &outcome {
                // TCP was given a port that is taken in UDP.
                Err(fault) if fault.kind() == io::ErrorKind::AddrInUse => {
                    outcome = open_once(address, workers, with_udp);
                }
                Ok(_) | Err(_) => break,
            }
        }
        outcome
    };
    match open(address) {
        Err(fault) if lacks_ipv6(&fault) && address.is_ipv6() && address.ip().is_unspecified() => {
            open((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        outcome => outcome,
    }
}

fn lacks_ipv6(fault: &io::Error) -> bool {
    let errno = rustix::io::Errno::from_io_error(fault);
    matches!(
        errno,
        Some(rustix::io::Errno::AFNOSUPPORT | rustix::io::Errno::ADDRNOTAVAIL)
    )
}

fn open_once(
    address: SocketAddr,
    workers: usize,
    with_udp: bool,
) -> io::Result<(SocketAddr, Vec<Sockets>)> {
    if address.port() != 0 {
        // SO_REUSEPORT would share the port with another process of the same user, without a word.
        drop(bind(address, Type::STREAM, Sharing::Alone)?);
        if with_udp {
            drop(bind(address, Type::DGRAM, Sharing::Alone)?);
        }
    }
    let mut bound = address;
    let mut sockets = Vec::with_capacity(workers);
    for _ in 0..workers {
        let tcp = bind(bound, Type::STREAM, Sharing::AmongWorkers)?;
        let tcp = TcpListener::from(tcp);
        if bound.port() == 0 {
            bound.set_port(tcp.local_addr()?.port());
            if with_udp {
                drop(bind(bound, Type::DGRAM, Sharing::Alone)?);
            }
        }
        let udp = with_udp
            .then(|| bind(bound, Type::DGRAM, Sharing::AmongWorkers).map(UdpSocket::from))
            .transpose()?;
        sockets.push(Sockets { tcp, udp });
    }
    // Only now: connections must not queue at a worker while another socket may still fail to open.
    for worker in &sockets {
        rustix::net::listen(&worker.tcp, BACKLOG)?;
    }
    Ok((bound, sockets))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Alone,
    AmongWorkers,
}

fn bind(address: SocketAddr, kind: Type, sharing: Sharing) -> io::Result<Socket> {
    let protocol = if kind == Type::STREAM {
        Protocol::TCP
    } else {
        Protocol::UDP
    };
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    if kind == Type::STREAM {
        // Or the port would be barred for a minute after a restart by connections in TIME_WAIT.
        socket.set_reuse_address(true)?;
    } else {
        // What is granted is the kernel's business; less costs throughput, not correctness.
        let _ = socket.set_recv_buffer_size(UDP_BUFFER);
        let _ = socket.set_send_buffer_size(UDP_BUFFER);
    }
    socket.set_reuse_port(sharing == Sharing::AmongWorkers)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(address))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv6Addr, TcpStream};

    const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    #[test]
    fn workers_share_one_port_in_both_protocols() {
        let (address, sockets) = open(LOOPBACK, 3, true).unwrap();
        assert_ne!(address.port(), 0);
        assert_eq!(sockets.len(), 3);
        for worker in &sockets {
            assert_eq!(worker.tcp.local_addr().unwrap(), address);
            assert_eq!(worker.udp.as_ref().unwrap().local_addr().unwrap(), address);
        }
        TcpStream::connect(address).unwrap();
    }

    #[test]
    fn a_taken_port_is_refused_though_its_owner_would_share() {
        let (address, sockets) = open(LOOPBACK, 1, true).unwrap();
        let fault = open(address, 1, true).map(drop).unwrap_err();
        assert_eq!(fault.kind(), io::ErrorKind::AddrInUse);
        drop(sockets);
        open(address, 1, true).unwrap();
    }

    #[test]
    fn the_unspecified_address_takes_ipv4_too() {
        let any = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0);
        let (address, _sockets) = open(any, 1, false).unwrap();
        TcpStream::connect((Ipv4Addr::LOCALHOST, address.port())).unwrap();
    }
}
