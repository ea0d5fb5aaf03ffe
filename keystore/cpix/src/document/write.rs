use keystore_types::KeyId;

use super::{Document, Hdcp, Key, Secret, System};
use crate::delivery::{Certificate, Delivery, DocumentKey, EncryptedValue, algorithm};
use crate::encoding::{encode, encode_secret};
use crate::identity::Version;
use crate::period::Period;
use crate::usage::{Filter, UsageRule};
use crate::xml::Element;
use crate::xml::namespace::{CPIX, DS, ENC, Namespace, PSKC, SPEKE};

pub(crate) fn to_element(document: &Document) -> Element {
    let version = document.version;
    let mut root = Element::new(CPIX, "CPIX").declaring(CPIX).declaring(PSKC);
    if !document.deliveries.is_empty() {
        root = root.declaring(DS).declaring(ENC);
    }
    if document.systems.iter().any(uses_speke) {
        root = root.declaring(SPEKE);
    }
    let list = |name: &str, of: Vec<Element>| {
        (!of.is_empty()).then(|| Element::new(CPIX, name).containing(of))
    };
    let all = |it: &mut dyn Iterator<Item = Element>| it.collect::<Vec<_>>();
    root.with("id", document.id.as_deref())
        .with("contentId", document.content_id.as_deref())
        .with("name", document.name.as_deref())
        .with("version", version.as_str())
        .containing(list(
            "DeliveryDataList",
            all(&mut document.deliveries.iter().map(|it| delivery(it, version))),
        ))
        .containing(list(
            "ContentKeyList",
            all(&mut document.keys.iter().map(key)),
        ))
        .containing(list(
            "DRMSystemList",
            all(&mut document.systems.iter().map(|it| system(it, version))),
        ))
        .containing(list(
            "ContentKeyPeriodList",
            all(&mut document.periods.iter().map(period)),
        ))
        .containing(list(
            "ContentKeyUsageRuleList",
            all(&mut document.rules.iter().map(usage_rule)),
        ))
}

fn uses_speke(system: &System) -> bool {
    let legacy = &system.legacy;
    legacy.key_format.is_some()
        || legacy.key_format_versions.is_some()
        || legacy.protection_header.is_some()
}

fn delivery(delivery: &Delivery, version: Version) -> Element {
    let document_keys = delivery.document_keys.iter();
    Element::new(CPIX, "DeliveryData")
        .with("id", delivery.id.as_deref())
        .with("name", delivery.name.as_deref())
        .containing([delivery_key(&delivery.certificate)])
        .containing(document_keys.map(|key| document_key_element(key, version)))
        .containing(delivery.mac_key.as_deref().map(mac_method_element))
}

fn delivery_key(certificate: &Certificate) -> Element {
    let text = Element::new(DS, "X509Certificate").saying(encode(certificate.der()));
    let data = Element::new(DS, "X509Data").containing([text]);
    Element::new(CPIX, "DeliveryKey").containing([data])
}

/// `DocumentKey`. Up to 2.3 it says once more how it encrypts.
pub(crate) fn document_key_element(key: &DocumentKey, version: Version) -> Element {
    let encrypts = (!key.encrypts.is_empty()).then(|| uuid_list(&key.encrypts));
    let stated = (version < Version::V2_4).then_some(algorithm::AES_256_CBC);
    let value = encrypted(PSKC, "EncryptedValue", algorithm::RSA_OAEP, &key.wrapped);
    let secret = Element::new(PSKC, "Secret").containing([value]);
    Element::new(CPIX, "DocumentKey")
        .with("encryptsKey", encrypts.as_deref())
        .with("Algorithm", stated)
        .containing([Element::new(CPIX, "Data").containing([secret])])
}

/// `MACMethod`.
pub(crate) fn mac_method_element(mac_key: &[u8]) -> Element {
    let key = encrypted(PSKC, "MACKey", algorithm::RSA_OAEP, mac_key);
    Element::new(CPIX, "MACMethod")
        .with("Algorithm", algorithm::HMAC_SHA512)
        .containing([key])
}

/// `xenc:EncryptedDataType` under a name.
fn encrypted(namespace: Namespace, name: &str, algorithm: &str, cipher_value: &[u8]) -> Element {
    let method = Element::new(ENC, "EncryptionMethod").with("Algorithm", algorithm);
    let value = Element::new(ENC, "CipherValue").saying(encode(cipher_value));
    let data = Element::new(ENC, "CipherData").containing([value]);
    Element::new(namespace, name).containing([method, data])
}

/// UUIDs with a space between.
fn uuid_list(key_ids: &[KeyId]) -> String {
    let texts: Vec<String> = key_ids.iter().map(KeyId::to_string).collect();
    texts.join(" ")
}

fn key(key: &Key) -> Element {
    let depends_on = key.depends_on.map(|id| id.to_string());
    let explicit_iv = key.explicit_iv.map(|iv| encode(iv.as_bytes()));
    Element::new(CPIX, "ContentKey")
        .with("contentId", key.content_id.as_deref())
        .with("kid", key.key_id.to_string().as_str())
        .with("explicitIV", explicit_iv.as_deref())
        .with("dependsOnKey", depends_on.as_deref())
        .with("commonEncryptionScheme", key.scheme.map(|it| it.as_str()))
        .containing(key.hdcp.as_ref().map(hdcp_element))
        .containing(key_data_element(&key.secret))
}

pub(crate) fn hdcp_element(hdcp: &Hdcp) -> Element {
    let output = hdcp.output_protection.as_ref().map(|fragment| {
        Element::new(CPIX, "HDCPOutputProtectionData").saying(encode(fragment.as_bytes()))
    });
    Element::new(CPIX, "HDCPData")
        .with("HLSHDCPLevel", hdcp.hls_level.as_deref())
        .containing(output)
}

