//! Licences of licensed systems: challenges go to the operator's own services, and their answers to the player. What makes
//! a licence of such a system is Google's, Microsoft's or Apple's to license, and is never here.
//!
//! ```text
//! challenge, grant, keys -> crate::gate -> widevine.rs, playready.rs, fairplay.rs, vendor.rs -> Reply
//!                           full or shut, or it fails: the next upstream of the system
//! ```
//!
//! What goes along and why: `license/design/upstreams.md`.

mod certificate;
mod fairplay;
mod grant;
mod playready;
mod said;
mod signer;
mod vendor;
mod widevine;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use conf::{CertificateSettings, UpstreamKind, UpstreamPlace, UpstreamSettings};
use http::{HeaderMap, HeaderValue, StatusCode};
use keystore_client::ExportedKey;
use keystore_types::{AssetId, KeyId};
use serde::Serialize;
use serde_json::{Map, Value};

use self::certificate::Certificates;
use crate::format::widevine::Certificate;
use crate::gate::{Gate, Shut, Turn};
use crate::issue::License;
use crate::outbound::{Answer, Destination, Fault, Outbound, Reach};
use crate::policy::{Challenge, Grant, KeyGrant, System};
use crate::{Error, Refusal, UnixTime};

/// The longest answer of an upstream, in bytes. Licences with many keys have some tens of thousands.
const ANSWER_BYTES: usize = 256 << 10;

/// The operator's licence services.
pub struct Upstreams {
    /// In the order in which those of one system are asked.
    upstreams: Arc<[Upstream]>,
    certificates: Certificates,
}

/// One of them.
struct Upstream {
    name: String,
    realm: Realm,
    holds_keys: bool,
    two_steps: bool,
    gate: Gate,
    service: Service,
}

/// What an upstream answers for.
struct Realm {
    systems: Vec<System>,
    /// None: those that no upstream of the same system names.
    assets: Option<BTreeSet<AssetId>>,
}

enum Service {
    Widevine(widevine::Service),
    PlayReady(playready::Service),
    FairPlay(fairplay::Service),
    Vendor(vendor::Service),
}

/// What an upstream is asked.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// What the player asks for.
    pub challenge: &'a Challenge,
    /// What it gets of that, as far as the keystore gives it.
    pub grant: &'a Grant,
    /// The keys of that; none where the upstreams of the system have them.
    pub license: Option<&'a License>,
    /// The headers of the request.
    pub headers: &'a HeaderMap,
    /// Its body, as it came.
    pub body: &'a [u8],
    /// The present moment.
    pub now: UnixTime,
}

/// A key that is granted, and itself where it goes along.
struct CallKey<'a> {
    granted: &'a KeyGrant,
    exported: Option<&'a ExportedKey>,
}

impl<'a> Call<'a> {
    /// The keys that are given: those granted, and where keys go along, of those what the keystore gave.
    fn keys(&self) -> impl Iterator<Item = CallKey<'a>> {
        let license = self.license;
        self.grant.keys.iter().filter_map(move |granted| {
            let exported = match license {
                None => None,
                Some(license) => {
                    let mut exported = license.exported().iter();
                    Some(exported.find(|key| key.key_id == granted.key_id)?)
                }
            };
            Some(CallKey { granted, exported })
        })
    }
}

/// A licence as an upstream gave it.
#[derive(Debug)]
pub struct Reply {
    /// The media type of the body.
    pub content_type: HeaderValue,
    /// What the player gets.
    pub body: Bytes,
    /// What it says besides, as far as records may hold that.
    said: Map<String, Value>,
}

/// Which upstream gave a licence, for the record of the decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answered {
    /// Its name in the configuration.
    pub name: String,
    /// What it says besides the licence. What has room for a key stands there by its length alone.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub said: Map<String, Value>,
}

