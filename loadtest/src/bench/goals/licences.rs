//! The rows of licences.

use super::{Against, Goal, Kind, Unit, Wire, at_least, shown};
use crate::token::Algorithm;

/// Licences of one kind.
#[derive(Debug, Clone, Copy)]
pub(in crate::bench) struct Licences {
    pub(in crate::bench) algorithm: Algorithm,
    pub(in crate::bench) wire: Wire,
    pub(in crate::bench) connections: Connections,
    pub(in crate::bench) tokens: Tokens,
}

/// Where the connections of licence requests come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::bench) enum Connections {
    /// Each serves one request after the other.
    Kept,
    /// Each request has one of its own.
    New,
}

/// Which tokens licence requests bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::bench) enum Tokens {
    /// One that was never seen.
    Fresh,
    /// That of the requests before.
    Repeated,
}

/// Rows of licences per processor second. What is done besides verifying is to be a fifth at most, where there is no handshake.
macro_rules! licences {
    ($id:literal, $output:literal, $algorithm:ident, $wire:ident, $connections:ident, $tokens:ident, $($target:expr),*) => {
        Goal {
            id: $id,
            output: $output,
            unit: Unit::RequestsPerCpuSecond,
            kind: Kind::Licences(Licences {
                algorithm: Algorithm::$algorithm,
                wire: Wire::$wire,
                connections: Connections::$connections,
                tokens: Tokens::$tokens,
            }),
            targets: &[$($target),*],
        }
    };
}

/// Each algorithm over each protocol, with connections that are kept and new ones; and tokens that were seen before.
pub(super) const LICENCES: &[Goal] = &[
    licences!(
        "license-es256-h1-kept",
        "licence, ES256, h1 + TLS, kept",
        Es256,
        H1Tls,
        Kept,
        Fresh,
        at_least(Against::Verification, 0.80)
    ),
    licences!(
        "license-es256-h1-new",
        "licence, ES256, h1 + TLS, new",
        Es256,
        H1Tls,
        New,
        Fresh,
        shown(Against::Verification),
        shown(Against::Handshake)
    ),
    licences!(
        "license-es256-h3-kept",
        "licence, ES256, HTTP/3, kept",
        Es256,
        H3,
        Kept,
        Fresh,
        at_least(Against::Verification, 0.80)
    ),
    licences!(
        "license-es256-h3-new",
        "licence, ES256, HTTP/3, new",
        Es256,
        H3,
        New,
        Fresh,
        shown(Against::Verification),
        shown(Against::Handshake)
    ),
    licences!(
        "license-hs256-h1-kept",
        "licence, HS256, h1 + TLS, kept",
        Hs256,
        H1Tls,
        Kept,
        Fresh,
        at_least(Against::Verification, 0.80)
    ),
    licences!(
        "license-hs256-h1-new",
        "licence, HS256, h1 + TLS, new",
        Hs256,
        H1Tls,
        New,
        Fresh,
        shown(Against::Verification),
        shown(Against::Handshake)
    ),
    licences!(
        "license-hs256-h3-kept",
        "licence, HS256, HTTP/3, kept",
        Hs256,
        H3,
        Kept,
        Fresh,
        at_least(Against::Verification, 0.80)
    ),
    licences!(
        "license-hs256-h3-new",
        "licence, HS256, HTTP/3, new",
        Hs256,
        H3,
        New,
        Fresh,
        shown(Against::Verification),
        shown(Against::Handshake)
    ),
    licences!(
        "license-known-h1-kept",
        "licence, ES256 seen before, h1 + TLS, kept",
        Es256,
        H1Tls,
        Kept,
        Repeated,
        at_least(Against::Verification, 1.0)
    ),
    licences!(
        "license-known-h3-kept",
        "licence, ES256 seen before, HTTP/3, kept",
        Es256,
        H3,
        Kept,
        Repeated,
        at_least(Against::Verification, 1.0)
    ),
];
