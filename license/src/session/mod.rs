//! Who may have a licence now: from where, how often, on how many devices, in how many streams at once, and with what
//! was not revoked. What a token proves and a policy grants comes before; keys come after.
//!
//! ```text
//! request -> enter -> token -> recognise -> decision -> admit -> keys
//!            address           revoked                 keys revoked, their rate
//!            country, rate     rates                   token, device, stream
//! ```
//!
//! Without rules, a token that asks for some, and webhooks, none of these touches the store. `license/design/sessions.md` says
//! what is guaranteed across nodes.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use conf::{SessionSettings, WebhookEvent};
use http::{HeaderMap, HeaderName};
use keystore_types::{AssetId, KeyId};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use self::access::Access;
pub use self::rates::RateOf;
use self::rates::Rates;
use self::revocations::Revocations;
use crate::decision_log::Authorisation;
use crate::entitlement::{Bearer, is_name};
use crate::policy::System;
use crate::store::postgres::Postgres;
use crate::store::sqlite::{self, Sqlite};
use crate::store::thread::Thread;
use crate::store::{
    self, Change, Claim, DeviceUse, Event, Expiry, Store, StreamUse, Taken, TokenUse, Verdict,
    Viewer, digest, new_claim,
};
use crate::webhook::{Authoriser, Question, Teller, Told, post};
use crate::{Clock, Error, Refusal, UnixTime};

mod access;
pub(crate) mod api;
mod country;
mod rates;
mod revocations;

/// How often what has expired is removed from the store.
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);

/// How long the events of a licence wait at most to hear whether it was given: longer than any takes.
const UNSETTLED: Duration = Duration::from_secs(600);

/// How long a token without an end counts as used: about as long as anybody would keep it.
const ENDLESS: Duration = Duration::from_secs(365 * 86_400);

/// What a token may say of the length of leases: not so short that players cannot keep up, nor for ever.
const MIN_LEASE: Duration = Duration::from_secs(10);
const MAX_LEASE: Duration = Duration::from_secs(86_400);

/// The rules, and what is remembered.
#[derive(Debug)]
pub struct Sessions {
    settings: SessionSettings,
    session_header: Option<HeaderName>,
    device_header: Option<HeaderName>,
    access: Arc<Access>,
    rates: Rates,
    revocations: Option<Arc<Revocations>>,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    teller: Teller,
    authoriser: Option<Authoriser>,
    /// Dropped before the store, which its tasks use.
    thread: Thread,
}

/// What a token asks for by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demanded {
    /// The token is good for one licence.
    pub single_use: bool,
    /// When it ends, leeway included; none: never.
    pub until: Option<UnixTime>,
    /// The stream that it is for, whatever a header says.
    pub session: Option<String>,
    /// The device, likewise.
    pub device: Option<String>,
    /// Devices, in place of what is configured.
    pub devices: Option<u32>,
    /// Streams at once, in place of what is configured.
    pub streams: Option<u32>,
    /// How long a stream's lease lasts, likewise.
    pub lease: Option<Duration>,
    /// How much longer its place stays taken, at least.
    pub grace: Option<Duration>,
}

/// A licence that was decided on.
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    /// Who bears the token.
    pub bearer: &'a Bearer,
    /// What the token asks for.
    pub demanded: Demanded,
    /// The request's headers, where session and device may be named.
    pub headers: &'a HeaderMap,
    /// What is to be played.
    pub asset: &'a AssetId,
    /// What the request says, in parts: the same again is a retry.
    pub request: &'a [&'a [u8]],
    /// The present moment.
    pub now: UnixTime,
}

