//! The wire forms: what the frames of the two sockets carry.
//!
//! A connection begins with a [`Hello`] from the client and a [`Greeting`] from the server. The client then sends [`Call`]s and may have
//! [`MAX_OUTSTANDING`] without a reply; the server sends [`Notice`]s: a reply or fault for each call, in any
//! order, and each change of the seal. The keystore socket carries [`KeyCall`]s, the control socket
//! [`AdminCall`]s: two types, so that neither can stand for the other.

use std::time::Duration;

use keystore_types::{AssetId, ConstantIv, ContentKey, KeyContext, KeyId, Label, Scheme};
use serde::{Deserialize, Serialize};

use crate::admin::{
    Act, Acted, AdminError, Approval, CheckpointText, Dealing, Keeping, KekVersion, KeyFilter,
    KeyPage, KeyRecord, Progress, Report, RotatedRoot, SharePlan, Status, UnlockMethod,
};
use crate::exchange::{
    DepositRequest, DepositedHead, DepositedKey, ExchangeRequest, HandOverRequest, HandedOver,
    Partner,
};
use crate::frame::{Frame, Secret};
use crate::{
    DescribeRequest, Error, ExportRequest, ExportedKey, KeyDescription, Lease, LeaseRequest,
    LeasedKey, SealState,
};

/// The version of these messages.
pub const VERSION: u32 = 1;

/// The most calls of one connection that wait for a reply.
pub const MAX_OUTSTANDING: usize = 64;

/// What is spoken on a socket: the client's first frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// `castellum-keystore` or `castellum-keystore-control`.
    pub protocol: String,
    /// [`VERSION`].
    pub version: u32,
}

impl Hello {
    /// On the keystore socket.
    pub fn keystore() -> Self {
        Self {
            protocol: "castellum-keystore".to_owned(),
            version: VERSION,
        }
    }

    /// On the control socket.
    pub fn control() -> Self {
        Self {
            protocol: "castellum-keystore-control".to_owned(),
            version: VERSION,
        }
    }
}

/// The server's first frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Greeting {
    /// Go on.
    Hello(Hello),
    /// The connection is not taken, and closed after this.
    Fault(Fault),
}

/// A numbered call.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call<T> {
    /// Given back in the reply; unique among the calls that wait.
    pub id: u64,
    /// The call.
    pub call: T,
}

/// What the keystore socket is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyCall {
    /// [`crate::Keystore::lease`].
    Lease(LeaseRequest),
    /// [`crate::Keystore::export`].
    Export(ExportRequest),
    /// [`crate::Keystore::describe`].
    Describe(DescribeRequest),
    /// [`crate::Keystore::exchange`].
    Exchange(ExchangeRequest),
    /// [`crate::Keystore::hand_over`].
    HandOver(HandOverRequest),
    /// [`crate::Keystore::deposit`]. The keys stand in the frame's secret bytes, 16 each, in the same order.
    Deposit {
        /// Whose keys they become.
        tenant: String,
        /// The asset.
        asset: AssetId,
        /// The keys.
        keys: Vec<DepositedHead>,
        /// Who brings them.
        partner: Partner,
    },
}

/// What the control socket is asked. A passphrase or a share stands in the frame's secret bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminCall {
    /// [`crate::admin::Admin::init`].
    Init,
    /// [`crate::admin::Admin::init_with`]; without secret bytes there is no passphrase.
    InitWith(Keeping),
    /// [`crate::admin::Admin::deal_share`].
    DealShare,
    /// [`crate::admin::Admin::confirm_share`].
    ConfirmShare,
    /// [`crate::admin::Admin::unseal_share`].
    UnsealShare,
    /// [`crate::admin::Admin::unseal_by`].
    UnsealBy(UnlockMethod),
    /// [`crate::admin::Admin::unseal`].
    Unseal,
    /// [`crate::admin::Admin::seal`].
    Seal,
    /// [`crate::admin::Admin::rotate_root`].
    RotateRoot {
        /// How many shares there are to be.
        shares: Option<SharePlan>,
        /// So many of the secret bytes are the passphrase, none if 0; the others are the new one, if there are any.
        passphrase: usize,
    },
    /// [`crate::admin::Admin::rotate_keks`].
    RotateKeks(Option<String>),
    /// [`crate::admin::Admin::revoke_node`].
    RevokeNode(String),
    /// [`crate::admin::Admin::status`].
    Status,
    /// [`crate::admin::Admin::checkpoint`].
    Checkpoint,
    /// [`crate::admin::Admin::verify`].
    Verify(Option<CheckpointText>),
    /// [`crate::admin::Admin::act`].
    Act(Act),
    /// [`crate::admin::Admin::backup`].
    Backup(Vec<String>),
    /// [`crate::admin::Admin::backup_chunk`].
    BackupChunk(String),
    /// [`crate::admin::Admin::restore`].
    Restore(String),
    /// [`crate::admin::Admin::approvals`].
    Approvals,
    /// [`crate::admin::Admin::approve`].
    Approve(String),
    /// [`crate::admin::Admin::cancel`].
    Cancel(String),
    /// [`crate::admin::Admin::key_list`].
    KeyList(KeyFilter),
    /// [`crate::admin::Admin::key_show`].
    KeyShow(KeyId),
    /// [`crate::admin::Admin::key_destroy`].
    KeyDestroy(KeyId),
}

