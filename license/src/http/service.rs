//! A request walks through the pipeline: token, entitlement, challenge, decision, licence.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, header, request};
use keystore_client::Keystore;
use keystore_types::{AssetId, KeyId};
use origin_front::{Body, BodyError, ConnectionInfo, Queued, Request, Response, Service, cors};

use super::bearer::Sources;
use super::challenge;
use super::rescue::{method_not_allowed, not_found, rescue};
use super::route::{LicensedSystem, Route, SessionAct};
use super::stack;
use crate::admission::{Admission, Class, Place};
use crate::decision_log::{DecisionLog, Draft, Outcome};
use crate::entitlement::{Bearer, Entitlement, Rejection, Verifier};
use crate::exchange::Exchange;
use crate::format::clearkey::{self, SessionType};
use crate::format::{SecretBytes, hls_key, playready, widevine};
use crate::issue::{License, issue};
use crate::policy::{Case, Challenge, Decision, Grant, Rules, System, decide};
use crate::session::{self, Demanded, Sessions};
use crate::upstream::{self, Upstreams};
use crate::webhook::Question;
use crate::{Clock, KeyBook, Refusal, UnixTime, telemetry};

/// Answers licence requests.
#[derive(Clone)]
pub struct LicenseService {
    pub(super) parts: Arc<Parts>,
}

/// What a [`LicenseService`] works with.
pub struct Parts {
    /// Tells true tokens from others.
    pub verifier: Verifier,
    /// What is allowed at all.
    pub rules: Rules,
    /// What is public about keys.
    pub keys: KeyBook,
    /// Where the keys are.
    pub keystore: Arc<dyn Keystore>,
    /// Where decisions are written.
    pub decisions: Arc<DecisionLog>,
    /// What the time is.
    pub clock: Arc<dyn Clock>,
    /// The header that may carry the token besides `Authorization`.
    pub token_header: HeaderName,
    /// Who may have a licence now, from where and how often.
    pub sessions: Arc<Sessions>,
    /// Who is worked for first where all cannot be.
    pub admission: Arc<Admission>,
    /// The query parameter that may; none: the URL carries none.
    pub token_query: Option<String>,
    /// The longest body of a request, in bytes.
    pub body_bytes: usize,
    /// From whom licences of licensed systems come. The URLs of a system without one are not there.
    pub upstreams: Upstreams,
    /// Key exchange with other vendors; none: its URLs are not there.
    pub exchange: Option<Arc<Exchange>>,
}

impl LicenseService {
    /// A service with these parts.
    pub fn new(parts: Parts) -> Self {
        Self {
            parts: Arc::new(parts),
        }
    }

    /// The longest body that is read.
    pub(super) fn body_limit(&self) -> usize {
        self.parts.body_bytes
    }

    /// What answers this route, if it is one of key exchange.
    pub(super) fn exchange(&self, route: &Route) -> Option<&Exchange> {
        match route {
            Route::Speke { .. } | Route::Cpix { .. } => self.parts.exchange.as_deref(),
            Route::ClearKey { .. }
            | Route::ClearKeyRelease { .. }
            | Route::HlsKey { .. }
            | Route::Challenge { .. }
            | Route::Certificate { .. }
            | Route::Session { .. } => None,
        }
    }

