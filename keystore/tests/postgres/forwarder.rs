//! A way to a server that leads elsewhere, or stops moving bytes, when a test says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub struct Forwarder {
    port: u16,
    target: Arc<AtomicU16>,
    questions: watch::Sender<bool>,
    answers: watch::Sender<bool>,
}

impl Forwarder {
    /// Forwards to a port on loopback.
    pub async fn to(target: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let forwarder = Self {
            port: listener.local_addr().unwrap().port(),
            target: Arc::new(AtomicU16::new(target)),
            questions: watch::Sender::new(true),
            answers: watch::Sender::new(true),
        };
        let target = Arc::clone(&forwarder.target);
        let (questions, answers) = (
            forwarder.questions.subscribe(),
            forwarder.answers.subscribe(),
        );
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let target = target.load(Ordering::Relaxed);
                let (questions, answers) = (questions.clone(), answers.clone());
                tokio::spawn(async move {
                    // Nobody there: whoever has connected is hung up on.
                    let Ok(far) = TcpStream::connect(("127.0.0.1", target)).await else {
                        return;
                    };
                    let (near, far) = (near.into_split(), far.into_split());
                    tokio::join!(
                        carry(near.0, far.1, questions),
                        carry(far.0, near.1, answers)
                    );
                });
            }
        });
        forwarder
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// New connections lead to this port.
    pub fn turn_to(&self, target: u16) {
        self.target.store(target, Ordering::Relaxed);
    }

    /// No byte moves any more, and no connection ends.
    pub fn hang(&self) {
        self.questions.send_replace(false);
        self.answers.send_replace(false);
    }

    /// What is asked arrives; what is answered does not.
    pub fn hold_answers(&self) {
        self.answers.send_replace(false);
    }

    pub fn go_on(&self) {
        self.questions.send_replace(true);
        self.answers.send_replace(true);
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut moves: watch::Receiver<bool>) {
    let mut bytes = [0; 8192];
    while let Ok(len @ 1..) = from.read(&mut bytes).await {
        if moves.wait_for(|moves| *moves).await.is_err()
            || to.write_all(&bytes[..len]).await.is_err()
        {
            return;
        }
    }
}
