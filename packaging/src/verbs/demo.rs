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
use origin::catalog::{Catalog, Listing};
use origin::error::Error;
use origin::report;
use tokio::signal::unix::SignalKind;

use super::serve::first_of;
use crate::admin::{self, Admin, page};
use crate::demo::{Bases, Links, PAGE, Ports, Stage};
use crate::failure::{Exit, Failure};
use crate::output::{Output, Versioned};
use crate::roles::{Roles, control_runtime};
use crate::{logging, probe};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  castellum demo --media ~/films --port 9000")]
pub(crate) struct Args {
    /// Play the files of this folder, rather than the built-in title
    #[arg(long, value_name = "DIR")]
    media: Option<PathBuf>,
    /// Keep the demo's state, keys and secrets in this folder, and take them up again from it; the certificates and
    /// their CA (`ca.pem`) are new each time
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Take five ports from this one on: origin over TLS, origin plain, licence server over TLS, licence server plain,
    /// player page and admin; 0 takes free ones. Without it 8443, 8080, 8444, 8081 and 9090, or free ones for those
    /// that are taken
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

/// Whether the process was started with this signal ignored (`SigIgn` of proc(5), a bit for each signal from 1).
fn is_ignored(signal: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask >> (signal.as_raw_value() - 1) & 1 == 1)
}

async fn demo(stage: &Arc<Stage>, ports: &Ports, output: Output) -> Result<(), Failure> {
    let mut ends = vec![
        SignalKind::terminate(),
        SignalKind::interrupt(),
        SignalKind::quit(),
    ];
    // nohup(1) asks to outlive its terminal.
    if !is_ignored(SignalKind::hangup()) {
        ends.push(SignalKind::hangup());
    }
    let ended = first_of(&ends).map_err(Failure::failed)?;
    tokio::pin!(ended);
    let metrics = admin::start_metrics()?;
    let mut settings = stage.settings(ports)?;
    let certificate = || stage.ca().issue().map(Some).map_err(Failure::failed);

    let mut roles = Roles::with_keystore(&settings.keystore).await?;
    let license = Listeners::of(&roles.license(&settings.license, certificate()?)?)?;
    settings.origin.license_url = format!("http://{}", license.plain);
    let opened = roles.origin(&settings.origin, certificate()?).await?;
    let origin = Listeners::of(&opened.addresses)?;

    let playing = async { titles(&opened.catalog, &settings.origin, origin.plain).await };
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
            self.stage.issuer(),
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

/// The titles of the media root that play. Whatever is left out is said, with the reason: on standard error, or as the
/// failure where nothing plays.
async fn titles(
    catalog: &Arc<Catalog>,
    settings: &OriginSettings,
    origin: SocketAddr,
) -> Result<Vec<AssetId>, Failure> {
    let listing = settled(catalog).await;
    let mut fit = Vec::new();
    let mut left_out: Vec<String> = listing
        .left_out
        .iter()
        .map(|left| format!("{}: {}", left.path.display(), left.reason))
        .collect();
    for asset in listing.assets.keys() {
        match playable(catalog, settings, origin, asset).await {
            Ok(parts) => {
                left_out.extend(parts);
                fit.push(asset.clone());
            }
            Err(reason) => left_out.push(format!("{asset}: {reason}")),
        }
    }
    if fit.is_empty() {
        let root = settings.media_root.display();
        left_out.insert(0, format!("there is no title to play in {root}"));
        return Err(Failure::with_help(
            Exit::Failed,
            left_out.join("\n"),
            format!("a title is {root}/NAME.mp4, or the .mp4 files of {root}/NAME"),
        ));
    }
    for line in left_out {
        eprintln!("left out: {line}");
    }
    Ok(fit)
}

/// What the media root holds, once nothing in it is still being written.
async fn settled(catalog: &Catalog) -> Arc<Listing> {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        let listing = catalog.listing();
        if listing.settling == 0 || Instant::now() > deadline {
            return listing;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Asks for every manifest of an asset, and names the files and tracks that these leave out.
///
/// # Errors
/// Why the asset does not play.
async fn playable(
    catalog: &Arc<Catalog>,
    settings: &OriginSettings,
    origin: SocketAddr,
    asset: &AssetId,
) -> Result<Vec<String>, String> {
    if let Err(Error::Unfit { reason, .. }) = catalog.title(asset).await {
        return Err(reason);
    }
    for policy in settings.policies.keys() {
        for manifest in ["main.m3u8", "main.mpd"] {
            let path = format!("/v1/{asset}/{policy}/{manifest}");
            answers(origin, "GET", &path)
                .await
                .map_err(|failure| failure.to_string())?;
        }
    }
    let title = catalog
        .title(asset)
        .await
        .map_err(|error| error.to_string())?;
    let files = title
        .refused
        .iter()
        .map(|(name, reason)| format!("{asset}/{name}: {reason}"));
    let tracks = title.sources.iter().flat_map(|source| {
        let file = source.path.strip_prefix(&settings.media_root);
        let file = file.unwrap_or(&source.path).display();
        report::ignored(&source.index)
            .into_iter()
            .map(move |track| format!("{file}: {track}"))
    });
    Ok(files.chain(tracks).collect())
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
