use std::io::Write as _;

use loadtest::bench;

use super::{Failure, Verdict};

/// Measures the origin beside nginx and prints the table of goals.
pub(crate) fn run(arguments: &bench::Args) -> Result<Verdict, Failure> {
    let report = bench::run(arguments)?;
    writeln!(std::io::stdout().lock(), "{report}")?;
    Ok(Verdict::of(report.passed()))
}
