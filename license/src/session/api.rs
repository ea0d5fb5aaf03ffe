//! What operators see and change of sessions, on the admin listener. `license/design/api.md` says what is asked and answered.
//!
//! Each change leaves a line in the log, which names nobody.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use http::StatusCode;
use keystore_types::KeyId;
use serde::{Deserialize, Serialize};

use super::Sessions;
use crate::UnixTime;
use crate::admin::fault::{Fault, Json, Query};
use crate::store::{Change, Revocation, Revoked, Viewer};

/// The most revocations at once: each node holds them all in memory.
const MAX_REVOCATIONS: usize = 100_000;

/// `issuers` are the configured names.
pub(crate) fn api(sessions: Arc<Sessions>, issuers: Vec<String>) -> Router {
    Router::new()
        .route(
            "/api/v1/revocations",
            get(revocations).post(revoke).delete(reinstate),
        )
        .route("/api/v1/devices", get(devices).delete(forget))
        .route("/api/v1/streams", get(streams).delete(release))
        .with_state(Desk {
            sessions,
            issuers: issuers.into(),
        })
}

/// Where operators ask.
#[derive(Clone)]
struct Desk {
    sessions: Arc<Sessions>,
    issuers: Arc<[String]>,
}

impl Desk {
    fn knows(&self, issuer: &str) -> bool {
        self.issuers.iter().any(|known| known == issuer)
    }

    /// Nobody is who an unknown issuer names: an answer about them, or a revocation of them, would mislead.
    fn check(&self, issuer: &str) -> Result<(), Fault> {
        if self.knows(issuer) {
            return Ok(());
        }
        let known = match &*self.issuers {
            [] => "there is none".to_owned(),
            issuers => format!("there are: {}", issuers.join(", ")),
        };
        Err(Fault::new(
            StatusCode::BAD_REQUEST,
            "issuer-unknown",
            "No issuer has this name.",
            format!(
                "`{issuer}` is no name in license.issuers (the claim iss is none either); {known}"
            ),
        ))
    }

    /// Makes a change, and leaves a line about it.
    async fn act(&self, act: Act<'_>, change: Change) -> Result<u64, Fault> {
        let count = self.sessions.store.change(change).await?;
        tracing::info!(
            target: "audit",
            act = act.act,
            kind = act.kind,
            issuer = act.issuer.filter(|issuer| self.knows(issuer)),
            count,
            "an operator acts",
        );
        Ok(count)
    }

    /// As [`Desk::act`], for what takes something away. That of an issuer which is configured no more can be taken away, too.
    async fn take_away(
        &self,
        act: Act<'_>,
        change: Change,
        what: &str,
    ) -> Result<StatusCode, Fault> {
        if self.act(act, change).await? > 0 {
            return Ok(StatusCode::NO_CONTENT);
        }
        act.issuer.map_or(Ok(()), |issuer| self.check(issuer))?;
        Err(Fault::not_there(what))
    }
}

/// What an operator does, as the log has it.
#[derive(Clone, Copy)]
struct Act<'a> {
    act: &'static str,
    kind: &'static str,
    issuer: Option<&'a str>,
}

impl<'a> Act<'a> {
    fn on(what: &'a Revoked, act: &'static str) -> Self {
        let (kind, issuer) = match what {
            Revoked::Subject(issuer, _) => ("subject", issuer.as_deref()),
            Revoked::Token(issuer, _) => ("token", issuer.as_deref()),
            Revoked::Key(_) => ("key", None),
        };
        Self { act, kind, issuer }
    }
}

/// What is revoked, as it is written: exactly one of the three.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<KeyId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    issuer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<u64>,
}

impl Written {
    fn read(self) -> Result<Revoked, Fault> {
        let fault = |what: &str| Err(Fault::malformed(what));
        let texts = [&self.subject, &self.token, &self.issuer];
        if (texts.into_iter().flatten()).any(|text| text.is_empty() || text.len() > 256) {
            return fault("a name has 1 to 256 bytes");
        }
        match (self.subject, self.token, self.key, self.issuer) {
            (Some(subject), None, None, issuer) => Ok(Revoked::Subject(issuer, subject)),
            (None, Some(token), None, issuer) => Ok(Revoked::Token(issuer, token)),
            (None, None, Some(key), None) => Ok(Revoked::Key(key)),
            (None, None, Some(_), Some(_)) => fault("a key has no issuer"),
            _ => fault("exactly one of subject, token and key is revoked at a time"),
        }
    }
}

#[derive(Serialize)]
struct Listed {
    #[serde(flatten)]
    what: Written,
    made: u64,
}

#[derive(Serialize)]
struct Revocations {
    revocations: Vec<Listed>,
}

async fn revocations(State(desk): State<Desk>) -> Result<Json<Revocations>, Fault> {
    let sessions = &desk.sessions;
    let found = sessions.store.revocations(sessions.clock.now()).await?;
    let listed = found.into_iter().map(|revocation| {
        let none = Written::default();
        let what = match revocation.what {
            Revoked::Subject(issuer, subject) => Written {
                subject: Some(subject),
                issuer,
                ..none
            },
            Revoked::Token(issuer, token) => Written {
                token: Some(token),
                issuer,
                ..none
            },
            Revoked::Key(key) => Written {
                key: Some(key),
                ..none
            },
        };
        Listed {
            what: Written {
                until: (revocation.until != UnixTime::MAX).then(|| revocation.until.as_seconds()),
                ..what
            },
            made: revocation.made.as_seconds(),
        }
    });
    Ok(Json(Revocations {
        revocations: listed.collect(),
    }))
}