impl Sessions {
    /// Opens the store, and reads what was revoked and which country has which addresses.
    ///
    /// # Errors
    /// A store that cannot be opened, or that a newer version has written; a country file, or a key or certificate of a
    /// webhook, that cannot be read.
    pub fn open(
        settings: &SessionSettings,
        state_dir: &Path,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Error> {
        let capacity = settings.store.capacity;
        let store: Arc<dyn Store> = match &settings.store.postgres {
            Some(postgres) => Arc::new(Postgres::open(postgres, capacity)?),
            None => Arc::new(Sqlite::open(&state_dir.join(sqlite::FILE_NAME), capacity)?),
        };
        Self::with_store(settings, store, clock)
    }

    /// As [`Sessions::open`], with this store.
    ///
    /// # Errors
    /// A country file, or a key or certificate of a webhook, that cannot be read.
    pub fn with_store(
        settings: &SessionSettings,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Error> {
        let header = |name: &Option<String>| {
            (name.as_deref().map(HeaderName::try_from).transpose())
                .map_err(|error| Error::internal("read the checked name of a header", error))
        };
        let access = Arc::new(Access::open(&settings.access)?);
        let revocations = settings.revocations.map(|rule| {
            Arc::new(Revocations::new(
                rule,
                Arc::clone(&store),
                Arc::clone(&clock),
            ))
        });
        let thread = Thread::start("license-sessions")?;
        if let Some(revocations) = &revocations {
            let first = Arc::clone(revocations);
            if let Err(error) = thread.wait_for(async move { first.read().await }) {
                tracing::error!(%error, "what was revoked is not known yet: no licence is given");
            }
            thread.start_task(Arc::clone(revocations).follow());
        }
        thread.start_task(Arc::clone(&access).follow());
        let (teller, telling) =
            Teller::open(&settings.webhooks, Arc::clone(&store), Arc::clone(&clock))?;
        if !settings.webhooks.is_empty() {
            thread.start_task(telling.run());
        }
        let ended = hooks_of(&teller, WebhookEvent::SessionExpired);
        thread.start_task(sweep(Arc::clone(&store), Arc::clone(&clock), ended));
        Ok(Self {
            session_header: header(&settings.session_header)?,
            device_header: header(&settings.device_header)?,
            access,
            rates: Rates::new(settings.rates),
            revocations,
            store,
            clock,
            teller,
            authoriser: (settings.authorisation.as_ref())
                .map(Authoriser::open)
                .transpose()?,
            settings: settings.clone(),
            thread,
        })
    }

    /// The headers by which players name streams and devices: pages of other origins must be allowed to send them.
    pub fn headers(&self) -> impl Iterator<Item = &HeaderName> {
        self.session_header.iter().chain(&self.device_header)
    }

    /// Whether a client may ask at all, by its address, which is returned. `peer` is that of its connection.
    ///
    /// # Errors
    /// [`Refusal::AddressNotAllowed`], [`Refusal::CountryNotAllowed`], [`Refusal::RateExceeded`].
    pub fn enter(
        &self,
        peer: Option<IpAddr>,
        headers: &HeaderMap,
    ) -> Result<Option<IpAddr>, Refusal> {
        let address = self.access.enter(peer, headers)?;
        if let Some(address) = address {
            self.rates.take(RateOf::Address, &rates::block(address))?;
        }
        Ok(address)
    }

    /// Whether whoever proved to be somebody may go on.
    ///
    /// # Errors
    /// [`Refusal::SubjectRevoked`], [`Refusal::TokenRevoked`], [`Refusal::RateExceeded`], and
    /// [`Refusal::SessionsUnavailable`] where it is not known what was revoked.
    pub fn recognise(&self, bearer: &Bearer) -> Result<(), Refusal> {
        if let Some(revocations) = &self.revocations {
            revocations.judge(bearer)?;
        }
        if let Some(subject) = &bearer.subject {
            let viewer = Viewer::new(&bearer.issuer, subject);
            self.rates.take(RateOf::Subject, viewer.as_bytes())?;
        }
        // Last, and not before the token: what nobody proved must not use up what is everybody's.
        self.rates.take(RateOf::Tenant, &[])
    }

    /// Leaves out keys that were revoked.
    ///
    /// # Errors
    /// [`Refusal::KeysRevoked`] where none is left; [`Refusal::RateExceeded`] by one of the others.
    pub fn retain(&self, key_ids: &mut Vec<KeyId>) -> Result<(), Refusal> {
        if let Some(revocations) = &self.revocations {
            revocations.retain(key_ids)?;
        }
        (key_ids.iter()).try_for_each(|key_id| self.rates.take(RateOf::Key, key_id.as_bytes()))
    }

    /// Whether [`Self::authorise`] asks anybody.
    pub fn asks_outside(&self) -> bool {
        self.authoriser.is_some()
    }

    /// What is asked then, as far as it is known here.
    ///
    /// # Errors
    /// Those of [`Sessions::admit`] for a device or stream without a name or a viewer: nobody is asked about what is refused
    /// anyway.
    pub fn question<'a>(
        &self,
        ask: &Ask<'a>,
        key_ids: &[KeyId],
        system: System,
    ) -> Result<Question<'a>, Refusal> {
        Ok(Question {
            session: self.counted_stream(ask)?.map(|(_, session)| session),
            device: self.counted_device(ask)?.map(|(_, device)| device),
            ..Question::new(ask.bearer, ask.asset, key_ids, system.as_str())
        })
    }

