//! What operators may ask of the licence server, on the admin listener.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::header::CONTENT_TYPE;
use keystore_types::AssetId;
use serde::{Deserialize, Serialize};

use crate::decision_log::{DecisionLog, Entry, MAX_HELD};
use crate::exchange::vendor::Vendors;

/// `GET /api/v1/decisions?limit=N`: the latest decisions, newest first; 100 without a limit. With key exchange,
/// `POST /api/v1/orders/{asset}`: fetches the asset's keys from its vendor, with `?renew=true` under new ids.
pub(crate) fn api(decisions: Arc<DecisionLog>, vendors: Option<Arc<Vendors>>) -> Router {
    let api = Router::new()
        .route("/api/v1/decisions", get(latest))
        .with_state(decisions);
    match vendors {
        Some(vendors) => api.merge(
            Router::new()
                .route("/api/v1/orders/{asset}", post(order))
                .with_state(vendors),
        ),
        None => api,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ordering {
    #[serde(default)]
    renew: bool,
}

/// A problem (RFC 9457).
#[derive(Serialize)]
struct Problem {
    status: u16,
    title: &'static str,
    detail: String,
}

async fn order(
    State(vendors): State<Arc<Vendors>>,
    Path(asset): Path<AssetId>,
    Query(ordering): Query<Ordering>,
) -> Response {
    match vendors.fetch(&asset, ordering.renew).await {
        Ok(fetched) => Json(fetched).into_response(),
        Err(error) => {
            let status = error.status();
            let problem = Problem {
                status: status.as_u16(),
                title: error.reason(),
                detail: error.to_string(),
            };
            let kind = [(CONTENT_TYPE, "application/problem+json")];
            (status, kind, Json(problem)).into_response()
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    limit: Option<usize>,
}

#[derive(Serialize)]
struct Decisions {
    decisions: Vec<Entry>,
}

const DEFAULT_LIMIT: usize = 100;

async fn latest(State(log): State<Arc<DecisionLog>>, Query(page): Query<Page>) -> Json<Decisions> {
    let limit = page.limit.unwrap_or(DEFAULT_LIMIT).min(MAX_HELD);
    Json(Decisions {
        decisions: log.latest(limit),
    })
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;
    use crate::decision_log::{Draft, Outcome};
    use crate::policy::System;
    use crate::{Refusal, UnixTime};

    #[tokio::test]
    async fn the_latest_decisions_newest_first() {
        let log = Arc::new(DecisionLog::in_memory());
        for time in 1..=3 {
            let asset = "film".parse().unwrap();
            let system = System::Hls.as_str();
            let draft = Draft::new(UnixTime::from_seconds(time), system, Some(asset));
            log.record(draft, Outcome::from(&Refusal::NoToken));
        }
        for (uri, status, numbers) in [
            ("/api/v1/decisions", 200, &[3, 2, 1][..]),
            ("/api/v1/decisions?limit=2", 200, &[3, 2]),
            ("/api/v1/decisions?limit=0", 200, &[]),
            (
                "/api/v1/decisions?limit=18446744073709551615",
                200,
                &[3, 2, 1],
            ),
            ("/api/v1/decisions?limit=-1", 400, &[]),
            ("/api/v1/decisions?other=1", 400, &[]),
        ] {
            let request = http::Request::get(uri).body(Body::empty()).unwrap();
            let response = api(Arc::clone(&log), None).oneshot(request).await.unwrap();
            assert_eq!(response.status(), status, "{uri}");
            if status == 200 {
                let body = response.into_body().collect().await.unwrap().to_bytes();
                let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
                let found: Vec<_> = body["decisions"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|entry| entry["number"].as_u64().unwrap())
                    .collect();
                assert_eq!(found, numbers, "{uri}");
            }
        }
    }
}
