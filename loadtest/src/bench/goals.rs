//! What is promised, as a table: each output, how it is measured, and the figures that it is to reach.
//!
//! Ratios are to what was measured in the same run, round by round, on the same core. Figures on their own drift with
//! the machine and its day, and are there for orientation.

use std::fmt;

use serde::Serialize;

mod licences;

use self::licences::LICENCES;
pub(super) use self::licences::{Connections, Licences, Tokens};

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Goal {
    /// What `--rows` picks it by.
    pub(super) id: &'static str,
    /// What is measured, for people.
    pub(super) output: &'static str,
    /// What its figures count.
    pub(super) unit: Unit,
    /// How it is measured.
    pub(super) kind: Kind,
    /// What it is to reach.
    pub(super) targets: &'static [Target],
}

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Unit {
    /// 10^6 bytes of bodies per second of the server's processor time.
    #[serde(rename = "MB/CPU-s")]
    MegabytesPerCpuSecond,
    /// Answers per second of the server's processor time.
    #[serde(rename = "req/CPU-s")]
    RequestsPerCpuSecond,
    /// 10^-6 s.
    #[serde(rename = "us")]
    Microseconds,
    /// 10^-3 s.
    #[serde(rename = "ms")]
    Milliseconds,
    /// 10^6 bytes of bodies per second.
    #[serde(rename = "MB/s")]
    MegabytesPerSecond,
    /// 10^6 bytes.
    #[serde(rename = "MB")]
    Megabytes,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MegabytesPerCpuSecond => "MB/CPU-s",
            Self::RequestsPerCpuSecond => "req/CPU-s",
            Self::Microseconds => "us",
            Self::Milliseconds => "ms",
            Self::MegabytesPerSecond => "MB/s",
            Self::Megabytes => "MB",
        })
    }
}

/// How a row is measured: one file of `rows` each.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// A server saturated, and others by turns with it.
    Saturated {
        /// What is asked of us.
        ours: Load,
        /// What is asked of others, or of us in another way.
        beside: &'static [(Against, Peer)],
    },
    /// A licence server saturated, and by turns with it what it cannot do without.
    Licences(Licences),
    /// The time that a manifest takes to be made, where none is kept.
    Made(Files),
    /// First byte of encrypted segments that nobody asked for before, one after the other.
    FirstByte {
        /// The policy.
        policy: &'static str,
    },
    /// First byte of the long title from a server that has never seen it.
    Unseen {
        /// Whether its index is in the cache folder already.
        indexed: bool,
    },
    /// What a segment takes of the server's own memory while its viewer does not read.
    Memory {
        /// The policy.
        policy: &'static str,
    },
    /// The p99 of a viewer of hot segments while others read cold ones.
    HotBesideCold,
    /// What readers of cold segments get within a limit of memory.
    ColdWithinLimit,
    /// The p99 of a viewer of hot segments while others watch all there is, within that limit.
    HotWithinLimit,
    /// How long a start takes with so many titles in the media root.
    StartTime,
    /// The memory of a server that knows so many titles.
    StartMemory,
}

/// Who is asked beside us.
#[derive(Debug, Clone, Copy)]
pub(super) enum Peer {
    /// A server.
    Server(Load),
    /// A thread that seals TLS records by our provider and writes them, and does nothing else.
    Sealing,
    /// A thread that copies and writes, and does nothing else.
    Copying,
}

/// Requests of one kind, as many as a core can answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) server: Server,
    pub(super) wire: Wire,
    pub(super) files: Files,
}

/// Who serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Server {
    /// The origin.
    Castellum,
    /// nginx on the exported files.
    Nginx,
    /// An nginx with HTTP/3 on them.
    NginxQuic,
}

/// How bytes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    /// HTTP/1.1.
    H1,
    /// HTTP/1.1 over TLS 1.3.
    H1Tls,
    /// HTTP/2 over TLS 1.3.
    H2Tls,
    /// HTTP/3.
    H3,
}

