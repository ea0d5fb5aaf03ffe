//! From what is written to what is meant: every key that is missing, out of bounds or of no use where it stands.

use std::collections::BTreeMap;
use std::time::Duration;

use super::document::{self, Choice, Document, Kind};
use super::{
    AT_MOST_LIMIT, ArrivalRule, ConnectionRule, Fault, Faults, Group, Rule, Scenario, Shape,
    Spacing, Thresholds, TitleRule,
};
use crate::client::Protocol;
use crate::report::Route;
use crate::viewer::{Behaviour, Licences, Start, Watch};

/// Groups of a scenario; each has a task that waits for its arrivals.
const GROUPS_LIMIT: usize = 32;

/// The longest run and the longest time within one: a day.
const SECONDS_LIMIT: f64 = 86_400.0;

/// Arrivals per second, more than one process can serve.
const RATE_LIMIT: f64 = 100_000.0;

/// Arrivals of a burst.
const COUNT_LIMIT: u32 = 1_000_000;

/// Faster than film; a segment of 4 s is then watched in 4 ms.
pub(super) const PACE_LIMIT: f64 = 1000.0;

/// Seconds of film that a viewer keeps ahead; players keep 10 to 60.
const BUFFER_LIMIT: f64 = 600.0;

/// Periods of keys that a viewer stays for.
const PERIODS_LIMIT: u32 = 100_000;

const EXPONENT_LIMIT: f64 = 10.0;

/// What a viewer keeps ahead where nothing is said.
const BUFFER: f64 = 20.0;

pub(super) fn check(document: Document, faults: Vec<Fault>) -> Result<Scenario, Faults> {
    let mut check = Check { faults };
    let protocol = document.protocol.unwrap_or(Protocol::H2);
    let tls = document.tls.unwrap_or(true);
    if protocol == Protocol::H3 && !tls {
        check.fault("tls", "HTTP/3 runs over TLS only");
    }
    if document.groups.is_empty() {
        check.missing("groups");
    }
    if document.groups.len() > GROUPS_LIMIT {
        check.fault("groups", format!("no more than {GROUPS_LIMIT} groups"));
    }
    let groups = document.groups.into_iter().enumerate();
    let scenario = Scenario {
        name: check.required("name", document.name),
        description: check.required("description", document.description),
        protocol,
        tls,
        duration: {
            let seconds = check.required("seconds", document.seconds);
            check.above_zero("seconds", seconds, SECONDS_LIMIT);
            Duration::try_from_secs_f64(seconds).unwrap_or_default()
        },
        groups: groups
            .map(|(number, group)| check.group(&format!("groups[{number}]"), group))
            .collect(),
        thresholds: check.thresholds(document.thresholds),
    };
    if check.faults.is_empty() {
        Ok(scenario)
    } else {
        Err(Faults(check.faults))
    }
}

struct Check {
    faults: Vec<Fault>,
}

impl Check {
    fn fault(&mut self, key: &str, message: impl ToString) {
        let (key, message) = (key.to_owned(), message.to_string());
        self.faults.push(Fault { key, message });
    }

