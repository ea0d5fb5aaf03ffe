//! `loadtest run`: the viewers of a scenario.

use std::path::PathBuf;
use std::time::Duration;

use loadtest::client::Protocol;
use loadtest::load::{Live, Load};
use loadtest::progress::{self, Progress};
use loadtest::report::Report;
use loadtest::scenario::Scenario;
use loadtest::target::Target;

use super::{Failure, Server, Verdict, factor, print, seconds};

/// Let the viewers of a scenario load a Castellum, and check what it serves.
///
/// Passed is a run in which every request was answered, every compared sample was equal, and every threshold of the
/// scenario was met.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  castellum demo --json > demo.json &\n  \
                  loadtest run loadtest/scenarios/steady.toml --target demo.json --seconds 30")]
pub(crate) struct Arguments {
    /// The scenario's TOML file
    scenario: PathBuf,
    /// File with the line of `castellum demo --json`; `-` reads it from standard input
    #[arg(long, value_name = "FILE")]
    target: PathBuf,
    /// In place of the scenario's protocol
    #[arg(long, value_enum)]
    protocol: Option<Protocol>,
    /// In place of the scenario's duration
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    seconds: Option<Duration>,
    #[command(flatten)]
    changes: Changes,
    /// Processes whose processor time and memory are read: ids with commas, `none`, or `auto` for those that listen
    /// on the target's ports, where it is on this host
    #[arg(long, value_name = "PID", default_value = "auto")]
    server_pid: Server,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    /// Say nothing while it runs
    #[arg(long)]
    quiet: bool,
}

/// What a person wants otherwise than the scenario has it.
#[derive(clap::Args)]
pub(super) struct Changes {
    /// Use the plain listeners (h1, and h2 with prior knowledge) in place of what the scenario says
    #[arg(long, requires = "scenario", conflicts_with = "tls")]
    plain: bool,
    /// Use the TLS listeners in place of what the scenario says
    #[arg(long, requires = "scenario")]
    tls: bool,
    /// Multiply the scenario's rates and bursts, and how many viewers may be there at once
    #[arg(long, requires = "scenario", value_name = "FACTOR", value_parser = factor)]
    rate: Option<f64>,
    /// Watch so many times faster than film
    #[arg(long, requires = "scenario", value_name = "FACTOR", value_parser = factor)]
    pace: Option<f64>,
}

impl Changes {
    /// The scenario with them, and with another protocol and duration where those are given.
    pub(super) fn apply(
        &self,
        scenario: &mut Scenario,
        protocol: Option<Protocol>,
        seconds: Option<Duration>,
    ) {
        scenario.protocol = protocol.unwrap_or(scenario.protocol);
        scenario.tls = self.tls || scenario.tls && !self.plain;
        scenario.duration = seconds.unwrap_or(scenario.duration);
        if let Some(rate) = self.rate {
            scenario.multiply(rate);
        }
        if let Some(pace) = self.pace {
            scenario.set_pace(pace);
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<Verdict, Failure> {
    let mut scenario = Scenario::read(&arguments.scenario)?;
    let changes = &arguments.changes;
    changes.apply(&mut scenario, arguments.protocol, arguments.seconds);
    let target = Target::read(&arguments.target)?;
    let report = load(scenario, target, &arguments.server_pid, arguments.quiet)?;
    print(&report, arguments.json)?;
    Ok(Verdict::of(report.passed()))
}

/// Runs a scenario, and says how it goes.
pub(super) fn load(
    scenario: Scenario,
    target: Target,
    server: &Server,
    quiet: bool,
) -> Result<Report, Failure> {
    let server = server.processes(&target.listeners(scenario.tls))?;
    let load = Load::new(scenario, target, server)?;
    let live = load.live();
    let runtime = tokio::runtime::Runtime::new()?;
    Ok(runtime.block_on(async {
        let telling = (!quiet).then(|| tokio::spawn(tell(live)));
        let report = load.run().await;
        if let Some(telling) = telling {
            telling.abort();
        }
        report
    })?)
}

async fn tell(live: Live) {
    let every = progress::every();
    let mut progress = Progress::of("viewers");
    loop {
        tokio::time::sleep(every).await;
        eprintln!("{}", progress.line(live.beat()));
    }
}