    /// The country of a request, where proxy or file says it.
    pub fn country(
        &self,
        peer: Option<IpAddr>,
        headers: &HeaderMap,
        address: Option<IpAddr>,
    ) -> Option<String> {
        self.access.located(peer, headers, address)
    }

    /// Asks whoever is to be asked, and says by whose word the licence passes; none: nobody is to be asked.
    ///
    /// # Errors
    /// [`Refusal::NotAuthorised`], [`Refusal::AuthoriserUnavailable`].
    pub async fn authorise(
        &self,
        question: &Question<'_>,
        now: UnixTime,
    ) -> Result<Option<Authorisation>, Refusal> {
        match &self.authoriser {
            Some(authoriser) => authoriser.judge(question, now).await.map(Some),
            None => Ok(None),
        }
    }

    /// Tells whoever is to be told that a licence was given or, with a reason, refused. That one was given is returned, for
    /// [`Sessions::post`] before the answer; a refusal is on its way, as nobody who has no licence is to keep others waiting
    /// for the store.
    pub fn decided(
        &self,
        bearer: &Bearer,
        asset: &AssetId,
        key_ids: &[KeyId],
        reason: Option<&'static str>,
        now: UnixTime,
    ) -> Vec<Event> {
        let event = match reason {
            None => WebhookEvent::Granted,
            Some(_) => WebhookEvent::Refused,
        };
        let told = Told {
            kids: key_ids.to_vec(),
            reason,
            ..Told::new(event, bearer, asset)
        };
        match reason {
            None => self.teller.events(&told, now),
            Some(_) => {
                self.teller.tell(&told, now);
                Vec::new()
            }
        }
    }

    /// Has events told from now on. They are in the store when this returns, or lost and counted.
    pub async fn post(&self, events: Vec<Event>) {
        post(&*self.store, events).await;
    }

    /// What is told of a stream.
    fn stream_events(&self, event: WebhookEvent, ask: &Ask<'_>, session: &str) -> Vec<Event> {
        (self.teller).events(&told_of_stream(event, ask, session), ask.now)
    }

