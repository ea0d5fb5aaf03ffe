//! What a run does, as a TOML file says it: groups of viewers, when they come, what they choose, how they watch, and
//! what must be true in the end.
//!
//! ```text
//! document (written) -> check -> Scenario (meant) -> arrivals, choice (pure) -> load
//! ```
//!
//! The keys are explained in `loadtest/README.md`, scenarios to begin with are in `loadtest/scenarios/`.

mod arrivals;
mod check;
mod choice;
mod document;

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

pub use arrivals::{Arrivals, Shape, Spacing};
pub use choice::{Choice, Chosen, Rule};

use crate::client::Protocol;
use crate::player::Format;
use crate::report::Route;
use crate::viewer::Behaviour;

/// Bytes of a scenario's file.
const FILE_LIMIT: u64 = 1 << 20;

/// Viewers of a group at once; each has sockets, and what it plays, in memory.
pub const AT_MOST_LIMIT: u32 = 50_000;

/// Everything that a run does.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// Its name.
    pub name: String,
    /// What it is good for.
    pub description: String,
    /// The protocol of all requests.
    pub protocol: Protocol,
    /// Whether they use the TLS listeners.
    pub tls: bool,
    /// How long viewers come and ask; what is under way then is waited for.
    pub duration: Duration,
    /// The viewers.
    pub groups: Vec<Group>,
    /// What must be true in the end.
    pub thresholds: Thresholds,
}

/// Viewers who are alike.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// How many are there at once; who comes when so many are there is turned away, and counted.
    pub at_most: usize,
    /// Where their connections come from.
    pub connection: ConnectionRule,
    /// Of the turns of segments, the share that is decrypted and compared with the clear policy's.
    pub verify: f64,
    /// When they come.
    pub arrivals: ArrivalRule,
    /// What they choose.
    pub titles: TitleRule,
    /// What they do.
    pub behaviour: Behaviour,
}

/// Where a viewer's connections come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConnectionRule {
    /// He opens his own, and closes them when he leaves.
    New,
    /// He takes over those of one who left, where there is one, as a CDN keeps its connections.
    Kept,
}

/// When viewers come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ArrivalRule {
    /// How the rate goes.
    pub shape: Shape,
    /// How they lie around it.
    pub spacing: Spacing,
    /// What decides where.
    pub seed: u64,
}

/// What viewers choose.
#[derive(Debug, Clone, PartialEq)]
pub struct TitleRule {
    /// By what rule a title is chosen.
    pub rule: Rule,
    /// What decides where that leaves a choice; and all else that viewers draw.
    pub seed: u64,
    /// The policies under which it is watched, in turn; all where there is none.
    pub policies: Vec<String>,
    /// The manifests by which; both where there is none.
    pub formats: Vec<Format>,
}

/// What must be true in the end, of what an operator has written down.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Thresholds {
    /// The share of requests that may fail. Without it none may.
    pub max_error_share: Option<f64>,
    /// The share of a route's requests that may be told to come again. Without it none may.
    pub max_shed_share: BTreeMap<Route, f64>,
    /// Milliseconds that 99 of 100 requests of a route may take.
    pub max_p99_ms: BTreeMap<Route, f64>,
    /// Megabytes per second, of all routes together.
    pub min_mb_per_s: Option<f64>,
}

/// Everything that is wrong with a scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(Vec<Fault>);

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The key, such as `groups[0].arrivals.rate`; empty for the file itself.
    pub key: String,
    /// What is wrong with it.
    pub message: String,
}

impl std::error::Error for Faults {}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, Fault { key, message }) in self.0.iter().enumerate() {
            if number > 0 {
                writeln!(f)?;
            }
            if key.is_empty() {
                write!(f, "{message}")?;
            } else {
                write!(f, "{key}: {message}")?;
            }
        }
        Ok(())
    }
}

impl Faults {
    /// The faults, in the order in which they were found.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.0.iter()
    }

    fn of_file(message: impl ToString) -> Self {
        let (key, message) = (String::new(), message.to_string());
        Self(vec![Fault { key, message }])
    }
}

impl Scenario {
    /// Reads a scenario's file.
    ///
    /// # Errors
    /// Everything that is wrong with it, at once.
    pub fn read(path: &Path) -> Result<Self, Faults> {
        let unreadable =
            |error| Faults::of_file(format_args!("cannot read {}: {error}", path.display()));
        let file = std::fs::File::open(path).map_err(unreadable)?;
        let mut text = String::new();
        let read = file.take(FILE_LIMIT + 1).read_to_string(&mut text);
        if read.map_err(unreadable)? as u64 > FILE_LIMIT {
            return Err(Faults::of_file(format_args!(
                "{} is longer than {FILE_LIMIT} bytes",
                path.display()
            )));
        }
        Self::parse(&text)
    }

