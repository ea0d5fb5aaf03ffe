use std::collections::HashMap;

use keystore_types::{ConstantIv, ContentKey, KeyId};
use ring::rand::SecureRandom;
use zeroize::Zeroizing;

use super::{CONTENT_TYPE, Request, SpekeVersion, VERSION_HEADER};
use crate::delivery::{Certificate, DocumentKey, Envelope, KeyCipher};
use crate::document::{
    Hdcp, Secret, document_key_element, hdcp_element, key_data_element, mac_method_element,
};
use crate::encoding::encode;
use crate::error::{Error, ErrorKind, Faults};
use crate::identity::{EncryptionScheme, Playlist, SystemId};
use crate::signalling::{SignalledKey, Signalling, Signals};
use crate::xml::namespace::{CPIX, DS, PSKC, SPEKE};
use crate::xml::{self, Cursor, Element};

/// Under which conditions keys may leave for a caller.
#[derive(Clone, Copy)]
pub struct Release<'a> {
    /// The certificates that an operator enrolled for this caller.
    pub enrolled: &'a [Certificate],
    /// The time, in seconds of the Unix epoch: an expired certificate receives nothing.
    pub now: u64,
    /// For document keys and IVs.
    pub random: &'a (dyn SecureRandom + Sync),
    /// What content keys are encrypted with, under the document key.
    pub key_cipher: KeyCipher,
    /// Answer in the clear where a request names no recipient. Then the keys are as safe as the transport.
    pub danger_clear: bool,
    /// Encrypt to certificates merely because they came with the request. Then encryption hides the keys from the
    /// network between, and from nobody who may send requests.
    pub danger_unenrolled: bool,
}

impl<'a> Release<'a> {
    /// Encrypted, and to enrolled certificates alone.
    pub const fn enrolled(
        enrolled: &'a [Certificate],
        now: u64,
        random: &'a (dyn SecureRandom + Sync),
    ) -> Self {
        Self {
            enrolled,
            now,
            random,
            key_cipher: KeyCipher::AesCbc,
            danger_clear: false,
            danger_unenrolled: false,
        }
    }

    fn admit(&self, request: &Request) -> Result<(), Error> {
        if request.document.deliveries.is_empty() && !self.danger_clear {
            let reason = "the request names no recipient, and keys in the clear are not switched on: enrol the \
                          encryptor's certificate, and let it send that in DeliveryDataList";
            return Err(Error::new(ErrorKind::Denied, reason));
        }
        for certificate in request.certificates() {
            if !self.danger_unenrolled && !self.enrolled.contains(certificate) {
                let fingerprint = certificate.fingerprint();
                let reason =
                    format!("the certificate {fingerprint} is not enrolled for this caller");
                return Err(Error::new(ErrorKind::Denied, reason));
            }
            certificate.check_valid_at(self.now)?;
        }
        Ok(())
    }
}

/// A key that the keystore gave for a request.
#[derive(Clone, Copy, Debug)]
pub struct IssuedKey<'a> {
    /// Its id.
    pub key_id: KeyId,
    /// The key.
    pub key: &'a ContentKey,
    /// Its IV, where it has one. One that the encryptor stated stands.
    pub explicit_iv: Option<ConstantIv>,
    /// Its output protection. SPEKE 2.1.
    pub hdcp: Option<&'a Hdcp>,
}

/// A request about which everything is decided but its keys: the moment to lease them. It may wait for them on
/// another thread.
#[derive(Debug)]
pub struct Prepared<'a> {
    request: &'a Request,
    /// One for each `DRMSystem`.
    systems: Vec<Filling>,
    /// For the recipients; none for an answer in the clear.
    encryption: Option<Encryption<'a>>,
}

struct Encryption<'a> {
    envelope: Envelope,
    /// One for each `DeliveryData`.
    wrapped: Vec<(Vec<u8>, Vec<u8>)>,
    key_cipher: KeyCipher,
    random: &'a (dyn SecureRandom + Sync),
}

impl std::fmt::Debug for Encryption<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Encryption(..)")
    }
}

/// The texts for the empty elements of one `DRMSystem`.
#[derive(Debug, Default)]
struct Filling {
    signals: Signals,
    media: Option<String>,
    multivariant: Option<String>,
}

/// An answer.
#[derive(Debug)]
pub struct Response {
    version: SpekeVersion,
    /// The document, which holds keys: wiped when dropped.
    pub body: Zeroizing<String>,
}