    /// Takes what the licence needs: the token, a device, a stream; all of it or none. Whoever asked says what became of the
    /// licence: [`Held::given`] or [`Held::give_back`].
    ///
    /// # Errors
    /// [`Refusal::TokenReplayed`], [`Refusal::DeviceLimit`], [`Refusal::StreamLimit`]; [`Refusal::ClaimMissing`] and
    /// [`Refusal::Unnamed`] where what is counted has no name; [`Refusal::SessionsUnavailable`].
    pub async fn admit(&self, ask: Ask<'_>) -> Result<Held, Refusal> {
        let token = if self.settings.single_use || ask.demanded.single_use {
            Some(self.token(&ask)?)
        } else {
            None
        };
        let device = self.device(&ask)?;
        let stream = self.stream(&ask)?;
        if token.is_none() && device.is_none() && stream.is_none() {
            return Ok(Held::default());
        }
        let Bearer {
            issuer,
            subject,
            token_id,
        } = ask.bearer;
        let viewer = match (subject, token_id) {
            (Some(subject), _) => Viewer::new(issuer, subject),
            // Nobody is counted; the token is a viewer of its own.
            (None, Some(token_id)) if device.is_none() && stream.is_none() => {
                Viewer::of_token(issuer, token_id)
            }
            (None, _) => return Err(Refusal::ClaimMissing("sub")),
        };
        let claim = Claim {
            now: ask.now,
            viewer,
            events_wait: Some(ask.now.plus(UNSETTLED)),
            token,
            device,
            stream,
        };
        let (verdict, held) = self.take(claim).await.map_err(unavailable)?;
        match verdict {
            Verdict::Granted { .. } => Ok(held),
            Verdict::Replayed => Err(Refusal::TokenReplayed),
            Verdict::DeviceLimit => Err(Refusal::DeviceLimit),
            Verdict::StreamLimit(free) => Err(Refusal::StreamLimit {
                retry_after: seconds_until(free, ask.now),
            }),
            Verdict::Full => Err(Refusal::SessionsFull),
        }
    }

    /// Asks the store in a task that goes on where whoever asked has gone away: what is taken for nobody is given back.
    async fn take(&self, claim: Claim) -> Result<(Verdict, Held), Error> {
        let (reply, answer) = oneshot::channel();
        let (store, tasks) = (Arc::clone(&self.store), self.thread.handle());
        self.thread.start_task(async move {
            let taken = store.admit(claim).await.map(|(verdict, taken)| {
                let holding = match verdict {
                    Verdict::Granted { .. } => Some(Holding {
                        taken,
                        store,
                        tasks,
                    }),
                    Verdict::Replayed
                    | Verdict::DeviceLimit
                    | Verdict::StreamLimit(_)
                    | Verdict::Full => None,
                };
                (verdict, Held(holding))
            });
            // What is not heard is dropped.
            let _ = reply.send(taken);
        });
        (answer.await).unwrap_or_else(|error| Err(Error::internal("work on the store", error)))
    }

    /// Says that a stream goes on; returns when its lease now ends, or `None` where streams are not counted.
    ///
    /// # Errors
    /// As for [`Sessions::admit`].
    pub async fn renew(&self, ask: Ask<'_>) -> Result<Option<UnixTime>, Refusal> {
        let Some(stream) = self.stream(&ask)? else {
            return Ok(None);
        };
        let ends = ask.now.plus(stream.term);
        let claim = Claim {
            now: ask.now,
            viewer: viewer(ask.bearer)?,
            token: None,
            device: None,
            stream: Some(stream),
            events_wait: None,
        };
        let (verdict, _taken) = self.store.admit(claim).await.map_err(unavailable)?;
        match verdict {
            Verdict::StreamLimit(free) => Err(Refusal::StreamLimit {
                retry_after: seconds_until(free, ask.now),
            }),
            Verdict::Full => Err(Refusal::SessionsFull),
            // Neither token nor device was asked for.
            Verdict::Granted { .. } | Verdict::Replayed | Verdict::DeviceLimit => Ok(Some(ends)),
        }
    }

    /// Ends a stream. One that is not there has ended.
    ///
    /// # Errors
    /// As for [`Sessions::renew`].
    pub async fn release(&self, ask: Ask<'_>) -> Result<(), Refusal> {
        let Some(stream) = self.stream(&ask)? else {
            return Ok(());
        };
        let release = Change::Release {
            viewer: viewer(ask.bearer)?,
            events: self.stream_events(WebhookEvent::SessionEnded, &ask, &stream.session),
            session: stream.session,
        };
        self.store.change(release).await.map_err(unavailable)?;
        Ok(())
    }

