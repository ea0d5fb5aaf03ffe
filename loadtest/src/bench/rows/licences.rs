//! Licences: how many a core of the licence server gives, beside what it cannot do without.
//!
//! Every licence is one key, exported by a keystore in the server's process, whose log is on the disk before the key leaves.
//! By turns with it: a thread on the server's core that verifies signatures of such tokens and does nothing else, and, where
//! each licence has a connection of its own, connections that are opened and closed. A ratio to one of them is the
//! share that it has in the whole.

use std::sync::Arc;
use std::time::{Duration, Instant};

use url::Url;

use super::Measured;
use super::limit::{own_cpu, rate};
use crate::bench::Failure;
use crate::bench::castellum::Castellum;
use crate::bench::cores::Cores;
use crate::bench::goals::{Against, Connections, LADDER, Licences, Tokens, Wire};
use crate::bench::series::Series;
use crate::bench::stage::Stage;
use crate::client::{Connector, Protocol, Request, Trust};
use crate::host::Processes;
use crate::recorder::Recorder;
use crate::token::{Minter, parts};

/// Requests under way. The log takes all that wait in one go, so that few of them would wait for the disk and not for the
/// processor.
const AT_ONCE: usize = 64;

/// Streams of one connection over QUIC, which has no other way to be kept.
const STREAMS: usize = 8;

/// How long each side is asked before anything counts.
const WARM_UP: Duration = Duration::from_millis(500);

/// Tokens that the thread goes round: more than one, so that nothing is remembered of it.
const VERIFIED: usize = 64;

pub(super) fn measure(licences: &Licences, stage: &mut Stage) -> Result<Measured, Failure> {
    let plan = stage.plan().clone();
    let server = stage.licences()?;
    let asking = Asking::new(server, licences)?;
    let minter = server.minter(licences.algorithm);
    let verify = |duration| verify(minter, plan.cores, duration);
    asking.run(Act::Ask, WARM_UP)?;
    let mut ours = Series::default();
    let (mut verified, mut shaken) = (Series::default(), Series::default());
    for round in 0..plan.rounds {
        // Whoever is asked first finds another machine than who is asked after.
        if round % 2 == 0 {
            ours.push(asking.run(Act::Ask, plan.round)?);
        }
        verified.push(verify(plan.round / 2)?);
        if licences.connections == Connections::New {
            shaken.push(asking.run(Act::Connect, plan.round)?);
        }
        if round % 2 == 1 {
            ours.push(asking.run(Act::Ask, plan.round)?);
        }
    }
    let mut beside = vec![(Against::Verification, verified)];
    if licences.connections == Connections::New {
        beside.push((Against::Handshake, shaken));
    }
    Ok(Measured {
        ours,
        beside,
        note: None,
    })
}

/// What is asked again and again.
struct Asking<'a> {
    connector: Connector,
    url: Url,
    body: String,
    minter: &'a Minter,
    licences: &'a Licences,
    processes: Processes,
}

/// What a task does in a turn.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Act {
    Ask,
    /// Opens a connection and closes it.
    Connect,
}

impl<'a> Asking<'a> {
    fn new(server: &'a Castellum, licences: &'a Licences) -> Result<Self, Failure> {
        let path = format!("/license/clearkey/{LADDER}");
        let url = format!("https://127.0.0.1:{}{path}", server.license);
        let url = Url::parse(&url).map_err(|error| Failure::asking(&path, error))?;
        let kid = server.key_id(LADDER, "cbcs")?;
        let protocol = match licences.wire {
            Wire::H1 | Wire::H1Tls => Protocol::H1,
            Wire::H2Tls => Protocol::H2,
            Wire::H3 => Protocol::H3,
        };
        // The certificate is self-signed, and what comes is only counted.
        let connector = Connector::new(protocol, &Trust::DangerAnyone, Arc::<Recorder>::default());
        Ok(Self {
            connector: connector.map_err(|error| Failure::asking(&path, error))?,
            url,
            body: serde_json::json!({ "kids": [kid], "type": "temporary" }).to_string(),
            minter: server.minter(licences.algorithm),
            licences,
            processes: server.processes(),
        })
    }

