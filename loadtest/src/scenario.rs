//! What a run does: so many viewers, each playing title after title until the time is up.
//!
//! A [`Scenario`] is one step of load. Scenario files with several steps, ramps and ratios to meet
//! are lists of it; they will live in `loadtest/scenarios/`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use http::HeaderValue;
use tokio::task::JoinSet;
use tokio::time::Instant;
use url::Url;

use crate::client::{BadAuthority, Client, Connector, FetchError, Protocol, Reply, Request, Trust};
use crate::manifest::{Licence, dash};
use crate::mp4::Header;
use crate::player::{Errand, Format, Player};
use crate::report::{Recorder, Report, Route, Run};
use crate::target::{Asset, CLEAR_POLICY, Stream, Target};
use crate::verify::{self, Segment};

/// How long a viewer whose title failed waits, so that a dead server is not flooded.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(250);

/// One step of load.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Viewers at once.
    pub viewers: usize,
    /// The protocol of all their requests.
    pub protocol: Protocol,
    /// Whether they use the TLS listeners.
    pub tls: bool,
    /// How long new requests are begun; those under way then are waited for.
    pub duration: Duration,
    /// One turn of segments in so many is decrypted and compared.
    pub sample_every: usize,
}

/// Why a run cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The authority's file cannot be read.
    #[error("cannot read the CA file {path}: {source}")]
    Authority {
        /// The file that the target names.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It holds no certificate.
    #[error(transparent)]
    Certificate(#[from] BadAuthority),
    /// The token cannot stand in a header.
    #[error("the target's token has characters that no header may hold")]
    Token,
    /// QUIC knows no other way.
    #[error("HTTP/3 runs over TLS only")]
    PlainH3,
}

/// Runs one step of load against a target.
///
/// # Errors
/// Where it cannot begin; what goes wrong later is in the report.
pub async fn run(scenario: Scenario, target: Target) -> Result<Report, Refused> {
    if scenario.protocol == Protocol::H3 && !scenario.tls {
        return Err(Refused::PlainH3);
    }
    let unreadable = |source| Refused::Authority {
        path: target.ca.clone(),
        source,
    };
    let ca = std::fs::read(&target.ca).map_err(unreadable)?;
    let authorization = HeaderValue::try_from(format!("Bearer {}", target.token));
    let mut authorization = authorization.map_err(|_| Refused::Token)?;
    authorization.set_sensitive(true);

    let recorder = Arc::new(Recorder::default());
    let connector = Connector::new(
        scenario.protocol,
        &Trust::Authority(ca),
        Arc::clone(&recorder),
    )?;
    let start = Instant::now();
    let mut world = World {
        titles: titles(&target.assets),
        references: HashMap::new(),
        target,
        authorization,
        recorder,
        deadline: start + scenario.duration,
        sample_every: scenario.sample_every,
        tls: scenario.tls,
    };
    world.load_references(&connector.client()).await;
    let comparable = comparable(&world.titles);

    let world = Arc::new(world);
    let mut viewers = JoinSet::new();
    for seat in 0..scenario.viewers {
        viewers.spawn(watch(Arc::clone(&world), connector.client(), seat));
    }
    // A viewer that panics is a fault of this program: it must not look like a pass.
    while let Some(ended) = viewers.join_next().await {
        if ended.is_err() {
            world
                .recorder
                .unplayable("a viewer of this loadtest broke down".to_owned());
        }
    }
    let Scenario {
        protocol,
        tls,
        viewers,
        ..
    } = scenario;
    Ok(world.recorder.report(
        Run {
            protocol,
            tls,
            viewers,
            comparable,
        },
        start.elapsed(),
    ))
}

/// What all viewers share.
struct World {
    target: Target,
    titles: Vec<Title>,
    /// The clear policy of each asset that has one.
    references: HashMap<String, Reference>,
    authorization: HeaderValue,
    recorder: Arc<Recorder>,
    deadline: Instant,
    sample_every: usize,
    tls: bool,
}

/// One manifest that can be played.
struct Title {
    asset: String,
    policy: String,
    format: Format,
    url: Url,
}

/// The clear form of a title, rendition by rendition.
struct Reference(HashMap<String, ClearTrack>);

struct ClearTrack {
    header: Header,
    segments: Vec<Url>,
}

/// Every stream of every asset, as DASH and as HLS.
fn titles(assets: &[Asset]) -> Vec<Title> {
    let mut titles = Vec::new();
    for asset in assets {
        for Stream { policy, hls, dash } in &asset.streams {
            for (format, url) in [(Format::Dash, dash), (Format::Hls, hls)] {
                let (asset, policy) = (asset.id.clone(), policy.clone());
                titles.push(Title {
                    asset,
                    policy,
                    format,
                    url: url.clone(),
                });
            }
        }
    }
    titles
}

/// Whether some asset has both a protected and a clear policy, be it reachable or not.
fn comparable(titles: &[Title]) -> bool {
    let (clear, protected): (Vec<_>, Vec<_>) = titles
        .iter()
        .partition(|title| title.policy == CLEAR_POLICY);
    protected
        .iter()
        .any(|title| clear.iter().any(|reference| reference.asset == title.asset))
}

/// One viewer: title after title, each viewer beginning with another.
async fn watch(world: Arc<World>, client: Client, seat: usize) {
    let mut session = 0;
    while Instant::now() < world.deadline {
        let title = &world.titles[(seat + session) % world.titles.len()];
        if !world.play(&client, title, seat + session).await {
            tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
        }
        session += 1;
    }
}

impl World {
    /// Plays a title to its end, or until the time is up; says whether all went well.
    async fn play(&self, client: &Client, title: &Title, seat: usize) -> bool {
        let mut player = Player::new(title.format, title.url.clone(), seat, self.sample_every);
        while Instant::now() < self.deadline {
            let errands = player.turn();
            if errands.is_empty() {
                return true;
            }
            let replies =
                join_all(errands.iter().map(|e| self.run_errand(client, &player, e))).await;
            for (errand, reply) in errands.iter().zip(replies) {
                let Some(reply) = reply else { return false };
                if let Err(fault) = player.take(errand, &reply.body) {
                    self.recorder
                        .unplayable(format!("{} {}: {fault}", title.asset, title.policy));
                    return false;
                }
                if !self.judge(client, title, &player, errand, &reply).await {
                    return false;
                }
            }
        }
        true
    }

    /// Fetches what an errand asks for; `None` when that failed, which is then recorded.
    async fn run_errand(&self, client: &Client, player: &Player, errand: &Errand) -> Option<Reply> {
        let (route, url, keep) = match errand {
            Errand::Manifest(url) => (Route::Manifest, url, true),
            Errand::Playlist(_, url) => (Route::Playlist, url, true),
            Errand::Init(_, url) => (Route::Init, url, true),
            Errand::Segment { url, sampled, .. } => (Route::Segment, url, *sampled),
            Errand::Licence {
                licence: Licence::ClearKey(url) | Licence::Identity(url),
                ..
            } => (Route::Licence, url, true),
        };
        let (json, authorization) = match errand {
            Errand::Licence { licence, tracks } => (
                match licence {
                    Licence::ClearKey(_) => Some(player.licence_request(tracks)),
                    Licence::Identity(_) => None,
                },
                Some(self.authorization.clone()),
            ),
            Errand::Manifest(_)
            | Errand::Playlist(..)
            | Errand::Init(..)
            | Errand::Segment { .. } => (None, None),
        };
        let url = self.target.on_listener(url, self.tls);
        self.fetch(
            client,
            route,
            Request {
                url,
                json,
                authorization,
                keep,
            },
        )
        .await
        .ok()
    }

    async fn fetch(
        &self,
        client: &Client,
        route: Route,
        request: Request,
    ) -> Result<Reply, FetchError> {
        let reply = client.fetch(&request).await;
        match &reply {
            Ok(reply) => self.recorder.success(route, reply.elapsed, reply.len),
            Err(error) => {
                // The path alone: a query may hold what is not for the eyes of a log.
                self.recorder
                    .failure(route, format!("{}: {error}", request.url.path()));
            }
        }
        reply
    }

    /// Compares a sampled segment with its clear form; says whether the viewer may go on.
    async fn judge(
        &self,
        client: &Client,
        title: &Title,
        player: &Player,
        errand: &Errand,
        reply: &Reply,
    ) -> bool {
        let Errand::Segment {
            track,
            index,
            sampled: true,
            ..
        } = errand
        else {
            return true;
        };
        let Some(playing) = player.playing(*track) else {
            return true;
        };
        let (Some(key), Some(Reference(tracks))) =
            (&playing.key, self.references.get(&title.asset))
        else {
            return true;
        };
        let name = format!(
            "{} {} {} segment {}",
            title.asset,
            title.policy,
            playing.track.name,
            index + 1
        );
        let clear = tracks.get(&playing.track.name);
        let Some((clear, url)) = clear.and_then(|clear| Some((clear, clear.segments.get(*index)?)))
        else {
            self.recorder
                .differing(format!("{name}: the clear policy has no such segment"));
            return false;
        };
        let Ok(same) = self.fetch(client, Route::Segment, get(url.clone())).await else {
            return false;
        };
        let protected = Segment {
            header: &playing.header,
            bytes: &reply.body,
        };
        let clear = Segment {
            header: &clear.header,
            bytes: &same.body,
        };
        match verify::compare(protected, key, clear) {
            Ok(samples) => self.recorder.equal(samples),
            Err(difference) => self.recorder.differing(format!("{name}: {difference}")),
        }
        true
    }

    /// Reads the MPD and init segments of every clear policy, before the viewers begin.
    async fn load_references(&mut self, client: &Client) {
        let mut references = HashMap::new();
        for title in &self.titles {
            if title.policy == CLEAR_POLICY
                && title.format == Format::Dash
                && let Some(reference) = self.load_reference(client, title).await
            {
                references.insert(title.asset.clone(), reference);
            }
        }
        self.references = references;
    }

    async fn load_reference(&self, client: &Client, title: &Title) -> Option<Reference> {
        let url = self.target.on_listener(&title.url, self.tls);
        let reply = self
            .fetch(client, Route::Manifest, get(url.clone()))
            .await
            .ok()?;
        let unplayable = |fault: String| {
            self.recorder
                .unplayable(format!("{} {CLEAR_POLICY}: {fault}", title.asset));
        };
        let text = String::from_utf8_lossy(&reply.body);
        let menu = dash::read(&url, &text)
            .map_err(|fault| unplayable(fault.to_string()))
            .ok()?;
        let mut tracks = HashMap::new();
        for track in menu.main.into_iter().chain(menu.audio) {
            let reply = self
                .fetch(client, Route::Init, get(track.init))
                .await
                .ok()?;
            let header = Header::read(&reply.body);
            let header = header.map_err(|fault| unplayable(fault.to_string())).ok()?;
            tracks.insert(
                track.name,
                ClearTrack {
                    header,
                    segments: track
                        .segments
                        .into_iter()
                        .map(|segment| segment.url)
                        .collect(),
                },
            );
        }
        Some(Reference(tracks))
    }
}

fn get(url: Url) -> Request {
    Request {
        url,
        json: None,
        authorization: None,
        keep: true,
    }
}
