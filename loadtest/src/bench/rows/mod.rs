//! How each kind of row is measured: one file each.

mod catalogue;
mod first_byte;
mod licences;
mod limit;
mod made;
mod memory;
mod pressure;
mod saturated;

use super::Failure;
use super::goals::{Against, Goal, Kind};
use super::series::Series;
use super::stage::Stage;

/// What came of a row.
#[derive(Debug, Default)]
pub(super) struct Measured {
    /// Our figures, round by round.
    pub(super) ours: Series,
    /// Those of others, in the same rounds.
    pub(super) beside: Vec<(Against, Series)>,
    /// What a reader should know beside.
    pub(super) note: Option<String>,
}

impl From<Series> for Measured {
    fn from(ours: Series) -> Self {
        Self {
            ours,
            ..Self::default()
        }
    }
}

/// Measures a row.
///
/// # Errors
/// [`Failure::Absent`] where something is not there that it needs.
pub(super) fn measure(goal: &Goal, stage: &mut Stage) -> Result<Measured, Failure> {
    match goal.kind {
        Kind::Saturated { ours, beside } => saturated::measure(goal.unit, &ours, beside, stage),
        Kind::Licences(licences) => licences::measure(&licences, stage),
        Kind::Made(files) => made::measure(&files, stage),
        Kind::FirstByte { policy } => first_byte::of_segments(policy, stage),
        Kind::Unseen { indexed } => first_byte::of_an_unseen_title(indexed, stage),
        Kind::Memory { policy } => memory::measure(policy, stage),
        Kind::HotBesideCold => pressure::hot_beside_cold(stage),
        Kind::ColdWithinLimit => pressure::cold_within_limit(stage),
        Kind::HotWithinLimit => pressure::hot_within_limit(stage),
        Kind::StartTime => catalogue::start_time(stage),
        Kind::StartMemory => catalogue::memory(stage),
    }
}