    /// What is told when the stream runs out, where anybody wants to hear it: the store knows no subject by itself.
    fn expiry(&self, ask: &Ask<'_>, session: &str) -> Result<Option<Expiry>, Error> {
        let event = WebhookEvent::SessionExpired;
        let hooks = hooks_of(&self.teller, event);
        if hooks.is_empty() {
            return Ok(None);
        }
        let told = told_of_stream(event, ask, session);
        let data = serde_json::to_string(&told)
            .map_err(|error| Error::internal("write an event", error))?;
        Ok(Some(Expiry { hooks, data }))
    }

    fn token(&self, ask: &Ask<'_>) -> Result<TokenUse, Refusal> {
        let token_id = (ask.bearer.token_id.as_ref()).ok_or(Refusal::ClaimMissing("jti"))?;
        Ok(TokenUse {
            token: digest(&[b"token", ask.bearer.issuer.as_bytes(), token_id.as_bytes()]),
            request: digest(ask.request),
            retry: self.settings.retry_window,
            until: (ask.demanded.until).unwrap_or_else(|| ask.now.plus(ENDLESS)),
            claim: new_claim().map_err(unavailable)?,
        })
    }

    fn device(&self, ask: &Ask<'_>) -> Result<Option<DeviceUse>, Refusal> {
        let Some((limit, device)) = self.counted_device(ask)? else {
            return Ok(None);
        };
        let added = Told {
            device: Some(device.clone()),
            ..Told::new(WebhookEvent::DeviceAdded, ask.bearer, ask.asset)
        };
        Ok(Some(DeviceUse {
            device,
            limit,
            term: self.settings.device_term,
            claim: new_claim().map_err(unavailable)?,
            events: self.teller.events(&added, ask.now),
        }))
    }

    /// The most devices, and which one this is; none where they are not counted.
    fn counted_device(&self, ask: &Ask<'_>) -> Result<Option<(u32, String)>, Refusal> {
        let Some(limit) = ask.demanded.devices.or(self.settings.devices) else {
            return Ok(None);
        };
        viewer(ask.bearer)?;
        let device = match &ask.demanded.device {
            Some(device) => Some(device.clone()),
            None => named("device", self.device_header.as_ref(), ask.headers)?,
        };
        Ok(Some((limit, device.ok_or(Refusal::Unnamed("device"))?)))
    }

    fn stream(&self, ask: &Ask<'_>) -> Result<Option<StreamUse>, Refusal> {
        let Some((limit, session)) = self.counted_stream(ask)? else {
            return Ok(None);
        };
        Ok(Some(StreamUse {
            asset: ask.asset.clone(),
            limit,
            term: (ask.demanded.lease).map_or(self.settings.lease, |lease| {
                lease.clamp(MIN_LEASE, MAX_LEASE)
            }),
            // Clocks stand apart whatever a token says.
            grace: (ask.demanded.grace.unwrap_or_default()).clamp(self.settings.grace, MAX_LEASE),
            claim: new_claim().map_err(unavailable)?,
            events: self.stream_events(WebhookEvent::SessionStarted, ask, &session),
            expiry: self.expiry(ask, &session).map_err(unavailable)?,
            session,
        }))
    }

    /// The most streams at once, and which one this is; none where they are not counted.
    fn counted_stream(&self, ask: &Ask<'_>) -> Result<Option<(u32, String)>, Refusal> {
        let Some(limit) = ask.demanded.streams.or(self.settings.streams) else {
            return Ok(None);
        };
        viewer(ask.bearer)?;
        let named = match &ask.demanded.session {
            Some(session) => Some(session.clone()),
            None => named("session", self.session_header.as_ref(), ask.headers)?,
        };
        let session = match named {
            Some(session) => session,
            None if self.session_header.is_some() => return Err(Refusal::Unnamed("session")),
            None => {
                let token_id = ask.bearer.token_id.clone();
                token_id.ok_or(Refusal::ClaimMissing("jti"))?
            }
        };
        Ok(Some((limit, session)))
    }
}