/// Why one upstream gave no licence.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Miss {
    /// It refuses this challenge: the next one would as well, and there is nothing wrong with it.
    #[error("{0}")]
    Refused(String),
    /// It cannot be reached, or says that it cannot.
    #[error("{0}")]
    Unavailable(String),
    /// What it answers is no licence.
    #[error("{0}")]
    Unfit(String),
}

impl From<Fault> for Miss {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::TooLong(_) => Self::Unfit(fault.to_string()),
            Fault::Unreachable(_) | Fault::Late(_) => Self::Unavailable(fault.to_string()),
        }
    }
}

impl Upstreams {
    /// Reads certificates, keys and secrets.
    ///
    /// # Errors
    /// One that cannot be read or is not fit, by its file.
    pub fn open(
        settings: &[UpstreamSettings],
        certificates: &CertificateSettings,
    ) -> Result<Self, Error> {
        Ok(Self {
            upstreams: (settings.iter())
                .map(Upstream::open)
                .collect::<Result<_, _>>()?,
            certificates: Certificates::open(certificates)?,
        })
    }

    /// Whether any upstream answers for the asset in the system.
    pub fn answer_for(&self, system: System, asset: &AssetId) -> bool {
        !self.of(system, asset).is_empty()
    }

    /// Whether the content keys go along to the upstreams of the asset.
    pub fn take_keys(&self, system: System, asset: &AssetId) -> bool {
        (self.of(system, asset).iter()).any(|upstream| !upstream.holds_keys)
    }

    /// Those of a system that answer for an asset, in the order in which they are asked: those that name it, else those that
    /// name none. Never both: a service for some assets has what the others lack, as a module of another SDK.
    fn of(&self, system: System, asset: &AssetId) -> Vec<&Upstream> {
        let upstreams = self.upstreams.iter();
        answering(upstreams, |upstream| &upstream.realm, system, asset)
    }

    /// The key that a FairPlay module of the asset says an SPC is for; none where no module is asked that.
    ///
    /// # Errors
    /// As for [`Upstreams::answer`].
    pub async fn identify(&self, asset: &AssetId, body: &[u8]) -> Result<Option<KeyId>, Refusal> {
        let mut round = Round::default();
        let mut asked = false;
        for upstream in self.of(System::FairPlay, asset) {
            if let Service::FairPlay(service) = &upstream.service
                && upstream.two_steps
            {
                asked = true;
                if let Some(turn) = round.enter(upstream)
                    && let Some(end) = round.end(upstream, turn, service.identify(body).await)
                {
                    return end.map(Some);
                }
            }
        }
        match asked {
            true => Err(round.over()),
            false => Ok(None),
        }
    }

    /// Whether any upstream of the asset can be asked for these keys at this moment, so that none leaves the keystore, and
    /// nothing of a viewer's is used up, for an answer that cannot come.
    ///
    /// # Errors
    /// [`Refusal::UpstreamRefused`] where the system has one key to a licence and these are more;
    /// [`Refusal::UpstreamUnavailable`] where all are busy or left alone.
    pub fn are_ready(&self, system: System, asset: &AssetId, grant: &Grant) -> Result<(), Refusal> {
        let mut round = Round::default();
        for upstream in self.of(system, asset) {
            if matches!(upstream.service, Service::FairPlay(_)) && grant.keys.len() != 1 {
                let what = format!("the upstream {}: {}", upstream.name, fairplay::ONE_KEY);
                return Err(Refusal::UpstreamRefused(what));
            }
            match upstream.gate.look(Instant::now()) {
                Ok(()) => return Ok(()),
                Err(shut) => round.turned_away(upstream, shut),
            }
        }
        Err(round.over())
    }

