//! What an operator may read of the origin, as JSON under `/api/v1`. It changes nothing.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use keystore_types::AssetId;
use serde::Serialize;

use crate::error::Error;
use crate::http::Views;
use crate::package::assemble;
use crate::packages::Packages;
use crate::report;

#[derive(Clone)]
struct Admin {
    packages: Arc<Packages>,
    views: Arc<Views>,
}

/// `GET /api/v1/assets`, `/api/v1/assets/{asset}`, `/api/v1/policies`.
pub(crate) fn router(packages: Arc<Packages>, views: Arc<Views>) -> Router {
    Router::new()
        .route("/api/v1/assets", get(assets))
        .route("/api/v1/assets/{asset}", get(asset))
        .route("/api/v1/policies", get(policies))
        .with_state(Admin { packages, views })
}

/// The media root as it was looked through last.
#[derive(Serialize)]
struct Assets {
    assets: Vec<AssetLine>,
    left_out: Vec<LeftOutLine>,
}

#[derive(Serialize)]
struct AssetLine {
    id: AssetId,
    files: Vec<String>,
}

#[derive(Serialize)]
struct LeftOutLine {
    path: String,
    reason: String,
}

async fn assets(State(admin): State<Admin>) -> Json<Assets> {
    let listing = admin.packages.catalog().listing();
    let assets = listing
        .assets
        .values()
        .map(|asset| AssetLine {
            id: asset.id.clone(),
            files: asset.files.iter().map(|file| file.name.clone()).collect(),
        })
        .collect();
    let left_out = listing
        .left_out
        .iter()
        .map(|left| LeftOutLine {
            path: left.path.display().to_string(),
            reason: left.reason.clone(),
        })
        .collect();
    Json(Assets { assets, left_out })
}

/// An asset, opened.
#[derive(Serialize)]
struct AssetDetail {
    id: AssetId,
    sources: Vec<SourceDetail>,
    refused: Vec<LeftOutLine>,
    packs: Vec<PackDetail>,
}

#[derive(Serialize)]
struct SourceDetail {
    name: String,
    bytes: u64,
    identity: String,
    content_number: u32,
    tracks: Vec<String>,
    ignored: Vec<String>,
}

#[derive(Serialize)]
struct PackDetail {
    pack: String,
    renditions: Vec<String>,
    segments: u32,
    /// Why it cannot be packaged so, if it cannot.
    fault: Option<String>,
}

async fn asset(
    State(admin): State<Admin>,
    Path(id): Path<String>,
) -> Result<Json<AssetDetail>, (StatusCode, Json<serde_json::Value>)> {
    let id: AssetId = id.parse().map_err(|_| refusal(&Error::NotFound))?;
    let title = admin
        .packages
        .catalog()
        .title(&id)
        .await
        .map_err(|error| refusal(&error))?;
    let packs = admin
        .packages
        .packs()
        .values()
        .map(|pack| match assemble(&title, pack) {
            Ok(presentation) => {
                let (renditions, segments) = report::renditions(&presentation);
                PackDetail {
                    pack: pack.name.clone(),
                    renditions,
                    segments,
                    fault: None,
                }
            }
            Err(error) => PackDetail {
                pack: pack.name.clone(),
                renditions: Vec::new(),
                segments: 0,
                fault: Some(error.to_string()),
            },
        })
        .collect();
    let sources = title
        .sources
        .iter()
        .map(|source| SourceDetail {
            name: source.name.clone(),
            bytes: source.index.file_len(),
            identity: source.identity.to_string(),
            content_number: source.number,
            tracks: report::tracks(&source.index),
            ignored: report::ignored(&source.index),
        })
        .collect();
    let refused = title
        .refused
        .iter()
        .map(|(path, reason)| LeftOutLine {
            path: path.clone(),
            reason: reason.clone(),
        })
        .collect();
    Ok(Json(AssetDetail {
        id,
        sources,
        refused,
        packs,
    }))
}

fn refusal(error: &Error) -> (StatusCode, Json<serde_json::Value>) {
    let status = match error {
        Error::NotFound | Error::Malformed | Error::Gone => StatusCode::NOT_FOUND,
        Error::Unfit { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        Error::Settling { .. }
        | Error::Quarantined { .. }
        | Error::Sealed
        | Error::Keystore(_)
        | Error::Storage(_) => StatusCode::SERVICE_UNAVAILABLE,
        Error::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (
        status,
        Json(serde_json::json!({ "error": error.to_string() })),
    )
}

#[derive(Serialize)]
struct PolicyLine {
    name: String,
    pack: String,
    scheme: &'static str,
}

async fn policies(State(admin): State<Admin>) -> Json<Vec<PolicyLine>> {
    let scheme = |policy: &crate::packages::Policy| {
        policy
            .protection
            .as_ref()
            .map_or("clear", |protection| protection.scheme.as_str())
    };
    let lines = admin.views.policies().values().map(|policy| PolicyLine {
        name: policy.name.clone(),
        pack: policy.pack.clone(),
        scheme: scheme(policy),
    });
    Json(lines.collect())
}
