//! The configuration: what is written, what it means ([`Settings`]), and what is wrong with it ([`Faults`]).
//!
//! [`load`] is the only reader of settings files and of the environment. It reports every fault at once, each
//! with its key path and, where there is one, its line and column. Secrets are named, never held: see
//! [`SecretSource`].
#![forbid(unsafe_code)]

mod address;
mod check;
mod document;
mod fault;
mod secret;
mod settings;
mod units;
mod user;
mod written;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::{env, fs, thread};

pub use document::Document;
pub use fault::{Fault, Faults, Place, Source};
pub use secret::SecretSource;
pub use settings::*;
pub use units::Span;
pub use user::User;

/// The installed default, with every key and its default. Where no file is named, this is the file.
pub const DEFAULT: &str = include_str!("../castellum.toml");

/// Reads `file`, or the built-in default without one, and what the environment overrides.
///
/// A variable `CASTELLUM__ORIGIN__TLS__LISTEN` is the key `origin.tls.listen`; its value is TOML where it
/// parses as that, else a string.
///
/// # Errors
/// Everything that is wrong, at once.
pub fn load(file: Option<&Path>) -> Result<Settings, Faults> {
    let (written, host) = read(file)?;
    check::check(written, &host).map_err(in_order)
}

/// What is in force: the file, the environment on top of it and defaults below, as a document.
///
/// # Errors
/// As for [`load`].
pub fn effective(file: Option<&Path>) -> Result<Document, Faults> {
    let (written, host) = read(file)?;
    let document = written.document.clone();
    check::check(written, &host).map_err(in_order)?;
    Ok(document)
}

/// The document as TOML.
pub fn to_toml(document: &Document) -> String {
    toml::to_string(document).expect("every key is a string and every table comes after its values")
}

/// Makes settings of a text alone, as if it were the only file and the environment empty.
///
/// # Errors
/// As for [`load`].
pub fn parse(name: &str, text: &str) -> Result<Settings, Faults> {
    let source = Source {
        name: name.to_owned(),
        text: text.to_owned(),
    };
    let host = check::Host {
        credentials: None,
        processors: NonZeroUsize::MIN,
    };
    check::check(written::read(source, std::iter::empty()), &host).map_err(in_order)
}

fn read(file: Option<&Path>) -> Result<(written::Written, check::Host), Faults> {
    let source = match file {
        Some(path) => Source {
            name: path.display().to_string(),
            text: fs::read_to_string(path).map_err(|error| Faults::cannot_read(path, &error))?,
        },
        None => Source {
            name: "built-in castellum.toml".to_owned(),
            text: DEFAULT.to_owned(),
        },
    };
    let variables = env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let host = check::Host {
        credentials: env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
        processors: thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
    };
    Ok((written::read(source, variables), host))
}

/// As a reader meets them: by source and place, then those of defaults.
fn in_order(mut faults: Vec<Fault>) -> Faults {
    faults.sort_by_key(|fault| match &fault.place {
        Some(place) => (false, place.source.name.clone(), place.span.start),
        None => (true, String::new(), 0),
    });
    Faults(faults)
}
