//! Whoever is asked before a licence is given.
//!
//! A viewer has one question at a time, and so cannot take all the places of questions. Whoever waits too long for a place is
//! refused: `fail_open` stands in for an answer that does not come, not for a question that was never asked, which viewers
//! could bring about who are denied.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use conf::AuthorisationSettings;
use keystore_types::{AssetId, KeyId};
use moka::sync::Cache;
use serde::{Deserialize, Serialize};
use tokio::time::timeout_at;

use super::{Hook, new_id};
use crate::decision_log::Authorisation;
use crate::entitlement::Bearer;
use crate::gate::{Gate, Turn};
use crate::store::digest;
use crate::{Error, Refusal, UnixTime};

/// After so many failures in a row nobody is asked for [`REST`].
const MAX_FAILURES: usize = 5;

/// How long whoever fails is left alone.
const REST: Duration = Duration::from_secs(10);

/// The most questions at once; others wait.
const MAX_ASKED: usize = 128;

/// The most answers that are kept.
const MAX_CACHED: u64 = 100_000;

/// Asks, and remembers what was answered.
#[derive(Debug)]
pub struct Authoriser {
    settings: AuthorisationSettings,
    hook: Hook,
    gate: Gate,
    /// By a digest of the question; none: nothing is remembered.
    answers: Option<Cache<Digest, bool>>,
    /// By viewer; those alone who have a question.
    lines: Mutex<HashMap<Digest, Arc<Line>>>,
}

type Digest = [u8; 32];

/// Where a viewer's questions wait for each other.
#[derive(Debug, Default)]
struct Line {
    turn: tokio::sync::Mutex<()>,
    /// How many got no answer.
    failures: AtomicUsize,
}

/// One question's place in its line, which goes when nobody is in it.
struct InLine<'a> {
    authoriser: &'a Authoriser,
    whose: Digest,
    line: Arc<Line>,
}

/// Why there is no answer.
enum Unanswered {
    /// The question was not put: there was no place for it in time.
    Crowded,
    /// Whoever was asked gave none, or failed so often that nobody is asked.
    Failed(String),
}

/// What is asked. All of it tells one question from another, so nothing is in it that is another at each request, such as the
/// viewer's address.
#[derive(Clone, Debug, Serialize)]
pub struct Question<'a> {
    /// On whose word.
    pub issuer: &'a str,
    /// Who, as the issuer says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<&'a str>,
    /// By which token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_id: Option<&'a str>,
    /// What is to be played.
    pub asset: &'a AssetId,
    /// The keys; each once and in one order, so that the same ones are the same question.
    pub kids: Vec<KeyId>,
    /// The licence system.
    pub system: &'static str,
    /// The policy of the licence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<&'a str>,
    /// The stream, where streams are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The device, where devices are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Where the viewer is, in two letters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub country: Option<String>,
}

