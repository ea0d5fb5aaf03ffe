//! The control socket: the verbs that the origin does itself, as lines of JSON over a Unix socket.
//!
//! ```text
//! verb                             origin
//!  {"verb":"ingest", ...}       ->
//!                               <- {"event":"progress","stage":"index","done":1,"total":5}
//!                               <- {"event":"ingested", ...}   or   {"event":"refused", ...}
//!
//!  {"verb":"export", ...}       ->
//!                               <- {"event":"file","path":"v1/film/cbcs/main.mpd","bytes":3127, ...}
//!                               <- {"event":"piece","bytes":3127} and then so many bytes as they are
//!                               <- {"event":"exported", ...}   or   {"event":"refused", ...}
//! ```
//!
//! One request a connection. The peer must be root or the origin's own user (SO_PEERCRED, unix(7)). Paths of an ingest
//! are read by the origin, with its own rights; files of an export are written by the verb, with those of its user.

use std::future::Future;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use keystore_types::{AssetId, KeyId, Label, Scheme};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use crate::error::Error;

/// What a verb asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// Take up these files as an asset, now and wholly.
    Ingest {
        /// The asset's name.
        asset: AssetId,
        /// Its files, absolute: those outside the media root are cloned into it.
        paths: Vec<PathBuf>,
    },
    /// Hand out every file of an asset, as it is served.
    Export {
        /// The asset's name.
        asset: AssetId,
        /// Under which policies; none means all that the tenant allows.
        policies: Vec<String>,
    },
}

/// What the origin says: progress or files while it works, then one other event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// How far it is.
    Progress(Progress),
    /// The asset is published.
    Ingested(IngestReport),
    /// A file begins; pieces follow that add up to it.
    File(ExportedFile),
    /// So many bytes of the file that began last follow, as they are.
    Piece {
        /// How many; at most [`MAX_PIECE_BYTES`].
        bytes: usize,
    },
    /// Every file was handed out.
    Exported(ExportReport),
    /// Nothing was changed.
    Refused(Refused),
}

/// How far a stage is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What is being done, in a word or two.
    pub stage: String,
    /// Bytes or steps done.
    pub done: u64,
    /// Bytes or steps in all; 0 while that is not known.
    pub total: u64,
}

/// What an ingest found and did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngestReport {
    /// The asset.
    pub asset: AssetId,
    /// Its files, in rank order.
    pub sources: Vec<SourceReport>,
    /// The renditions that manifests will name.
    pub renditions: Vec<String>,
    /// Segments of its longest rendition.
    pub segments: u32,
    /// Its keys, made on first need; empty where the keystore is sealed.
    pub keys: Vec<KeyReport>,
    /// What an operator should know, such as a sealed keystore.
    pub warnings: Vec<String>,
}

/// One file of an asset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceReport {
    /// Its name in the media root.
    pub file: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its identity, in hexadecimal.
    pub identity: String,
    /// Its tracks, in words.
    pub tracks: Vec<String>,
    /// The tracks that are left out, each with the reason.
    pub ignored: Vec<String>,
}

/// One key of an asset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyReport {
    /// The scheme that it is used with.
    pub scheme: Scheme,
    /// The tracks that share it.
    pub label: Label,
    /// Its public id.
    pub key_id: KeyId,
}

/// A file of an asset, as a static server would keep it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedFile {
    /// Its URL's path without the leading slash, such as `v1/film/cbcs/main.mpd`.
    pub path: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// Files before it.
    pub done: u64,
    /// Files in all.
    pub total: u64,
}

/// What an export handed out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportReport {
    /// The asset.
    pub asset: AssetId,
    /// The policies whose manifests are among the files.
    pub policies: Vec<String>,
    /// How many files.
    pub files: u64,
    /// Their bytes, all together.
    pub bytes: u64,
}

/// A part of an export on its way to the verb.
#[derive(Clone, Debug)]
pub enum Part {
    /// A file begins.
    File(ExportedFile),
    /// Bytes of it.
    Piece(Bytes),
}