/// What the server sends.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice<T> {
    /// The reply to a call.
    Reply {
        /// The call's number.
        id: u64,
        /// The reply.
        reply: T,
    },
    /// The call failed.
    Fault {
        /// The call's number.
        id: u64,
        /// Why.
        fault: Fault,
    },
    /// The seal as it is now: sent first after the hello, then at each change.
    State(SealState),
}

/// Replies on the keystore socket. The keys stand in the frame's secret bytes, 16 each, in the same order.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyReply {
    /// To [`KeyCall::Lease`].
    Lease {
        /// How long the keys may be held, in milliseconds.
        term_ms: u64,
        /// The keys.
        keys: Vec<LeasedHead>,
    },
    /// To [`KeyCall::Export`], [`KeyCall::Exchange`] and [`KeyCall::HandOver`].
    Export {
        /// The keys.
        keys: Vec<ExportedHead>,
        /// See [`HandedOver::elsewhere`].
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        elsewhere: Vec<KeyId>,
    },
    /// To [`KeyCall::Describe`].
    Described(Vec<KeyDescription>),
    /// To [`KeyCall::Deposit`].
    Deposited,
}

/// A [`LeasedKey`] without the key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeasedHead {
    context: KeyContext,
    key_id: KeyId,
    iv: IvText,
}

/// An [`ExportedKey`] without the key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExportedHead {
    key_id: KeyId,
    label: Label,
    scheme: Scheme,
    iv: IvText,
}

/// Replies on the control socket.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminReply {
    /// It is done.
    Done,
    /// To [`AdminCall::InitWith`], where shares are to be dealt.
    Dealing(Dealing),
    /// To [`AdminCall::DealShare`]; the share stands in the frame's secret bytes.
    Share {
        /// Its index.
        index: u8,
    },
    /// To [`AdminCall::ConfirmShare`] and [`AdminCall::UnsealShare`].
    Progress(Progress),
    /// To [`AdminCall::RotateRoot`].
    RotatedRoot(RotatedRoot),
    /// To [`AdminCall::RotateKeks`].
    Versions(Vec<KekVersion>),
    /// To [`AdminCall::Status`].
    Status(Status),
    /// To [`AdminCall::Checkpoint`].
    Checkpoint(CheckpointText),
    /// To [`AdminCall::Verify`].
    Report(Report),
    /// To [`AdminCall::Act`].
    Acted(Acted),
    /// To [`AdminCall::Backup`].
    Backup(String),
    /// To [`AdminCall::BackupChunk`]; the bytes stand in the frame's secret bytes.
    BackupChunk {
        /// Whether there are none any more.
        end: bool,
    },
    /// To [`AdminCall::Restore`].
    Restored(Option<String>),
    /// To [`AdminCall::Approvals`].
    Approvals(Vec<Approval>),
    /// To [`AdminCall::Approve`] and [`AdminCall::Cancel`].
    Approval(Approval),
    /// To [`AdminCall::KeyList`].
    Page(KeyPage),
    /// To [`AdminCall::KeyShow`] and [`AdminCall::KeyDestroy`].
    Key(KeyRecord),
}

