//! What a run measured: tables for people, JSON for machines.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::client::Protocol;
use crate::comparison::Round;
use crate::host::Usage;
use crate::latency::Latencies;
pub use crate::recorder::Route;
use crate::recorder::{Answers, Compared, Records};
use crate::scenario::{Scenario, Thresholds};
use crate::viewer::Experience;

/// The form of the JSON report; raised when a field changes its meaning.
const SCHEMA: u32 = 2;

/// The protocol in words, with its security.
pub fn protocol_name(protocol: Protocol, tls: bool) -> &'static str {
    match (protocol, tls) {
        (Protocol::H1, true) => "HTTP/1.1 (TLS)",
        (Protocol::H1, false) => "HTTP/1.1 (plain)",
        (Protocol::H2, true) => "HTTP/2 (TLS)",
        (Protocol::H2, false) => "HTTP/2 (plain)",
        (Protocol::H3, _) => "HTTP/3 (TLS)",
    }
}

/// What share of some durations stays below what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Quantiles {
    /// Half of them, in microseconds.
    pub p50_us: u64,
    /// Nine of ten.
    pub p90_us: u64,
    /// 99 of 100.
    pub p99_us: u64,
    /// All.
    pub max_us: u64,
}

impl Quantiles {
    /// The names of what [`fmt::Display`] writes.
    pub const HEADING: &str = "    p50 ms    p90 ms    p99 ms    max ms";

    /// Of these durations; zeros where there is none.
    pub fn of(latencies: &Latencies) -> Self {
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let at = |share| micros(latencies.quantile(share));
        Self {
            p50_us: at(0.50),
            p90_us: at(0.90),
            p99_us: at(0.99),
            max_us: micros(latencies.max()),
        }
    }
}

impl fmt::Display for Quantiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for micros in [self.p50_us, self.p90_us, self.p99_us, self.max_us] {
            let milliseconds = Duration::from_micros(micros).as_secs_f64() * 1e3;
            write!(f, "{milliseconds:>10.2}")?;
        }
        Ok(())
    }
}

/// What a run found.
#[derive(Debug)]
pub struct Run {
    /// How long it took.
    pub elapsed: Duration,
    /// Whether something was to be compared, and could be.
    pub comparable: bool,
    /// What the server's processes used.
    pub server: Option<Usage>,
    /// Processor time of this process.
    pub client_cpu: Option<Duration>,
    /// The groups.
    pub groups: Vec<GroupRow>,
    /// Everything else.
    pub records: Records,
}

/// Everything that is to be said of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    schema: u32,
    passed: bool,
    scenario: String,
    protocol: Protocol,
    tls: bool,
    elapsed_seconds: f64,
    groups: Vec<GroupRow>,
    routes: Vec<RouteRow>,
    /// Of viewers, all routes together.
    requests: u64,
    bytes: u64,
    requests_per_s: f64,
    mb_per_s: f64,
    comparable: bool,
    compared: Compared,
    server: Option<Usage>,
    requests_per_cpu_s: Option<f64>,
    mb_per_cpu_s: Option<f64>,
    client_cpu_seconds: Option<f64>,
    thresholds: Vec<Verdict>,
    failed: u64,
    failures: Vec<String>,
    /// Of segments, or of licences where there are none: what two runs are compared by.
    #[serde(skip)]
    measure: Quantiles,
}

/// What became of a group's viewers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GroupRow {
    /// Its name.
    pub group: String,
    /// Viewers who came.
    pub arrived: u64,
    /// Those of them who were turned away, as too many were there.
    pub shed: u64,
    /// The most that were there at once.
    pub at_once: u64,
    /// Those who had what they came for.
    pub finished: u64,
    /// Those who were there when the run ended.
    pub cut: u64,
    /// Those to whom something failed.
    pub failed: u64,
    /// How often a picture stopped.
    pub stalls: u64,
    /// How long pictures stood still, all together.
    pub stalled_seconds: f64,
    /// Titles in which that happened.
    pub stalled_titles: u64,
    /// Segments of the ladder.
    pub segments: u64,
    /// Their mean rung, the lowest being 0.
    pub mean_rung: Option<f64>,
    /// Changes of rung.
    pub switches: u64,
    /// Seeks.
    pub seeks: u64,
    #[serde(skip)]
    rungs: u64,
}

