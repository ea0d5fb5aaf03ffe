use keystore_types::{ConstantIv, KeyId};

use super::contract::{self, Contract};
use super::{Headers, SpekeVersion, VERSION_HEADER};
use crate::delivery::Certificate;
use crate::document::{self, Document, System};
use crate::error::{Error, ErrorKind};
use crate::identity::EncryptionScheme;
use crate::period::Period;
use crate::usage::{Filter, UsageRule};
use crate::xml::{self, Cursor, Element, Limits, Namespaces, Reading};

/// A request that keeps its encryption contract.
#[derive(Debug)]
pub struct Request {
    pub(super) version: SpekeVersion,
    pub(super) document: Document,
    /// What was sent, to be sent back filled.
    pub(super) root: Element,
}

/// A key that a request asks for.
#[derive(Clone, Debug)]
pub struct AskedKey<'a> {
    /// The id, which the encryptor chose.
    pub key_id: KeyId,
    /// The scheme that the key is for; SPEKE 1.0 states none.
    pub scheme: Option<EncryptionScheme>,
    /// The IV that the encryptor is going to use, where it says so.
    pub explicit_iv: Option<ConstantIv>,
    /// Which tracks the key is for: at least one rule, save in SPEKE 1.0.
    pub rules: Vec<&'a UsageRule>,
    /// When the key is used; none for always.
    pub periods: Vec<&'a Period>,
}

impl Request {
    /// Reads a request and holds it to the contract.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for a version that is not served, [`ErrorKind::Malformed`] and
    /// [`ErrorKind::TooLarge`] for what is no document, [`ErrorKind::Invalid`] for a broken contract, with every place
    /// where it is.
    pub fn read(headers: &Headers<'_>, body: &[u8], limits: &Limits) -> Result<Self, Error> {
        let version = SpekeVersion::read(headers.speke_version)?;
        headers.check_content_type()?;
        let reading = Reading {
            limits: *limits,
            namespaces: Namespaces::Required,
        };
        let root = xml::read(body, &reading)?;
        check_version(version, &Cursor::root(&root))?;
        let document = document::from_element(&root)?;
        let contract = Contract {
            version,
            document: &document,
        };
        contract::check(&contract, &Cursor::root(&root))?;
        Ok(Self {
            version,
            document,
            root,
        })
    }

    /// The version that header and document agree on.
    pub const fn version(&self) -> SpekeVersion {
        self.version
    }

    /// The content, as the encryptor names it: `CPIX@contentId`, or `CPIX@id` in SPEKE 1.0. Never empty.
    pub fn content_id(&self) -> &str {
        let document = &self.document;
        let id = match self.version {
            SpekeVersion::V1_0 => &document.id,
            SpekeVersion::V2_0 | SpekeVersion::V2_1 => &document.content_id,
        };
        id.as_deref().unwrap_or_default()
    }

    /// The keys asked for: at least one, at most [`MAX_KEYS`](super::MAX_KEYS), each once.
    pub fn keys(&self) -> impl Iterator<Item = AskedKey<'_>> {
        self.document.keys.iter().map(|key| {
            let rules = self.document.rules.iter();
            let rules: Vec<&UsageRule> = rules.filter(|rule| rule.key_id == key.key_id).collect();
            let named = |period: &&Period| {
                let filters = rules.iter().flat_map(|rule| &rule.filters);
                filters.into_iter().any(|filter| match filter {
                    Filter::KeyPeriod(id) => period.id.as_ref() == Some(id),
                    _ => false,
                })
            };
            AskedKey {
                key_id: key.key_id,
                scheme: key.scheme,
                explicit_iv: key.explicit_iv,
                periods: self.document.periods.iter().filter(named).collect(),
                rules,
            }
        })
    }

    /// The systems to signal, each for one of the keys. What is asked of one is there and empty.
    pub fn systems(&self) -> &[System] {
        &self.document.systems
    }

    /// The key periods.
    pub fn periods(&self) -> &[Period] {
        &self.document.periods
    }

    /// The certificates that came with the request. That they came makes nobody a recipient: see
    /// [`Release`](super::Release).
    pub fn certificates(&self) -> impl Iterator<Item = &Certificate> {
        self.document.deliveries.iter().map(|it| &it.certificate)
    }
}

/// Header and document name the same version.
fn check_version(version: SpekeVersion, root: &Cursor<'_>) -> Result<(), Error> {
    let stated = root.attribute("version");
    let expected = version.cpix().as_str();
    let (kind, reason) = match (stated, expected) {
        _ if stated == expected => return Ok(()),
        (Some(_), None) => (
            ErrorKind::Invalid,
            format!("a document that states a version comes with the header {VERSION_HEADER}"),
        ),
        (None, Some(expected)) => (
            ErrorKind::Invalid,
            format!("missing CPIX@version: SPEKE {version} goes with {expected}"),
        ),
        (Some(_), Some(expected)) => (
            ErrorKind::Unsupported,
            format!("unsupported CPIX@version: SPEKE {version} goes with {expected}"),
        ),
        (None, None) => return Ok(()),
    };
    Err(Error::at(
        kind,
        Some(root.attribute_place("version")),
        reason,
    ))
}