/// Why a call failed, on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// [`Error::Sealed`].
    Sealed,
    /// [`Error::Denied`].
    Denied(String),
    /// [`Error::Malformed`].
    Malformed(String),
    /// [`Error::Conflict`].
    Conflict(String),
    /// [`Error::AuditUnavailable`].
    AuditUnavailable(String),
    /// [`Error::Unavailable`].
    Unavailable(String),
    /// [`AdminError::WrongPassphrase`].
    WrongPassphrase,
    /// [`AdminError::WrongShare`].
    WrongShare(String),
    /// [`AdminError::NotFound`].
    NotFound(KeyId),
    /// [`AdminError::Refused`].
    Refused(String),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        match error {
            Error::Sealed => Self::Sealed,
            Error::Denied(why) => Self::Denied(why),
            Error::Malformed(why) => Self::Malformed(why),
            Error::Conflict(why) => Self::Conflict(why),
            Error::AuditUnavailable(why) => Self::AuditUnavailable(why),
            Error::Unavailable(why) => Self::Unavailable(why),
        }
    }
}

impl From<AdminError> for Fault {
    fn from(error: AdminError) -> Self {
        match error {
            AdminError::Keystore(error) => error.into(),
            AdminError::WrongPassphrase => Self::WrongPassphrase,
            AdminError::WrongShare(why) => Self::WrongShare(why),
            AdminError::NotFound(id) => Self::NotFound(id),
            AdminError::Refused(why) => Self::Refused(why),
        }
    }
}

impl From<Fault> for AdminError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Sealed => Error::Sealed.into(),
            Fault::Denied(why) => Error::Denied(why).into(),
            Fault::Malformed(why) => Error::Malformed(why).into(),
            Fault::Conflict(why) => Error::Conflict(why).into(),
            Fault::AuditUnavailable(why) => Error::AuditUnavailable(why).into(),
            Fault::Unavailable(why) => Error::Unavailable(why).into(),
            Fault::WrongPassphrase => Self::WrongPassphrase,
            Fault::WrongShare(why) => Self::WrongShare(why),
            Fault::NotFound(id) => Self::NotFound(id),
            Fault::Refused(why) => Self::Refused(why),
        }
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match AdminError::from(fault) {
            AdminError::Keystore(error) => error,
            // No key call is answered so; a server that does breaks the protocol.
            error @ (AdminError::WrongPassphrase
            | AdminError::WrongShare(_)
            | AdminError::NotFound(_)
            | AdminError::Refused(_)) => Self::Unavailable(error.to_string()),
        }
    }
}

/// A lease as a frame.
pub fn lease_frame(lease: &Lease) -> Frame<KeyReply> {
    Frame {
        header: KeyReply::Lease {
            term_ms: u64::try_from(lease.term.as_millis()).unwrap_or(u64::MAX),
            keys: (lease.keys.iter())
                .map(|leased| LeasedHead {
                    context: leased.context.clone(),
                    key_id: leased.key_id,
                    iv: IvText(leased.iv),
                })
                .collect(),
        },
        secret: join(lease.keys.iter().map(|leased| &leased.key)),
    }
}

/// Exported keys as a frame.
pub fn export_frame(exported: &[ExportedKey]) -> Frame<KeyReply> {
    keys_frame(exported, vec![])
}

/// Keys that are handed over as a frame.
pub fn hand_over_frame(handed: HandedOver) -> Frame<KeyReply> {
    keys_frame(&handed.keys, handed.elsewhere)
}

fn keys_frame(exported: &[ExportedKey], elsewhere: Vec<KeyId>) -> Frame<KeyReply> {
    Frame {
        header: KeyReply::Export {
            elsewhere,
            keys: (exported.iter())
                .map(|exported| ExportedHead {
                    key_id: exported.key_id,
                    label: exported.label,
                    scheme: exported.scheme,
                    iv: IvText(exported.iv),
                })
                .collect(),
        },
        secret: join(exported.iter().map(|exported| &exported.key)),
    }
}

/// The lease that a frame carries; `None` where the frame carries something else.
pub fn lease_of(frame: Frame<KeyReply>) -> Option<Lease> {
    let KeyReply::Lease { term_ms, keys } = frame.header else {
        return None;
    };
    let keys = split(&frame.secret, keys)?
        .map(|(head, key)| LeasedKey {
            context: head.context,
            key_id: head.key_id,
            iv: head.iv.0,
            key,
        })
        .collect();
    Some(Lease {
        keys,
        term: Duration::from_millis(term_ms),
    })
}

/// The exported keys that a frame carries; `None` where the frame carries something else.
pub fn export_of(frame: Frame<KeyReply>) -> Option<Vec<ExportedKey>> {
    handed_over(frame).map(|handed| handed.keys)
}

