//! Keys where their issuer publishes them (RFC 7517 5), or where its OpenID discovery document says that they are (OpenID
//! Connect Discovery 4): fetched ahead of need, by a task of each issuer's own, so that none waits for another.
//!
//! ```text
//! Refresher --publishes--> FetchedKeys <--reads-- Verifier
//!     \ <-----one wish at a time-----/
//! ```
//!
//! An issuer that does not answer is not missed for a while: its last keys are kept, on disk too, and are good for
//! [`OFFLINE`]. A token that names a key which is not there brings the next fetch forward, once in [`INTERVAL`]; until then
//! the keys at hand are the answer for every other such token, however many come.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use conf::{IssuerSettings, KeyPlace};
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use ring::digest;
use serde_json::{Map, Value, json};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use super::key::Algorithm;
use super::key_set::KeySet;
use crate::outbound::{Answer, Destination, Fault, Outbound, Reach};
use crate::{Clock, Error, UnixTime, json, telemetry};

/// How long keys are good after the issuer last gave them.
pub const OFFLINE: Duration = Duration::from_secs(24 * 3600);

/// The least time between two fetches, whoever wishes for one.
pub const INTERVAL: Duration = Duration::from_secs(30);

/// The same of an issuer of whom no key is known yet: all who come with its tokens are turned away meanwhile.
const SOON: Duration = Duration::from_secs(5);

/// How soon keys are fetched again where the answer says nothing, in seconds; what it says is held within the bounds.
const AGE: u64 = 600;
const AGE_BOUNDS: (u64, u64) = (60, 12 * 3600);

/// How long a request waits for keys that it misses.
const PATIENCE: Duration = Duration::from_secs(3);

/// The most requests that wait at once for the keys of one issuer. Others are answered by the keys at hand: whoever makes up
/// key ids of an issuer that hangs must not fill the server with those who wait for it.
const MAX_WAITING: usize = 64;

/// The longest discovery document, in bytes, is that of a set of keys.
const LIMIT: usize = KeySet::MAX_LEN;

/// An issuer's keys as they were last fetched.
#[derive(Clone, Debug)]
pub struct FetchedKeys {
    published: watch::Receiver<KeySet>,
    progress: watch::Receiver<Progress>,
    wish: Arc<Notify>,
    places: Arc<Semaphore>,
}

/// How many fetches have begun and ended, and when the last one did.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    begun: u64,
    ended: u64,
    last: Option<Instant>,
}

impl Progress {
    /// Whether the issuer was asked so lately that it is not asked again.
    fn is_fresh(&self) -> bool {
        self.last.is_some_and(|last| last.elapsed() < INTERVAL)
    }
}

impl FetchedKeys {
    pub(super) fn current(&self) -> KeySet {
        self.published.borrow().clone()
    }

    /// The fetch that is under way, or one that is wished for; none where one has just ended, or many wait.
    pub(super) fn wish(&self) -> Option<Fetch> {
        let seen = *self.progress.borrow();
        if seen.begun == seen.ended {
            if seen.is_fresh() {
                return None;
            }
            self.wish.notify_one();
        }
        Some(Fetch {
            progress: self.progress.clone(),
            ended: seen.ended,
            _place: Arc::clone(&self.places).try_acquire_owned().ok()?,
        })
    }
}

/// A fetch that a request waits for.
#[derive(Debug)]
pub(super) struct Fetch {
    progress: watch::Receiver<Progress>,
    /// How many had ended before.
    ended: u64,
    _place: OwnedSemaphorePermit,
}

impl Fetch {
    /// Waits for its end, but not long. Whether it came.
    pub(super) async fn ended(mut self) -> bool {
        let ended = self.progress.wait_for(|now| now.ended > self.ended);
        matches!(tokio::time::timeout(PATIENCE, ended).await, Ok(Ok(_)))
    }
}

/// Fetches the keys of one issuer, again and again.
pub struct Refresher {
    issuer: String,
    iss: Option<String>,
    algorithms: Vec<Algorithm>,
    place: KeyPlace,
    table: String,
    path: PathBuf,
    /// What was last taken, as it was written, and the tag of the answer.
    held: Vec<Map<String, Value>>,
    tag: Option<HeaderValue>,
    published: watch::Sender<KeySet>,
    progress: watch::Sender<Progress>,
    wish: Arc<Notify>,
}

/// What the issuer answered.
struct Fetched {
    /// None: as before.
    content: Option<Vec<u8>>,
    tag: Option<HeaderValue>,
    age: Duration,
}