    /// Reads a scenario's text.
    ///
    /// # Errors
    /// Everything that is wrong with it, at once.
    pub fn parse(text: &str) -> Result<Self, Faults> {
        let (document, faults) = document::read(text)?;
        check::check(document, faults)
    }

    /// Multiplies every rate and every burst, and how many may be there at once.
    pub fn multiply(&mut self, factor: f64) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "the conversion from f64 saturates, and what is counted here is far below 2^53"
        )]
        let times = |count: u64| (count as f64 * factor).ceil() as u64;
        for group in &mut self.groups {
            match &mut group.arrivals.shape {
                Shape::Constant { rate } => *rate *= factor,
                Shape::Ramp { from, to, .. } => {
                    *from *= factor;
                    *to *= factor;
                }
                Shape::Burst { count, .. } => *count = times(*count).max(1),
            }
            let at_most = times(group.at_most as u64).clamp(1, AT_MOST_LIMIT.into());
            group.at_most = usize::try_from(at_most).unwrap_or(group.at_most);
        }
    }

    /// Lets all who watch film do so at this multiple of its speed; keys change as much sooner.
    pub fn set_pace(&mut self, pace: f64) {
        for group in &mut self.groups {
            match &mut group.behaviour {
                Behaviour::Watch(watch) => watch.pace = pace,
                Behaviour::Licence(licences) => licences.period /= pace,
                Behaviour::Hurry { .. } => {}
            }
        }
    }

    /// Whether viewers are to have tokens of their own.
    pub fn wants_own_tokens(&self) -> bool {
        let mut groups = self.groups.iter();
        groups.any(
            |group| matches!(group.behaviour, Behaviour::Licence(licences) if licences.own_tokens),
        )
    }

    /// Sockets that may be open at once: of viewers, and of what this program asks beside them.
    pub fn sockets(&self) -> u64 {
        // Over HTTP/1.1 picture and sound have a connection each, at one of two listeners, and a licence has one.
        let each = match self.protocol {
            Protocol::H1 => 3,
            Protocol::H2 | Protocol::H3 => 2,
        };
        self.groups
            .iter()
            .map(|group| group.at_most as u64 * each)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        name = "n"
        description = "d"
        seconds = 5
        [[groups]]
        name = "g"
        at_most = 10
        arrivals = { shape = "burst", count = 3, within = 1 }
        behaviour = { kind = "watch" }
        [[groups]]
        name = "h"
        at_most = 20
        arrivals = { shape = "ramp", from = 1, to = 4, within = 2 }
        behaviour = { kind = "licence" }
    "#;

    #[test]
    fn a_factor_multiplies_what_comes() {
        let mut scenario = Scenario::parse(TEXT).unwrap();
        assert_eq!(scenario.sockets(), 60);
        scenario.multiply(2.5);
        let shapes: Vec<_> = scenario
            .groups
            .iter()
            .map(|group| group.arrivals.shape)
            .collect();
        let burst = Shape::Burst {
            count: 8,
            within: 1.0,
        };
        let ramp = Shape::Ramp {
            from: 2.5,
            to: 10.0,
            within: 2.0,
        };
        assert_eq!(shapes, [burst, ramp]);
        assert_eq!(
            (scenario.groups[0].at_most, scenario.groups[1].at_most),
            (25, 50)
        );
        scenario.multiply(1e-9);
        assert_eq!(scenario.groups[0].at_most, 1);
        assert!(matches!(
            scenario.groups[0].arrivals.shape,
            Shape::Burst { count: 1, .. }
        ));
        scenario.multiply(1e9);
        assert_eq!(scenario.groups[0].at_most, 50_000);
    }

    #[test]
    fn pace_is_of_those_who_watch() {
        let mut scenario = Scenario::parse(TEXT).unwrap();
        scenario.set_pace(7.0);
        assert!(
            matches!(scenario.groups[0].behaviour, Behaviour::Watch(watch) if watch.pace == 7.0)
        );
        let Behaviour::Licence(licences) = scenario.groups[1].behaviour else {
            panic!("he wants a licence")
        };
        assert_eq!(licences.period, 10.0 / 7.0);
    }

    #[test]
    fn a_file_that_is_not_there_is_a_fault() {
        let faults = Scenario::read(Path::new("/nowhere/s.toml")).unwrap_err();
        assert!(
            faults
                .to_string()
                .starts_with("cannot read /nowhere/s.toml: ")
        );
    }
}