/// Files of an exported asset.
#[derive(Debug, Clone, Copy)]
pub(super) enum Files {
    /// Segments of pictures.
    Segments {
        asset: &'static str,
        pack: &'static str,
        rung: Rung,
        part: Part,
    },
    /// One manifest.
    Manifest {
        asset: &'static str,
        policy: &'static str,
        which: Manifest,
    },
}

/// Which rendition, by the size of its segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rung {
    Largest,
    Smallest,
}

/// Which of a rendition's segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    Begin,
    Middle,
    End,
}

/// Which manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manifest {
    Multivariant,
    Playlist,
    Mpd,
}

/// What a figure of ours is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Against {
    /// Nothing: the figure itself is the goal.
    Alone,
    /// nginx, with the same files by the same protocol.
    Nginx,
    /// An nginx with HTTP/3, with the same files.
    NginxQuic,
    /// Sealing by the same provider, and writing.
    Limit,
    /// Copying once, and writing.
    CopyLimit,
    /// Ourselves over HTTP/1.1 and TLS, clear.
    OwnTls,
    /// Ourselves with a title of five minutes and segments as long.
    OwnShort,
    /// Ourselves with nobody beside.
    Calm,
    /// Signatures verified on the same core, and nothing else.
    Verification,
    /// Connections opened and closed.
    Handshake,
    /// `fio` on the same file, within the same limit of memory.
    Fio,
}

impl fmt::Display for Against {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Alone => "-",
            Self::Nginx => "nginx static",
            Self::NginxQuic => "nginx QUIC static",
            Self::Limit => "GCM + write",
            Self::CopyLimit => "copy + write",
            Self::OwnTls => "own clear h1 + TLS",
            Self::OwnShort => "own short title",
            Self::Calm => "calm",
            Self::Verification => "verification alone",
            Self::Handshake => "handshakes alone",
            Self::Fio => "fio",
        })
    }
}

/// A figure to reach.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    pub(super) against: Against,
    pub(super) bound: Bound,
}

/// Which side of a figure is good.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Bound {
    AtLeast(f64),
    AtMost(f64),
    /// Shown for comparison only.
    Shown,
}

impl Bound {
    /// Whether a value is on the good side; `None` where there is none.
    pub(super) fn is_met(self, value: f64) -> Option<bool> {
        match self {
            Self::AtLeast(least) => Some(value >= least),
            Self::AtMost(most) => Some(value <= most),
            Self::Shown => None,
        }
    }
}

/// Where the titles of `bench/corpus.sh` are found.
pub(super) const LADDER: &str = "abr";
/// Two hours.
pub(super) const LONG: &str = "long";
/// Five minutes of it.
pub(super) const SHORT: &str = "short";

const fn at_least(against: Against, least: f64) -> Target {
    Target {
        against,
        bound: Bound::AtLeast(least),
    }
}

const fn at_most(most: f64) -> Target {
    Target {
        against: Against::Alone,
        bound: Bound::AtMost(most),
    }
}

const fn at_most_of(against: Against, most: f64) -> Target {
    Target {
        against,
        bound: Bound::AtMost(most),
    }
}

const fn shown(against: Against) -> Target {
    Target {
        against,
        bound: Bound::Shown,
    }
}

const fn rung(pack: &'static str, rung: Rung) -> Files {
    Files::Segments {
        asset: LADDER,
        pack,
        rung,
        part: Part::Whole,
    }
}

const fn piece(asset: &'static str, part: Part) -> Files {
    Files::Segments {
        asset,
        pack: "clear",
        rung: Rung::Largest,
        part,
    }
}

const fn manifest(asset: &'static str, which: Manifest) -> Files {
    Files::Manifest {
        asset,
        policy: "clear",
        which,
    }
}

const fn load(server: Server, wire: Wire, files: Files) -> Load {
    Load {
        server,
        wire,
        files,
    }
}

/// The same files by the same protocol, of us and of nginx.
macro_rules! beside_nginx {
    ($wire:expr, $files:expr) => {
        Kind::Saturated {
            ours: load(Server::Castellum, $wire, $files),
            beside: &[(
                Against::Nginx,
                Peer::Server(load(Server::Nginx, $wire, $files)),
            )],
        }
    };
}

