//! `loadtest run`: viewers.

use std::path::PathBuf;
use std::time::Duration;

use loadtest::client::Protocol;
use loadtest::scenario::{self, Scenario};
use loadtest::target::Target;

use super::{Failure, Verdict, print, seconds};

/// Viewers that load a Castellum and check what it serves.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  castellum demo --json > demo.json &\n  \
                  loadtest run --target demo.json --viewers 50 --protocol h2 --seconds 10")]
pub(crate) struct Arguments {
    /// File with the line of `castellum demo --json`; `-` reads it from standard input
    #[arg(long, value_name = "FILE")]
    target: PathBuf,
    /// Viewers at once
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    viewers: u16,
    /// HTTP/1.1, HTTP/2 or HTTP/3
    #[arg(long, value_enum, default_value_t = Protocol::H2)]
    protocol: Protocol,
    /// How long new requests are begun
    #[arg(long, default_value = "10", value_parser = seconds)]
    seconds: Duration,
    /// Use the plain listeners (h1, and h2 with prior knowledge) in place of TLS
    #[arg(long)]
    plain: bool,
    /// Decrypt and compare the segments of one turn in N
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    sample_every: u32,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Verdict, Failure> {
    let target = Target::read(&arguments.target)?;
    let scenario = Scenario {
        viewers: usize::from(arguments.viewers),
        protocol: arguments.protocol,
        tls: !arguments.plain,
        duration: arguments.seconds,
        sample_every: usize::try_from(arguments.sample_every)?,
    };
    let runtime = tokio::runtime::Runtime::new()?;
    let report = runtime.block_on(scenario::run(scenario, target))?;
    print(&report, arguments.json)?;
    Ok(Verdict::of(report.passed()))
}
