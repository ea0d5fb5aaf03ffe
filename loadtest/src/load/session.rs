//! One viewer's life: his steps are taken, his errands run, what came is judged.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::HeaderValue;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;

use super::World;
use super::group::Group;
use super::library::{Stream, Title};
use super::reference::Sample;
use crate::client::{Client, FetchError, Reply, Request};
use crate::manifest::Licence;
use crate::player::Errand;
use crate::recorder::{Route, Took};
use crate::scenario::Chosen;
use crate::viewer::{Behaviour, Step, Viewer};

/// How long one in a hurry waits whose title failed, so that a dead server is not flooded.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(250);

/// A viewer who comes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Visit {
    /// How many came before him.
    pub(super) number: u64,
    /// When he was to come.
    pub(super) due: Duration,
    /// What he chose.
    pub(super) chosen: Chosen,
}

/// How his visit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// He had what he came for.
    Finished,
    /// The run was over.
    Cut,
    /// A request failed, or the title could not be played.
    Failed,
}

/// Why a turn brought nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missed {
    Failed,
    /// The server asks for so much time.
    Later(Duration),
}

/// A whole visit: one title, or for one in a hurry title after title.
pub(super) async fn attend(
    group: &Group,
    world: &Arc<World>,
    client: &Client,
    visit: Visit,
) -> Ending {
    let Visit {
        number,
        due,
        mut chosen,
    } = visit;
    let mut random = group.random(number);
    let mut seat = usize::try_from(number).unwrap_or(usize::MAX);
    let mut due = due;
    let Some(authorization) = world.authorization(group.behaviour()) else {
        return Ending::Failed; // which has been recorded
    };
    loop {
        let (title, stream) = group.title(chosen);
        let player = stream.player.clone().seated(seat);
        let viewer = Viewer::new(player, group.behaviour(), seat, random.of(0), due);
        let mut session = Session {
            group,
            world,
            client,
            title,
            stream,
            viewer,
            authorization: authorization.clone(),
            comparing: JoinSet::new(),
        };
        let ending = session.run().await;
        match group.behaviour() {
            Behaviour::Watch(_) | Behaviour::Licence(_) => return ending,
            Behaviour::Hurry { .. } if world.is_over() => return Ending::Cut,
            Behaviour::Hurry { .. } => {}
        }
        if ending == Ending::Failed {
            tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
        }
        let Some(next) = group.choose() else {
            return ending;
        };
        chosen = next;
        seat = seat.wrapping_add(1);
        random = random.of(1);
        due = world.now();
    }
}

struct Session<'a> {
    group: &'a Group,
    world: &'a Arc<World>,
    client: &'a Client,
    title: &'a Title,
    stream: &'a Stream,
    viewer: Viewer,
    authorization: HeaderValue,
    comparing: JoinSet<()>,
}