/// `Data` of a content key.
pub(crate) fn key_data_element(secret: &Secret) -> Option<Element> {
    let values = match secret {
        Secret::Absent => return None,
        Secret::Clear(key) => {
            vec![Element::new(PSKC, "PlainValue").saying(encode_secret(key.expose()))]
        }
        Secret::Encrypted(EncryptedValue {
            cipher,
            cipher_value,
            mac,
        }) => {
            let value = encrypted(PSKC, "EncryptedValue", cipher.algorithm(), cipher_value);
            let mac = mac
                .as_ref()
                .map(|mac| Element::new(PSKC, "ValueMAC").saying(encode(mac)));
            std::iter::once(value).chain(mac).collect()
        }
    };
    let secret = Element::new(PSKC, "Secret").containing(values);
    Some(Element::new(CPIX, "Data").containing([secret]))
}

fn system(system: &System, version: Version) -> Element {
    let cpix = |name, text: &Option<String>| {
        text.clone()
            .map(|text| Element::new(CPIX, name).saying(text))
    };
    let in_base64 = |namespace, name, text: &Option<String>| {
        let text = text.as_ref()?;
        Some(Element::new(namespace, name).saying(encode(text.as_bytes())))
    };
    let legacy = &system.legacy;
    let pssh = system.pssh.as_ref().map(|pssh| encode(pssh));
    let content_protection = system.content_protection.as_ref().map(|it| {
        Element::new(CPIX, "ContentProtectionData")
            .with("robustness", it.robustness.as_deref())
            .saying(encode(it.fragment.as_bytes()))
    });
    let hls = system.hls.iter().map(|it| {
        Element::new(CPIX, "HLSSignalingData")
            .with("playlist", it.playlist.as_str(version))
            .saying(encode(it.lines.as_bytes()))
    });
    Element::new(CPIX, "DRMSystem")
        .with("systemId", system.system_id.to_string().as_str())
        .with("kid", system.key_id.to_string().as_str())
        .with("name", system.name.as_deref())
        .with("HLSAllowedCPC", system.hls_allowed_cpc.as_deref())
        .containing(cpix("PSSH", &pssh))
        .containing(content_protection)
        .containing(in_base64(CPIX, "URIExtXKey", &legacy.uri_ext_x_key))
        .containing(hls)
        .containing(cpix(
            "SmoothStreamingProtectionHeaderData",
            &system.smooth_streaming,
        ))
        .containing(in_base64(SPEKE, "KeyFormat", &legacy.key_format))
        .containing(in_base64(
            SPEKE,
            "KeyFormatVersions",
            &legacy.key_format_versions,
        ))
        .containing(
            (legacy.protection_header.clone())
                .map(|text| Element::new(SPEKE, "ProtectionHeader").saying(text)),
        )
}

fn period(period: &Period) -> Element {
    let index = period.index.map(|index| index.to_string());
    Element::new(CPIX, "ContentKeyPeriod")
        .with("id", period.id.as_deref())
        .with("index", index.as_deref())
        .with("label", period.label.as_deref())
        .with("start", period.start.as_deref())
        .with("end", period.end.as_deref())
        .with("startOffset", period.start_offset.as_deref())
        .with("endOffset", period.end_offset.as_deref())
        .with("duration", period.duration.as_deref())
}

/// The schema has the filters sorted by type.
fn usage_rule(rule: &UsageRule) -> Element {
    let mut filters: Vec<(u8, Element)> = rule.filters.iter().map(filter).collect();
    filters.sort_by_key(|(order, _)| *order);
    Element::new(CPIX, "ContentKeyUsageRule")
        .with("kid", rule.key_id.to_string().as_str())
        .with("intendedTrackType", rule.intended_track_type.as_deref())
        .containing(filters.into_iter().map(|(_, filter)| filter))
}

fn filter(filter: &Filter) -> (u8, Element) {
    let attributed = |name: &str, attributes: &[(&str, Option<String>)]| {
        let element = Element::new(CPIX, name);
        (attributes.iter()).fold(element, |element, (name, value)| {
            element.with(name, value.as_deref())
        })
    };
    let number = |value: Option<u32>| value.map(|it| it.to_string());
    let boolean = |value: Option<bool>| value.map(|it| it.to_string());
    match filter {
        Filter::KeyPeriod(id) => {
            let attributes = [("periodId", Some(id.clone()))];
            (0, attributed("KeyPeriodFilter", &attributes))
        }
        Filter::Label(label) => {
            let attributes = [("label", Some(label.clone()))];
            (1, attributed("LabelFilter", &attributes))
        }
        Filter::Video(it) => {
            let attributes = [
                ("minPixels", number(it.min_pixels)),
                ("maxPixels", number(it.max_pixels)),
                ("hdr", boolean(it.hdr)),
                ("wcg", boolean(it.wcg)),
                ("minFps", number(it.min_fps)),
                ("maxFps", number(it.max_fps)),
            ];
            (2, attributed("VideoFilter", &attributes))
        }
        Filter::Audio(it) => {
            let attributes = [
                ("minChannels", number(it.min_channels)),
                ("maxChannels", number(it.max_channels)),
            ];
            (3, attributed("AudioFilter", &attributes))
        }
        Filter::Bitrate(it) => {
            let attributes = [
                ("minBitrate", number(it.min_bitrate)),
                ("maxBitrate", number(it.max_bitrate)),
            ];
            (4, attributed("BitrateFilter", &attributes))
        }
        // Its content is lost; its name makes the rules unusable for the next reader as well.
        Filter::Unknown(name) => (5, attributed(name, &[])),
    }
}
