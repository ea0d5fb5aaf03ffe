//! The other side of [`super::pkcs11`]: a process that loads the token's module, answers one question and ends.

use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error as TokenError, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use keystore_client::frame::{self, Frame, MAX_SECRET, Secret};
use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};
use serde::{Deserialize, Serialize};

use crate::hardening::harden_process;

/// The name under which the process is started (`argv[0]`).
pub(super) const NAME: &str = "castellum-token";

/// The longest question, in bytes.
const MAX_QUESTION: u64 = 64 << 10;

/// The most memory that the process may have, in bytes: an answer of an absurd length finds none, and takes none from
/// others.
const MAX_MEMORY: u64 = 512 << 20;

/// One question to one token; its secret is the PIN, and then the key to wrap.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Question {
    pub(super) module: PathBuf,
    /// The token's label.
    pub(super) token: String,
    /// The label of keys that are made.
    pub(super) key: String,
    pub(super) pin_len: usize,
    pub(super) ask: Ask,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Ask {
    /// Make a key of this `CKA_ID`, and encrypt with it.
    Make { id: [u8; 16], iv: [u8; 12] },
    /// Decrypt with the key of this `CKA_ID`.
    Open {
        id: [u8; 16],
        iv: Vec<u8>,
        sealed: Vec<u8>,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// The ciphertext, and the IV that the token took: some insist on their own.
    Made { iv: Vec<u8>, sealed: Vec<u8> },
    /// The plaintext is the answer's secret.
    Opened,
    /// The token answers, and says no: asking again changes nothing.
    Refused(String),
    /// The token does not answer as one does.
    Failed(String),
}

/// Whether this process was started to ask a token. A program that links the keystore looks first of all.
pub fn is_token_process() -> bool {
    std::env::args_os().next().is_some_and(|name| name == NAME)
}

/// Reads one question from the socket that is its standard input, asks the token, and answers there.
pub fn run_token_process() -> ExitCode {
    harden_process();
    let memory = Rlimit {
        current: Some(MAX_MEMORY),
        maximum: Some(MAX_MEMORY),
    };
    // Without either, the keystore's own deadline still holds.
    let _ = setrlimit(Resource::Data, memory);
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    match converse() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn converse() -> io::Result<()> {
    // Reserved at once: a vector that grows leaves unwiped copies behind.
    let mut bytes = Secret::new(Vec::with_capacity(MAX_SECRET));
    let mut stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    (&stream).take(MAX_QUESTION).read_to_end(&mut bytes)?;
    let Frame { header, secret } = frame::decode::<Question>(&bytes)?;
    let mut token = None;
    let answer = match Token::open(&header, &secret) {
        Ok(opened) => token
            .insert(opened)
            .answer(&header, &secret[header.pin_len..]),
        Err(fault) => Err(fault),
    };
    let answer = answer.unwrap_or_else(|fault| Frame::open(Answer::from(fault)));
    stream.write_all(&frame::encode(&answer)?)?;
    // After the answer: a module that hangs at the end has answered.
    if let Some(Token { session, context }) = token {
        let _ = session.logout();
        drop(session);
        let _ = context.finalize();
    }
    Ok(())
}

/// Why there is no answer.
enum Fault {
    Refused(String),
    Failed(String),
}

impl From<Fault> for Answer {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Refused(what) => Self::Refused(what),
            Fault::Failed(what) => Self::Failed(what),
        }
    }
}

impl From<TokenError> for Fault {
    fn from(error: TokenError) -> Self {
        let refused = matches!(
            &error,
            TokenError::Pkcs11(
                RvError::PinExpired
                    | RvError::PinIncorrect
                    | RvError::PinInvalid
                    | RvError::PinLenRange
                    | RvError::PinLocked
                    | RvError::UserPinNotInitialized
                    | RvError::EncryptedDataInvalid
                    | RvError::EncryptedDataLenRange
                    | RvError::MechanismInvalid
                    | RvError::KeyFunctionNotPermitted
                    | RvError::TemplateInconsistent
                    | RvError::TokenWriteProtected,
                _
            )
        );
        match refused {
            true => Self::Refused(error.to_string()),
            false => Self::Failed(error.to_string()),
        }
    }
}

/// A token that is logged in to.
struct Token {
    session: Session,
    context: Pkcs11,
}

