//! `loadtest check`: whether scenarios can be read.

use std::io::Write as _;
use std::path::PathBuf;

use loadtest::scenario::Scenario;

use super::{Failure, Verdict};

/// Read scenarios, and say all that is wrong with them.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  loadtest check loadtest/scenarios/*.toml")]
pub(crate) struct Arguments {
    /// Their TOML files
    #[arg(required = true)]
    scenario: Vec<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Verdict, Failure> {
    let mut stdout = std::io::stdout().lock();
    let mut verdict = Verdict::Passed;
    for path in &arguments.scenario {
        match Scenario::read(path) {
            Ok(scenario) => {
                let Scenario {
                    name, description, ..
                } = scenario;
                writeln!(stdout, "{}: {name}: {description}", path.display())?;
            }
            Err(faults) => {
                verdict = Verdict::Failed;
                for fault in faults.to_string().lines() {
                    writeln!(stdout, "{}: {fault}", path.display())?;
                }
            }
        }
    }
    Ok(verdict)
}