impl<'a> Question<'a> {
    /// Whether the bearer may have these keys of the asset, for this system.
    pub fn new(
        bearer: &'a Bearer,
        asset: &'a AssetId,
        kids: &[KeyId],
        system: &'static str,
    ) -> Self {
        let mut kids = kids.to_vec();
        kids.sort_unstable();
        kids.dedup();
        Self {
            issuer: &bearer.issuer,
            subject: bearer.subject.as_deref(),
            token_id: bearer.token_id.as_deref(),
            asset,
            kids,
            system,
            policy: None,
            session: None,
            device: None,
            country: None,
        }
    }
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
            answers: (!settings.cache.is_zero()).then(|| {
                (Cache::builder().max_capacity(MAX_CACHED))
                    .time_to_live(settings.cache)
                    .build()
            }),
            lines: Mutex::default(),
        })
    }

    /// Whether these keys may be given, and by whose word.
    ///
    /// # Errors
    /// [`Refusal::NotAuthorised`]; [`Refusal::AuthoriserUnavailable`] where no answer comes and none stands in for it, or
    /// the question could not be put.
    pub async fn judge(
        &self,
        question: &Question<'_>,
        now: UnixTime,
    ) -> Result<Authorisation, Refusal> {
        let Ok(body) = serde_json::to_string(question) else {
            return Err(Refusal::AuthoriserUnavailable);
        };
        let asked = digest(&[body.as_bytes()]);
        let issuer = question.issuer.as_bytes();
        // A token that says not whose it is has a line with others of its issuer that ask the same.
        let whose = match (question.subject, question.token_id) {
            (Some(subject), _) => digest(&[b"subject", issuer, subject.as_bytes()]),
            (None, Some(id)) => digest(&[b"token", issuer, id.as_bytes()]),
            (None, None) => asked,
        };
        let allowed = match self.remembered(&asked) {
            Some(allowed) => allowed,
            None => match self.answer(whose, asked, &body, now).await {
                Ok(allowed) => allowed,
                Err(unanswered) => {
                    metrics::counter!("castellum_license_authorisation_failures_total")
                        .increment(1);
                    let open = self.settings.fail_open;
                    match unanswered {
                        Unanswered::Failed(why) => tracing::warn!(why, open, "nobody authorises"),
                        Unanswered::Crowded => {
                            tracing::warn!("a question before a licence waited for too long");
                            return Err(Refusal::AuthoriserUnavailable);
                        }
                    }
                    return match open {
                        true => Ok(Authorisation::FailedOpen),
                        false => Err(Refusal::AuthoriserUnavailable),
                    };
                }
            },
        };
        match allowed {
            true => Ok(Authorisation::Allowed),
            false => Err(Refusal::NotAuthorised),
        }
    }

    /// Puts the question when it is its turn, unless it was answered meanwhile.
    async fn answer(
        &self,
        whose: Digest,
        asked: Digest,
        body: &str,
        now: UnixTime,
    ) -> Result<bool, Unanswered> {
        // As long as the one before it may take, and then as long as one that has a place.
        let deadline = tokio::time::Instant::now() + 2 * self.settings.hook.timeout;
        let place = self.line_up(whose);
        let line = &place.line;
        let failures = line.failures.load(Ordering::Acquire);
        let turn = timeout_at(deadline, line.turn.lock()).await;
        let _turn = turn.map_err(|_| Unanswered::Crowded)?;
        if let Some(allowed) = self.remembered(&asked) {
            return Ok(allowed);
        }
        // What was asked for this viewer while this one waited: its own would fare no better.
        if line.failures.load(Ordering::Acquire) != failures {
            let why = "the viewer's last question got no answer".to_owned();
            return Err(Unanswered::Failed(why));
        }
        let gate = timeout_at(deadline, self.gate.wait(Instant::now)).await;
        let gate = gate.map_err(|_| Unanswered::Crowded)?;
        let answer = match gate {
            Ok(gate) => self.ask(gate, body, now).await,
            Err(shut) => Err(shut.to_string()),
        };
        match answer {
            Ok(allowed) => {
                if let Some(answers) = &self.answers {
                    answers.insert(asked, allowed);
                }
                Ok(allowed)
            }
            Err(why) => {
                line.failures.fetch_add(1, Ordering::Release);
                Err(Unanswered::Failed(why))
            }
        }
    }

    async fn ask(&self, turn: Turn<'_>, body: &str, now: UnixTime) -> Result<bool, String> {
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

    fn remembered(&self, asked: &Digest) -> Option<bool> {
        self.answers.as_ref()?.get(asked)
    }

    fn line_up(&self, whose: Digest) -> InLine<'_> {
        let line = Arc::clone(self.lines().entry(whose).or_default());
        InLine {
            authoriser: self,
            whose,
            line,
        }
    }

    #[cfg(test)]
    pub(super) fn lines_kept(&self) -> usize {
        self.lines().len()
    }

    fn lines(&self) -> MutexGuard<'_, HashMap<Digest, Arc<Line>>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        let mut lines = self.authoriser.lines();
        // While the map is locked: else each of two that leave at once would leave it to the other.
        drop(std::mem::take(&mut self.line));
        if (lines.get(&self.whose)).is_some_and(|line| Arc::strong_count(line) == 1) {
            lines.remove(&self.whose);
        }
    }
}