/// One line of the table of routes.
#[derive(Debug, Serialize)]
struct RouteRow {
    route: Route,
    /// How many were asked a second: answered, shed, turned away and failed.
    offered_per_s: f64,
    count: u64,
    shed: u64,
    turned_away: u64,
    errors: u64,
    #[serde(flatten)]
    seen: Quantiles,
    /// With what closed loops did not ask for while they waited.
    corrected: Option<Quantiles>,
    bytes: u64,
    requests_per_s: f64,
    mb_per_s: f64,
}

/// Whether a threshold was met.
#[derive(Debug, PartialEq, Serialize)]
struct Verdict {
    threshold: String,
    wanted: f64,
    /// `None` where nothing was measured, which meets nothing.
    found: Option<f64>,
    met: bool,
}

impl GroupRow {
    /// Of a group to which nobody has come.
    pub fn new(group: String) -> Self {
        Self {
            group,
            arrived: 0,
            shed: 0,
            at_once: 0,
            finished: 0,
            cut: 0,
            failed: 0,
            stalls: 0,
            stalled_seconds: 0.0,
            stalled_titles: 0,
            segments: 0,
            mean_rung: None,
            switches: 0,
            seeks: 0,
            rungs: 0,
        }
    }

    /// Adds what one title was to a viewer.
    pub fn add(&mut self, experience: Experience) {
        self.stalls += experience.stalls;
        self.stalled_seconds += experience.stalled.as_secs_f64();
        self.stalled_titles += u64::from(experience.stalls > 0);
        self.segments += experience.segments;
        self.rungs += experience.rungs;
        self.switches += experience.switches;
        self.seeks += experience.seeks;
        let segments = real(self.segments);
        self.mean_rung = (self.segments > 0).then(|| real(self.rungs) / segments);
    }
}

impl RouteRow {
    fn of(route: Route, answers: &Answers, elapsed: Duration) -> Self {
        let per_second = |count: u64| per(count, elapsed);
        Self {
            route,
            offered_per_s: per_second(answers.asked()),
            count: answers.count(),
            shed: answers.shed,
            turned_away: answers.turned_away,
            errors: answers.errors,
            seen: Quantiles::of(&answers.seen()),
            corrected: answers.corrected().as_ref().map(Quantiles::of),
            bytes: answers.bytes,
            requests_per_s: per_second(answers.count()),
            mb_per_s: per_second(answers.bytes) / 1e6,
        }
    }
}

