//! A scenario, run against a target.
//!
//! ```text
//! Load -> group: when viewers come, what they choose -> session: one viewer's life -> client
//!                                                          |-> reference: comparing
//! ```
//!
//! What is decided lies in the pure machines of [`crate::scenario`] and [`crate::viewer`]; here are only the clock,
//! the tasks and the requests. All that grows is bounded: viewers by their group's `at_most`, comparisons by their
//! places, sockets by both, and time by the scenario's duration and the client's time-out after it.

mod group;
mod library;
mod reference;
mod session;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::HeaderValue;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::{BadAuthority, Connector, Trust};
use crate::host::{Processes, Snapshot, Usage};
use crate::open_files;
use crate::recorder::{Recorder, Totals};
use crate::report::{Report, Run};
use crate::scenario::Scenario;
use crate::target::{NoMinter, Target};
use crate::token::Minter;
use crate::viewer::Behaviour;
use group::Group;
use reference::Reference;

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
    /// Viewers are to have tokens of their own, and nothing signs them.
    #[error(transparent)]
    Minter(#[from] NoMinter),
    /// QUIC knows no other way.
    #[error("HTTP/3 runs over TLS only")]
    PlainH3,
    /// A group would have nothing to watch.
    #[error("the target has no title under the policies and formats of group {0:?}")]
    NoTitle(String),
    /// The viewers would need more sockets than there may be.
    #[error(transparent)]
    Files(#[from] open_files::TooFew),
    /// The server's processes cannot be read.
    #[error("cannot measure the server: {0}")]
    Server(#[source] std::io::Error),
}

/// A run that can begin.
pub struct Load {
    scenario: Scenario,
    groups: Vec<Group>,
    world: Arc<World>,
    server: Option<Processes>,
}

/// What all viewers share.
struct World {
    target: Target,
    authorization: HeaderValue,
    /// Of tokens that each viewer has for himself.
    minter: Option<Minter>,
    connector: Connector,
    reference: Reference,
    recorder: Arc<Recorder>,
    tls: bool,
    duration: Duration,
    start: OnceLock<Instant>,
    viewers: AtomicUsize,
}

impl Load {
    /// A run of `scenario` against `target`, of which these are the processes, where they are known.
    ///
    /// # Errors
    /// Where it cannot begin; what goes wrong later is in the report.
    pub fn new(
        scenario: Scenario,
        target: Target,
        server: Option<Processes>,
    ) -> Result<Self, Refused> {
        if scenario.protocol == crate::client::Protocol::H3 && !scenario.tls {
            return Err(Refused::PlainH3);
        }
        open_files::allow(scenario.sockets())?;
        let trust = Trust::read(&target.ca).map_err(|source| Refused::Authority {
            path: target.ca.clone(),
            source,
        })?;
        let authorization = HeaderValue::try_from(format!("Bearer {}", target.token));
        let mut authorization = authorization.map_err(|_| Refused::Token)?;
        authorization.set_sensitive(true);
        let minter = match scenario.wants_own_tokens() {
            true => Some(target.minter()?),
            false => None,
        };
        let recorder = Arc::new(Recorder::default());
        let connector = Connector::new(scenario.protocol, &trust, Arc::clone(&recorder))?;
        let tls = scenario.tls;
        let group = |rule: &crate::scenario::Group| {
            let titles = library::titles(&target, &rule.titles, tls);
            if titles.is_empty() {
                return Err(Refused::NoTitle(rule.name.clone()));
            }
            Ok(Group::new(rule.clone(), titles))
        };
        let groups = scenario
            .groups
            .iter()
            .map(group)
            .collect::<Result<_, _>>()?;
        let world = World {
            reference: Reference::new(&target, tls, connector.client(), Arc::clone(&recorder)),
            target,
            authorization,
            minter,
            connector,
            recorder,
            tls,
            duration: scenario.duration,
            start: OnceLock::new(),
            viewers: AtomicUsize::new(0),
        };
        Ok(Self {
            scenario,
            groups,
            world: Arc::new(world),
            server,
        })
    }

    /// What can be looked at while it runs.
    pub fn live(&self) -> Live {
        Live(Arc::clone(&self.world))
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// Where it cannot begin; what goes wrong later is in the report.
    pub async fn run(self) -> Result<Report, Refused> {
        let Self {
            scenario,
            mut groups,
            world,
            server,
        } = self;
        for group in &mut groups {
            group.prepare(&world).await;
        }
        let groups: Vec<_> = groups.into_iter().map(Arc::new).collect();
        let server = Meter::begin(server).map_err(Refused::Server)?;
        let client = Meter::begin(Some(Processes::own())).map_err(Refused::Server)?;
        let start = *world.start.get_or_init(Instant::now);

        let mut running = JoinSet::new();
        for group in &groups {
            running.spawn(group::run(Arc::clone(group), Arc::clone(&world)));
        }
        // What breaks down is a fault of this program: it must not look like a pass.
        while let Some(ended) = running.join_next().await {
            if ended.is_err() {
                let what = "a group of this loadtest broke down".to_owned();
                world.recorder.fault(what);
            }
        }
        let run = Run {
            elapsed: start.elapsed(),
            comparable: groups.iter().any(|group| group.compares()),
            server: server.end(&world.recorder),
            client_cpu: client.end(&world.recorder).map(|usage| usage.cpu),
            groups: groups.iter().map(|group| group.row()).collect(),
            records: world.recorder.records(),
        };
        Ok(Report::new(&scenario, run))
    }
}

/// Processes, and what they had used when it began; nothing where nobody is measured.
struct Meter(Option<(Processes, Snapshot)>);

impl Meter {
    fn begin(processes: Option<Processes>) -> std::io::Result<Self> {
        let metered = processes.map(|processes| {
            let snapshot = processes.snapshot()?;
            std::io::Result::Ok((processes, snapshot))
        });
        metered.transpose().map(Self)
    }

    /// What they used. A server that is gone in the end is a fault of the run.
    fn end(self, recorder: &Recorder) -> Option<Usage> {
        let (processes, before) = self.0?;
        let usage = processes.usage_since(&before);
        let gone = |error| recorder.fault(format!("cannot measure the server: {error}"));
        usage.map_err(gone).ok()
    }
}

impl World {
    /// Time since the run began.
    fn now(&self) -> Duration {
        self.start.get().map_or(Duration::ZERO, Instant::elapsed)
    }

    /// The token of a viewer who comes; none where none can be made, which is recorded.
    fn authorization(&self, behaviour: Behaviour) -> Option<HeaderValue> {
        let minter = self
            .minter
            .as_ref()
            .filter(|_| matches!(behaviour, Behaviour::Licence(licences) if licences.own_tokens));
        let Some(minter) = minter else {
            return Some(self.authorization.clone());
        };
        let minted = minter.authorization();
        minted
            .map_err(|error| self.recorder.fault(error.to_string()))
            .ok()
    }

    fn is_over(&self) -> bool {
        self.now() >= self.duration
    }

    /// Sleeps until that time, or until the run is over.
    async fn sleep_until(&self, time: Duration) {
        if let Some(start) = self.start.get() {
            tokio::time::sleep_until(*start + time.min(self.duration)).await;
        }
    }
}

/// A run that can be looked at.
#[derive(Clone)]
pub struct Live(Arc<World>);

/// What is to be seen of it at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Beat {
    /// Time since it began; zero while it is being prepared.
    pub elapsed: Duration,
    /// Viewers who are there, or connections where no viewers ask.
    pub present: usize,
    /// What they got until now.
    pub totals: Totals,
}

impl Live {
    /// Looks at it.
    pub fn beat(&self) -> Beat {
        let Self(world) = self;
        Beat {
            elapsed: world.now(),
            present: world.viewers.load(Ordering::Relaxed),
            totals: world.recorder.totals(),
        }
    }
}
