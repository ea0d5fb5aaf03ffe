use serde::{Deserialize, Serialize};

use crate::Scheme;

/// A DRM system that a policy may signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DrmSystem {
    /// W3C ClearKey: keys in the open, for development and for content that needs no DRM.
    ClearKey,
    /// Google Widevine.
    Widevine,
    /// Microsoft PlayReady.
    PlayReady,
    /// Apple FairPlay Streaming, `cbcs` only.
    FairPlay,
}

/// How a ClearKey policy is spelled in an HLS playlist. hls.js and shaka-player take different spellings,
/// and hls.js never starts on `SAMPLE-AES` where both stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HlsClearKeyFlavour {
    /// `KEYFORMAT="org.w3.clearkey"` with the licence URL: hls.js.
    ClearKey,
    /// `KEYFORMAT="identity"` with the URL of the 16 raw bytes: shaka-player.
    Identity,
    /// Both lines, `org.w3.clearkey` first: works for `cenc` in both players.
    Both,
}

/// How a title is protected: the one value from which `tenc`, the MPD's `ContentProtection`, the HLS key tags
/// and the licence are derived, so that they cannot disagree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtectionPolicy {
    /// The scheme of the policy's pack.
    pub scheme: Scheme,
    /// The systems signalled, in the order in which they are written.
    pub systems: Vec<DrmSystem>,
    /// The spelling of ClearKey in HLS.
    pub hls_clear_key: HlsClearKeyFlavour,
}
