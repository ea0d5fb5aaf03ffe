//! What is printed: for each goal a line for each figure that it is to reach, with the verdict.

use std::fmt::{self, Write as _};

use serde::Serialize;

use super::goals::{Against, Bound, Goal, Target, Unit};
use super::rows::Measured;
use super::series::Spread;

/// All that was measured.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// One for each figure to reach, in the order of the table.
    pub lines: Vec<Line>,
}

/// A figure to reach, and what came of it.
#[derive(Debug, Serialize)]
pub struct Line {
    /// The row.
    pub id: &'static str,
    /// What is measured.
    pub output: &'static str,
    /// What its figures count.
    pub unit: Unit,
    /// What our figure is held against.
    pub against: Against,
    /// Our figures.
    pub ours: Option<Spread>,
    /// Those of the other.
    pub theirs: Option<Spread>,
    /// Ours by theirs: of the medians, between the least and the most of the rounds.
    pub ratio: Option<Spread>,
    /// What is to be reached, such as `>= 0.70`.
    pub goal: String,
    /// What came of it.
    pub verdict: Verdict,
    /// What a reader should know beside, or why nothing was measured.
    pub note: Option<String>,
}

/// What came of a figure to reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It is reached.
    Met,
    /// It is not.
    NotMet,
    /// There is none: the line is for comparison.
    Shown,
    /// There is no figure.
    NotMeasured,
}

impl Report {
    /// Adds the lines of a row: `Err` says why nothing was measured.
    pub(super) fn add(&mut self, goal: &'static Goal, measured: &Result<Measured, String>) {
        for (number, target) in goal.targets.iter().enumerate() {
            let mut line = line(goal, *target, measured);
            // Once is enough.
            line.note = line
                .note
                .take_if(|_| number == 0 || line.verdict == Verdict::NotMeasured);
            self.lines.push(line);
        }
    }

    /// Whether every figure that was measured is what it is to be.
    pub fn passed(&self) -> bool {
        self.lines
            .iter()
            .all(|line| line.verdict != Verdict::NotMet)
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.lines
            .iter()
            .filter(|line| line.verdict == verdict)
            .count()
    }
}

fn line(goal: &'static Goal, target: Target, measured: &Result<Measured, String>) -> Line {
    let mut line = Line {
        id: goal.id,
        output: goal.output,
        unit: goal.unit,
        against: target.against,
        ours: None,
        theirs: None,
        ratio: None,
        goal: bound(target.bound),
        verdict: Verdict::NotMeasured,
        note: None,
    };
    let measured = match measured {
        Ok(measured) => measured,
        Err(reason) => {
            line.note = Some(reason.clone());
            return line;
        }
    };
    line.ours = measured.ours.spread();
    line.note.clone_from(&measured.note);
    let decides = if target.against == Against::Alone {
        line.ours
    } else {
        let mut beside = measured.beside.iter();
        match beside.find(|(against, _)| *against == target.against) {
            Some((_, theirs)) => {
                line.theirs = theirs.spread();
                line.ratio = measured.ours.over(theirs);
            }
            None => line.note = Some(format!("there is no {}", target.against)),
        }
        line.ratio
    };
    line.verdict = match decides.map(|spread| target.bound.is_met(spread.median)) {
        Some(Some(true)) => Verdict::Met,
        Some(Some(false)) => Verdict::NotMet,
        Some(None) => Verdict::Shown,
        None => Verdict::NotMeasured,
    };
    line
}

fn bound(bound: Bound) -> String {
    match bound {
        Bound::AtLeast(least) => format!(">= {}", number(least)),
        Bound::AtMost(most) => format!("<= {}", number(most)),
        Bound::Shown => String::new(),
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Met => "met",
            Self::NotMet => "NOT MET",
            Self::Shown => "",
            Self::NotMeasured => "not measured",
        })
    }
}

