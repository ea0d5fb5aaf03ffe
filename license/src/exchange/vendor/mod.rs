//! The other side of key exchange: keys are ordered from another vendor's key server by SPEKE, and kept in the keystore,
//! so that each has its record. Why it is so: `keystore/design/exchange.md`.
//!
//! ```text
//! fetch -> whose asset -> key ids (book.rs) -> order -> vendor (endpoint.rs) -> answer, as ordered -> keystore
//! ```
//!
//! An order is kept whole or not at all: the keystore sees its keys when every answer is there and fits.

mod book;
mod endpoint;
mod error;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use conf::{ExchangeSettings, PackScheme, System, TrackLabel, VendorProtocol, VendorSettings};
use cpix::delivery::RecipientKey;
use cpix::speke::{Order, OrderedKey, SpekeVersion, Supply, Usage};
use cpix::{Limits, Reading, SystemId};
use keystore_client::Keystore;
use keystore_client::exchange::{
    DepositRequest, DepositedHead, DepositedKey, KeyUsage, Partner as KeystorePartner,
};
use keystore_types::{AssetId, KeyId, Label, Scheme};
use ring::rand::SystemRandom;
use serde::Serialize;
use subtle::ConstantTimeEq as _;

use self::book::Book;
use self::endpoint::{Endpoint, meaning};
pub use self::error::FetchError;
use super::{Parts, partner};
use crate::decision_log::{DecisionLog, Draft, Outcome};
use crate::{Clock, Error, telemetry};

/// As in logs and metrics.
const PROTOCOL: &str = "speke-order";

/// Orders keys from vendors.
pub struct Vendors {
    vendors: Vec<Vendor>,
    recipient: Option<Box<dyn RecipientKey>>,
    book: Book,
    keystore: Arc<dyn Keystore>,
    decisions: Arc<DecisionLog>,
    clock: Arc<dyn Clock>,
    tenant: String,
    body_bytes: usize,
    random: SystemRandom,
    /// Held by the one order that is under way: two for one asset would draw ids for the same keys.
    under_way: tokio::sync::Mutex<()>,
}

struct Vendor {
    name: String,
    assets: Vec<String>,
    version: SpekeVersion,
    labels: Vec<Label>,
    schemes: Vec<Scheme>,
    systems: Vec<SystemId>,
    danger_clear: bool,
    endpoint: Endpoint,
}

/// Keys that were fetched.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Fetched {
    /// From whom.
    pub vendor: String,
    /// What they are for.
    pub keys: Vec<FetchedKey>,
}

/// One of them.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct FetchedKey {
    /// Its id.
    pub key_id: KeyId,
    /// The tracks.
    pub label: Label,
    /// The scheme.
    pub scheme: Scheme,
}

impl Vendors {
    /// Reads certificates and keys; the ids of orders are kept in `state_dir`.
    ///
    /// # Errors
    /// One that cannot be read or is not fit, by its file.
    pub fn open(
        settings: &ExchangeSettings,
        state_dir: &Path,
        parts: Parts,
    ) -> Result<Self, Error> {
        let vendors = settings.vendors.iter();
        Ok(Self {
            vendors: vendors
                .map(|(name, vendor)| Vendor::open(name, vendor, settings.body_bytes))
                .collect::<Result<_, _>>()?,
            recipient: match &settings.recipient {
                Some(recipient) => Some(partner::own_recipient(recipient)?),
                None => None,
            },
            book: Book::new(state_dir),
            keystore: parts.keystore,
            decisions: parts.decisions,
            clock: parts.clock,
            tenant: parts.tenant,
            body_bytes: settings.body_bytes,
            random: SystemRandom::new(),
            under_way: tokio::sync::Mutex::default(),
        })
    }

    /// Orders the keys of an asset and has the keystore keep them. Ordered again, they are the same keys, and nothing
    /// changes; with `renew`, they are other keys, which the keystore takes when the old ones were destroyed. Until it has
    /// them the old order stands, and a renewal that failed is gone on with by the next one.
    ///
    /// # Errors
    /// [`FetchError`] says which; nothing was kept then, unless it is the order that could not be written down.
    pub async fn fetch(&self, asset: &AssetId, renew: bool) -> Result<Fetched, FetchError> {
        let _turn = self.under_way.lock().await;
        let begun = Instant::now();
        let mut draft = Draft::new(self.clock.now(), PROTOCOL, Some(asset.clone()));
        let result = self.order(asset, renew, &mut draft).await;
        let outcome = match &result {
            Ok(_) => Outcome::Granted,
            Err(error) => error.outcome(),
        };
        telemetry::exchanged(PROTOCOL, &outcome, begun.elapsed());
        self.decisions.record(draft, outcome);
        result
    }

