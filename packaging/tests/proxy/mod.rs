//! A proxy before an origin and a licence server that changes what they answer.

pub mod change;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// An answer on its way.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Where a redirect leads.
    pub location: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

/// Changes the answer to a request for this path and query.
pub type Change = Box<dyn Fn(&str, &mut Answer) + Send + Sync>;

/// A proxy on a port of its own, as long as the test's process lives.
pub struct Proxy {
    /// Where it is, without a trailing slash.
    pub url: String,
    change: Arc<Mutex<Arc<Change>>>,
}

impl Proxy {
    /// A proxy for the plain listeners at these ports, which changes nothing yet.
    pub fn start(origin: u16, license: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let unchanged: Change = Box::new(|_, _| {});
        let change = Arc::new(Mutex::new(Arc::new(unchanged)));
        let current = Arc::clone(&change);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let change = Arc::clone(&current.lock().unwrap());
                thread::spawn(move || serve(client, origin, license, &change));
            }
        });
        Self { url, change }
    }

    /// Changes answers so from now on.
    pub fn change(&self, change: Change) {
        *self.change.lock().unwrap() = Arc::new(change);
    }
}

/// One request, and the end of the connection.
fn serve(mut client: TcpStream, origin: u16, license: u16, change: &Change) {
    let mut reader = BufReader::new(client.try_clone().unwrap());
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).unwrap_or(0) == 0 {
            return;
        }
    }
    let lower = head.to_ascii_lowercase();
    let length = lower.split_once("content-length:");
    let length = length.and_then(|(_, rest)| rest.lines().next()?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).unwrap();
    let path = head.split(' ').nth(1).unwrap().to_owned();
    let port = if path.starts_with("/license/") {
        license
    } else {
        origin
    };
    let mut answer = ask(port, &head, &body);
    change(&path, &mut answer);
    let location = answer.location.as_ref();
    let location = location.map_or_else(String::new, |to| format!("location: {to}\r\n"));
    let head = format!(
        "HTTP/1.1 {} Changed\r\n{location}content-length: {}\r\nconnection: close\r\n\r\n",
        answer.status,
        answer.body.len()
    );
    let _ = client.write_all(&[head.as_bytes(), &answer.body].concat());
}

fn ask(port: u16, head: &str, body: &[u8]) -> Answer {
    // The last field ends in the empty line.
    let head = format!("{}connection: close\r\n\r\n", &head[..head.len() - 2]);
    let mut server = TcpStream::connect(("127.0.0.1", port)).unwrap();
    server.write_all(&[head.as_bytes(), body].concat()).unwrap();
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).unwrap();
    let end = answer
        .windows(4)
        .position(|bytes| bytes == b"\r\n\r\n")
        .unwrap();
    let status = str::from_utf8(&answer[9..12]).unwrap().parse().unwrap();
    Answer {
        status,
        location: None,
        body: answer.split_off(end + 4),
    }
}