    /// Answers, without what the stack adds.
    pub(super) async fn answer(
        &self,
        route: Option<Route>,
        head: &request::Parts,
        body: Result<Bytes, BodyError>,
    ) -> Response {
        let Some(route) = route else {
            return not_found();
        };
        // On URLs that are not answered yet, too: without it a page could not read the 404.
        if head.method == Method::OPTIONS {
            return self.preflight();
        }
        if let Route::Session { act, asset } = route {
            return match head.method {
                Method::POST => self.session(act, &asset, head).await,
                _ => method_not_allowed("POST, OPTIONS"),
            };
        }
        if let Route::ClearKeyRelease { asset } = route {
            return match head.method {
                Method::POST => self.release(asset, head, body).await,
                _ => method_not_allowed("POST, OPTIONS"),
            };
        }
        if let Route::Certificate { system, asset } = &route {
            return self.certificate(*system, asset.as_ref(), head).await;
        }
        let Some(ask) = Ask::of(route, &self.parts.upstreams) else {
            return not_found();
        };
        if ask.asks_for_certificate(&head.method, &body) {
            // Before entitlement and unrecorded: players send it before they know a token, and it is public.
            let message = self.parts.upstreams.widevine_certificate().await;
            return match message {
                Ok(message) => respond(OCTETS, message),
                Err(refusal) => rescue(&refusal),
            };
        }
        match (&head.method, &ask.kind) {
            // The front sends no body with the answer to HEAD. A key is exported and audited for it all the same:
            // whoever may see the status may have the key.
            (&Method::GET | &Method::HEAD, Kind::HlsKey(_))
            | (&Method::POST, Kind::ClearKey | Kind::Licensed(_)) => {
                self.decide_and_record(ask, head, body).await
            }
            (_, Kind::HlsKey(_)) => method_not_allowed("GET, HEAD, OPTIONS"),
            (_, Kind::ClearKey | Kind::Licensed(_)) => method_not_allowed("POST, OPTIONS"),
        }
    }

    /// Public, as the certificate is: no token, no record.
    async fn certificate(
        &self,
        system: LicensedSystem,
        asset: Option<&AssetId>,
        head: &request::Parts,
    ) -> Response {
        match self.parts.upstreams.certificate(system.into(), asset).await {
            Ok(None) => not_found(),
            Ok(Some(_)) if !matches!(head.method, Method::GET | Method::HEAD) => {
                method_not_allowed("GET, HEAD, OPTIONS")
            }
            Ok(Some(certificate)) => respond(OCTETS, certificate),
            Err(refusal) => rescue(&refusal),
        }
    }

    /// Browsers send it before every licence request of a page of another origin, and never with a token.
    fn preflight(&self) -> Response {
        let mut response = cors::LICENSE.preflight();
        let mut allowed = "Authorization, Content-Type".to_owned();
        let names = [&self.parts.token_header];
        for name in names.into_iter().chain(self.parts.sessions.headers()) {
            if *name != header::AUTHORIZATION {
                allowed.push_str(", ");
                allowed.push_str(name.as_str());
            }
        }
        if let Ok(allowed) = HeaderValue::try_from(allowed) {
            response
                .headers_mut()
                .insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
        }
        response
    }

    async fn decide_and_record(
        &self,
        ask: Ask,
        head: &request::Parts,
        body: Result<Bytes, BodyError>,
    ) -> Response {
        let begun = Instant::now();
        let (now, system) = (self.parts.clock.now(), ask.system().as_str());
        let mut draft = Draft::new(now, system, Some(ask.asset.clone()));
        draft.key_ids.extend(ask.named_key());
        let result = self.license(ask, head, body, &mut draft).await;
        // Counted by itself: nothing was decided, and a record of each would be a load of its own.
        if let Err(refusal @ Refusal::Overloaded { .. }) = &result {
            return rescue(refusal);
        }
        let outcome = match &result {
            Ok(_) => Outcome::Granted,
            Err(refusal) => Outcome::from(refusal),
        };
        telemetry::decided(&outcome, begun.elapsed());
        let mut events = Vec::new();
        if let (Some(bearer), Some(asset)) = (&draft.bearer, &draft.asset) {
            let reason = result.as_ref().err().map(Refusal::reason);
            events =
                (self.parts.sessions).decided(bearer, asset, &draft.key_ids, reason, draft.time);
        }
        // First, as it waits for nothing: whoever goes away while events are written is in the record.
        self.parts.decisions.record(draft, outcome);
        self.parts.sessions.post(events).await;
        match result {
            Ok(reply) => reply.into_response(),
            Err(refusal) => rescue(&refusal),
        }
    }

