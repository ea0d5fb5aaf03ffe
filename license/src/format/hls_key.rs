//! An HLS key of KEYFORMAT `identity`: 16 raw bytes (RFC 8216 5).

use keystore_types::ContentKey;

use super::SecretBytes;

/// The key as the resource that a playlist's `EXT-X-KEY` names.
pub fn write(key: &ContentKey) -> SecretBytes {
    SecretBytes::new(key.expose().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_bytes_and_nothing_else() {
        let key = ContentKey::take(&mut b"0123456789abcdef".to_owned());
        assert_eq!(write(&key).as_slice(), b"0123456789abcdef");
    }
}
