//! As much load as one core can ask for: bodies are counted and dropped as cheaply as they can be.
//!
//! ```text
//! Saturation -> tcp: one thread, many sockets (epoll) -> wire (plain: dropped in the kernel; TLS) -> h1 | h2
//!            -> h3: one thread, quinn
//! ```
//!
//! [`h1`] and [`h2`] do no I/O: they are told what came and say what is to be sent, and how much of what
//! comes next they need not see. Nothing of a body is looked at, so nothing is verified here: viewers do that.

mod counters;
mod h1;
mod h2;
mod h3;
mod tcp;
mod wire;

use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use url::Url;

pub use counters::Counters;

use crate::client::{BadAuthority, Protocol, Trust};
use crate::host::{Processes, Snapshot, Usage};
use crate::latency::Latencies;

/// How often a thread looks at what it need not look at each time.
const TICK: Duration = Duration::from_millis(100);

/// A connection on which nothing moves for this long has failed.
const STALL: Duration = Duration::from_secs(10);

/// What is asked, of whom, how, and for how long.
#[derive(Debug, Clone)]
pub struct Saturation {
    /// The protocol; whether it runs over TLS is said by the URLs.
    pub protocol: Protocol,
    /// What is fetched, round robin; all of one scheme, host and port.
    pub urls: Vec<Url>,
    /// Connections, kept for the whole run.
    pub connections: NonZeroUsize,
    /// Requests under way on each: pipelined over HTTP/1.1, streams otherwise.
    pub streams: NonZeroUsize,
    /// Threads among which the connections are shared out.
    pub threads: NonZeroUsize,
    /// How long is measured, once all connections are open.
    pub duration: Duration,
    /// Whose certificates are believed.
    pub trust: Trust,
    /// The server's processes, where it runs on this host.
    pub server: Option<Processes>,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Measured {
    /// The time that was measured.
    pub elapsed: Duration,
    /// Answers that came whole, with status 200 or 206.
    pub requests: u64,
    /// Bytes of bodies, those of answers cut by the end of the run included.
    pub bytes: u64,
    /// Answers that failed.
    pub errors: u64,
    /// What the first of them was.
    pub first_error: Option<String>,
    /// Connections that the server closed between two answers and that were opened again.
    pub reopened: u64,
    /// From the request to the first byte of its body.
    pub first_byte: Latencies,
    /// From the request to the last byte of its body.
    pub whole: Latencies,
    /// What the server's processes used.
    pub server: Option<Usage>,
    /// What this process used: near the elapsed time on each thread, it is the client that was measured.
    pub client_cpu: Duration,
}

impl Measured {
    /// Bytes of bodies per second of the clock.
    pub fn bytes_per_second(&self) -> f64 {
        per_second(self.bytes, self.elapsed)
    }

    /// Answers per second of the clock.
    pub fn requests_per_second(&self) -> f64 {
        per_second(self.requests, self.elapsed)
    }

    /// Bytes of bodies per second of the server's processor time.
    pub fn bytes_per_cpu_second(&self) -> Option<f64> {
        self.server
            .as_ref()
            .map(|usage| per_second(self.bytes, usage.cpu))
    }

