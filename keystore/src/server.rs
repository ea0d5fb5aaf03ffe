//! The two Unix sockets. Who a peer is, is what the kernel says of it (`SO_PEERCRED`); what it may do is decided in
//! [`crate::local`], not here.

use std::collections::HashMap;
use std::fs::Permissions;
use std::future::Future;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use keystore_client::admin::{Admin, AdminError, DealtShare};
use keystore_client::exchange::DepositRequest;
use keystore_client::frame::{self, Frame, Secret};
use keystore_client::message::{
    AdminCall, AdminReply, Call, Fault, Greeting, Hello, KeyCall, KeyReply, MAX_OUTSTANDING,
    Notice, deposited, export_frame, hand_over_frame, lease_frame,
};
use keystore_client::{Error as CallError, Keystore, SealState};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite, split};
use tokio::net::UnixListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::capability::Callers;
use crate::error::Error;
use crate::local::Local;

/// The most connections on one socket: the roles hold one each, verbs come and go.
const MAX_CONNECTIONS: usize = 64;

/// The most connections of one user on one socket, so that nobody who may come keeps others out: root must get through to
/// seal.
const MAX_OF_USER: usize = 16;

/// The most peers that are being turned away at once; further ones are cut off without a word.
const MAX_REFUSALS: usize = 64;

/// How long a peer may take to say hello.
pub(crate) const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a peer may leave a reply unread.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// A pause after `accept` failed, so that a lack of file descriptors does not spin.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound socket; its file is removed when this is dropped.
pub struct Bound {
    listener: UnixListener,
    path: PathBuf,
}

impl Bound {
    /// Binds a socket to which any user may connect: what the kernel says of the peer decides, not file modes.
    ///
    /// # Errors
    /// Those of the file system; a file that is not a socket is left alone.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let bind = || {
            match path.symlink_metadata() {
                // Another keystore's, with a state folder of its own: its roles would be cut off for ever.
                Ok(found) if found.file_type().is_socket() && answers(path) => {
                    return Err(io::Error::from(io::ErrorKind::AddrInUse));
                }
                // Left behind by a process that was killed.
                Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path)?,
                Ok(_) => return Err(io::Error::from(io::ErrorKind::AlreadyExists)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            let listener = UnixListener::bind(path)?;
            std::fs::set_permissions(path, Permissions::from_mode(0o666))?;
            Ok(listener)
        };
        let listener = bind().map_err(|error| {
            Error::unavailable(format!("cannot listen on {}", path.display()), error)
        })?;
        Ok(Self {
            listener,
            path: path.to_owned(),
        })
    }
}

/// Whether a process listens there.
fn answers(path: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(path).is_ok()
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "cannot remove the socket");
        }
    }
}

/// Serves keys to the configured callers until `shutdown`, then lets calls under way finish for `grace` at most.
pub async fn serve_keys(
    bound: Bound,
    local: Local,
    callers: Arc<Callers>,
    shutdown: impl Future<Output = ()>,
    grace: Duration,
) {
    let state = local.seal_state();
    let admit = move |uid| {
        let caller = callers.of_keys(uid)?;
        Some(KeySession(local.handle(caller)))
    };
    serve(bound, Hello::keystore(), admit, state, shutdown, grace).await;
}

/// Serves administration to root, to the keystore's own user and to the configured callers, as [`serve_keys`].
pub async fn serve_control(
    bound: Bound,
    local: Local,
    callers: Arc<Callers>,
    shutdown: impl Future<Output = ()>,
    grace: Duration,
) {
    let state = local.seal_state();
    let admit = move |uid| {
        let caller = callers.of_control(uid)?;
        Some(ControlSession(local.admin(caller)))
    };
    serve(bound, Hello::control(), admit, state, shutdown, grace).await;
}

/// One connection's side of the conversation: calls in, replies out.
pub(crate) trait Session: Send + Sync + 'static {
    type Call: DeserializeOwned + Send;
    type Reply: Serialize + Send + Sync + 'static;

    fn answer(
        &self,
        call: Self::Call,
        secret: Secret,
    ) -> impl Future<Output = Result<Frame<Self::Reply>, Fault>> + Send;
}