impl Request {
    /// Decides everything that does not need a key, so that no key is made or leased for a request that is then
    /// refused.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`] by `release`; [`ErrorKind::Unsupported`] for systems that `signalling` does not know,
    /// each with its place; [`ErrorKind::Unavailable`] without randomness.
    pub fn prepare<'a>(
        &'a self,
        signalling: &dyn Signalling,
        release: &Release<'a>,
    ) -> Result<Prepared<'a>, Error> {
        release.admit(self)?;
        let systems = self.fillings(signalling)?;
        let encryption = match self.document.deliveries.as_slice() {
            [] => None,
            deliveries => {
                let envelope = Envelope::new(release.random)?;
                let wrap = |delivery: &crate::delivery::Delivery| {
                    envelope.wrap(&delivery.certificate, release.random)
                };
                Some(Encryption {
                    wrapped: deliveries.iter().map(wrap).collect::<Result<_, Error>>()?,
                    envelope,
                    key_cipher: release.key_cipher,
                    random: release.random,
                })
            }
        };
        Ok(Prepared {
            request: self,
            systems,
            encryption,
        })
    }

    fn fillings(&self, signalling: &dyn Signalling) -> Result<Vec<Filling>, Error> {
        let keys = self.document.keys.iter();
        let keys: HashMap<KeyId, _> = keys.map(|key| (key.key_id, key)).collect();
        let root = Cursor::root(&self.root);
        let mut faults = Faults::default();
        let mut fillings = Vec::new();
        for list in root.all(CPIX, "DRMSystemList") {
            let cursors = list.all(CPIX, "DRMSystem");
            for (system, cursor) in self.document.systems.iter().zip(cursors) {
                // The contract has seen to it that the key is there.
                let key = keys.get(&system.key_id);
                let scheme = key.and_then(|key| key.scheme);
                let signalled = SignalledKey {
                    content_id: self.content_id(),
                    key_id: system.key_id,
                    scheme,
                    explicit_iv: key.and_then(|key| key.explicit_iv),
                };
                let Some(signals) = signalling.signals(system.system_id, &signalled) else {
                    let reason = format!("the system {} is not served", system.system_id);
                    cursor.attribute_fault("systemId", &mut faults, reason);
                    continue;
                };
                let scheme = scheme.unwrap_or_else(|| usual_scheme(system.system_id));
                let tag = |playlist| signals.hls.as_ref()?.tag(playlist, scheme);
                let media = tag(Playlist::Media);
                if media.is_none() && signals.hls.is_some() && !system.hls.is_empty() {
                    let reason = format!("HLS has no key tag for the scheme {scheme}");
                    cursor.attribute_fault("systemId", &mut faults, reason);
                }
                fillings.push(Filling {
                    media,
                    multivariant: tag(Playlist::Multivariant),
                    signals,
                });
            }
        }
        faults.check(ErrorKind::Unsupported)?;
        Ok(fillings)
    }
}

/// SPEKE 1.0 does not state schemes.
fn usual_scheme(system: SystemId) -> EncryptionScheme {
    match system {
        SystemId::FAIRPLAY | SystemId::HLS_SAMPLE_AES => EncryptionScheme::Cbcs,
        SystemId::HLS_AES_128 | SystemId::SPEKE_V1_AES_128 => EncryptionScheme::HlsAes128,
        _ => EncryptionScheme::Cenc,
    }
}

impl Prepared<'_> {
    /// The ids of the keys to bring, in the order of the request.
    pub fn key_ids(&self) -> impl Iterator<Item = KeyId> {
        self.request.document.keys.iter().map(|key| key.key_id)
    }

    /// Fills the request with its keys. Everything else in it comes back as it was, save what SPEKE has not:
    /// signatures, which would no longer be true, and from 2.0 on `CPIX@id`.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`] if `keys` are not exactly those that were asked for.
    pub fn respond(&self, keys: &[IssuedKey<'_>]) -> Result<Response, Error> {
        let issued = self.check(keys)?;
        let version = self.request.version;
        let mut root = self.request.root.clone();
        if version > SpekeVersion::V1_0 {
            root.attributes.retain(|attribute| attribute.name != "id");
        }
        root.children.retain(|child| !child.is(DS, "Signature"));
        if !root.declarations.iter().any(|(_, it)| **it == *PSKC.0)
            && !root
                .declarations
                .iter()
                .any(|(prefix, _)| **prefix == *PSKC.1)
        {
            root = root.declaring(PSKC);
        }
        for list in &mut root.children {
            if list.is(CPIX, "ContentKeyList") {
                let document = self.request.document.keys.iter();
                for (element, key) in members(list, "ContentKey").zip(document) {
                    if let Some(issued) = issued.get(&key.key_id) {
                        self.fill_key(element, issued)?;
                    }
                }
            } else if list.is(CPIX, "DRMSystemList") {
                for (element, filling) in members(list, "DRMSystem").zip(&self.systems) {
                    filling.fill(element, version);
                }
            } else if list.is(CPIX, "DeliveryDataList")
                && let Some(encryption) = &self.encryption
            {
                for (element, wrapped) in members(list, "DeliveryData").zip(&encryption.wrapped) {
                    fill_delivery(element, wrapped, version);
                }
            }
        }
        Ok(Response {
            version,
            body: xml::write(&root),
        })
    }

    fn check<'k>(
        &self,
        keys: &'k [IssuedKey<'k>],
    ) -> Result<HashMap<KeyId, &'k IssuedKey<'k>>, Error> {
        let mismatch = |reason: String| Err(Error::new(ErrorKind::Mismatch, reason));
        let issued: HashMap<_, _> = keys.iter().map(|key| (key.key_id, key)).collect();
        if issued.len() < keys.len() {
            return mismatch("a key was brought twice".to_owned());
        }
        let mut asked = 0_usize;
        for key_id in self.key_ids() {
            if !issued.contains_key(&key_id) {
                return mismatch(format!("key {key_id} was asked for and not brought"));
            }
            asked += 1;
        }
        if issued.len() > asked {
            return mismatch("a key was brought that was not asked for".to_owned());
        }
        Ok(issued)
    }

    fn fill_key(&self, element: &mut Element, issued: &IssuedKey<'_>) -> Result<(), Error> {
        if element.attribute("explicitIV").is_none()
            && let Some(iv) = issued.explicit_iv
        {
            element.set("explicitIV", &encode(iv.as_bytes()));
        }
        if self.request.version >= SpekeVersion::V2_1
            && let Some(hdcp) = issued.hdcp
        {
            element.children.retain(|child| !child.is(CPIX, "HDCPData"));
            element.children.insert(0, hdcp_element(hdcp));
        }
        let data = match &self.encryption {
            None => {
                // One copy more, which is wiped as the other is.
                let mut bytes = *issued.key.expose();
                key_data_element(&Secret::Clear(ContentKey::take(&mut bytes)))
            }
            Some(Encryption {
                envelope,
                key_cipher,
                random,
                ..
            }) => {
                let value = envelope.encrypt(issued.key, *key_cipher, *random)?;
                key_data_element(&Secret::Encrypted(value))
            }
        };
        element.children.extend(data);
        Ok(())
    }
}

