//! A request walks through the pipeline: token, entitlement, challenge, decision, licence.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, header, request};
use keystore_client::Keystore;
use keystore_types::{AssetId, KeyId};
use origin_front::{Body, BodyError, Request, Response, Service, cors};

use super::bearer::Sources;
use super::rescue::{method_not_allowed, not_found, rescue};
use super::route::Route;
use super::stack;
use crate::decision_log::{DecisionLog, Draft, Outcome};
use crate::entitlement::Verifier;
use crate::exchange::Exchange;
use crate::format::clearkey::{self, SessionType};
use crate::format::{SecretBytes, hls_key};
use crate::issue::{License, issue};
use crate::policy::{Case, Challenge, Decision, Rules, System, decide};
use crate::{Clock, KeyBook, Refusal, telemetry};

/// Answers licence requests.
#[derive(Clone)]
pub struct LicenseService {
    parts: Arc<Parts>,
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
    /// The query parameter that may; none: the URL carries none.
    pub token_query: Option<String>,
    /// The longest body of a request, in bytes.
    pub body_bytes: usize,
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
            | Route::HlsKey { .. }
            | Route::Challenge { .. }
            | Route::Certificate { .. } => None,
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
        let Some(ask) = Ask::of(route) else {
            return not_found();
        };
        match (&head.method, &ask.kind) {
            // The front sends no body with the answer to HEAD. A key is exported and audited for it all the same:
            // whoever may see the status may have the key.
            (&Method::GET | &Method::HEAD, Kind::HlsKey(_)) | (&Method::POST, Kind::ClearKey) => {
                self.decide_and_record(ask, head, body).await
            }
            (_, Kind::HlsKey(_)) => method_not_allowed("GET, HEAD, OPTIONS"),
            (_, Kind::ClearKey) => method_not_allowed("POST, OPTIONS"),
        }
    }

    /// Browsers send it before every licence request of a page of another origin, and never with a token.
    fn preflight(&self) -> Response {
        let mut response = cors::LICENSE.preflight();
        let allowed = format!("Authorization, Content-Type, {}", self.parts.token_header);
        if self.parts.token_header != header::AUTHORIZATION
            && let Ok(allowed) = HeaderValue::try_from(allowed)
        {
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
        let mut draft = Draft {
            time: self.parts.clock.now(),
            system: ask.system().as_str(),
            asset: Some(ask.asset.clone()),
            key_ids: ask.named_key().into_iter().collect(),
            bearer: None,
            partner: None,
            case: None,
            left_out: Vec::new(),
        };
        let result = self.license(ask, head, body, &mut draft).await;
        let outcome = match &result {
            Ok(_) => Outcome::Granted,
            Err(refusal) => Outcome::from(refusal),
        };
        telemetry::decided(&outcome, begun.elapsed());
        self.parts.decisions.record(draft, outcome);
        match result {
            Ok(reply) => reply.into_response(),
            Err(refusal) => rescue(&refusal),
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
            verifier,
            rules,
            keystore,
            keys,
            ..
        } = &*self.parts;
        let sources = Sources {
            header: &self.parts.token_header,
            query: self.parts.token_query.as_deref(),
        };
        let token = sources.token(head, None)?;
        let verdict = verifier.admit(token, draft.time).await;
        let entitlement = verdict.map_err(|rejection| {
            draft.bearer = rejection.bearer;
            rejection.refusal
        })?;
        draft.bearer = Some(entitlement.bearer().clone());

        // Judged after the token: whoever has none is told that and no more.
        let (challenge, form) = ask.read(body)?;
        draft.key_ids.clone_from(&challenge.key_ids);

        let mut case = Case::new(&entitlement, &challenge, draft.time);
        if !case.covered.is_empty() {
            case.keys = keys.describe(&case.asset, &case.covered).await?;
        }
        let decision = decide(&case, rules);
        draft.case = Some(case);
        let grant = match decision {
            Decision::Grant(grant) => grant,
            Decision::Refuse(refusal) => return Err(refusal),
        };
        draft.left_out.clone_from(&grant.left_out);
        let license = issue(&**keystore, &challenge, &grant, entitlement.bearer()).await?;
        draft.key_ids = license.key_ids();
        Ok(form.write(&license))
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
}

impl Ask {
    fn of(route: Route) -> Option<Self> {
        match route {
            Route::ClearKey { asset } => Some(Self {
                asset,
                kind: Kind::ClearKey,
            }),
            Route::HlsKey { asset, key_id } => Some(Self {
                asset,
                kind: Kind::HlsKey(key_id),
            }),
            Route::Challenge { .. }
            | Route::Certificate { .. }
            | Route::Speke { .. }
            | Route::Cpix { .. } => None,
        }
    }

    fn system(&self) -> System {
        match self.kind {
            Kind::ClearKey => System::ClearKey,
            Kind::HlsKey(_) => System::Hls,
        }
    }

    /// The key that the URL names; in a body none is known yet.
    fn named_key(&self) -> Option<KeyId> {
        match self.kind {
            Kind::ClearKey => None,
            Kind::HlsKey(key_id) => Some(key_id),
        }
    }

    /// What is asked for, and the form in which it is to be given.
    fn read(self, body: Result<Bytes, BodyError>) -> Result<(Challenge, Form), Refusal> {
        let system = self.system();
        let (key_ids, persistent, form) = match self.kind {
            Kind::ClearKey => {
                let body = body.map_err(unread)?;
                let request = clearkey::Request::read(&body)?;
                let persistent = request.session == SessionType::PersistentLicense;
                (request.key_ids, persistent, Form::JwkSet(request.session))
            }
            Kind::HlsKey(key_id) => (vec![key_id], false, Form::RawKey),
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

fn unread(error: BodyError) -> Refusal {
    match error {
        BodyError::TooLarge { .. } => Refusal::RequestTooLong,
        BodyError::Broken | BodyError::Slow => Refusal::RequestIncomplete,
    }
}

/// The form of a licence.
enum Form {
    JwkSet(SessionType),
    RawKey,
}

impl Form {
    fn write(self, license: &License) -> Reply {
        match self {
            Self::JwkSet(session) => Reply {
                content_type: "application/json",
                bytes: clearkey::write(license.keys(), session),
            },
            Self::RawKey => Reply {
                content_type: "application/octet-stream",
                bytes: hls_key::write(license.first()),
            },
        }
    }
}

/// A licence as bytes.
struct Reply {
    content_type: &'static str,
    bytes: SecretBytes,
}

impl Reply {
    fn into_response(self) -> Response {
        // The buffer is wiped when the connection lets go of it. What TLS makes of it is ciphertext; a plain
        // connection hands it to the kernel.
        let mut response = Response::new(Body::full(Bytes::from_owner(self.bytes)));
        let content_type = HeaderValue::from_static(self.content_type);
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, content_type);
        response
    }
}
