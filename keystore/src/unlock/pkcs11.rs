//! The root by a PKCS#11 token (OASIS PKCS #11, v2.40 and later).
//!
//! The token makes an AES-256 key that is sensitive, not extractable and made where it stays, and encrypts with it, in
//! GCM, the method's key. The keystore asks it at unsealing and when the root is made or rotated, never for a lease or
//! an export.
//!
//! # The token's process
//! A token's module is the maker's code, and runs with all rights of the process that loads it. It is therefore never
//! loaded into the keystore: each question is put to a process of its own ([`super::token_process`]), which is this
//! program started anew under the name `castellum-token`, answers one question and ends. Whatever the module does
//! there, the keystore waits for at most the configured time, kills it and goes on:
//!
//! | the module | the keystore |
//! |---|---|
//! | hangs, also while it is loaded or ends | kills the process when the time is over; stays as sealed as it was |
//! | crashes, runs out of memory | finds the process ended without an answer |
//! | vanishes, as when the token is pulled out | is told so; the next question begins with a new session and login |
//! | answers garbage | takes 32 bytes or nothing, and they must open the root ([`super`]) |
//!
//! A wrong PIN is never tried twice without being told to: a token locks itself after a few.
//!
//! # Stored parameters
//! ```text
//! CKA_ID of the token's key (16) | length of the IV (1) | IV | ciphertext and tag
//! ```

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use conf::Pkcs11Settings;
use keystore_client::admin::UnlockMethod;
use keystore_client::frame::{self, Frame, Secret};
use ring::rand::SystemRandom;
use zeroize::Zeroizing;

use super::SealedRoot;
use super::token_process::{Answer, Ask, NAME, Question};
use crate::error::{Error, ErrorKind};
use crate::seal::{KeyBytes, WrappingKey, fill, random_key};

/// The longest PIN, in bytes.
const MAX_PIN: usize = 255;

/// The longest answer, in bytes; a token's ciphertext of a key has some 60.
const MAX_ANSWER: usize = 4096;

/// Has the token make a key, and wraps `root` by it. Blocks, for the configured time at most.
///
/// # Errors
/// [`ErrorKind::DoesNotOpen`] where the token refuses, or does not open what it wrapped; [`ErrorKind::Unavailable`]
/// where it does not answer.
pub(crate) fn seal(
    root: &KeyBytes,
    settings: &Pkcs11Settings,
    random: &SystemRandom,
) -> Result<SealedRoot, Error> {
    let key = random_key(random)?;
    let (mut id, mut iv) = ([0; 16], [0; 12]);
    fill(random, &mut id)?;
    fill(random, &mut iv)?;
    let parameters = match ask(settings, Ask::Make { id, iv }, key.as_slice())? {
        (Answer::Made { iv, sealed }, _) => encode(&id, &iv, &sealed)?,
        (other, _) => return Err(fault(&settings.token, other)),
    };
    let key = WrappingKey::new(&key)?;
    let sealed = SealedRoot::seal(root, UnlockMethod::Pkcs11, parameters, &key, random)?;
    // Read back: nothing is kept that the token cannot open.
    open(&sealed, settings)?;
    Ok(sealed)
}

/// The root again. Blocks, for the configured time at most.
///
/// # Errors
/// As for [`seal`].
pub(crate) fn open(sealed: &SealedRoot, settings: &Pkcs11Settings) -> Result<KeyBytes, Error> {
    let question = decode(&sealed.parameters)
        .ok_or_else(|| Error::damaged("what is stored of the token's key is not readable"))?;
    let secret = match ask(settings, question, &[])? {
        (Answer::Opened, secret) => secret,
        (other, _) => return Err(fault(&settings.token, other)),
    };
    let mut key = KeyBytes::default();
    if secret.len() != key.len() {
        let what = format!("the token answers {} bytes for a key", secret.len());
        return Err(Error::new(ErrorKind::DoesNotOpen, what));
    }
    key.copy_from_slice(&secret);
    sealed.open(&WrappingKey::new(&key)?)
}

fn fault(token: &str, answer: Answer) -> Error {
    match answer {
        Answer::Refused(what) => Error::new(
            ErrorKind::DoesNotOpen,
            format!("the token `{token}` refuses: {what}"),
        ),
        Answer::Failed(what) => {
            Error::unavailable(format!("the token `{token}` cannot be asked"), what)
        }
        Answer::Made { .. } | Answer::Opened => Error::unavailable(
            format!("the token `{token}` cannot be asked"),
            "the answer does not fit the question",
        ),
    }
}

