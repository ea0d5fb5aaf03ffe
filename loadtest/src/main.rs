//! The command line of `loadtest`.
#![forbid(unsafe_code)]

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use loadtest::bench;
use loadtest::client::Protocol;
use loadtest::report::Report;
use loadtest::scenario::{self, Scenario};
use loadtest::target::Target;

/// Viewers that load a Castellum and check what it serves.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct CommandLine {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    viewers: Option<Arguments>,
}

#[derive(Subcommand)]
enum Verb {
    Bench(bench::Args),
}

/// Exit code 0: every request was answered and every compared sample was equal; 1: not so; 2: usage,
/// or the run could not begin.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  castellum demo --json > demo.json &\n  \
                  loadtest --target demo.json --viewers 50 --protocol h2 --seconds 10")]
struct Arguments {
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
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
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

fn main() -> ExitCode {
    let passed = match CommandLine::parse() {
        CommandLine {
            verb: Some(Verb::Bench(arguments)),
            ..
        } => measure(&arguments),
        CommandLine {
            viewers: Some(arguments),
            ..
        } => watch(&arguments),
        CommandLine { .. } => Err("nothing is asked for: see --help".into()),
    };
    match passed {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("loadtest: {error}");
            ExitCode::from(2)
        }
    }
}

fn measure(arguments: &bench::Args) -> Result<bool, Box<dyn Error>> {
    let report = bench::run(arguments)?;
    writeln!(std::io::stdout().lock(), "{report}")?;
    Ok(report.passed())
}

#[tokio::main]
async fn watch(arguments: &Arguments) -> Result<bool, Box<dyn Error>> {
    Ok(run(arguments).await?.passed())
}

async fn run(arguments: &Arguments) -> Result<Report, Box<dyn Error>> {
    let target = Target::read(&arguments.target)?;
    let scenario = Scenario {
        viewers: usize::from(arguments.viewers),
        protocol: arguments.protocol,
        tls: !arguments.plain,
        duration: Duration::from_secs(u64::from(arguments.seconds)),
        sample_every: usize::try_from(arguments.sample_every)?,
    };
    let report = scenario::run(scenario, target).await?;
    let mut stdout = std::io::stdout().lock();
    if arguments.json {
        writeln!(stdout, "{}", serde_json::to_string(&report)?)?;
    } else {
        writeln!(stdout, "{report}")?;
    }
    Ok(report)
}
