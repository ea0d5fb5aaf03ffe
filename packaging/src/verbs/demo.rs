//! `castellum demo`: everything on loopback, with no configuration and no root.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use axum::http::header::CACHE_CONTROL;
use axum::response::IntoResponse as _;
use axum::routing::get;
use axum::{Json, Router};
use conf::{LogFormat, LogSettings, OriginSettings, Transport};
use keystore_types::AssetId;
use origin::catalog::Catalog;

use super::serve::terminated;
use crate::admin::{self, Admin, page};
use crate::demo::{Bases, Links, PAGE, Ports, Stage};
use crate::failure::Failure;
use crate::output::{Output, Versioned};
use crate::roles::{Roles, control_runtime};
use crate::{logging, probe};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  castellum demo --media ~/films --port 9000")]
pub(crate) struct Args {
    /// Play the files of this folder, rather than the built-in title
    #[arg(long, value_name = "DIR")]
    media: Option<PathBuf>,
    /// Keep the demo's state, keys and secrets in this folder, and take them up again from it
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Take five ports from this one on, or free ones with 0; the usual ones without it
    #[arg(long, value_name = "N")]
    port: Option<u16>,
}

/// Every title must play within this.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// After the drain, background work may take this much longer.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) fn run(args: &Args, output: Output) -> Result<(), Failure> {
    // Quiet on a terminal, where the links are what matters.
    let filter = if output.is_json() { "info" } else { "warn" };
    logging::start(&LogSettings {
        format: LogFormat::Text,
        filter: filter.to_owned(),
        access: false,
    })?;
    let ports = match args.port {
        None => Ports::usual(),
        Some(0) => Ports::FREE,
        Some(first) => Ports::from(first)
            .ok_or_else(|| Failure::usage("there are no five ports from there on"))?,
    };
    let stage = Arc::new(Stage::set(args.media.as_deref(), args.keep.as_deref())?);
    let runtime = control_runtime()?;
    let outcome = runtime.block_on(demo(&stage, &ports, output));
    // The folder goes last, when nobody writes to it any more.
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    drop(stage);
    outcome
}

async fn demo(stage: &Arc<Stage>, ports: &Ports, output: Output) -> Result<(), Failure> {
    let ended = terminated().map_err(Failure::failed)?;
    tokio::pin!(ended);
    let metrics = admin::start_metrics()?;
    let mut settings = stage.settings(ports)?;
    let certificate = || stage.ca().issue().map(Some).map_err(Failure::failed);

    let mut roles = Roles::with_keystore(&settings.keystore).await?;
    let license = Listeners::of(&roles.license(&settings.license, certificate()?)?)?;
    settings.origin.license_url = format!("http://{}", license.plain);
    let opened = roles.origin(&settings.origin, certificate()?).await?;
    let origin = Listeners::of(&opened.addresses)?;

    let playing = async {
        let assets = settled(&opened.catalog).await?;
        playable(origin.plain, &settings.origin, assets).await
    };
    let assets = tokio::select! {
        assets = playing => assets?,
        () = &mut ended => return roles.until(async {}, settings.origin.drain).await,
    };

    // The admin listener opens last: its own address is part of what it says.
    let admin = Admin::bind(&settings.origin.admin).await?;
    let admin = admin.ok_or_else(|| Failure::failed("the demo's admin listener is off"))?;
    let bases = Bases {
        admin: admin.address(),
        origin: origin.plain,
        origin_tls: origin.tls,
        license: license.plain,
        license_tls: license.tls,
    };
    let drain = settings.origin.drain;
    let describe = Describe {
        stage: Arc::clone(stage),
        bases,
        settings: settings.origin,
        assets,
    };
    let links = describe.links()?;
    roles.admin(admin, metrics, api(Arc::new(describe)));
    answers(bases.admin, "GET", "/").await?;

    output.say(&links, Links::text)?;
    roles.until(ended, drain).await
}

