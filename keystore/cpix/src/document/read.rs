use keystore_types::{ConstantIv, KeyId};

use super::{ContentProtection, Document, Hdcp, HlsSignaling, Key, Legacy, Secret, System};
use crate::delivery::{Certificate, Delivery, DocumentKey, EncryptedValue, KeyCipher, algorithm};
use crate::encoding::{decode, decode_key};
use crate::error::{Error, ErrorKind, Faults};
use crate::identity::{EncryptionScheme, Playlist, SystemId, Version, key_id};
use crate::period::Period;
use crate::usage::{AudioFilter, BitrateFilter, Filter, UsageRule, VideoFilter};
use crate::xml::namespace::{CPIX, DS, ENC, Namespace, PSKC, SPEKE};
use crate::xml::{Cursor, Element};

/// The most recipients of a document: each has a certificate to parse.
const MAX_DELIVERIES: usize = 64;

/// Reads a tree as a document; every fault is found.
pub(crate) fn from_element(root: &Element) -> Result<Document, Error> {
    let cursor = Cursor::root(root);
    if !root.is(CPIX, "CPIX") {
        let reason = "the outermost element is CPIX in the namespace urn:dashif:org:cpix";
        return Err(Error::at(
            ErrorKind::Malformed,
            Some(cursor.place()),
            reason,
        ));
    }
    let Some(version) = Version::read(cursor.attribute("version")) else {
        let reason =
            "unsupported CPIX@version: 2.3 and 2.4 are served, and 2.0 without the attribute";
        let place = cursor.attribute_place("version");
        return Err(Error::at(ErrorKind::Unsupported, Some(place), reason));
    };
    let mut reader = Reader {
        version,
        faults: Faults::default(),
    };
    let document = reader.document(&cursor);
    reader.faults.check(ErrorKind::Malformed)?;
    Ok(document)
}

struct Reader {
    version: Version,
    faults: Faults,
}

impl Reader {
    fn document(&mut self, root: &Cursor<'_>) -> Document {
        let text = |name| root.attribute(name).map(str::to_owned);
        let mut document = Document {
            id: text("id"),
            content_id: text("contentId"),
            name: text("name"),
            signatures: root.all(DS, "Signature").count(),
            ..Document::new(self.version)
        };
        if let Some(list) = root.all(CPIX, "DeliveryDataList").next()
            && let Some(last) = list.all(CPIX, "DeliveryData").nth(MAX_DELIVERIES)
        {
            let reason = format!("a document has at most {MAX_DELIVERIES} recipients");
            last.fault(&mut self.faults, reason);
            return document;
        }
        document.deliveries = self.list(root, "DeliveryDataList", "DeliveryData", Self::delivery);
        document.keys = self.list(root, "ContentKeyList", "ContentKey", Self::key);
        document.systems = self.list(root, "DRMSystemList", "DRMSystem", Self::system);
        document.periods = self.list(
            root,
            "ContentKeyPeriodList",
            "ContentKeyPeriod",
            Self::period,
        );
        document.rules = self.list(
            root,
            "ContentKeyUsageRuleList",
            "ContentKeyUsageRule",
            Self::usage_rule,
        );
        document
    }

