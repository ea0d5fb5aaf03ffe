//! Key exchange with other vendors: SPEKE, and CPIX documents in and out.
//!
//! ```text
//! request -> partner -> document -> grant -> keystore -> document -> response
//!            partner.rs speke.rs, document.rs              usage.rs: which key a document means
//! ```
//!
//! Whoever comes is a configured [`Partner`] or nobody. What a partner may, with which assets, and to whom keys may be
//! encrypted is decided here; whether this server may exchange keys at all, and which key an id stands for, is the
//! keystore's to say. What comes from other vendors' key servers is ordered by [`vendor`]. Refusals are plain text for
//! whoever integrates an encryptor: SPEKE has it so, and no player ever sees them.

mod document;
mod partner;
mod refusal;
mod speke;
mod usage;
pub mod vendor;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use conf::{ExchangeRight, ExchangeSettings};
use cpix::delivery::RecipientKey;
use cpix::signalling::Signalling;
use http::{HeaderValue, Method, header, request};
use keystore_client::Keystore;
use keystore_client::exchange::Partner as KeystorePartner;
use keystore_types::AssetId;
use origin_front::{Body, BodyError, ClientCertificate, Response};
use ring::rand::SystemRandom;
use zeroize::Zeroizing;

use self::partner::{Partner, Partners};
pub(crate) use self::refusal::Refusal;
use crate::decision_log::{DecisionLog, Draft, Outcome};
use crate::http::route::{Route, SpekeVersion};
use crate::wiped::Wiped;
use crate::{Clock, Error, telemetry};

/// The name that this key server goes by.
const SERVER: &str = concat!("castellum/", env!("CARGO_PKG_VERSION"));

/// Makes the signalling of keys for other vendors' documents.
pub type Signals = Arc<dyn Signalling + Send + Sync>;

/// Answers partners.
pub struct Exchange {
    partners: Partners,
    recipient: Option<Box<dyn RecipientKey>>,
    signals: Signals,
    keystore: Arc<dyn Keystore>,
    decisions: Arc<DecisionLog>,
    clock: Arc<dyn Clock>,
    tenant: String,
    body_bytes: usize,
    random: SystemRandom,
}

/// What key exchange works with.
#[derive(Clone)]
pub struct Parts {
    /// How keys are signalled.
    pub signals: Signals,
    /// Where the keys are.
    pub keystore: Arc<dyn Keystore>,
    /// Where decisions are written.
    pub decisions: Arc<DecisionLog>,
    /// What the time is.
    pub clock: Arc<dyn Clock>,
    /// Whose assets these are.
    pub tenant: String,
}

impl Exchange {
    /// Reads the partners' certificates and secrets.
    ///
    /// # Errors
    /// One that cannot be read or is not fit, by its file.
    pub fn open(settings: &ExchangeSettings, parts: Parts) -> Result<Self, Error> {
        let Parts {
            signals,
            keystore,
            decisions,
            clock,
            tenant,
        } = parts;
        Ok(Self {
            partners: Partners::load(&settings.callers)?,
            recipient: match &settings.recipient {
                Some(recipient) => Some(partner::own_recipient(recipient)?),
                None => None,
            },
            signals,
            keystore,
            decisions,
            clock,
            tenant,
            body_bytes: settings.body_bytes,
            random: SystemRandom::new(),
        })
    }

    /// The longest document that is read.
    pub(crate) fn body_limit(&self) -> usize {
        self.body_bytes
    }

    /// Who issued the partners' client certificates, as distinguished names in DER; none: there are no certificates.
    pub fn client_issuers(&self) -> Vec<Vec<u8>> {
        self.partners.client_issuers()
    }

    /// Answers a request to one of the URLs of key exchange.
    pub(crate) async fn answer(
        &self,
        route: &Route,
        head: &request::Parts,
        body: Result<Bytes, BodyError>,
    ) -> Response {
        let begun = Instant::now();
        let Some(ask) = Ask::of(route, &head.method) else {
            return refusal::method_not_allowed(match route {
                Route::Cpix { .. } => "GET, HEAD, POST",
                _ => "POST",
            });
        };
        let asset = ask.named_asset().cloned();
        let mut draft = Draft::new(self.clock.now(), ask.protocol(), asset);
        let result = self.exchange(&ask, head, body, &mut draft).await;
        let outcome = match &result {
            Ok(_) => Outcome::Granted,
            Err(refusal) => refusal.outcome(),
        };
        telemetry::exchanged(draft.system, &outcome, begun.elapsed());
        self.decisions.record(draft, outcome);
        result.map_or_else(|refusal| refusal.into_response(), Reply::into_response)
    }

