//! Two sides that were measured in turns: the middle and the ends of each, and their ratios.
//!
//! A machine is faster at one minute than at the next. The ratio of a pair compares what was measured side by side,
//! so that the spread of the pairs' ratios tells how far the ratio of the medians can be believed.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::saturate::Measured;

/// The form of the JSON report; raised when a field changes its meaning.
const SCHEMA: u32 = 1;

/// What one side did in one turn.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Round {
    /// Bytes of bodies per second, in millions.
    pub mb_per_s: f64,
    /// The same per second of the server's processor time, where that could be read.
    pub mb_per_cpu_s: Option<f64>,
    /// Answers per second.
    pub requests_per_s: f64,
    /// The same per second of the server's processor time.
    pub requests_per_cpu_s: Option<f64>,
    /// Milliseconds from a request to the end of its answer that half of them did not exceed, corrected for coordinated
    /// omission.
    pub p50_ms: f64,
    /// Those that 99 of 100 did not exceed.
    pub p99_ms: f64,
    /// Answers.
    pub requests: u64,
    /// Answers that failed.
    pub errors: u64,
}

impl From<&Measured> for Round {
    fn from(measured: &Measured) -> Self {
        let milliseconds = |duration: Duration| duration.as_secs_f64() * 1e3;
        // A stall of a closed loop is otherwise one long answer, whatever it kept from being asked.
        let whole = measured.whole.corrected_by_median();
        Self {
            mb_per_s: measured.bytes_per_second() / 1e6,
            mb_per_cpu_s: measured.bytes_per_cpu_second().map(|rate| rate / 1e6),
            requests_per_s: measured.requests_per_second(),
            requests_per_cpu_s: measured.requests_per_cpu_second(),
            p50_ms: milliseconds(whole.quantile(0.5)),
            p99_ms: milliseconds(whole.quantile(0.99)),
            requests: measured.requests,
            errors: measured.errors,
        }
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            mb_per_s,
            requests_per_s,
            p99_ms,
            errors,
            ..
        } = self;
        write!(
            f,
            "{mb_per_s:.1} MB/s, {requests_per_s:.1} requests/s, p99 {p99_ms:.2} ms, {errors} errors"
        )
    }
}

/// The turns so far.
#[derive(Debug, Clone)]
pub struct Comparison {
    names: [String; 2],
    rounds: Vec<[Round; 2]>,
}

impl Comparison {
    /// Of two sides with these names.
    pub fn new(a: String, b: String) -> Self {
        Self {
            names: [a, b],
            rounds: Vec::new(),
        }
    }

    /// Adds a turn of each.
    pub fn add(&mut self, a: Round, b: Round) {
        self.rounds.push([a, b]);
    }

    /// What is to be said of them.
    pub fn report(self) -> Report {
        let Self {
            names: [a, b],
            rounds,
        } = self;
        let measures = MEASURES
            .iter()
            .filter_map(|(name, of)| Measure::of(name, &rounds, of));
        Report {
            schema: SCHEMA,
            a,
            b,
            measures: measures.collect(),
            rounds,
        }
    }
}

type Figure = fn(&Round) -> Option<f64>;

const MEASURES: [(&str, Figure); 6] = [
    ("mb_per_s", |round| Some(round.mb_per_s)),
    ("mb_per_cpu_s", |round| round.mb_per_cpu_s),
    ("requests_per_s", |round| Some(round.requests_per_s)),
    ("requests_per_cpu_s", |round| round.requests_per_cpu_s),
    ("p50_ms", |round| Some(round.p50_ms)),
    ("p99_ms", |round| Some(round.p99_ms)),
];

/// The comparison for people and machines. Ratios are of A to B.
#[derive(Debug, Serialize)]
pub struct Report {
    schema: u32,
    a: String,
    b: String,
    measures: Vec<Measure>,
    rounds: Vec<[Round; 2]>,
}

impl Report {
    /// Whether both sides answered in every turn, and never with a failure.
    pub fn passed(&self) -> bool {
        let all = self.rounds.iter().flatten();
        !self.rounds.is_empty()
            && all
                .clone()
                .all(|round| round.errors == 0 && round.requests > 0)
    }
}

/// One figure of both sides.
#[derive(Debug, Serialize)]
struct Measure {
    name: &'static str,
    a: Spread,
    b: Spread,
    ratio_of_medians: Option<f64>,
    /// Of each turn of A to the turn of B after it.
    ratio_of_pairs: Option<Spread>,
}

impl Measure {
    /// `None` where a side has no such figure in some turn.
    fn of(name: &'static str, rounds: &[[Round; 2]], figure: &Figure) -> Option<Self> {
        let side = |side: usize| {
            rounds
                .iter()
                .map(|round| figure(&round[side]))
                .collect::<Option<Vec<_>>>()
        };
        let (a, b) = (side(0)?, side(1)?);
        let pairs: Option<Vec<f64>> = a.iter().zip(&b).map(|(a, b)| ratio(*a, *b)).collect();
        let (a, b) = (Spread::of(a)?, Spread::of(b)?);
        Some(Self {
            name,
            ratio_of_medians: ratio(a.median, b.median),
            a,
            b,
            ratio_of_pairs: pairs.and_then(Spread::of),
        })
    }
}

/// `None` where there is nothing to compare with.
fn ratio(a: f64, b: f64) -> Option<f64> {
    (b > 0.0).then(|| a / b)
}