impl Report {
    /// Of this scenario's run.
    pub fn new(scenario: &Scenario, run: Run) -> Self {
        let Run {
            elapsed,
            comparable,
            server,
            client_cpu,
            groups,
            records,
        } = run;
        let totals = records.totals();
        let routes = records.routes.iter();
        let routes: Vec<_> = routes
            .map(|(route, answers)| RouteRow::of(*route, answers, elapsed))
            .collect();
        let measured = |route| records.routes.get(&route).map(Answers::seen);
        let measure = measured(Route::Segment)
            .or(measured(Route::Licence))
            .unwrap_or_default();
        let mb_per_s = per(totals.bytes, elapsed) / 1e6;
        let thresholds = judge(&scenario.thresholds, &records, mb_per_s);
        // An operator who allows some requests to fail allows nothing else to.
        let only_allowed = match scenario.thresholds.max_error_share {
            Some(_) => records.faults == 0,
            None => totals.errors == 0,
        };
        let not_shed = (records.routes.iter()).all(|(route, answers)| {
            answers.unserved() == 0 || scenario.thresholds.max_shed_share.contains_key(route)
        });
        // A run that was to compare and compared nothing has proved nothing.
        let compared_enough = !comparable || records.compared.segments > 0;
        let all_met = thresholds.iter().all(|verdict| verdict.met);
        let of_server = |count: u64| server.as_ref().map(|usage| per(count, usage.cpu));
        Self {
            schema: SCHEMA,
            passed: only_allowed && not_shed && compared_enough && all_met && totals.requests > 0,
            scenario: scenario.name.clone(),
            protocol: scenario.protocol,
            tls: scenario.tls,
            elapsed_seconds: elapsed.as_secs_f64(),
            groups,
            routes,
            requests: totals.requests,
            bytes: totals.bytes,
            requests_per_s: per(totals.requests, elapsed),
            mb_per_s,
            comparable,
            compared: records.compared,
            requests_per_cpu_s: of_server(totals.requests),
            mb_per_cpu_s: of_server(totals.bytes).map(|bytes| bytes / 1e6),
            server,
            client_cpu_seconds: client_cpu.map(|cpu| cpu.as_secs_f64()),
            thresholds,
            failed: totals.errors,
            failures: records.told,
            measure: Quantiles::of(&measure),
        }
    }

    /// Whether all was answered, all that was compared was equal, and every threshold was met.
    pub fn passed(&self) -> bool {
        self.passed
    }
}

impl From<&Report> for Round {
    fn from(report: &Report) -> Self {
        let milliseconds = |micros| Duration::from_micros(micros).as_secs_f64() * 1e3;
        Self {
            mb_per_s: report.mb_per_s,
            mb_per_cpu_s: report.mb_per_cpu_s,
            requests_per_s: report.requests_per_s,
            requests_per_cpu_s: report.requests_per_cpu_s,
            p50_ms: milliseconds(report.measure.p50_us),
            p99_ms: milliseconds(report.measure.p99_us),
            requests: report.requests,
            errors: report.failed,
        }
    }
}

/// Holds what was measured against what an operator wrote.
fn judge(thresholds: &Thresholds, records: &Records, mb_per_s: f64) -> Vec<Verdict> {
    let verdict = |threshold: String, wanted: f64, found: Option<f64>, met: bool| Verdict {
        threshold,
        wanted,
        found,
        met: found.is_some() && met,
    };
    let mut verdicts = Vec::new();
    if let Some(wanted) = thresholds.max_error_share {
        let errors: u64 = records.routes.values().map(|answers| answers.errors).sum();
        let count: u64 = records.routes.values().map(Answers::count).sum();
        let found = (count + errors > 0).then(|| real(errors) / real(count + errors));
        let met = found.is_some_and(|found| found <= wanted);
        verdicts.push(verdict("max_error_share".to_owned(), wanted, found, met));
    }
    for (route, wanted) in &thresholds.max_shed_share {
        let answers = records.routes.get(route);
        let answers = answers.filter(|answers| answers.asked() > 0);
        let found = answers.map(|answers| real(answers.unserved()) / real(answers.asked()));
        let met = found.is_some_and(|found| found <= *wanted);
        let name = format!("max_shed_share.{}", route.name());
        verdicts.push(verdict(name, *wanted, found, met));
    }
    for (route, wanted) in &thresholds.max_p99_ms {
        let answers = records
            .routes
            .get(route)
            .filter(|answers| answers.count() > 0);
        let found = answers.map(|answers| {
            // What a closed loop did not ask for counts: an operator means all who would have waited.
            let latencies = answers.corrected().unwrap_or_else(|| answers.seen());
            latencies.quantile(0.99).as_secs_f64() * 1e3
        });
        let met = found.is_some_and(|found| found <= *wanted);
        verdicts.push(verdict(
            format!("max_p99_ms.{}", route.name()),
            *wanted,
            found,
            met,
        ));
    }
    if let Some(wanted) = thresholds.min_mb_per_s {
        let met = mb_per_s >= wanted;
        verdicts.push(verdict(
            "min_mb_per_s".to_owned(),
            wanted,
            Some(mb_per_s),
            met,
        ));
    }
    verdicts
}

