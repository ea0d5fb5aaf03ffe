//! A record as bytes.
//!
//! ```text
//! {"seq":7,"unix_ms":1790000000000,"caller":"license","op":"export",...,"prev":"<64 hex>","hash":"<64 hex>"}\n
//!  \______________________________ hashed with SHA-256 ______________________________/
//! ```
//!
//! `hash` covers the line's bytes, from its brace on, up to the comma before it; `prev` is the hash of the line before,
//! 64 zeros in the first.

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::{Event, Head};

/// The longest line: a lease of the most keys, with the longest names, many times over.
pub(super) const MAX_LINE: usize = 256 << 10;

/// One line, as it is written.
#[derive(Serialize)]
struct Line<'a> {
    seq: u64,
    unix_ms: u64,
    caller: &'a str,
    #[serde(flatten)]
    event: &'a Event,
    prev: String,
}

const HASH_FIELD: &[u8] = b",\"hash\":\"";

/// The line with its newline, and where the log is after it.
pub(super) fn write(
    prev: Head,
    unix_ms: u64,
    caller: &str,
    event: &Event,
) -> Result<(Vec<u8>, Head), String> {
    let seq = prev.seq + 1;
    let mut line = serde_json::to_vec(&Line {
        seq,
        unix_ms,
        caller,
        event,
        prev: prev.hex(),
    })
    .map_err(|error| error.to_string())?;
    // The closing brace comes again after the hash.
    line.pop();
    let hash = sha256(&line);
    line.extend_from_slice(HASH_FIELD);
    line.extend_from_slice(hex(&hash).as_bytes());
    line.extend_from_slice(b"\"}\n");
    if line.len() > MAX_LINE {
        return Err(format!("a record of {} bytes", line.len()));
    }
    let bytes = prev.bytes + line.len() as u64;
    Ok((line, Head { seq, hash, bytes }))
}

/// What is read of a line, whatever its event.
#[derive(Deserialize)]
pub(super) struct Record {
    pub seq: u64,
    #[serde(default)]
    pub unix_ms: u64,
    #[serde(default)]
    pub op: String,
    pub prev: String,
    hash: String,
    /// Of a checkpoint that begins a file: the file before it.
    pub continues: Option<String>,
    /// Of a checkpoint: see [`Event::Checkpoint`].
    pub bytes: Option<u64>,
    /// Of a checkpoint, of a call that has changed the store, and of a rollback that was accepted.
    pub store: Option<u64>,
    /// Of a checkpoint, and of a rollback that was accepted.
    pub tombstones: Option<u64>,
    pub key: Option<String>,
    pub signature: Option<String>,
}

/// Reads one line without its newline; the hash that it claims is the one it has, and is returned.
pub(super) fn read(line: &[u8]) -> Result<(Record, [u8; 32]), String> {
    let record: Record =
        serde_json::from_slice(line).map_err(|error| format!("no record: {error}"))?;
    let tail = HASH_FIELD.len() + 64 + 2;
    let body = (line.len().checked_sub(tail))
        .filter(|&at| line[at..].starts_with(HASH_FIELD))
        .map(|at| &line[..at])
        .ok_or("the hash is not at its end")?;
    let hash = sha256(body);
    if hex(&hash) != record.hash {
        return Err("its contents were changed: the hash does not fit".to_owned());
    }
    Ok((record, hash))
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from(b"0123456789abcdef"[usize::from(value)]);
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(digit(byte >> 4));
        text.push(digit(byte & 15));
    }
    text
}

/// The bytes that lower-case hexadecimal digits stand for; `None` for anything else.
pub(crate) fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}