fn encode(id: &[u8; 16], iv: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Error> {
    let iv_len = u8::try_from(iv.len())
        .map_err(|_| Error::unavailable("cannot store the token's answer", "its IV is too long"))?;
    Ok([id.as_slice(), &[iv_len], iv, sealed].concat())
}

fn decode(parameters: &[u8]) -> Option<Ask> {
    let (id, rest) = parameters.split_first_chunk()?;
    let (iv_len, rest) = rest.split_first()?;
    let (iv, sealed) = rest.split_at_checked((*iv_len).into())?;
    Some(Ask::Open {
        id: *id,
        iv: iv.to_vec(),
        sealed: sealed.to_vec(),
    })
}

/// Puts one question to a process of its own. The secret of a question is the PIN and then `key`.
fn ask(settings: &Pkcs11Settings, ask: Ask, key: &[u8]) -> Result<(Answer, Secret), Error> {
    let deadline = Instant::now() + settings.timeout;
    let failed = |what: &str, error: io::Error| {
        Error::unavailable(format!("the token's process: cannot {what}"), error)
    };
    let pin = (settings.pin.read_line()).map_err(|error| {
        Error::unavailable(format!("cannot read the PIN from {}", settings.pin), error)
    })?;
    if pin.is_empty() || pin.len() > MAX_PIN {
        let what = format!("the PIN in {} has not 1 to {MAX_PIN} bytes", settings.pin);
        return Err(Error::new(ErrorKind::DoesNotOpen, what));
    }
    let mut secret = Zeroizing::new(Vec::with_capacity(pin.len() + key.len()));
    secret.extend_from_slice(&pin);
    secret.extend_from_slice(key);
    let header = Question {
        module: settings.module.clone(),
        token: settings.token.clone(),
        key: settings.key.clone(),
        pin_len: pin.len(),
        ask,
    };
    let question = frame::encode(&Frame { header, secret })
        .map_err(|error| failed("be put the question", error))?;

    // Both ways over one socket, so that a module that prints to standard output spoils nothing.
    let (mut ours, theirs) = UnixStream::pair().map_err(|error| failed("be spoken to", error))?;
    let program = settings.process.as_deref();
    let child = Command::new(program.unwrap_or(Path::new("/proc/self/exe")))
        .arg0(NAME)
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| failed("be started", error))?;
    // Shorter than the socket's buffer, so that this does not wait for a reader.
    let answer = (ours.write_all(&question))
        .and_then(|()| ours.shutdown(Shutdown::Write))
        .and_then(|()| read_answer(&mut ours, deadline));
    end(child, deadline);
    answer.map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Error::unavailable(
            "the token's process gives no answer",
            format!(
                "nothing came within {:?}, and it was killed",
                settings.timeout
            ),
        ),
        _ => Error::unavailable("the token's process gives no answer", error),
    })
}

/// Reads the answer, for as long as the time allows.
fn read_answer(stream: &mut UnixStream, deadline: Instant) -> io::Result<(Answer, Secret)> {
    let mut bytes = Zeroizing::new(vec![0; MAX_ANSWER]);
    let mut len = 0;
    loop {
        if let Some(head) = bytes[..len].first_chunk() {
            let whole = usize::try_from(u32::from_be_bytes(*head)).unwrap_or(usize::MAX);
            let whole = whole.saturating_add(head.len());
            if whole > MAX_ANSWER {
                let what = format!("an answer of {whole} bytes");
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
            if len >= whole {
                let Frame { header, secret } = frame::decode(&bytes[..whole])?;
                return Ok((header, secret));
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut bytes[len..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Lets the process log out of its token, and kills it when the time is over. On a thread of its own: a process that
/// waits inside the kernel for broken hardware is not gone when it is killed.
fn end(mut child: Child, deadline: Instant) {
    const LOOK: Duration = Duration::from_millis(20);
    let wait = move || {
        while Instant::now() < deadline {
            match child.try_wait() {
                Ok(None) => std::thread::sleep(LOOK),
                Ok(Some(_)) => return,
                Err(error) => return tracing::warn!(%error, "cannot wait for the token's process"),
            }
        }
        if let Err(error) = child.kill().and_then(|()| child.wait()) {
            tracing::warn!(%error, "cannot end the token's process");
        }
    };
    let thread = std::thread::Builder::new().name("token".to_owned());
    if let Err(error) = thread.spawn(wait) {
        tracing::warn!(%error, "cannot wait for the token's process");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_come_back() {
        let bytes = encode(&[1; 16], &[2; 12], &[3; 48]).unwrap();
        let Some(Ask::Open { id, iv, sealed }) = decode(&bytes) else {
            panic!("not what was stored")
        };
        assert_eq!((id, iv, sealed), ([1; 16], vec![2; 12], vec![3; 48]));
        for end in 0..16 + 1 + 12 {
            assert!(decode(&bytes[..end]).is_none(), "{end}");
        }
    }
}