/// What a licence has taken while it is not known whether it will be given. Dropped, it is given back: whoever asked has gone
/// away and has no answer.
#[derive(Debug, Default)]
#[must_use = "say what became of the licence"]
pub struct Held(Option<Holding>);

#[derive(Debug)]
struct Holding {
    taken: Taken,
    store: Arc<dyn Store>,
    tasks: Handle,
}

impl Held {
    /// The licence was given. What is to be told of it is due, soon; where this server ends before, when it was waited for
    /// long enough.
    pub fn given(mut self) {
        let Some(holding) = self.0.take().filter(|holding| holding.taken.untold) else {
            return;
        };
        holding.tasks.spawn(async move {
            let settle = Change::Settle(holding.taken);
            if let Err(error) = holding.store.change(settle).await {
                tracing::warn!(%error, "an event is told late");
            }
        });
    }

    /// No licence came of it: the viewer has its token, device and stream as before, for another try. What others were
    /// granted meanwhile on the same stays. Where the store fails, it stays taken until it runs out.
    pub async fn give_back(mut self) {
        if let Some(holding) = self.0.take() {
            holding.give_back().await;
        }
    }
}

impl Holding {
    async fn give_back(self) {
        if let Err(error) = self.store.change(Change::GiveBack(self.taken)).await {
            tracing::error!(%error, "what a licence that failed has taken stays taken");
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(holding) = self.0.take() {
            let tasks = holding.tasks.clone();
            tasks.spawn(holding.give_back());
        }
    }
}

/// Something happened to a stream.
fn told_of_stream(event: WebhookEvent, ask: &Ask<'_>, session: &str) -> Told {
    Told {
        session: Some(session.to_owned()),
        ..Told::new(event, ask.bearer, ask.asset)
    }
}

fn viewer(bearer: &Bearer) -> Result<Viewer, Refusal> {
    let subject = (bearer.subject.as_ref()).ok_or(Refusal::ClaimMissing("sub"))?;
    Ok(Viewer::new(&bearer.issuer, subject))
}

/// The name in this header, if there is one.
fn named(
    what: &'static str,
    header: Option<&HeaderName>,
    headers: &HeaderMap,
) -> Result<Option<String>, Refusal> {
    let Some(header) = header else {
        return Ok(None);
    };
    let mut values = headers.get_all(header).into_iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let name = value.to_str().ok().filter(|name| is_name(name));
    match (name, values.next()) {
        (Some(name), None) => Ok(Some(name.to_owned())),
        (None, _) | (_, Some(_)) => Err(Refusal::Unnamed(what)),
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "it is what map_err hands over"
)]
fn unavailable(error: Error) -> Refusal {
    tracing::error!(%error, "no licence is given that cannot be counted");
    Refusal::SessionsUnavailable
}

fn seconds_until(then: UnixTime, now: UnixTime) -> u32 {
    let seconds = then.as_seconds().saturating_sub(now.as_seconds());
    u32::try_from(seconds.max(1)).unwrap_or(u32::MAX)
}

/// The hooks that are told of such events.
fn hooks_of(teller: &Teller, event: WebhookEvent) -> Vec<String> {
    teller.hooks(event).map(str::to_owned).collect()
}

async fn sweep(store: Arc<dyn Store>, clock: Arc<dyn Clock>, hooks: Vec<String>) {
    loop {
        if let Err(error) = store::sweep(&*store, clock.now(), &hooks).await {
            tracing::error!(%error, "what has expired stays in the store");
        }
        tokio::time::sleep(SWEEP_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests;
