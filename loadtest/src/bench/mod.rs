//! Side by side: the origin and a static server on the same bytes, by turns, on one core, held against the goals.
//!
//! ```text
//! goals (the table) -> rows (how each kind is measured) -> table (ratios, verdicts)
//!                        |
//!                      stage: castellum, nginx on what it exported (twin), each on the server's core
//! ```
//!
//! The origin is a release build with a configuration, state and keystore of its own, and everything goes when the run
//! ends. Only one server is asked at a time; the client stays on a core of its own. What counts is the processor time
//! of the server's processes, which survives a shared machine better than the clock does.

mod castellum;
mod cgroup;
mod cores;
mod fio;
mod goals;
mod nginx;
mod probe;
mod process;
mod rows;
mod series;
mod stage;
mod table;
mod twin;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cores::Cores;
pub use goals::{Against, Unit};
use goals::{Goal, goals};
pub use series::Spread;
use stage::Stage;
pub use table::{Line, Report, Verdict};

use crate::saturate::Refused;

/// Measure the origin beside nginx, and hold both against the goals
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Example:\n  loadtest bench --media target/bench/media --rows cenc,tls\n\n\
                  NGINX_QUIC names an nginx of 1.25 or later, for the rows of HTTP/3."
)]
pub struct Args {
    /// The titles that loadtest/bench/corpus.sh made
    #[arg(long, value_name = "DIR", default_value = "target/bench/media")]
    pub media: PathBuf,
    /// The origin; without it, the binary beside this one
    #[arg(long, value_name = "FILE")]
    pub castellum: Option<PathBuf>,
    /// The static server
    #[arg(long, value_name = "FILE", default_value = "nginx")]
    pub nginx: PathBuf,
    /// A static server with HTTP/3
    #[arg(long, value_name = "FILE", env = "NGINX_QUIC")]
    pub nginx_quic: Option<PathBuf>,
    /// State and exported files: made anew, some gigabytes, and removed at the end
    #[arg(long, value_name = "DIR", default_value = "target/bench/work")]
    pub work: PathBuf,
    /// Rounds of each row, in each of which every side is asked once
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub rounds: u16,
    /// How long a side is asked in a round
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=600))]
    pub seconds: u16,
    /// Two rounds of a second: to see that all works, not to quote
    #[arg(long)]
    pub quick: bool,
    /// Only rows whose name holds one of these, separated by commas
    #[arg(long, value_name = "TEXT", value_delimiter = ',')]
    pub rows: Vec<String>,
    /// Write the report as JSON into this file as well
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// A run, as its arguments and the machine have it.
#[derive(Debug, Clone)]
struct Plan {
    media: PathBuf,
    castellum: PathBuf,
    nginx: PathBuf,
    nginx_quic: Option<PathBuf>,
    work: PathBuf,
    rounds: u16,
    round: Duration,
    cores: Cores,
}