    /// Has the challenge answered by the first upstream of its system and asset that can.
    ///
    /// # Errors
    /// [`Refusal::UpstreamRefused`] where one refuses the challenge, [`Refusal::UpstreamUnfit`] where none gives a licence
    /// and the last one gave something else, [`Refusal::UpstreamUnavailable`] where none answers in its time.
    pub async fn answer(&self, call: &Call<'_>) -> Result<(Reply, Answered), Refusal> {
        let mut round = Round::default();
        for upstream in self.of(call.challenge.system, &call.challenge.asset) {
            if let Some(turn) = round.enter(upstream)
                && let Some(end) = round.end(upstream, turn, upstream.ask(call).await)
            {
                return end.map(|mut reply| {
                    let said = std::mem::take(&mut reply.said);
                    let name = upstream.name.clone();
                    (reply, Answered { name, said })
                });
            }
        }
        Err(round.over())
    }

    /// Widevine's service certificate as the answer to its two-byte request: from the file or the cache, else from an
    /// upstream.
    ///
    /// # Errors
    /// As for [`Upstreams::answer`].
    pub async fn widevine_certificate(&self) -> Result<Bytes, Refusal> {
        Ok(self.service_certificate().await?.message.clone().into())
    }

    /// A certificate as players set it; none where there is none for the system.
    ///
    /// # Errors
    /// As for [`Upstreams::answer`].
    pub async fn certificate(
        &self,
        system: System,
        asset: Option<&AssetId>,
    ) -> Result<Option<Bytes>, Refusal> {
        match system {
            System::Widevine if self.has_widevine_certificate() => {
                let certificate = self.service_certificate().await?;
                Ok(Some(certificate.bare.clone().into()))
            }
            System::FairPlay => Ok(self.certificates.fairplay(asset)),
            _ => Ok(None),
        }
    }

    fn has_widevine_certificate(&self) -> bool {
        self.certificates.has_widevine() || of(&self.upstreams, System::Widevine).next().is_some()
    }

    async fn service_certificate(&self) -> Result<Arc<Certificate>, Refusal> {
        let fetch = fetch_certificate(Arc::clone(&self.upstreams));
        self.certificates.widevine(fetch).await
    }
}

/// Whether a server with these settings answers for the asset in the licensed system, as [`Upstreams::answer_for`] says of one
/// that runs.
///
/// # Errors
/// An asset's name that is none, by its key path.
pub fn answer_for(
    settings: &[UpstreamSettings],
    system: System,
    asset: &AssetId,
) -> Result<bool, Error> {
    let realms: Vec<_> = (settings.iter().map(Realm::of)).collect::<Result<_, _>>()?;
    Ok(!answering(realms.iter(), |realm| realm, system, asset).is_empty())
}

/// See [`Upstreams::of`].
fn answering<'a, T>(
    all: impl Iterator<Item = &'a T> + Clone,
    realm: impl Fn(&T) -> &Realm,
    system: System,
    asset: &AssetId,
) -> Vec<&'a T> {
    let of_system = || (all.clone()).filter(|one| realm(one).systems.contains(&system));
    let names = |one: &&T| {
        let assets = realm(one).assets.as_ref();
        assets.is_some_and(|assets| assets.contains(asset))
    };
    let own: Vec<_> = of_system().filter(names).collect();
    match own.is_empty() {
        true => of_system()
            .filter(|one| realm(one).assets.is_none())
            .collect(),
        false => own,
    }
}

impl Realm {
    fn of(settings: &UpstreamSettings) -> Result<Self, Error> {
        let table = format!("license.upstreams.{}", settings.name);
        Ok(Self {
            systems: (settings.systems.iter())
                .filter_map(|system| match system {
                    conf::System::Widevine => Some(System::Widevine),
                    conf::System::PlayReady => Some(System::PlayReady),
                    conf::System::FairPlay => Some(System::FairPlay),
                    conf::System::ClearKey => None,
                })
                .collect(),
            assets: match &settings.assets {
                Some(assets) => Some(asset_ids(&table, assets)?),
                None => None,
            },
        })
    }
}

/// Those of a system, for whatever assets, in the order in which they are asked.
fn of(upstreams: &[Upstream], system: System) -> impl Iterator<Item = &Upstream> {
    (upstreams.iter()).filter(move |upstream| upstream.realm.systems.contains(&system))
}

