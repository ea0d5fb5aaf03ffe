//! Rules for single values, which every section uses.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Check;
use crate::SecretSource;
use crate::fault::Fault;
use crate::units::{Size, Span};

/// The writer numbers that this binary knows, of packs and of policies.
const WRITERS: std::ops::RangeInclusive<u16> = 1..=1;

impl Check<'_> {
    pub(super) fn secret(
        &mut self,
        table: &str,
        name: &str,
        file: Option<PathBuf>,
        credential: Option<String>,
    ) -> Option<SecretSource> {
        let key = format!("{table}.{name}_credential");
        match (file, credential) {
            (Some(file), Some(_)) => {
                let message = format!("{name}_file is set as well");
                self.fault(&key, &message, "leave one of them out");
                Some(SecretSource::file(file))
            }
            (Some(file), None) => Some(SecretSource::file(file)),
            (None, Some(name)) if name.is_empty() || name.contains('/') => {
                self.fault(
                    &key,
                    "is not the name of a credential",
                    "name it as LoadCredential= does",
                );
                None
            }
            (None, Some(name)) => match &self.host.credentials {
                Some(folder) => Some(SecretSource::credential(folder, &name)),
                // `check-config` runs outside the unit, where the folder is not set; reading it says so then.
                None => Some(SecretSource::credential(
                    Path::new("/run/credentials"),
                    &name,
                )),
            },
            (None, None) => None,
        }
    }

    pub(super) fn workers(&mut self, key: &str, count: usize) -> NonZeroUsize {
        if count > 1024 {
            self.fault(key, "is above 1024", "0 takes one for each processor");
        }
        NonZeroUsize::new(count).unwrap_or(self.host.processors)
    }

    pub(super) fn writer(&mut self, table: &str, writer: Option<u16>) -> u16 {
        let writer = writer.unwrap_or(1);
        if !WRITERS.contains(&writer) {
            let message = format!(
                "this version knows the writers {} to {} only",
                WRITERS.start(),
                WRITERS.end()
            );
            self.fault(
                &format!("{table}.writer"),
                &message,
                "a newer castellum may know it",
            );
        }
        writer
    }

    /// The characters that need no escaping in a URL, a file name or a claim.
    pub(super) fn name(&mut self, key: &str, name: &str) {
        let begins = name
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_alphanumeric());
        let goes_on = name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if !begins || !goes_on || name.len() > 128 {
            self.fault(
                key,
                &format!("`{name}` cannot be a name"),
                "begin with a letter or digit and go on with those, '.', '_' and '-', 128 at most",
            );
        }
    }

    pub(super) fn absolute(&mut self, key: &str, path: PathBuf) -> PathBuf {
        if !path.is_absolute() {
            self.fault(key, "is not an absolute path", "begin it with /");
        }
        path
    }

    pub(super) fn within(&mut self, key: &str, span: Span, least: Span, most: Span) {
        if !(least..=most).contains(&span) {
            self.fault(
                key,
                &format!("{span} is not within {least} to {most}"),
                "choose one between these",
            );
        }
    }

    pub(super) fn positive(&mut self, key: &str, span: Span) -> Duration {
        self.within(
            key,
            span,
            Span(Duration::from_millis(100)),
            Span::seconds(86_400),
        );
        span.0
    }

    pub(super) fn bytes(&mut self, key: &str, size: Size, least: Size, most: Size) -> usize {
        if !(least..=most).contains(&size) {
            self.fault(
                key,
                &format!("{size} is not within {least} to {most}"),
                "choose one between these",
            );
        }
        usize::try_from(size.0).unwrap_or(usize::MAX)
    }

    pub(super) fn at_least_one(&mut self, key: &str, count: usize) -> usize {
        if count == 0 {
            self.fault(
                key,
                "is 0, which would refuse everyone",
                "set it to 1 or more",
            );
        }
        count
    }

    pub(super) fn streams(&mut self, key: &str, count: u32) -> u32 {
        if !(1..=10_000).contains(&count) {
            self.fault(
                key,
                &format!("{count} is not within 1 to 10000"),
                "set it to 128",
            );
        }
        count
    }

    pub(super) fn required<T>(&mut self, table: &str, name: &str, value: Option<T>) -> Option<T> {
        let key = format!("{table}.{name}");
        // What was written but could not be read has its fault already.
        if value.is_none() && !self.faults.iter().any(|fault| fault.key.starts_with(&key)) {
            self.fault(&key, "is required", &format!("write {name} = ..."));
        }
        value
    }

    pub(super) fn fault(&mut self, key: &str, message: &str, help: &str) {
        self.faults.push(Fault {
            key: key.to_owned(),
            message: message.to_owned(),
            help: Some(help.to_owned()),
            place: self.places.find(key),
            unreadable: false,
        });
    }
}
