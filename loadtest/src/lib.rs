//! Black-box viewers that load a Castellum and check what it serves.
//!
//! Viewers do what players do (manifest, init segments, licence, segments), over one protocol and
//! for a bounded time. Of the protected segments a sample is decrypted and compared, byte for byte,
//! with the same samples under the title's clear policy. A viewer does not wait for its own clock: it asks for
//! the next segments when it has the last ones, so a run finds what a server can do, not what a film needs. Nothing here is shared with what it tests:
//! the manifest reader, the box reader and the decryption are written a second time, from the standards.
//!
//! ```text
//! target -> scenario -> player (pure) -> client -> verify -> report
//!                          |                         |
//!                       manifest                decrypt, mp4
//! ```
//!
//! [`saturate`] is for measuring instead: it asks for given URLs as fast as it can and looks at no body. The command
//! line does not offer it yet. [`bench`] measures an origin beside nginx with it, against the goals.
#![forbid(unsafe_code)]

pub mod bench;
pub mod client;
pub mod decrypt;
pub mod host;
pub mod latency;
pub mod manifest;
pub mod mp4;
pub mod player;
pub mod report;
pub mod saturate;
pub mod scenario;
pub mod target;
pub mod verify;
