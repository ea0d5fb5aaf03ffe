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
use std::{env, fs, io, thread};

pub use document::Document;
pub use fault::{Fault, Faults, Place, Source};
pub use secret::SecretSource;
pub use settings::*;
pub use units::Span;
pub use user::User;

/// The file that is read where none is named, if it exists.
pub const INSTALLED: &str = "/etc/castellum/castellum.toml";

/// The installed default, with every key and its default. Where there is no file at all, this is the file.
pub const DEFAULT: &str = include_str!("../castellum.toml");

/// Reads `file`, and what the environment overrides. Without one it is [`INSTALLED`], or where that does not exist
/// the built-in [`DEFAULT`].
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

/// As [`load`], and then what `more` finds wrong with sound settings, each fault placed where its key is written.
///
/// # Errors
/// Everything that is wrong, at once.
pub fn load_and(
    file: Option<&Path>,
    more: impl FnOnce(&Settings) -> Vec<Fault>,
) -> Result<Settings, Faults> {
    let (written, host) = read(file)?;
    let places = written.places.clone();
    let settings = check::check(written, &host).map_err(in_order)?;
    let mut faults = more(&settings);
    for fault in &mut faults {
        fault.place = places.find(&fault.key);
    }
    match faults.is_empty() {
        true => Ok(settings),
        false => Err(in_order(faults)),
    }
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
    let source = source(file, Path::new(INSTALLED))?;
    let variables = env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let host = check::Host {
        credentials: env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
        processors: thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
    };
    Ok((written::read(source, variables), host))
}

/// The text of `named`, else of `installed` if it exists, else the built-in one.
fn source(named: Option<&Path>, installed: &Path) -> Result<Source, Faults> {
    let path = named.unwrap_or(installed);
    match fs::read_to_string(path) {
        Ok(text) => Ok(Source {
            name: path.display().to_string(),
            text,
        }),
        Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => Ok(Source {
            name: "built-in castellum.toml".to_owned(),
            text: DEFAULT.to_owned(),
        }),
        Err(error) => Err(Faults::cannot_read(path, &error)),
    }
}

/// As a reader meets them: by source and place, then those of defaults.
fn in_order(mut faults: Vec<Fault>) -> Faults {
    faults.sort_by_key(|fault| match &fault.place {
        Some(place) => (false, place.source.name.clone(), place.span.start),
        None => (true, String::new(), 0),
    });
    Faults(faults)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_file_is_read_then_the_installed_one_then_the_built_in_one() {
        let folder = tempfile::tempdir().unwrap();
        let named = folder.path().join("named.toml");
        let installed = folder.path().join("installed.toml");
        fs::write(&named, "# named").unwrap();
        assert_eq!(source(None, &installed).unwrap().text, DEFAULT);
        fs::write(&installed, "# installed").unwrap();
        assert_eq!(source(None, &installed).unwrap().text, "# installed");
        assert_eq!(source(Some(&named), &installed).unwrap().text, "# named");
        fs::remove_file(&named).unwrap();
        assert!(source(Some(&named), &installed).unwrap_err().unreadable());
        // What is there and cannot be read must not be passed over in silence.
        fs::remove_file(&installed).unwrap();
        fs::create_dir(&installed).unwrap();
        assert!(source(None, &installed).unwrap_err().unreadable());
    }
}
