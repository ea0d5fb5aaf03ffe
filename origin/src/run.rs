//! The origin put together: storage, catalogue, keys, views, listeners.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use conf::{Ciphers, ColdReads, OriginSettings, StorageMode, Transport};
use keystore_client::Keystore;
use keystore_types::{DrmSystem, HlsClearKeyFlavour, Label, ProtectionPolicy};
use origin_cipher::Form;
use origin_front::{Bound, Drain, Limits, Tls, Workers};
use origin_media::presentation::Pack;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Handle;

use crate::catalog::{Catalog, CatalogPaths};
use crate::control::Server;
use crate::error::Error;
use crate::export::Export;
use crate::http::Views;
use crate::ingest::Ingest;
use crate::keys::Keys;
use crate::packages::{Packages, Policy, scheme};
use crate::storage::{ColdChoice, Storage};
use crate::verbs::Verbs;

/// A running origin.
pub struct Origin {
    listeners: Vec<(Transport, SocketAddr)>,
    packages: Arc<Packages>,
    views: Arc<Views>,
    workers: Workers,
}

/// Starts the origin: when this returns, its listeners answer. Background work runs on the present runtime,
/// which must outlive it; it ends with the drain.
///
/// # Errors
/// If a folder, the database, a socket or a thread cannot be had.
pub async fn start(
    settings: &OriginSettings,
    tls: Option<&Tls>,
    keystore: Arc<dyn Keystore>,
    drain: &Drain,
) -> Result<Origin, Error> {
    raise_descriptor_limit();
    let control = Handle::current();
    let cold = match settings.storage.cold {
        ColdReads::Auto => ColdChoice::Auto,
        ColdReads::Uring => ColdChoice::IoUring,
        ColdReads::Blocking => ColdChoice::Threads,
    };
    let maps = match settings.storage.mode {
        StorageMode::Map => true,
        StorageMode::Read => false,
    };
    let storage = Storage::start(maps, cold).map_err(Error::internal)?;
    let form = form(settings.ciphers)?;
    tracing::info!(%form, "ciphers chosen");
    let paths = CatalogPaths {
        media_root: settings.media_root.clone(),
        state_dir: settings.state_dir.clone(),
        cache_dir: settings.cache_dir.clone(),
    };
    let catalog = Catalog::open(&paths, settings.settle, storage, control).await?;
    let packs = packs(settings);
    let policies = policies(settings);
    let packages = Arc::new(Packages::new(
        Arc::clone(&catalog),
        Keys::new(keystore, form),
        packs,
        settings.tenant.name.clone(),
        settings.hold,
    ));
    let views = Views::new(
        Arc::clone(&packages),
        policies,
        &settings.cache,
        settings.alias_ttl,
    );

    let limits = Limits::new(settings.limits.clone());
    let mut bound = Vec::new();
    let mut listeners = Vec::new();
    for listener in &settings.listeners {
        let name = match listener.transport {
            Transport::Plain => "origin-plain",
            Transport::Tls { .. } => "origin-tls",
        };
        let open =
            Bound::open(name, listener, tls, settings.workers.get()).map_err(Error::internal)?;
        listeners.push((listener.transport, open.address()));
        bound.push(open);
    }
    let ingest =
        Ingest::new(Arc::clone(&packages), settings.media_root.clone()).map_err(Error::internal)?;
    let export = Export::new(Arc::clone(&packages), Arc::clone(&views));
    let verbs = Arc::new(Verbs { ingest, export });
    let server = Server::bind(&settings.control_socket).map_err(|error| {
        Error::Internal(format!("{}: {error}", settings.control_socket.display()))
    })?;
    let workers = Workers::start(
        "origin",
        settings.workers,
        bound,
        || views.service(),
        &limits,
        drain,
    )
    .map_err(Error::internal)?;
    let ended = drain.clone();
    let every = settings.scan_interval;
    let sweeping = Arc::clone(&packages);
    tokio::spawn(async move {
        tokio::select! {
            () = ended.reached(origin_front::Phase::Ended) => {}
            () = catalog.keep_scanning(every) => {}
            () = sweeping.keep_sweeping() => {}
            () = server.serve(verbs) => {}
        }
    });
    Ok(Origin {
        listeners,
        packages,
        views,
        workers,
    })
}

impl Origin {
    /// The listeners' transports and addresses, with real ports, in the order of the settings.
    pub fn listeners(&self) -> &[(Transport, SocketAddr)] {
        &self.listeners
    }

    /// The assets of the media root.
    pub fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(self.packages.catalog())
    }

    /// What an operator may read of it: see [`crate::admin`].
    pub fn admin(&self) -> axum::Router {
        crate::admin::router(Arc::clone(&self.packages), Arc::clone(&self.views))
    }

    /// Resolves when the drain has run its course and every worker has ended.
    pub async fn ended(self) {
        self.workers.ended().await;
    }
}

