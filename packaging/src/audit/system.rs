//! DRM systems by the names that manifests and boxes have for them.

use std::fmt;

/// Who reads a descriptor, a key tag or a `pssh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum System {
    /// The descriptor of common encryption itself, or the common `pssh` of the W3C.
    Common,
    /// W3C ClearKey.
    ClearKey,
    /// An HLS key of format `identity`.
    Identity,
    Widevine,
    PlayReady,
    FairPlay,
    /// One that is not looked into.
    Other,
}

impl System {
    /// By `schemeIdUri` of a ContentProtection element.
    pub(crate) fn of_urn(urn: &str) -> Self {
        let urn = urn.trim().to_ascii_lowercase();
        match urn.strip_prefix("urn:uuid:") {
            Some(uuid) => Self::of_uuid(uuid),
            None if urn == "urn:mpeg:dash:mp4protection:2011" => Self::Common,
            None => Self::Other,
        }
    }

    /// By `KEYFORMAT` of a key tag.
    pub(crate) fn of_key_format(format: &str) -> Self {
        match format {
            "identity" => Self::Identity,
            "org.w3.clearkey" => Self::ClearKey,
            "com.microsoft.playready" => Self::PlayReady,
            "com.apple.streamingkeydelivery" => Self::FairPlay,
            urn => Self::of_urn(urn),
        }
    }

    /// By the system id of a `pssh`.
    pub(crate) fn of_id(id: [u8; 16]) -> Self {
        Self::of_uuid(&keystore_types::KeyId::new(id).to_string())
    }

    fn of_uuid(uuid: &str) -> Self {
        match uuid {
            "1077efec-c0b2-4d02-ace3-3c1e52e2fb4b" => Self::Common,
            "e2719d58-a985-b3c9-781a-b030af78d30e" => Self::ClearKey,
            "edef8ba9-79d6-4ace-a3c8-27dcd51d21ed" => Self::Widevine,
            "9a04f079-9840-4286-ab92-e65be0885f95" => Self::PlayReady,
            // The second is unofficial, and met.
            "94ce86fb-07ff-4f43-adb8-93d2fa968ca2" | "29701fe4-3cc7-4a34-8c5b-ae90c7439a47" => {
                Self::FairPlay
            }
            _ => Self::Other,
        }
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Common => "common encryption",
            Self::ClearKey => "ClearKey",
            Self::Identity => "HLS identity",
            Self::Widevine => "Widevine",
            Self::PlayReady => "PlayReady",
            Self::FairPlay => "FairPlay",
            Self::Other => "another system",
        })
    }
}