pub(crate) struct KeySession(pub(crate) Arc<dyn Keystore>);

impl Session for KeySession {
    type Call = KeyCall;
    type Reply = KeyReply;

    async fn answer(&self, call: KeyCall, secret: Secret) -> Result<Frame<KeyReply>, Fault> {
        Ok(match call {
            KeyCall::Lease(request) => lease_frame(&self.0.lease(request).await?),
            KeyCall::Export(request) => export_frame(&self.0.export(request).await?),
            KeyCall::Describe(request) => Frame {
                header: KeyReply::Described(self.0.describe(request).await?),
                secret: Secret::default(),
            },
            KeyCall::Exchange(request) => export_frame(&self.0.exchange(request).await?),
            KeyCall::HandOver(request) => hand_over_frame(self.0.hand_over(request).await?),
            KeyCall::Deposit {
                tenant,
                asset,
                keys,
                partner,
            } => {
                let keys = deposited(keys, &secret).ok_or_else(|| {
                    CallError::Malformed("a deposit has 16 bytes for each of its keys".to_owned())
                })?;
                let request = DepositRequest {
                    tenant,
                    asset,
                    keys,
                    partner,
                };
                self.0.deposit(request).await?;
                Frame {
                    header: KeyReply::Deposited,
                    secret: Secret::default(),
                }
            }
        })
    }
}

struct ControlSession(Arc<dyn Admin>);

impl Session for ControlSession {
    type Call = AdminCall;
    type Reply = AdminReply;

    async fn answer(&self, call: AdminCall, secret: Secret) -> Result<Frame<AdminReply>, Fault> {
        let admin = &self.0;
        let mut bytes = Secret::default();
        let reply: Result<_, AdminError> = async {
            Ok(match call {
                AdminCall::Init => {
                    admin.init(passphrase(&secret)?).await?;
                    AdminReply::Done
                }
                AdminCall::InitWith(keeping) => {
                    match admin.init_with(keeping, given(&secret)?).await? {
                        Some(dealing) => AdminReply::Dealing(dealing),
                        None => AdminReply::Done,
                    }
                }
                AdminCall::DealShare => {
                    let DealtShare { index, text } = admin.deal_share().await?;
                    bytes = Secret::new(text.expose_secret().as_bytes().to_vec());
                    AdminReply::Share { index }
                }
                AdminCall::ConfirmShare => {
                    AdminReply::Progress(admin.confirm_share(passphrase(&secret)?).await?)
                }
                AdminCall::UnsealShare => {
                    AdminReply::Progress(admin.unseal_share(passphrase(&secret)?).await?)
                }
                AdminCall::UnsealBy(method) => {
                    admin.unseal_by(method).await?;
                    AdminReply::Done
                }
                AdminCall::Unseal => {
                    admin.unseal(passphrase(&secret)?).await?;
                    AdminReply::Done
                }
                AdminCall::Seal => {
                    admin.seal().await?;
                    AdminReply::Done
                }
                AdminCall::RotateRoot {
                    shares,
                    passphrase: length,
                } => {
                    let Some((old, new)) = secret.split_at_checked(length) else {
                        let why = "the passphrase is longer than what was sent";
                        return Err(CallError::Malformed(why.to_owned()).into());
                    };
                    let rotated = admin.rotate_root(shares, given(old)?, given(new)?);
                    AdminReply::RotatedRoot(rotated.await?)
                }
                AdminCall::RotateKeks(tenant) => {
                    AdminReply::Versions(admin.rotate_keks(tenant).await?)
                }
                AdminCall::RevokeNode(node) => {
                    admin.revoke_node(node).await?;
                    AdminReply::Done
                }
                AdminCall::Status => AdminReply::Status(admin.status().await?),
                AdminCall::Checkpoint => AdminReply::Checkpoint(admin.checkpoint().await?),
                AdminCall::Verify(against) => AdminReply::Report(admin.verify(against).await?),
                AdminCall::Act(act) => AdminReply::Acted(admin.act(act).await?),
                AdminCall::Backup(recipients) => {
                    AdminReply::Backup(admin.backup(recipients).await?)
                }
                AdminCall::BackupChunk(id) => {
                    let chunk = admin.backup_chunk(id).await?;
                    let end = chunk.is_none();
                    bytes = Secret::new(chunk.unwrap_or_default());
                    AdminReply::BackupChunk { end }
                }
                AdminCall::Restore(lines) => AdminReply::Restored(admin.restore(lines).await?),
                AdminCall::Approvals => AdminReply::Approvals(admin.approvals().await?),
                AdminCall::Approve(id) => AdminReply::Approval(admin.approve(id).await?),
                AdminCall::Cancel(id) => AdminReply::Approval(admin.cancel(id).await?),
                AdminCall::KeyList(filter) => AdminReply::Page(admin.key_list(filter).await?),
                AdminCall::KeyShow(id) => AdminReply::Key(admin.key_show(id).await?),
                AdminCall::KeyDestroy(id) => AdminReply::Key(admin.key_destroy(id).await?),
            })
        }
        .await;
        Ok(Frame {
            header: reply?,
            secret: bytes,
        })
    }
}