fn per(count: u64, time: Duration) -> f64 {
    real(count) / time.as_secs_f64().max(f64::EPSILON)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "figures for people; 53 bits are nine petabytes"
)]
fn real(count: u64) -> f64 {
    count as f64
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = protocol_name(self.protocol, self.tls);
        writeln!(
            f,
            "{}: {protocol}, {:.1} s",
            self.scenario, self.elapsed_seconds
        )?;
        writeln!(f)?;
        self.write_groups(f)?;
        writeln!(f)?;
        self.write_routes(f)?;
        writeln!(f)?;
        let Compared {
            segments,
            samples,
            differing,
        } = self.compared;
        if self.comparable {
            writeln!(
                f,
                "{segments} protected segments compared with the clear policy: \
                 {samples} samples equal, {differing} segments differ"
            )?;
        } else {
            writeln!(
                f,
                "nothing to compare: no group verifies a title that has both a protected and a clear policy"
            )?;
        }
        if let (Some(server), Some(requests), Some(megabytes)) =
            (&self.server, self.requests_per_cpu_s, self.mb_per_cpu_s)
        {
            writeln!(
                f,
                "server: {server}; {requests:.1} requests and {megabytes:.1} MB for each second of processor"
            )?;
        }
        if let Some(seconds) = self.client_cpu_seconds {
            writeln!(f, "client: {seconds:.2} s of processor")?;
        }
        for Verdict {
            threshold,
            wanted,
            found,
            met,
        } in &self.thresholds
        {
            let met = if *met { "met" } else { "MISSED" };
            match found {
                Some(found) => {
                    writeln!(f, "{threshold}: {found:.3} found, {wanted} wanted, {met}")?
                }
                None => writeln!(f, "{threshold}: nothing found, {wanted} wanted, {met}")?,
            }
        }
        for failure in &self.failures {
            writeln!(f, "failed: {failure}")?;
        }
        if self.failed > self.failures.len() as u64 {
            writeln!(f, "{} failures in all", self.failed)?;
        }
        write!(f, "{}", if self.passed { "passed" } else { "FAILED" })
    }
}

