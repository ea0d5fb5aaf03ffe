//! Black-box viewers that load a Castellum and check what it serves.
//!
//! Viewers do what players do (manifest, init segments, licence, segments at the pace of film), over one protocol and
//! for a bounded time; when they come does not depend on how they are served. Of the protected segments a sample is
//! decrypted and compared, byte for byte, with the same samples under the title's clear policy. Nothing here is shared
//! with what it tests: the manifest reader, the box reader and the decryption ([`reader`]) are written a second time, from
//! the standards.
//!
//! ```text
//! scenario (arrivals, choice) -+
//!                              +-> load -> viewer, player (pure) -> client -> recorder -> report
//! target ----------------------+             |                         |
//!                                         manifest            verify, decrypt, mp4
//! ```
//!
//! [`saturate`] is for measuring instead: it asks for given URLs as fast as it can and looks at no body;
//! [`comparison`] sets two sides against each other that were measured in turns, and [`bench`] an origin against nginx,
//! goal by goal.
#![forbid(unsafe_code)]

pub mod bench;
pub mod client;
pub mod comparison;
pub mod host;
pub mod latency;
pub mod load;
pub mod open_files;
pub mod player;
pub mod port;
pub mod progress;
pub mod random;
pub mod recorder;
pub mod report;
pub mod saturate;
pub mod scenario;
pub mod target;
pub mod token;
pub mod verify;
pub mod viewer;

pub use reader::{decrypt, manifest, mp4};