/// The passphrase, if one was given.
fn given(secret: &[u8]) -> Result<Option<SecretString>, CallError> {
    (!secret.is_empty()).then(|| passphrase(secret)).transpose()
}

fn passphrase(secret: &[u8]) -> Result<SecretString, CallError> {
    match str::from_utf8(secret) {
        Ok(text) => Ok(text.into()),
        Err(_) => Err(CallError::Malformed(
            "a passphrase or share is text in UTF-8".to_owned(),
        )),
    }
}

async fn serve<S: Session>(
    bound: Bound,
    hello: Hello,
    admit: impl Fn(u32) -> Option<S>,
    state: watch::Receiver<SealState>,
    shutdown: impl Future<Output = ()>,
    grace: Duration,
) {
    let mut shutdown = pin!(shutdown);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut of_users: HashMap<u32, Arc<Semaphore>> = HashMap::new();
    let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
    let (closing, close) = watch::channel(false);
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => continue,
            accepted = bound.listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(path = %bound.path.display(), %error, "cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let uid = match stream.peer_cred() {
            Ok(peer) => peer.uid(),
            Err(error) => {
                tracing::warn!(%error, "cannot tell who a peer is");
                continue;
            }
        };
        let session = match admit(uid) {
            None => Err(Fault::Denied(format!("user {uid} is no caller here"))),
            // Users who may come are those of the configuration: few.
            Some(session) => {
                let of_user = of_users.entry(uid).or_insert_with(places_of_one);
                match (
                    of_user.clone().try_acquire_owned(),
                    places.clone().try_acquire_owned(),
                ) {
                    (Ok(own), Ok(of_all)) => {
                        let place = Place {
                            _of_all: of_all,
                            _own: Some(own),
                        };
                        Ok((session, place))
                    }
                    (Err(_), _) => Err(Fault::Unavailable(format!(
                        "too many connections of user {uid}: {MAX_OF_USER} at the most"
                    ))),
                    (_, Err(_)) => Err(Fault::Unavailable("too many connections".to_owned())),
                }
            }
        };
        // Refusals are counted apart, so that strangers take no place from callers.
        let session = match session {
            Ok(admitted) => Ok(admitted),
            Err(fault) => {
                let Ok(refusal) = refusals.clone().try_acquire_owned() else {
                    continue;
                };
                tracing::warn!(uid, path = %bound.path.display(), ?fault, "turned away");
                let place = Place {
                    _of_all: refusal,
                    _own: None,
                };
                Err((fault, place))
            }
        };
        connections.spawn(connection(
            stream,
            hello.clone(),
            session,
            state.clone(),
            close.clone(),
        ));
    }
    closing.send_replace(true);
    let finished = async { while connections.join_next().await.is_some() {} };
    if timeout(grace, finished).await.is_err() {
        tracing::warn!(path = %bound.path.display(), "closed with calls under way");
    }
}