    async fn order(
        &self,
        asset: &AssetId,
        renew: bool,
        draft: &mut Draft,
    ) -> Result<Fetched, FetchError> {
        let vendor = self.vendor_of(asset)?;
        draft.partner = Some(vendor.name.clone());
        let ordered = self.choose_ids(vendor, asset, renew).await?;
        draft.key_ids = ordered.iter().map(|key| key.key_id).collect();
        let recipient = match vendor.danger_clear {
            true => None,
            false => self.recipient.as_deref(),
        };
        let mut keys: Vec<DepositedKey> = Vec::with_capacity(ordered.len());
        for group in vendor.requests(&ordered) {
            let order = vendor.order(asset, group, recipient);
            let supply = self.ask(vendor, &order).await?;
            for (supplied, key) in supply.keys.into_iter().zip(group) {
                let same = |other: &&DepositedKey| {
                    bool::from(other.key.expose().ct_eq(supplied.key.expose()))
                };
                if let Some(other) = keys.iter().find(same) {
                    return Err(FetchError::OneKeyForTwo {
                        vendor: vendor.name.clone(),
                        one: other.head.key_id,
                        other: key.key_id,
                    });
                }
                let usage = KeyUsage {
                    label: key.label,
                    scheme: key.scheme,
                    elsewhere: None,
                };
                // In counter mode the packager draws its own.
                let iv = supplied.explicit_iv.filter(|_| key.scheme == Scheme::Cbcs);
                let head = DepositedHead {
                    key_id: key.key_id,
                    usage,
                    iv,
                };
                keys.push(DepositedKey {
                    head,
                    key: supplied.key,
                });
            }
        }
        let recipients = recipient.map(|recipient| recipient.certificate().fingerprint());
        let request = DepositRequest {
            tenant: self.tenant.clone(),
            asset: asset.clone(),
            keys,
            partner: KeystorePartner {
                name: vendor.name.clone(),
                protocol: format!("speke-{}", vendor.version),
                recipients: recipients.into_iter().collect(),
            },
        };
        let deposited = self.keystore.deposit(request).await;
        if renew {
            self.close_renewal(vendor, asset, &deposited).await?;
        }
        deposited?;
        Ok(Fetched {
            vendor: vendor.name.clone(),
            keys: ordered,
        })
    }

    /// The vendor that names the asset, or else the one that has all others.
    fn vendor_of(&self, asset: &AssetId) -> Result<&Vendor, FetchError> {
        let names = |name: &str| {
            let mut vendors = self.vendors.iter();
            vendors.find(|vendor| vendor.assets.iter().any(|asset| asset == name))
        };
        names(asset.as_str())
            .or_else(|| names("*"))
            .ok_or_else(|| FetchError::NoVendor(asset.clone()))
    }

    async fn choose_ids(
        &self,
        vendor: &Vendor,
        asset: &AssetId,
        renew: bool,
    ) -> Result<Vec<FetchedKey>, FetchError> {
        let keys: Vec<(Scheme, Label)> = (vendor.schemes.iter())
            .flat_map(|scheme| vendor.labels.iter().map(|label| (*scheme, *label)))
            .collect();
        let (book, name, asset) = (self.book.clone(), vendor.name.clone(), asset.clone());
        let kept = tokio::task::spawn_blocking(move || {
            let ids = book.ids(&name, &asset, &keys, renew)?;
            let keys = keys.into_iter().zip(ids);
            Ok(keys
                .map(|((scheme, label), key_id)| FetchedKey {
                    key_id,
                    label,
                    scheme,
                })
                .collect())
        });
        (kept.await).unwrap_or_else(|error| Err(FetchError::Book(error.to_string())))
    }

