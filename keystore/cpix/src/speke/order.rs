use keystore_types::{ConstantIv, KeyId};

use super::{CONTENT_TYPE, Headers, Request, SpekeVersion, VERSION_HEADER};
use crate::delivery::{Delivery, RecipientKey};
use crate::document::{self, ContentProtection, Document, HlsSignaling, Key, System};
use crate::error::Error;
use crate::identity::{EncryptionScheme, Playlist, SystemId};
use crate::period::Period;
use crate::usage::{Filter, UsageRule};
use crate::xml::{self, Limits};

use super::Usage;

/// What is asked of somebody else's key server: the encryptor's half of SPEKE.
pub struct Order<'a> {
    /// The version that the server speaks.
    pub version: SpekeVersion,
    /// The content, as the server is to name it.
    pub content_id: String,
    /// The keys: each id once. SPEKE 1.0 has one.
    pub keys: Vec<OrderedKey>,
    /// The systems to signal, each for every key.
    pub systems: Vec<SystemId>,
    /// The recipient of encrypted keys: then an answer in the clear is refused. `None` asks for clear keys.
    pub recipient: Option<&'a dyn RecipientKey>,
}

/// A key to ask for.
#[derive(Clone, Debug)]
pub struct OrderedKey {
    /// Its id, which the encryptor chooses. The same id for the same content gets the same key.
    pub key_id: KeyId,
    /// The scheme it is for. SPEKE 1.0 does not transmit it.
    pub scheme: EncryptionScheme,
    /// The IV that is going to be used, where the server must know.
    pub explicit_iv: Option<ConstantIv>,
    /// The tracks it is for. SPEKE 1.0 does not transmit them.
    pub usage: Usage,
    /// When it is used; none for always. Its `id` names it, and is given if it is missing.
    pub period: Option<Period>,
}

/// A request to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderRequest {
    /// Names and values.
    pub headers: Vec<(&'static str, &'static str)>,
    /// The document. It holds no secret.
    pub body: String,
}

impl Order<'_> {
    /// The request to POST.
    ///
    /// # Errors
    /// What [`Request::read`] finds wrong with it: an order that breaks the contract is not sent.
    pub fn request(&self) -> Result<OrderRequest, Error> {
        let body = xml::write(&document::to_element(&self.document()));
        let headers = Headers {
            content_type: Some(CONTENT_TYPE),
            speke_version: self.version.header(),
        };
        Request::read(&headers, body.as_bytes(), &Limits::default())?;
        let version = self
            .version
            .header()
            .map(|version| (VERSION_HEADER, version));
        Ok(OrderRequest {
            headers: std::iter::once(("Content-Type", CONTENT_TYPE))
                .chain(version)
                .collect(),
            body: body.to_string(),
        })
    }

    fn document(&self) -> Document {
        let mut document = Document::new(self.version.cpix());
        let is_v1 = self.version == SpekeVersion::V1_0;
        let content_id = Some(self.content_id.clone());
        if is_v1 {
            document.id = content_id;
        } else {
            document.content_id = content_id;
        }
        document.deliveries = (self.recipient.iter())
            .map(|recipient| Delivery {
                id: None,
                name: None,
                certificate: recipient.certificate().clone(),
                document_keys: Vec::new(),
                mac_key: None,
            })
            .collect();
        for ordered in &self.keys {
            document.keys.push(Key {
                explicit_iv: ordered.explicit_iv,
                scheme: (!is_v1).then_some(ordered.scheme),
                ..Key::new(ordered.key_id)
            });
            let period = ordered.period.as_ref().map(|period| {
                let mut period = period.clone();
                // An xs:ID begins with a letter.
                let number = document.periods.len();
                let id = period
                    .id
                    .get_or_insert_with(|| format!("period-{number}"))
                    .clone();
                if !document
                    .periods
                    .iter()
                    .any(|it| it.id.as_ref() == Some(&id))
                {
                    document.periods.push(period);
                }
                Filter::KeyPeriod(id)
            });
            if !is_v1 || period.is_some() {
                let usage = &ordered.usage;
                let filters = if is_v1 { &[] } else { usage.filters.as_slice() };
                document.rules.push(UsageRule {
                    key_id: ordered.key_id,
                    intended_track_type: (!is_v1).then(|| usage.intended_track_type.clone()),
                    filters: period.into_iter().chain(filters.iter().cloned()).collect(),
                });
            }
        }
        for system_id in &self.systems {
            for ordered in &self.keys {
                document.systems.push(self.asked(*system_id, ordered));
            }
        }
        document
    }

    /// The signalling that a system has, to be filled.
    pub(super) fn asked(&self, system_id: SystemId, ordered: &OrderedKey) -> System {
        let empty = || Some(String::new());
        let hls_only = [
            SystemId::FAIRPLAY,
            SystemId::HLS_AES_128,
            SystemId::HLS_SAMPLE_AES,
            SystemId::SPEKE_V1_AES_128,
        ]
        .contains(&system_id);
        let clear_key = system_id == SystemId::CLEAR_KEY;
        let mut system = System::new(system_id, ordered.key_id);
        if !hls_only && !clear_key {
            system.pssh = Some(Vec::new());
        }
        if self.version == SpekeVersion::V1_0 {
            if hls_only {
                system.legacy.uri_ext_x_key = empty();
                system.legacy.key_format = empty();
                system.legacy.key_format_versions = empty();
            }
            return system;
        }
        if !hls_only {
            system.content_protection = Some(ContentProtection {
                fragment: String::new(),
                robustness: None,
            });
        }
        if ordered.scheme.hls_method().is_some() && system_id != SystemId::COMMON {
            let playlists = [Playlist::Media, Playlist::Multivariant];
            system.hls = playlists
                .map(|playlist| HlsSignaling {
                    playlist,
                    lines: String::new(),
                })
                .into();
        }
        system
    }
}

impl std::fmt::Debug for Order<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Order")
            .field("version", &self.version)
            .field("content_id", &self.content_id)
            .field("keys", &self.keys)
            .field("systems", &self.systems)
            .field("recipient", &self.recipient.map(|it| it.certificate()))
            .finish()
    }
}