/// Held by a connection: its place among all, and among those of its user or machine.
pub(crate) struct Place {
    pub(crate) _of_all: OwnedSemaphorePermit,
    pub(crate) _own: Option<OwnedSemaphorePermit>,
}

/// Places for one user or machine.
pub(crate) fn places_of_one() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(MAX_OF_USER))
}

pub(crate) async fn connection<S: Session>(
    mut stream: impl AsyncRead + AsyncWrite + Send + Unpin,
    hello: Hello,
    session: Result<(S, Place), (Fault, Place)>,
    state: watch::Receiver<SealState>,
    close: watch::Receiver<bool>,
) {
    let greeted = timeout(
        HELLO_TIMEOUT,
        greet(
            &mut stream,
            &hello,
            session.as_ref().err().map(|(fault, _)| fault),
        ),
    )
    .await;
    let Ok((session, _place)) = session else {
        return;
    };
    match greeted {
        Ok(Ok(true)) => {}
        Ok(Ok(false)) => return,
        Ok(Err(error)) => return tracing::debug!(%error, "no greeting"),
        Err(_) => return tracing::debug!("no greeting in time"),
    }
    let (reader, writer) = split(stream);
    let (notices, queue) = mpsc::channel(MAX_OUTSTANDING);
    let reading = read(reader, Arc::new(session), notices, close);
    let ((), written) = tokio::join!(reading, write(writer, queue, state));
    if let Err(error) = written {
        tracing::debug!(%error, "a connection broke");
    }
}

/// Whether the conversation goes on.
async fn greet(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    hello: &Hello,
    refusal: Option<&Fault>,
) -> io::Result<bool> {
    let theirs = match frame::read::<Hello>(stream).await? {
        Some(frame) => frame.header,
        None => return Ok(false),
    };
    let greeting = match refusal {
        Some(fault) => Greeting::Fault(fault.clone()),
        // The peer reads from it what is spoken here, and leaves if that is not what it speaks.
        None => Greeting::Hello(hello.clone()),
    };
    frame::write(stream, &Frame::open(greeting)).await?;
    Ok(theirs == *hello)
}

/// Takes calls until the peer closes, breaks the protocol or the server closes; then waits for those under way.
async fn read<S: Session>(
    mut stream: impl AsyncRead + Unpin,
    session: Arc<S>,
    notices: mpsc::Sender<Frame<Notice<S::Reply>>>,
    mut close: watch::Receiver<bool>,
) {
    let outstanding = Arc::new(Semaphore::new(MAX_OUTSTANDING));
    let mut calls = JoinSet::new();
    let mut closed = pin!(close.wait_for(|&closing| closing));
    loop {
        let next = async {
            let permit = outstanding.clone().acquire_owned().await;
            (permit, frame::read::<Call<S::Call>>(&mut stream).await)
        };
        let (permit, frame) = tokio::select! {
            _ = &mut closed => break,
            () = notices.closed() => break,
            next = next => next,
        };
        let Frame { header, secret } = match frame {
            Ok(Some(frame)) => frame,
            Ok(None) => break,
            Err(error) => {
                tracing::debug!(%error, "a peer breaks the protocol");
                break;
            }
        };
        let Call { id, call } = header;
        let (session, notices) = (session.clone(), notices.clone());
        calls.spawn(async move {
            let _permit = permit;
            let notice = match session.answer(call, secret).await {
                Ok(Frame { header, secret }) => Frame {
                    header: Notice::Reply { id, reply: header },
                    secret,
                },
                Err(fault) => Frame::open(Notice::Fault { id, fault }),
            };
            // A peer that went away wants no reply.
            let _ = notices.send(notice).await;
        });
        while calls.try_join_next().is_some() {}
    }
    while calls.join_next().await.is_some() {}
}

