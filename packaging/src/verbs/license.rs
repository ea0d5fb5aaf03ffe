//! `castellum license`: why a licence would be given or refused, by the function that decides it.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use keystore_client::KeyDescription;
use keystore_client::admin::KeyFilter;
use keystore_client::socket::AdminSocket;
use keystore_types::{AssetId, KeyId};
use license::policy::explain::{Difference, Explanation, Replayed, explain, replay};
use license::policy::terms::Terms;
use license::policy::{Case, Challenge, Rules, System};
use license::{Clock as _, SystemClock};
use serde::Serialize;

use super::{ConfigFile, converse, key, token};
use crate::failure::{Exit, Failure};
use crate::output::Output;

#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigFile,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Say why a request would be granted or refused; the token is read from standard input
    ///
    /// Tokens, policies and keys are looked at as the licence server does. Limits of streams, devices, places and rates
    /// are not, since asking would count.
    #[command(
        after_help = "Example:\n  castellum license explain film --system widevine --kid 9eb4050d-e44b-4802-932e-27d75083e266 < token.jwt"
    )]
    Explain(Explain),
    /// Decide anew on recorded decisions, under the rules of a configuration, and list the differences
    #[command(
        after_help = "Example:\n  castellum license replay /var/lib/castellum/license/decisions.jsonl -c new.toml"
    )]
    Replay(Replay),
}

#[derive(Debug, clap::Args)]
struct Explain {
    /// The asset
    asset: AssetId,
    /// The licence system
    #[arg(long, value_enum, default_value = "clearkey")]
    system: AskedSystem,
    /// A key that is asked for; may be repeated
    ///
    /// Without one, for Widevine and FairPlay it is as with a URL that has no `kid`: the keys that the token names are asked
    /// for. For the other systems, whose requests name keys, it is as with a request for all keys of the asset.
    #[arg(long = "kid", value_name = "UUID")]
    kids: Vec<KeyId>,
    /// Ask for a licence that may be kept
    #[arg(long)]
    persistent: bool,
}