/// The members of a list, in their order.
fn members<'a>(list: &'a mut Element, name: &'a str) -> impl Iterator<Item = &'a mut Element> {
    list.children.iter_mut().filter(move |it| it.is(CPIX, name))
}

fn fill_delivery(element: &mut Element, wrapped: &(Vec<u8>, Vec<u8>), version: SpekeVersion) {
    let (document_key, mac_key) = wrapped;
    let document_key = DocumentKey {
        encrypts: Vec::new(),
        wrapped: document_key.clone(),
    };
    // The schema has them right behind the certificate.
    let key = |child: &Element| child.is(CPIX, "DeliveryKey");
    let at = element.children.iter().position(key).map_or(0, |at| at + 1);
    let made = [
        document_key_element(&document_key, version.cpix()),
        mac_method_element(mac_key),
    ];
    element.children.splice(at..at, made);
}

impl Filling {
    fn fill(&self, element: &mut Element, version: SpekeVersion) {
        let signals = &self.signals;
        let text = |text: &Option<String>| text.as_ref().map(|text| encode(text.as_bytes()));
        let bytes = |bytes: &Option<Vec<u8>>| bytes.as_ref().map(|bytes| encode(bytes));
        let hls = signals.hls.as_ref();
        if version >= SpekeVersion::V2_1
            && let Some(cpc) = &signals.hls_allowed_cpc
        {
            element.set("HLSAllowedCPC", cpc);
        }
        for child in &mut element.children {
            let filled = if child.is(CPIX, "PSSH") {
                bytes(&signals.pssh)
            } else if child.is(CPIX, "ContentProtectionData") {
                if version >= SpekeVersion::V2_1
                    && let Some(robustness) = &signals.robustness
                {
                    child.set("robustness", robustness);
                }
                text(&signals.content_protection)
            } else if child.is(CPIX, "HLSSignalingData") {
                let playlist = child.attribute("playlist").map(|it| it.value.as_str());
                match Playlist::read(playlist, version.cpix()) {
                    Some(Playlist::Media) => text(&self.media),
                    Some(Playlist::Multivariant) => text(&self.multivariant),
                    None => None,
                }
            } else if child.is(CPIX, "SmoothStreamingProtectionHeaderData")
                || child.is(SPEKE, "ProtectionHeader")
            {
                bytes(&signals.playready_object)
            } else if child.is(CPIX, "URIExtXKey") {
                hls.map(|hls| encode(hls.uri.as_bytes()))
            } else if child.is(SPEKE, "KeyFormat") {
                hls.map(|hls| encode(hls.key_format.as_bytes()))
            } else if child.is(SPEKE, "KeyFormatVersions") {
                hls.map(|hls| encode(hls.key_format_versions.as_bytes()))
            } else {
                None
            };
            if child.is_empty()
                && let Some(filled) = filled
            {
                child.text = filled.into();
            }
        }
    }
}

impl Response {
    /// Names and values of the headers; `server` is the name that the key server goes by.
    pub fn headers(&self, server: &str) -> Vec<(&'static str, String)> {
        let mut headers = vec![
            ("Content-Type", CONTENT_TYPE.to_owned()),
            (self.version.user_agent_header(), server.to_owned()),
        ];
        if let Some(version) = self.version.header() {
            headers.push((VERSION_HEADER, version.to_owned()));
        }
        headers
    }
}