/// As [`beside_nginx`], in clear, and the limit of what does not lend the kernel its pages.
macro_rules! beside_copy {
    ($files:expr) => {
        Kind::Saturated {
            ours: load(Server::Castellum, Wire::H1, $files),
            beside: &[
                (
                    Against::Nginx,
                    Peer::Server(load(Server::Nginx, Wire::H1, $files)),
                ),
                (Against::CopyLimit, Peer::Copying),
            ],
        }
    };
}

/// As [`beside_nginx`], and the limit of TLS.
macro_rules! beside_limit {
    ($pack:literal) => {
        Kind::Saturated {
            ours: load(Server::Castellum, Wire::H1Tls, rung($pack, Rung::Largest)),
            beside: &[
                (
                    Against::Nginx,
                    Peer::Server(load(Server::Nginx, Wire::H1Tls, rung($pack, Rung::Largest))),
                ),
                (Against::Limit, Peer::Sealing),
            ],
        }
    };
}

/// HTTP/3, beside nginx's and beside our own HTTP/1.1 over TLS.
macro_rules! over_quic {
    ($pack:literal) => {
        Kind::Saturated {
            ours: load(Server::Castellum, Wire::H3, rung($pack, Rung::Largest)),
            beside: &[
                (
                    Against::NginxQuic,
                    Peer::Server(load(
                        Server::NginxQuic,
                        Wire::H3,
                        rung($pack, Rung::Largest),
                    )),
                ),
                (
                    Against::OwnTls,
                    Peer::Server(load(
                        Server::Castellum,
                        Wire::H1Tls,
                        rung("clear", Rung::Largest),
                    )),
                ),
            ],
        }
    };
}

/// The long title at one place, beside the short one.
macro_rules! position {
    ($part:expr) => {
        Kind::Saturated {
            ours: load(Server::Castellum, Wire::H1, piece(LONG, $part)),
            beside: &[(
                Against::OwnShort,
                Peer::Server(load(Server::Castellum, Wire::H1, piece(SHORT, Part::Begin))),
            )],
        }
    };
}

/// Rows of bytes per processor second.
macro_rules! bytes {
    ($id:literal, $output:literal, $kind:expr, $($target:expr),*) => {
        Goal {
            id: $id,
            output: $output,
            unit: Unit::MegabytesPerCpuSecond,
            kind: $kind,
            targets: &[$($target),*],
        }
    };
}

/// Every row, in the order in which it is measured and printed.
pub(super) fn goals() -> impl Iterator<Item = &'static Goal> {
    FILES.iter().chain(LICENCES)
}

