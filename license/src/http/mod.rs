//! The licence server over HTTP.
//!
//! [`route`] reads URLs, [`service`] walks a request through the pipeline, [`rescue`] turns refusals into
//! responses, and `stack` puts around them what every response needs.

mod bearer;
mod challenge;
mod release;
pub mod rescue;
pub mod route;
pub mod service;
mod stack;
#[cfg(test)]
mod tests;
