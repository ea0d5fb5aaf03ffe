//! The configuration: what is written ([`Document`]), what it means ([`Settings`]), and what is wrong with it
//! ([`Faults`]).
//!
//! [`load`] is the only reader of settings files and of the environment. It reports every fault at once, each
//! with its key path and, where there is one, its line and column.
#![forbid(unsafe_code)]

mod secret;
mod settings;
mod user;

pub use secret::SecretSource;
pub use settings::*;
pub use user::User;
