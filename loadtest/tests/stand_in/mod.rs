//! A server of the tests: HTTP/1.1 over TCP, each path answered by what a function says.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

/// A status and a body.
pub type Answer = (u16, Vec<u8>);

/// Serves on a free port until the test's process ends; returns its base URL, without a slash at the end.
pub fn serve(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let answer = Arc::clone(&answer);
            std::thread::spawn(move || converse(stream.unwrap(), &*answer));
        }
    });
    format!("http://127.0.0.1:{port}")
}

/// One connection: request after request, without bodies, until the client closes it.
fn converse(mut stream: TcpStream, answer: &dyn Fn(&str) -> Answer) {
    let mut text = Vec::new();
    let mut piece = [0; 4096];
    loop {
        while let Some(end) = text.windows(4).position(|window| window == b"\r\n\r\n") {
            let head: Vec<u8> = text.drain(..end + 4).collect();
            let head = String::from_utf8_lossy(&head);
            let (status, body) = answer(head.split(' ').nth(1).unwrap_or_default());
            let line = format!(
                "HTTP/1.1 {status} -\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            if stream
                .write_all(&[line.as_bytes(), &body].concat())
                .is_err()
            {
                return;
            }
        }
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return,
            Ok(len) => text.extend_from_slice(&piece[..len]),
        }
    }
}