    /// The members of a list. The list may be missing, but not be empty.
    fn list<T>(
        &mut self,
        root: &Cursor<'_>,
        list: &str,
        member: &str,
        read: fn(&mut Self, &Cursor<'_>) -> Option<T>,
    ) -> Vec<T> {
        let Some(list) = root.one(CPIX, list, &mut self.faults) else {
            return Vec::new();
        };
        let mut members = list.all(CPIX, member).peekable();
        if members.peek().is_none() {
            list.fault(&mut self.faults, format!("{member} is missing"));
        }
        members.filter_map(|cursor| read(self, &cursor)).collect()
    }

    fn delivery(&mut self, cursor: &Cursor<'_>) -> Option<Delivery> {
        let certificate = self.certificate(cursor);
        let document_keys: Vec<_> = cursor
            .all(CPIX, "DocumentKey")
            .map(|key| self.document_key(&key))
            .collect();
        let mac_key = cursor
            .one(CPIX, "MACMethod", &mut self.faults)
            .map(|method| self.mac_key(&method));
        if document_keys.len() > 1 {
            for (key, cursor) in document_keys.iter().zip(cursor.all(CPIX, "DocumentKey")) {
                if key.as_ref().is_some_and(|key| key.encrypts.is_empty()) {
                    let reason = "with several document keys, each says what it encrypts";
                    cursor.attribute_fault("encryptsKey", &mut self.faults, reason);
                }
            }
        }
        Some(Delivery {
            id: cursor.attribute("id").map(str::to_owned),
            name: cursor.attribute("name").map(str::to_owned),
            certificate: certificate?,
            document_keys: document_keys.into_iter().collect::<Option<_>>()?,
            mac_key: match mac_key {
                Some(key) => Some(key?),
                None => None,
            },
        })
    }

    fn certificate(&mut self, delivery: &Cursor<'_>) -> Option<Certificate> {
        let key = delivery.required(CPIX, "DeliveryKey", &mut self.faults)?;
        let data = key.required(DS, "X509Data", &mut self.faults)?;
        let text = data.required(DS, "X509Certificate", &mut self.faults)?;
        let der = self.base64(&text)?;
        match Certificate::from_der(&der) {
            Ok(certificate) => Some(certificate),
            Err(error) => {
                text.fault(&mut self.faults, error.to_string());
                None
            }
        }
    }

    fn document_key(&mut self, cursor: &Cursor<'_>) -> Option<DocumentKey> {
        let mut encrypts = Vec::new();
        for id in cursor
            .attribute("encryptsKey")
            .unwrap_or_default()
            .split_ascii_whitespace()
        {
            match key_id(id) {
                Ok(id) => encrypts.push(id),
                Err(error) => {
                    cursor.attribute_fault("encryptsKey", &mut self.faults, error.to_string());
                }
            }
        }
        let data = cursor.required(CPIX, "Data", &mut self.faults)?;
        let secret = data.required(PSKC, "Secret", &mut self.faults)?;
        let value = secret.required(PSKC, "EncryptedValue", &mut self.faults)?;
        let wrapped = self.encrypted(&value, algorithm::RSA_OAEP)?;
        Some(DocumentKey { encrypts, wrapped })
    }

    /// `pskc:MACKey`. Key servers in the field have `Key/EncryptedValue` in its place.
    fn mac_key(&mut self, cursor: &Cursor<'_>) -> Option<Vec<u8>> {
        self.algorithm(cursor, algorithm::HMAC_SHA512)?;
        if let Some(key) = cursor.one(PSKC, "MACKey", &mut self.faults) {
            return self.encrypted(&key, algorithm::RSA_OAEP);
        }
        let key = (cursor.children()).find(|child| child.element().local == "Key");
        let Some(key) = key else {
            cursor.fault(&mut self.faults, "MACKey is missing");
            return None;
        };
        let value = key.required(PSKC, "EncryptedValue", &mut self.faults)?;
        self.encrypted(&value, algorithm::RSA_OAEP)
    }

    /// The `CipherValue` of an `xenc:EncryptedDataType`.
    fn encrypted(&mut self, cursor: &Cursor<'_>, algorithm: &str) -> Option<Vec<u8>> {
        let method = cursor.required(ENC, "EncryptionMethod", &mut self.faults)?;
        self.algorithm(&method, algorithm)?;
        if let Some(digest) = method.one(DS, "DigestMethod", &mut self.faults) {
            self.algorithm(&digest, algorithm::SHA1)?;
        }
        let data = cursor.required(ENC, "CipherData", &mut self.faults)?;
        let value = data.required(ENC, "CipherValue", &mut self.faults)?;
        self.base64(&value)
    }

    fn algorithm(&mut self, cursor: &Cursor<'_>, expected: &str) -> Option<()> {
        if cursor.attribute("Algorithm") == Some(expected) {
            return Some(());
        }
        let reason = format!("the algorithm here is {expected}");
        cursor.attribute_fault("Algorithm", &mut self.faults, reason);
        None
    }

    fn key(&mut self, cursor: &Cursor<'_>) -> Option<Key> {
        let key_id = self.uuid(cursor, "kid");
        let depends_on = match cursor.attribute("dependsOnKey") {
            Some(_) => self.uuid(cursor, "dependsOnKey"),
            None => None,
        };
        let explicit_iv = cursor.attribute("explicitIV").and_then(|text| {
            let iv = decode(text).and_then(|bytes| bytes.as_slice().try_into().ok());
            if iv.is_none() {
                let reason = "an IV is base64 of 16 bytes";
                cursor.attribute_fault("explicitIV", &mut self.faults, reason);
            }
            iv.map(ConstantIv::new)
        });
        let hdcp = cursor
            .one(CPIX, "HDCPData", &mut self.faults)
            .map(|hdcp| self.hdcp(&hdcp));
        let secret = match cursor.one(CPIX, "Data", &mut self.faults) {
            Some(data) => self.secret(&data)?,
            None => Secret::Absent,
        };
        Some(Key {
            key_id: key_id?,
            explicit_iv,
            scheme: self.scheme(cursor),
            content_id: cursor.attribute("contentId").map(str::to_owned),
            depends_on,
            hdcp,
            secret,
        })
    }

    fn scheme(&mut self, cursor: &Cursor<'_>) -> Option<EncryptionScheme> {
        let text = cursor.attribute("commonEncryptionScheme")?;
        let scheme = EncryptionScheme::read(text)
            .filter(|it| it.is_common_encryption() || self.version == Version::V2_4);
        if scheme.is_none() {
            let reason = match self.version {
                Version::V2_0 | Version::V2_3 => "the schemes are cenc, cbc1, cens and cbcs",
                Version::V2_4 => {
                    "the schemes are cenc, cbc1, cens and cbcs, AES-128, SAMPLE-AES and SAMPLE-AES-CTR"
                }
            };
            cursor.attribute_fault("commonEncryptionScheme", &mut self.faults, reason);
        }
        scheme
    }

    fn hdcp(&mut self, cursor: &Cursor<'_>) -> Hdcp {
        let output = cursor.one(CPIX, "HDCPOutputProtectionData", &mut self.faults);
        Hdcp {
            hls_level: cursor.attribute("HLSHDCPLevel").map(str::to_owned),
            output_protection: output.and_then(|it| self.base64_text(&it)),
        }
    }

    fn secret(&mut self, data: &Cursor<'_>) -> Option<Secret> {
        let secret = data.required(PSKC, "Secret", &mut self.faults)?;
        let clear = secret.one(PSKC, "PlainValue", &mut self.faults);
        let encrypted = secret.one(PSKC, "EncryptedValue", &mut self.faults);
        match (clear, encrypted) {
            (Some(clear), None) => {
                let key = decode_key(clear.text());
                if key.is_none() {
                    clear.fault(&mut self.faults, "a content key is base64 of 16 bytes");
                }
                key.map(Secret::Clear)
            }
            (None, Some(value)) => {
                let stated = value.one(ENC, "EncryptionMethod", &mut self.faults);
                let stated =
                    stated.and_then(|method| method.attribute("Algorithm").map(str::to_owned));
                // What is neither is refused as what it should be.
                let cipher = (KeyCipher::ALL.into_iter())
                    .find(|cipher| stated.as_deref() == Some(cipher.algorithm()))
                    .unwrap_or_default();
                let cipher_value = self.encrypted(&value, cipher.algorithm())?;
                let mac = match secret.one(PSKC, "ValueMAC", &mut self.faults) {
                    Some(mac) => Some(self.base64(&mac)?),
                    None => None,
                };
                Some(Secret::Encrypted(EncryptedValue {
                    cipher,
                    cipher_value,
                    mac,
                }))
            }
            _ => {
                let reason = "a secret is a PlainValue or an EncryptedValue";
                secret.fault(&mut self.faults, reason);
                None
            }
        }
    }

    fn system(&mut self, cursor: &Cursor<'_>) -> Option<System> {
        let key_id = self.uuid(cursor, "kid");
        let system_id = self.uuid(cursor, "systemId");
        let pssh = cursor.one(CPIX, "PSSH", &mut self.faults);
        let pssh = pssh.map(|it| self.base64(&it).unwrap_or_default());
        let content_protection = cursor
            .one(CPIX, "ContentProtectionData", &mut self.faults)
            .map(|it| ContentProtection {
                fragment: self.base64_text(&it).unwrap_or_default(),
                robustness: it.attribute("robustness").map(str::to_owned),
            });
        let smooth_streaming = cursor
            .one(
                CPIX,
                "SmoothStreamingProtectionHeaderData",
                &mut self.faults,
            )
            .map(|it| it.text().to_owned());
        let hls = self.hls(cursor);
        let legacy = Legacy {
            uri_ext_x_key: self.optional_text(cursor, CPIX, "URIExtXKey"),
            key_format: self.optional_text(cursor, SPEKE, "KeyFormat"),
            key_format_versions: self.optional_text(cursor, SPEKE, "KeyFormatVersions"),
            protection_header: cursor
                .one(SPEKE, "ProtectionHeader", &mut self.faults)
                .map(|it| it.text().to_owned()),
        };
        Some(System {
            name: cursor.attribute("name").map(str::to_owned),
            hls_allowed_cpc: cursor.attribute("HLSAllowedCPC").map(str::to_owned),
            pssh,
            content_protection,
            hls,
            smooth_streaming,
            legacy,
            ..System::new(SystemId::new(*system_id?.as_bytes()), key_id?)
        })
    }

    fn hls(&mut self, system: &Cursor<'_>) -> Vec<HlsSignaling> {
        let mut all: Vec<HlsSignaling> = Vec::new();
        for cursor in system.all(CPIX, "HLSSignalingData") {
            let Some(playlist) = Playlist::read(cursor.attribute("playlist"), self.version) else {
                let word = Playlist::Multivariant.as_str(self.version);
                let reason = format!("the playlist is 'media' or '{word}'");
                cursor.attribute_fault("playlist", &mut self.faults, reason);
                continue;
            };
            if all.iter().any(|other| other.playlist == playlist) {
                let reason = "each playlist has one HLSSignalingData";
                cursor.attribute_fault("playlist", &mut self.faults, reason);
                continue;
            }
            let lines = self.base64_text(&cursor).unwrap_or_default();
            all.push(HlsSignaling { playlist, lines });
        }
        all
    }

    fn optional_text(
        &mut self,
        cursor: &Cursor<'_>,
        namespace: Namespace,
        name: &str,
    ) -> Option<String> {
        let element = cursor.one(namespace, name, &mut self.faults)?;
        self.base64_text(&element)
    }

    fn period(&mut self, cursor: &Cursor<'_>) -> Option<Period> {
        let text = |name| cursor.attribute(name).map(str::to_owned);
        let period = Period {
            id: text("id"),
            index: self.number(cursor, "index"),
            label: text("label"),
            start: text("start"),
            end: text("end"),
            start_offset: text("startOffset"),
            end_offset: text("endOffset"),
            duration: text("duration"),
        };
        if let Err((attribute, reason)) = period.check() {
            cursor.attribute_fault(attribute, &mut self.faults, reason);
        }
        Some(period)
    }

    fn usage_rule(&mut self, cursor: &Cursor<'_>) -> Option<UsageRule> {
        let key_id = self.uuid(cursor, "kid");
        let filters = cursor
            .children()
            .filter_map(|child| self.filter(&child))
            .collect();
        Some(UsageRule {
            key_id: key_id?,
            intended_track_type: cursor.attribute("intendedTrackType").map(str::to_owned),
            filters,
        })
    }

    fn filter(&mut self, cursor: &Cursor<'_>) -> Option<Filter> {
        let element = cursor.element();
        let name = element.local.as_str();
        if !element.is(CPIX, name) {
            return Some(Filter::Unknown(name.to_owned()));
        }
        Some(match name {
            "KeyPeriodFilter" => Filter::KeyPeriod(self.required(cursor, "periodId")?),
            "LabelFilter" => Filter::Label(self.required(cursor, "label")?),
            "VideoFilter" => {
                let filter = VideoFilter {
                    min_pixels: self.number(cursor, "minPixels"),
                    max_pixels: self.number(cursor, "maxPixels"),
                    hdr: self.boolean(cursor, "hdr"),
                    wcg: self.boolean(cursor, "wcg"),
                    min_fps: self.number(cursor, "minFps"),
                    max_fps: self.number(cursor, "maxFps"),
                };
                self.ordered(cursor, "maxPixels", filter.min_pixels, filter.max_pixels);
                self.ordered(cursor, "maxFps", filter.min_fps, filter.max_fps);
                Filter::Video(filter)
            }
            "AudioFilter" => {
                let filter = AudioFilter {
                    min_channels: self.number(cursor, "minChannels"),
                    max_channels: self.number(cursor, "maxChannels"),
                };
                self.ordered(
                    cursor,
                    "maxChannels",
                    filter.min_channels,
                    filter.max_channels,
                );
                Filter::Audio(filter)
            }
            "BitrateFilter" => {
                let filter = BitrateFilter {
                    min_bitrate: self.number(cursor, "minBitrate"),
                    max_bitrate: self.number(cursor, "maxBitrate"),
                };
                self.ordered(cursor, "maxBitrate", filter.min_bitrate, filter.max_bitrate);
                Filter::Bitrate(filter)
            }
            _ => Filter::Unknown(name.to_owned()),
        })
    }

    fn ordered(&mut self, cursor: &Cursor<'_>, name: &str, min: Option<u32>, max: Option<u32>) {
        if let (Some(min), Some(max)) = (min, max)
            && min > max
        {
            cursor.attribute_fault(name, &mut self.faults, "nothing lies between these bounds");
        }
    }

    fn required(&mut self, cursor: &Cursor<'_>, name: &str) -> Option<String> {
        let value = cursor.attribute(name);
        if value.is_none() {
            cursor.attribute_fault(name, &mut self.faults, "the attribute is missing");
        }
        value.map(str::to_owned)
    }

    fn uuid(&mut self, cursor: &Cursor<'_>, name: &str) -> Option<KeyId> {
        let text = self.required(cursor, name)?;
        match key_id(&text) {
            Ok(id) => Some(id),
            Err(error) => {
                cursor.attribute_fault(name, &mut self.faults, error.to_string());
                None
            }
        }
    }

    fn number(&mut self, cursor: &Cursor<'_>, name: &str) -> Option<u32> {
        let text = cursor.attribute(name)?;
        let number = text.trim_ascii().parse().ok();
        if number.is_none() {
            let reason = format!("a number from 0 to {}", u32::MAX);
            cursor.attribute_fault(name, &mut self.faults, reason);
        }
        number
    }

    fn boolean(&mut self, cursor: &Cursor<'_>, name: &str) -> Option<bool> {
        match cursor.attribute(name)?.trim_ascii() {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => {
                cursor.attribute_fault(name, &mut self.faults, "'true' or 'false'");
                None
            }
        }
    }

    fn base64(&mut self, cursor: &Cursor<'_>) -> Option<Vec<u8>> {
        let bytes = decode(cursor.text());
        if bytes.is_none() {
            cursor.fault(&mut self.faults, "the text is not base64");
        }
        bytes.map(|bytes| bytes.to_vec())
    }

    fn base64_text(&mut self, cursor: &Cursor<'_>) -> Option<String> {
        let text = String::from_utf8(self.base64(cursor)?).ok();
        if text.is_none() {
            cursor.fault(&mut self.faults, "the base64 is not of UTF-8 text");
        }
        text
    }
}
