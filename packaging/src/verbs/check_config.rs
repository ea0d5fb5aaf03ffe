//! `castellum check-config`: all faults of a configuration at once, with no side effect.

use std::path::PathBuf;

use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::output::Output;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  castellum check-config /etc/castellum/castellum.toml")]
pub(crate) struct Args {
    /// The file; without one, built-in defaults and the environment
    #[arg(value_name = "FILE", env = "CASTELLUM_CONFIG")]
    file: Option<PathBuf>,
}

#[derive(Serialize)]
struct Answer {
    ok: bool,
    findings: Vec<Finding>,
}

#[derive(Serialize)]
struct Finding {
    key: String,
    message: String,
    help: Option<String>,
    file: Option<String>,
    line: Option<usize>,
    column: Option<usize>,
}

impl From<&conf::Fault> for Finding {
    fn from(fault: &conf::Fault) -> Self {
        let place = fault.place.as_ref();
        let (line, column) = place.map(conf::Place::line_column).unzip();
        Self {
            key: fault.key.clone(),
            message: fault.message.clone(),
            help: fault.help.clone(),
            file: place.map(|place| place.source.name.clone()),
            line,
            column,
        }
    }
}

pub(crate) fn run(args: &Args, output: Output) -> Result<(), Failure> {
    match conf::load(args.file.as_deref()) {
        Ok(_) => {
            let answer = Answer {
                ok: true,
                findings: Vec::new(),
            };
            output.say(&answer, |_| "the configuration is sound".to_owned())
        }
        Err(faults) if output.is_json() => {
            let findings: Vec<Finding> = faults.iter().map(Finding::from).collect();
            let count = findings.len();
            output.say(
                &Answer {
                    ok: false,
                    findings,
                },
                |_| String::new(),
            )?;
            Err(Failure::new(Exit::Config, format!("{count} findings")))
        }
        Err(faults) => Err(faults.into()),
    }
}
