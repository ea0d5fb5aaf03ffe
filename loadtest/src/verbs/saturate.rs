//! `loadtest saturate`: given URLs as fast as the server sends them, every body dropped.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Instant;

use loadtest::host::Usage;
use loadtest::load::Beat;
use loadtest::progress::{self, Progress};
use loadtest::report::{Quantiles, protocol_name};
use loadtest::saturate::{self, Counters, Measured, Saturation};
use serde::Serialize;
use url::Url;

use super::{Failure, Pressure, Server, Verdict, print, read_urls};

/// The form of the JSON report; raised when a field changes its meaning.
const SCHEMA: u32 = 1;

/// Ask for URLs as fast as the server sends them, and drop every body as cheaply as can be.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  loadtest saturate http://127.0.0.1:8080/v1/film/cbcs/... --connections 32 --seconds 5"
)]
pub(crate) struct Arguments {
    /// What is fetched, round robin; all of one scheme, host and port
    #[arg(value_name = "URL", required_unless_present = "urls")]
    url: Vec<Url>,
    /// File of more URLs, one a line
    #[arg(long, value_name = "FILE")]
    urls: Option<PathBuf>,
    #[command(flatten)]
    pressure: Pressure,
    /// Processes whose processor time and memory are read: ids with commas, `none`, or `auto` for those that
    /// listen on the port, where it is on this host
    #[arg(long, value_name = "PID", default_value = "auto")]
    server_pid: Server,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    /// Say nothing while it runs
    #[arg(long)]
    quiet: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Verdict, Failure> {
    let mut urls = arguments.url.clone();
    if let Some(path) = &arguments.urls {
        urls.extend(read_urls(path)?);
    }
    let server = arguments.server_pid.processes(urls.first())?;
    let saturation = arguments.pressure.on(urls, server)?;
    let report = Report::of(&saturation, measure(&saturation, arguments.quiet)?);
    print(&report, arguments.json)?;
    Ok(Verdict::of(report.errors == 0 && report.requests > 0))
}

/// Runs it, and says how it goes.
fn measure(saturation: &Saturation, quiet: bool) -> Result<Measured, saturate::Refused> {
    let counters = Arc::default();
    if quiet {
        return saturate::run_seen(saturation, &counters);
    }
    std::thread::scope(|scope| {
        let (running, ended) = mpsc::channel::<()>();
        let seen = Arc::clone(&counters);
        scope.spawn(move || tell(saturation, &seen, &ended));
        let measured = saturate::run_seen(saturation, &counters);
        drop(running);
        measured
    })
}

fn tell(saturation: &Saturation, counters: &Counters, ended: &mpsc::Receiver<()>) {
    let (every, start) = (progress::every(), Instant::now());
    let mut progress = Progress::of("connections");
    while ended.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
        let beat = Beat {
            elapsed: start.elapsed(),
            present: saturation.connections.get(),
            totals: counters.totals(),
        };
        eprintln!("{}", progress.line(beat));
    }
}

#[derive(Serialize)]
struct Report {
    schema: u32,
    protocol: loadtest::client::Protocol,
    tls: bool,
    urls: usize,
    connections: usize,
    streams: usize,
    elapsed_seconds: f64,
    requests: u64,
    bytes: u64,
    errors: u64,
    first_error: Option<String>,
    reopened: u64,
    requests_per_s: f64,
    mb_per_s: f64,
    /// Until the first byte of a body.
    first_byte: Quantiles,
    /// Until its last.
    whole: Quantiles,
    /// The same with the requests that were not asked while others made their stream wait.
    corrected: Quantiles,
    server: Option<Usage>,
    requests_per_cpu_s: Option<f64>,
    mb_per_cpu_s: Option<f64>,
    client_cpu_seconds: f64,
}

impl Report {
    fn of(saturation: &Saturation, measured: Measured) -> Self {
        Self {
            schema: SCHEMA,
            protocol: saturation.protocol,
            tls: saturation.urls.iter().any(|url| url.scheme() == "https"),
            urls: saturation.urls.len(),
            connections: saturation.connections.get(),
            streams: saturation.streams.get(),
            elapsed_seconds: measured.elapsed.as_secs_f64(),
            requests: measured.requests,
            bytes: measured.bytes,
            errors: measured.errors,
            reopened: measured.reopened,
            requests_per_s: measured.requests_per_second(),
            mb_per_s: measured.bytes_per_second() / 1e6,
            first_byte: Quantiles::of(&measured.first_byte),
            whole: Quantiles::of(&measured.whole),
            corrected: Quantiles::of(&measured.whole.corrected_by_median()),
            requests_per_cpu_s: measured.requests_per_cpu_second(),
            mb_per_cpu_s: measured.bytes_per_cpu_second().map(|rate| rate / 1e6),
            client_cpu_seconds: measured.client_cpu.as_secs_f64(),
            first_error: measured.first_error,
            server: measured.server,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = protocol_name(self.protocol, self.tls);
        writeln!(
            f,
            "{protocol}, {} connections of {} requests, {:.1} s",
            self.connections, self.streams, self.elapsed_seconds
        )?;
        writeln!(
            f,
            "{} requests, {:.1} a second, {:.1} MB/s",
            self.requests, self.requests_per_s, self.mb_per_s
        )?;
        writeln!(
            f,
            "{} errors, {} connections opened again",
            self.errors, self.reopened
        )?;
        if let Some(error) = &self.first_error {
            writeln!(f, "failed: {error}")?;
        }
        writeln!(f)?;
        writeln!(f, "{:<12}{}", "", Quantiles::HEADING)?;
        for (name, quantiles) in [
            ("first byte", &self.first_byte),
            ("whole", &self.whole),
            ("corrected", &self.corrected),
        ] {
            writeln!(f, "{name:<12}{quantiles}")?;
        }
        writeln!(f)?;
        if let (Some(server), Some(requests), Some(megabytes)) =
            (&self.server, self.requests_per_cpu_s, self.mb_per_cpu_s)
        {
            writeln!(
                f,
                "server: {server}; {requests:.1} requests and {megabytes:.1} MB for each second of processor"
            )?;
        }
        write!(f, "client: {:.2} s of processor", self.client_cpu_seconds)
    }
}