impl Token {
    fn open(question: &Question, secret: &[u8]) -> Result<Self, Fault> {
        let pin = (secret.get(..question.pin_len))
            .and_then(|pin| str::from_utf8(pin).ok())
            .ok_or_else(|| Fault::Refused("the PIN is not text in UTF-8".to_owned()))?;
        let context = Pkcs11::new(&question.module)?;
        context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
        let slot = slot(&context, &question.token)?;
        let session = match &question.ask {
            Ask::Make { .. } => context.open_rw_session(slot)?,
            Ask::Open { .. } => context.open_ro_session(slot)?,
        };
        match session.login(UserType::User, Some(&AuthPin::new(pin.into()))) {
            Ok(()) | Err(TokenError::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Self { session, context })
    }

    fn answer(&self, question: &Question, key: &[u8]) -> Result<Frame<Answer>, Fault> {
        match &question.ask {
            Ask::Make { id, iv } => {
                let handle = self.make(id, &question.key)?;
                let made = self.wrap(handle, id, *iv, key);
                if made.is_err() {
                    // A key that is of no use is not left on the token.
                    let _ = self.session.destroy_object(handle);
                }
                made.map(Frame::open)
            }
            Ask::Open { id, iv, sealed } => {
                let found = self.session.find_objects(&[
                    Attribute::Class(ObjectClass::SECRET_KEY),
                    Attribute::Id(id.to_vec()),
                ])?;
                let [handle] = found[..] else {
                    return Err(Fault::Refused(format!(
                        "it has {} keys of the id that this keystore's was given",
                        found.len()
                    )));
                };
                self.check(handle)?;
                let (mut iv, data) = (iv.clone(), associated_data(id));
                let params = GcmParams::new(&mut iv, &data, TAG_BITS.into())?;
                let opened = self
                    .session
                    .decrypt(&Mechanism::AesGcm(params), handle, sealed)?;
                Ok(Frame {
                    header: Answer::Opened,
                    secret: Secret::new(opened),
                })
            }
        }
    }

    fn make(&self, id: &[u8; 16], label: &str) -> Result<ObjectHandle, Fault> {
        let template = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::ValueLen(32.into()),
            Attribute::Id(id.to_vec()),
            Attribute::Label(label.as_bytes().to_vec()),
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Modifiable(false),
            Attribute::Encrypt(true),
            Attribute::Decrypt(true),
            // Whoever could wrap with it and decrypt what was wrapped would read any other key of the token.
            Attribute::Wrap(false),
            Attribute::Unwrap(false),
            Attribute::Derive(false),
            Attribute::Sign(false),
            Attribute::Verify(false),
        ];
        Ok(self
            .session
            .generate_key(&Mechanism::AesKeyGen, &template)?)
    }

    fn wrap(
        &self,
        handle: ObjectHandle,
        id: &[u8; 16],
        mut iv: [u8; 12],
        key: &[u8],
    ) -> Result<Answer, Fault> {
        self.check(handle)?;
        let data = associated_data(id);
        let params = GcmParams::new(&mut iv, &data, TAG_BITS.into())?;
        let sealed = self
            .session
            .encrypt(&Mechanism::AesGcm(params), handle, key)?;
        Ok(Answer::Made {
            iv: iv.to_vec(),
            sealed,
        })
    }

    /// The key is one that cannot leave, never could, and was made on the token.
    fn check(&self, handle: ObjectHandle) -> Result<(), Fault> {
        const WANTED: [Attribute; 5] = [
            Attribute::Sensitive(true),
            Attribute::AlwaysSensitive(true),
            Attribute::Extractable(false),
            Attribute::NeverExtractable(true),
            Attribute::Local(true),
        ];
        let types = [
            AttributeType::Sensitive,
            AttributeType::AlwaysSensitive,
            AttributeType::Extractable,
            AttributeType::NeverExtractable,
            AttributeType::Local,
        ];
        let found = self.session.get_attributes(handle, &types)?;
        match WANTED.iter().find(|wanted| !found.contains(wanted)) {
            None => Ok(()),
            Some(wanted) => Err(Fault::Refused(format!(
                "its key could leave it: {:?} does not hold",
                wanted.attribute_type()
            ))),
        }
    }
}

const TAG_BITS: u64 = 128;

fn associated_data(id: &[u8; 16]) -> Vec<u8> {
    [b"castellum pkcs11 key 1".as_slice(), id].concat()
}

fn slot(context: &Pkcs11, label: &str) -> Result<Slot, Fault> {
    let mut found = Vec::new();
    for slot in context.get_slots_with_token()? {
        // Of several tokens, one that cannot be read is not the one that is meant, or is named below.
        if let Ok(info) = context.get_token_info(slot)
            && info.label().trim_end_matches(' ') == label
        {
            found.push(slot);
        }
    }
    match found[..] {
        [slot] => Ok(slot),
        [] => Err(Fault::Failed("no token has this label".to_owned())),
        [..] => Err(Fault::Refused(format!(
            "{} tokens have this label",
            found.len()
        ))),
    }
}
