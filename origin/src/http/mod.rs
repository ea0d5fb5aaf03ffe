//! The public listeners: from a request to a package, a plan and a response.

mod entity;
mod rescue;
pub mod route;
mod service;

pub use service::{OriginService, Views};
