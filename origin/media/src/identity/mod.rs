//! Who is who: names that are digests of exactly what decides the bytes they name.

mod media;
mod source;

pub(crate) use media::generation;
pub use media::{IdError, MediaId, MediaIds, Revision};
pub use source::{PROBE_BYTES, PROBES, SourceIdentity, probe_ranges};
