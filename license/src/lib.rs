//! The licence server: checks an entitlement token and answers a player's licence request.
//!
//! ```text
//! request -> route -> token -> Entitlement -> Challenge -> Decision -> Sessions -> License -> response
//!            http     entitlement             format       policy      session     issue      format, upstream
//! ```
//!
//! Other vendors' encryptors and licence servers come by [`exchange`], which is a way of its own.
//!
//! A text becomes an [`entitlement::Entitlement`] only through [`entitlement::Verifier::verify`]. Keys come
//! from the keystore and only for what was decided; they are written once, into a buffer that is wiped after it
//! was sent.
#![forbid(unsafe_code)]

mod admin;
pub mod admission;
mod clock;
pub mod decision_log;
pub mod entitlement;
mod error;
pub mod exchange;
pub mod format;
mod gate;
pub mod http;
pub mod issue;
mod json;
mod keys;
mod outbound;
pub mod policy;
mod refusal;
mod run;
pub mod session;
pub mod store;
mod telemetry;
pub mod upstream;
mod webhook;
mod wiped;

pub use clock::{Clock, SystemClock, UnixTime};
pub use error::{Error, ErrorKind};
pub use http::service::{LicenseService, Parts};
pub use keys::KeyBook;
pub use refusal::{ChallengeFault, IssuerMismatch, Refusal};
pub use run::Server;
