//! The admin listener: health, metrics, the roles' API, and the player page. Plain HTTP/1.1, on loopback unless
//! configured otherwise. What the API lets whom do is the roles' matter.

mod guard;
pub(crate) mod health;
pub(crate) mod page;

use std::net::SocketAddr;

use axum::Router;
use axum::middleware;
use axum::routing::get;
use conf::AdminSettings;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;

use self::health::Readiness;
use crate::failure::{Exit, Failure};

/// An admin listener with its port taken.
pub(crate) struct Admin {
    listener: TcpListener,
    address: SocketAddr,
    hosts: Vec<String>,
}

impl Admin {
    /// Takes the port; `None` where the listener is off.
    pub(crate) async fn bind(settings: &AdminSettings) -> Result<Option<Self>, Failure> {
        let Some(address) = settings.address else {
            return Ok(None);
        };
        let refused = |error| {
            Failure::new(
                Exit::Failed,
                format!("cannot listen on {address} for administration: {error}"),
            )
        };
        let listener = TcpListener::bind(address).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        Ok(Some(Self {
            listener,
            address,
            hosts: settings.hosts.clone(),
        }))
    }

    /// The address with its real port.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until dropped. `api` is what the roles and the verb add.
    pub(crate) async fn serve(self, readiness: Readiness, metrics: PrometheusHandle, api: Router) {
        let allowed = guard::Hosts::new(self.address, self.hosts);
        let routes = Router::new()
            .merge(health::routes(readiness))
            .route("/metrics", get(move || async move { metrics.render() }))
            .merge(api)
            .layer(middleware::from_fn_with_state(allowed, guard::check));
        // Roles may answer peers of this host alone.
        let routes = routes.into_make_service_with_connect_info::<SocketAddr>();
        if let Err(error) = axum::serve(self.listener, routes).await {
            tracing::error!(%error, "the admin listener ended");
        }
    }
}

/// Seconds, from a manifest out of a cache to a segment for a slow viewer.
const SECONDS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Starts counting; what was counted before is lost, so this comes before any role.
pub(crate) fn start_metrics() -> Result<PrometheusHandle, Failure> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(|error| Failure::failed(format!("cannot count: {error}")))?;
    metrics::describe_gauge!("castellum_info", "The version that runs; always 1.");
    metrics::gauge!("castellum_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(handle)
}
