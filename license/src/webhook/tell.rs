//! What happened, told at least once: events wait in the store until whoever is to hear them has answered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use conf::{WebhookEvent, WebhookSettings};
use keystore_types::{AssetId, KeyId};
use serde::Serialize;
use tokio::sync::{mpsc, watch};

use super::{Hook, new_id};
use crate::entitlement::Bearer;
use crate::store::{Change, Event, Store, lost};
use crate::{Clock, Error, UnixTime};

/// The most events on their way to the store. Beyond it they are counted and left out: nobody waits for a webhook.
const MAX_WAITING: usize = 4096;

/// The most that are written, or told, at once.
const MAX_BATCH: u32 = 32;

/// How often the store is looked at.
const INTERVAL: Duration = Duration::from_secs(1);

/// A node that takes events and ends has told nobody: another takes them after this. Longer than any request.
const HOLD: Duration = Duration::from_secs(120);

/// The longest time between two attempts.
const MAX_DELAY: Duration = Duration::from_secs(3600);

/// Something that happened.
#[derive(Clone, Debug, Serialize)]
pub struct Told {
    /// What.
    #[serde(skip)]
    pub event: WebhookEvent,
    /// On whose word.
    pub issuer: String,
    /// Who, as the issuer says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// By which token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_id: Option<String>,
    /// What is played.
    pub asset: AssetId,
    /// The device that was added.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The stream that began, ended or ran out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The keys that were given, or asked for where none were.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kids: Vec<KeyId>,
    /// Why none were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
}

impl Told {
    /// This happened to the bearer with the asset.
    pub fn new(event: WebhookEvent, bearer: &Bearer, asset: &AssetId) -> Self {
        Self {
            event,
            issuer: bearer.issuer.clone(),
            subject: bearer.subject.clone(),
            token_id: bearer.token_id.clone(),
            asset: asset.clone(),
            device: None,
            session: None,
            kids: Vec::new(),
            reason: None,
        }
    }
}

/// Tells what happened to whom it concerns.
#[derive(Debug)]
pub struct Teller {
    queue: mpsc::Sender<Vec<Event>>,
    wanted: BTreeMap<String, Vec<WebhookEvent>>,
}

/// What is done on the thread of sessions.
#[derive(Debug)]
pub(crate) struct Telling {
    hooks: BTreeMap<String, Hook>,
    queue: mpsc::Receiver<Vec<Event>>,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
}

impl Teller {
    /// Reads keys and certificates. Nothing is told before [`Telling::run`].
    ///
    /// # Errors
    /// One that cannot be read or is not fit.
    pub(crate) fn open(
        settings: &BTreeMap<String, WebhookSettings>,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, Telling), Error> {
        let mut hooks = BTreeMap::new();
        let mut wanted = BTreeMap::new();
        for (name, webhook) in settings {
            hooks.insert(name.clone(), Hook::open(&webhook.hook)?);
            wanted.insert(name.clone(), webhook.events.clone());
        }
        let (sender, queue) = mpsc::channel(MAX_WAITING);
        let telling = Telling {
            hooks,
            queue,
            store,
            clock,
        };
        let teller = Self {
            queue: sender,
            wanted,
        };
        Ok((teller, telling))
    }

    /// The hooks that are told of such events.
    pub fn hooks(&self, event: WebhookEvent) -> impl Iterator<Item = &str> {
        let wanted = self.wanted.iter();
        wanted.filter_map(move |(hook, wanted)| wanted.contains(&event).then_some(hook.as_str()))
    }

    /// What is told to each hook that wants to hear it, for the store. Told it is once it is there.
    pub fn events(&self, told: &Told, made: UnixTime) -> Vec<Event> {
        let events = self.hooks(told.event).filter_map(|hook| {
            let body = serde_json::json!({
                "type": told.event,
                "timestamp": made.as_seconds(),
                "data": told,
            });
            match new_id() {
                Ok(id) => Some(Event {
                    id,
                    hook: hook.to_owned(),
                    body: body.to_string(),
                    made,
                    attempts: 0,
                }),
                Err(error) => {
                    tracing::error!(%error, "an event is not told");
                    lost(1);
                    None
                }
            }
        });
        events.collect()
    }

