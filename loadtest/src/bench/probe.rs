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

/// What came, and was dropped.
#[derive(Debug)]
pub(super) struct Dropped {
    /// Its status.
    pub(super) status: u16,
    /// From the request to the last byte.
    pub(super) whole: Duration,
    /// The bytes of the body.
    pub(super) len: u64,
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
        let asked = Instant::now();
        let (status, length, mut body) = self.ask(path)?;
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

    /// Asks for `path` and lets the whole answer go by.
    ///
    /// # Errors
    /// As [`Probe::get`].
    pub(super) fn skip(&mut self, path: &str) -> io::Result<Dropped> {
        let asked = Instant::now();
        let (status, length, begin) = self.ask(path)?;
        let mut left = length.saturating_sub(begin.len());
        while left > 0 {
            left = left.saturating_sub(self.read()?.len());
        }
        Ok(Dropped {
            status,
            whole: asked.elapsed(),
            len: length as u64,
        })
    }

    /// Asks for `path`: status, length of the body, and what of it came with the head.
    fn ask(&mut self, path: &str) -> io::Result<(u16, usize, Vec<u8>)> {
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\n\r\n",
            self.port
        );
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
        let body = head.split_off(end);
        let (status, length) =
            read_head(&head).ok_or_else(|| io::Error::other("the answer is not understood"))?;
        Ok((status, length, body))
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
