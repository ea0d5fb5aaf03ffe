//! The demo: every role on loopback, with a title, keys and an issuer of its own, in a folder that goes away with it.

mod folder;
mod links;
mod stage;
mod title;

pub(crate) use self::links::{Bases, Links};
pub(crate) use self::stage::{Ports, Stage};
pub(crate) use self::title::PAGE;
