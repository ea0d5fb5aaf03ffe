//! `loadtest compare`: two servers, or two ways of one, in turns.

use std::path::{Path, PathBuf};

use loadtest::client::Protocol;
use loadtest::comparison::{Comparison, Round};
use loadtest::saturate::{self, Saturation};

use super::{Failure, Pressure, Server, Verdict, print, read_urls};

/// Ask two servers in turns, A B A B, and set what they did against each other.
///
/// Figures drift with what else a machine does; their ratios in one run do so far less.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  loadtest compare --a ours.urls --b nginx.urls --rounds 7 --seconds 3"
)]
pub(crate) struct Arguments {
    /// File of A's URLs, one a line
    #[arg(long, value_name = "FILE")]
    a: PathBuf,
    /// File of B's URLs, one a line
    #[arg(long, value_name = "FILE")]
    b: PathBuf,
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
    let a = side(arguments, &arguments.a, &arguments.a_server_pid)?;
    let mut b = side(arguments, &arguments.b, &arguments.b_server_pid)?;
    b.protocol = arguments.b_protocol.unwrap_or(b.protocol);
    let name = |path: &Path| path.display().to_string();
    let mut comparison = Comparison::new(name(&arguments.a), name(&arguments.b));
    for number in 1..=arguments.rounds {
        let measure = |name, saturation: &Saturation| -> Result<Round, Failure> {
            let round = Round::from(&saturate::run(saturation)?);
            if !arguments.quiet {
                eprintln!("round {number} of {}, {name}: {round}", arguments.rounds);
            }
            Ok(round)
        };
        let round = (measure("A", &a)?, measure("B", &b)?);
        comparison.add(round.0, round.1);
    }
    let report = comparison.report();
    print(&report, arguments.json)?;
    Ok(Verdict::of(report.passed()))
}

fn side(arguments: &Arguments, file: &Path, server: &Server) -> Result<Saturation, Failure> {
    let urls = read_urls(file)?;
    let server = server.processes(urls.first())?;
    arguments.pressure.on(urls, server)
}