/// The listeners of a role of the demo.
#[derive(Clone, Copy)]
struct Listeners {
    plain: SocketAddr,
    tls: SocketAddr,
}

impl Listeners {
    fn of(addresses: &[(Transport, SocketAddr)]) -> Result<Self, Failure> {
        let mut found = [None; 2];
        for (transport, address) in addresses {
            found[usize::from(*transport != Transport::Plain)] = Some(*address);
        }
        let [plain, tls] = found;
        let missing = || Failure::failed("a listener of the demo is missing");
        Ok(Self {
            plain: plain.ok_or_else(missing)?,
            tls: tls.ok_or_else(missing)?,
        })
    }
}

/// What the demo says of itself, with a fresh token each time.
struct Describe {
    stage: Arc<Stage>,
    bases: Bases,
    settings: OriginSettings,
    assets: Vec<AssetId>,
}

impl Describe {
    fn links(&self) -> Result<Links, Failure> {
        let token = self.stage.token(&self.assets)?;
        Ok(Links::new(
            self.bases,
            self.stage.ca_path(),
            &self.settings,
            &self.assets,
            token,
        ))
    }
}

fn api(describe: Arc<Describe>) -> Router {
    let links = move || async move {
        match describe.links() {
            Ok(links) => {
                ([(CACHE_CONTROL, "no-store")], Json(Versioned::new(&links))).into_response()
            }
            Err(failure) => {
                tracing::error!(%failure, "the demo cannot describe itself");
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        }
    };
    Router::new()
        .route("/api/v1/demo", get(links))
        .merge(page::routes(PAGE))
}

/// The assets of the media root, once nothing in it is still being written. What is left out is said.
async fn settled(catalog: &Catalog) -> Result<Vec<AssetId>, Failure> {
    let deadline = Instant::now() + START_TIMEOUT;
    let listing = loop {
        let listing = catalog.listing();
        if listing.settling == 0 || Instant::now() > deadline {
            break listing;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    for left_out in &listing.left_out {
        let (path, reason) = (left_out.path.display(), &left_out.reason);
        eprintln!("{path} is not served: {reason}");
    }
    if listing.assets.is_empty() {
        return Err(Failure::failed(
            "there is no title to play: ROOT/NAME.mp4, or ROOT/NAME/*.mp4",
        ));
    }
    Ok(listing.assets.keys().cloned().collect())
}

/// Those of `assets` whose every manifest answers; the others are named on standard error.
async fn playable(
    origin: SocketAddr,
    settings: &OriginSettings,
    assets: Vec<AssetId>,
) -> Result<Vec<AssetId>, Failure> {
    let mut fit = Vec::new();
    for asset in assets {
        let mut refused = None;
        for policy in settings.policies.keys() {
            for manifest in ["main.m3u8", "main.mpd"] {
                let path = format!("/v1/{asset}/{policy}/{manifest}");
                if let Err(failure) = answers(origin, "GET", &path).await {
                    refused = Some(failure);
                }
            }
        }
        match refused {
            None => fit.push(asset),
            Some(failure) => eprintln!("{asset} is not served: {failure}"),
        }
    }
    match fit.len() {
        0 => Err(Failure::failed("there is no title to play")),
        _ => Ok(fit),
    }
}

/// Waits for a 200. A 503 is asked again: an index is being built.
async fn answers(address: SocketAddr, method: &str, path: &str) -> Result<(), Failure> {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        let failed = |what: &dyn std::fmt::Display| {
            Failure::failed(format!("http://{address}{path} answers {what}"))
        };
        match probe::ask(address, method, path).await {
            Ok(answer) if answer.status == 200 => return Ok(()),
            Ok(answer) if answer.status != 503 || Instant::now() > deadline => {
                return Err(failed(&format!("{}: {}", answer.status, answer.detail())));
            }
            Err(error) if Instant::now() > deadline => return Err(failed(&error)),
            Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
