//! A CPIX document as values. See the crate's documentation for the picture.

mod read;
mod write;

use keystore_types::{ConstantIv, ContentKey, KeyId};
use zeroize::Zeroizing;

pub(crate) use read::from_element;
pub(crate) use write::{
    document_key_element, hdcp_element, key_data_element, mac_method_element, to_element,
};

use crate::delivery::{Delivery, EncryptedValue};
use crate::error::{Error, ErrorKind};
use crate::identity::{EncryptionScheme, Playlist, SystemId, Version};
use crate::period::Period;
use crate::usage::{self, MappingError, Track, UsageRule};
use crate::xml::{self, Reading};

/// A CPIX document (2.0, 2.3 and 2.4).
///
/// Read are the elements and attributes below; others are skipped, among them `HDSSignalingData`,
/// `UpdateHistoryItemList` and `@updateVersion`. Signatures are counted and not verified: whom a document comes from
/// is known from its transport.
#[derive(Debug)]
pub struct Document {
    /// `@version`.
    pub version: Version,
    /// `@id`.
    pub id: Option<String>,
    /// `@contentId`.
    pub content_id: Option<String>,
    /// `@name`.
    pub name: Option<String>,
    /// `DeliveryDataList`: for whom keys are encrypted.
    pub deliveries: Vec<Delivery>,
    /// `ContentKeyList`.
    pub keys: Vec<Key>,
    /// `DRMSystemList`.
    pub systems: Vec<System>,
    /// `ContentKeyPeriodList`.
    pub periods: Vec<Period>,
    /// `ContentKeyUsageRuleList`.
    pub rules: Vec<UsageRule>,
    /// How many signatures there were when it was read. They are not written.
    pub signatures: usize,
}

/// `ContentKey`.
#[derive(Debug)]
pub struct Key {
    /// `@kid`.
    pub key_id: KeyId,
    /// `@explicitIV`.
    pub explicit_iv: Option<ConstantIv>,
    /// `@commonEncryptionScheme`.
    pub scheme: Option<EncryptionScheme>,
    /// `@contentId`, where the document has none (2.4).
    pub content_id: Option<String>,
    /// `@dependsOnKey`: the root key of this leaf key.
    pub depends_on: Option<KeyId>,
    /// `HDCPData` (2.4).
    pub hdcp: Option<Hdcp>,
    /// `Data`.
    pub secret: Secret,
}

/// What a document holds of a key.
#[derive(Debug)]
pub enum Secret {
    /// Nothing: a request.
    Absent,
    /// The key.
    Clear(ContentKey),
    /// The key, for the recipients of the document.
    Encrypted(EncryptedValue),
}

/// `HDCPData`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hdcp {
    /// `@HLSHDCPLevel`: `HDCP-LEVEL` of `EXT-X-STREAM-INF`.
    pub hls_level: Option<String>,
    /// `HDCPOutputProtectionData`: an XML fragment for the MPD.
    pub output_protection: Option<String>,
}

/// `DRMSystem`: what one system's players must be told about one key. An element that is there but empty is asked
/// for; SPEKE's server fills it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct System {
    /// `@systemId`.
    pub system_id: SystemId,
    /// `@kid`.
    pub key_id: KeyId,
    /// `@name`.
    pub name: Option<String>,
    /// `@HLSAllowedCPC` (2.4).
    pub hls_allowed_cpc: Option<String>,
    /// `PSSH`: the whole box.
    pub pssh: Option<Vec<u8>>,
    /// `ContentProtectionData`.
    pub content_protection: Option<ContentProtection>,
    /// `HLSSignalingData`, at most one for each playlist.
    pub hls: Vec<HlsSignaling>,
    /// `SmoothStreamingProtectionHeaderData`: base64 of the system's object.
    pub smooth_streaming: Option<String>,
    /// What CPIX 2.0 and SPEKE 1.0 have in place of `hls` and `smooth_streaming`.
    pub legacy: Legacy,
}

/// `ContentProtectionData`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentProtection {
    /// The children of the MPD's `ContentProtection` element, in XML.
    pub fragment: String,
    /// `@robustness` (2.4).
    pub robustness: Option<String>,
}

/// `HLSSignalingData`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HlsSignaling {
    /// `@playlist`.
    pub playlist: Playlist,
    /// Whole lines of the playlist.
    pub lines: String,
}

/// Elements of `DRMSystem` that CPIX 2.3 and SPEKE 2.0 replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Legacy {
    /// `URIExtXKey`: `URI` of `EXT-X-KEY`.
    pub uri_ext_x_key: Option<String>,
    /// `speke:KeyFormat`: its `KEYFORMAT`.
    pub key_format: Option<String>,
    /// `speke:KeyFormatVersions`: its `KEYFORMATVERSIONS`.
    pub key_format_versions: Option<String>,
    /// `speke:ProtectionHeader`: base64 of the PlayReady Object, for Smooth Streaming.
    pub protection_header: Option<String>,
}

impl System {
    /// One that says nothing yet.
    pub const fn new(system_id: SystemId, key_id: KeyId) -> Self {
        Self {
            system_id,
            key_id,
            name: None,
            hls_allowed_cpc: None,
            pssh: None,
            content_protection: None,
            hls: Vec::new(),
            smooth_streaming: None,
            legacy: Legacy {
                uri_ext_x_key: None,
                key_format: None,
                key_format_versions: None,
                protection_header: None,
            },
        }
    }
}

impl Key {
    /// A key that a document names without holding it.
    pub const fn new(key_id: KeyId) -> Self {
        Self {
            key_id,
            explicit_iv: None,
            scheme: None,
            content_id: None,
            depends_on: None,
            hdcp: None,
            secret: Secret::Absent,
        }
    }
}

impl Document {
    /// An empty document.
    pub const fn new(version: Version) -> Self {
        Self {
            version,
            id: None,
            content_id: None,
            name: None,
            deliveries: Vec::new(),
            keys: Vec::new(),
            systems: Vec::new(),
            periods: Vec::new(),
            rules: Vec::new(),
            signatures: 0,
        }
    }

    /// Reads a document. `bytes` may hold keys and is the caller's to wipe.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`], [`ErrorKind::TooLarge`] and [`ErrorKind::Unsupported`], with every place that is
    /// wrong.
    pub fn read(bytes: &[u8], reading: &Reading) -> Result<Self, Error> {
        from_element(&xml::read(bytes, reading)?)
    }

    /// Writes the document in XML, unless it holds a key in the clear.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`] if it does: [encrypt](Document::encrypt) it first, or see
    /// [`Document::export_clear`].
    pub fn to_xml(&self) -> Result<Zeroizing<String>, Error> {
        let clear = |key: &&Key| matches!(key.secret, Secret::Clear(_));
        match self.keys.iter().find(clear) {
            None => Ok(self.export_clear()),
            Some(key) => {
                let reason = format!("the document holds key {} in the clear", key.key_id);
                Err(Error::new(ErrorKind::Denied, reason))
            }
        }
    }

    /// Writes the document in XML, clear keys included. Whoever calls this answers for what becomes of them.
    pub fn export_clear(&self) -> Zeroizing<String> {
        xml::write(&to_element(self))
    }

    /// The key of a track, by the document's usage rules, or none if it stays in the clear.
    ///
    /// # Errors
    /// [`MappingError`]: a rule that cannot be used, or two keys for the track.
    pub fn key_of(&self, track: &Track) -> Result<Option<KeyId>, MappingError> {
        usage::key_of(&self.rules, track)
    }
}