    /// How many for each second of the server's processor time.
    fn run(&self, act: Act, duration: Duration) -> Result<f64, Failure> {
        let unreadable = |error| Failure::asking("/proc", error);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(unreadable)?;
        let tasks = match (self.licences.connections, self.licences.wire) {
            (Connections::Kept, Wire::H3) => AT_ONCE / STREAMS,
            (Connections::Kept | Connections::New, _) => AT_ONCE,
        };
        let start = self.processes.snapshot().map_err(unreadable)?;
        let end = Instant::now() + duration;
        let turns = (0..tasks).map(|_| self.turns(act, end));
        let answered = runtime.block_on(futures_util::future::try_join_all(turns))?;
        let used = self.processes.usage_since(&start).map_err(unreadable)?.cpu;
        Ok(rate(answered.into_iter().sum(), used))
    }

    /// What one connection after the other, or one that is kept, has answered by then.
    async fn turns(&self, act: Act, end: Instant) -> Result<u64, Failure> {
        let kept = self.connector.client();
        let streams = match (self.licences.connections, self.licences.wire) {
            (Connections::Kept, Wire::H3) => STREAMS,
            (Connections::Kept | Connections::New, _) => 1,
        };
        let repeated = self.request()?;
        let stream = async || {
            let mut answered = 0;
            while Instant::now() < end {
                let failed = |error| Failure::asking(self.url.path(), error);
                let fresh = match self.licences.connections {
                    Connections::Kept => None,
                    Connections::New => Some(self.connector.client()),
                };
                let client = fresh.as_ref().unwrap_or(&kept);
                match (act, self.licences.tokens) {
                    (Act::Connect, _) => client.connect(&self.url).await.map_err(failed)?,
                    (Act::Ask, Tokens::Repeated) => {
                        client.fetch(&repeated).await.map_err(failed)?;
                    }
                    (Act::Ask, Tokens::Fresh) => {
                        client.fetch(&self.request()?).await.map_err(failed)?;
                    }
                }
                answered += 1;
            }
            Ok::<u64, Failure>(answered)
        };
        let answered = futures_util::future::try_join_all((0..streams).map(|_| stream())).await?;
        Ok(answered.into_iter().sum())
    }

    fn request(&self) -> Result<Request, Failure> {
        let authorization = self.minter.authorization();
        Ok(Request {
            url: self.url.clone(),
            json: Some(self.body.clone()),
            authorization: Some(
                authorization.map_err(|error| Failure::asking(self.url.path(), error))?,
            ),
            keep: false,
        })
    }
}

/// Signatures verified for each second of the thread's processor time, on the server's core.
fn verify(minter: &Minter, cores: Cores, duration: Duration) -> Result<f64, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::asking("a token", error);
    let tokens: Result<Vec<_>, _> = (0..VERIFIED).map(|_| minter.mint()).collect();
    let tokens = tokens.map_err(|error| failed(&error))?;
    std::thread::scope(|scope| {
        let verifying = scope.spawn(|| {
            cores.stay_server()?;
            let parts: Vec<_> = tokens.iter().filter_map(|token| parts(token)).collect();
            let end = Instant::now() + duration;
            let (before, mut count) = (own_cpu()?, 0);
            while Instant::now() < end {
                for (signed, signature) in &parts {
                    count += u64::from(minter.verifies(signed, signature));
                }
            }
            std::io::Result::Ok(rate(count, own_cpu()?.saturating_sub(before)))
        });
        let broken = |_| Err(std::io::Error::other("it broke down"));
        let verified = verifying.join().unwrap_or_else(broken);
        verified.map_err(|error| failed(&error))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::Algorithm;

    #[test]
    fn a_thread_verifies() {
        let pem = Minter::key_for_es256().unwrap();
        let minter = Minter::new(Algorithm::Es256, "ott", "castellum", pem.as_bytes()).unwrap();
        if let Ok(cores) = Cores::pick() {
            let rate = verify(&minter, cores, Duration::from_millis(50)).unwrap();
            assert!(rate > 1.0, "{rate}");
        }
    }
}