    /// Sees to it that this gets to the store soon, while nobody waits for that: what is on the way is lost where the server
    /// ends.
    pub fn tell(&self, told: &Told, now: UnixTime) {
        let events = self.events(told, now);
        let count = events.len() as u64;
        if count > 0 && self.queue.try_send(events).is_err() {
            lost(count);
        }
    }
}

impl Telling {
    /// Tells until the server ends. Each hook is told by itself: one that hangs or fails holds up no other.
    pub(crate) async fn run(self) {
        let Self {
            hooks,
            queue,
            store,
            clock,
        } = self;
        let (posted, news) = watch::channel(());
        let tellings = hooks.iter().map(|(name, hook)| {
            let telling = HookTelling {
                name,
                hook,
                store: &*store,
                clock: &*clock,
            };
            telling.run(news.clone())
        });
        tokio::select! {
            () = keep(queue, &*store, posted) => {}
            _ = futures_util::future::join_all(tellings) => {}
        }
    }
}

/// Keeps what is to be told in the store, and says when there is something new.
async fn keep(mut queue: mpsc::Receiver<Vec<Event>>, store: &dyn Store, posted: watch::Sender<()>) {
    let mut waiting = Vec::new();
    while queue.recv_many(&mut waiting, MAX_BATCH as usize).await > 0 {
        post(store, waiting.drain(..).flatten().collect()).await;
        posted.send_replace(());
    }
}

/// Puts events into the store. Those that it does not take are lost, and counted.
pub(crate) async fn post(store: &dyn Store, events: Vec<Event>) {
    let count = events.len() as u64;
    if count == 0 {
        return;
    }
    if let Err(error) = store.change(Change::Post(events)).await {
        tracing::error!(%error, "events are lost");
        lost(count);
    }
}

/// One hook, and what is told to it.
struct HookTelling<'a> {
    name: &'a str,
    hook: &'a Hook,
    store: &'a dyn Store,
    clock: &'a dyn Clock,
}

impl HookTelling<'_> {
    async fn run(self, mut news: watch::Receiver<()>) {
        loop {
            while self.round().await > 0 {}
            tokio::select! {
                _ = news.changed() => {}
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }

    /// Tells what is due, all at once; returns how many were.
    async fn round(&self) -> usize {
        let now = self.clock.now();
        let taken = (self.store).take_events(self.name, now, now.plus(HOLD), MAX_BATCH);
        let taken = taken.await.unwrap_or_else(|error| {
            tracing::error!(%error, "events wait");
            Vec::new()
        });
        let count = taken.len();
        let telling = taken.into_iter().map(|event| async move {
            let change = match self.hook.post(&event.id, now, &event.body).await {
                Ok(answer) if answer.status.is_success() => Change::Told(event.id),
                Ok(answer) => self.delay(&event, &format!("it answers with {}", answer.status)),
                Err(fault) => self.delay(&event, &fault),
            };
            if let Err(error) = self.store.change(change).await {
                tracing::error!(%error, "an event may be told again");
            }
        });
        futures_util::future::join_all(telling).await;
        count
    }

    fn delay(&self, event: &Event, why: &str) -> Change {
        tracing::warn!(
            hook = self.name,
            why,
            attempts = event.attempts,
            "an event is not told yet"
        );
        metrics::counter!("castellum_license_webhook_failures_total").increment(1);
        let delay = Duration::from_secs(1 << event.attempts.min(12)).min(MAX_DELAY);
        Change::Delay {
            id: event.id.clone(),
            due: self.clock.now().plus(delay),
        }
    }
}
