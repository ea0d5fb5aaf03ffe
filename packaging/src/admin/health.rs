//! `/livez`: the process turns. `/startupz`: it has started. `/readyz`: it should be sent work, that is, its keystore is
//! unsealed and it is not draining; `?verbose` lists the checks.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::http::header::CACHE_CONTROL;
use axum::response::IntoResponse;
use axum::routing::get;
use keystore_client::SealState;
use origin_front::Drain;
use tokio::sync::watch;

/// One thing that must be so for the process to be ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Check {
    name: &'static str,
    ok: bool,
    detail: &'static str,
}

/// Asks for everything that readiness depends on.
pub(crate) type Readiness = Box<dyn Fn() -> Vec<Check> + Send + Sync>;

/// The readiness of a process that takes its keys from the keystore of this seal.
pub(crate) fn readiness(drain: Drain, seal: watch::Receiver<SealState>) -> Readiness {
    Box::new(move || {
        let seal = *seal.borrow();
        let draining = !drain.is_ready();
        vec![
            Check {
                name: "draining",
                ok: !draining,
                detail: if draining {
                    "the process is ending"
                } else {
                    "serving"
                },
            },
            Check {
                name: "keystore",
                ok: seal == SealState::Unsealed,
                detail: match seal {
                    SealState::Unsealed => "unsealed",
                    SealState::Sealed => "sealed",
                    SealState::Uninitialised => "not initialised",
                    SealState::Unreachable => "unreachable",
                },
            },
        ]
    })
}

pub(super) fn routes(readiness: Readiness) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        // The listener answers only once every role has its ports and state.
        .route("/startupz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(Arc::new(readiness))
}

async fn ready(
    State(readiness): State<Arc<Readiness>>,
    RawQuery(query): RawQuery,
) -> impl IntoResponse {
    let checks = readiness();
    let verbose = query.as_deref() == Some("verbose");
    let ready = checks.iter().all(|check| check.ok);
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let mut body = if ready { "ready\n" } else { "not ready\n" }.to_owned();
    for check in checks.iter().filter(|check| verbose || !check.ok) {
        let _ = writeln!(body, "{}: {}", check.name, check.detail);
    }
    (status, [(CACHE_CONTROL, "no-store")], body)
}