    /// What was written and could not be understood has been reported, and is not missing; nor is what it held.
    fn missing(&mut self, key: &str) {
        let reported = |fault: &Fault| {
            let rest = key.strip_prefix(fault.key.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        if !self.faults.iter().any(reported) {
            self.fault(key, "is missing");
        }
    }

    fn required<T: Default>(&mut self, key: &str, value: Option<T>) -> T {
        if value.is_none() {
            self.missing(key);
        }
        value.unwrap_or_default()
    }

    /// A number that stands there must be above zero; one that does not has been reported, and is zero.
    fn above_zero(&mut self, key: &str, value: f64, most: f64) {
        let reported = self.faults.iter().any(|fault| fault.key == key);
        if !(reported || value > 0.0 && value <= most) {
            self.fault(key, format!("a number above 0 and up to {most} is wanted"));
        }
    }

    fn zero_or_more(&mut self, key: &str, value: f64, most: f64) {
        if !(0.0..=most).contains(&value) {
            self.fault(key, format!("a number from 0 to {most} is wanted"));
        }
    }

    /// Reports keys that say nothing where they stand.
    fn useless(&mut self, keys: &[(String, bool)], why: &str) {
        for (key, _) in keys.iter().filter(|(_, is_written)| *is_written) {
            self.fault(key, format!("has no meaning for {why}"));
        }
    }

    fn group(&mut self, key: &str, group: document::Group) -> Group {
        let at = |name: &str| format!("{key}.{name}");
        let at_most = self.required(&at("at_most"), group.at_most);
        if group.at_most.is_some() && !(1..=AT_MOST_LIMIT).contains(&at_most) {
            self.fault(
                &at("at_most"),
                format!("a number from 1 to {AT_MOST_LIMIT} is wanted"),
            );
        }
        let verify = group.verify.unwrap_or(0.0);
        self.zero_or_more(&at("verify"), verify, 1.0);
        let behaviour = self.behaviour(&at("behaviour"), &group.behaviour);
        if matches!(behaviour, Behaviour::Licence(_)) && verify > 0.0 {
            self.fault(&at("verify"), "has no meaning for kind = \"licence\"");
        }
        Group {
            name: self.required(&at("name"), group.name),
            at_most: usize::try_from(at_most).unwrap_or(usize::MAX),
            connection: group.connection.unwrap_or(ConnectionRule::New),
            verify,
            arrivals: self.arrivals(&at("arrivals"), &group.arrivals),
            titles: self.titles(&at("titles"), group.titles),
            behaviour,
        }
    }

    fn arrivals(&mut self, key: &str, arrivals: &document::Arrivals) -> ArrivalRule {
        let at = |name: &str| format!("{key}.{name}");
        let [rate, ends, count, within] = [
            vec![(at("rate"), arrivals.rate.is_some())],
            vec![
                (at("from"), arrivals.from.is_some()),
                (at("to"), arrivals.to.is_some()),
            ],
            vec![(at("count"), arrivals.count.is_some())],
            vec![(at("within"), arrivals.within.is_some())],
        ];
        let shape = match arrivals.shape {
            None => {
                self.missing(&at("shape"));
                Shape::Constant { rate: 1.0 }
            }
            Some(document::Shape::Constant) => {
                self.useless(&[ends, count, within].concat(), "shape = \"constant\"");
                let rate = self.required(&at("rate"), arrivals.rate);
                self.above_zero(&at("rate"), rate, RATE_LIMIT);
                Shape::Constant { rate }
            }
            Some(document::Shape::Ramp) => {
                self.useless(&[rate, count].concat(), "shape = \"ramp\"");
                let [from, to, within] = [
                    ("from", arrivals.from),
                    ("to", arrivals.to),
                    ("within", arrivals.within),
                ]
                .map(|(name, value)| self.required(&at(name), value));
                self.zero_or_more(&at("from"), from, RATE_LIMIT);
                self.above_zero(&at("to"), to, RATE_LIMIT);
                self.above_zero(&at("within"), within, SECONDS_LIMIT);
                Shape::Ramp { from, to, within }
            }
            Some(document::Shape::Burst) => {
                self.useless(&[rate, ends].concat(), "shape = \"burst\"");
                let count = self.required(&at("count"), arrivals.count);
                if arrivals.count.is_some() && !(1..=COUNT_LIMIT).contains(&count) {
                    self.fault(
                        &at("count"),
                        format!("a number from 1 to {COUNT_LIMIT} is wanted"),
                    );
                }
                let within = self.required(&at("within"), arrivals.within);
                self.above_zero(&at("within"), within, SECONDS_LIMIT);
                Shape::Burst {
                    count: count.into(),
                    within,
                }
            }
        };
        ArrivalRule {
            shape,
            spacing: match arrivals.spacing {
                None | Some(document::Spacing::Poisson) => Spacing::Poisson,
                Some(document::Spacing::Fixed) => Spacing::Fixed,
            },
            seed: arrivals.seed.unwrap_or(0).into(),
        }
    }

    fn titles(&mut self, key: &str, titles: document::Titles) -> TitleRule {
        let exponent_key = format!("{key}.exponent");
        let choice = titles.choice.unwrap_or(Choice::RoundRobin);
        if choice != Choice::Zipf {
            let written = titles.exponent.is_some();
            self.useless(
                &[(exponent_key.clone(), written)],
                "a choice that is not \"zipf\"",
            );
        }
        let rule = match choice {
            Choice::RoundRobin => Rule::RoundRobin,
            Choice::Uniform => Rule::Uniform,
            Choice::First => Rule::First,
            Choice::Once => Rule::Once,
            Choice::Zipf => {
                let exponent = self.required(&exponent_key, titles.exponent);
                self.zero_or_more(&exponent_key, exponent, EXPONENT_LIMIT);
                Rule::Zipf { exponent }
            }
        };
        TitleRule {
            rule,
            seed: titles.seed.unwrap_or(0).into(),
            policies: titles.policies,
            formats: titles.formats,
        }
    }

    fn behaviour(&mut self, key: &str, behaviour: &document::Behaviour) -> Behaviour {
        let at = |name: &str| format!("{key}.{name}");
        let of_watching = [
            (at("session_seconds"), behaviour.session_seconds.is_some()),
            (at("start_rung"), behaviour.start_rung.is_some()),
            (at("buffer_seconds"), behaviour.buffer_seconds.is_some()),
            (at("pace"), behaviour.pace.is_some()),
            (
                at("seek_every_seconds"),
                behaviour.seek_every_seconds.is_some(),
            ),
        ];
        let of_licences = [
            (at("periods"), behaviour.periods.is_some()),
            (at("period_seconds"), behaviour.period_seconds.is_some()),
            (at("tokens"), behaviour.tokens.is_some()),
        ];
        let start = behaviour.start.unwrap_or(Start::Beginning);
        match behaviour.kind {
            None => {
                self.missing(&at("kind"));
                Behaviour::Licence(Licences::default())
            }
            Some(Kind::Licence) => {
                self.useless(&of_watching, "kind = \"licence\"");
                self.useless(
                    &[(at("start"), behaviour.start.is_some())],
                    "kind = \"licence\"",
                );
                self.licences(key, behaviour)
            }
            Some(Kind::Hurry) => {
                self.useless(&of_watching, "kind = \"hurry\"");
                self.useless(&of_licences, "kind = \"hurry\"");
                Behaviour::Hurry { start }
            }
            Some(Kind::Watch) => {
                self.useless(&of_licences, "kind = \"watch\"");
                let watch = Watch {
                    session: behaviour.session_seconds,
                    start_rung: behaviour.start_rung.unwrap_or(0).into(),
                    buffer: behaviour.buffer_seconds.unwrap_or(BUFFER),
                    pace: behaviour.pace.unwrap_or(1.0),
                    seek_every: behaviour.seek_every_seconds,
                    start,
                };
                self.above_zero(&at("buffer_seconds"), watch.buffer, BUFFER_LIMIT);
                self.above_zero(&at("pace"), watch.pace, PACE_LIMIT);
                for (name, seconds) in [
                    ("session_seconds", watch.session),
                    ("seek_every_seconds", watch.seek_every),
                ] {
                    if let Some(seconds) = seconds {
                        self.above_zero(&at(name), seconds, SECONDS_LIMIT);
                    }
                }
                Behaviour::Watch(watch)
            }
        }
    }

    fn licences(&mut self, key: &str, behaviour: &document::Behaviour) -> Behaviour {
        let at = |name: &str| format!("{key}.{name}");
        let default = Licences::default();
        let licences = Licences {
            periods: behaviour.periods.unwrap_or(default.periods),
            period: behaviour.period_seconds.unwrap_or(default.period),
            own_tokens: behaviour.tokens == Some(document::Tokens::Own),
        };
        if !(1..=PERIODS_LIMIT).contains(&licences.periods) {
            self.fault(
                &at("periods"),
                format!("a number from 1 to {PERIODS_LIMIT} is wanted"),
            );
        }
        self.above_zero(&at("period_seconds"), licences.period, SECONDS_LIMIT);
        Behaviour::Licence(licences)
    }

    fn thresholds(&mut self, thresholds: document::Thresholds) -> Thresholds {
        if let Some(share) = thresholds.max_error_share {
            self.zero_or_more("thresholds.max_error_share", share, 1.0);
        }
        let shed = thresholds.max_shed_share;
        let shed = [
            (Route::Licence, shed.licence),
            (Route::Renewal, shed.renewal),
        ];
        let written = shed.into_iter();
        let max_shed_share: BTreeMap<Route, f64> = written
            .filter_map(|(route, share)| Some((route, share?)))
            .collect();
        for (route, share) in &max_shed_share {
            let key = format!("thresholds.max_shed_share.{}", route.name());
            self.zero_or_more(&key, *share, 1.0);
        }
        let routes = thresholds.max_p99_ms;
        let routes = [
            (Route::Connect, routes.connect),
            (Route::Manifest, routes.manifest),
            (Route::Playlist, routes.playlist),
            (Route::Init, routes.init),
            (Route::Segment, routes.segment),
            (Route::Licence, routes.licence),
            (Route::Renewal, routes.renewal),
        ];
        let written = routes
            .into_iter()
            .filter_map(|(route, ms)| Some((route, ms?)));
        let max_p99_ms: BTreeMap<Route, f64> = written.collect();
        for (route, ms) in &max_p99_ms {
            let key = format!("thresholds.max_p99_ms.{}", route.name());
            self.above_zero(&key, *ms, SECONDS_LIMIT);
        }
        if let Some(rate) = thresholds.min_mb_per_s {
            self.above_zero("thresholds.min_mb_per_s", rate, f64::MAX);
        }
        Thresholds {
            max_error_share: thresholds.max_error_share,
            max_shed_share,
            max_p99_ms,
            min_mb_per_s: thresholds.min_mb_per_s,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::player::Format;

    const WHOLE: &str = r#"
name = "evening"
description = "An evening."
protocol = "h1"
tls = false
seconds = 30.5

[[groups]]
name = "films"
at_most = 200
connection = "kept"
verify = 0.25
arrivals = { shape = "ramp", from = 0, to = 5.5, within = 10, spacing = "fixed", seed = 3 }
titles = { choice = "zipf", exponent = 0.8, seed = 4, policies = ["cbcs"], formats = ["hls"] }

[groups.behaviour]
kind = "watch"
session_seconds = 60
start_rung = 1
buffer_seconds = 12
pace = 2
seek_every_seconds = 20
start = "anywhere"

[[groups]]
name = "keys"
at_most = 10
arrivals = { shape = "constant", rate = 2 }
behaviour = { kind = "licence", periods = 6, period_seconds = 5, tokens = "own" }

[thresholds]
max_error_share = 0.01
max_shed_share = { licence = 0.5, renewal = 0 }
max_p99_ms = { segment = 200, licence = 50.5 }
min_mb_per_s = 3
"#;

    fn keys(text: &str) -> Vec<(String, String)> {
        let faults = Scenario::parse(text).unwrap_err();
        faults
            .iter()
            .map(|fault| (fault.key.clone(), fault.message.clone()))
            .collect()
    }

    #[test]
    fn every_key_is_understood() {
        let scenario = Scenario::parse(WHOLE).unwrap();
        assert_eq!((scenario.protocol, scenario.tls), (Protocol::H1, false));
        assert_eq!(scenario.duration, Duration::from_millis(30_500));
        let [films, keys] = scenario.groups.as_slice() else {
            panic!("two groups")
        };
        assert_eq!(
            (films.at_most, films.connection, films.verify),
            (200, ConnectionRule::Kept, 0.25)
        );
        let ramp = Shape::Ramp {
            from: 0.0,
            to: 5.5,
            within: 10.0,
        };
        let arrivals = ArrivalRule {
            shape: ramp,
            spacing: Spacing::Fixed,
            seed: 3,
        };
        assert_eq!(films.arrivals, arrivals);
        let titles = TitleRule {
            rule: Rule::Zipf { exponent: 0.8 },
            seed: 4,
            policies: vec!["cbcs".into()],
            formats: vec![Format::Hls],
        };
        assert_eq!(films.titles, titles);
        let watch = Watch {
            session: Some(60.0),
            start_rung: 1,
            buffer: 12.0,
            pace: 2.0,
            seek_every: Some(20.0),
            start: Start::Anywhere,
        };
        assert_eq!(films.behaviour, Behaviour::Watch(watch));
        let licences = Licences {
            periods: 6,
            period: 5.0,
            own_tokens: true,
        };
        assert_eq!(
            (keys.connection, keys.verify, keys.behaviour),
            (ConnectionRule::New, 0.0, Behaviour::Licence(licences))
        );
        assert!(scenario.wants_own_tokens());
        assert_eq!(
            (keys.arrivals.spacing, keys.titles.rule),
            (Spacing::Poisson, Rule::RoundRobin)
        );
        assert_eq!(scenario.thresholds.max_p99_ms[&Route::Licence], 50.5);
        assert_eq!(scenario.thresholds.max_shed_share[&Route::Renewal], 0.0);
    }

    #[test]
    fn all_faults_are_told_at_once_with_their_keys() {
        let text = WHOLE
            .replace("seconds = 30.5", "seconds = \"long\"\nhurry = 1")
            .replace("at_most = 200", "at_most = 0")
            .replace("verify = 0.25", "verify = 2")
            .replace("pace = 2", "pace = -1\nwarp = 9")
            .replace("\"constant\", rate = 2", "\"burst\", rate = 2")
            .replace("segment = 200", "segmnt = 200");
        let found = keys(&text);
        let keys: Vec<&str> = found.iter().map(|(key, _)| key.as_str()).collect();
        let mut sorted = keys.clone();
        sorted.sort_unstable();
        assert_eq!(
            sorted,
            [
                "groups[0].at_most",
                "groups[0].behaviour.pace",
                "groups[0].behaviour.warp",
                "groups[0].verify",
                "groups[1].arrivals.count",
                "groups[1].arrivals.rate",
                "groups[1].arrivals.within",
                "hurry",
                "seconds",
                "thresholds.max_p99_ms.segmnt",
            ],
            "{found:#?}"
        );
        let message = |key: &str| &found.iter().find(|(found, _)| found == key).unwrap().1;
        assert!(
            message("hurry").starts_with("unknown field `hurry`"),
            "{}",
            message("hurry")
        );
        assert_eq!(message("groups[1].arrivals.within"), "is missing");
        assert_eq!(
            message("groups[1].arrivals.rate"),
            "has no meaning for shape = \"burst\""
        );
    }

    #[test]
    fn what_must_be_there_is_missed() {
        let missing = |text: &str| {
            let keys = keys(text);
            assert!(
                keys.iter().all(|(_, message)| message == "is missing"),
                "{keys:?}"
            );
            keys.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
        };
        assert_eq!(missing(""), ["groups", "name", "description", "seconds"]);
        let empty = "name = 'n'\ndescription = 'd'\nseconds = 1\n[[groups]]";
        let group = ["at_most", "behaviour.kind", "name", "arrivals.shape"]
            .map(|key| format!("groups[0].{key}"));
        assert_eq!(missing(empty), group);
    }

    #[test]
    fn each_fault_alone() {
        for (from, to, key) in [
            ("protocol = \"h1\"", "protocol = \"h3\"", "tls"),
            ("protocol = \"h1\"", "protocol = \"h4\"", "protocol"),
            ("verify = 0.25", "verify = nan", "groups[0].verify"),
            ("exponent = 0.8, ", "", "groups[0].titles.exponent"),
            ("\"zipf\"", "\"once\"", "groups[0].titles.exponent"),
            ("rate = 2", "rate = 1e9", "groups[1].arrivals.rate"),
            ("rate = 2", "rate = inf", "groups[1].arrivals.rate"),
            ("to = 5.5", "to = 0", "groups[0].arrivals.to"),
            (
                "kind = \"licence\"",
                "kind = \"licence\", pace = 2",
                "groups[1].behaviour.pace",
            ),
            (
                "kind = \"licence\", periods = 6, period_seconds = 5, tokens = \"own\"",
                "kind = \"hurry\", buffer_seconds = 2",
                "groups[1].behaviour.buffer_seconds",
            ),
            (
                "kind = \"watch\"",
                "kind = \"watch\"\nperiods = 2",
                "groups[0].behaviour.periods",
            ),
            ("periods = 6", "periods = 0", "groups[1].behaviour.periods"),
            (
                "licence = 0.5",
                "licence = 1.5",
                "thresholds.max_shed_share.licence",
            ),
            ("seed = 3", "seed = -3", "groups[0].arrivals.seed"),
            (
                "[\"hls\"]",
                "[\"hls\", \"hds\"]",
                "groups[0].titles.formats[1]",
            ),
            (
                "name = \"keys\"",
                "name = \"keys\"\nverify = 1",
                "groups[1].verify",
            ),
            (
                "min_mb_per_s = 3",
                "min_mb_per_s = 0",
                "thresholds.min_mb_per_s",
            ),
        ] {
            let found = keys(&WHOLE.replace(from, to));
            assert_eq!(found.len(), 1, "{to}: {found:?}");
            assert_eq!(found[0].0, key, "{to}");
        }
        assert_eq!(keys("name = ").len(), 1);
    }
}
