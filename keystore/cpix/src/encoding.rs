//! base64 as `xs:base64Binary` has it: padded, with white space anywhere.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keystore_types::ContentKey;
use zeroize::{Zeroize as _, Zeroizing};

use crate::xml::push;

/// The bytes, wiped when dropped; `None` if the text is not base64.
pub(crate) fn decode(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut dense = Zeroizing::new(String::with_capacity(text.len()));
    for part in text.split_ascii_whitespace() {
        push(&mut dense, part);
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(dense.len() / 4 * 3 + 3));
    STANDARD.decode_vec(dense.as_bytes(), &mut bytes).ok()?;
    Some(bytes)
}

/// A content key; `None` if the text is not base64 of 16 bytes.
pub(crate) fn decode_key(text: &str) -> Option<ContentKey> {
    key_of(&decode(text)?)
}

/// A content key of exactly 16 bytes.
pub(crate) fn key_of(bytes: &[u8]) -> Option<ContentKey> {
    let bytes: &[u8; 16] = bytes.try_into().ok()?;
    ContentKey::build(|key| {
        key.copy_from_slice(bytes);
        Ok::<(), ()>(())
    })
    .ok()
}

pub(crate) fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// base64 of a secret, in a buffer that is wiped.
pub(crate) fn encode_secret(bytes: &[u8]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(bytes.len().div_ceil(3) * 4));
    // A whole number of groups at a time leaves nothing to the encoder's own buffers.
    let mut group = [0; 4];
    for chunk in bytes.chunks(3) {
        let written =
            (STANDARD.encode_slice(chunk, &mut group)).expect("three bytes are four characters");
        debug_assert_eq!(written, group.len());
        push(&mut text, str::from_utf8(&group).unwrap_or_default());
    }
    group.zeroize();
    text
}
