//! What players must be told of a key, in the forms that CPIX carries.
//!
//! The payloads themselves (Widevine's protobuf, PlayReady's header) are made elsewhere and come in by way of
//! [`Signalling`]: the keystore's side of the house knows no media formats.

use keystore_types::{ConstantIv, KeyId};

use crate::encoding::encode;
use crate::identity::{EncryptionScheme, Playlist, SystemId};

/// Makes the signalling of keys. Whoever composes the server implements it, over the same code that packages, so
/// that what a vendor's packager signals and what ours does agree.
pub trait Signalling {
    /// What `system` signals for a key; `None` for a system that is not served, which refuses the request.
    fn signals(&self, system: SystemId, key: &SignalledKey<'_>) -> Option<Signals>;
}

/// The key to signal.
#[derive(Clone, Copy, Debug)]
pub struct SignalledKey<'a> {
    /// The content, as the encryptor names it.
    pub content_id: &'a str,
    /// The key's id.
    pub key_id: KeyId,
    /// The scheme; SPEKE 1.0 states none.
    pub scheme: Option<EncryptionScheme>,
    /// The IV, if the key has one of its own.
    pub explicit_iv: Option<ConstantIv>,
}

/// What one system signals for one key. What is `None` the system has not: such an element stays empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signals {
    /// The whole `pssh` box.
    pub pssh: Option<Vec<u8>>,
    /// The children of the MPD's `ContentProtection` element, in XML.
    pub content_protection: Option<String>,
    /// The HLS key tags.
    pub hls: Option<HlsKey>,
    /// The PlayReady Object, for Smooth Streaming.
    pub playready_object: Option<Vec<u8>>,
    /// `ContentProtectionData@robustness`: what the system must at least be capable of. SPEKE 2.1.
    pub robustness: Option<String>,
    /// `DRMSystem@HLSAllowedCPC`. SPEKE 2.1.
    pub hls_allowed_cpc: Option<String>,
}

impl Signals {
    /// Widevine: its box, and tags that carry the box.
    pub fn widevine(pssh: Vec<u8>, key_id: KeyId) -> Self {
        let box_in_base64 = encode(&pssh);
        let uri = format!("data:text/plain;base64,{box_in_base64}");
        Self {
            hls: Some(HlsKey {
                key_id: Some(key_id),
                ..HlsKey::new(uri, &format!("urn:uuid:{}", SystemId::WIDEVINE))
            }),
            content_protection: Some(cenc_pssh(&box_in_base64)),
            pssh: Some(pssh),
            ..Self::default()
        }
    }

    /// PlayReady: its box, and the PlayReady Object that the box carries.
    pub fn playready(pssh: Vec<u8>, object: Vec<u8>) -> Self {
        let object_in_base64 = encode(&object);
        let uri = format!("data:text/plain;charset=UTF-16;base64,{object_in_base64}");
        let content_protection = format!(
            "{}<mspr:pro xmlns:mspr=\"urn:microsoft:playready\">{object_in_base64}</mspr:pro>",
            cenc_pssh(&encode(&pssh))
        );
        Self {
            hls: Some(HlsKey::new(uri, "com.microsoft.playready")),
            content_protection: Some(content_protection),
            pssh: Some(pssh),
            playready_object: Some(object),
            ..Self::default()
        }
    }

    /// FairPlay: `uri` (`skd://...`) is all there is. It has no place in an MPD.
    pub fn fairplay(uri: String) -> Self {
        Self {
            hls: Some(HlsKey::new(uri, "com.apple.streamingkeydelivery")),
            ..Self::default()
        }
    }

    /// ClearKey: the URL of its licences, in both spellings that players read (DASH-IF IOP part 6).
    pub fn clear_key(license_url: &str) -> Self {
        let url = quick_xml::escape::escape(license_url);
        let content_protection = format!(
            "<clearkey:Laurl xmlns:clearkey=\"http://dashif.org/guidelines/clearKey\" \
             Lic_type=\"EME-1.0\">{url}</clearkey:Laurl>\
             <dashif:Laurl xmlns:dashif=\"https://dashif.org/CPS\" \
             licenseType=\"EME-1.0\">{url}</dashif:Laurl>"
        );
        Self {
            hls: Some(HlsKey::new(license_url.to_owned(), "org.w3.clearkey")),
            content_protection: Some(content_protection),
            ..Self::default()
        }
    }

    /// HLS key format `identity`: `uri` answers with the 16 bytes.
    pub fn identity(uri: String, iv: Option<ConstantIv>) -> Self {
        Self {
            hls: Some(HlsKey {
                iv,
                ..HlsKey::new(uri, "identity")
            }),
            ..Self::default()
        }
    }
}

fn cenc_pssh(box_in_base64: &str) -> String {
    format!("<cenc:pssh xmlns:cenc=\"urn:mpeg:cenc:2013\">{box_in_base64}</cenc:pssh>")
}

/// The attributes of `EXT-X-KEY` and `EXT-X-SESSION-KEY` (RFC 8216, 4.3.2.4), which are the same in both: players
/// require it of `METHOD`, `KEYFORMAT` and `KEYFORMATVERSIONS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HlsKey {
    /// `URI`, without quotes and line ends.
    pub uri: String,
    /// `KEYFORMAT`.
    pub key_format: String,
    /// `KEYFORMATVERSIONS`.
    pub key_format_versions: String,
    /// `KEYID`, which Widevine has.
    pub key_id: Option<KeyId>,
    /// `IV`.
    pub iv: Option<ConstantIv>,
}

