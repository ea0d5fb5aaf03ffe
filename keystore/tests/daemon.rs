//! The daemon as its peers meet it: strangers, broken frames, a restart, a drain.
//!
//! All processes here belong to one user, so a stranger is one whose user is not configured, not another user.
#![expect(clippy::unwrap_used, reason = "a test's panic is its report")]

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use conf::{CallerRight, KeystoreSettings, SecretSource, User};
use keystore::testing;
use keystore_client::admin::{Admin as _, AdminError};
use keystore_client::socket::{AdminSocket, Socket};
use keystore_client::{Error, Keystore as _, Lease, LeaseRequest, SealState};
use keystore_types::{Generation, KeyContext, Label, SUBSAMPLE_RULE, Scheme};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A daemon that runs until this is stopped.
struct Daemon {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), keystore::Error>>,
}

impl Daemon {
    fn start(settings: &KeystoreSettings) -> Self {
        let (stop, stopped) = oneshot::channel();
        let shutdown = async {
            let _ = stopped.await;
        };
        let task = tokio::spawn(keystore::run(settings.clone(), shutdown));
        Self { stop, task }
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        within(self.task).await.unwrap().unwrap();
    }
}

/// Settings under which this user is the origin, and the keystore unseals itself.
fn settings(folder: &TempDir) -> KeystoreSettings {
    let mut settings = testing::settings(folder.path());
    let origin = settings.callers.get_mut("origin").unwrap();
    origin.user = Some(User::Uid(rustix::process::geteuid().as_raw()));
    let passphrase = folder.path().join("passphrase");
    std::fs::write(&passphrase, "correct horse\n").unwrap();
    settings.passphrase = Some(SecretSource::file(passphrase));
    settings.init_at_start = true;
    settings
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    (tokio::time::timeout(Duration::from_secs(20), future).await).expect("it ends in time")
}

async fn wait_for(socket: &Socket, wanted: SealState) {
    let mut state = socket.seal_state();
    within(state.wait_for(|state| *state == wanted))
        .await
        .unwrap();
}

async fn lease(socket: &Socket, number: u32) -> Result<Lease, Error> {
    let context = KeyContext {
        tenant: "default".to_owned(),
        asset: "film".parse().unwrap(),
        label: Label::Hd,
        scheme: Scheme::Cenc,
        subsample_rule: SUBSAMPLE_RULE,
        generation: Generation {
            sources: [1; 32],
            number,
        },
    };
    let contexts = vec![context];
    within(socket.lease(LeaseRequest { contexts })).await
}

#[tokio::test]
async fn a_client_outlives_its_keystore() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&folder);
    // Before there is a keystore at all.
    let socket = Socket::open(&settings.socket);
    assert_eq!(*socket.seal_state().borrow(), SealState::Unreachable);
    assert!(matches!(
        lease(&socket, 0).await,
        Err(Error::Unavailable(_))
    ));

    let daemon = Daemon::start(&settings);
    wait_for(&socket, SealState::Unsealed).await;
    let first = lease(&socket, 0).await.unwrap();
    daemon.stop().await;
    wait_for(&socket, SealState::Unreachable).await;
    assert!(matches!(
        lease(&socket, 0).await,
        Err(Error::Unavailable(_))
    ));
    assert!(!settings.socket.exists());

    let daemon = Daemon::start(&settings);
    wait_for(&socket, SealState::Unsealed).await;
    let again = lease(&socket, 0).await.unwrap();
    assert_eq!(again.keys[0].key_id, first.keys[0].key_id);
    assert_eq!(again.keys[0].key.expose(), first.keys[0].key.expose());
    daemon.stop().await;
}

#[tokio::test]
async fn a_stranger_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(&folder);
    let origin = settings.callers.get_mut("origin").unwrap();
    origin.user = Some(User::Uid(rustix::process::geteuid().as_raw() + 1));
    let daemon = Daemon::start(&settings);
    let control = AdminSocket::open(&settings.control_socket);
    // Root and the keystore's own user operate it, and still get no key.
    while within(control.status()).await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let socket = Socket::open(&settings.socket);
    assert!(matches!(lease(&socket, 0).await, Err(Error::Denied(_))));
    daemon.stop().await;
}