    /// Where a request may carry its token.
    fn sources(&self) -> Sources<'_> {
        Sources {
            header: &self.parts.token_header,
            query: self.parts.token_query.as_deref(),
        }
    }

    /// The pipeline. What becomes known on the way is noted in the draft of the decision's record.
    async fn license(
        &self,
        ask: Ask,
        head: &request::Parts,
        body: Result<Bytes, BodyError>,
        draft: &mut Draft,
    ) -> Result<Reply, Refusal> {
        let Parts {
            rules,
            keys,
            sessions,
            admission,
            upstreams,
            ..
        } = &*self.parts;
        let address = sessions.enter(peer(head), &head.headers)?;
        let custom_data = match (ask.system(), &body) {
            (System::PlayReady, Ok(body)) => playready::tokens(body),
            _ => vec![],
        };
        let token = self.sources().token(head, &custom_data)?;
        let (mut place, verdict) = self.prove(token, head, draft.time).await?;
        let entitlement = verdict.map_err(|rejection| {
            draft.bearer = rejection.bearer;
            rejection.refusal
        })?;
        draft.bearer = Some(entitlement.bearer().clone());
        from_where(&entitlement, address)?;
        sessions.recognise(entitlement.bearer())?;

        // Judged after the token: whoever has none is told that and no more.
        let said = body.as_ref().map_or_else(|_| Bytes::new(), Bytes::clone);
        let body = body.map_err(unread);
        let (mut challenge, form) = ask.read(head, &body)?;
        draft.key_ids.clone_from(&challenge.key_ids);
        // Nobody's module is asked for an asset that the token does not cover.
        if let (System::FairPlay, [], Ok(body)) = (challenge.system, &*challenge.key_ids, &body)
            && entitlement.covers_asset(&challenge.asset)
        {
            let identified;
            (place, identified) = admission
                .outside(place, upstreams.identify(&challenge.asset, body))
                .await?;
            challenge.key_ids.extend(identified?);
            draft.key_ids.clone_from(&challenge.key_ids);
        }

        let mut case = Case::new(&entitlement, &challenge, draft.time);
        if !case.covered.is_empty() {
            case.keys = keys.describe(&case.asset, &case.covered).await?;
        }
        let decision = decide(&case, rules);
        draft.case = Some(case);
        let mut grant = match decision {
            Decision::Grant(grant) => grant,
            Decision::Refuse(refusal) => return Err(refusal),
        };
        draft.left_out.clone_from(&grant.left_out);
        let mut key_ids = grant.key_ids();
        draft.granted.clone_from(&key_ids);
        sessions.retain(&mut key_ids)?;
        grant.keys.retain(|key| key_ids.contains(&key.key_id));
        if matches!(form, Form::Forwarded) {
            upstreams.are_ready(challenge.system, &challenge.asset, &grant)?;
        }
        let (bearer, asset) = (entitlement.bearer(), &challenge.asset);
        let url = head.uri.path_and_query().map_or("", |url| url.as_str());
        let taking = session::Ask {
            bearer,
            demanded: demanded(&entitlement),
            headers: &head.headers,
            asset,
            request: &[url.as_bytes(), &said],
            now: draft.time,
        };
        if sessions.asks_outside() {
            let question = Question {
                policy: (draft.case.as_ref()).and_then(|case| rules.policy_of(case)),
                country: sessions.country(peer(head), &head.headers, address),
                ..sessions.question(&taking, &key_ids, challenge.system)?
            };
            let asking = sessions.authorise(&question, draft.time);
            let verdict;
            (place, verdict) = admission.outside(place, asking).await?;
            draft.authorisation = verdict?;
        }
        let held = sessions.admit(taking).await?;
        let granted = Granted {
            challenge: &challenge,
            grant,
            bearer,
            head,
        };
        match self.give(granted, form, body, place, draft).await {
            Ok(reply) => {
                held.given();
                admission.answered(token);
                Ok(reply)
            }
            Err(refusal) => {
                held.give_back().await;
                Err(refusal)
            }
        }
    }

    /// The licence, once all that it needs is taken.
    async fn give(
        &self,
        granted: Granted<'_>,
        form: Form,
        body: Result<Bytes, Refusal>,
        place: Place,
        draft: &mut Draft,
    ) -> Result<Reply, Refusal> {
        let Parts {
            keystore,
            upstreams,
            ..
        } = &*self.parts;
        let Granted {
            challenge,
            mut grant,
            bearer,
            head,
        } = granted;
        // Exported also where the service has the keys itself: so the keystore records who gets which, and has the last word
        // on what is sealed, withdrawn or destroyed.
        let license = issue(&**keystore, challenge, &grant, bearer).await?;
        draft.key_ids = license.key_ids();
        drop(place);
        match form {
            Form::JwkSet(session) => Ok(Reply::Secret {
                content_type: "application/json",
                bytes: clearkey::write(license.keys(), session),
            }),
            Form::RawKey => Ok(Reply::Secret {
                content_type: OCTETS,
                bytes: hls_key::write(license.first()),
            }),
            Form::Forwarded => {
                (grant.keys).retain(|key| draft.key_ids.contains(&key.key_id));
                let go_along = upstreams.take_keys(challenge.system, &challenge.asset);
                let license = go_along.then_some(license);
                let (reply, answered) = forward(
                    upstreams,
                    challenge,
                    &grant,
                    license.as_ref(),
                    head,
                    &body?,
                    draft.time,
                )
                .await?;
                draft.upstream = Some(answered);
                Ok(Reply::Forwarded(reply))
            }
        }
    }
}