/// Sends what is queued, and the seal at each change, until no call can come any more.
async fn write<T: Serialize>(
    mut stream: impl AsyncWrite + Unpin,
    mut queue: mpsc::Receiver<Frame<Notice<T>>>,
    mut state: watch::Receiver<SealState>,
) -> io::Result<()> {
    state.mark_changed();
    loop {
        let frame = tokio::select! {
            biased;
            Ok(()) = state.changed() => Frame::open(Notice::State(*state.borrow_and_update())),
            notice = queue.recv() => match notice {
                Some(notice) => notice,
                None => return Ok(()),
            },
        };
        timeout(WRITE_TIMEOUT, frame::write(&mut stream, &frame)).await??;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::net::UnixStream;

    use super::*;

    /// A session that is asked nothing.
    struct Mute;

    impl Session for Mute {
        type Call = ();
        type Reply = ();

        async fn answer(&self, (): (), _: Secret) -> Result<Frame<()>, Fault> {
            Ok(Frame::open(()))
        }
    }

    #[tokio::test]
    async fn a_socket_is_not_taken_from_another_keystore() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keystore.sock");
        let bound = Bound::open(&path).unwrap();
        let error = Bound::open(&path).err().unwrap();
        assert!(error.to_string().contains("keystore.sock"), "{error}");
        drop(bound);
        // One that a killed process has left is.
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists() && !answers(&path));
        drop(Bound::open(&path).unwrap());
        assert!(!path.exists());
    }

    /// Serves until the runtime ends.
    fn listen(
        path: &Path,
        admit: impl Fn(u32) -> Option<Mute> + Send + 'static,
    ) -> (watch::Sender<SealState>, Hello) {
        let bound = Bound::open(path).unwrap();
        let (seal, state) = watch::channel(SealState::Unsealed);
        let forever = std::future::pending();
        let serving = serve(
            bound,
            Hello::keystore(),
            admit,
            state,
            forever,
            Duration::ZERO,
        );
        tokio::spawn(serving);
        (seal, Hello::keystore())
    }

    #[tokio::test]
    async fn one_user_keeps_no_other_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keystore.sock");
        let (_seal, hello) = listen(&path, |_| Some(Mute));
        let greet = async || {
            let mut peer = UnixStream::connect(&path).await.unwrap();
            frame::write(&mut peer, &Frame::open(hello.clone()))
                .await
                .unwrap();
            let greeting = frame::read::<Greeting>(&mut peer).await.unwrap().unwrap();
            (peer, greeting.header)
        };
        let mut held = Vec::new();
        for number in 0..MAX_OF_USER {
            let (peer, greeting) = greet().await;
            assert_eq!(greeting, Greeting::Hello(hello.clone()), "{number}");
            held.push(peer);
        }
        let (_, greeting) = greet().await;
        assert!(
            matches!(&greeting, Greeting::Fault(Fault::Unavailable(why)) if why.contains("of user")),
            "{greeting:?}"
        );
        // A place that was given back is taken again.
        held.pop();
        let again = async {
            while !matches!(greet().await.1, Greeting::Hello(_)) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(20), again).await.unwrap();
    }

    #[tokio::test]
    async fn strangers_that_say_nothing_take_no_place_from_callers() {
        const STRANGERS: usize = MAX_CONNECTIONS + MAX_REFUSALS;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keystore.sock");
        let came = AtomicUsize::new(0);
        let admit = move |_| (came.fetch_add(1, Ordering::Relaxed) >= STRANGERS).then_some(Mute);
        let (_seal, hello) = listen(&path, admit);

        let mut strangers = Vec::new();
        for _ in 0..STRANGERS {
            strangers.push(UnixStream::connect(&path).await.unwrap());
        }
        let mut caller = UnixStream::connect(&path).await.unwrap();
        frame::write(&mut caller, &Frame::open(hello.clone()))
            .await
            .unwrap();
        let greeting = frame::read::<Greeting>(&mut caller).await.unwrap().unwrap();
        assert_eq!(greeting.header, Greeting::Hello(hello));
    }
}