/// Why no keys came.
#[derive(Debug, thiserror::Error)]
enum FetchFault {
    #[error(transparent)]
    Unready(#[from] Error),
    #[error("{0}: {1}")]
    Outbound(String, Fault),
    #[error("{0} answers with status {1}: no redirect is followed")]
    Status(String, StatusCode),
    #[error("the discovery document is of the issuer {0:?}, not of the one that is configured")]
    OtherIssuer(String),
    #[error("the discovery document has no jwks_uri that begins with https://")]
    NoKeys,
}

impl Refresher {
    /// Takes up the keys that were kept, if there are some. Nothing is fetched yet.
    pub(super) fn open(
        settings: &IssuerSettings,
        place: &KeyPlace,
        algorithms: Vec<Algorithm>,
        state_dir: &Path,
    ) -> Result<(FetchedKeys, Self), Error> {
        let name = digest::digest(
            &digest::SHA256,
            format!("{}\n{}\n{}", settings.name, place.authority, place.path).as_bytes(),
        );
        let name: String = (name.as_ref().iter().take(16))
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let wish = Arc::new(Notify::new());
        let mut refresher = Self {
            issuer: settings.name.clone(),
            iss: settings.issuer.clone(),
            algorithms: algorithms
                .into_iter()
                .filter(|it| *it != Algorithm::Hs256)
                .collect(),
            place: place.clone(),
            table: format!("license.issuers[{}]", settings.name),
            path: state_dir.join("issuer-keys").join(format!("{name}.json")),
            held: Vec::new(),
            tag: None,
            published: watch::Sender::new(KeySet::unknown()),
            progress: watch::Sender::default(),
            wish: Arc::clone(&wish),
        };
        // What cannot be fetched for want of a certificate is said at the start.
        refresher.outbound(place.tls, &place.authority, &place.path)?;
        refresher.take_up();
        let fetched = FetchedKeys {
            published: refresher.published.subscribe(),
            progress: refresher.progress.subscribe(),
            wish,
            places: Arc::new(Semaphore::new(MAX_WAITING)),
        };
        Ok((fetched, refresher))
    }

    /// Fetches now and whenever it is time, until it is dropped.
    pub async fn run(mut self, clock: Arc<dyn Clock>) {
        loop {
            let now = clock.now();
            let age = self.refresh(now).await;
            if age.is_some() {
                self.keep(now);
            }
            let again = match self.published.borrow().until {
                Some(_) => INTERVAL,
                None => SOON,
            };
            let due = Instant::now() + age.unwrap_or(again);
            loop {
                tokio::select! {
                    () = tokio::time::sleep_until(due) => break,
                    // One that came while the last fetch was under way has been granted with it.
                    () = self.wish.notified() => if !self.progress.borrow().is_fresh() {
                        break;
                    },
                }
            }
        }
    }

    /// Fetches once and keeps nothing on disk. How long the answer may be used; none: there is none.
    pub async fn refresh(&mut self, now: UnixTime) -> Option<Duration> {
        self.progress.send_modify(|progress| progress.begun += 1);
        let result = match self.fetch().await {
            Ok(fetched) => self.accept(fetched, now).map_err(FetchFault::from),
            Err(fault) => Err(fault),
        };
        self.progress.send_modify(|progress| {
            progress.ended = progress.begun;
            progress.last = Some(Instant::now());
        });
        telemetry::keys_fetched(&self.issuer, result.is_ok());
        result
            .inspect_err(|fault| {
                let issuer = &self.issuer;
                tracing::warn!(issuer, "the issuer's keys cannot be fetched: {fault}");
            })
            .ok()
    }

    fn accept(&mut self, fetched: Fetched, now: UnixTime) -> Result<Duration, Error> {
        let mut set = self.published.borrow().clone();
        if let Some(content) = fetched.content {
            let reading = KeySet::read(&content, &self.algorithms)?;
            for skipped in &reading.skipped {
                tracing::warn!(
                    issuer = self.issuer,
                    "a key of the issuer's set is skipped: {skipped}"
                );
            }
            if reading.members != self.held {
                let generation = set.generation + 1;
                set = reading.set;
                set.generation = generation;
                self.held = reading.members;
            }
            self.tag = fetched.tag;
        }
        set.until = Some(now.plus(OFFLINE));
        self.published.send_replace(set);
        Ok(fetched.age)
    }

    /// Writes down what was taken. Whoever must not write here does not call it.
    fn keep(&self, now: UnixTime) {
        let kept = json!({ "fetched": now.as_seconds(), "keys": self.held });
        if let Err(error) = write(&self.path, kept.to_string().as_bytes()) {
            let path = self.path.display();
            tracing::warn!(
                issuer = self.issuer,
                "the issuer's keys cannot be kept in {path}: {error}"
            );
        }
    }