/// What is granted, and to whom.
struct Granted<'a> {
    challenge: &'a Challenge,
    grant: Grant,
    bearer: &'a Bearer,
    head: &'a request::Parts,
}

impl LicenseService {
    /// A stream goes on or ends. No key leaves, so that is no decision of the log's.
    async fn session(&self, act: SessionAct, asset: &AssetId, head: &request::Parts) -> Response {
        let result = self.act(act, asset, head).await;
        match result {
            Ok(Some(leased)) => {
                let document = serde_json::json!({ "leased": leased.as_seconds() });
                let mut response = Response::new(Body::full(document.to_string()));
                let json = HeaderValue::from_static("application/json");
                response.headers_mut().insert(header::CONTENT_TYPE, json);
                response
            }
            Ok(None) => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::NO_CONTENT;
                response
            }
            Err(refusal) => {
                tracing::debug!(reason = refusal.reason(), "a stream is not renewed");
                rescue(&refusal)
            }
        }
    }

    /// What a token proves, when it is the request's turn: those whose token this node has answered go before the others,
    /// whatever their URL says, since nothing else is known of a token before its signature is verified.
    ///
    /// # Errors
    /// As for [`Admission::enter`].
    async fn prove(
        &self,
        token: &str,
        head: &request::Parts,
        now: UnixTime,
    ) -> Result<(Place, Result<Entitlement, Rejection>), Refusal> {
        let Parts {
            verifier,
            admission,
            ..
        } = &*self.parts;
        let class = || match admission.has_answered(token) {
            true => Class::Renewal,
            false => Class::Start,
        };
        let place = admission.enter(queued(head), class).await?;
        let verdict = verifier.verify(token, now);
        let missing = (verdict.as_ref().err())
            .and_then(|rejection| verifier.missing_keys(token, &rejection.refusal));
        let Some(missing) = missing else {
            return Ok((place, verdict));
        };
        // Meanwhile without a place, and without a claim to one: strangers make up key ids.
        drop(place);
        let fetched = missing.fetched().await;
        let place = admission.enter(Duration::ZERO, class).await?;
        match fetched {
            true => Ok((place, verifier.verify(token, now))),
            false => Ok((place, verdict)),
        }
    }

    /// Who asks, where no key is to be had.
    pub(super) async fn recognise(
        &self,
        head: &request::Parts,
        now: UnixTime,
    ) -> Result<(Place, Entitlement), Rejection> {
        let address = (self.parts.sessions).enter(peer(head), &head.headers)?;
        let token = self.sources().token(head, &[])?;
        let (place, verdict) = self.prove(token, head, now).await?;
        let entitlement = verdict?;
        match from_where(&entitlement, address) {
            Ok(()) => Ok((place, entitlement)),
            Err(refusal) => Err(Rejection {
                refusal,
                bearer: Some(entitlement.bearer().clone()),
            }),
        }
    }

    /// When the stream's lease now ends; none where it has ended, or streams are not counted.
    async fn act(
        &self,
        act: SessionAct,
        asset: &AssetId,
        head: &request::Parts,
    ) -> Result<Option<UnixTime>, Refusal> {
        let now = self.parts.clock.now();
        let sessions = &self.parts.sessions;
        let known = self.recognise(head, now).await;
        let (_place, entitlement) = known.map_err(|rejection| rejection.refusal)?;
        if !entitlement.covers_asset(asset) {
            return Err(Refusal::AssetNotEntitled);
        }
        let ask = session::Ask {
            bearer: entitlement.bearer(),
            demanded: demanded(&entitlement),
            headers: &head.headers,
            asset,
            request: &[],
            now,
        };
        match act {
            SessionAct::Renew => {
                sessions.recognise(entitlement.bearer())?;
                let ends = sessions.renew(ask).await?;
                // Another node may have given the licence.
                if ends.is_some()
                    && let Ok(token) = self.sources().token(head, &[])
                {
                    self.parts.admission.answered(token);
                }
                Ok(ends)
            }
            // Whoever may do nothing any more may still stop.
            SessionAct::Release => sessions.release(ask).await.map(|()| None),
        }
    }
}

