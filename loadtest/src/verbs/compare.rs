//! `loadtest compare`: two servers, or two ways of one, in turns.

use std::path::{Path, PathBuf};

use loadtest::client::Protocol;
use loadtest::comparison::{Comparison, Round};
use loadtest::saturate::{self, Saturation};
use loadtest::scenario::Scenario;
use loadtest::target::Target;

use super::run::{self, Changes};
use super::{Failure, Pressure, Server, Verdict, print, read_urls};

/// Ask two servers in turns, A B B A, and set what they did against each other.
///
/// Figures drift with what else a machine does; their ratios in one run do so far less.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  loadtest compare --a ours.urls --b nginx.urls --rounds 7 --seconds 3\n  \
                  loadtest compare --scenario loadtest/scenarios/steady.toml --a new.json --b old.json"
)]
pub(crate) struct Arguments {
    /// File of A's URLs, one a line; with --scenario, of its target
    #[arg(long, value_name = "FILE")]
    a: PathBuf,
    /// File of B's
    #[arg(long, value_name = "FILE")]
    b: PathBuf,
    /// Let a scenario's viewers ask in place of URLs as fast as can be: lines of `castellum demo --json` are compared
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    #[command(flatten)]
    changes: Changes,
    /// How often each has its turn
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    #[command(flatten)]
    pressure: Pressure,
    /// B's protocol, where it is another than A's
    #[arg(long, value_enum, value_name = "PROTOCOL")]
    b_protocol: Option<Protocol>,
    /// A's processes: ids with commas, `none`, or `auto` for those that listen on its port on this host
    #[arg(long, value_name = "PID", default_value = "auto")]
    a_server_pid: Server,
    /// B's processes
    #[arg(long, value_name = "PID", default_value = "auto")]
    b_server_pid: Server,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    /// Say nothing while it runs
    #[arg(long)]
    quiet: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Verdict, Failure> {
    let protocol = arguments.pressure.protocol;
    let a = Side::new(arguments, &arguments.a, &arguments.a_server_pid, protocol)?;
    let protocol = arguments.b_protocol.or(protocol);
    let b = Side::new(arguments, &arguments.b, &arguments.b_server_pid, protocol)?;
    let name = |path: &Path| path.display().to_string();
    let mut comparison = Comparison::new(name(&arguments.a), name(&arguments.b));
    for number in 1..=arguments.rounds {
        let measure = |name, side: &Side| -> Result<Round, Failure> {
            let round = side.measure()?;
            if !arguments.quiet {
                eprintln!("round {number} of {}, {name}: {round}", arguments.rounds);
            }
            Ok(round)
        };
        // Whoever comes first finds another machine than who comes after: each is first in every other round.
        if number % 2 == 1 {
            let first = measure("A", &a)?;
            comparison.add(first, measure("B", &b)?);
        } else {
            let first = measure("B", &b)?;
            comparison.add(measure("A", &a)?, first);
        }
    }
    let report = comparison.report();
    print(&report, arguments.json)?;
    Ok(Verdict::of(report.passed()))
}

/// What one side is asked.
enum Side<'a> {
    Urls(Saturation),
    Viewers {
        scenario: Scenario,
        target: &'a Path,
        server: &'a Server,
    },
}

impl<'a> Side<'a> {
    fn new(
        arguments: &Arguments,
        file: &'a Path,
        server: &'a Server,
        protocol: Option<Protocol>,
    ) -> Result<Self, Failure> {
        let pressure = &arguments.pressure;
        let Some(path) = &arguments.scenario else {
            let urls = read_urls(file)?;
            let server = server.processes(urls.first())?;
            let mut saturation = pressure.on(urls, server)?;
            saturation.protocol = protocol.unwrap_or(saturation.protocol);
            return Ok(Self::Urls(saturation));
        };
        let mut scenario = Scenario::read(path)?;
        let changes = &arguments.changes;
        changes.apply(&mut scenario, protocol, pressure.seconds);
        Ok(Self::Viewers {
            scenario,
            target: file,
            server,
        })
    }

    fn measure(&self) -> Result<Round, Failure> {
        match self {
            Self::Urls(saturation) => Ok(Round::from(&saturate::run(saturation)?)),
            Self::Viewers {
                scenario,
                target,
                server,
            } => {
                let target = Target::read(target)?;
                let report = run::load(scenario.clone(), target, server, true)?;
                Ok(Round::from(&report))
            }
        }
    }
}
