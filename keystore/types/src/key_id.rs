use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize, Serializer};

/// A key id (`KID`, ISO/IEC 23001-7 8.2): 16 bytes, written as a lower-case hyphenated UUID.
///
/// The bytes stand in the same order in `tenc`, `pssh` and `cenc:default_KID`. Only PlayReady swaps them:
/// see [`KeyId::to_guid`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct KeyId([u8; 16]);

/// The characters of a UUID.
const UUID_LEN: usize = 36;

impl KeyId {
    /// The id with these bytes, in `tenc` order.
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes in `tenc` order.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The bytes as a Windows GUID: the first 4, the next 2 and the next 2 are little-endian.
    ///
    /// Used in PlayReady headers and checksums only (PlayReady Header Specification).
    pub const fn to_guid(&self) -> [u8; 16] {
        let b = &self.0;
        [
            b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6], b[8], b[9], b[10], b[11], b[12], b[13],
            b[14], b[15],
        ]
    }

    /// base64url without padding, as in a JWK Set (RFC 7517) and an EME ClearKey request.
    pub fn to_base64url(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// Every record of a licence names its keys several times, so this goes without the machinery of formats.
    fn with_uuid<T>(&self, read: impl FnOnce(&str) -> T) -> T {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [b'-'; UUID_LEN];
        let mut at = 0;
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                at += 1;
            }
            text[at] = DIGITS[usize::from(byte >> 4)];
            text[at + 1] = DIGITS[usize::from(byte & 15)];
            at += 2;
        }
        read(std::str::from_utf8(&text).expect("digits and hyphens are ASCII"))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_uuid(|text| f.write_str(text))
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.with_uuid(|text| serializer.serialize_str(text))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not a lower-case hyphenated UUID.
#[derive(Debug, thiserror::Error)]
#[error("a key id is written as a lower-case UUID, 8-4-4-4-12 hexadecimal digits")]
pub struct KeyIdError;

impl FromStr for KeyId {
    type Err = KeyIdError;

    /// Reads the canonical spelling only, so that one key has one URL.
    fn from_str(text: &str) -> Result<Self, KeyIdError> {
        let text = text.as_bytes();
        if text.len() != UUID_LEN {
            return Err(KeyIdError);
        }
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(KeyIdError),
        };
        let mut bytes = [0; 16];
        let mut at = 0;
        for (index, byte) in bytes.iter_mut().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                if text[at] != b'-' {
                    return Err(KeyIdError);
                }
                at += 1;
            }
            *byte = digit(text[at])? << 4 | digit(text[at + 1])?;
            at += 2;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for KeyId {
    type Error = KeyIdError;

    fn try_from(text: String) -> Result<Self, KeyIdError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_the_axinom_vector() {
        let id: KeyId = "9eb4050d-e44b-4802-932e-27d75083e266".parse().unwrap();
        assert_eq!(id.to_string(), "9eb4050d-e44b-4802-932e-27d75083e266");
        assert_eq!(id.to_base64url(), "nrQFDeRLSAKTLifXUIPiZg");
    }

    #[test]
    fn guid_order_of_the_playready_header_vector() {
        let id: KeyId = "a2c786d0-f9ef-4cb3-b333-cd323a4284a5".parse().unwrap();
        let guid = base64::engine::general_purpose::STANDARD.encode(id.to_guid());
        assert_eq!(guid, "0IbHou/5s0yzM80yOkKEpQ==");
    }

    #[test]
    fn refuses_other_spellings() {
        for text in [
            "",
            "9EB4050D-e44b-4802-932e-27d75083e266",
            "9eb4050de44b4802932e27d75083e266",
            "9eb4050d-e44b-4802-932e-27d75083e26",
            "9eb4050d-e44b-4802-932e-27d75083e26g",
            "9eb4050d+e44b-4802-932e-27d75083e266",
            "é9eb4050d-e44b-4802-932e-27d75083e2",
        ] {
            assert!(text.parse::<KeyId>().is_err(), "{text}");
        }
    }
}