async fn fetch_certificate(upstreams: Arc<[Upstream]>) -> Result<Certificate, Refusal> {
    let mut round = Round::default();
    // The service's certificate is the same whatever is licensed.
    for upstream in of(&upstreams, System::Widevine) {
        if let Some(turn) = round.enter(upstream)
            && let Some(end) = round.end(upstream, turn, upstream.certificate().await)
        {
            return end;
        }
    }
    Err(round.over())
}

/// One request's way along the upstreams of a system. Each has its own gate and its own time, so that the whole is
/// bounded.
#[derive(Default)]
struct Round {
    last: Option<Refusal>,
}

impl Round {
    /// Passes the gate, unless that is full or shut.
    fn enter<'a>(&mut self, upstream: &'a Upstream) -> Option<Turn<'a>> {
        match upstream.gate.enter(Instant::now()) {
            Ok(turn) => Some(turn),
            Err(shut) => {
                self.turned_away(upstream, shut);
                None
            }
        }
    }

    fn turned_away(&mut self, upstream: &Upstream, shut: Shut) {
        let what = format!("the upstream {}: {shut}", upstream.name);
        self.last.get_or_insert(Refusal::UpstreamUnavailable(what));
    }

    /// The end of the round; none where the next upstream is to be asked.
    fn end<T>(
        &mut self,
        upstream: &Upstream,
        turn: Turn<'_>,
        result: Result<T, Miss>,
    ) -> Option<Result<T, Refusal>> {
        let miss = match result {
            Ok(given) => {
                turn.answered();
                return Some(Ok(given));
            }
            Err(miss) => miss,
        };
        let what = format!("the upstream {}: {miss}", upstream.name);
        let refusal = match miss {
            Miss::Refused(_) => {
                turn.answered();
                return Some(Err(Refusal::UpstreamRefused(what)));
            }
            Miss::Unavailable(_) => Refusal::UpstreamUnavailable(what),
            Miss::Unfit(_) => Refusal::UpstreamUnfit(what),
        };
        let left_alone = turn.failed(Instant::now());
        tracing::warn!(reason = %refusal, left_alone, "an upstream gives no licence");
        self.last = Some(refusal);
        None
    }

    fn over(self) -> Refusal {
        let none = || Refusal::UpstreamUnavailable("there is no upstream".to_owned());
        self.last.unwrap_or_else(none)
    }
}

impl Upstream {
    fn open(settings: &UpstreamSettings) -> Result<Self, Error> {
        let table = format!("license.upstreams.{}", settings.name);
        let outbound = outbound(&table, settings)?;
        let service = match settings.kind {
            UpstreamKind::Widevine => {
                Service::Widevine(widevine::Service::open(&table, settings, outbound)?)
            }
            UpstreamKind::PlayReady => {
                Service::PlayReady(playready::Service::open(&table, settings, outbound)?)
            }
            UpstreamKind::FairPlay => Service::FairPlay(fairplay::Service::new(outbound)),
            UpstreamKind::Vendor => {
                Service::Vendor(vendor::Service::open(&table, settings, outbound)?)
            }
        };
        Ok(Self {
            name: settings.name.clone(),
            realm: Realm::of(settings)?,
            holds_keys: settings.holds_keys,
            two_steps: settings.two_steps,
            gate: Gate::new(
                settings.in_flight,
                settings.breaker_failures,
                settings.breaker_pause,
            ),
            service,
        })
    }

    async fn ask(&self, call: &Call<'_>) -> Result<Reply, Miss> {
        match &self.service {
            Service::Widevine(service) => service.ask(call).await,
            Service::PlayReady(service) => service.ask(call).await,
            Service::FairPlay(service) => service.ask(call).await,
            Service::Vendor(service) => service.ask(call).await,
        }
    }

    async fn certificate(&self) -> Result<Certificate, Miss> {
        match &self.service {
            Service::Widevine(service) => service.certificate().await,
            Service::Vendor(service) => service.certificate().await,
            Service::PlayReady(_) | Service::FairPlay(_) => {
                Err(Miss::Unfit("it has no Widevine certificate".to_owned()))
            }
        }
    }
}