    /// Answers per second of the server's processor time.
    pub fn requests_per_cpu_second(&self) -> Option<f64> {
        self.server
            .as_ref()
            .map(|usage| per_second(self.requests, usage.cpu))
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a rate for people; 53 bits are nine petabytes"
)]
fn per_second(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64().max(f64::EPSILON)
}

/// Why a run cannot begin, or could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// No URL at all.
    #[error("there is no URL to fetch")]
    Nothing,
    /// A URL of another scheme, or without host.
    #[error("{0} is no http or https URL")]
    Url(Url),
    /// Connections are to one listener.
    #[error("{0} and {1} are not of one scheme, host and port")]
    Authorities(Box<Url>, Box<Url>),
    /// QUIC knows no other way.
    #[error("HTTP/3 runs over TLS only")]
    PlainH3,
    /// The authority's file holds no certificate.
    #[error(transparent)]
    Certificate(#[from] BadAuthority),
    /// No connection.
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    /// The server's processes cannot be read.
    #[error("cannot measure the server: {0}")]
    Server(#[source] io::Error),
    /// A thread of this program broke down.
    #[error("a client thread of this loadtest broke down")]
    Broken,
}

/// Runs the load and measures it. Blocks its thread.
///
/// # Errors
/// Where it cannot begin; what goes wrong later is counted.
pub fn run(saturation: &Saturation) -> Result<Measured, Refused> {
    run_seen(saturation, &Arc::default())
}

/// As [`run`], with counters that can be looked at meanwhile.
///
/// # Errors
/// As for [`run`].
pub fn run_seen(saturation: &Saturation, counters: &Arc<Counters>) -> Result<Measured, Refused> {
    let first = saturation.urls.first().ok_or(Refused::Nothing)?;
    for url in &saturation.urls {
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(Refused::Url(url.clone()));
        }
        if url.origin() != first.origin() {
            return Err(Refused::Authorities(
                Box::new(first.clone()),
                Box::new(url.clone()),
            ));
        }
    }
    match saturation.protocol {
        Protocol::H3 if first.scheme() == "http" => Err(Refused::PlainH3),
        Protocol::H3 => h3::run(saturation, counters),
        Protocol::H1 | Protocol::H2 => tcp::run(saturation, counters),
    }
}

/// Opens every thread's connections, then lets all of them run and measures that.
fn on_threads<L>(
    saturation: &Saturation,
    open: impl Fn(Range<usize>) -> io::Result<L> + Sync,
    run: impl Fn(L) -> io::Result<Tally> + Sync,
) -> Result<Measured, Refused> {
    let (connections, threads) = (saturation.connections.get(), saturation.threads.get());
    let opened = Barrier::new(threads + 1);
    let begun = Barrier::new(threads + 1);
    std::thread::scope(|scope| {
        let start = |thread| {
            let numbers = connections * thread / threads..connections * (thread + 1) / threads;
            let (open, run, opened, begun) = (&open, &run, &opened, &begun);
            scope.spawn(move || {
                let lines = open(numbers);
                opened.wait();
                begun.wait();
                run(lines?)
            })
        };
        let workers: Vec<_> = (0..threads).map(start).collect();
        opened.wait();
        let measurement = Measurement::begin(saturation);
        begun.wait();
        let mut tally = Tally::default();
        let mut refused = None;
        for worker in workers {
            match worker.join() {
                Ok(Ok(counted)) => tally.add(counted),
                Ok(Err(error)) => refused = Some(Refused::Connect(error)),
                Err(_) => refused = Some(Refused::Broken),
            }
        }
        match refused {
            Some(refused) => Err(refused),
            None => measurement?.end(tally),
        }
    })
}

/// What one thread counted.
#[derive(Debug, Default)]
struct Tally {
    requests: u64,
    bytes: u64,
    errors: u64,
    first_error: Option<String>,
    reopened: u64,
    first_byte: Latencies,
    whole: Latencies,
}

impl Tally {
    fn answered(&mut self, asked: Instant, now: Instant) {
        self.requests += 1;
        self.whole.record(now.saturating_duration_since(asked));
    }

    fn failed(&mut self, what: impl ToString) {
        self.errors += 1;
        if self.first_error.is_none() {
            self.first_error = Some(what.to_string());
        }
    }

    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.bytes += other.bytes;
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
        self.reopened += other.reopened;
        self.first_byte.add(&other.first_byte);
        self.whole.add(&other.whole);
    }
}

/// The clock and the processors, from when all connections are open.
struct Measurement {
    start: Instant,
    server: Option<(Processes, Snapshot)>,
    client: (Processes, Snapshot),
}

impl Measurement {
    fn begin(saturation: &Saturation) -> Result<Self, Refused> {
        let server = match &saturation.server {
            Some(processes) => {
                let snapshot = processes.snapshot().map_err(Refused::Server)?;
                Some((processes.clone(), snapshot))
            }
            None => None,
        };
        let client = Processes::own();
        let snapshot = client.snapshot().map_err(Refused::Server)?;
        Ok(Self {
            start: Instant::now(),
            server,
            client: (client, snapshot),
        })
    }

    fn end(self, tally: Tally) -> Result<Measured, Refused> {
        let elapsed = self.start.elapsed();
        let used = |(processes, snapshot): (Processes, Snapshot)| {
            processes.usage_since(&snapshot).map_err(Refused::Server)
        };
        let server = self.server.map(used).transpose()?;
        Ok(Measured {
            elapsed,
            requests: tally.requests,
            bytes: tally.bytes,
            errors: tally.errors,
            first_error: tally.first_error,
            reopened: tally.reopened,
            first_byte: tally.first_byte,
            whole: tally.whole,
            server,
            client_cpu: used(self.client)?.cpu,
        })
    }
}

#[cfg(test)]
mod tests {
    //! Against small servers of each protocol. The real ones are in the appliance's own tests.

    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;
    use crate::port;

    const ONE: NonZeroUsize = NonZeroUsize::MIN;

