//! Apple FairPlay Streaming: `cbcs` only, signalled in HLS by a URI that names the key.

use keystore_types::KeyId;

use super::SystemId;

/// The system's UUID.
pub const SYSTEM: SystemId = SystemId::new(0x94ce_86fb_07ff_4f43_adb8_93d2_fa96_8ca2);

/// The HLS `KEYFORMAT`.
pub const KEY_FORMAT: &str = "com.apple.streamingkeydelivery";

/// The key URI. What follows `skd://` is the service's own; the key id makes it distinct for each key, as FairPlay
/// needs where tracks have keys of their own (shaka-packager issue 825).
pub fn key_uri(key_id: KeyId) -> String {
    format!("skd://{key_id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_uri_names_the_key() {
        let key_id: KeyId = "9eb4050d-e44b-4802-932e-27d75083e266".parse().unwrap();
        assert_eq!(
            key_uri(key_id),
            "skd://9eb4050d-e44b-4802-932e-27d75083e266"
        );
    }
}
