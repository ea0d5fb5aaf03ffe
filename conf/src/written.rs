//! From texts to one [`Document`]: the file, then the environment on top of it, each value remembering where
//! it is written.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use serde::Deserialize as _;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::document::Document;
use crate::fault::{Fault, Place, Source};

/// The prefix of the variables that override keys: `CASTELLUM__ORIGIN__SETTLE=4s` is `origin.settle`.
const PREFIX: &str = "CASTELLUM__";

/// What was written, as far as it could be understood.
pub(crate) struct Written {
    pub(crate) document: Document,
    pub(crate) places: Places,
    pub(crate) faults: Vec<Fault>,
}

/// Where each key is written, by its dotted path.
#[derive(Clone, Default)]
pub(crate) struct Places(BTreeMap<String, Place>);

impl Places {
    /// Where `key` is written, or the nearest table around it.
    pub(crate) fn find(&self, key: &str) -> Option<Place> {
        let mut key = key;
        loop {
            if let Some(place) = self.0.get(key) {
                return Some(place.clone());
            }
            key = &key[..key.rfind('.')?];
        }
    }
}

/// Reads `file` and those of `variables` that are ours.
pub(crate) fn read(file: Source, variables: impl Iterator<Item = (String, String)>) -> Written {
    let mut read = Reading {
        tree: toml::Table::new(),
        places: Places::default(),
        faults: Vec::new(),
    };
    read.file(file);
    let mut overrides: Vec<_> = variables
        .filter(|(name, _)| name.starts_with(PREFIX))
        .collect();
    overrides.sort();
    for (name, value) in overrides {
        read.variable(name, value);
    }
    let Reading {
        tree,
        places,
        mut faults,
    } = read;
    // Each part was understood by itself; a table where another part has a value cannot be.
    let document = Document::deserialize(tree).unwrap_or_else(|error| {
        faults.push(Fault {
            key: String::new(),
            message: error.message().trim_end().to_owned(),
            help: None,
            place: None,
            unreadable: false,
        });
        Document::default()
    });
    Written {
        document,
        places,
        faults,
    }
}

struct Reading {
    tree: toml::Table,
    places: Places,
    faults: Vec<Fault>,
}

impl Reading {
    fn file(&mut self, source: Source) {
        let source = Arc::new(source);
        let (table, errors) = DeTable::parse_recoverable(&source.text);
        if errors.is_empty() {
            self.part(table, &source);
        } else {
            // After a syntax error the rest would be guessed at.
            self.faults.extend(
                errors
                    .into_iter()
                    .map(|error| fault(&error, String::new(), &source)),
            );
        }
    }

    /// `CASTELLUM__A__B=value` is read as the text `a.b = value`: TOML where it parses, else a string.
    fn variable(&mut self, name: String, value: String) {
        let keys: Vec<String> = name[PREFIX.len()..]
            .split("__")
            .map(str::to_lowercase)
            .collect();
        let path = keys
            .iter()
            .map(|key| quoted(key))
            .collect::<Vec<_>>()
            .join(".");
        let literal = if DeValue::parse(&value).is_ok() {
            value
        } else {
            quoted(&value)
        };
        let source = Arc::new(Source {
            name,
            text: format!("{path} = {literal}"),
        });
        match DeTable::parse(&source.text) {
            Ok(table) => self.part(table, &source),
            Err(error) => self.faults.push(fault(&error, keys.join("."), &source)),
        }
    }

    /// Understands one part by itself, so that each of its faults is found: what is at fault is reported and
    /// taken out, until the rest is whole.
    fn part(&mut self, mut table: Spanned<DeTable<'_>>, source: &Arc<Source>) {
        while let Err(error) = Document::deserialize(toml::Deserializer::from(table.clone())) {
            let taken = error
                .span()
                .and_then(|span| take(table.get_mut(), &span, String::new()));
            let gave_up = taken.is_none();
            self.faults
                .push(fault(&error, taken.unwrap_or_default(), source));
            if gave_up {
                return;
            }
        }
        self.remember(table.get_ref(), source, "");
        match toml::Table::deserialize(toml::Deserializer::from(table)) {
            Ok(part) => merge(&mut self.tree, part),
            Err(error) => self.faults.push(fault(&error, String::new(), source)),
        }
    }