const FILES: &[Goal] = &[
    bytes!(
        "cenc-h1",
        "cenc, h1, 3 MB segments",
        beside_copy!(rung("cenc", Rung::Largest)),
        at_least(Against::Nginx, 0.70),
        at_least(Against::Alone, 3300.0),
        shown(Against::CopyLimit)
    ),
    bytes!(
        "cbcs-h1",
        "cbcs, h1, 3 MB segments",
        beside_copy!(rung("cbcs", Rung::Largest)),
        at_least(Against::Nginx, 0.70),
        at_least(Against::Alone, 3300.0),
        shown(Against::CopyLimit)
    ),
    bytes!(
        "clear-h1",
        "clear, h1, 3 MB segments",
        beside_copy!(rung("clear", Rung::Largest)),
        at_least(Against::Nginx, 0.80),
        at_least(Against::Alone, 4000.0),
        shown(Against::CopyLimit)
    ),
    bytes!(
        "cenc-small",
        "cenc, h1, 0.35 MB segments",
        beside_copy!(rung("cenc", Rung::Smallest)),
        at_least(Against::Nginx, 0.60),
        at_least(Against::Alone, 2600.0),
        shown(Against::CopyLimit)
    ),
    bytes!(
        "cbcs-small",
        "cbcs, h1, 0.35 MB segments",
        beside_copy!(rung("cbcs", Rung::Smallest)),
        at_least(Against::Nginx, 0.60),
        at_least(Against::Alone, 2600.0),
        shown(Against::CopyLimit)
    ),
    // Independent of position: what is left below 1 is the noise of two runs.
    bytes!(
        "long-begin",
        "2 h title, its begin",
        position!(Part::Begin),
        at_least(Against::OwnShort, 0.95)
    ),
    bytes!(
        "long-middle",
        "2 h title, its middle",
        position!(Part::Middle),
        at_least(Against::OwnShort, 0.95)
    ),
    bytes!(
        "long-end",
        "2 h title, its end",
        position!(Part::End),
        at_least(Against::OwnShort, 0.95)
    ),
    bytes!(
        "clear-tls",
        "clear, h1 + TLS",
        beside_limit!("clear"),
        at_least(Against::Nginx, 2.2),
        at_least(Against::Limit, 0.85)
    ),
    bytes!(
        "cenc-tls",
        "cenc, h1 + TLS",
        beside_limit!("cenc"),
        at_least(Against::Nginx, 2.0),
        at_least(Against::Limit, 0.85)
    ),
    bytes!(
        "cbcs-tls",
        "cbcs, h1 + TLS",
        beside_limit!("cbcs"),
        at_least(Against::Nginx, 2.0),
        at_least(Against::Limit, 0.85)
    ),
    bytes!(
        "clear-h2",
        "clear, h2 + TLS",
        beside_nginx!(Wire::H2Tls, rung("clear", Rung::Largest)),
        at_least(Against::Nginx, 2.6)
    ),
    bytes!(
        "cenc-h2",
        "cenc, h2 + TLS",
        beside_nginx!(Wire::H2Tls, rung("cenc", Rung::Largest)),
        shown(Against::Nginx)
    ),
    bytes!(
        "clear-h3",
        "clear, HTTP/3",
        over_quic!("clear"),
        at_least(Against::NginxQuic, 1.1),
        at_least(Against::OwnTls, 0.40)
    ),
    bytes!(
        "cenc-h3",
        "cenc, HTTP/3",
        over_quic!("cenc"),
        at_least(Against::NginxQuic, 1.0),
        at_least(Against::OwnTls, 0.37)
    ),
    Goal {
        id: "master-cached",
        output: "multivariant playlist, 4 rungs, kept",
        unit: Unit::RequestsPerCpuSecond,
        kind: beside_nginx!(Wire::H1, manifest(LADDER, Manifest::Multivariant)),
        targets: &[at_least(Against::Alone, 80_000.0), shown(Against::Nginx)],
    },
    Goal {
        id: "mpd-cached",
        output: "MPD, 4 rungs, kept",
        unit: Unit::RequestsPerCpuSecond,
        kind: beside_nginx!(Wire::H1, manifest(LADDER, Manifest::Mpd)),
        targets: &[at_least(Against::Alone, 80_000.0), shown(Against::Nginx)],
    },
    Goal {
        id: "playlist-cached",
        output: "media playlist, 2 h, kept",
        unit: Unit::RequestsPerCpuSecond,
        kind: beside_nginx!(Wire::H1, manifest(LONG, Manifest::Playlist)),
        targets: &[at_least(Against::Alone, 50_000.0), shown(Against::Nginx)],
    },
    Goal {
        id: "master-made",
        output: "multivariant playlist, 4 rungs, made",
        unit: Unit::Microseconds,
        kind: Kind::Made(manifest(LADDER, Manifest::Multivariant)),
        targets: &[at_most(25.0)],
    },
    Goal {
        id: "mpd-made",
        output: "MPD, 4 rungs, made",
        unit: Unit::Microseconds,
        kind: Kind::Made(manifest(LADDER, Manifest::Mpd)),
        targets: &[at_most(25.0)],
    },
    Goal {
        id: "playlist-made",
        output: "media playlist, 2 h, made",
        unit: Unit::Microseconds,
        kind: Kind::Made(manifest(LONG, Manifest::Playlist)),
        targets: &[at_most(25.0)],
    },
    Goal {
        id: "unseen-unindexed",
        output: "first byte of a 2 h title never seen, no index",
        unit: Unit::Milliseconds,
        kind: Kind::Unseen { indexed: false },
        targets: &[at_most(1.5)],
    },
    Goal {
        id: "unseen-indexed",
        output: "first byte of a 2 h title never seen, indexed",
        unit: Unit::Milliseconds,
        kind: Kind::Unseen { indexed: true },
        targets: &[at_most(0.3)],
    },
    Goal {
        id: "first-byte-cenc",
        output: "first byte of a cenc segment, idle",
        unit: Unit::Milliseconds,
        kind: Kind::FirstByte { policy: "cenc" },
        targets: &[at_most(0.3)],
    },
    Goal {
        id: "first-byte-cbcs",
        output: "first byte of a cbcs segment, idle",
        unit: Unit::Milliseconds,
        kind: Kind::FirstByte { policy: "cbcs" },
        targets: &[at_most(0.3)],
    },
    Goal {
        id: "memory",
        output: "memory of a 3 MB cenc segment in flight",
        unit: Unit::Megabytes,
        kind: Kind::Memory { policy: "cenc" },
        targets: &[at_most(0.5)],
    },
    Goal {
        id: "hot-beside-cold",
        output: "p99 of hot 0.35 MB cenc segments beside 4 cold readers",
        unit: Unit::Milliseconds,
        kind: Kind::HotBesideCold,
        targets: &[at_most_of(Against::Calm, 2.0)],
    },
    Goal {
        id: "pressure-cold",
        output: "4 cold readers, memory for 1/8 of the media",
        unit: Unit::MegabytesPerSecond,
        kind: Kind::ColdWithinLimit,
        targets: &[at_least(Against::Fio, 0.90)],
    },
    Goal {
        id: "pressure-hot",
        output: "p99 of hot segments beside 8 of Zipf, memory for 1/8",
        unit: Unit::Milliseconds,
        kind: Kind::HotWithinLimit,
        targets: &[at_most_of(Against::Calm, 2.0)],
    },
    Goal {
        id: "titles-start",
        output: "start with 10,000 titles",
        unit: Unit::Milliseconds,
        kind: Kind::StartTime,
        targets: &[at_most(500.0)],
    },
    Goal {
        id: "titles-memory",
        output: "resident memory with 10,000 titles",
        unit: Unit::Megabytes,
        kind: Kind::StartMemory,
        targets: &[at_most(200.0)],
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn rows_have_names_of_their_own_and_targets_that_are_measured() {
        let ids: BTreeSet<_> = goals().map(|goal| goal.id).collect();
        assert_eq!(ids.len(), goals().count());
        for goal in goals() {
            assert!(!goal.targets.is_empty(), "{}", goal.id);
            for target in goal.targets {
                let measured = match goal.kind {
                    Kind::Saturated { beside, .. } => {
                        beside.iter().any(|(against, _)| *against == target.against)
                    }
                    Kind::HotBesideCold | Kind::HotWithinLimit => target.against == Against::Calm,
                    Kind::ColdWithinLimit => target.against == Against::Fio,
                    Kind::Licences(Licences { connections, .. }) => match target.against {
                        Against::Verification => true,
                        Against::Handshake => connections == Connections::New,
                        _ => false,
                    },
                    _ => false,
                };
                assert!(
                    measured || target.against == Against::Alone,
                    "{}: {}",
                    goal.id,
                    target.against
                );
            }
        }
    }

    #[test]
    fn a_bound_is_met_on_its_good_side() {
        assert_eq!(Bound::AtLeast(0.7).is_met(0.7), Some(true));
        assert_eq!(Bound::AtLeast(0.7).is_met(0.69), Some(false));
        assert_eq!(Bound::AtMost(0.3).is_met(0.3), Some(true));
        assert_eq!(Bound::AtMost(0.3).is_met(0.31), Some(false));
        assert_eq!(Bound::Shown.is_met(1.0), None);
    }
}