async fn revoke(
    State(desk): State<Desk>,
    Json(written): Json<Written>,
) -> Result<StatusCode, Fault> {
    let sessions = &desk.sessions;
    let Some(revocations) = &sessions.revocations else {
        return Err(Fault::new(
            StatusCode::CONFLICT,
            "revocations-off",
            "Nothing is looked for among revocations.",
            "set license.sessions.revocations",
        ));
    };
    let now = sessions.clock.now();
    let until = (written.until).map_or(UnixTime::MAX, UnixTime::from_seconds);
    if until <= now || until > UnixTime::MAX {
        let past = "until is no moment to come, in seconds since 1970";
        return Err(Fault::malformed(past));
    }
    let what = written.read()?;
    let act = Act::on(&what, "revoke");
    act.issuer.map_or(Ok(()), |issuer| desk.check(issuer))?;
    if revocations.read().await?.len() >= MAX_REVOCATIONS {
        return Err(Fault::new(
            StatusCode::CONFLICT,
            "revocations-full",
            "There are as many revocations as may be.",
            format!("there are {MAX_REVOCATIONS}: let some end or take them back"),
        ));
    }
    let revocation = Revocation {
        what: what.clone(),
        made: now,
        until,
    };
    desk.act(act, Change::Revoke(revocation)).await?;
    revocations.read().await?;
    Ok(StatusCode::CREATED)
}

async fn reinstate(
    State(desk): State<Desk>,
    Query(written): Query<Written>,
) -> Result<StatusCode, Fault> {
    if written.until.is_some() {
        return Err(Fault::malformed("until is for a revocation that is made"));
    }
    let what = written.read()?;
    let (act, change) = (Act::on(&what, "reinstate"), Change::Reinstate(what.clone()));
    let done = desk.take_away(act, change, "that is not revoked").await?;
    if let Some(revocations) = &desk.sessions.revocations {
        revocations.read().await?;
    }
    Ok(done)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Whose {
    issuer: String,
    subject: String,
}

#[derive(Serialize)]
struct Devices {
    devices: Vec<Device>,
}

#[derive(Serialize)]
struct Device {
    device: String,
    added: u64,
    seen: u64,
}

async fn devices(
    State(desk): State<Desk>,
    Query(Whose { issuer, subject }): Query<Whose>,
) -> Result<Json<Devices>, Fault> {
    desk.check(&issuer)?;
    let (sessions, viewer) = (&desk.sessions, Viewer::new(&issuer, &subject));
    let found = (sessions.store.devices(viewer, sessions.clock.now())).await?;
    let devices = found.into_iter().map(|device| Device {
        device: device.device,
        added: device.added.as_seconds(),
        seen: device.seen.as_seconds(),
    });
    Ok(Json(Devices {
        devices: devices.collect(),
    }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WhichDevice {
    issuer: String,
    subject: String,
    device: Option<String>,
}

async fn forget(
    State(desk): State<Desk>,
    Query(which): Query<WhichDevice>,
) -> Result<StatusCode, Fault> {
    let act = Act {
        act: "forget",
        kind: "device",
        issuer: Some(&which.issuer),
    };
    let forget = Change::Forget {
        viewer: Viewer::new(&which.issuer, &which.subject),
        device: which.device,
    };
    (desk.take_away(act, forget, "the subject has no such device")).await
}

#[derive(Serialize)]
struct Streams {
    streams: Vec<Stream>,
}

#[derive(Serialize)]
struct Stream {
    session: String,
    asset: String,
    began: u64,
    leased: u64,
    until: u64,
}

async fn streams(
    State(desk): State<Desk>,
    Query(Whose { issuer, subject }): Query<Whose>,
) -> Result<Json<Streams>, Fault> {
    desk.check(&issuer)?;
    let (sessions, viewer) = (&desk.sessions, Viewer::new(&issuer, &subject));
    let found = (sessions.store.streams(viewer, sessions.clock.now())).await?;
    let streams = found.into_iter().map(|stream| Stream {
        session: stream.session,
        asset: stream.asset,
        began: stream.began.as_seconds(),
        leased: stream.leased.as_seconds(),
        until: stream.until.as_seconds(),
    });
    Ok(Json(Streams {
        streams: streams.collect(),
    }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WhichStream {
    issuer: String,
    subject: String,
    session: String,
}

async fn release(
    State(desk): State<Desk>,
    Query(which): Query<WhichStream>,
) -> Result<StatusCode, Fault> {
    let act = Act {
        act: "release",
        kind: "stream",
        issuer: Some(&which.issuer),
    };
    let release = Change::Release {
        viewer: Viewer::new(&which.issuer, &which.subject),
        session: which.session,
        events: Vec::new(),
    };
    (desk.take_away(act, release, "the subject has no such stream")).await
}
