//! One HTTP/1.1 connection that asks for one thing after the other and looks at the clock.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// A connection to a listener on loopback.
pub(super) struct Probe {
    socket: TcpStream,
    port: u16,
    buffer: Vec<u8>,
}

/// What came.
#[derive(Debug)]
pub(super) struct Answer {
    /// Its status.
    pub(super) status: u16,
    /// From the request to the first byte of the body.
    pub(super) first_byte: Duration,
    /// The body.
    pub(super) body: Vec<u8>,
}

/// Bytes of a head; more is no answer to what is asked here.
const HEAD_LIMIT: usize = 16 << 10;
const PIECE: usize = 256 << 10;
const TIMEOUT: Duration = Duration::from_secs(30);

impl Probe {
    /// Connects.
    pub(super) fn connect(port: u16) -> io::Result<Self> {
        let socket = TcpStream::connect(("127.0.0.1", port))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        Ok(Self {
            socket,
            port,
            buffer: vec![0; PIECE],
        })
    }

    /// Asks for `path` and reads the whole answer.
    ///
    /// # Errors
    /// Where it breaks off, or has no `Content-Length`.
    pub(super) fn get(&mut self, path: &str) -> io::Result<Answer> {
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\n\r\n",
            self.port
        );
        let asked = Instant::now();
        self.socket.write_all(request.as_bytes())?;
        let mut head = Vec::new();
        let end = loop {
            head.extend_from_slice(self.read()?);
            if let Some(at) = head.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break at + 4;
            }
            if head.len() > HEAD_LIMIT {
                return Err(io::Error::other("the answer's head has no end"));
            }
        };
        let mut body = head.split_off(end);
        let (status, length) =
            read_head(&head).ok_or_else(|| io::Error::other("the answer is not understood"))?;
        if body.is_empty() && length > 0 {
            body.extend_from_slice(self.read()?);
        }
        let first_byte = asked.elapsed();
        while body.len() < length {
            body.extend_from_slice(self.read()?);
        }
        Ok(Answer {
            status,
            first_byte,
            body,
        })
    }

    fn read(&mut self) -> io::Result<&[u8]> {
        match self.socket.read(&mut self.buffer)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            len => Ok(&self.buffer[..len]),
        }
    }
}

/// Status and `Content-Length`.
fn read_head(head: &[u8]) -> Option<(u16, usize)> {
    let head = std::str::from_utf8(head).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.trim().parse().ok())?
    });
    Some((status, length?))
}

/// Asks once, on a connection of its own.
pub(super) fn get(port: u16, path: &str) -> io::Result<Answer> {
    Probe::connect(port)?.get(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_says_status_and_length() {
        let head = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 7\r\n\r\n";
        assert_eq!(read_head(head), Some((200, 7)));
        assert_eq!(read_head(b"HTTP/1.1 200 OK\r\n\r\n"), None);
        assert_eq!(read_head(b"\xff"), None);
    }
}
