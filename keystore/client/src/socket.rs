//! A keystore in another process: the client of its two Unix sockets.

use std::path::Path;
use std::time::Duration;

use keystore_types::{KeyContext, KeyId};
use secrecy::{ExposeSecret as _, SecretString};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::admin::{
    Act, Acted, Admin, AdminError, Approval, CheckpointText, Dealing, DealtShare, Keeping,
    KekVersion, KeyFilter, KeyPage, KeyRecord, Outcome, Progress, Report, RotatedRoot, SharePlan,
    Status, UnlockMethod,
};
use crate::exchange::{DepositRequest, ExchangeRequest, HandOverRequest, HandedOver};
use crate::frame::{Frame, Secret};
use crate::link::{Link, Place};
use crate::message::{
    AdminCall, AdminReply, Hello, KeyCall, KeyReply, deposit_frame, export_of, handed_over,
    lease_of,
};
use crate::{
    Answer, DescribeRequest, Error, ExportRequest, ExportedKey, KeyDescription, Keystore, Lease,
    LeaseRequest, SealState,
};

/// How long a key may take: many times a group commit on a slow disk.
pub(crate) const KEY_PATIENCE: Duration = Duration::from_secs(10);

/// How long an administrative call may take: `verify` reads the whole audit log.
const ADMIN_PATIENCE: Duration = Duration::from_secs(600);

/// The client of the keystore socket.
pub struct Socket(Link);

impl Socket {
    /// Connects now, or as soon as the socket is there, and again whenever the connection is lost. Until then
    /// the seal is [`SealState::Unreachable`] and calls fail at once. The connection lives on the current
    /// runtime, until this is dropped; calls may come from others.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn open(path: &Path) -> Self {
        Self(Link::open(Place::Unix(path.to_owned()), Hello::keystore()))
    }

    async fn call(&self, call: KeyCall) -> Result<Frame<KeyReply>, Error> {
        let reply = self.0.call(&call, Secret::default(), KEY_PATIENCE).await?;
        typed(reply?)
    }
}

impl Keystore for Socket {
    fn lease(&self, request: LeaseRequest) -> Answer<'_, Lease> {
        Box::pin(async move {
            let asked = request.contexts.clone();
            let lease = lease_of(self.call(KeyCall::Lease(request)).await?);
            as_asked(lease, &asked)
        })
    }

    fn export(&self, request: ExportRequest) -> Answer<'_, Vec<ExportedKey>> {
        Box::pin(async move {
            export_of(self.call(KeyCall::Export(request)).await?).ok_or_else(unexpected)
        })
    }

    fn describe(&self, request: DescribeRequest) -> Answer<'_, Vec<KeyDescription>> {
        Box::pin(async move {
            match self.call(KeyCall::Describe(request)).await?.header {
                KeyReply::Described(keys) => Ok(keys),
                _ => Err(unexpected()),
            }
        })
    }

    fn exchange(&self, request: ExchangeRequest) -> Answer<'_, Vec<ExportedKey>> {
        Box::pin(async move {
            let asked: Vec<_> = request.keys.iter().map(|asked| asked.key_id).collect();
            let keys = export_of(self.call(KeyCall::Exchange(request)).await?);
            let keys = keys.ok_or_else(unexpected)?;
            match keys.iter().map(|given| &given.key_id).eq(&asked) {
                true => Ok(keys),
                false => Err(unexpected()),
            }
        })
    }

    fn hand_over(&self, request: HandOverRequest) -> Answer<'_, HandedOver> {
        Box::pin(async move {
            handed_over(self.call(KeyCall::HandOver(request)).await?).ok_or_else(unexpected)
        })
    }

    fn deposit(&self, request: DepositRequest) -> Answer<'_, ()> {
        Box::pin(async move {
            let frame = deposit_frame(request);
            let reply = (self.0.call(&frame.header, frame.secret, KEY_PATIENCE)).await?;
            match typed(reply?)?.header {
                KeyReply::Deposited => Ok(()),
                KeyReply::Lease { .. } | KeyReply::Export { .. } | KeyReply::Described(_) => {
                    Err(unexpected())
                }
            }
        })
    }

    fn seal_state(&self) -> watch::Receiver<SealState> {
        self.0.state()
    }
}

/// The client of the control socket.
pub struct AdminSocket(Link);

