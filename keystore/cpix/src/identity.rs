//! Names that the standards give: systems, schemes, versions.

use std::fmt;
use std::str::FromStr;

use keystore_types::{KeyId, Scheme};

/// The UUID of a DRM system (DASH-IF content protection registry).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SystemId([u8; 16]);

impl SystemId {
    /// Google Widevine.
    pub const WIDEVINE: Self = Self::of(0xedef_8ba9_79d6_4ace_a3c8_27dc_d51d_21ed);
    /// Microsoft PlayReady.
    pub const PLAYREADY: Self = Self::of(0x9a04_f079_9840_4286_ab92_e65b_e088_5f95);
    /// Apple FairPlay Streaming.
    pub const FAIRPLAY: Self = Self::of(0x94ce_86fb_07ff_4f43_adb8_93d2_fa96_8ca2);
    /// W3C ClearKey, as DASH-IF registers it.
    pub const CLEAR_KEY: Self = Self::of(0xe271_9d58_a985_b3c9_781a_b030_af78_d30e);
    /// The W3C common `pssh`.
    pub const COMMON: Self = Self::of(0x1077_efec_c0b2_4d02_ace3_3c1e_52e2_fb4b);
    /// HLS `AES-128` with key format `identity`, registered for CPIX.
    pub const HLS_AES_128: Self = Self::of(0x3ea8_778f_7742_4bf9_b18b_e834_b2ac_bd47);
    /// HLS `SAMPLE-AES` with key format `identity`, registered for CPIX.
    pub const HLS_SAMPLE_AES: Self = Self::of(0xbe58_615b_19c4_4684_88b3_c8c5_7e99_e957);
    /// HLS `AES-128` as SPEKE 1.0 names it, without registration.
    pub const SPEKE_V1_AES_128: Self = Self::of(0x8137_6844_f976_481e_a84e_cc25_d39b_0b33);

    /// The system with these bytes, as they stand in a `pssh`.
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    const fn of(uuid: u128) -> Self {
        Self(uuid.to_be_bytes())
    }

    /// The bytes as they stand in a `pssh`.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A key id is spelled the same way.
        KeyId::new(self.0).fmt(f)
    }
}

impl fmt::Debug for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SystemId {
    type Err = UuidError;

    fn from_str(text: &str) -> Result<Self, UuidError> {
        key_id(text).map(|id| Self(*id.as_bytes()))
    }
}

/// The text is not a UUID as CPIX writes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a UUID is 8-4-4-4-12 hexadecimal digits")]
pub struct UuidError;

/// CPIX's `UUIDType` has digits of either case.
pub(crate) fn key_id(text: &str) -> Result<KeyId, UuidError> {
    text.to_ascii_lowercase().parse().map_err(|_| UuidError)
}

/// `ContentKey@commonEncryptionScheme`: a four-character code of Common Encryption, or from CPIX 2.4 on a `METHOD`
/// of HLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EncryptionScheme {
    /// AES-CTR, whole subsamples.
    Cenc,
    /// AES-CBC, whole subsamples.
    Cbc1,
    /// AES-CTR in a pattern.
    Cens,
    /// AES-CBC in a pattern.
    Cbcs,
    /// HLS: AES-CBC over whole segments.
    HlsAes128,
    /// HLS: AES-CBC over samples.
    HlsSampleAes,
    /// HLS: AES-CTR over samples.
    HlsSampleAesCtr,
}

impl EncryptionScheme {
    /// Every scheme.
    pub const ALL: [Self; 7] = [
        Self::Cenc,
        Self::Cbc1,
        Self::Cens,
        Self::Cbcs,
        Self::HlsAes128,
        Self::HlsSampleAes,
        Self::HlsSampleAesCtr,
    ];

    /// The spelling in a document.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cenc => "cenc",
            Self::Cbc1 => "cbc1",
            Self::Cens => "cens",
            Self::Cbcs => "cbcs",
            Self::HlsAes128 => "AES-128",
            Self::HlsSampleAes => "SAMPLE-AES",
            Self::HlsSampleAesCtr => "SAMPLE-AES-CTR",
        }
    }

    /// Whether it is a code of Common Encryption, which every version of CPIX knows.
    pub const fn is_common_encryption(self) -> bool {
        matches!(self, Self::Cenc | Self::Cbc1 | Self::Cens | Self::Cbcs)
    }

    /// The `METHOD` of an HLS key tag; nothing for schemes that HLS has not.
    pub const fn hls_method(self) -> Option<&'static str> {
        match self {
            Self::Cenc | Self::HlsSampleAesCtr => Some("SAMPLE-AES-CTR"),
            Self::Cbcs | Self::HlsSampleAes => Some("SAMPLE-AES"),
            Self::HlsAes128 => Some("AES-128"),
            Self::Cbc1 | Self::Cens => None,
        }
    }

    /// The scheme that the origin packages, if it does.
    pub const fn packaged(self) -> Option<Scheme> {
        match self {
            Self::Cenc => Some(Scheme::Cenc),
            Self::Cbcs => Some(Scheme::Cbcs),
            Self::Cbc1
            | Self::Cens
            | Self::HlsAes128
            | Self::HlsSampleAes
            | Self::HlsSampleAesCtr => None,
        }
    }

    pub(crate) fn read(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scheme| scheme.as_str() == text)
    }
}

impl From<Scheme> for EncryptionScheme {
    fn from(scheme: Scheme) -> Self {
        match scheme {
            Scheme::Cenc => Self::Cenc,
            Scheme::Cbcs => Self::Cbcs,
        }
    }
}

impl fmt::Display for EncryptionScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The version of CPIX that a document follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// 2.0, and 2.1 and 2.2, which differ in nothing that is read here. Such documents state no version.
    V2_0,
    /// 2.3.
    V2_3,
    /// 2.4, where a master playlist is a multivariant one.
    V2_4,
}

impl Version {
    /// `CPIX@version`; 2.0 has no such attribute.
    pub const fn as_str(self) -> Option<&'static str> {
        match self {
            Self::V2_0 => None,
            Self::V2_3 => Some("2.3"),
            Self::V2_4 => Some("2.4"),
        }
    }

    pub(crate) fn read(attribute: Option<&str>) -> Option<Self> {
        match attribute {
            None | Some("2.0" | "2.1" | "2.2") => Some(Self::V2_0),
            Some("2.3") => Some(Self::V2_3),
            Some("2.4") => Some(Self::V2_4),
            Some(_) => None,
        }
    }
}

/// The playlist that HLS signalling is for: `HLSSignalingData@playlist`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Playlist {
    /// `media`: `#EXT-X-KEY`.
    Media,
    /// `master`, or `multiVariant` from CPIX 2.4 on: `#EXT-X-SESSION-KEY`.
    Multivariant,
}

impl Playlist {
    /// The word in a document of `version`.
    pub const fn as_str(self, version: Version) -> &'static str {
        match (self, version) {
            (Self::Media, _) => "media",
            (Self::Multivariant, Version::V2_0 | Version::V2_3) => "master",
            (Self::Multivariant, Version::V2_4) => "multiVariant",
        }
    }

    /// No attribute is a media playlist. Encryptors that moved on to 2.4 may still say `master`, so that is read
    /// there as well, though the schema has only `multiVariant`.
    pub(crate) fn read(attribute: Option<&str>, version: Version) -> Option<Self> {
        match (attribute, version) {
            (None | Some("media"), _) => Some(Self::Media),
            (Some("master"), _) | (Some("multiVariant"), Version::V2_4) => Some(Self::Multivariant),
            (Some(_), _) => None,
        }
    }
}
