//! Whoever is asked before a licence is given.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use conf::AuthorisationSettings;
use keystore_types::{AssetId, KeyId};
use serde::{Deserialize, Serialize};

use super::{Hook, new_id};
use crate::entitlement::Bearer;
use crate::gate::Gate;
use crate::store::digest;
use crate::{Error, Refusal, UnixTime};

/// After so many failures in a row nobody is asked for [`REST`].
const MAX_FAILURES: usize = 5;

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
    gate: Gate,
    answers: Mutex<Answers>,
}

/// By a digest of the question: what was answered, and when.
type Answers = HashMap<[u8; 32], (bool, Instant)>;

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
            gate: Gate::new(MAX_ASKED, MAX_FAILURES, REST),
            answers: Mutex::default(),
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
        let turn = (self.gate.enter(Instant::now())).map_err(|shut| shut.to_string())?;
        let id = new_id().map_err(|error| error.to_string())?;
        let answer = self.hook.post(&id, now, body).await;
        let said = answer.and_then(|answer| match answer.status.is_success() {
            true => serde_json::from_slice::<Said>(&answer.body).map_err(|_| {
                "its answer is not {\"allow\": true} or {\"allow\": false}".to_owned()
            }),
            false => Err(format!("it answers with {}", answer.status)),
        });
        match &said {
            Ok(_) => turn.answered(),
            Err(_) => {
                turn.failed(Instant::now());
            }
        }
        said.map(|said| said.allow)
    }

    fn remembered(&self, asked: &[u8; 32]) -> Option<bool> {
        let answers = self.answers();
        let (allowed, at) = answers.get(asked)?;
        (at.elapsed() < self.settings.cache).then_some(*allowed)
    }

    fn remember(&self, asked: [u8; 32], allowed: bool) {
        if self.settings.cache.is_zero() {
            return;
        }
        let mut answers = self.answers();
        if answers.len() >= MAX_CACHED {
            let cache = self.settings.cache;
            answers.retain(|_, (_, at)| at.elapsed() < cache);
        }
        if answers.len() < MAX_CACHED {
            answers.insert(asked, (allowed, Instant::now()));
        }
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