#[tokio::test]
async fn neither_socket_speaks_the_others_protocol() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&folder);
    let daemon = Daemon::start(&settings);
    wait_for(&Socket::open(&settings.socket), SealState::Unsealed).await;
    let wrong = Socket::open(&settings.control_socket);
    assert!(matches!(lease(&wrong, 0).await, Err(Error::Unavailable(_))));
    let wrong = AdminSocket::open(&settings.socket);
    let error = within(wrong.seal()).await.unwrap_err();
    assert!(
        matches!(error, AdminError::Keystore(Error::Unavailable(_))),
        "{error}"
    );
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_frames_end_their_own_connection_only() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&folder);
    let daemon = Daemon::start(&settings);
    let socket = Socket::open(&settings.socket);
    wait_for(&socket, SealState::Unsealed).await;
    let frame = |header: &str| {
        let head = u32::try_from(header.len()).unwrap();
        let mut bytes = (head + 4).to_be_bytes().to_vec();
        bytes.extend_from_slice(&head.to_be_bytes());
        bytes.extend_from_slice(header.as_bytes());
        bytes
    };
    let hello = frame(r#"{"protocol":"castellum-keystore","version":1}"#);
    let cases: [(&str, Vec<u8>); 7] = [
        ("nothing", vec![]),
        ("half a length", vec![0, 0]),
        ("a huge frame", vec![0xff; 64]),
        (
            "another protocol",
            frame(r#"{"protocol":"http","version":1}"#),
        ),
        (
            "another version",
            frame(r#"{"protocol":"castellum-keystore","version":2}"#),
        ),
        ("no call", [hello.clone(), frame("[]")].concat()),
        (
            "an administrative call",
            [hello.clone(), frame(r#"{"id":1,"call":"seal"}"#)].concat(),
        ),
    ];
    for (what, bytes) in cases {
        let mut stream = UnixStream::connect(&settings.socket).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream.write_all(&bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = vec![];
        match stream.read_to_end(&mut answer) {
            Ok(_) => {}
            // Closed with bytes unread.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => panic!("{what}: {error}"),
        }
        assert!(
            !String::from_utf8_lossy(&answer).contains("reply"),
            "{what}"
        );
        assert!(lease(&socket, 0).await.is_ok(), "{what}");
    }
    assert_eq!(*socket.seal_state().borrow(), SealState::Unsealed);
    daemon.stop().await;
}

#[tokio::test]
async fn more_calls_at_once_than_may_be_outstanding() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&folder);
    let daemon = Daemon::start(&settings);
    let socket = Socket::open(&settings.socket);
    wait_for(&socket, SealState::Unsealed).await;
    let leases = (0..300).map(|number| lease(&socket, number % 50));
    let leases = futures_util::future::join_all(leases).await;
    for (number, lease) in (0_u32..).zip(leases) {
        // Each got its own reply.
        assert_eq!(
            lease.unwrap().keys[0].context.generation.number,
            number % 50
        );
    }
    daemon.stop().await;
}

#[tokio::test]
async fn a_stop_lets_calls_finish() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&folder);
    let daemon = Daemon::start(&settings);
    let socket = Socket::open(&settings.socket);
    wait_for(&socket, SealState::Unsealed).await;
    let (leases, ()) = tokio::join!(
        futures_util::future::join_all((0..40).map(|number| lease(&socket, number))),
        daemon.stop(),
    );
    // Answered, or told that nobody is there; never left waiting, as `within` says.
    for lease in leases {
        assert!(
            matches!(lease, Ok(_) | Err(Error::Unavailable(_))),
            "{lease:?}"
        );
    }
}

#[tokio::test]
async fn the_log_names_all_that_a_user_is() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(&folder);
    let origin = settings.callers.get_mut("origin").unwrap();
    origin.may.push(CallerRight::Audit);
    let daemon = Daemon::start(&settings);
    wait_for(&Socket::open(&settings.socket), SealState::Unsealed).await;
    let control = AdminSocket::open(&settings.control_socket);
    within(control.seal()).await.unwrap();
    // This user is the configured caller and the keystore's owner: the log names both.
    let log = std::fs::read_to_string(settings.state_dir.join("audit.log")).unwrap();
    let sealed = log.lines().find(|line| line.contains("\"op\":\"seal\""));
    let sealed: serde_json::Value = serde_json::from_str(sealed.unwrap()).unwrap();
    assert_eq!(sealed["caller"], "origin+operator");
    daemon.stop().await;
}
