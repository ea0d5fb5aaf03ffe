//! The origin: a just-in-time packager. Mezzanine files in, encrypted HLS and DASH out, made for each request
//! from mapped storage.
//!
//! A request walks the modules in this order:
//!
//! ```text
//! http      path -> route -> entity                 statuses, conditions and ranges are origin-front's
//! packages  asset + pack -> package                 current, or superseded and still held
//! catalog   folder -> asset -> open title           index files, identities, quarantine
//! keys      contexts -> leased keys                 from the keystore, for a term, until it seals
//! delivery  package + number -> layout -> bytes     planned once, made in pooled buffers
//! storage   ranges of a source                      mapped if hot, read if cold, checked before they leave
//! ```
//!
//! [`run::start`] puts them together. `control` is the way in for operators: by `verbs` to `ingest` and `export`.
//! `admin` lets them look.

pub mod admin;
pub mod catalog;
pub mod control;
mod delivery;
pub mod error;
mod export;
pub mod http;
mod ingest;
pub mod keys;
pub mod package;
pub mod packages;
pub mod report;
pub mod run;
pub mod storage;
mod telemetry;
mod verbs;
