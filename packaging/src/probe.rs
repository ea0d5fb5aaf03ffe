//! One plain HTTP/1.1 request to a listener of ours on this host: enough to see whether it answers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Answer {
    /// What a problem document says (RFC 9457 3.1.4), else the whole body.
    pub(crate) fn detail(&self) -> String {
        (self.member("detail")).unwrap_or_else(|| self.body.trim().to_owned())
    }

    /// Which problem it is, if it is one of ours.
    pub(crate) fn code(&self) -> Option<String> {
        self.member("code")
    }

    fn member(&self, name: &str) -> Option<String> {
        let problem: serde_json::Value = serde_json::from_str(&self.body).ok()?;
        Some(problem.get(name)?.as_str()?.to_owned())
    }
}

/// Ours answer at once; an answer that takes longer than this is none.
const PATIENCE: Duration = Duration::from_secs(10);
/// More than any manifest or health report.
const MAX_ANSWER: u64 = 1 << 20;

/// Asks `method path` of the listener at `address`.
pub(crate) async fn ask(address: SocketAddr, method: &str, path: &str) -> io::Result<Answer> {
    ask_for(PATIENCE, address, method, path, None).await
}

/// [`ask`] for what takes its time, and may want a token.
pub(crate) async fn ask_for(
    patience: Duration,
    address: SocketAddr,
    method: &str,
    path: &str,
    token: Option<&str>,
) -> io::Result<Answer> {
    tokio::time::timeout(patience, exchange(address, method, path, token)).await?
}

/// The address at which a listener answers on this host: a wildcard is for listening, and loopback is among what it
/// covers.
pub(crate) fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
    address
}

async fn exchange(
    address: SocketAddr,
    method: &str,
    path: &str,
    token: Option<&str>,
) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(address).await?;
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    stream.write_all(head.as_bytes()).await?;
    if let Some(token) = token {
        for part in ["Authorization: Bearer ", token, "\r\n"] {
            stream.write_all(part.as_bytes()).await?;
        }
    }
    stream.write_all(b"\r\n").await?;
    let mut response = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut response).await?;
    let response = String::from_utf8_lossy(&response);
    let not_http = || io::Error::new(io::ErrorKind::InvalidData, "this is no HTTP response");
    let (head, body) = response.split_once("\r\n\r\n").ok_or_else(not_http)?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .ok_or_else(not_http)?;
    Ok(Answer {
        status,
        body: body.to_owned(),
    })
}