/// The middle and the ends of some numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The middle one; between the two in the middle where their number is even.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// `None` of no number.
    pub fn of(mut numbers: Vec<f64>) -> Option<Self> {
        numbers.sort_by(f64::total_cmp);
        let (min, max) = (*numbers.first()?, *numbers.last()?);
        let middle = (numbers.len() - 1) / 2..numbers.len() / 2 + 1;
        let median =
            numbers[middle.clone()].iter().sum::<f64>() / if middle.len() == 2 { 2.0 } else { 1.0 };
        Some(Self { median, min, max })
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { median, min, max } = self;
        // Ratios are small numbers, rates are large ones.
        let places = if *median < 10.0 { 3 } else { 1 };
        let text = format!("{median:.places$} ({min:.places$}-{max:.places$})");
        f.pad(&text)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { a, b, rounds, .. } = self;
        writeln!(
            f,
            "A {a}, B {b}, {} rounds; median (least-greatest)",
            rounds.len()
        )?;
        writeln!(f)?;
        writeln!(
            f,
            "{:<20}{:>30}{:>30}{:>10}{:>24}",
            "", "A", "B", "A/B", "A/B of pairs"
        )?;
        for Measure {
            name,
            a,
            b,
            ratio_of_medians,
            ratio_of_pairs,
        } in &self.measures
        {
            write!(f, "{name:<20}{a:>30}{b:>30}")?;
            match (ratio_of_medians, ratio_of_pairs) {
                (Some(ratio), Some(pairs)) => writeln!(f, "{ratio:>10.3}{pairs:>24}")?,
                (Some(ratio), None) => writeln!(f, "{ratio:>10.3}{:>24}", "-")?,
                (None, _) => writeln!(f, "{:>10}{:>24}", "-", "-")?,
            }
        }
        writeln!(f)?;
        let errors = |side: usize| rounds.iter().map(|round| round[side].errors).sum::<u64>();
        writeln!(f, "errors: A {}, B {}", errors(0), errors(1))?;
        write!(f, "{}", if self.passed() { "passed" } else { "FAILED" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(mb_per_s: f64, mb_per_cpu_s: Option<f64>) -> Round {
        Round {
            mb_per_s,
            mb_per_cpu_s,
            requests_per_s: 10.0,
            requests_per_cpu_s: None,
            p50_ms: 1.0,
            p99_ms: 4.0,
            requests: 30,
            errors: 0,
        }
    }

    #[test]
    fn the_median_is_the_middle_one_or_between_the_two() {
        let spread =
            |numbers: &[f64]| Spread::of(numbers.to_vec()).map(|s| (s.min, s.median, s.max));
        assert_eq!(spread(&[3.0, 1.0, 2.0]), Some((1.0, 2.0, 3.0)));
        assert_eq!(spread(&[4.0, 1.0, 2.0, 3.0]), Some((1.0, 2.5, 4.0)));
        assert_eq!(spread(&[7.0]), Some((7.0, 7.0, 7.0)));
        assert_eq!(spread(&[]), None);
    }

    /// The machine slows down to half in the last turn: the medians' ratio shifts, no pair's does.
    #[test]
    fn pairs_are_compared_side_by_side() {
        let mut comparison = Comparison::new("ours".into(), "theirs".into());
        for speed in [1.0, 1.0, 0.5] {
            comparison.add(
                round(300.0 * speed, Some(600.0)),
                round(200.0 * speed, Some(300.0)),
            );
        }
        let report = comparison.report();
        assert!(report.passed());
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!((&json["schema"], &json["a"]), (&1.into(), &"ours".into()));
        let measures = json["measures"].as_array().unwrap();
        let names: Vec<_> = measures
            .iter()
            .map(|measure| measure["name"].as_str().unwrap())
            .collect();
        // What one side lacks is not compared.
        assert_eq!(
            names,
            [
                "mb_per_s",
                "mb_per_cpu_s",
                "requests_per_s",
                "p50_ms",
                "p99_ms"
            ]
        );
        assert_eq!(measures[0]["a"]["min"], 150.0);
        assert_eq!(measures[0]["ratio_of_medians"], 1.5);
        assert_eq!(measures[0]["ratio_of_pairs"]["min"], 1.5);
        assert_eq!(measures[1]["ratio_of_medians"], 2.0);
        let text = report.to_string();
        assert!(
            text.contains("300.0 (150.0-300.0)") && text.ends_with("passed"),
            "{text}"
        );
    }

    #[test]
    fn a_failure_of_either_side_fails_the_comparison() {
        let mut comparison = Comparison::new("a".into(), "b".into());
        let failed = Round {
            errors: 1,
            ..round(1.0, None)
        };
        comparison.add(round(1.0, None), failed);
        assert!(!comparison.report().passed());
        assert!(!Comparison::new("a".into(), "b".into()).report().passed());
    }

    #[test]
    fn nothing_is_compared_with_zero() {
        let mut comparison = Comparison::new("a".into(), "b".into());
        comparison.add(round(1.0, None), round(0.0, None));
        let json = serde_json::to_value(comparison.report()).unwrap();
        assert!(json["measures"][0]["ratio_of_medians"].is_null());
        assert!(json["measures"][0]["ratio_of_pairs"].is_null());
    }
}
