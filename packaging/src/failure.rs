//! How a verb fails: an exit code that scripts can tell apart, and words for people.

use std::fmt;
use std::process::ExitCode;

use keystore_client::{Error as KeystoreError, admin::AdminError};
use miette::{Diagnostic, LabeledSpan, NamedSource, Report};
use origin::control::{ClientError, RefusedKind};

/// Documented in `castellum --help`; scripts depend on the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Exit {
    Failed = 1,
    Usage = 2,
    Config = 3,
    Unreachable = 4,
    Sealed = 5,
    NotAllowed = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a verb did not do what was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    reports: Vec<Report>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self {
            exit,
            reports: vec![Report::msg(message.to_string())],
        }
    }

    pub(crate) fn with_help(
        exit: Exit,
        message: impl fmt::Display,
        help: impl fmt::Display,
    ) -> Self {
        let (message, help) = (message.to_string(), help.to_string());
        Self {
            exit,
            reports: vec![miette::miette!(help = help, "{message}")],
        }
    }

    pub(crate) fn failed(message: impl fmt::Display) -> Self {
        Self::new(Exit::Failed, message)
    }

    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Writes to standard error: one line of JSON, or each report as miette draws it.
    pub(crate) fn report(&self, json: bool) {
        if json {
            let messages: Vec<String> = self.reports.iter().map(Report::to_string).collect();
            eprintln!(
                "{}",
                serde_json::json!({ "schema": 1, "error": self.exit, "messages": messages })
            );
        } else {
            for report in &self.reports {
                eprintln!("{report:?}");
            }
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, report) in self.reports.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            write!(f, "{newline}{report}")?;
        }
        Ok(())
    }
}

impl From<conf::Faults> for Failure {
    fn from(faults: conf::Faults) -> Self {
        let exit = Exit::Config;
        let reports = faults
            .iter()
            .map(|fault| Report::new(Drawn::from(fault)))
            .collect();
        Self { exit, reports }
    }
}

impl From<KeystoreError> for Failure {
    fn from(error: KeystoreError) -> Self {
        let exit = match &error {
            KeystoreError::Sealed => Exit::Sealed,
            KeystoreError::Denied(_) => Exit::NotAllowed,
            KeystoreError::Malformed(_) => Exit::Failed,
            KeystoreError::AuditUnavailable(_) | KeystoreError::Unavailable(_) => Exit::Unreachable,
        };
        Self::new(exit, error)
    }
}

impl From<AdminError> for Failure {
    fn from(error: AdminError) -> Self {
        match error {
            AdminError::Keystore(error) => error.into(),
            AdminError::WrongPassphrase
            | AdminError::WrongShare(_)
            | AdminError::NotFound(_)
            | AdminError::Refused(_) => Self::failed(error),
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match &error {
            ClientError::Unreachable { path, .. } => Self::with_help(
                Exit::Unreachable,
                &error,
                format!(
                    "`castellum serve` listens on {}; name its configuration with -c",
                    path.display()
                ),
            ),
            ClientError::Broken(_) => Self::new(Exit::Unreachable, error),
            ClientError::Refused(refused) => {
                let exit = match refused.kind {
                    RefusedKind::Malformed | RefusedKind::Unsupported => Exit::Failed,
                    RefusedKind::Denied => Exit::NotAllowed,
                    RefusedKind::Sealed => Exit::Sealed,
                    RefusedKind::Unavailable => Exit::Unreachable,
                };
                Self::new(exit, error)
            }
        }
    }
}

/// A fault of the configuration, drawn with the line that it is on.
#[derive(Debug)]
struct Drawn {
    message: String,
    help: Option<String>,
    source: Option<NamedSource<String>>,
    label: Option<LabeledSpan>,
}

impl From<&conf::Fault> for Drawn {
    fn from(fault: &conf::Fault) -> Self {
        let place = fault.place.as_ref();
        Self {
            message: match fault.key.as_str() {
                "" => fault.message.clone(),
                key => format!("{key}: {}", fault.message),
            },
            help: fault.help.clone(),
            source: place
                .map(|place| NamedSource::new(&place.source.name, place.source.text.clone())),
            label: place.map(|place| LabeledSpan::new_with_span(None, place.span.clone())),
        }
    }
}

impl fmt::Display for Drawn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Drawn {}

impl Diagnostic for Drawn {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help
            .as_ref()
            .map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        self.source
            .as_ref()
            .map(|source| source as &dyn miette::SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        self.label
            .clone()
            .map(|label| Box::new(std::iter::once(label)) as Box<_>)
    }
}
