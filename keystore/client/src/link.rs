//! One connection to a keystore, kept up for ever: numbered calls out, replies and changes of the seal in.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::pki_types::ServerName;
use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf, split};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use crate::frame::{self, Frame, Secret};
use crate::message::{Call, Fault, Greeting, Hello, MAX_OUTSTANDING, Notice, VERSION};
use crate::{Error, SealState};

/// How long a peer may take to accept and say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// The pause before a lost connection is tried again; doubled up to [`LONGEST_PAUSE`]. A call cuts it short.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Where a keystore listens.
pub(crate) enum Place {
    /// On this machine.
    Unix(PathBuf),
    /// On another.
    Tls {
        /// Its name or address.
        host: String,
        /// Its port.
        port: u16,
        /// What its certificate must bear.
        name: ServerName<'static>,
        /// With this machine's certificate.
        connector: TlsConnector,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tls { host, port, .. } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tls { host, port, .. } => write!(f, "{host}:{port}"),
        }
    }
}

impl Place {
    async fn connect(&self) -> io::Result<Stream> {
        match self {
            Self::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
            Self::Tls {
                host,
                port,
                name,
                connector,
            } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(connector.connect(name.clone(), stream).await?))
            }
        }
    }
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

type Stream = Box<dyn Duplex>;

type Reply = Result<Frame<Value>, Fault>;

/// A handle on the connection. The connection itself lives in a task of the runtime on which [`Link::open`] was
/// called; calls may come from any.
pub(crate) struct Link {
    calls: mpsc::Sender<Pending>,
    state: watch::Receiver<SealState>,
}

/// A call on its way.
struct Pending {
    frame: Frame<Value>,
    reply: oneshot::Sender<Result<Reply, Error>>,
}

impl Link {
    /// Connects as soon as the socket is there, and again whenever the connection is lost, until the link is
    /// dropped.
    pub(crate) fn open(place: Place, hello: Hello) -> Self {
        let (calls, queue) = mpsc::channel(MAX_OUTSTANDING);
        let (state_sender, state) = watch::channel(SealState::Unreachable);
        tokio::spawn(run(place, hello, queue, state_sender));
        Self { calls, state }
    }

    pub(crate) fn state(&self) -> watch::Receiver<SealState> {
        self.state.clone()
    }

    /// Makes a call and waits for its reply, at most `patience`.
    pub(crate) async fn call(
        &self,
        call: &(impl Serialize + Sync),
        secret: Secret,
        patience: Duration,
    ) -> Result<Reply, Error> {
        let header =
            serde_json::to_value(call).map_err(|error| Error::Malformed(error.to_string()))?;
        let (reply, answer) = oneshot::channel();
        let frame = Frame { header, secret };
        let exchange = async {
            self.calls.send(Pending { frame, reply }).await.ok()?;
            answer.await.ok()
        };
        match timeout(patience, exchange).await {
            Ok(Some(answer)) => answer,
            Ok(None) => Err(Error::Unavailable("the connection was lost".to_owned())),
            Err(_) => Err(Error::Unavailable(format!(
                "no reply within {} s",
                patience.as_secs()
            ))),
        }
    }
}

async fn run(
    place: Place,
    hello: Hello,
    mut queue: mpsc::Receiver<Pending>,
    state: watch::Sender<SealState>,
) {
    let mut pause = FIRST_PAUSE;
    let mut waiting = None;
    let mut last_said = None;
    loop {
        let why = match connect(&place, &hello).await {
            Ok(stream) => {
                tracing::info!(%place, "connected to the keystore");
                (pause, last_said) = (FIRST_PAUSE, None);
                match Connection::default()
                    .serve(stream, waiting.take(), &mut queue, &state)
                    .await
                {
                    End::LinkDropped => return,
                    End::Lost(error) => Fault::Unavailable(error.to_string()),
                }
            }
            Err(why) => why,
        };
        state.send_if_modified(|told| {
            let lost = without(*told, &why);
            std::mem::replace(told, lost) != lost
        });
        if last_said.as_ref() != Some(&why) {
            let error = Error::from(why.clone());
            tracing::warn!(%place, %error, "no connection to the keystore");
            last_said = Some(why.clone());
        }
        // Whoever called while there was no connection learns why at once.
        while let Some(call) = waiting.take().or_else(|| queue.try_recv().ok()) {
            let _ = call.reply.send(Err(why.clone().into()));
        }
        tokio::select! {
            () = sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
            // The process may be back already: one attempt on this caller's account.
            call = queue.recv() => match call {
                Some(call) => waiting = Some(call),
                None => return,
            },
        }
    }
}

