//! The player page: the one built into the binary, else a plain one that lists the links.

use axum::Router;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::IntoResponse;
use axum::routing::get;

/// A file of the page.
#[derive(Clone, Copy)]
pub(crate) struct Asset {
    /// Its name below `/`.
    pub(crate) name: &'static str,
    /// Its content.
    pub(crate) content: &'static [u8],
}

/// What stands in for the page where Node has not built one.
const PLAIN: &[Asset] = &[
    Asset {
        name: "index.html",
        content: include_bytes!("plain.html"),
    },
    Asset {
        name: "plain.js",
        content: include_bytes!("plain.js"),
    },
];

/// Players fetch media and licences from other ports and feed them to MediaSource (`blob:`); nothing else is loaded.
const POLICY: &str = "default-src 'self'; connect-src http: https: blob: data:; media-src blob: http: https: data:; \
                      worker-src 'self' blob:; img-src 'self' data:; style-src 'self' 'unsafe-inline'; \
                      frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// Routes to every file of the page, and `/` to its `index.html`.
pub(crate) fn routes(built: &'static [(&'static str, &'static [u8])]) -> Router {
    let built: Vec<Asset> = built
        .iter()
        .map(|&(name, content)| Asset { name, content })
        .collect();
    let page = if built.iter().any(|asset| asset.name == "index.html") {
        &built
    } else {
        PLAIN
    };
    page.iter().fold(Router::new(), |routes, &asset| {
        let path = match asset.name {
            "index.html" => "/".to_owned(),
            name => format!("/{name}"),
        };
        routes.route(&path, get(move || async move { serve(asset) }))
    })
}

fn serve(asset: Asset) -> impl IntoResponse {
    let headers = [
        (CONTENT_TYPE, content_type(asset.name)),
        (CACHE_CONTROL, "no-cache"),
        (CONTENT_SECURITY_POLICY, POLICY),
    ];
    (headers, asset.content)
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("json" | "map") => "application/json",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("woff2") => "font/woff2",
        _ => "application/octet-stream",
    }
}
