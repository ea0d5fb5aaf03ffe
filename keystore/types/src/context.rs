use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{AssetId, Scheme};

/// The version of the rule that says which bytes of a sample are protected.
///
/// It is part of a key's context, since moving a protected range under an old key would encrypt other bytes
/// with the same counters.
pub const SUBSAMPLE_RULE: u16 = 1;

/// Which tracks of an asset share a key: all its audio, or its video up to a size.
///
/// The bounds are pixels of the encoded picture, as in the SPEKE 2.0 presets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Label {
    /// Every audio track.
    Audio,
    /// Video of at most 589,824 pixels (1024x576).
    Sd,
    /// Video of at most 2,073,600 pixels (1920x1080).
    Hd,
    /// Video of at most 8,847,360 pixels (4096x2160).
    Uhd1,
    /// Larger video.
    Uhd2,
}

impl Label {
    /// Every label.
    pub const ALL: [Self; 5] = [Self::Audio, Self::Sd, Self::Hd, Self::Uhd1, Self::Uhd2];

    /// The label of a picture of `width` times `height` pixels.
    pub const fn of_video(width: u32, height: u32) -> Self {
        match width as u64 * height as u64 {
            0..=589_824 => Self::Sd,
            589_825..=2_073_600 => Self::Hd,
            2_073_601..=8_847_360 => Self::Uhd1,
            _ => Self::Uhd2,
        }
    }

    /// Whether it is for pictures at most as large as those of `most`. Sound has no size, and is always within.
    pub fn within(self, most: Self) -> bool {
        self == Self::Audio || self <= most
    }

    /// The name in configuration, key lists and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Audio => "audio",
            Self::Sd => "sd",
            Self::Hd => "hd",
            Self::Uhd1 => "uhd1",
            Self::Uhd2 => "uhd2",
        }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which content a key protects: a digest of the identities of the sources whose tracks carry its label, and
/// a number that is raised when content changes where identities cannot tell.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Generation {
    /// SHA-256 over the sources' identities, in rank order.
    #[serde(with = "hex")]
    pub sources: [u8; 32],
    /// Raised by an operator, or when a source was overwritten in place. Below [`Generation::MAX_NUMBER`]; the bits
    /// above it tell keys that came from outside, or that outsiders have.
    pub number: u32,
}

/// A key of key exchange is told by the two highest bits of its number, and by its sources:
///
/// | bits | sources | the key |
/// |---|---|---|
/// | `00` | digest | was made here, on first need |
/// | `10` | 0 | was exchanged, and protects no content of ours yet: [`Generation::UNCLAIMED`] |
/// | `10` | digest | was exchanged, and protects these sources: [`Generation::claimed`] |
/// | `11` | digest of its use | was exchanged for tracks that are packaged elsewhere: [`Generation::elsewhere`] |
impl Generation {
    /// What [`Generation::number`] stays below, in what the origin asks for.
    pub const MAX_NUMBER: u32 = 1 << 30;

    const EXCHANGED: u32 = 1 << 31;

    /// The least number of a key that is used elsewhere.
    pub const ELSEWHERE: u32 = Self::EXCHANGED | Self::MAX_NUMBER;

    /// Of a key that was exchanged and waits for the content that it is to protect. The first that asks gets it for good,
    /// so that no key meets two contents.
    pub const UNCLAIMED: Self = Self {
        sources: [0; 32],
        number: Self::EXCHANGED,
    };

    /// Of an exchanged key that protects this content.
    #[must_use]
    pub const fn claimed(self) -> Self {
        Self {
            sources: self.sources,
            number: self.number | Self::EXCHANGED,
        }
    }

    /// Of an exchanged key that is used elsewhere: `digest` is over its id and what it is used for.
    pub const fn elsewhere(digest: [u8; 32]) -> Self {
        Self {
            sources: digest,
            number: Self::ELSEWHERE,
        }
    }

    /// Whether it is content: what an origin may ask for.
    pub const fn is_content(&self) -> bool {
        self.number < Self::MAX_NUMBER
    }

    /// Whether the key was exchanged and is, or is going to be, used here.
    pub const fn is_exchanged_for_here(&self) -> bool {
        self.number & Self::ELSEWHERE == Self::EXCHANGED
    }

    /// Whether the key is used elsewhere only.
    pub const fn is_elsewhere(&self) -> bool {
        self.number & Self::ELSEWHERE == Self::ELSEWHERE
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.sources[..8]
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(f, "#{}", self.number)
    }
}

/// What a content key belongs to. Two requests with equal contexts get the same key; anything else gets
/// another, so no key is ever used for two contents, two schemes or two subsample rules.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyContext {
    /// The tenant whose KEK wraps the key.
    pub tenant: String,
    /// The asset.
    pub asset: AssetId,
    /// The tracks that share the key.
    pub label: Label,
    /// The one scheme that the key is used with.
    pub scheme: Scheme,
    /// See [`SUBSAMPLE_RULE`].
    pub subsample_rule: u16,
    /// The content.
    pub generation: Generation,
}

mod hex {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        bytes: &[u8; 32],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        serializer.serialize_str(&text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(D::Error::custom("expected 64 hexadecimal digits"));
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let pair = str::from_utf8(pair).map_err(D::Error::custom)?;
            *byte = u8::from_str_radix(pair, 16).map_err(D::Error::custom)?;
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_bounds_are_inclusive() {
        assert_eq!(Label::of_video(1024, 576), Label::Sd);
        assert_eq!(Label::of_video(1280, 720), Label::Hd);
        assert_eq!(Label::of_video(1920, 1080), Label::Hd);
        assert_eq!(Label::of_video(1920, 1088), Label::Uhd1);
        assert_eq!(Label::of_video(4096, 2160), Label::Uhd1);
        assert_eq!(Label::of_video(7680, 4320), Label::Uhd2);
        assert_eq!(Label::of_video(u32::MAX, u32::MAX), Label::Uhd2);
    }

    #[test]
    fn sound_has_no_size() {
        for most in Label::ALL {
            assert!(Label::Audio.within(most));
            assert!(most.within(most));
        }
        assert!(Label::Sd.within(Label::Hd));
        assert!(!Label::Hd.within(Label::Sd));
        assert!(!Label::Sd.within(Label::Audio));
    }
}