fn asset_ids(table: &str, names: &[String]) -> Result<BTreeSet<AssetId>, Error> {
    let read = |name: &String| {
        (name.parse()).map_err(|error| Error::malformed(format!("{table}.assets: {name}: {error}")))
    };
    names.iter().map(read).collect()
}

fn outbound(table: &str, settings: &UpstreamSettings) -> Result<Outbound, Error> {
    let (reach, path) = match &settings.place {
        UpstreamPlace::Url {
            tls: true,
            authority,
            path,
            ca_file,
            identity,
        } => {
            let identity = identity.as_ref();
            let reach = Reach::Tls {
                authority,
                ca_file,
                identity,
            };
            (reach, path)
        }
        UpstreamPlace::Url {
            authority, path, ..
        } => (Reach::Plain { authority }, path),
        UpstreamPlace::Socket { socket, path } => (Reach::Unix { socket }, path),
    };
    Outbound::open(&Destination {
        table,
        reach,
        path,
        timeout: settings.timeout,
        limit: ANSWER_BYTES,
    })
}

/// The statuses that a viewer can cause, by a challenge or by what a player says of it (its media type, `SOAPAction`): they
/// refuse the challenge, and say nothing of the service. A 400 or 403 may mean this server as well, whose credentials are
/// wrong: but whatever counted as a failure here could be sent by a viewer until nobody gets a licence. 401 is about
/// this server alone.
const REFUSING: [StatusCode; 6] = [
    StatusCode::BAD_REQUEST,
    StatusCode::FORBIDDEN,
    StatusCode::PAYLOAD_TOO_LARGE,
    StatusCode::UNSUPPORTED_MEDIA_TYPE,
    StatusCode::UNPROCESSABLE_ENTITY,
    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
];

/// The answer, where its status is 200.
fn judged(answer: Answer) -> Result<Answer, Miss> {
    let status = answer.status;
    match status {
        StatusCode::OK => Ok(answer),
        status if REFUSING.contains(&status) => Err(Miss::Refused(format!(
            "it refuses the challenge with {status}"
        ))),
        StatusCode::TOO_MANY_REQUESTS => Err(Miss::Unavailable(format!("it answers {status}"))),
        status if status.is_server_error() => {
            Err(Miss::Unavailable(format!("it answers {status}")))
        }
        _ => Err(Miss::Unfit(format!("it answers {status}"))),
    }
}

fn json_headers() -> HeaderMap {
    let json = HeaderValue::from_static("application/json");
    HeaderMap::from_iter([(http::header::CONTENT_TYPE, json)])
}

/// The members that the settings add to requests.
fn additions(table: &str, settings: &UpstreamSettings) -> Result<Map<String, Value>, Error> {
    match serde_json::to_value(&settings.request) {
        Ok(Value::Object(members)) => Ok(members),
        _ => Err(Error::malformed(format!("{table}.request is no JSON"))),
    }
}

/// The members of the JSON object that an upstream answered.
fn members(answer: &Answer) -> Result<Map<String, Value>, Miss> {
    match crate::json::parse(&answer.body) {
        Ok(Value::Object(members)) => Ok(members),
        _ => Err(Miss::Unfit("its answer is not one JSON object".to_owned())),
    }
}

/// The bytes of a member in base64; at least one. They are taken out: the others are what is said besides.
fn decoded(members: &mut Map<String, Value>, name: &str) -> Result<Vec<u8>, Miss> {
    use base64::Engine as _;

    let member = members.remove(name);
    let bytes = member.as_ref().and_then(Value::as_str).and_then(|text| {
        base64::engine::general_purpose::STANDARD
            .decode(text)
            .ok()
            .filter(|bytes| !bytes.is_empty())
    });
    bytes.ok_or_else(|| Miss::Unfit(format!("its answer has no `{name}` in base64")))
}
