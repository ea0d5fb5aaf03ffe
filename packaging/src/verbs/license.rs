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
use license::policy::terms::{KeyRule, Terms};
use license::policy::{Case, Challenge, Rules, System};
use license::upstream::answer_for;
use license::{Clock as _, SystemClock, UnixTime};
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
    /// Upstreams, tokens, policies and keys are looked at as the licence server does, by this configuration. Not asked is what
    /// only the running server knows, or what asking would change: whether the subject, the token or a key was revoked,
    /// whether the token was used, limits of streams, devices and rates, the client's address and country, the authorisation
    /// webhook, whether the keystore is sealed or lets the server have the keys, and what the upstream says of the challenge.
    /// Any of these may refuse what is granted here.
    #[command(
        after_help = "Example:\n  castellum license explain film --system widevine --kid 9eb4050d-e44b-4802-932e-27d75083e266 < token.jwt"
    )]
    Explain(Explain),
    /// Decide anew on recorded decisions, under the rules of a configuration, and list the differences
    ///
    /// It fails where any decision comes out otherwise, and where any line is no record that can be read.
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

impl From<AskedSystem> for System {
    fn from(system: AskedSystem) -> Self {
        match system {
            AskedSystem::ClearKey => Self::ClearKey,
            AskedSystem::Hls => Self::Hls,
            AskedSystem::Widevine => Self::Widevine,
            AskedSystem::PlayReady => Self::PlayReady,
            AskedSystem::FairPlay => Self::FairPlay,
        }
    }
}

pub(crate) fn run(args: Args, output: Output) -> Result<(), Failure> {
    let settings = args.config.load()?;
    match args.verb {
        Verb::Explain(args) => {
            let system = System::from(args.system);
            let explanation = args.explanation(&settings)?;
            output.say(&explanation, |it| explanation_text(it, system))?;
            match explanation {
                Explanation::Granted { .. } => Ok(()),
                Explanation::Refused { .. } => {
                    let message = "the licence server refuses this request";
                    Err(Failure::new(Exit::NotAllowed, message))
                }
            }
        }
        Verb::Replay(args) => {
            let file = args.file.clone();
            let report = args.report(&Rules::from(&settings.license))?;
            output.say(&report, report_text)?;
            match (report.differences.is_empty(), &report.first_unread) {
                (true, None) => Ok(()),
                (false, None) => Err(Failure::failed("other rules decide otherwise")),
                (_, Some(first)) => Err(Failure::failed(format!(
                    "{} lines of {} cannot be read, so nothing is said of their decisions: the first is line {}: {}",
                    report.unread,
                    file.display(),
                    first.line,
                    first.why
                ))),
            }
        }
    }
}

impl Explain {
    fn explanation(self, settings: &conf::Settings) -> Result<Explanation, Failure> {
        let now = SystemClock.now();
        let system = System::from(self.system);
        let verifier = token::verifier(&settings.license)?;
        let token = token::from_stdin()?;
        // First, as in the server: who has no URL to ask is told nothing of a token.
        if !system.is_open()
            && !answer_for(&settings.license.upstreams, system, &self.asset)
                .map_err(Failure::failed)?
        {
            return Ok(Explanation::Refused {
                reason: "not_found".to_owned(),
                detail: format!(
                    "the licence URL is not there (404): no upstream of the configuration answers for {} and this asset",
                    system.as_str()
                ),
            });
        }
        let entitlement = match verifier.verify(token.trim(), now) {
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

fn explanation_text(explanation: &Explanation, system: System) -> String {
    let mut text = String::new();
    match explanation {
        Explanation::Refused { reason, detail } => {
            let _ = writeln!(text, "refused: {detail} ({reason})");
        }
        Explanation::Granted {
            policy,
            keys,
            left_out,
            terms,
        } => {
            let _ = match policy {
                Some(policy) => writeln!(text, "granted by the policy {policy}"),
                None => writeln!(text, "granted by the token alone: there is no policy"),
            };
            for key in keys {
                let asks = rule_text(&key.rule, system);
                let _ = writeln!(text, "  {}  {}  {asks}", key.key_id, key.label);
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

/// What a key asks of the device, in the words of the configuration, as far as the system has it kept.
fn rule_text(rule: &KeyRule, system: System) -> String {
    let none = KeyRule::default();
    let outputs = !system.is_open() && system != System::FairPlay;
    let asks = [
        (outputs && rule.hdcp > none.hdcp).then(|| word("hdcp", &rule.hdcp)),
        (outputs && rule.no_analogue).then(|| "no_analogue".to_owned()),
        (outputs && rule.no_digital).then(|| "no_digital".to_owned()),
        (system == System::Widevine && rule.widevine > none.widevine)
            .then(|| word("widevine", &rule.widevine)),
        (system == System::PlayReady && rule.playready > none.playready)
            .then(|| word("playready", &rule.playready)),
        (system == System::FairPlay && rule.fairplay_hdcp > none.fairplay_hdcp)
            .then(|| word("fairplay_hdcp", &rule.fairplay_hdcp)),
    ];
    let asks: Vec<_> = asks.into_iter().flatten().collect();
    match asks.is_empty() {
        true => "any device".to_owned(),
        false => asks.join(", "),
    }
}

/// A value as the configuration writes it, after its key.
fn word(key: &str, value: &impl Serialize) -> String {
    let written = serde_json::to_value(value).unwrap_or_default();
    format!("{key} {}", written.as_str().unwrap_or_default())
}

fn terms_text(terms: &Terms) -> Vec<String> {
    let span = |name: &str, span: Option<Duration>| {
        span.map(|span| format!("{name}: {}", conf::Span(span)))
    };
    let date = |name: &str, time: Option<UnixTime>| time.map(|time| format!("{name}: {time}"));
    let renewal = terms.renewal;
    let mut lines: Vec<_> = [
        date("given from", terms.begins),
        date("ends at", terms.expires),
        span("good for", terms.license_duration),
        span("first play within", terms.rental_duration),
        span("plays for", terms.playback_duration),
        span("renewed after", renewal.map(|renewal| renewal.after)),
        span(
            "renewal tried again after",
            renewal.map(|renewal| renewal.retry),
        ),
        span(
            "plays on without renewal for",
            renewal.map(|renewal| renewal.recovery),
        ),
    ]
    .into_iter()
    .flatten()
    .collect();
    if !terms.ends() {
        lines.push("does not end".to_owned());
    }
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
    /// Lines that were written by another version, or cut off, or are no records at all.
    unread: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_unread: Option<Unread>,
    differences: Vec<Difference>,
}

/// A line that is no record.
#[derive(Serialize)]
struct Unread {
    /// Counts from 1.
    line: u64,
    why: String,
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
            first_unread: None,
            differences: Vec::new(),
        };
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let read = (&mut lines).take(MAX_LINE).read_until(b'\n', &mut line);
            if read.map_err(cannot)? == 0 {
                break;
            }
            let mut replayed = replay(&line, rules).map_err(|error| error.to_string());
            if line.len() as u64 == MAX_LINE && !line.ends_with(b"\n") {
                lines.skip_until(b'\n').map_err(cannot)?;
                replayed = Err(format!("it is longer than {MAX_LINE} bytes"));
            }
            match replayed {
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
                Err(why) => {
                    report.unread += 1;
                    let line = number;
                    report.first_unread.get_or_insert(Unread { line, why });
                }
            }
        }
        Ok(report)
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
        first_unread: _,
        differences,
    } = report;
    let _ = writeln!(
        text,
        "{} otherwise, {same} the same, {apart} no matter of policy, {unread} not read",
        differences.len()
    );
    text
}