impl AdminSocket {
    /// As [`Socket::open`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn open(path: &Path) -> Self {
        Self(Link::open(Place::Unix(path.to_owned()), Hello::control()))
    }

    async fn call(&self, call: AdminCall, secret: Secret) -> Result<Frame<AdminReply>, AdminError> {
        let reply = self.0.call(&call, secret, ADMIN_PATIENCE).await?;
        Ok(typed(reply?)?)
    }

    async fn give(&self, call: AdminCall, secret: &SecretString) -> Result<AdminReply, AdminError> {
        let secret = Secret::new(secret.expose_secret().as_bytes().to_vec());
        Ok(self.call(call, secret).await?.header)
    }

    async fn ask(&self, call: AdminCall) -> Result<AdminReply, AdminError> {
        Ok(self.call(call, Secret::default()).await?.header)
    }

    async fn share(&self, call: AdminCall, share: SecretString) -> Result<Progress, AdminError> {
        match self.give(call, &share).await? {
            AdminReply::Progress(progress) => Ok(progress),
            other => Err(unlike(&other)),
        }
    }
}

impl Admin for AdminSocket {
    fn init(&self, passphrase: SecretString) -> Outcome<'_, ()> {
        Box::pin(async move { done(self.give(AdminCall::Init, &passphrase).await?) })
    }

    fn init_with(
        &self,
        keeping: Keeping,
        passphrase: Option<SecretString>,
    ) -> Outcome<'_, Option<Dealing>> {
        Box::pin(async move {
            let passphrase = passphrase.unwrap_or_else(|| String::new().into());
            match self.give(AdminCall::InitWith(keeping), &passphrase).await? {
                AdminReply::Done => Ok(None),
                AdminReply::Dealing(dealing) => Ok(Some(dealing)),
                other => Err(unlike(&other)),
            }
        })
    }

    fn deal_share(&self) -> Outcome<'_, DealtShare> {
        Box::pin(async {
            let Frame { header, secret } =
                self.call(AdminCall::DealShare, Secret::default()).await?;
            match (header, str::from_utf8(&secret)) {
                (AdminReply::Share { index }, Ok(text)) => Ok(DealtShare {
                    index,
                    text: text.into(),
                }),
                (other, _) => Err(unlike(&other)),
            }
        })
    }

    fn confirm_share(&self, share: SecretString) -> Outcome<'_, Progress> {
        Box::pin(self.share(AdminCall::ConfirmShare, share))
    }

    fn unseal_share(&self, share: SecretString) -> Outcome<'_, Progress> {
        Box::pin(self.share(AdminCall::UnsealShare, share))
    }

    fn unseal_by(&self, method: UnlockMethod) -> Outcome<'_, ()> {
        Box::pin(async move { done(self.ask(AdminCall::UnsealBy(method)).await?) })
    }

    fn unseal(&self, passphrase: SecretString) -> Outcome<'_, ()> {
        Box::pin(async move { done(self.give(AdminCall::Unseal, &passphrase).await?) })
    }

    fn seal(&self) -> Outcome<'_, ()> {
        Box::pin(async { done(self.ask(AdminCall::Seal).await?) })
    }

    fn rotate_root(
        &self,
        shares: Option<SharePlan>,
        passphrase: Option<SecretString>,
        new_passphrase: Option<SecretString>,
    ) -> Outcome<'_, RotatedRoot> {
        Box::pin(async move {
            let both = [passphrase.as_ref(), new_passphrase.as_ref()];
            let [old, new] = both.map(|text| text.map_or("", |text| text.expose_secret()));
            // As large as it gets: a buffer that grows leaves a copy behind.
            let mut secret = Secret::new(Vec::with_capacity(old.len() + new.len()));
            secret.extend_from_slice(old.as_bytes());
            secret.extend_from_slice(new.as_bytes());
            let call = AdminCall::RotateRoot {
                shares,
                passphrase: old.len(),
            };
            match self.call(call, secret).await?.header {
                AdminReply::RotatedRoot(rotated) => Ok(rotated),
                other => Err(unlike(&other)),
            }
        })
    }

    fn rotate_keks(&self, tenant: Option<String>) -> Outcome<'_, Vec<KekVersion>> {
        Box::pin(async {
            match self.ask(AdminCall::RotateKeks(tenant)).await? {
                AdminReply::Versions(versions) => Ok(versions),
                other => Err(unlike(&other)),
            }
        })
    }

    fn status(&self) -> Outcome<'_, Status> {
        Box::pin(async {
            match self.ask(AdminCall::Status).await? {
                AdminReply::Status(status) => Ok(status),
                other => Err(unlike(&other)),
            }
        })
    }

    fn checkpoint(&self) -> Outcome<'_, CheckpointText> {
        Box::pin(async {
            match self.ask(AdminCall::Checkpoint).await? {
                AdminReply::Checkpoint(checkpoint) => Ok(checkpoint),
                other => Err(unlike(&other)),
            }
        })
    }

    fn verify(&self, against: Option<CheckpointText>) -> Outcome<'_, Report> {
        Box::pin(async {
            match self.ask(AdminCall::Verify(against)).await? {
                AdminReply::Report(report) => Ok(report),
                other => Err(unlike(&other)),
            }
        })
    }

    fn act(&self, act: Act) -> Outcome<'_, Acted> {
        Box::pin(async {
            match self.ask(AdminCall::Act(act)).await? {
                AdminReply::Acted(acted) => Ok(acted),
                other => Err(unlike(&other)),
            }
        })
    }

    fn backup(&self, recipients: Vec<String>) -> Outcome<'_, String> {
        Box::pin(async {
            match self.ask(AdminCall::Backup(recipients)).await? {
                AdminReply::Backup(id) => Ok(id),
                other => Err(unlike(&other)),
            }
        })
    }

    fn backup_chunk(&self, id: String) -> Outcome<'_, Option<Vec<u8>>> {
        Box::pin(async {
            let call = AdminCall::BackupChunk(id);
            let reply = self
                .0
                .call(&call, Secret::default(), ADMIN_PATIENCE)
                .await?;
            let mut frame: Frame<AdminReply> = typed(reply?)?;
            match frame.header {
                AdminReply::BackupChunk { end: true } => Ok(None),
                AdminReply::BackupChunk { end: false } => {
                    Ok(Some(std::mem::take(&mut *frame.secret)))
                }
                other => Err(unlike(&other)),
            }
        })
    }

    fn restore(&self, lines: String) -> Outcome<'_, Option<String>> {
        Box::pin(async {
            match self.ask(AdminCall::Restore(lines)).await? {
                AdminReply::Restored(restored) => Ok(restored),
                other => Err(unlike(&other)),
            }
        })
    }

    fn revoke_node(&self, node: String) -> Outcome<'_, ()> {
        Box::pin(async { done(self.ask(AdminCall::RevokeNode(node)).await?) })
    }

    fn approvals(&self) -> Outcome<'_, Vec<Approval>> {
        Box::pin(async {
            match self.ask(AdminCall::Approvals).await? {
                AdminReply::Approvals(approvals) => Ok(approvals),
                other => Err(unlike(&other)),
            }
        })
    }

    fn approve(&self, id: String) -> Outcome<'_, Approval> {
        Box::pin(async { approval(self.ask(AdminCall::Approve(id)).await?) })
    }

    fn cancel(&self, id: String) -> Outcome<'_, Approval> {
        Box::pin(async { approval(self.ask(AdminCall::Cancel(id)).await?) })
    }

    fn key_list(&self, filter: KeyFilter) -> Outcome<'_, KeyPage> {
        Box::pin(async {
            match self.ask(AdminCall::KeyList(filter)).await? {
                AdminReply::Page(page) => Ok(page),
                other => Err(unlike(&other)),
            }
        })
    }

    fn key_show(&self, id: KeyId) -> Outcome<'_, KeyRecord> {
        Box::pin(async move { key(self.ask(AdminCall::KeyShow(id)).await?) })
    }

    fn key_destroy(&self, id: KeyId) -> Outcome<'_, KeyRecord> {
        Box::pin(async move { key(self.ask(AdminCall::KeyDestroy(id)).await?) })
    }
}

