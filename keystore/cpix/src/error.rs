use std::fmt;

/// The most faults that one error lists. A document that is wrong in more places is wrong in the first ones too.
const MAX_FAULTS: usize = 20;

/// What is wrong with a document, a request or an answer, and where.
///
/// Neither [`Display`](fmt::Display) nor [`Debug`] shows the text of an element, so no key gets into a log by way of
/// an error.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    faults: Vec<Fault>,
}

/// Who is at fault, and so what can be done. The HTTP status that suits a server's answer stands beside each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Not XML of the kind that is read here, or not a CPIX document (400).
    Malformed,
    /// More bytes, depth, elements or text than is read (413).
    TooLarge,
    /// A CPIX document that breaks the rules of SPEKE's encryption contract (422).
    Invalid,
    /// A version, system, scheme or algorithm that is not served here (422; SPEKE describes it in the body).
    Unsupported,
    /// Keys would leave for someone who is not enrolled, or in the clear where that is not switched on (403).
    Denied,
    /// The answer of a key server is not what was asked for, or the caller brought other keys than a request
    /// names (502 and 500).
    Mismatch,
    /// Encrypted keys do not open. One reason for every cause, so that nobody learns which (502).
    Unopened,
    /// No random bytes (503).
    Unavailable,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where; nothing for a fault that is in no document.
    pub place: Option<Place>,
    /// What, and what to do about it.
    pub reason: String,
}

/// A place in a document: `/CPIX/ContentKeyList[1]/ContentKey[2]/@kid`, line and column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Local names of the elements, each with its number among siblings of the name, and the attribute, as in an
    /// XPath without prefixes.
    pub path: String,
    /// Line and column of the tag, or of the attribute's name.
    pub position: Position,
}

/// A place in a text; both count from 1, columns in characters. `0:0` is in no text: a tree that was built here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: u32,
    /// The column.
    pub column: u32,
}

impl Error {
    /// An error that is in no document.
    pub(crate) fn new(kind: ErrorKind, reason: impl Into<String>) -> Self {
        Self::at(kind, None, reason)
    }

    pub(crate) fn at(kind: ErrorKind, place: Option<Place>, reason: impl Into<String>) -> Self {
        Self {
            kind,
            faults: vec![Fault {
                place,
                reason: reason.into(),
            }],
        }
    }

    /// Who is at fault.
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Everything that was found, at least one and at most 20, in the order in which it was found.
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        f.write_str(&self.reason)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, position } = self;
        write!(
            f,
            "{path} (line {}, column {})",
            position.line, position.column
        )
    }
}

/// Collects faults, so that all are reported at once.
#[derive(Default)]
pub(crate) struct Faults(Vec<Fault>);

impl Faults {
    pub(crate) fn add(&mut self, place: Place, reason: impl Into<String>) {
        if self.0.len() < MAX_FAULTS {
            self.0.push(Fault {
                place: Some(place),
                reason: reason.into(),
            });
        }
    }

    /// A fault that is at no one place.
    pub(crate) fn note(&mut self, reason: impl Into<String>) {
        if self.0.len() < MAX_FAULTS {
            self.0.push(Fault {
                place: None,
                reason: reason.into(),
            });
        }
    }

    /// An error if anything was found.
    pub(crate) fn check(self, kind: ErrorKind) -> Result<(), Error> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Error {
                kind,
                faults: self.0,
            })
        }
    }
}
