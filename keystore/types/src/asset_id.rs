use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The name of an asset: `[A-Za-z0-9][A-Za-z0-9._-]*`, at most 128 characters, so that it needs no escaping
/// in a URL, a file name or a claim.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct AssetId(String);

impl AssetId {
    /// The longest name.
    pub const MAX_LEN: usize = 128;

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AssetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AssetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The text cannot name an asset.
#[derive(Debug, thiserror::Error)]
#[error(
    "an asset's name begins with a letter or digit, goes on with letters, digits, '.', '_' and '-', \
     and has at most 128 characters"
)]
pub struct AssetIdError;

impl TryFrom<String> for AssetId {
    type Error = AssetIdError;

    fn try_from(text: String) -> Result<Self, AssetIdError> {
        let mut bytes = text.bytes();
        let begins = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
        let goes_on = bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if begins && goes_on && text.len() <= Self::MAX_LEN {
            Ok(Self(text))
        } else {
            Err(AssetIdError)
        }
    }
}

impl FromStr for AssetId {
    type Err = AssetIdError;

    fn from_str(text: &str) -> Result<Self, AssetIdError> {
        Self::try_from(text.to_owned())
    }
}

impl From<AssetId> for String {
    fn from(id: AssetId) -> Self {
        id.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "Film.2024_v1-x", "9", &"a".repeat(128)] {
            assert!(good.parse::<AssetId>().is_ok(), "{good}");
        }
        for bad in [
            "",
            ".a",
            "-a",
            "_a",
            "a/b",
            "a b",
            "é",
            "a%20",
            &"a".repeat(129),
        ] {
            assert!(bad.parse::<AssetId>().is_err(), "{bad}");
        }
    }
}