/// What is told while there is no connection, for a reason, where `last` was told before.
///
/// Whoever watches sees the latest state only, so a seal that the connection did not outlive must stay in view: leases end
/// with it, and not with the keystore's absence.
const fn without(last: SealState, why: &Fault) -> SealState {
    match (last, why) {
        // Turned away for good: revoked, or no caller any more.
        (_, Fault::Denied(_)) => SealState::Sealed,
        (SealState::Sealed | SealState::Uninitialised, _) => last,
        (SealState::Unsealed | SealState::Unreachable, _) => SealState::Unreachable,
    }
}

async fn connect(place: &Place, hello: &Hello) -> Result<Stream, Fault> {
    let unavailable =
        |what: &str, error: io::Error| Fault::Unavailable(format!("{what} {place}: {error}"));
    let greet = async {
        let mut stream =
            (place.connect().await).map_err(|error| unavailable("cannot connect to", error))?;
        (frame::write(&mut stream, &Frame::open(hello)).await)
            .map_err(|error| unavailable("cannot greet", error))?;
        let greeting = (frame::read::<Greeting>(&mut stream).await)
            .map_err(|error| unavailable("no greeting from", error))?;
        match greeting.map(|frame| frame.header) {
            Some(Greeting::Hello(theirs)) if theirs == *hello => Ok(stream),
            Some(Greeting::Hello(theirs)) => Err(Fault::Unavailable(format!(
                "{place} speaks {} {}, and this program {} {VERSION}",
                theirs.protocol, theirs.version, hello.protocol
            ))),
            Some(Greeting::Fault(fault)) => Err(fault),
            None => Err(Fault::Unavailable(format!("{place} closed the connection"))),
        }
    };
    match timeout(HELLO_TIMEOUT, greet).await {
        Ok(result) => result,
        Err(_) => Err(Fault::Unavailable(format!("{place} does not answer"))),
    }
}

/// Why a connection ended.
enum End {
    /// Nobody holds the link any more.
    LinkDropped,
    /// The stream ended or broke.
    Lost(io::Error),
}

/// The calls of one connection that wait for their replies; those that still do when it ends are told so by
/// their dropped channels.
#[derive(Default)]
struct Connection(Mutex<HashMap<u64, Waiting>>);

struct Waiting {
    reply: oneshot::Sender<Result<Reply, Error>>,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    /// Works until the connection or the link ends. `first` is sent before what is in the queue.
    async fn serve(
        &self,
        stream: Stream,
        first: Option<Pending>,
        queue: &mut mpsc::Receiver<Pending>,
        state: &watch::Sender<SealState>,
    ) -> End {
        let (reader, writer) = split(stream);
        tokio::select! {
            end = self.send(writer, first, queue) => end,
            error = self.receive(reader, state) => End::Lost(error),
        }
    }

    async fn send(
        &self,
        mut stream: WriteHalf<Stream>,
        mut first: Option<Pending>,
        queue: &mut mpsc::Receiver<Pending>,
    ) -> End {
        let outstanding = Arc::new(Semaphore::new(MAX_OUTSTANDING));
        for id in 1.. {
            let call = match first.take() {
                Some(call) => call,
                None => match queue.recv().await {
                    Some(call) => call,
                    None => return End::LinkDropped,
                },
            };
            let Ok(permit) = outstanding.clone().acquire_owned().await else {
                break;
            };
            let waiting = Waiting {
                reply: call.reply,
                _permit: permit,
            };
            self.waiting().insert(id, waiting);
            let frame = Frame {
                header: Call {
                    id,
                    call: call.frame.header,
                },
                secret: call.frame.secret,
            };
            match frame::write(&mut stream, &frame).await {
                Ok(()) => {}
                // Too large to be sent; the stream is untouched.
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    if let Some(waiting) = self.waiting().remove(&id) {
                        let _ = waiting.reply.send(Err(Error::Malformed(error.to_string())));
                    }
                }
                Err(error) => return End::Lost(error),
            }
        }
        End::LinkDropped
    }

    async fn receive(
        &self,
        mut stream: ReadHalf<Stream>,
        state: &watch::Sender<SealState>,
    ) -> io::Error {
        loop {
            let (header, secret) = match frame::read::<Notice<Value>>(&mut stream).await {
                Ok(Some(Frame { header, secret })) => (header, secret),
                Ok(None) => {
                    return io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the keystore closed the connection",
                    );
                }
                Err(error) => return error,
            };
            let (id, reply) = match header {
                Notice::Reply { id, reply } => (
                    id,
                    Ok(Frame {
                        header: reply,
                        secret,
                    }),
                ),
                Notice::Fault { id, fault } => (id, Err(fault)),
                Notice::State(now) => {
                    state.send_replace(now);
                    continue;
                }
            };
            if let Some(waiting) = self.waiting().remove(&id) {
                // The caller may have given up; the keys are wiped then.
                let _ = waiting.reply.send(Ok(reply));
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