/// The keys handed over that a frame carries; `None` where the frame carries something else.
pub fn handed_over(frame: Frame<KeyReply>) -> Option<HandedOver> {
    let KeyReply::Export { keys, elsewhere } = frame.header else {
        return None;
    };
    let keys = split(&frame.secret, keys)?
        .map(|(head, key)| ExportedKey {
            key_id: head.key_id,
            label: head.label,
            scheme: head.scheme,
            iv: head.iv.0,
            key,
        })
        .collect();
    Some(HandedOver { keys, elsewhere })
}

/// A deposit as a frame.
pub fn deposit_frame(request: DepositRequest) -> Frame<KeyCall> {
    let secret = join(request.keys.iter().map(|deposited| &deposited.key));
    let heads = request.keys.into_iter();
    Frame {
        header: KeyCall::Deposit {
            tenant: request.tenant,
            asset: request.asset,
            keys: heads.map(|deposited| deposited.head).collect(),
            partner: request.partner,
        },
        secret,
    }
}

/// The keys of a deposit; `None` unless there are 16 bytes for each head.
pub fn deposited(heads: Vec<DepositedHead>, secret: &Secret) -> Option<Vec<DepositedKey>> {
    let keys = split(secret, heads)?;
    Some(keys.map(|(head, key)| DepositedKey { head, key }).collect())
}

fn join<'a>(keys: impl ExactSizeIterator<Item = &'a ContentKey>) -> Secret {
    let mut secret = Secret::new(Vec::with_capacity(keys.len() * 16));
    keys.for_each(|key| secret.extend_from_slice(key.expose()));
    secret
}

/// Each head with its key; `None` unless there are 16 bytes for each.
fn split<H>(secret: &Secret, heads: Vec<H>) -> Option<impl Iterator<Item = (H, ContentKey)>> {
    let (keys, rest) = secret.as_chunks::<16>();
    if keys.len() != heads.len() || !rest.is_empty() {
        return None;
    }
    let key = |bytes: &[u8; 16]| {
        ContentKey::build(|key| {
            key.copy_from_slice(bytes);
            Ok::<_, std::convert::Infallible>(())
        })
        .unwrap_or_else(|never| match never {})
    };
    Some(heads.into_iter().zip(keys.iter().map(key)))
}

/// A constant IV, or none, as text.
pub(crate) mod iv_or_none {
    use keystore_types::ConstantIv;
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use super::IvText;

    pub(crate) fn serialize<S: Serializer>(
        iv: &Option<ConstantIv>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        iv.map(IvText).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<ConstantIv>, D::Error> {
        let iv = Option::<IvText>::deserialize(deserializer)?;
        Ok(iv.map(|iv| iv.0))
    }
}

/// A constant IV as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct IvText(ConstantIv);

impl From<IvText> for String {
    fn from(iv: IvText) -> Self {
        format!("{:032x}", u128::from_be_bytes(*iv.0.as_bytes()))
    }
}

impl TryFrom<String> for IvText {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match u128::from_str_radix(&text, 16) {
            Ok(number) if digits => Ok(Self(ConstantIv::new(number.to_be_bytes()))),
            Ok(_) | Err(_) => Err("expected 32 hexadecimal digits"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exported() -> Vec<ExportedKey> {
        vec![ExportedKey {
            key_id: KeyId::new([1; 16]),
            label: Label::Hd,
            scheme: Scheme::Cbcs,
            iv: ConstantIv::new([0x0f; 16]),
            key: ContentKey::take(&mut [0xab; 16]),
        }]
    }

    #[test]
    fn headers_hold_no_key() {
        let frame = export_frame(&exported());
        let header = serde_json::to_string(&frame.header).unwrap();
        assert_eq!(
            header,
            r#"{"export":{"keys":[{"key_id":"01010101-0101-0101-0101-010101010101","label":"hd","scheme":"cbcs","iv":"0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f"}]}}"#
        );
        assert_eq!(*frame.secret, [0xab; 16]);
    }

    #[test]
    fn keys_come_back_with_their_heads() {
        let back = export_of(export_frame(&exported())).unwrap();
        assert_eq!(back[0].key.expose(), &[0xab; 16]);
        assert_eq!(back[0].iv, ConstantIv::new([0x0f; 16]));
    }

    #[test]
    fn refuses_keys_without_heads_and_heads_without_keys() {
        for len in [0, 15, 17, 32] {
            let mut frame = export_frame(&exported());
            frame.secret = Secret::new(vec![0; len]);
            assert!(export_of(frame).is_none(), "{len}");
        }
    }
}
