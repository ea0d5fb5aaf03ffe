//! What a player reads of what is served: manifests, the boxes of protected CMAF, encrypted samples.
//!
//! It is written from the standards, apart from the packager, the licence server and their types, and depends on none of
//! them: what it judges it must not share a mistake with. Load tests play by it, and `castellum audit` judges by it.
//!
//! - [`manifest`]: an MPD or playlists as the choices of a viewer, and below that [`xml`] and attribute lists as they stand.
//! - [`mp4`]: `sinf`, `tenc`, `pssh`, and where the samples of a fragment lie.
//! - [`decrypt`](mod@decrypt): a sample, with a key that a licence gave.
//!
//! Pure: bytes and values in, values out.
#![forbid(unsafe_code)]

pub mod decrypt;
pub mod manifest;
pub mod mp4;
pub mod xml;