    fn remember(&mut self, table: &DeTable<'_>, source: &Arc<Source>, prefix: &str) {
        for (key, value) in table {
            self.remember_value(value, source, join(prefix, key.get_ref()), key.span());
        }
    }

    fn remember_value(
        &mut self,
        value: &Spanned<DeValue<'_>>,
        source: &Arc<Source>,
        path: String,
        key: Range<usize>,
    ) {
        let span = match value.get_ref() {
            DeValue::Table(table) => {
                self.remember(table, source, &path);
                key
            }
            DeValue::Array(array) => {
                for (index, value) in array.iter().enumerate() {
                    self.remember_value(value, source, format!("{path}[{index}]"), value.span());
                }
                value.span()
            }
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_) => value.span(),
        };
        self.places.0.insert(
            path,
            Place {
                source: source.clone(),
                span,
            },
        );
    }
}

/// Takes the innermost entry that `span` names, by its key or within its value, and returns its path.
fn take(table: &mut DeTable<'_>, span: &Range<usize>, prefix: String) -> Option<String> {
    let named = |key: &Spanned<_>| key.span() == *span;
    let key = table.keys().find(|key| named(key)).cloned();
    if let Some(key) = key {
        table.remove(&key);
        return Some(join(&prefix, key.get_ref()));
    }
    let around = |value: &Spanned<DeValue<'_>>| {
        value.span().start <= span.start && span.end <= value.span().end
    };
    // A table's span is its header alone, so every table is looked into.
    let keys: Vec<_> = table.keys().cloned().collect();
    for key in keys {
        let path = join(&prefix, key.get_ref());
        let Some(value) = table.get_mut(&key) else {
            continue;
        };
        let covers = around(value);
        let inner = match value.get_mut() {
            DeValue::Table(inner) => take(inner, span, path.clone()),
            DeValue::Array(array) => take_item(array, span, &path),
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_) => None,
        };
        if inner.is_some() {
            return inner;
        }
        if covers {
            table.remove(&key);
            return Some(path);
        }
    }
    None
}

/// As [`take`], within the tables of an array.
fn take_item(array: &mut toml::de::DeArray<'_>, span: &Range<usize>, path: &str) -> Option<String> {
    array
        .iter_mut()
        .enumerate()
        .find_map(|(index, item)| match item.get_mut() {
            DeValue::Table(table) => take(table, span, format!("{path}[{index}]")),
            _ => None,
        })
}

/// Lays `part` over `tree`: tables are joined, anything else is replaced.
fn merge(tree: &mut toml::Table, part: toml::Table) {
    for (key, value) in part {
        match (tree.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => merge(below, above),
            (_, value) => {
                tree.insert(key, value);
            }
        }
    }
}

fn fault(error: &toml::de::Error, key: String, source: &Arc<Source>) -> Fault {
    let (message, help) = reworded(error.message().trim_end());
    let place = error.span().map(|span| Place {
        source: source.clone(),
        span,
    });
    Fault {
        key,
        message,
        help,
        place,
        unreadable: false,
    }
}

/// serde's "unknown field `x`, expected one of `a`, `b`", with a suggestion in place of the list where one is
/// near.
fn reworded(message: &str) -> (String, Option<String>) {
    let Some((unknown, known)) = ["unknown field `", "unknown variant `"]
        .iter()
        .find_map(|start| message.strip_prefix(start))
        .and_then(|rest| rest.split_once("`, expected "))
    else {
        return (plainly(message), None);
    };
    let known: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
    let noun = if message.starts_with("unknown field") {
        "key"
    } else {
        "value"
    };
    let nearest = known
        .iter()
        .map(|name| (distance(unknown, name), *name))
        .min()
        .filter(|(distance, name)| *distance <= name.len().div_ceil(3));
    let help = match nearest {
        Some((_, name)) => Some(format!("did you mean `{name}`?")),
        // serde describes what it cannot list.
        None if known.is_empty() => None,
        None => Some(format!("there are: {}", known.join(", "))),
    };
    (format!("there is no {noun} `{unknown}` here"), help)
}

