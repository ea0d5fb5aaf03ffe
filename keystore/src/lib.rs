//! Makes, wraps, leases, audits and destroys content keys.
#![deny(unsafe_code)]

pub mod audit;
pub mod capability;
mod clock;
mod error;
mod hardening;
pub mod local;
pub mod run;
mod seal;
pub mod server;
pub mod store;
pub mod testing;
pub mod unlock;

pub use clock::{Clock, SystemClock};
pub use error::{Error, ErrorKind};
pub use hardening::harden_process;
pub use local::Local;
pub use run::run;