    /// Publishes the keys that were kept on disk.
    fn take_up(&mut self) {
        let content = match fs::read(&self.path) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                let path = self.path.display();
                tracing::warn!(
                    issuer = self.issuer,
                    "the kept keys in {path} cannot be read: {error}"
                );
                return;
            }
        };
        let fetched = json::parse(&content).ok();
        let fetched = fetched.and_then(|kept| kept.get("fetched").and_then(Value::as_u64));
        match (fetched, KeySet::read(&content, &self.algorithms)) {
            (Some(fetched), Ok(reading)) => {
                self.held = reading.members;
                let mut set = reading.set;
                set.generation = 1;
                set.until = Some(UnixTime::from_seconds(fetched).plus(OFFLINE));
                self.published.send_replace(set);
            }
            // The configuration may have changed since, and what is to be had is fetched anyway.
            (_, _) => tracing::info!(issuer = self.issuer, "the kept keys are of no use any more"),
        }
    }

    fn outbound(&self, tls: bool, authority: &str, path: &str) -> Result<Outbound, Error> {
        Outbound::open(&Destination {
            table: &self.table,
            reach: match tls {
                true => Reach::Tls {
                    authority,
                    ca_file: &self.place.ca_file,
                    identity: None,
                },
                false => Reach::Plain { authority },
            },
            path,
            timeout: self.place.timeout,
            limit: LIMIT,
        })
    }

    async fn fetch(&self) -> Result<Fetched, FetchFault> {
        let place = &self.place;
        let first = self.outbound(place.tls, &place.authority, &place.path)?;
        let keys = match place.discovery {
            false => first,
            true => {
                let answer = ask(&first, HeaderMap::new()).await?;
                ok(&first, &answer)?;
                self.discovered(&answer.body)?
            }
        };
        let mut headers = HeaderMap::new();
        headers.insert(
            header::ACCEPT,
            HeaderValue::from_static("application/jwk-set+json, application/json"),
        );
        if let Some(tag) = &self.tag {
            headers.insert(header::IF_NONE_MATCH, tag.clone());
        }
        let answer = ask(&keys, headers).await?;
        let age = age(&answer.headers);
        if answer.status == StatusCode::NOT_MODIFIED && self.tag.is_some() {
            return Ok(Fetched {
                content: None,
                tag: None,
                age,
            });
        }
        ok(&keys, &answer)?;
        Ok(Fetched {
            content: Some(answer.body.to_vec()),
            tag: answer.headers.get(header::ETAG).cloned(),
            age,
        })
    }

    /// Where the discovery document has the keys. It may be another host, by HTTPS; without it only where the issuer itself
    /// is asked so, on this host.
    fn discovered(&self, document: &[u8]) -> Result<Outbound, FetchFault> {
        let document = json::parse(document).map_err(|_| FetchFault::NoKeys)?;
        let text = |name: &str| document.get(name).and_then(Value::as_str);
        if text("issuer") != self.iss.as_deref() {
            let theirs = text("issuer").unwrap_or("nobody");
            return Err(FetchFault::OtherIssuer(theirs.chars().take(128).collect()));
        }
        let uri: Uri =
            (text("jwks_uri").and_then(|uri| uri.parse().ok())).ok_or(FetchFault::NoKeys)?;
        let authority = uri.authority().ok_or(FetchFault::NoKeys)?.as_str();
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") if !self.place.tls && authority == self.place.authority => false,
            _ => return Err(FetchFault::NoKeys),
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(self.outbound(tls, authority, path)?)
    }
}

async fn ask(outbound: &Outbound, headers: HeaderMap) -> Result<Answer, FetchFault> {
    let answer = outbound.get(headers).await;
    answer.map_err(|fault| FetchFault::Outbound(outbound.place().to_owned(), fault))
}

fn ok(outbound: &Outbound, answer: &Answer) -> Result<(), FetchFault> {
    match answer.status {
        StatusCode::OK => Ok(()),
        status => Err(FetchFault::Status(outbound.place().to_owned(), status)),
    }
}

/// How long an answer may be used (RFC 9111 5.2.2.1), within our bounds.
fn age(headers: &HeaderMap) -> Duration {
    let values = headers.get_all(header::CACHE_CONTROL).into_iter();
    let directives = values.filter_map(|value| value.to_str().ok());
    let seconds = directives
        .flat_map(|value| value.split(','))
        .find_map(|directive| {
            let (name, value) = directive.trim().split_once('=')?;
            let named = name.eq_ignore_ascii_case("max-age");
            named.then(|| value.trim_matches('"').parse::<u64>().ok())?
        });
    let (least, most) = AGE_BOUNDS;
    Duration::from_secs(seconds.unwrap_or(AGE).clamp(least, most))
}

/// Whole or not at all, and on disk.
fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let new = path.with_extension("json.new");
    let mut file = File::create(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(folder)?.sync_all()
}