/// Why nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// Who is at fault.
    pub kind: RefusedKind,
    /// What is wrong, with box path and offset where a file is at fault.
    pub message: String,
}

impl Refused {
    pub(crate) fn because(error: &Error) -> Self {
        let kind = match error {
            Error::Unfit { .. } => RefusedKind::Unsupported,
            Error::Sealed => RefusedKind::Sealed,
            Error::Malformed | Error::NotFound | Error::Gone => RefusedKind::Malformed,
            Error::Settling { .. }
            | Error::Quarantined { .. }
            | Error::Keystore(_)
            | Error::Storage(_)
            | Error::Internal(_) => RefusedKind::Unavailable,
        };
        Self {
            kind,
            message: error.to_string(),
        }
    }
}

/// Who is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RefusedKind {
    /// The request: a path that is not there, a request that is not one.
    Malformed,
    /// The file: it cannot be packaged.
    Unsupported,
    /// The peer may not ask for this.
    Denied,
    /// The keystore is sealed, and the request needs a key.
    Sealed,
    /// This node: disk, keystore.
    Unavailable,
}

/// Who does what the verbs ask for.
pub trait Control: Send + Sync + 'static {
    /// Takes up `paths` as `asset` and tells `progress`; sending to it never waits.
    ///
    /// # Errors
    /// [`Refused`], with nothing changed.
    fn ingest(
        &self,
        asset: AssetId,
        paths: Vec<PathBuf>,
        progress: mpsc::UnboundedSender<Progress>,
    ) -> Pin<Box<dyn Future<Output = Result<IngestReport, Refused>> + Send + '_>>;

    /// Hands every file of `asset` under `policies`, or under all, to `parts`, no faster than they are taken. It ends
    /// early when nobody takes them any more.
    ///
    /// # Errors
    /// [`Refused`]: what was handed out until then is not the whole, and its last file may be cut.
    fn export(
        &self,
        asset: AssetId,
        policies: Vec<String>,
        parts: mpsc::Sender<Part>,
    ) -> Pin<Box<dyn Future<Output = Result<ExportReport, Refused>> + Send + '_>>;
}

