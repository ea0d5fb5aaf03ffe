//! What operators see and change of sessions, on the admin listener.
//!
//! | | |
//! |---|---|
//! | `GET /api/v1/revocations` | everything that is revoked |
//! | `POST /api/v1/revocations` | revokes `{"subject": S}`, `{"token": JTI}` or `{"key": UUID}`, with `issuer` and `until` (seconds since 1970) if wanted |
//! | `DELETE /api/v1/revocations?subject=S` | takes one back; `token=`, `key=` and `issuer=` likewise |
//! | `GET /api/v1/devices?issuer=I&subject=S` | a subject's devices |
//! | `DELETE /api/v1/devices?issuer=I&subject=S` | forgets them, or the one named by `device=` |
//! | `GET /api/v1/streams?issuer=I&subject=S` | a subject's streams |
//! | `DELETE /api/v1/streams?issuer=I&subject=S&session=N` | ends one |

use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use keystore_types::KeyId;
use serde::{Deserialize, Serialize};

use super::Sessions;
use crate::store::{Change, Revocation, Revoked, Viewer};
use crate::{Error, UnixTime};

/// The most revocations at once: each node holds them all in memory.
const MAX_REVOCATIONS: usize = 100_000;

pub(crate) fn api(sessions: Arc<Sessions>) -> Router {
    Router::new()
        .route(
            "/api/v1/revocations",
            get(revocations).post(revoke).delete(reinstate),
        )
        .route("/api/v1/devices", get(devices).delete(forget))
        .route("/api/v1/streams", get(streams).delete(release))
        .with_state(sessions)
}

/// Why nothing was done (RFC 9457).
struct Fault(StatusCode, String);

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Problem {
            status: u16,
            detail: String,
        }
        let problem = Problem {
            status: self.0.as_u16(),
            detail: self.1,
        };
        let kind = [(CONTENT_TYPE, "application/problem+json")];
        (self.0, kind, Json(problem)).into_response()
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
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
        let fault = |what: &str| Err(Fault(StatusCode::BAD_REQUEST, what.to_owned()));
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

async fn revocations(State(sessions): State<Arc<Sessions>>) -> Result<Json<Revocations>, Fault> {
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
    State(sessions): State<Arc<Sessions>>,
    written: Result<Json<Written>, JsonRejection>,
) -> Result<StatusCode, Fault> {
    let Json(written) =
        written.map_err(|error| Fault(StatusCode::BAD_REQUEST, error.body_text()))?;
    let Some(revocations) = &sessions.revocations else {
        let off = "nothing is looked for among revocations: set license.sessions.revocations";
        return Err(Fault(StatusCode::CONFLICT, off.to_owned()));
    };
    let now = sessions.clock.now();
    let until = (written.until).map_or(UnixTime::MAX, UnixTime::from_seconds);
    if until <= now || until > UnixTime::MAX {
        let past = "until is no moment to come, in seconds since 1970";
        return Err(Fault(StatusCode::BAD_REQUEST, past.to_owned()));
    }
    let revocation = Revocation {
        what: written.read()?,
        made: now,
        until,
    };
    if revocations.read().await?.len() >= MAX_REVOCATIONS {
        let full =
            format!("there are {MAX_REVOCATIONS} revocations: let some end or take them back");
        return Err(Fault(StatusCode::CONFLICT, full));
    }
    sessions.store.change(Change::Revoke(revocation)).await?;
    revocations.read().await?;
    Ok(StatusCode::CREATED)
}

async fn reinstate(
    State(sessions): State<Arc<Sessions>>,
    Query(written): Query<Written>,
) -> Result<StatusCode, Fault> {
    let change = Change::Reinstate(written.read()?);
    let there = sessions.store.change(change).await? > 0;
    if let Some(revocations) = &sessions.revocations {
        revocations.read().await?;
    }
    done(there, "that is not revoked")
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Whose {
    issuer: String,
    subject: String,
    device: Option<String>,
    session: Option<String>,
}

impl Whose {
    fn viewer(&self) -> Viewer {
        Viewer::new(&self.issuer, &self.subject)
    }
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
    State(sessions): State<Arc<Sessions>>,
    Query(whose): Query<Whose>,
) -> Result<Json<Devices>, Fault> {
    let found = (sessions.store.devices(whose.viewer(), sessions.clock.now())).await?;
    let devices = found.into_iter().map(|device| Device {
        device: device.device,
        added: device.added.as_seconds(),
        seen: device.seen.as_seconds(),
    });
    Ok(Json(Devices {
        devices: devices.collect(),
    }))
}

async fn forget(
    State(sessions): State<Arc<Sessions>>,
    Query(whose): Query<Whose>,
) -> Result<StatusCode, Fault> {
    let forget = Change::Forget {
        viewer: whose.viewer(),
        device: whose.device,
    };
    let there = sessions.store.change(forget).await? > 0;
    done(there, "the subject has no such device")
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
    State(sessions): State<Arc<Sessions>>,
    Query(whose): Query<Whose>,
) -> Result<Json<Streams>, Fault> {
    let found = (sessions.store.streams(whose.viewer(), sessions.clock.now())).await?;
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

async fn release(
    State(sessions): State<Arc<Sessions>>,
    Query(whose): Query<Whose>,
) -> Result<StatusCode, Fault> {
    let viewer = whose.viewer();
    let Some(session) = whose.session else {
        let which = "session is missing: it says which stream ends".to_owned();
        return Err(Fault(StatusCode::BAD_REQUEST, which));
    };
    let release = Change::Release {
        viewer,
        session,
        events: Vec::new(),
    };
    let there = sessions.store.change(release).await? > 0;
    done(there, "the subject has no such stream")
}

fn done(there: bool, otherwise: &str) -> Result<StatusCode, Fault> {
    match there {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Fault(StatusCode::NOT_FOUND, otherwise.to_owned())),
    }
}
