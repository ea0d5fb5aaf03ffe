//! A server asked for as much as its core can give, and others by turns with it.

use std::num::NonZeroUsize;
use std::time::Duration;

use url::Url;

use super::Measured;
use super::limit::Limit;
use crate::bench::Failure;
use crate::bench::goals::{Against, Load, Peer, Server, Unit, Wire};
use crate::bench::series::Series;
use crate::bench::stage::{Pair, Stage};
use crate::client::{Protocol, Trust};
use crate::host::Processes;
use crate::saturate::{self, Saturation};

/// How long each side is asked before anything counts: plans are made, pages mapped, windows opened.
const WARM_UP: Duration = Duration::from_millis(500);

const TCP_CONNECTIONS: NonZeroUsize = NonZeroUsize::new(32).expect("it is not zero");
/// Few, as the client's core does for QUIC what the kernel does for TCP.
const QUIC_CONNECTIONS: NonZeroUsize = NonZeroUsize::new(4).expect("it is not zero");
const QUIC_STREAMS: NonZeroUsize = NonZeroUsize::new(4).expect("it is not zero");

/// One side of a row.
enum Side {
    Server(Box<Saturation>),
    Limit(Limit),
}

pub(super) fn measure(
    unit: Unit,
    ours: &Load,
    beside: &'static [(Against, Peer)],
    stage: &mut Stage,
) -> Result<Measured, Failure> {
    let plan = stage.plan().clone();
    let pair = stage.pair()?;
    let our_side = saturation(pair, ours)?.ok_or(Failure::NoQuicPeer)?;
    let ours = Side::Server(Box::new(our_side));
    let mut others = Vec::new();
    for (against, peer) in beside {
        let side = match peer {
            Peer::Sealing => Some(Side::Limit(Limit::Sealing)),
            Peer::Copying => Some(Side::Limit(Limit::Copying)),
            Peer::Server(load) => saturation(pair, load)?.map(|side| Side::Server(Box::new(side))),
        };
        // A peer that is not there leaves its targets unmeasured, not the row.
        if let Some(side) = side {
            others.push((*against, side, Series::default()));
        }
    }
    let figure = |side: &Side, duration| match side {
        Side::Server(saturation) => ask(unit, saturation, duration),
        Side::Limit(limit) => limit.measure(plan.cores, duration),
    };
    for side in others.iter().map(|(_, side, _)| side).chain([&ours]) {
        figure(side, WARM_UP)?;
    }
    let mut measured = Measured::default();
    for round in 0..plan.rounds {
        // Whoever is asked first finds another machine than who is asked after.
        let is_first = round % 2 == 0;
        if is_first {
            measured.ours.push(figure(&ours, plan.round)?);
        }
        for (_, side, series) in &mut others {
            series.push(figure(side, plan.round)?);
        }
        if !is_first {
            measured.ours.push(figure(&ours, plan.round)?);
        }
    }
    measured.beside = others
        .into_iter()
        .map(|(against, _, series)| (against, series))
        .collect();
    Ok(measured)
}

/// What a load asks, of whom; `None` where that server is not there.
fn saturation(pair: &Pair, load: &Load) -> Result<Option<Saturation>, Failure> {
    let nginx = match load.server {
        Server::Castellum => None,
        Server::Nginx => Some(&pair.nginx),
        Server::NginxQuic => match &pair.quic {
            Some(nginx) => Some(nginx),
            None => return Ok(None),
        },
    };
    let (processes, plain, tls): (Processes, u16, u16) = match nginx {
        None => {
            let castellum = &pair.castellum;
            (castellum.processes(), castellum.plain, castellum.tls)
        }
        Some(nginx) => (nginx.processes(), nginx.plain, nginx.tls),
    };
    let (protocol, scheme, port) = match load.wire {
        Wire::H1 => (Protocol::H1, "http", plain),
        Wire::H1Tls => (Protocol::H1, "https", tls),
        Wire::H2Tls => (Protocol::H2, "https", tls),
        Wire::H3 => (Protocol::H3, "https", tls),
    };
    let (connections, streams) = match load.wire {
        Wire::H3 => (QUIC_CONNECTIONS, QUIC_STREAMS),
        Wire::H1 | Wire::H1Tls | Wire::H2Tls => (TCP_CONNECTIONS, NonZeroUsize::MIN),
    };
    let url = |path: &String| {
        let url = format!("{scheme}://127.0.0.1:{port}{path}");
        Url::parse(&url).map_err(|error| Failure::asking(path, error))
    };
    Ok(Some(Saturation {
        protocol,
        urls: pair
            .twin
            .paths(&load.files)?
            .iter()
            .map(url)
            .collect::<Result<_, _>>()?,
        connections,
        streams,
        threads: NonZeroUsize::MIN,
        duration: Duration::ZERO,
        // The certificate is self-signed, and what is fetched is only counted.
        trust: Trust::DangerAnyone,
        server: Some(processes),
    }))
}

/// Asks for so long, and says what a second of the server's processor gave.
fn ask(unit: Unit, saturation: &Saturation, duration: Duration) -> Result<f64, Failure> {
    let measured = saturate::run(&Saturation {
        duration,
        ..saturation.clone()
    })?;
    if measured.errors > 0 {
        let first = measured.first_error.unwrap_or_default();
        return Err(Failure::Unanswered {
            count: measured.errors,
            first,
        });
    }
    let figure = match unit {
        Unit::RequestsPerCpuSecond => measured.requests_per_cpu_second(),
        Unit::MegabytesPerCpuSecond
        | Unit::Microseconds
        | Unit::Milliseconds
        | Unit::MegabytesPerSecond
        | Unit::Megabytes => measured.bytes_per_cpu_second().map(|bytes| bytes / 1e6),
    };
    figure.ok_or(Failure::Restless)
}
