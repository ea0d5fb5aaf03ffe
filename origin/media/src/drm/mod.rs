//! What each DRM system wants to read: `pssh` payloads, manifest elements, key URIs. No licence is made here.
//!
//! One [`Signalling`] is turned into every spelling, so that `tenc`, MPD, HLS and licence cannot disagree.

pub mod clearkey;
pub mod fairplay;
pub mod playready;
pub mod widevine;

use std::fmt;

use keystore_types::{AssetId, KeyId, ProtectionPolicy};

pub use crate::bmff::pssh::Pssh;

/// The `KEYFORMATVERSIONS` of every key format here (RFC 8216 4.3.2.4).
pub(crate) const KEY_FORMAT_VERSIONS: &str = "1";

/// The system id of the common `pssh` (W3C, "cenc" Initialization Data Format): key ids and no data.
pub const COMMON_SYSTEM: SystemId = SystemId::new(0x1077_efec_c0b2_4d02_ace3_3c1e_52e2_fb4b);

/// What a manifest needs to know about protection beyond the keys themselves.
#[derive(Clone, Debug)]
pub struct Signalling<'a> {
    /// Scheme, systems in their order, HLS flavour.
    pub policy: &'a ProtectionPolicy,
    /// Where licences are asked for: `license.public_url`, without a trailing slash.
    pub license_url: &'a str,
    /// The asset, which every licence URL names.
    pub asset: &'a AssetId,
}

impl Signalling<'_> {
    /// The URL to which a player posts its ClearKey request.
    pub fn clear_key_url(&self) -> String {
        format!("{}/license/clearkey/{}", self.license_url, self.asset)
    }

    /// The same for one key. The request's body names its keys; this only tells one key's URI from another's: hls.js
    /// makes one session per URI, and a session that was made for one key never asks for the next.
    pub fn clear_key_url_of(&self, key_id: KeyId) -> String {
        format!("{}?kid={key_id}", self.clear_key_url())
    }

    /// The URL of the 16 raw bytes of one key, for HLS key format `identity`.
    pub fn hls_key_url(&self, key_id: KeyId) -> String {
        format!("{}/license/hls/{}/{key_id}", self.license_url, self.asset)
    }

    /// The URL to which a player posts a Widevine challenge for one key.
    pub fn widevine_url(&self, key_id: KeyId) -> String {
        format!(
            "{}/license/widevine/{}?kid={key_id}",
            self.license_url, self.asset
        )
    }

    /// The URL to which a player posts a PlayReady challenge for one key.
    pub fn playready_url(&self, key_id: KeyId) -> String {
        format!(
            "{}/license/playready/{}?kid={key_id}",
            self.license_url, self.asset
        )
    }

    /// The URL to which a player posts a FairPlay SPC for one key.
    pub fn fairplay_url(&self, key_id: KeyId) -> String {
        format!(
            "{}/license/fairplay/{}?kid={key_id}",
            self.license_url, self.asset
        )
    }
}

/// The UUID of a DRM system (DASH-IF content protection registry).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SystemId([u8; 16]);

impl SystemId {
    const fn new(uuid: u128) -> Self {
        Self(uuid.to_be_bytes())
    }

    /// The bytes as they stand in a `pssh`.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// `urn:uuid:...`, the `schemeIdUri` of a `ContentProtection` element.
    pub fn urn(self) -> String {
        format!("urn:uuid:{self}")
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

/// The common `pssh` of these keys. It stands in the init segment of every protected track, whatever the policy:
/// Chromium and Firefox raise the `encrypted` event from it.
pub fn common_pssh(key_ids: &[KeyId]) -> Pssh {
    Pssh {
        system_id: *COMMON_SYSTEM.as_bytes(),
        key_ids: key_ids.to_vec(),
        data: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::unhex;

    #[test]
    fn common_pssh_vector() {
        let key_id = KeyId::new(
            unhex("0101020305080d1522375990e9000000")
                .try_into()
                .unwrap(),
        );
        let expected = "0000003470737368010000001077efecc0b24d02ace33c1e52e2fb4b\
                        000000010101020305080d1522375990e900000000000000";
        assert_eq!(common_pssh(&[key_id]).to_bytes(), unhex(expected));
    }

    #[test]
    fn w3c_example_with_two_keys() {
        let keys = [
            KeyId::new(*b"0123456789012345"),
            KeyId::new(*b"ABCDEFGHIJKLMNOP"),
        ];
        let bytes = common_pssh(&keys).to_bytes();
        assert_eq!(bytes.len(), 68);
        assert_eq!(&bytes[32..64], b"0123456789012345ABCDEFGHIJKLMNOP");
    }
}
