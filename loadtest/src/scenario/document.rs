//! A scenario as it is written. Nothing is required here, so that all that is wrong is found at once: what must be
//! there is [`super::check`]'s to say.

use serde::Deserialize;
use serde_path_to_error::Segment;

use super::{ConnectionRule, Fault, Faults};
use crate::client::Protocol;
use crate::player::Format;
use crate::viewer::Start;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    pub(super) name: Option<String>,
    pub(super) description: Option<String>,
    pub(super) protocol: Option<Protocol>,
    pub(super) tls: Option<bool>,
    pub(super) seconds: Option<f64>,
    #[serde(default)]
    pub(super) groups: Vec<Group>,
    #[serde(default)]
    pub(super) thresholds: Thresholds,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Group {
    pub(super) name: Option<String>,
    pub(super) at_most: Option<u32>,
    pub(super) connection: Option<ConnectionRule>,
    pub(super) verify: Option<f64>,
    #[serde(default)]
    pub(super) arrivals: Arrivals,
    #[serde(default)]
    pub(super) titles: Titles,
    #[serde(default)]
    pub(super) behaviour: Behaviour,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Arrivals {
    pub(super) shape: Option<Shape>,
    pub(super) rate: Option<f64>,
    pub(super) from: Option<f64>,
    pub(super) to: Option<f64>,
    pub(super) count: Option<u32>,
    pub(super) within: Option<f64>,
    pub(super) spacing: Option<Spacing>,
    pub(super) seed: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Shape {
    Constant,
    Ramp,
    Burst,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Spacing {
    Fixed,
    Poisson,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Titles {
    pub(super) choice: Option<Choice>,
    pub(super) exponent: Option<f64>,
    pub(super) seed: Option<u32>,
    #[serde(default)]
    pub(super) policies: Vec<String>,
    #[serde(default)]
    pub(super) formats: Vec<Format>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Choice {
    RoundRobin,
    Uniform,
    Zipf,
    First,
    Once,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Behaviour {
    pub(super) kind: Option<Kind>,
    pub(super) session_seconds: Option<f64>,
    pub(super) start_rung: Option<u8>,
    pub(super) buffer_seconds: Option<f64>,
    pub(super) pace: Option<f64>,
    pub(super) seek_every_seconds: Option<f64>,
    pub(super) start: Option<Start>,
    pub(super) periods: Option<u32>,
    pub(super) period_seconds: Option<f64>,
    pub(super) tokens: Option<Tokens>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Tokens {
    Shared,
    Own,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Watch,
    Hurry,
    Licence,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Thresholds {
    pub(super) max_error_share: Option<f64>,
    #[serde(default)]
    pub(super) max_shed_share: MaxShedShare,
    #[serde(default)]
    pub(super) max_p99_ms: MaxP99Ms,
    pub(super) min_mb_per_s: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MaxShedShare {
    pub(super) licence: Option<f64>,
    pub(super) renewal: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MaxP99Ms {
    pub(super) connect: Option<f64>,
    pub(super) manifest: Option<f64>,
    pub(super) playlist: Option<f64>,
    pub(super) init: Option<f64>,
    pub(super) segment: Option<f64>,
    pub(super) licence: Option<f64>,
    pub(super) renewal: Option<f64>,
}

/// Reads what can be understood, and says what cannot.
///
/// # Errors
/// Where the text is no TOML, so that nothing can be.
pub(super) fn read(text: &str) -> Result<(Document, Vec<Fault>), Faults> {
    let mut table: toml::Table = text
        .parse()
        .map_err(|error: toml::de::Error| Faults::of_file(error))?;
    let mut faults = Vec::new();
    loop {
        let written = toml::Value::Table(table.clone());
        let error = match serde_path_to_error::deserialize(written) {
            Ok(document) => return Ok((document, faults)),
            Err(error) => error,
        };
        faults.push(Fault {
            key: error.path().to_string(),
            message: error.inner().message().trim_end().to_owned(),
        });
        // What is at fault is taken out, so that the next fault is found. Nothing is taken out of a list, where it
        // would change the numbers of what comes after it: the list goes as a whole.
        let path: Vec<&Segment> = error.path().iter().collect();
        if !remove(&mut table, &path) {
            return Ok((Document::default(), faults));
        }
    }
}

fn remove(table: &mut toml::Table, path: &[&Segment]) -> bool {
    let Some((Segment::Map { key }, rest)) = path.split_first() else {
        return false;
    };
    let removed = match (table.get_mut(key), rest) {
        (Some(toml::Value::Table(inner)), [_, ..]) => remove(inner, rest),
        (Some(toml::Value::Array(list)), [Segment::Seq { index }, rest @ ..]) => {
            match list.get_mut(*index) {
                Some(toml::Value::Table(inner)) => remove(inner, rest),
                Some(_) | None => false,
            }
        }
        (Some(_), _) | (None, _) => false,
    };
    removed || table.remove(key).is_some()
}
