//! HTTP/3 by quinn and h3: bodies are decrypted, put in order and dropped. No kernel does less for QUIC.

use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Buf as _;
use rustls::ClientConfig;
use tokio::runtime::{Builder, Runtime};
use tokio::task::LocalSet;
use url::Url;

use super::{Counters, Measured, Refused, STALL, Saturation, TICK, Tally, on_threads};
use crate::client::{Peer, Protocol, QuicConnection, QuicWindows};
use crate::recorder::Totals;

/// Windows that never keep the server waiting.
const WINDOWS: QuicWindows = QuicWindows {
    stream: 16 << 20,
    connection: 128 << 20,
};

/// How long a stream waits after a failure, so that a dead server is not flooded.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(50);

/// Runs the load over QUIC.
pub(super) fn run(saturation: &Saturation, counters: &Arc<Counters>) -> Result<Measured, Refused> {
    let tls = Arc::new(saturation.trust.tls(Protocol::H3)?);
    let heads = saturation.urls.iter().map(head).collect::<Result<_, _>>()?;
    let plan = Plan { heads, tls };
    on_threads(
        saturation,
        |numbers| Lines::open(saturation, &plan, numbers),
        |lines| Ok(lines.run(saturation, &plan, counters)),
    )
}

fn head(url: &Url) -> Result<http::Request<()>, Refused> {
    let head = http::Request::get(url.as_str()).body(());
    head.map_err(|_| Refused::Url(url.clone()))
}

struct Plan {
    heads: Vec<http::Request<()>>,
    tls: Arc<ClientConfig>,
}

/// The connections of one thread, with the runtime that drives them.
struct Lines {
    first: usize,
    connections: Vec<QuicConnection>,
    runtime: Runtime,
}

impl Lines {
    fn open(saturation: &Saturation, plan: &Plan, numbers: Range<usize>) -> io::Result<Self> {
        let first = numbers.start;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let connections = runtime.block_on(async {
            let mut connections = Vec::with_capacity(numbers.len());
            for _ in numbers {
                connections.push(connect(&saturation.urls[0], plan).await?);
            }
            io::Result::Ok(connections)
        })?;
        Ok(Self {
            first,
            connections,
            runtime,
        })
    }

    fn run(self, saturation: &Saturation, plan: &Plan, counters: &Arc<Counters>) -> Tally {
        let tally = Rc::new(RefCell::new(Tally::default()));
        let tasks = LocalSet::new();
        tasks.spawn_local(tell(Rc::clone(&tally), Arc::clone(counters)));
        for (number, connection) in self.connections.into_iter().enumerate() {
            let connection = Rc::new(RefCell::new(connection));
            for stream in 0..saturation.streams.get() {
                let asking = Asking {
                    url: saturation.urls[0].clone(),
                    plan: Plan {
                        heads: plan.heads.clone(),
                        tls: Arc::clone(&plan.tls),
                    },
                    next: self.first + number + stream,
                    connection: Rc::clone(&connection),
                    tally: Rc::clone(&tally),
                };
                tasks.spawn_local(asking.run());
            }
        }
        // The timer, and the connections as they are dropped, look for the runtime that they belong to.
        let _runtime = self.runtime.enter();
        let end = tokio::time::sleep(saturation.duration);
        self.runtime.block_on(tasks.run_until(end));
        drop(tasks);
        tally.take()
    }
}

/// Says each tick what was counted.
async fn tell(tally: Rc<RefCell<Tally>>, counters: Arc<Counters>) {
    let mut told = Totals::default();
    loop {
        tokio::time::sleep(TICK).await;
        counters.tell(&tally.borrow(), &mut told);
    }
}

async fn connect(url: &Url, plan: &Plan) -> io::Result<QuicConnection> {
    let peer = Peer::of(url).ok_or(io::ErrorKind::InvalidInput)?;
    let connecting = QuicConnection::connect(&peer, &plan.tls, WINDOWS);
    match tokio::time::timeout(STALL, connecting).await {
        Ok(connection) => connection.map_err(io::Error::other),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// One stream after the other.
struct Asking {
    url: Url,
    plan: Plan,
    next: usize,
    connection: Rc<RefCell<QuicConnection>>,
    tally: Rc<RefCell<Tally>>,
}

impl Asking {
    async fn run(mut self) {
        loop {
            let head = self.plan.heads[self.next % self.plan.heads.len()].clone();
            self.next += 1;
            match tokio::time::timeout(STALL, self.fetch(head)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => self.fail(error).await,
                Err(_) => self.fail("nothing came in time".to_owned()).await,
            }
        }
    }

    async fn fetch(&self, head: http::Request<()>) -> Result<(), String> {
        let asked = Instant::now();
        let mut sender = self.connection.borrow().sender();
        let stream = sender.send_request(head).await;
        let mut stream = stream.map_err(|error| error.to_string())?;
        stream.finish().await.map_err(|error| error.to_string())?;
        let answer = stream.recv_response().await;
        let status = answer.map_err(|error| error.to_string())?.status();
        let mut begun = false;
        while let Some(piece) = stream
            .recv_data()
            .await
            .map_err(|error| error.to_string())?
        {
            let tally = &mut self.tally.borrow_mut();
            if !begun {
                begun = true;
                tally.first_byte.record(asked.elapsed());
            }
            tally.bytes += piece.remaining() as u64;
        }
        if !matches!(status.as_u16(), 200 | 206) {
            return Err(format!("status {}", status.as_u16()));
        }
        self.tally.borrow_mut().answered(asked, Instant::now());
        Ok(())
    }

    async fn fail(&self, what: String) {
        self.tally.borrow_mut().failed(what);
        tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
        let is_open = self.connection.borrow().is_open();
        // Another stream of the connection may have opened the next one by then.
        if !is_open
            && let Ok(connection) = connect(&self.url, &self.plan).await
            && !self.connection.borrow().is_open()
        {
            self.connection.replace(connection);
            self.tally.borrow_mut().reopened += 1;
        }
    }
}
