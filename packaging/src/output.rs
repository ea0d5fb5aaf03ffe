//! What a verb says on standard output: one JSON document, or text.

use std::io::{self, Write as _};

use serde::Serialize;

use crate::failure::Failure;

/// The form of a verb's answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
}

/// Every JSON answer has `"schema": 1` beside its own members.
#[derive(Serialize)]
pub(crate) struct Versioned<'a, T> {
    schema: u32,
    #[serde(flatten)]
    answer: &'a T,
}

impl<'a, T> Versioned<'a, T> {
    pub(crate) fn new(answer: &'a T) -> Self {
        Self { schema: 1, answer }
    }
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Writes `answer` as one line of JSON, or what `text` makes of it. `T` serialises to an object.
    pub(crate) fn say<T: Serialize>(
        self,
        answer: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        let mut out = if self.json {
            serde_json::to_string(&Versioned::new(answer)).map_err(Failure::failed)?
        } else {
            text(answer)
        };
        if !out.ends_with('\n') {
            out.push('\n');
        }
        write(out.as_bytes())
    }
}

/// Writes bytes as they are. A reader that has heard enough is no failure.
pub(crate) fn write(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::failed(format!(
            "cannot write to standard output: {error}"
        ))),
        Ok(()) | Err(_) => Ok(()),
    }
}