/// serde's words for types, in an operator's.
fn plainly(message: &str) -> String {
    let Some((found, expected)) = message.rsplit_once("expected ") else {
        return match message.starts_with("wanted exactly 1 element") {
            true => "expected a value, found a section".to_owned(),
            false => message.to_owned(),
        };
    };
    let expected = match expected {
        "usize" | "u16" | "u32" | "u64" => "a whole number",
        name if name.starts_with("struct ") => "a section",
        other => other,
    };
    format!("{found}expected {expected}")
}

/// The number of letters to insert, delete or replace (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() {
        key.to_owned()
    } else {
        format!("{prefix}.{key}")
    }
}

/// A TOML basic string (TOML 1.0, "String").
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_apart() {
        assert_eq!(distance("settle", "settle"), 0);
        assert_eq!(distance("setle", "settle"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn suggests_only_what_is_near() {
        let (message, help) = reworded("unknown field `setle`, expected one of `hold`, `settle`");
        assert_eq!(message, "there is no key `setle` here");
        assert_eq!(help.unwrap(), "did you mean `settle`?");
        let (_, help) = reworded("unknown variant `abcdef`, expected `json` or `text`");
        assert_eq!(help.unwrap(), "there are: json, text");
        let (_, help) = reworded("unknown variant `abcdef`, expected a word");
        assert_eq!(help, None);
        assert_eq!(reworded("invalid type"), ("invalid type".to_owned(), None));
    }

    fn with_environment(text: &str, variables: &[(&str, &str)]) -> Written {
        let source = Source {
            name: "file".to_owned(),
            text: text.to_owned(),
        };
        let variables = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        read(source, variables)
    }

    #[test]
    fn the_environment_lies_over_the_file() {
        let written = with_environment(
            "[origin]\nworkers = 2\nhold = \"1h\"\n[packs.cbcs]\nscheme = \"cbcs\"\n",
            &[
                ("CASTELLUM__ORIGIN__WORKERS", "3"),
                ("CASTELLUM__ORIGIN__TLS__LISTEN", "[::1]:443"),
                ("CASTELLUM__ORIGIN__ADMIN__HOSTS", "[\"a\", \"b\"]"),
                ("CASTELLUM__LOG__FILTER", "info"),
                ("CASTELLUM__PACKS__CBCS__WRITER", "1"),
                ("CASTELLUMX", "no"),
                ("HOME", "/"),
            ],
        );
        assert!(written.faults.is_empty(), "{:?}", written.faults);
        let Document {
            origin, log, packs, ..
        } = written.document;
        assert_eq!(origin.workers, 3);
        assert_eq!(origin.hold, crate::units::Span::seconds(3600));
        assert_eq!(origin.tls.listen.to_string(), "[::1]:443");
        assert_eq!(origin.admin.hosts, ["a", "b"]);
        assert_eq!(log.filter, "info");
        assert_eq!(
            (packs["cbcs"].scheme, packs["cbcs"].writer),
            (Some(crate::PackScheme::Cbcs), Some(1))
        );
    }

    #[test]
    fn a_fault_names_its_variable() {
        let written = with_environment(
            "",
            &[("CASTELLUM__ORIGIN__SETLE", "2s"), ("CASTELLUM__", "x")],
        );
        let said: Vec<String> = written.faults.iter().map(ToString::to_string).collect();
        assert!(
            said[1].starts_with("CASTELLUM__ORIGIN__SETLE:1:10: origin.setle: there is no key"),
            "{said:?}"
        );
        assert_eq!(said.len(), 2);
    }

    #[test]
    fn a_value_over_a_section_is_a_fault() {
        let written = with_environment("[origin]\nworkers = 2\n", &[("CASTELLUM__ORIGIN", "2")]);
        assert_eq!(written.faults.len(), 1, "{:?}", written.faults);
    }
}