impl HlsKey {
    /// The key format in its version 1.
    pub fn new(uri: String, key_format: &str) -> Self {
        Self {
            uri,
            key_format: key_format.to_owned(),
            key_format_versions: "1".to_owned(),
            key_id: None,
            iv: None,
        }
    }

    /// The tag, or none for a scheme that HLS has not, and for values that no quoted string holds.
    pub(crate) fn tag(&self, playlist: Playlist, scheme: EncryptionScheme) -> Option<String> {
        let method = scheme.hls_method()?;
        let quoted = [&self.uri, &self.key_format, &self.key_format_versions];
        if quoted.iter().any(|text| text.contains(['"', '\n', '\r'])) {
            return None;
        }
        let tag = match playlist {
            Playlist::Media => "#EXT-X-KEY",
            Playlist::Multivariant => "#EXT-X-SESSION-KEY",
        };
        let hex = |bytes: &[u8; 16]| {
            let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
            format!("0x{}", digits.collect::<String>())
        };
        let mut line = format!("{tag}:METHOD={method},URI=\"{}\"", self.uri);
        if let Some(key_id) = &self.key_id {
            line.extend([",KEYID=", &hex(key_id.as_bytes())]);
        }
        if let Some(iv) = &self.iv {
            line.extend([",IV=", &hex(iv.as_bytes())]);
        }
        line.extend([
            ",KEYFORMAT=\"",
            &self.key_format,
            "\",KEYFORMATVERSIONS=\"",
            &self.key_format_versions,
            "\"",
        ]);
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY_ID: KeyId = KeyId::new([0xab; 16]);

    #[test]
    fn tags_of_both_playlists_differ_in_their_name_alone() {
        let hls = Signals::widevine(vec![1, 2, 3], KEY_ID).hls.unwrap();
        let attributes = "METHOD=SAMPLE-AES,URI=\"data:text/plain;base64,AQID\",\
                          KEYID=0xabababababababababababababababab,\
                          KEYFORMAT=\"urn:uuid:edef8ba9-79d6-4ace-a3c8-27dcd51d21ed\",KEYFORMATVERSIONS=\"1\"";
        let tag = |playlist| hls.tag(playlist, EncryptionScheme::Cbcs).unwrap();
        assert_eq!(tag(Playlist::Media), format!("#EXT-X-KEY:{attributes}"));
        assert_eq!(
            tag(Playlist::Multivariant),
            format!("#EXT-X-SESSION-KEY:{attributes}")
        );
    }

    #[test]
    fn methods_follow_the_scheme() {
        let hls = Signals::fairplay("skd://1".to_owned()).hls.unwrap();
        for (scheme, method) in [
            (EncryptionScheme::Cenc, Some("SAMPLE-AES-CTR")),
            (EncryptionScheme::Cbc1, None),
            (EncryptionScheme::Cens, None),
            (EncryptionScheme::Cbcs, Some("SAMPLE-AES")),
            (EncryptionScheme::HlsAes128, Some("AES-128")),
            (EncryptionScheme::HlsSampleAes, Some("SAMPLE-AES")),
            (EncryptionScheme::HlsSampleAesCtr, Some("SAMPLE-AES-CTR")),
        ] {
            let expected = method.map(|method| {
                format!(
                    "#EXT-X-KEY:METHOD={method},URI=\"skd://1\",\
                     KEYFORMAT=\"com.apple.streamingkeydelivery\",KEYFORMATVERSIONS=\"1\""
                )
            });
            assert_eq!(hls.tag(Playlist::Media, scheme), expected);
        }
    }

    #[test]
    fn an_identity_key_has_its_iv() {
        let iv = ConstantIv::new([0x0f; 16]);
        let hls = Signals::identity("https://k.example/1".to_owned(), Some(iv))
            .hls
            .unwrap();
        assert_eq!(
            hls.tag(Playlist::Media, EncryptionScheme::HlsAes128)
                .unwrap(),
            "#EXT-X-KEY:METHOD=AES-128,URI=\"https://k.example/1\",\
             IV=0x0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f,KEYFORMAT=\"identity\",KEYFORMATVERSIONS=\"1\""
        );
    }

    #[test]
    fn no_value_ends_its_quotes() {
        for uri in ["skd://\"", "skd://\n", "skd://\r"] {
            let hls = Signals::fairplay(uri.to_owned()).hls.unwrap();
            assert_eq!(hls.tag(Playlist::Media, EncryptionScheme::Cbcs), None);
        }
    }

    #[test]
    fn fragments() {
        let pssh = "<cenc:pssh xmlns:cenc=\"urn:mpeg:cenc:2013\">AQID</cenc:pssh>";
        let widevine = Signals::widevine(vec![1, 2, 3], KEY_ID);
        assert_eq!(widevine.content_protection.as_deref(), Some(pssh));
        let playready = Signals::playready(vec![1, 2, 3], vec![4, 5, 6]);
        let object = "<mspr:pro xmlns:mspr=\"urn:microsoft:playready\">BAUG</mspr:pro>";
        assert_eq!(
            playready.content_protection,
            Some(format!("{pssh}{object}"))
        );
        assert_eq!(
            Signals::fairplay("skd://1".to_owned()).content_protection,
            None
        );
        let clear_key = Signals::clear_key("https://l.example/?a&b")
            .content_protection
            .unwrap();
        assert!(clear_key.contains(">https://l.example/?a&amp;b</dashif:Laurl>"));
    }
}
