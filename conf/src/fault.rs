use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// Everything that is wrong with a configuration, in the order in which it is written.
#[derive(Debug)]
pub struct Faults(pub(crate) Vec<Fault>);

/// One thing that is wrong.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The dotted key path; empty where no key is at fault.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// Where it is written; none for a default.
    pub place: Option<Place>,
    /// Whether the file could not be read at all, rather than its content being wrong.
    pub unreadable: bool,
}

/// A place in a text that was read.
#[derive(Clone, Debug)]
pub struct Place {
    /// The text.
    pub source: Arc<Source>,
    /// The bytes of it that are meant.
    pub span: Range<usize>,
}

/// A text that was read: a file, or the value of an environment variable.
#[derive(Debug)]
pub struct Source {
    /// The file's path or the variable's name.
    pub name: String,
    /// The text.
    pub text: String,
}

impl Fault {
    /// What is wrong with a key's value.
    pub fn of(key: impl Into<String>, message: impl fmt::Display) -> Self {
        Self {
            key: key.into(),
            message: message.to_string(),
            help: None,
            place: None,
            unreadable: false,
        }
    }
}

impl Place {
    /// Line and column, from 1; columns count characters.
    pub fn line_column(&self) -> (usize, usize) {
        let mut at = self.span.start.min(self.source.text.len());
        while !self.source.text.is_char_boundary(at) {
            at -= 1;
        }
        let before = &self.source.text[..at];
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (line, before[start..].chars().count() + 1)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, column) = self.line_column();
        write!(f, "{}:{line}:{column}", self.source.name)
    }
}

impl Faults {
    /// The faults.
    pub fn iter(&self) -> std::slice::Iter<'_, Fault> {
        self.0.iter()
    }

    /// Whether the file could not be read at all.
    pub fn unreadable(&self) -> bool {
        self.0.iter().any(|fault| fault.unreadable)
    }

    pub(crate) fn cannot_read(path: &Path, error: &std::io::Error) -> Self {
        Self(vec![Fault {
            key: String::new(),
            message: format!("cannot read {}: {error}", path.display()),
            help: None,
            place: None,
            unreadable: true,
        }])
    }
}

impl<'a> IntoIterator for &'a Faults {
    type Item = &'a Fault;
    type IntoIter = std::slice::Iter<'a, Fault>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)?;
        match &self.help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            write!(f, "{newline}{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}