const HEADINGS: [&str; 7] = [
    "output",
    "ours (min-max)",
    "unit",
    "beside",
    "its figure (min-max)",
    "goal",
    "",
];

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows = vec![HEADINGS.map(str::to_owned)];
        let mut before = "";
        for line in &self.lines {
            let first = line.id != before;
            before = line.id;
            let once = |text: String| if first { text } else { String::new() };
            let (beside, theirs) = match line.against {
                Against::Alone => (String::new(), String::new()),
                against => (
                    against.to_string(),
                    line.theirs.map_or_else(String::new, spread),
                ),
            };
            let goal = match line.ratio {
                Some(ratio) => format!("{} {}", spread(ratio), line.goal),
                None => line.goal.clone(),
            };
            rows.push([
                once(line.output.to_owned()),
                once(line.ours.map_or_else(String::new, spread)),
                once(line.unit.to_string()),
                beside,
                theirs,
                goal.trim().to_owned(),
                line.verdict.to_string(),
            ]);
        }
        let width = |column: usize| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..HEADINGS.len()).map(width).collect();
        for (number, row) in rows.iter().enumerate() {
            let mut text = String::new();
            for (cell, &width) in row.iter().zip(&widths) {
                let _ = write!(text, "{cell:width$}  ");
            }
            let text = text.trim_end();
            writeln!(f, "{text}")?;
            if number == 0 {
                writeln!(
                    f,
                    "{}",
                    "-".repeat(widths.iter().sum::<usize>() + 2 * widths.len())
                )?;
            }
        }
        writeln!(f)?;
        for line in &self.lines {
            if let Some(note) = &line.note {
                writeln!(f, "{} ({}): {note}", line.output, line.against)?;
            }
        }
        let (met, missed) = (self.count(Verdict::Met), self.count(Verdict::NotMet));
        let unknown = self.count(Verdict::NotMeasured);
        write!(
            f,
            "{met} figures met, {missed} not met, {unknown} not measured"
        )
    }
}

fn spread(spread: Spread) -> String {
    let Spread { median, min, max } = spread;
    format!("{} ({}-{})", number(median), number(min), number(max))
}

/// Three digits or more, thousands apart.
fn number(value: f64) -> String {
    if value < 0.1 {
        return format!("{value:.3}");
    }
    if value < 10.0 {
        return format!("{value:.2}");
    }
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::goals::goals;
    use super::super::series::Series;
    use super::*;

    fn goal(id: &str) -> &'static Goal {
        goals().find(|goal| goal.id == id).unwrap()
    }

    fn series(figures: &[f64]) -> Series {
        figures.iter().copied().collect()
    }

    #[test]
    fn figures_are_held_against_their_goals() {
        let mut report = Report::default();
        let measured = Measured {
            ours: series(&[3000.0, 3100.0, 3200.0]),
            beside: vec![
                (Against::Nginx, series(&[4000.0, 4100.0, 4200.0])),
                (Against::CopyLimit, series(&[3500.0, 3500.0, 3500.0])),
            ],
            note: Some("a note".to_owned()),
        };
        report.add(goal("cenc-h1"), &Ok(measured));
        let verdicts: Vec<_> = report.lines.iter().map(|line| line.verdict).collect();
        assert_eq!(verdicts, [Verdict::Met, Verdict::NotMet, Verdict::Shown]);
        assert!(!report.passed());
        let text = report.to_string();
        assert!(text.contains("3,100 (3,000-3,200)"), "{text}");
        assert!(text.contains("0.76 (0.75-0.76) >= 0.70"), "{text}");
        assert_eq!(text.matches("a note").count(), 1, "{text}");
        assert!(
            text.ends_with("1 figures met, 1 not met, 0 not measured"),
            "{text}"
        );
    }

    #[test]
    fn what_is_absent_is_not_measured_and_not_failed() {
        let mut report = Report::default();
        report.add(goal("memory"), &Err("no such title".to_owned()));
        report.add(goal("clear-h3"), &Ok(Measured::from(series(&[500.0]))));
        assert!(
            report
                .lines
                .iter()
                .all(|line| line.verdict == Verdict::NotMeasured)
        );
        assert!(report.passed());
        let text = report.to_string();
        assert!(text.contains("no such title"), "{text}");
        assert!(text.contains("there is no nginx QUIC static"), "{text}");
        assert!(text.contains("500 (500-500)"), "{text}");
    }

    #[test]
    fn numbers_have_three_digits() {
        for (value, text) in [
            (0.0123, "0.012"),
            (0.7, "0.70"),
            (24.04, "24.0"),
            (951.2, "951"),
            (80_000.0, "80,000"),
            (1_234_567.0, "1,234,567"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