    async fn exchange(
        &self,
        ask: &Ask,
        head: &request::Parts,
        body: Result<Bytes, BodyError>,
        draft: &mut Draft,
    ) -> Result<Reply, Refusal> {
        let certificate = head.extensions.get::<ClientCertificate>();
        let now = draft.time.as_seconds();
        let partner = self.partners.identify(&head.headers, certificate, now)?;
        draft.partner = Some(partner.name.clone());
        if !partner.may.contains(&ask.right()) {
            return Err(Refusal::NotGranted(format!(
                "{} may not {}",
                partner.name,
                ask.verb()
            )));
        }
        // Judged after the credentials: whoever has none learns nothing of what is wrong with a document.
        let body = Wiped::new(body?);
        match ask {
            Ask::Speke(version) => self.speke(partner, *version, head, &body, draft).await,
            Ask::Import(asset) => self.import(partner, asset, &body, draft).await,
            Ask::Export(asset) => {
                let query = head.uri.query();
                self.export(partner, asset, query, draft).await
            }
        }
    }

    /// The partner as the keystore's audit log names it.
    fn audited(&self, partner: &Partner, protocol: &str, to: Vec<String>) -> KeystorePartner {
        KeystorePartner {
            name: partner.name.clone(),
            protocol: protocol.to_owned(),
            recipients: to,
        }
    }
}

/// What is asked.
enum Ask {
    Speke(SpekeVersion),
    Import(AssetId),
    Export(AssetId),
}

impl Ask {
    fn of(route: &Route, method: &Method) -> Option<Self> {
        match (route, method) {
            (Route::Speke { version }, &Method::POST) => Some(Self::Speke(*version)),
            (Route::Cpix { content_id }, &Method::POST) => Some(Self::Import(content_id.clone())),
            // The front sends no body with the answer to HEAD; the keys are recorded as handed over all the same.
            (Route::Cpix { content_id }, &Method::GET | &Method::HEAD) => {
                Some(Self::Export(content_id.clone()))
            }
            _ => None,
        }
    }

    fn right(&self) -> ExchangeRight {
        match self {
            Self::Speke(_) => ExchangeRight::Speke,
            Self::Import(_) => ExchangeRight::Import,
            Self::Export(_) => ExchangeRight::Export,
        }
    }

    /// As in "may not ...".
    fn verb(&self) -> &'static str {
        match self {
            Self::Speke(_) => "ask for keys by SPEKE",
            Self::Import(_) => "import keys",
            Self::Export(_) => "export keys",
        }
    }

    /// As in logs and metrics.
    fn protocol(&self) -> &'static str {
        match self {
            Self::Speke(SpekeVersion::V1) => "speke-1",
            Self::Speke(SpekeVersion::V2) => "speke-2",
            Self::Import(_) => "cpix-import",
            Self::Export(_) => "cpix-export",
        }
    }

    /// The asset that the URL names; in a document none is known yet.
    fn named_asset(&self) -> Option<&AssetId> {
        match self {
            Self::Speke(_) => None,
            Self::Import(asset) | Self::Export(asset) => Some(asset),
        }
    }
}

/// What a partner gets.
struct Reply {
    headers: Vec<(&'static str, String)>,
    /// It may hold keys.
    body: Zeroizing<String>,
}

impl Reply {
    fn into_response(self) -> Response {
        // The buffer is wiped when the connection lets go of it.
        let mut response = Response::new(Body::full(Bytes::from_owner(self.body)));
        for (name, value) in self.headers {
            if let Ok(value) = HeaderValue::try_from(value)
                && let Ok(name) = http::HeaderName::try_from(name)
            {
                response.headers_mut().insert(name, value);
            }
        }
        let headers = response.headers_mut();
        headers.insert(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        );
        response
    }
}
