//! Whoever is asked before a licence is given.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use conf::AuthorisationSettings;
use keystore_types::{AssetId, KeyId};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::{Hook, new_id};
use crate::entitlement::Bearer;
use crate::store::digest;
use crate::{Error, Refusal, UnixTime};

/// After so many failures in a row nobody is asked for [`REST`].
const MAX_FAILURES: u32 = 5;

/// How long whoever fails is left alone.
const REST: Duration = Duration::from_secs(10);

/// The most questions at once: beyond it none is asked, as if it had failed.
const MAX_ASKED: usize = 128;

/// The most answers that are kept.
const MAX_CACHED: usize = 100_000;

/// Asks, and remembers what was answered.
#[derive(Debug)]
pub struct Authoriser {
    settings: AuthorisationSettings,
    hook: Hook,
    places: Semaphore,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    answers: HashMap<[u8; 32], (bool, Instant)>,
    failures: u32,
    /// Nobody is asked before.
    rests_until: Option<Instant>,
}

#[derive(Serialize)]
struct Question<'a> {
    issuer: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_id: Option<&'a str>,
    asset: &'a AssetId,
    kids: &'a [KeyId],
}

/// Fields that are not known here may be there.
#[derive(Deserialize)]
struct Said {
    allow: bool,
}

impl Authoriser {
    /// Reads key and certificates.
    ///
    /// # Errors
    /// One that cannot be read or is not fit.
    pub(crate) fn open(settings: &AuthorisationSettings) -> Result<Self, Error> {
        Ok(Self {
            hook: Hook::open(&settings.hook)?,
            settings: settings.clone(),
            places: Semaphore::new(MAX_ASKED),
            known: Mutex::default(),
        })
    }

    /// Whether these keys may be given.
    ///
    /// # Errors
    /// [`Refusal::NotAuthorised`]; [`Refusal::AuthoriserUnavailable`] where no answer comes and none stands in for it.
    pub async fn judge(
        &self,
        bearer: &Bearer,
        asset: &AssetId,
        kids: &[KeyId],
        now: UnixTime,
    ) -> Result<(), Refusal> {
        let question = Question {
            issuer: &bearer.issuer,
            subject: bearer.subject.as_deref(),
            token_id: bearer.token_id.as_deref(),
            asset,
            kids,
        };
        let Ok(body) = serde_json::to_string(&question) else {
            return Err(Refusal::AuthoriserUnavailable);
        };
        let asked = digest(&[body.as_bytes()]);
        let allowed = match self.remembered(&asked) {
            Some(allowed) => allowed,
            None => match self.ask(&body, now).await {
                Ok(allowed) => {
                    self.remember(asked, allowed);
                    allowed
                }
                Err(why) => {
                    metrics::counter!("castellum_license_authorisation_failures_total")
                        .increment(1);
                    tracing::warn!(why, open = self.settings.fail_open, "nobody authorises");
                    match self.settings.fail_open {
                        true => true,
                        false => return Err(Refusal::AuthoriserUnavailable),
                    }
                }
            },
        };
        match allowed {
            true => Ok(()),
            false => Err(Refusal::NotAuthorised),
        }
    }

    async fn ask(&self, body: &str, now: UnixTime) -> Result<bool, String> {
        let rests = self.known().rests_until;
        if rests.is_some_and(|until| Instant::now() < until) {
            return Err("it failed several times, and is left alone for a while".to_owned());
        }
        let Ok(_place) = self.places.try_acquire() else {
            return Err(format!("{MAX_ASKED} questions wait for their answers"));
        };
        let id = new_id().map_err(|error| error.to_string())?;
        let answer = self.hook.post(&id, now, body).await;
        let said = answer.and_then(|answer| match answer.status.is_success() {
            true => serde_json::from_slice::<Said>(&answer.body).map_err(|_| {
                "its answer is not {\"allow\": true} or {\"allow\": false}".to_owned()
            }),
            false => Err(format!("it answers with {}", answer.status)),
        });
        let mut known = self.known();
        match said {
            Ok(Said { allow }) => {
                known.failures = 0;
                known.rests_until = None;
                Ok(allow)
            }
            Err(why) => {
                known.failures = known.failures.saturating_add(1);
                if known.failures >= MAX_FAILURES {
                    known.rests_until = Some(Instant::now() + REST);
                }
                Err(why)
            }
        }
    }

    fn remembered(&self, asked: &[u8; 32]) -> Option<bool> {
        let known = self.known();
        let (allowed, at) = known.answers.get(asked)?;
        (at.elapsed() < self.settings.cache).then_some(*allowed)
    }

    fn remember(&self, asked: [u8; 32], allowed: bool) {
        if self.settings.cache.is_zero() {
            return;
        }
        let mut known = self.known();
        if known.answers.len() >= MAX_CACHED {
            let cache = self.settings.cache;
            known.answers.retain(|_, (_, at)| at.elapsed() < cache);
        }
        if known.answers.len() < MAX_CACHED {
            known.answers.insert(asked, (allowed, Instant::now()));
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