/// A lease of what was asked for, and of nothing else.
pub(crate) fn as_asked(lease: Option<Lease>, asked: &[KeyContext]) -> Result<Lease, Error> {
    let lease = lease.ok_or_else(unexpected)?;
    match lease.keys.iter().map(|leased| &leased.context).eq(asked) {
        true => Ok(lease),
        false => Err(unexpected()),
    }
}

fn done(reply: AdminReply) -> Result<(), AdminError> {
    match reply {
        AdminReply::Done => Ok(()),
        other => Err(unlike(&other)),
    }
}

fn approval(reply: AdminReply) -> Result<Approval, AdminError> {
    match reply {
        AdminReply::Approval(approval) => Ok(approval),
        other => Err(unlike(&other)),
    }
}

fn key(reply: AdminReply) -> Result<KeyRecord, AdminError> {
    match reply {
        AdminReply::Key(record) => Ok(record),
        other => Err(unlike(&other)),
    }
}

pub(crate) fn typed<T: DeserializeOwned>(
    reply: Frame<serde_json::Value>,
) -> Result<Frame<T>, Error> {
    let header = serde_json::from_value(reply.header).map_err(|_| unexpected())?;
    Ok(Frame {
        header,
        secret: reply.secret,
    })
}

fn unlike(_: &AdminReply) -> AdminError {
    unexpected().into()
}

pub(crate) fn unexpected() -> Error {
    Error::Unavailable("the reply does not fit the call".to_owned())
}