    fn saturation(urls: &[String]) -> Saturation {
        Saturation {
            protocol: Protocol::H1,
            urls: urls.iter().map(|url| Url::parse(url).unwrap()).collect(),
            connections: NonZeroUsize::new(3).unwrap(),
            streams: NonZeroUsize::new(2).unwrap(),
            threads: NonZeroUsize::new(2).unwrap(),
            duration: Duration::from_secs(1),
            trust: Trust::DangerAnyone,
            server: Some(Processes::own()),
        }
    }

    /// Answers every request on every connection with `answer`, and closes after so many of them.
    fn serve(answer: Vec<u8>, until: usize) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, answer) = (stream.unwrap(), answer.clone());
                std::thread::spawn(move || {
                    let mut text = Vec::new();
                    let mut piece = [0; 4096];
                    let mut answered = 0;
                    while answered < until {
                        match stream.read(&mut piece) {
                            Ok(0) | Err(_) => return,
                            Ok(len) => text.extend_from_slice(&piece[..len]),
                        }
                        while let Some(end) = text.windows(4).position(|w| w == b"\r\n\r\n") {
                            text.drain(..end + 4);
                            if answered < until && stream.write_all(&answer).is_err() {
                                return;
                            }
                            answered += 1;
                        }
                    }
                });
            }
        });
        format!("http://127.0.0.1:{port}")
    }

    fn answer(len: usize) -> Vec<u8> {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {len}\r\n\r\n");
        [head.as_bytes(), &vec![b'x'; len]].concat()
    }

    #[test]
    fn counts_what_comes_and_drops_large_bodies_in_the_kernel() {
        for len in [0, 100, 1_000_000] {
            let base = serve(answer(len), usize::MAX);
            let saturation = saturation(&[format!("{base}/a"), format!("{base}/b")]);
            let counters = Arc::default();
            let measured = run_seen(&saturation, &counters).unwrap();
            let seen = counters.totals();
            assert!(seen.requests > 0 && seen.requests <= measured.requests);
            assert!(seen.bytes <= measured.bytes && seen.errors == 0);
            assert_eq!((measured.errors, measured.first_error), (0, None));
            assert!(measured.requests > 6, "{} requests", measured.requests);
            assert_eq!(measured.whole.len(), measured.requests);
            let whole = measured.requests * len as u64;
            let under_way = 6 * len as u64;
            assert!((whole..=whole + under_way).contains(&measured.bytes));
            assert!(measured.first_byte.quantile(0.5) <= measured.whole.quantile(0.5));
            assert!(!measured.server.unwrap().cpu.is_zero() && !measured.client_cpu.is_zero());
        }
    }

    #[test]
    fn a_server_that_closes_between_answers_is_asked_again() {
        let base = serve(answer(10), 3);
        let mut saturation = saturation(&[format!("{base}/a")]);
        saturation.streams = ONE;
        let measured = run(&saturation).unwrap();
        assert_eq!((measured.errors, measured.first_error), (0, None));
        assert!(measured.reopened > 0 && measured.requests > 3);
    }

    #[test]
    fn an_answer_that_is_cut_short_is_an_error() {
        let mut cut = answer(100_000);
        cut.truncate(50_000);
        let base = serve(cut, 1);
        let measured = run(&saturation(&[format!("{base}/a")])).unwrap();
        assert!(measured.errors > 0 && measured.requests == 0);
        assert_eq!(
            measured.first_error.as_deref(),
            Some("the connection closed in the middle of an answer")
        );
    }

    #[test]
    fn what_cannot_begin_is_refused() {
        let refused = |change: &dyn Fn(&mut Saturation)| {
            let mut saturation = saturation(&["http://127.0.0.1:9/a".to_owned()]);
            change(&mut saturation);
            run(&saturation).unwrap_err().to_string()
        };
        assert_eq!(
            refused(&|saturation| saturation.urls.clear()),
            "there is no URL to fetch"
        );
        assert_eq!(
            refused(&|saturation| saturation.protocol = Protocol::H3),
            "HTTP/3 runs over TLS only"
        );
        let other = Url::parse("http://127.0.0.1:8/").unwrap();
        assert!(
            refused(&|saturation| saturation.urls.push(other.clone()))
                .ends_with("are not of one scheme, host and port")
        );
        let file = Url::parse("file:///etc/hosts").unwrap();
        assert_eq!(
            refused(&|saturation| saturation.urls = vec![file.clone()]),
            "file:///etc/hosts is no http or https URL"
        );
        let port = port::free().unwrap();
        let url = Url::parse(&format!("http://127.0.0.1:{port}/")).unwrap();
        let nobody = refused(&|saturation| {
            saturation.urls = vec![url.clone()];
            saturation.threads = ONE;
        });
        assert!(nobody.starts_with("cannot connect: "), "{nobody}");
    }
}
