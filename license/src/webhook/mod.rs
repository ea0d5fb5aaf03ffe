//! Others who are told what happened ([`Teller`]), or asked before a licence is given ([`Authoriser`]).
//!
//! Requests are signed as Standard Webhooks has it: `webhook-id`, `webhook-timestamp` in seconds, and in
//! `webhook-signature` `v1,` and the Base64 of HMAC-SHA-256 over `ID.TIMESTAMP.BODY`. `license/design/webhooks.md` says all that
//! a receiver needs to know.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use conf::{HookSettings, SecretSource};
use http::{HeaderMap, HeaderValue, header};
use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

use crate::outbound::{Answer, Destination, Outbound, Reach};
use crate::store::event_id;
use crate::{Error, UnixTime};

pub use self::authorise::{Authoriser, Question};
pub(crate) use self::tell::post;
pub use self::tell::{Teller, Told};

mod authorise;
mod tell;

/// The longest answer that is read, in bytes.
const MAX_ANSWER: usize = 16 << 10;

/// The shortest key: as long as what it makes (RFC 2104 3).
const MIN_KEY_LEN: usize = 32;

/// What stands before a key in Base64 (Standard Webhooks, "Signature scheme").
const SECRET_PREFIX: &[u8] = b"whsec_";

/// The shortest key in Base64, as that standard has it: libraries draw keys of this length.
const MIN_STANDARD_KEY_LEN: usize = 24;

/// A server that signed requests are sent to.
struct Hook {
    outbound: Outbound,
    key: hmac::Key,
}

impl Hook {
    fn open(settings: &HookSettings) -> Result<Self, Error> {
        let reach = match settings.tls {
            true => Reach::Tls {
                authority: &settings.authority,
                ca_file: &settings.ca_file,
                identity: None,
            },
            false => Reach::Plain {
                authority: &settings.authority,
            },
        };
        let outbound = Outbound::open(&Destination {
            table: &settings.table,
            reach,
            path: &settings.path,
            timeout: settings.timeout,
            limit: MAX_ANSWER,
        })?;
        Ok(Self {
            outbound,
            key: key(&settings.table, &settings.secret)?,
        })
    }

    async fn post(&self, id: &str, now: UnixTime, body: &str) -> Result<Answer, String> {
        let timestamp = now.as_seconds().to_string();
        let signature = signature(&self.key, id, &timestamp, body);
        let mut headers = HeaderMap::new();
        let json = HeaderValue::from_static("application/json");
        headers.insert(header::CONTENT_TYPE, json);
        for (name, value) in [
            ("webhook-id", id),
            ("webhook-timestamp", &timestamp),
            ("webhook-signature", &signature),
        ] {
            let value = HeaderValue::from_str(value).map_err(|error| error.to_string())?;
            headers.insert(name, value);
        }
        let answer = self.outbound.post(headers, Bytes::from(body.to_owned()));
        answer.await.map_err(|fault| fault.to_string())
    }
}

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hook({})", self.outbound.place())
    }
}

/// The value of `webhook-signature`.
fn signature(key: &hmac::Key, id: &str, timestamp: &str, body: &str) -> String {
    let signed = format!("{id}.{timestamp}.{body}");
    format!("v1,{}", STANDARD.encode(hmac::sign(key, signed.as_bytes())))
}

/// A key is taken as it stands, except after `whsec_`, where it is in Base64.
fn key(table: &str, source: &SecretSource) -> Result<hmac::Key, Error> {
    let attempted = format!("use the key {source} ({table}.secret_file)");
    let written = (source.read_line()).map_err(|error| Error::unavailable(&*attempted, error))?;
    let (secret, least) = match written.strip_prefix(SECRET_PREFIX) {
        Some(text) => {
            let secret = STANDARD.decode(text).map_err(|_| {
                Error::malformed(format!(
                    "{attempted}: what follows whsec_ is not Base64 (RFC 4648 4, with its padding)"
                ))
            })?;
            (Zeroizing::new(secret), MIN_STANDARD_KEY_LEN)
        }
        None => (written, MIN_KEY_LEN),
    };
    if secret.len() < least {
        return Err(Error::malformed(format!(
            "{attempted}: it has less than {least} bytes"
        )));
    }
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &secret))
}

/// An id that nothing else has.
fn new_id() -> Result<String, Error> {
    let mut bytes = [0; 16];
    (SystemRandom::new().fill(&mut bytes))
        .map_err(|_| Error::internal("make an id", "the system gives no random numbers"))?;
    Ok(event_id(bytes))
}

#[cfg(test)]
mod tests;