#[derive(Debug, clap::Args)]
struct Replay {
    /// The decision log
    file: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum AskedSystem {
    #[value(name = "clearkey")]
    ClearKey,
    Hls,
    Widevine,
    #[value(name = "playready")]
    PlayReady,
    #[value(name = "fairplay")]
    FairPlay,
}

pub(crate) fn run(args: Args, output: Output) -> Result<(), Failure> {
    let settings = args.config.load()?;
    match args.verb {
        Verb::Explain(args) => {
            let explanation = args.explanation(&settings)?;
            output.say(&explanation, explanation_text)?;
            match explanation {
                Explanation::Granted { .. } => Ok(()),
                Explanation::Refused { .. } => {
                    let message = "the licence server refuses this request";
                    Err(Failure::new(Exit::NotAllowed, message))
                }
            }
        }
        Verb::Replay(args) => {
            let report = args.report(&Rules::from(&settings.license))?;
            output.say(&report, report_text)?;
            match report.differences.is_empty() {
                true => Ok(()),
                false => Err(Failure::failed("other rules decide otherwise")),
            }
        }
    }
}

impl Explain {
    fn explanation(self, settings: &conf::Settings) -> Result<Explanation, Failure> {
        let now = SystemClock.now();
        let verifier = token::verifier(&settings.license)?;
        let entitlement = match verifier.verify(token::from_stdin()?.trim(), now) {
            Ok(entitlement) => entitlement,
            Err(rejection) => return Ok(Explanation::from(&rejection.refusal)),
        };
        let filter = KeyFilter {
            asset: Some(self.asset.clone()),
            active_only: true,
            after: None,
        };
        let keys = converse(async {
            key::all(
                &AdminSocket::open(&settings.keystore.control_socket),
                filter,
            )
            .await
        })?;
        let system = match self.system {
            AskedSystem::ClearKey => System::ClearKey,
            AskedSystem::Hls => System::Hls,
            AskedSystem::Widevine => System::Widevine,
            AskedSystem::PlayReady => System::PlayReady,
            AskedSystem::FairPlay => System::FairPlay,
        };
        let key_ids = match self.kids.is_empty() && !system.is_opaque() {
            // A player asks for keys all the same: here for one that no asset has.
            true if keys.is_empty() => vec![KeyId::new([0; 16])],
            true => keys.iter().map(|key| key.key_id).collect(),
            false => self.kids,
        };
        let challenge = Challenge {
            system,
            asset: self.asset,
            key_ids,
            persistent: self.persistent,
        };
        let mut case = Case::new(&entitlement, &challenge, now);
        let described = keys.iter().map(|key| KeyDescription {
            key_id: key.key_id,
            label: key.context.label,
            scheme: key.context.scheme,
        });
        case.keys = described
            .filter(|key| case.covered.contains(&key.key_id))
            .collect();
        Ok(explain(&case, &Rules::from(&settings.license)))
    }
}

fn explanation_text(explanation: &Explanation) -> String {
    let mut text = String::new();
    match explanation {
        Explanation::Refused { reason, detail } => {
            let _ = writeln!(text, "refused: {detail} ({reason})");
        }
        Explanation::Granted {
            keys,
            left_out,
            terms,
        } => {
            let _ = writeln!(text, "granted");
            for key in keys {
                let _ = writeln!(text, "  {}  {}", key.key_id, key.label);
            }
            for out in left_out {
                let _ = writeln!(text, "left out\n  {}  {}", out.key_id, out.why);
            }
            for line in terms_text(terms) {
                let _ = writeln!(text, "{line}");
            }
        }
    }
    text
}

fn terms_text(terms: &Terms) -> Vec<String> {
    let span = |name: &str, span: Option<Duration>| {
        span.map(|span| format!("{name}: {}", conf::Span(span)))
    };
    let mut lines: Vec<_> = [
        span("good for", terms.license_duration),
        span("first play within", terms.rental_duration),
        span("plays for", terms.playback_duration),
        span("renewed after", terms.renewal.map(|renewal| renewal.after)),
    ]
    .into_iter()
    .flatten()
    .collect();
    lines.push(match terms.persistent {
        true => "may be kept".to_owned(),
        false => "may not be kept".to_owned(),
    });
    lines
}

#[derive(Serialize)]
struct Report {
    /// Decisions that come out the same.
    same: u64,
    /// Those that were no matter of policy.
    apart: u64,
    /// Lines that were written by another version, or cut off.
    unread: u64,
    differences: Vec<Difference>,
}

/// The longest line that is read, in bytes.
const MAX_LINE: u64 = 1 << 20;

/// The most differences that are listed.
const MAX_DIFFERENCES: usize = 10_000;

impl Replay {
    fn report(&self, rules: &Rules) -> Result<Report, Failure> {
        let cannot =
            |error| Failure::failed(format!("cannot read {}: {error}", self.file.display()));
        let mut lines = BufReader::new(File::open(&self.file).map_err(cannot)?);
        let mut report = Report {
            same: 0,
            apart: 0,
            unread: 0,
            differences: Vec::new(),
        };
        let mut line = String::new();
        loop {
            line.clear();
            let read = (&mut lines).take(MAX_LINE).read_line(&mut line);
            if read.map_err(cannot)? == 0 {
                return Ok(report);
            }
            match replay(&line, rules) {
                Ok(Replayed::Same) => report.same += 1,
                Ok(Replayed::Apart) => report.apart += 1,
                Ok(Replayed::Different(difference)) => {
                    if report.differences.len() == MAX_DIFFERENCES {
                        return Err(Failure::failed(format!(
                            "more than {MAX_DIFFERENCES} decisions come out otherwise"
                        )));
                    }
                    report.differences.push(*difference);
                }
                Err(_) => report.unread += 1,
            }
        }
    }
}

fn report_text(report: &Report) -> String {
    let mut text = String::new();
    for difference in &report.differences {
        let before = match &difference.refused_before {
            Some(reason) => format!("refused ({reason})"),
            None => format!("{} keys", difference.keys_before.len()),
        };
        let now = match &difference.now {
            Explanation::Refused { reason, .. } => format!("refused ({reason})"),
            Explanation::Granted { keys, .. } => format!("{} keys", keys.len()),
        };
        let (number, case) = (difference.number, &difference.case);
        let system = case.system.as_str();
        let _ = writeln!(
            text,
            "{number}  {}  {system}  {before} -> {now}",
            case.asset
        );
    }
    let Report {
        same,
        apart,
        unread,
        differences,
    } = report;
    let _ = writeln!(
        text,
        "{} otherwise, {same} the same, {apart} no matter of policy, {unread} not read",
        differences.len()
    );
    text
}