/// The longest piece of an export in bytes: several chunks of a response, so that none is ever split.
pub const MAX_PIECE_BYTES: usize = 1 << 20;
/// Parts of an export that wait for a slow peer.
const PARTS_WAITING: usize = 2;
/// The longest request in bytes: some thousand paths.
const MAX_REQUEST_BYTES: u64 = 1 << 20;
/// A peer that connects must ask within this.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The origin's end of the control socket.
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        // What cannot be removed is replaced at the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Server {
    /// Listens at `path`, in the place of what a process that died there left behind. Must be called within a runtime.
    ///
    /// # Errors
    /// Those of the file system; `AddrInUse` where another process answers.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another origin answers here",
            ));
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self {
            listener,
            path: path.to_owned(),
        })
    }

    /// Answers until it is dropped.
    pub async fn serve(self, control: Arc<dyn Control>) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let control = Arc::clone(&control);
                    tokio::spawn(async move {
                        if let Err(error) = answer(stream, &*control).await {
                            tracing::debug!(%error, "a control connection ended early");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept on the control socket");
                    // Out of descriptors: at once would spin.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

async fn answer(mut stream: UnixStream, control: &dyn Control) -> io::Result<()> {
    let peer = stream.peer_cred()?.uid();
    let (read, mut write) = stream.split();
    if peer != 0 && peer != rustix::process::geteuid().as_raw() {
        let message = format!("user {peer} is neither root nor the origin's own user");
        let refused = Refused {
            kind: RefusedKind::Denied,
            message,
        };
        return say(&mut write, &Event::Refused(refused)).await;
    }
    let mut line = Vec::new();
    let mut read = BufReader::new(read.take(MAX_REQUEST_BYTES));
    tokio::time::timeout(REQUEST_TIMEOUT, read.read_until(b'\n', &mut line)).await??;
    let outcome = match serde_json::from_slice(&line) {
        Ok(Request::Ingest { asset, paths }) => {
            let (sender, mut receiver) = mpsc::unbounded_channel();
            // A peer that goes away or does not read neither cancels nor delays: an ingest is published or not,
            // never by half.
            let telling = async {
                while let Some(progress) = receiver.recv().await {
                    let _ = say(&mut write, &Event::Progress(progress)).await;
                }
            };
            let (outcome, ()) = tokio::join!(control.ingest(asset, paths, sender), telling);
            outcome.map(Event::Ingested)
        }
        Ok(Request::Export { asset, policies }) => {
            let (sender, receiver) = mpsc::channel(PARTS_WAITING);
            let handing = hand_out(receiver, &mut write);
            let (outcome, handed) = tokio::join!(control.export(asset, policies, sender), handing);
            handed?;
            outcome.map(Event::Exported)
        }
        Err(error) => Err(Refused {
            kind: RefusedKind::Malformed,
            message: error.to_string(),
        }),
    };
    say(&mut write, &outcome.unwrap_or_else(Event::Refused)).await
}

/// Sends the parts of an export as they come. The receiver is dropped with the first failure, which ends the export.
async fn hand_out(
    mut parts: mpsc::Receiver<Part>,
    write: &mut (impl tokio::io::AsyncWrite + Unpin),
) -> io::Result<()> {
    while let Some(part) = parts.recv().await {
        match part {
            Part::File(file) => say(write, &Event::File(file)).await?,
            Part::Piece(piece) => {
                for piece in piece.chunks(MAX_PIECE_BYTES) {
                    let bytes = piece.len();
                    say(write, &Event::Piece { bytes }).await?;
                    write.write_all(piece).await?;
                }
            }
        }
    }
    Ok(())
}

async fn say(write: &mut (impl tokio::io::AsyncWrite + Unpin), event: &Event) -> io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    write.write_all(&line).await
}

/// Why a verb got no report.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no origin at this socket, or it may not be reached.
    #[error("no origin answers at {path}: {error}")]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The connection ended, or what came is no event.
    #[error("the origin's answer broke off: {0}")]
    Broken(String),
    /// The origin refused.
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// Asks the origin at the socket `path` to take up `paths` as `asset`.
///
/// # Errors
/// [`ClientError`].
pub async fn ingest(
    path: &Path,
    asset: AssetId,
    paths: Vec<PathBuf>,
    mut progress: impl FnMut(Progress),
) -> Result<IngestReport, ClientError> {
    let mut conversation = Conversation::begin(path, &Request::Ingest { asset, paths }).await?;
    loop {
        match conversation.hear().await? {
            Event::Progress(step) => progress(step),
            Event::Ingested(report) => return Ok(report),
            Event::Refused(refused) => return Err(refused.into()),
            Event::File(_) | Event::Piece { .. } | Event::Exported(_) => {
                return Err(broken("an ingest does not hand out files"));
            }
        }
    }
}

/// Asks the origin at the socket `path` for every file of `asset` under `policies`, or under all that the tenant
/// allows.
///
/// # Errors
/// [`ClientError`].
pub async fn export(
    path: &Path,
    asset: AssetId,
    policies: Vec<String>,
) -> Result<Exporting, ClientError> {
    let request = Request::Export { asset, policies };
    Ok(Exporting {
        conversation: Conversation::begin(path, &request).await?,
        missing: 0,
    })
}

/// An export under way, as the verb sees it.
pub struct Exporting {
    conversation: Conversation,
    /// Bytes of the present file that have not come yet.
    missing: u64,
}

/// What comes next of an export.
#[derive(Debug)]
pub enum Next {
    /// A file begins.
    File(ExportedFile),
    /// Bytes of it, and whether they are its last.
    Piece(Vec<u8>, bool),
    /// Every file is there.
    End(ExportReport),
}

impl Exporting {
    /// Waits for what comes next. An empty file has no piece.
    ///
    /// # Errors
    /// [`ClientError`]: the present file stays cut.
    pub async fn next(&mut self) -> Result<Next, ClientError> {
        match self.conversation.hear().await? {
            Event::File(_) | Event::Exported(_) if self.missing > 0 => {
                Err(broken("a file is shorter than was said"))
            }
            Event::File(file) => {
                self.missing = file.bytes;
                Ok(Next::File(file))
            }
            Event::Piece { bytes } => {
                let missing = self.missing.checked_sub(bytes as u64);
                self.missing = missing.ok_or_else(|| broken("a file is longer than was said"))?;
                let piece = self.conversation.take(bytes).await?;
                Ok(Next::Piece(piece, self.missing == 0))
            }
            Event::Exported(report) => Ok(Next::End(report)),
            Event::Refused(refused) => Err(refused.into()),
            Event::Progress(_) | Event::Ingested(_) => {
                Err(broken("an export does not take up files"))
            }
        }
    }
}

fn broken(what: impl std::fmt::Display) -> ClientError {
    ClientError::Broken(what.to_string())
}

/// The verb's end of a connection.
struct Conversation(BufReader<UnixStream>);

impl Conversation {
    async fn begin(path: &Path, request: &Request) -> Result<Self, ClientError> {
        let unreachable = |error| ClientError::Unreachable {
            path: path.to_owned(),
            error,
        };
        let mut stream = UnixStream::connect(path).await.map_err(unreachable)?;
        let mut line = serde_json::to_vec(request).map_err(broken)?;
        line.push(b'\n');
        stream.write_all(&line).await.map_err(broken)?;
        Ok(Self(BufReader::new(stream)))
    }

    async fn hear(&mut self) -> Result<Event, ClientError> {
        let mut line = Vec::new();
        match self.0.read_until(b'\n', &mut line).await {
            Ok(0) => Err(broken("it closed the connection")),
            Ok(_) => serde_json::from_slice(&line).map_err(broken),
            Err(error) => Err(broken(error)),
        }
    }

    async fn take(&mut self, bytes: usize) -> Result<Vec<u8>, ClientError> {
        if bytes > MAX_PIECE_BYTES {
            return Err(broken("a piece is longer than pieces are"));
        }
        let mut piece = vec![0; bytes];
        self.0.read_exact(&mut piece).await.map_err(broken)?;
        Ok(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Double;

    /// Enough for a policy's name to fill more than a piece.
    const TIMES: usize = MAX_PIECE_BYTES / 2;

    impl Control for Double {
        fn ingest(
            &self,
            asset: AssetId,
            paths: Vec<PathBuf>,
            progress: mpsc::UnboundedSender<Progress>,
        ) -> Pin<Box<dyn Future<Output = Result<IngestReport, Refused>> + Send + '_>> {
            Box::pin(async move {
                if paths.is_empty() {
                    let message = "there is no file".to_owned();
                    return Err(Refused {
                        kind: RefusedKind::Malformed,
                        message,
                    });
                }
                for done in 0..2 {
                    let step = Progress {
                        stage: "index".to_owned(),
                        done,
                        total: 2,
                    };
                    progress.send(step).unwrap();
                    tokio::task::yield_now().await;
                }
                Ok(IngestReport {
                    asset,
                    sources: Vec::new(),
                    renditions: vec!["v720-1000k".to_owned()],
                    segments: 7,
                    keys: Vec::new(),
                    warnings: Vec::new(),
                })
            })
        }

        /// A file with a piece for each policy, its name again and again; `sealed` ends it early.
        fn export(
            &self,
            asset: AssetId,
            policies: Vec<String>,
            parts: mpsc::Sender<Part>,
        ) -> Pin<Box<dyn Future<Output = Result<ExportReport, Refused>> + Send + '_>> {
            Box::pin(async move {
                let bytes = policies.concat().len() as u64 * TIMES as u64;
                let file = ExportedFile {
                    path: "v1/film/all".to_owned(),
                    bytes,
                    done: 0,
                    total: 1,
                };
                parts.send(Part::File(file)).await.unwrap();
                for policy in policies.clone() {
                    if policy == "sealed" {
                        return Err(Refused::because(&Error::Sealed));
                    }
                    let piece = policy.repeat(TIMES).into();
                    parts.send(Part::Piece(piece)).await.unwrap();
                }
                Ok(ExportReport {
                    asset,
                    policies,
                    files: 1,
                    bytes,
                })
            })
        }
    }

    #[tokio::test]
    async fn an_export_brings_whole_files_and_then_says_so() {
        let (_folder, path) = served().await;
        let policies = vec!["cbcs\n".to_owned(), "x".to_owned()];
        let whole = ["cbcs\n".repeat(TIMES), "x".repeat(TIMES)].concat();
        let mut exporting = export(&path, "film".parse().unwrap(), policies)
            .await
            .unwrap();
        let mut came = Vec::new();
        let report = loop {
            match exporting.next().await.unwrap() {
                Next::File(file) => assert_eq!(file.path, "v1/film/all"),
                Next::Piece(piece, last) => {
                    came.extend_from_slice(&piece);
                    assert_eq!(last, came.len() == whole.len());
                }
                Next::End(report) => break report,
            }
        };
        assert!(came == whole.as_bytes());
        assert_eq!(report.bytes, came.len() as u64);
    }

    #[tokio::test]
    async fn a_refusal_in_the_middle_of_a_file_is_no_byte_of_it() {
        let (_folder, path) = served().await;
        let policies = vec!["cbcs".to_owned(), "sealed".to_owned()];
        let mut exporting = export(&path, "film".parse().unwrap(), policies)
            .await
            .unwrap();
        let error = loop {
            match exporting.next().await {
                Ok(Next::File(_)) => {}
                Ok(Next::Piece(_, last)) => assert!(!last),
                Ok(Next::End(report)) => panic!("{report:?}"),
                Err(error) => break error,
            }
        };
        let ClientError::Refused(refused) = error else {
            panic!("{error}")
        };
        assert_eq!(refused.kind, RefusedKind::Sealed);
    }

    async fn served() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        tokio::spawn(Server::bind(&path).unwrap().serve(Arc::new(Double)));
        (folder, path)
    }

    #[tokio::test]
    async fn progress_comes_before_the_report() {
        let (_folder, path) = served().await;
        let mut steps = Vec::new();
        let report = ingest(
            &path,
            "film".parse().unwrap(),
            vec!["/a.mp4".into()],
            |step| {
                steps.push(step.done);
            },
        );
        assert_eq!(report.await.unwrap().segments, 7);
        assert_eq!(steps, [0, 1]);
    }

    #[tokio::test]
    async fn a_refusal_keeps_its_kind() {
        let (_folder, path) = served().await;
        let error = ingest(&path, "film".parse().unwrap(), Vec::new(), |_| {})
            .await
            .unwrap_err();
        assert!(matches!(
            error,
            ClientError::Refused(Refused {
                kind: RefusedKind::Malformed,
                ..
            })
        ));
    }

    #[tokio::test]
    async fn what_is_no_request_is_refused() {
        let (_folder, path) = served().await;
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream
            .write_all(b"{\"verb\":\"format-disk\"}\n")
            .await
            .unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        assert!(
            said.starts_with("{\"event\":\"refused\",\"kind\":\"malformed\""),
            "{said}"
        );
    }

    #[tokio::test]
    async fn a_socket_that_was_left_behind_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        drop(Server::bind(&path).unwrap());
        let _live = Server::bind(&path).unwrap();
        assert_eq!(
            Server::bind(&path).err().unwrap().kind(),
            io::ErrorKind::AddrInUse
        );
    }

    #[tokio::test]
    async fn nobody_there_is_unreachable() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let error = ingest(&path, "film".parse().unwrap(), Vec::new(), |_| {})
            .await
            .unwrap_err();
        assert!(matches!(error, ClientError::Unreachable { .. }));
    }
}
