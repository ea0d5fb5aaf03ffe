//! What a person types: one file for each verb, and the options that several of them share.

pub(crate) mod bench;
pub(crate) mod check;
pub(crate) mod compare;
pub(crate) mod run;
pub(crate) mod saturate;

use std::error::Error;
use std::fmt::Display;
use std::io::{Read as _, Write as _};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use loadtest::client::{Protocol, Trust};
use loadtest::host::Processes;
use loadtest::open_files;
use loadtest::saturate::Saturation;
use serde::Serialize;
use url::Url;

/// Whether a verb that ran found what it was to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Passed,
    Failed,
}

impl Verdict {
    fn of(passed: bool) -> Self {
        if passed { Self::Passed } else { Self::Failed }
    }
}

/// Why a verb could not begin.
type Failure = Box<dyn Error>;

/// Bytes of a file of URLs; a hundred thousand of them stay below.
const URLS_LIMIT: u64 = 16 << 20;

/// The longest run: a day.
const SECONDS_LIMIT: f64 = 86_400.0;

/// How long URLs are asked for where nothing is said.
const SECONDS: Duration = Duration::from_secs(5);

/// By how much a scenario may be multiplied, and watched faster than film.
const FACTOR_LIMIT: f64 = 1000.0;

/// How hard a server is asked.
#[derive(clap::Args)]
struct Pressure {
    /// HTTP/1.1 if not given, HTTP/2 or HTTP/3; whether it runs over TLS is said by the URLs
    #[arg(long, value_enum)]
    protocol: Option<Protocol>,
    /// Connections, kept for the whole run
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    connections: u16,
    /// Requests under way on each: pipelined over HTTP/1.1, streams otherwise
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    streams: u16,
    /// Threads among which the connections are shared out
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
    /// How long is measured, once all connections are open; 5 if not given
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    seconds: Option<Duration>,
    /// PEM file of the authority that signed the server's certificate
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    ca: Option<PathBuf>,
    /// Believe every certificate
    #[arg(long)]
    insecure: bool,
}

impl Pressure {
    fn trust(&self, urls: &[Url]) -> Result<Trust, Failure> {
        match &self.ca {
            Some(path) => Trust::read(path).map_err(|error| {
                format!("cannot read the CA file {}: {error}", path.display()).into()
            }),
            None if !self.insecure && urls.iter().any(|url| url.scheme() == "https") => Err(
                "name the authority of the server's certificate with --ca, or give --insecure"
                    .into(),
            ),
            None => Ok(Trust::DangerAnyone),
        }
    }

    fn on(&self, urls: Vec<Url>, server: Option<Processes>) -> Result<Saturation, Failure> {
        let sockets = u64::from(self.connections);
        open_files::allow(sockets)?;
        let count = |number: u16| {
            NonZeroUsize::new(number.into()).ok_or("zero is no number of connections")
        };
        Ok(Saturation {
            protocol: self.protocol.unwrap_or(Protocol::H1),
            connections: count(self.connections)?,
            streams: count(self.streams)?,
            threads: count(self.threads.min(self.connections))?,
            duration: self.seconds.unwrap_or(SECONDS),
            trust: self.trust(&urls)?,
            urls,
            server,
        })
    }
}

/// Whose processor time and memory are read.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Server {
    /// Of whatever listens on the port that is asked, where that is on this host.
    Auto,
    /// Nobody's.
    None,
    /// Of these processes.
    Pids(Vec<u32>),
}

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let pid = |text: &str| {
            text.parse()
                .map_err(|_| format!("{text:?} is no process id, `auto` or `none`"))
        };
        match text {
            "auto" => Ok(Self::Auto),
            "none" => Ok(Self::None),
            _ => text
                .split(',')
                .map(pid)
                .collect::<Result<_, _>>()
                .map(Self::Pids),
        }
    }
}

impl Server {
    fn processes<'a>(
        &self,
        urls: impl IntoIterator<Item = &'a Url>,
    ) -> Result<Option<Processes>, Failure> {
        Ok(match self {
            Self::Auto => Processes::serving(urls)?,
            Self::None => None,
            Self::Pids(pids) => Some(Processes::of(pids.iter().copied())),
        })
    }
}

/// A positive number of seconds, fractions too.
fn seconds(text: &str) -> Result<Duration, String> {
    let number = text
        .parse::<f64>()
        .ok()
        .filter(|number| *number > 0.0 && *number <= SECONDS_LIMIT);
    let duration = number.and_then(|number| Duration::try_from_secs_f64(number).ok());
    duration
        .ok_or_else(|| format!("a number of seconds above 0 and up to {SECONDS_LIMIT} is wanted"))
}

/// What something is multiplied by.
fn factor(text: &str) -> Result<f64, String> {
    let number = text
        .parse::<f64>()
        .ok()
        .filter(|number| *number > 0.0 && *number <= FACTOR_LIMIT);
    number.ok_or_else(|| format!("a number above 0 and up to {FACTOR_LIMIT} is wanted"))
}

/// The URLs of a file, one a line; empty lines and those that begin with `#` are skipped.
fn read_urls(path: &Path) -> Result<Vec<Url>, Failure> {
    let fault = |what: &dyn Display| format!("{}: {what}", path.display());
    let file = std::fs::File::open(path).map_err(|error| fault(&error))?;
    let mut text = String::new();
    let len = file
        .take(URLS_LIMIT + 1)
        .read_to_string(&mut text)
        .map_err(|error| fault(&error))?;
    if len as u64 > URLS_LIMIT {
        return Err(fault(&format_args!("more than {URLS_LIMIT} bytes of URLs")).into());
    }
    let lines = text.lines().map(str::trim).enumerate();
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let url = |(number, line): (usize, &str)| {
        Url::parse(line)
            .map_err(|error| fault(&format_args!("line {}: {error}", number + 1)).into())
    };
    lines.map(url).collect()
}

/// The report on standard output, as text or as one line of JSON.
fn print(report: &(impl Serialize + Display), json: bool) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    if json {
        writeln!(stdout, "{}", serde_json::to_string(report)?)?;
    } else {
        writeln!(stdout, "{report}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_whose_processor_time_is_meant() {
        assert_eq!("auto".parse(), Ok(Server::Auto));
        assert_eq!("none".parse(), Ok(Server::None));
        assert_eq!("12,7".parse(), Ok(Server::Pids(vec![12, 7])));
        assert!("12,".parse::<Server>().unwrap_err().contains("process id"));
    }

    #[test]
    fn seconds_may_be_parts_and_are_bounded() {
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        assert_eq!(factor("0.25"), Ok(0.25));
        for refused in ["0", "-1", "nan", "inf", "86401", "1s"] {
            assert!(seconds(refused).is_err(), "{refused}");
            assert!(factor(refused).is_err(), "{refused}");
        }
    }
}