    /// What becomes of the ids of a renewal. Where the keystore gave no answer its keys may be there: they are kept.
    async fn close_renewal(
        &self,
        vendor: &Vendor,
        asset: &AssetId,
        deposited: &Result<(), keystore_client::Error>,
    ) -> Result<(), FetchError> {
        let close = match deposited {
            Ok(()) => Book::settle,
            Err(keystore_client::Error::Conflict(_)) => Book::give_up,
            Err(_) => return Ok(()),
        };
        let (book, name, asset) = (self.book.clone(), vendor.name.clone(), asset.clone());
        let closed = tokio::task::spawn_blocking(move || close(&book, &name, &asset));
        (closed.await).unwrap_or_else(|error| Err(FetchError::Book(error.to_string())))
    }

    async fn ask(&self, vendor: &Vendor, order: &Order<'_>) -> Result<Supply, FetchError> {
        let unfit = |error| FetchError::Document {
            vendor: vendor.name.clone(),
            error,
        };
        let request = order.request().map_err(unfit)?;
        let answer = vendor.endpoint.post(&request.headers, request.body).await?;
        let reading = Reading {
            limits: Limits {
                bytes: self.body_bytes,
                ..Limits::default()
            },
            ..Reading::default()
        };
        let supply = order.accept(&meaning(&answer), &answer.body, &reading, &self.random);
        supply.map_err(unfit)
    }
}

impl Vendor {
    fn open(name: &str, settings: &VendorSettings, body_bytes: usize) -> Result<Self, Error> {
        Ok(Self {
            name: name.to_owned(),
            assets: settings.assets.clone(),
            version: match settings.protocol {
                VendorProtocol::Speke10 => SpekeVersion::V1_0,
                VendorProtocol::Speke20 => SpekeVersion::V2_0,
                VendorProtocol::Speke21 => SpekeVersion::V2_1,
            },
            labels: settings.labels.iter().map(label).collect(),
            schemes: (settings.schemes.iter())
                .filter_map(|scheme| match scheme {
                    PackScheme::Cbcs => Some(Scheme::Cbcs),
                    PackScheme::Cenc => Some(Scheme::Cenc),
                    PackScheme::Clear => None,
                })
                .collect(),
            systems: settings.systems.iter().map(system).collect(),
            danger_clear: settings.danger_clear,
            endpoint: Endpoint::open(name, settings, body_bytes)?,
        })
    }

    /// The keys of each request: those of one scheme, and in SPEKE 1.0 one key.
    fn requests<'a>(&self, keys: &'a [FetchedKey]) -> Vec<&'a [FetchedKey]> {
        match self.version {
            SpekeVersion::V1_0 => keys.chunks(1).collect(),
            SpekeVersion::V2_0 | SpekeVersion::V2_1 => {
                (keys.chunk_by(|one, other| one.scheme == other.scheme)).collect()
            }
        }
    }

    fn order<'a>(
        &self,
        asset: &AssetId,
        keys: &[FetchedKey],
        recipient: Option<&'a dyn RecipientKey>,
    ) -> Order<'a> {
        let cbcs = keys.iter().all(|key| key.scheme == Scheme::Cbcs);
        let systems = self.systems.iter().copied();
        let ordered = keys.iter().map(|key| OrderedKey {
            key_id: key.key_id,
            scheme: key.scheme.into(),
            explicit_iv: None,
            usage: Usage::of_label(key.label),
            period: None,
        });
        Order {
            version: self.version,
            content_id: asset.as_str().to_owned(),
            keys: ordered.collect(),
            systems: systems
                .filter(|system| cbcs || *system != SystemId::FAIRPLAY)
                .collect(),
            recipient,
        }
    }
}

fn label(label: &TrackLabel) -> Label {
    match label {
        TrackLabel::Sd => Label::Sd,
        TrackLabel::Hd => Label::Hd,
        TrackLabel::Uhd1 => Label::Uhd1,
        TrackLabel::Uhd2 => Label::Uhd2,
        TrackLabel::Audio => Label::Audio,
    }
}

fn system(system: &System) -> SystemId {
    match system {
        System::ClearKey => SystemId::CLEAR_KEY,
        System::Widevine => SystemId::WIDEVINE,
        System::PlayReady => SystemId::PLAYREADY,
        System::FairPlay => SystemId::FAIRPLAY,
    }
}