/// The address of the connection.
fn peer(head: &request::Parts) -> Option<IpAddr> {
    let connection = head.extensions.get::<ConnectionInfo>();
    connection.map(|connection| connection.peer.ip())
}

/// How long its connection waited to be taken up, if it is the first request of it.
fn queued(head: &request::Parts) -> Duration {
    let queued = head.extensions.get::<Queued>();
    queued.map_or(Duration::ZERO, |Queued(waited)| *waited)
}

/// The most that any issuer's clock may stand apart (`license.issuers[].leeway`).
const MAX_LEEWAY: Duration = Duration::from_secs(600);

/// What the token asks for besides keys.
pub(super) fn demanded(entitlement: &Entitlement) -> Demanded {
    let demands = entitlement.demands();
    let streams = demands.streams.unwrap_or_default();
    Demanded {
        single_use: demands.single_use,
        until: entitlement.expires().map(|end| end.plus(MAX_LEEWAY)),
        session: demands.session.clone(),
        device: demands.device.clone(),
        devices: demands.devices,
        streams: streams.limit,
        lease: streams.interval,
        grace: streams.grace,
    }
}

/// Whether the token may be used at this address.
fn from_where(entitlement: &Entitlement, address: Option<IpAddr>) -> Result<(), Refusal> {
    let Some(blocks) = &entitlement.demands().addresses else {
        return Ok(());
    };
    let holds = |address| blocks.iter().any(|block| block.contains(address));
    match address.is_some_and(holds) {
        true => Ok(()),
        false => Err(Refusal::AddressNotAllowed),
    }
}

impl Service for LicenseService {
    async fn call(&self, request: Request) -> Response {
        stack::call(self, request).await
    }
}

/// A request to a licence URL that is answered, its body unjudged.
struct Ask {
    asset: AssetId,
    kind: Kind,
}

enum Kind {
    ClearKey,
    HlsKey(KeyId),
    Licensed(LicensedSystem),
}

impl Ask {
    fn of(route: Route, upstreams: &Upstreams) -> Option<Self> {
        match route {
            Route::ClearKey { asset } => Some(Self {
                asset,
                kind: Kind::ClearKey,
            }),
            Route::HlsKey { asset, key_id } => Some(Self {
                asset,
                kind: Kind::HlsKey(key_id),
            }),
            Route::Challenge { system, asset } => (upstreams.answer_for(system.into(), &asset))
                .then_some(Self {
                    asset,
                    kind: Kind::Licensed(system),
                }),
            Route::ClearKeyRelease { .. }
            | Route::Certificate { .. }
            | Route::Session { .. }
            | Route::Speke { .. }
            | Route::Cpix { .. } => None,
        }
    }