impl Report {
    fn write_groups(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<16}{:>8}{:>8}{:>8}{:>9}{:>8}{:>8}{:>8}{:>11}{:>10}{:>9}{:>7}",
            "group",
            "arrived",
            "shed",
            "at once",
            "finished",
            "cut",
            "failed",
            "stalls",
            "stalled s",
            "mean rung",
            "switches",
            "seeks"
        )?;
        for row in &self.groups {
            write!(
                f,
                "{:<16}{:>8}{:>8}{:>8}{:>9}{:>8}{:>8}{:>8}{:>11.1}",
                row.group,
                row.arrived,
                row.shed,
                row.at_once,
                row.finished,
                row.cut,
                row.failed,
                row.stalls,
                row.stalled_seconds
            )?;
            match row.mean_rung {
                Some(rung) => write!(f, "{rung:>10.2}")?,
                None => write!(f, "{:>10}", "-")?,
            }
            writeln!(f, "{:>9}{:>7}", row.switches, row.seeks)?;
        }
        Ok(())
    }

    fn write_routes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<12}{:>11}{:>9}{:>8}{:>13}{:>8}{:>12}{}{:>10}",
            "route",
            "offered/s",
            "count",
            "shed",
            "turned away",
            "errors",
            "requests/s",
            Quantiles::HEADING,
            "MB/s"
        )?;
        for row in &self.routes {
            writeln!(
                f,
                "{:<12}{:>11.1}{:>9}{:>8}{:>13}{:>8}{:>12.1}{}{:>10.2}",
                row.route.name(),
                row.offered_per_s,
                row.count,
                row.shed,
                row.turned_away,
                row.errors,
                row.requests_per_s,
                row.seen,
                row.mb_per_s
            )?;
            if let Some(corrected) = &row.corrected {
                writeln!(f, "{:<73}{corrected}", "  corrected")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recorder::{Recorder, Took};

    const MS: Duration = Duration::from_millis(1);

    fn report(recorder: &Recorder, comparable: bool, thresholds: &str) -> Report {
        let text = format!(
            "name = 'evening'\ndescription = 'd'\nseconds = 2\n\
             [[groups]]\nname = 'g'\nat_most = 1\narrivals = {{ shape = 'constant', rate = 1 }}\n\
             behaviour = {{ kind = 'licence' }}\n[thresholds]\n{thresholds}"
        );
        let mut row = GroupRow::new("g".to_owned());
        row.add(Experience {
            segments: 4,
            rungs: 6,
            stalls: 2,
            stalled: 1500 * MS,
            ..Experience::default()
        });
        row.add(Experience {
            segments: 1,
            ..Experience::default()
        });
        let run = Run {
            elapsed: Duration::from_secs(2),
            comparable,
            server: None,
            client_cpu: None,
            groups: vec![row],
            records: recorder.records(),
        };
        Report::new(&Scenario::parse(&text).unwrap(), run)
    }

    fn answered() -> Recorder {
        let recorder = Recorder::default();
        for millis in 1..=100 {
            recorder.answered(Route::Segment, Took::SinceDue(millis * MS), 50_000);
        }
        recorder
    }

    #[test]
    fn a_run_passes_when_nothing_failed_and_something_was_compared() {
        let nothing = Recorder::default();
        assert!(!report(&nothing, false, "").passed(), "nothing was asked");
        let recorder = answered();
        assert!(report(&recorder, false, "").passed());
        assert!(!report(&recorder, true, "").passed());
        recorder.equal(10);
        assert!(report(&recorder, true, "").passed());
    }

    #[test]
    fn each_failure_fails_a_run_and_only_requests_may_be_allowed_to() {
        let passed = |change: &dyn Fn(&Recorder)| {
            let recorder = answered();
            change(&recorder);
            ["", "max_error_share = 0.02"]
                .map(|thresholds| report(&recorder, false, thresholds).passed())
        };
        let request = |recorder: &Recorder| recorder.failed(Route::Init, "status 503".into());
        assert_eq!(passed(&request), [false, true]);
        let requests = |recorder: &Recorder| (0..3).for_each(|_| request(recorder));
        assert_eq!(
            passed(&requests),
            [false, false],
            "three of a hundred and three"
        );
        assert_eq!(
            passed(&|recorder| recorder.differing("sample 3".into())),
            [false, false]
        );
        assert_eq!(
            passed(&|recorder| recorder.fault("no MPD".into())),
            [false, false]
        );
    }

    #[test]
    fn thresholds_are_met_or_missed_and_what_was_not_measured_is_missed() {
        let recorder = answered();
        let passed = |thresholds| report(&recorder, false, thresholds).passed();
        assert!(passed("max_p99_ms = { segment = 100 }\nmin_mb_per_s = 2.4"));
        assert!(!passed("max_p99_ms = { segment = 98 }"));
        assert!(!passed("min_mb_per_s = 2.6"));
        assert!(!passed("max_p99_ms = { licence = 1000 }"));
        let text = report(&recorder, false, "min_mb_per_s = 2.6").to_string();
        assert!(
            text.contains("min_mb_per_s: 2.500 found, 2.6 wanted, MISSED"),
            "{text}"
        );
    }

    #[test]
    fn nothing_may_be_shed_that_is_not_allowed_to() {
        let recorder = answered();
        recorder.answered(Route::Renewal, Took::SinceDue(MS), 1);
        recorder.answered(Route::Licence, Took::SinceDue(MS), 1);
        let allowed = "max_shed_share = { licence = 0.75, renewal = 0 }";
        assert!(report(&recorder, false, allowed).passed());
        (0..3).for_each(|_| recorder.shed(Route::Licence));
        assert!(!report(&recorder, false, "").passed());
        let passing = report(&recorder, false, allowed);
        assert!(passing.passed(), "{passing}");
        let row = serde_json::to_value(&passing).unwrap()["routes"][1].clone();
        assert_eq!(
            (&row["route"], &row["shed"]),
            (&"licence".into(), &3.into())
        );
        assert_eq!(row["offered_per_s"], 2.0);
        recorder.shed(Route::Renewal);
        assert!(!report(&recorder, false, allowed).passed());
    }

    #[test]
    fn who_is_turned_away_is_shed_without_a_word() {
        let recorder = answered();
        recorder.answered(Route::Renewal, Took::SinceDue(MS), 1);
        recorder.answered(Route::Licence, Took::SinceDue(MS), 1);
        recorder.shed(Route::Licence);
        (0..2).for_each(|_| recorder.turned_away(Route::Licence));
        let allowed = |share| format!("max_shed_share = {{ licence = {share}, renewal = 0 }}");
        assert!(report(&recorder, false, &allowed(0.75)).passed());
        assert!(!report(&recorder, false, &allowed(0.7)).passed());
        assert!(!report(&recorder, false, "").passed());
        let json = serde_json::to_value(report(&recorder, false, &allowed(0.75))).unwrap();
        let row = &json["routes"][1];
        assert_eq!((&row["shed"], &row["turned_away"]), (&1.into(), &2.into()));
        assert_eq!(row["errors"], 0);
    }

    #[test]
    fn a_threshold_counts_what_a_closed_loop_did_not_ask_for() {
        let recorder = Recorder::default();
        for _ in 0..999 {
            recorder.answered(Route::Segment, Took::SinceAsked(MS), 1);
        }
        recorder.answered(Route::Segment, Took::SinceAsked(1000 * MS), 1);
        let stalled = report(&recorder, false, "max_p99_ms = { segment = 100 }");
        assert!(!stalled.passed());
        let json = serde_json::to_value(&stalled).unwrap();
        let row = &json["routes"][0];
        assert!(
            row["p99_us"].as_u64() < Some(1100)
                && row["corrected"]["p99_us"].as_u64() > Some(900_000),
            "{row}"
        );
        assert!(stalled.to_string().contains("  corrected "));
    }

    #[test]
    fn tables_and_json_hold_the_same_numbers() {
        let recorder = answered();
        recorder.equal(240);
        let report = report(&recorder, true, "");
        let text = report.to_string();
        assert!(text.starts_with("evening: HTTP/2 (TLS), 2.0 s\n"), "{text}");
        assert!(
            text.contains(
                "segment            50.0      100       0            0       0        50.0"
            ),
            "{text}"
        );
        assert!(
            text.contains("2.50\n") && text.ends_with("passed"),
            "{text}"
        );
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(
            (&json["schema"], &json["protocol"]),
            (&2.into(), &"h2".into())
        );
        assert_eq!(json["routes"][0]["route"], "segment");
        assert_eq!(
            (&json["bytes"], &json["requests"]),
            (&5_000_000.into(), &100.into())
        );
        let near = |name: &str, micros: u64| {
            let told = json["routes"][0][name].as_u64().unwrap();
            assert!(told.abs_diff(micros) <= micros / 500, "{name} is {told}");
        };
        near("p50_us", 50_000);
        near("p90_us", 90_000);
        near("p99_us", 99_000);
        near("max_us", 100_000);
        assert!(json["routes"][0]["corrected"].is_null());
        assert_eq!(json["compared"]["samples"], 240);
        let group = &json["groups"][0];
        assert_eq!(
            (&group["stalls"], &group["stalled_titles"]),
            (&2.into(), &1.into())
        );
        assert_eq!(
            (&group["mean_rung"], &group["stalled_seconds"]),
            (&1.2.into(), &1.5.into())
        );
    }
}