/// The form that the settings name, which the processor must have.
fn form(ciphers: Ciphers) -> Result<Form, Error> {
    let form = match ciphers {
        Ciphers::Auto => Form::best(),
        Ciphers::Vaes => Form::Vaes,
        Ciphers::AesNi => Form::AesNi,
        Ciphers::Portable => Form::Portable,
    };
    if form.is_available() {
        return Ok(form);
    }
    Err(Error::internal(format_args!(
        "origin.ciphers is {form}, which this processor lacks: set it to \"auto\""
    )))
}

/// Lets the process have as many descriptors as it may: the soft limit is 1,024 for programs that use select(2).
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
}

fn packs(settings: &OriginSettings) -> BTreeMap<String, Pack> {
    settings
        .packs
        .iter()
        .filter(|(_, pack)| settings.tenant.allow_clear || scheme(pack.scheme).is_some())
        .map(|(name, pack)| {
            let segment_duration_ms =
                u32::try_from(pack.segment_duration.as_millis()).unwrap_or(u32::MAX);
            let pack = Pack {
                name: name.clone(),
                scheme: scheme(pack.scheme),
                segment_duration_ms,
                writer: pack.writer,
            };
            (name.clone(), pack)
        })
        .collect()
}

/// The policies that the tenant allows.
fn policies(settings: &OriginSettings) -> BTreeMap<String, Policy> {
    let mut policies = BTreeMap::new();
    for (name, policy) in &settings.policies {
        let Some(pack) = settings.packs.get(&policy.pack) else {
            continue;
        };
        let scheme = scheme(pack.scheme);
        let clear_key = policy.systems.contains(&conf::System::ClearKey);
        if (scheme.is_none() && !settings.tenant.allow_clear)
            || (clear_key && !settings.tenant.allow_clear_key)
        {
            tracing::warn!(
                policy = name,
                tenant = settings.tenant.name,
                "the tenant does not allow this policy"
            );
            continue;
        }
        let protection = scheme.map(|scheme| ProtectionPolicy {
            scheme,
            systems: policy
                .systems
                .iter()
                .map(|&system| drm_system(system))
                .collect(),
            hls_clear_key: match policy.hls_clear_key {
                conf::HlsClearKey::ClearKey => HlsClearKeyFlavour::ClearKey,
                conf::HlsClearKey::Identity => HlsClearKeyFlavour::Identity,
                conf::HlsClearKey::Both => HlsClearKeyFlavour::Both,
            },
        });
        policies.insert(
            name.clone(),
            Policy {
                name: name.clone(),
                pack: policy.pack.clone(),
                protection,
                license_url: settings.license_url.clone(),
                max_video: policy.license.max_video.map(label),
                writer: policy.writer,
            },
        );
    }
    policies
}

fn label(label: conf::TrackLabel) -> Label {
    match label {
        conf::TrackLabel::Audio => Label::Audio,
        conf::TrackLabel::Sd => Label::Sd,
        conf::TrackLabel::Hd => Label::Hd,
        conf::TrackLabel::Uhd1 => Label::Uhd1,
        conf::TrackLabel::Uhd2 => Label::Uhd2,
    }
}

fn drm_system(system: conf::System) -> DrmSystem {
    match system {
        conf::System::ClearKey => DrmSystem::ClearKey,
        conf::System::Widevine => DrmSystem::Widevine,
        conf::System::PlayReady => DrmSystem::PlayReady,
        conf::System::FairPlay => DrmSystem::FairPlay,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names of packs and policies that a tenant is given.
    fn given(allow_clear: bool, allow_clear_key: bool) -> (Vec<String>, Vec<String>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("castellum.toml");
        let text = format!(
            r#"
[license]
public_url = "http://license.invalid"
[packs.cbcs]
scheme = "cbcs"
[packs.clear]
scheme = "clear"
[policies.browser]
pack = "cbcs"
systems = ["clearkey"]
[policies.television]
pack = "cbcs"
systems = ["widevine"]
[policies.clear]
pack = "clear"
[tenants.default]
allow_clear = {allow_clear}
allow_clear_key = {allow_clear_key}
"#
        );
        std::fs::write(&path, text).unwrap();
        let settings = conf::load(Some(&path)).unwrap().origin;
        let packs = packs(&settings).into_keys().collect();
        (packs, policies(&settings).into_keys().collect())
    }

    #[test]
    fn a_tenant_has_the_policies_that_it_allows() {
        let (packs, policies) = given(true, true);
        assert_eq!(packs, ["cbcs", "clear"]);
        assert_eq!(policies, ["browser", "clear", "television"]);
        let (packs, policies) = given(false, true);
        assert_eq!(packs, ["cbcs"], "no clear segment by any name");
        assert_eq!(policies, ["browser", "television"]);
        let (packs, policies) = given(true, false);
        assert_eq!(packs, ["cbcs", "clear"]);
        assert_eq!(policies, ["clear", "television"]);
    }
}
