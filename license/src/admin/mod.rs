//! What operators may ask of the licence server, on the admin listener.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::{any, get, post};
use axum::{Router, middleware};
use conf::SecretSource;
use keystore_types::AssetId;
use serde::{Deserialize, Serialize};

use self::fault::{Fault, Json, Path, Query};
use self::guard::Guard;
use crate::decision_log::{DecisionLog, Entry, MAX_HELD};
use crate::exchange::vendor::{Fetched, Vendors};
use crate::session::Sessions;
use crate::{Error, session};

pub(crate) mod fault;
mod guard;

/// What operators may ask, before it is known who they are: `license/design/api.md` has every URL of it.
pub(crate) struct Api {
    pub(crate) decisions: Arc<DecisionLog>,
    pub(crate) sessions: Arc<Sessions>,
    /// The configured names of issuers.
    pub(crate) issuers: Vec<String>,
    /// With key exchange alone.
    pub(crate) vendors: Option<Arc<Vendors>>,
}

impl Api {
    /// The URLs, for those who have the token or, without one, are on this host.
    ///
    /// # Errors
    /// A token that cannot be read or is not fit.
    pub(crate) fn guarded(self, token: Option<&SecretSource>) -> Result<Router, Error> {
        let guard = Arc::new(Guard::open(token)?);
        Ok(self
            .routes()
            .layer(middleware::from_fn_with_state(guard, guard::check)))
    }

    fn routes(self) -> Router {
        let mut routes = Router::new()
            .route("/api/v1/decisions", get(latest))
            .with_state(self.decisions)
            .merge(session::api::api(self.sessions, self.issuers))
            .route("/api/v1/{*path}", any(fault::not_found));
        if let Some(vendors) = self.vendors {
            let orders = Router::new().route("/api/v1/orders/{asset}", post(order));
            routes = routes.merge(orders.with_state(vendors));
        }
        routes.method_not_allowed_fallback(fault::method_not_allowed)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ordering {
    #[serde(default)]
    renew: bool,
}

/// Fetches the asset's keys from its vendor; with `renew` under new ids.
async fn order(
    State(vendors): State<Arc<Vendors>>,
    Path(asset): Path<AssetId>,
    Query(ordering): Query<Ordering>,
) -> Result<Json<Fetched>, Fault> {
    let fetched = vendors.fetch(&asset, ordering.renew).await;
    fetched.map(Json).map_err(|error| {
        let title = "The keys were not fetched.";
        Fault::new(error.status(), error.reason(), title, error.to_string())
    })
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

/// The latest decisions, newest first.
async fn latest(State(log): State<Arc<DecisionLog>>, Query(page): Query<Page>) -> Json<Decisions> {
    let limit = page.limit.unwrap_or(DEFAULT_LIMIT).min(MAX_HELD);
    Json(Decisions {
        decisions: log.latest(limit),
    })
}

#[cfg(test)]
mod tests;
