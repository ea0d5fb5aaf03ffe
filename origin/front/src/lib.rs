//! The front: sockets, TLS, HTTP/1.1, HTTP/2 and HTTP/3, and everything that HTTP asks of any resource.
//!
//! ```text
//! listener -> tls -> h1h2 ─┐
//!          -> quic -> h3  ─┴─> exchange (admission, access log, metrics) -> Service -> entity -> Body
//! ```
//!
//! A role implements [`Service`] once and is served alike on every protocol. What the role answers with is a
//! [`Body`] whose length is known before its first byte; a body that cannot be completed ends in [`Cut`], and no
//! protocol lets a cut body look whole.
//!
//! The front knows nothing of media, keys or licences.
#![forbid(unsafe_code)]

pub mod access_log;
mod admission;
mod balance;
mod body;
mod client_certificate;
pub mod conditional;
pub mod cors;
mod drain;
pub mod entity;
mod error;
mod exchange;
mod gather;
mod h1h2;
mod h3;
mod handshakes;
mod head_guard;
mod io;
mod listener;
mod priority;
pub mod problem;
mod quic;
mod service;
mod socket;
pub mod tls;
mod workers;

pub use admission::Limits;
pub use body::{Body, BodyError, Chunks, Cut, RequestBody};
pub use client_certificate::ClientCertificate;
pub use drain::{Drain, Phase};
pub use entity::{ETag, Entity, Prepared};
pub use error::{Error, ErrorKind};
pub use listener::{Bound, WorkerListener};
pub use priority::Urgency;
pub use problem::Problem;
pub use service::{ConnectionInfo, Protocol, Queued, Request, Response, RouteName, Service};
pub use tls::Tls;
pub use workers::Workers;