impl Session<'_> {
    async fn run(&mut self) -> Ending {
        let ending = loop {
            let now = self.world.now();
            if now >= self.world.duration {
                break Ending::Cut;
            }
            match self.viewer.step(now) {
                Step::End => break Ending::Finished,
                Step::Wait(until) => self.world.sleep_until(until).await,
                Step::Fetch { due, errands } => match self.turn(due, &errands).await {
                    Ok(()) => {}
                    Err(Missed::Failed) => break Ending::Failed,
                    Err(Missed::Later(after)) => {
                        self.viewer.told_to_wait(self.world.now() + after);
                    }
                },
            }
        };
        self.group.experienced(self.viewer.experience());
        while let Some(ended) = self.comparing.join_next().await {
            if ended.is_err() {
                self.fault("the comparison broke down");
            }
        }
        ending
    }

    /// Runs the errands of one step, all at once.
    async fn turn(&mut self, due: Option<Duration>, errands: &[Errand]) -> Result<(), Missed> {
        let place = self.place(errands);
        let asked = self.world.now();
        let fetches = errands
            .iter()
            .map(|errand| self.fetch(errand, due, place.is_some()));
        // What went wrong has been recorded.
        let replies: Result<Vec<Reply>, Missed> = join_all(fetches).await.into_iter().collect();
        let replies = replies?;
        for (errand, reply) in errands.iter().zip(&replies) {
            if let Err(fault) = self.viewer.take(errand, &reply.body) {
                self.fault(fault);
                return Err(Missed::Failed);
            }
        }
        let now = self.world.now();
        let bytes = replies.iter().map(|reply| reply.len).sum();
        self.viewer.done(now, bytes, now.saturating_sub(asked));
        if let Some(place) = place {
            self.compare(errands, replies, place);
        }
        Ok(())
    }

    /// A place to compare these segments at, where they are to be: protected ones, of a title with a clear policy.
    fn place(&self, errands: &[Errand]) -> Option<OwnedSemaphorePermit> {
        let is_protected = |errand: &Errand| match errand {
            Errand::Segment { rendition, .. } => {
                let playing = self.viewer.player().playing(*rendition);
                playing.is_some_and(|playing| playing.key.is_some())
            }
            Errand::Manifest(_)
            | Errand::Playlist(..)
            | Errand::Init(..)
            | Errand::Licence { .. }
            | Errand::Renewal { .. } => false,
        };
        let is_comparable = self.title.is_comparable && errands.iter().any(is_protected);
        (is_comparable && self.group.compares_next()).then(|| self.world.reference.place())?
    }

    /// Begins to compare segments, beside the viewer, who goes on.
    fn compare(&mut self, errands: &[Errand], replies: Vec<Reply>, place: OwnedSemaphorePermit) {
        let samples = errands.iter().zip(replies).filter_map(|(errand, reply)| {
            let Errand::Segment {
                rendition, index, ..
            } = errand
            else {
                return None;
            };
            let playing = self.viewer.player().playing(*rendition)?;
            Some(Sample {
                about: self.about(),
                track: Arc::clone(&playing.track),
                header: playing.header.clone(),
                key: playing.key?,
                index: *index,
                bytes: reply.body,
            })
        });
        let samples: Vec<_> = samples.collect();
        let (world, asset) = (Arc::clone(self.world), self.title.asset.clone());
        self.comparing.spawn(async move {
            world.reference.compare(&asset, samples).await;
            drop(place);
        });
    }

    async fn fetch(
        &self,
        errand: &Errand,
        due: Option<Duration>,
        compared: bool,
    ) -> Result<Reply, Missed> {
        let route = route(errand);
        let keep = compared || route != Route::Segment;
        let request = request(self.world, errand, &self.authorization, keep);
        match self.client.fetch(&request).await {
            Ok(reply) => {
                let took = match due {
                    Some(due) => Took::SinceDue(self.world.now().saturating_sub(due)),
                    None => Took::SinceAsked(reply.elapsed),
                };
                self.world.recorder.answered(route, took, reply.len);
                Ok(reply)
            }
            // Nothing is lost of what he has; whoever watches has no picture meanwhile.
            Err(FetchError::Later(after))
                if matches!(self.group.behaviour(), Behaviour::Licence(_)) =>
            {
                self.world.recorder.shed(route);
                Err(Missed::Later(after))
            }
            Err(FetchError::TurnedAway)
                if matches!(self.group.behaviour(), Behaviour::Licence(_)) =>
            {
                self.world.recorder.turned_away(route);
                Err(Missed::Failed)
            }
            Err(error) => {
                // The path alone: a query may hold what is not for the eyes of a log.
                let what = format!("{}: {error}", request.url.path());
                self.world.recorder.failed(route, what);
                Err(Missed::Failed)
            }
        }
    }

    fn about(&self) -> String {
        format!("{} {}", self.title.asset, self.stream.policy)
    }

    fn fault(&self, fault: impl std::fmt::Display) {
        self.world
            .recorder
            .fault(format!("{}: {fault}", self.about()));
    }
}

/// Runs an errand that is no viewer's; `None` where it failed, which is then recorded.
pub(super) async fn aside(world: &World, client: &Client, errand: &Errand) -> Option<Bytes> {
    let request = request(world, errand, &world.authorization, true);
    match client.fetch(&request).await {
        Ok(reply) => {
            world
                .recorder
                .answered(Route::Aside, Took::SinceDue(reply.elapsed), reply.len);
            Some(reply.body)
        }
        Err(error) => {
            let what = format!("{}: {error}", request.url.path());
            world.recorder.failed(Route::Aside, what);
            None
        }
    }
}

fn route(errand: &Errand) -> Route {
    match errand {
        Errand::Manifest(_) => Route::Manifest,
        Errand::Playlist(..) => Route::Playlist,
        Errand::Init(..) => Route::Init,
        Errand::Licence { .. } => Route::Licence,
        Errand::Renewal { .. } => Route::Renewal,
        Errand::Segment { .. } => Route::Segment,
    }
}

fn request(world: &World, errand: &Errand, authorization: &HeaderValue, keep: bool) -> Request {
    let (url, json, authorization) = match errand {
        Errand::Manifest(url)
        | Errand::Playlist(_, url)
        | Errand::Init(_, url)
        | Errand::Segment { url, .. } => (url, None, None),
        Errand::Licence {
            licence: Licence::ClearKey(url) | Licence::Identity(url),
            body,
            ..
        }
        | Errand::Renewal {
            licence: Licence::ClearKey(url) | Licence::Identity(url),
            body,
        } => (url, body.clone(), Some(authorization.clone())),
    };
    Request {
        url: world.target.on_listener(url, world.tls),
        json,
        authorization,
        keep,
    }
}
