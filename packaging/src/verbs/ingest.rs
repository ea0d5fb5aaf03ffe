//! `castellum ingest`: files become an asset, by way of the running origin.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use keystore_types::AssetId;
use origin::control::{self, IngestReport, Progress};

use super::{ConfigFile, converse};
use crate::failure::Failure;
use crate::output::Output;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  castellum ingest film-1080.mp4 film-480.mp4 --asset film")]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigFile,
    /// The asset's files: its ladder and its languages
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The asset's name
    #[arg(long, value_name = "ID")]
    asset: AssetId,
}

pub(crate) fn run(args: Args, output: Output) -> Result<(), Failure> {
    let settings = args.config.load()?.origin;
    // The origin has a folder of its own to start from.
    let absolute = |path: &PathBuf| {
        std::path::absolute(path)
            .map_err(|error| Failure::failed(format!("{}: {error}", path.display())))
    };
    let paths: Vec<PathBuf> = args.paths.iter().map(absolute).collect::<Result<_, _>>()?;
    if let Some(missing) = paths.iter().find(|path| !path.exists()) {
        return Err(Failure::failed(format!(
            "there is no file {}",
            missing.display()
        )));
    }
    let bar = Bar::new();
    let report = converse(async {
        control::ingest(&settings.control_socket, args.asset, paths, |step| {
            bar.show(&step)
        })
        .await
        .map_err(Failure::from)
    });
    bar.0.finish_and_clear();
    output.say(&report?, text)
}

/// A progress bar on a terminal; indicatif hides it anywhere else.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{msg:12} [{bar:40}] {pos}/{len} {eta}") {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(bar)
    }

    fn show(&self, step: &Progress) {
        self.0.set_length(step.total.max(step.done));
        self.0.set_position(step.done);
        self.0.set_message(step.stage.clone());
    }
}

fn text(report: &IngestReport) -> String {
    let mut text = format!("{}\n", report.asset);
    for source in &report.sources {
        let _ = writeln!(
            text,
            "  {} ({} bytes, {})",
            source.file, source.bytes, source.identity
        );
        for track in &source.tracks {
            let _ = writeln!(text, "    {track}");
        }
        for ignored in &source.ignored {
            let _ = writeln!(text, "    ignored: {ignored}");
        }
    }
    let _ = writeln!(
        text,
        "  {} segments; {}",
        report.segments,
        report.renditions.join(", ")
    );
    for key in &report.keys {
        let _ = writeln!(
            text,
            "  key {} for {} in {}",
            key.key_id, key.label, key.scheme
        );
    }
    for warning in &report.warnings {
        let _ = writeln!(text, "  warning: {warning}");
    }
    text
}