    fn asks_for_certificate(&self, method: &Method, body: &Result<Bytes, BodyError>) -> bool {
        method == Method::POST
            && matches!(self.kind, Kind::Licensed(LicensedSystem::Widevine))
            && (body.as_ref()).is_ok_and(|body| widevine::asks_for_certificate(body))
    }

    fn system(&self) -> System {
        match self.kind {
            Kind::ClearKey => System::ClearKey,
            Kind::HlsKey(_) => System::Hls,
            Kind::Licensed(system) => system.into(),
        }
    }

    /// The key that the URL names; in a body none is known yet.
    fn named_key(&self) -> Option<KeyId> {
        match self.kind {
            Kind::ClearKey | Kind::Licensed(_) => None,
            Kind::HlsKey(key_id) => Some(key_id),
        }
    }

    /// What is asked for, and the form in which it is to be given.
    fn read(
        self,
        head: &request::Parts,
        body: &Result<Bytes, Refusal>,
    ) -> Result<(Challenge, Form), Refusal> {
        let body = body.as_ref().map_err(Clone::clone);
        let system = self.system();
        let (key_ids, persistent, form) = match self.kind {
            Kind::ClearKey => {
                let request = clearkey::Request::read(body?)?;
                let persistent = request.session == SessionType::PersistentLicense;
                (request.key_ids, persistent, Form::JwkSet(request.session))
            }
            Kind::HlsKey(key_id) => (vec![key_id], false, Form::RawKey),
            Kind::Licensed(system) => {
                let query = head.uri.query();
                let key_ids = challenge::key_ids(system, query, body?)?;
                (key_ids, false, Form::Forwarded)
            }
        };
        Ok((
            Challenge {
                system,
                asset: self.asset,
                key_ids,
                persistent,
            },
            form,
        ))
    }
}

pub(super) fn unread(error: BodyError) -> Refusal {
    match error {
        BodyError::TooLarge { .. } => Refusal::RequestTooLong,
        BodyError::Broken | BodyError::Slow => Refusal::RequestIncomplete,
    }
}

/// Has an upstream answer.
async fn forward(
    upstreams: &Upstreams,
    challenge: &Challenge,
    grant: &Grant,
    license: Option<&License>,
    head: &request::Parts,
    body: &[u8],
    now: UnixTime,
) -> Result<(upstream::Reply, upstream::Answered), Refusal> {
    let call = upstream::Call {
        challenge,
        grant,
        license,
        headers: &head.headers,
        body,
        now,
    };
    upstreams.answer(&call).await
}

/// The form of a licence.
enum Form {
    JwkSet(SessionType),
    RawKey,
    /// Whatever an upstream gives.
    Forwarded,
}

/// Licences of licensed systems, certificates and raw keys.
const OCTETS: &str = "application/octet-stream";

/// A licence as bytes.
enum Reply {
    /// It holds keys.
    Secret {
        content_type: &'static str,
        bytes: SecretBytes,
    },
    /// It holds none that anyone but the device could read.
    Forwarded(upstream::Reply),
}

impl Reply {
    fn into_response(self) -> Response {
        match self {
            // The buffer is wiped when the connection lets go of it. What TLS makes of it is ciphertext; a plain
            // connection hands it to the kernel.
            Self::Secret {
                content_type,
                bytes,
            } => respond(content_type, Bytes::from_owner(bytes)),
            Self::Forwarded(reply) => {
                let mut response = Response::new(Body::full(reply.body));
                let headers = response.headers_mut();
                headers.insert(header::CONTENT_TYPE, reply.content_type);
                // The media type is an upstream's word: no page is to make more of it.
                let nosniff = HeaderValue::from_static("nosniff");
                headers.insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
                response
            }
        }
    }
}

pub(super) fn respond(content_type: &'static str, body: Bytes) -> Response {
    let mut response = Response::new(Body::full(body));
    let content_type = HeaderValue::from_static(content_type);
    (response.headers_mut()).insert(header::CONTENT_TYPE, content_type);
    response
}
