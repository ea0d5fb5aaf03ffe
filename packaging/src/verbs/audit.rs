//! `castellum audit`: a title as a player walks it, at any origin, and the faults in it by name.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use url::Url;

use super::{ConfigFile, converse};
use crate::audit::{Finding, Plan, Report, Token, audit};
use crate::failure::{Exit, Failure};
use crate::output::Output;

/// Manifests, init segments, some segments and licences are fetched as a player fetches them, and held against each other.
/// The origin may be anybody's. Licences are asked for: a token that is good for one licence is used up.
///
/// The key of sound is proved by its frames. Pictures rarely tell a wrong key, so theirs is proved by sound of the same key,
/// or by a PlayReady checksum, or not at all.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes:\n  0  nothing was found\n  1  something was found, or a bound ended the audit\n\n\
                  Example:\n  castellum audit https://origin.example/v1/film/cbcs/main.mpd \
                  https://origin.example/v1/film/cbcs/main.m3u8 --token-file viewer.jwt"
)]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigFile,
    /// Manifests of one title: MPDs, multivariant or media playlists. Several are held against each other too
    #[arg(required = true, value_name = "MANIFEST_URL")]
    urls: Vec<Url>,
    /// The token that is shown to the licence server; in a file, no process list shows it
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// The file of the token
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    token_file: Option<PathBuf>,
    /// Ask for ClearKey licences there, and not where the manifest says
    #[arg(long, value_name = "URL")]
    license_url: Option<Url>,
    /// The authorities that are believed, in PEM
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/ssl/certs/ca-certificates.crt"
    )]
    ca: PathBuf,
    /// Segments that are drawn of each track, from the first to the last
    #[arg(long, value_name = "COUNT", default_value = "3")]
    segments: usize,
    /// The policy of the configuration by whose rules the title is licensed; without it, the one in the URL
    #[arg(long, value_name = "NAME", requires = "path")]
    policy: Option<String>,
}

pub(crate) fn run(args: Args, output: Output) -> Result<(), Failure> {
    for url in args.urls.iter().chain(&args.license_url) {
        if !matches!(url.scheme(), "https" | "http") || url.host().is_none() {
            return Err(Failure::usage(
                "a URL is https://HOST/... or http://HOST/...",
            ));
        }
    }
    let token = match (args.token, &args.token_file) {
        (Some(token), _) => Some(Token::new(token)),
        (None, Some(path)) => {
            let text = fs::read_to_string(path).map_err(|error| {
                Failure::usage(format!("cannot read {}: {error}", path.display()))
            })?;
            Some(Token::new(text))
        }
        (None, None) => None,
    };
    // The operator's own rules count only where the operator says that the title is theirs.
    let settings = match args.config.path() {
        Some(_) => Some(args.config.load()?),
        None => None,
    };
    let plan = Plan {
        urls: args.urls,
        segments: args.segments,
        ca_file: args.ca,
        token,
        license_url: args.license_url,
        settings: settings.as_ref(),
        policy: args.policy,
    };
    let report = converse(audit(plan))?;
    output.say(&report, text)?;
    match (report.findings.len(), report.complete) {
        (0, true) => Ok(()),
        (0, false) => Err(Failure::new(
            Exit::Failed,
            "a bound of requests or time ended the audit",
        )),
        (1, _) => Err(Failure::failed("1 finding")),
        (count, _) => Err(Failure::failed(format!("{count} findings"))),
    }
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    for Finding {
        fault,
        place,
        what,
        help,
    } in &report.findings
    {
        let _ = writeln!(text, "{}", fault.name());
        let of = place.representation.as_deref();
        let of = of.map_or_else(String::new, |name| format!(" {name}"));
        let offset = place.offset;
        let offset = offset.map_or_else(String::new, |offset| format!(" at {offset:#x}"));
        let _ = writeln!(
            text,
            "  where  {}{of}\n         {}{offset}",
            place.manifest, place.at
        );
        let _ = writeln!(text, "  what   {what}\n  help   {help}");
    }
    for note in &report.notes {
        let _ = writeln!(text, "note: {note}");
    }
    let Report {
        manifests,
        tracks,
        segments,
        keys,
        proved,
        requests,
        findings,
        complete,
        ..
    } = report;
    let _ = writeln!(
        text,
        "looked at: manifests {manifests}, tracks {tracks}, segments {segments}, keys {keys} (proved by tracks: {proved}), \
         requests {requests}"
    );
    if findings.is_empty() {
        text.push_str("nothing was found\n");
    }
    if !complete {
        let _ = writeln!(text, "a bound ended the audit before its end");
    }
    text
}