/// Why a run, or a row of it, came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A file or folder cannot be used.
    #[error("{path}: {source}")]
    At {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A program is not there.
    #[error("there is no program {}: {hint}", path.display())]
    NoProgram {
        /// Where it was looked for.
        path: PathBuf,
        /// Where it comes from.
        hint: &'static str,
    },
    /// No row has such a name.
    #[error("no row is called like {0}")]
    NoRow(String),
    /// A server ended, or never answered.
    #[error("a server did not start; it said ({}):\n{said}", log.display())]
    Server {
        /// Where it said so.
        log: PathBuf,
        /// What.
        said: String,
    },
    /// The origin cannot export an asset.
    #[error("cannot export {asset}: {said}")]
    Export {
        /// The asset.
        asset: String,
        /// What the verb said.
        said: String,
    },
    /// A server does not become idle, or its processor time cannot be read.
    #[error("the server does not come to rest, or cannot be measured")]
    Restless,
    /// Something was asked for and not had.
    #[error("{what}: {why}")]
    Asking {
        /// What.
        what: String,
        /// Why not.
        why: String,
    },
    /// A load cannot begin.
    #[error(transparent)]
    Load(#[from] Refused),
    /// A load met failures, and so measured something else.
    #[error("{count} answers failed; the first: {first}")]
    Unanswered {
        /// How many.
        count: u64,
        /// The first.
        first: String,
    },
    /// No HTTP/3 peer.
    #[error("NGINX_QUIC names no nginx")]
    NoQuicPeer,
}

impl Failure {
    fn at(path: &Path, source: io::Error) -> Self {
        Self::At {
            path: path.to_owned(),
            source,
        }
    }

    fn asking(what: &str, why: impl fmt::Display) -> Self {
        Self::Asking {
            what: what.to_owned(),
            why: why.to_string(),
        }
    }
}

/// Measures every row that is asked for, and says on standard error how far it is.
///
/// # Errors
/// Where it cannot begin, or a server does not start. Another row that comes to nothing is a line of the report.
pub fn run(args: &Args) -> Result<Report, Failure> {
    let goals = pick(&args.rows)?;
    let mut stage = Stage::new(plan(args)?)?;
    let stay = stage.cores().stay_client();
    stay.map_err(|error| Failure::at(Path::new("/proc/self"), error))?;
    let mut report = Report::default();
    for goal in goals {
        eprintln!("measuring {}", goal.id);
        match rows::measure(goal, &mut stage) {
            // The next row would meet the same, after as long a wait.
            Err(failure @ (Failure::Server { .. } | Failure::Export { .. })) => {
                return Err(failure);
            }
            measured => report.add(goal, &measured.map_err(|failure| failure.to_string())),
        }
    }
    if let Some(file) = &args.json {
        let text = serde_json::to_string_pretty(&report).map_err(io::Error::other);
        let written = text.and_then(|text| std::fs::write(file, text));
        written.map_err(|error| Failure::at(file, error))?;
    }
    Ok(report)
}

fn pick(rows: &[String]) -> Result<Vec<&'static Goal>, Failure> {
    if let Some(unknown) = rows
        .iter()
        .find(|row| !goals().any(|goal| goal.id.contains(*row)))
    {
        return Err(Failure::NoRow(unknown.clone()));
    }
    let wanted =
        |goal: &&Goal| rows.is_empty() || rows.iter().any(|row| goal.id.contains(row.as_str()));
    Ok(goals().filter(wanted).collect())
}

fn plan(args: &Args) -> Result<Plan, Failure> {
    let own = std::env::current_exe().map_err(|e| Failure::at(Path::new("/proc/self/exe"), e))?;
    let beside = || own.with_file_name("castellum");
    let program = |path: &Path, hint| {
        nginx::find(path).ok_or_else(|| Failure::NoProgram {
            path: path.to_owned(),
            hint,
        })
    };
    let absolute = |path: &Path| std::path::absolute(path).map_err(|e| Failure::at(path, e));
    let castellum = args.castellum.clone().unwrap_or_else(beside);
    let media = args
        .media
        .canonicalize()
        .map_err(|e| Failure::at(&args.media, e))?;
    let cores = Cores::pick().map_err(|e| Failure::at(Path::new("/proc/self"), e))?;
    let (rounds, seconds) = if args.quick {
        (2, 1)
    } else {
        (args.rounds, args.seconds)
    };
    Ok(Plan {
        media,
        castellum: program(&castellum, "cargo build --release -p appliance makes it")?,
        nginx: program(&args.nginx, "`make bench` installs it")?,
        nginx_quic: match &args.nginx_quic {
            Some(path) => Some(program(path, "NGINX_QUIC or --nginx-quic names it")?),
            None => None,
        },
        work: absolute(&args.work)?,
        rounds,
        round: Duration::from_secs(seconds.into()),
        cores,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_picked_by_a_part_of_their_name() {
        let ids = |rows: &[&str]| -> Vec<&str> {
            let rows: Vec<_> = rows.iter().map(|row| (*row).to_owned()).collect();
            pick(&rows).unwrap().iter().map(|goal| goal.id).collect()
        };
        assert_eq!(ids(&["-small", "memory"]).len(), 4);
        assert_eq!(ids(&["clear-h1"]), ["clear-h1"]);
        assert_eq!(ids(&[]).len(), goals().count());
        assert!(pick(&["no such row".to_owned()]).is_err());
    }
}
