//! Log lines, to standard error: JSON for a journal, text for people.

use std::io::IsTerminal as _;

use conf::{LogFormat, LogSettings};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::failure::{Exit, Failure};

/// What the settings let through.
///
/// # Errors
/// The filter is not one.
pub(crate) fn filter(settings: &LogSettings) -> Result<EnvFilter, ParseError> {
    let access = if settings.access {
        "access=info"
    } else {
        "access=off"
    };
    EnvFilter::try_new(format!("{access},{}", settings.filter))
}

/// How a filter may be written.
pub(crate) const FILTER_HELP: &str = "such as info,origin=debug";

/// Sends log lines to standard error from now on.
///
/// # Errors
/// The filter is not one.
pub(crate) fn start(settings: &LogSettings) -> Result<(), Failure> {
    let filter = filter(settings).map_err(|error| {
        Failure::with_help(Exit::Config, format!("log.filter: {error}"), FILTER_HELP)
    })?;
    let lines = fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    let started = match settings.format {
        LogFormat::Json => {
            let lines = lines
                .json()
                .flatten_event(true)
                .with_current_span(false)
                .with_span_list(false);
            registry.with(lines).try_init()
        }
        LogFormat::Text => registry.with(lines.with_target(false)).try_init(),
    };
    started.map_err(Failure::failed)
}
