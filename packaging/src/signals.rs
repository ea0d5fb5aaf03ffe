//! What other vendors' encryptors are told of keys, made by the code that packages: what their manifests signal and what
//! ours do agree.

use cpix::signalling::{SignalledKey, Signalling, Signals};
use cpix::{EncryptionScheme, SystemId};
use keystore_types::{AssetId, HlsClearKeyFlavour, ProtectionPolicy, Scheme};
use origin_media::drm::{self, common_pssh, fairplay, playready, widevine};

/// The signalling of the origin's packager, with licence URLs of this appliance.
pub(crate) struct Packager {
    /// `license.public_url`, without a trailing slash.
    pub(crate) license_url: String,
}

impl Signalling for Packager {
    fn signals(&self, system: SystemId, key: &SignalledKey<'_>) -> Option<Signals> {
        let asset: AssetId = key.content_id.parse().ok()?;
        let key_id = key.key_id;
        // SPEKE 1.0 states no scheme; systems that read CBC only have no other.
        let scheme = match key.scheme {
            Some(
                EncryptionScheme::Cbcs
                | EncryptionScheme::Cbc1
                | EncryptionScheme::HlsAes128
                | EncryptionScheme::HlsSampleAes,
            ) => Scheme::Cbcs,
            Some(
                EncryptionScheme::Cenc | EncryptionScheme::Cens | EncryptionScheme::HlsSampleAesCtr,
            )
            | None => Scheme::Cenc,
        };
        let policy = ProtectionPolicy {
            scheme,
            systems: Vec::new(),
            hls_clear_key: HlsClearKeyFlavour::ClearKey,
        };
        let urls = drm::Signalling {
            policy: &policy,
            license_url: &self.license_url,
            asset: &asset,
        };
        match system {
            SystemId::WIDEVINE => {
                let pssh = widevine::pssh(&[key_id], scheme).to_bytes();
                Some(Signals::widevine(pssh, key_id))
            }
            SystemId::PLAYREADY => {
                let license_url = urls.playready_url(key_id);
                let header = playready::Header {
                    key_id,
                    scheme,
                    license_url: Some(&license_url),
                    checksum: None,
                };
                Some(Signals::playready(
                    header.pssh().to_bytes(),
                    header.to_object(),
                ))
            }
            SystemId::FAIRPLAY => Some(Signals::fairplay(fairplay::key_uri(key_id))),
            SystemId::CLEAR_KEY => Some(Signals::clear_key(&urls.clear_key_url_of(key_id))),
            SystemId::COMMON => Some(Signals {
                pssh: Some(common_pssh(&[key_id]).to_bytes()),
                ..Signals::default()
            }),
            SystemId::HLS_AES_128 | SystemId::HLS_SAMPLE_AES | SystemId::SPEKE_V1_AES_128 => {
                Some(Signals::identity(urls.hls_key_url(key_id), key.explicit_iv))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use keystore_types::KeyId;

    use super::*;

    fn signals(system: SystemId, content_id: &str) -> Option<Signals> {
        let packager = Packager {
            license_url: "https://license.example".to_owned(),
        };
        let key = SignalledKey {
            content_id,
            key_id: KeyId::new([0xab; 16]),
            scheme: Some(EncryptionScheme::Cbcs),
            explicit_iv: None,
        };
        packager.signals(system, &key)
    }

    #[test]
    fn the_boxes_are_those_of_the_packager() {
        let widevine_box = widevine::pssh(&[KeyId::new([0xab; 16])], Scheme::Cbcs).to_bytes();
        let widevine = signals(SystemId::WIDEVINE, "film").unwrap();
        assert_eq!(widevine.pssh.as_ref(), Some(&widevine_box));
        let playready = signals(SystemId::PLAYREADY, "film").unwrap();
        let object = playready.playready_object.unwrap();
        let header: Vec<u16> = (object[10..].as_chunks::<2>().0.iter())
            .map(|pair| u16::from_le_bytes(*pair))
            .collect();
        let header = String::from_utf16(&header).unwrap();
        assert!(
            header.contains("<LA_URL>https://license.example/license/playready/film?kid=abababab-"),
            "{header}"
        );
    }

    #[test]
    fn what_is_no_system_here_and_what_names_no_asset_is_refused() {
        assert!(signals(SystemId::new([1; 16]), "film").is_none());
        assert!(signals(SystemId::WIDEVINE, "../film").is_none());
    }
}
