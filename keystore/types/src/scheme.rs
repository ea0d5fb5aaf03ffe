use std::fmt;

use serde::{Deserialize, Serialize};

/// A protection scheme of Common Encryption (ISO/IEC 23001-7 10.1 and 10.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// AES-CTR over whole subsamples, an 8-byte IV per sample.
    Cenc,
    /// AES-CBC in a 1:9 pattern (video) or over whole blocks (audio), one constant IV.
    Cbcs,
}

impl Scheme {
    /// Every scheme that is written.
    pub const ALL: [Self; 2] = [Self::Cenc, Self::Cbcs];

    /// The four characters of `schm`.
    pub const fn four_cc(self) -> [u8; 4] {
        match self {
            Self::Cenc => *b"cenc",
            Self::Cbcs => *b"cbcs",
        }
    }

    /// The name, which is also its spelling in an MPD.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cenc => "cenc",
            Self::Cbcs => "cbcs",
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
