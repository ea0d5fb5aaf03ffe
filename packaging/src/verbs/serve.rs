//! `castellum serve`: the daemon.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use axum::Router;
use clap::ValueEnum;
use conf::Settings;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};

use super::ConfigFile;
use crate::admin::{self, Admin};
use crate::failure::{Exit, Failure};
use crate::logging;
use crate::roles::{Roles, control_runtime};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  castellum serve --role origin -c /etc/castellum/castellum.toml"
)]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigFile,
    /// The roles of this process; all of them without it
    #[arg(long = "role", value_enum, value_delimiter = ',', value_name = "ROLE")]
    roles: Vec<Role>,
}

/// A role of the appliance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Packages and serves media
    Origin,
    /// Answers licence requests
    License,
    /// Keeps keys
    Keystore,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let settings = args.config.load()?;
    logging::start(&settings.log)?;
    let all = [Role::Keystore, Role::License, Role::Origin];
    let roles = if args.roles.is_empty() {
        &all[..]
    } else {
        &args.roles[..]
    };
    control_runtime()?.block_on(serve(&settings, roles))
}

async fn serve(settings: &Settings, wanted: &[Role]) -> Result<(), Failure> {
    if !wanted.contains(&Role::Origin) {
        keystore::wipe_freed_memory();
    }
    let metrics = admin::start_metrics()?;
    // Taken before anything is open, so that none is missed.
    let shutdown =
        first_of(&[SignalKind::terminate(), SignalKind::interrupt()]).map_err(Failure::failed)?;

    let mut roles = match &settings.core {
        Some(_) if wanted.contains(&Role::Keystore) => {
            return Err(Failure::new(
                Exit::Config,
                "keystore.core: this machine asks the keystore of another, and has none of its own: \
                 say --role origin, license or both",
            ));
        }
        Some(core) => Roles::with_core(core)?,
        None if wanted.contains(&Role::Keystore) => {
            Roles::with_keystore(&settings.keystore).await?
        }
        None => Roles::with_keystore_at(&settings.origin.keystore_socket),
    };
    if wanted.contains(&Role::License) {
        roles.license(&settings.license, None)?;
    }
    if wanted.contains(&Role::Origin) {
        roles.origin(&settings.origin, None).await?;
    }
    // One process has one admin listener.
    let admin = if wanted.contains(&Role::Origin) {
        Admin::bind(&settings.origin.admin).await?
    } else if wanted.contains(&Role::License) {
        Admin::bind(&settings.license.admin).await?
    } else {
        Admin::bind(&settings.keystore.admin).await?
    };
    if let Some(admin) = admin {
        roles.admin(admin, metrics, Router::new());
    }

    tell_systemd(&[NotifyState::Ready]);
    tracing::info!(roles = ?wanted, version = env!("CARGO_PKG_VERSION"), "serving");
    let shutdown = async {
        shutdown.await;
        tracing::info!("draining");
        tell_systemd(&[NotifyState::Stopping]);
    };
    roles.until(shutdown, settings.origin.drain).await?;
    tracing::info!("ended");
    Ok(())
}

/// Resolves at the first of these signals from now on.
pub(crate) fn first_of(kinds: &[SignalKind]) -> io::Result<impl Future<Output = ()> + use<>> {
    let mut signals: Vec<_> = kinds
        .iter()
        .map(|kind| signal(*kind))
        .collect::<Result<_, _>>()?;
    Ok(poll_fn(move |context| {
        match signals
            .iter_mut()
            .any(|signal| signal.poll_recv(context).is_ready())
        {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }))
}

/// Tells systemd, where it asked to be told (`NOTIFY_SOCKET`, sd_notify(3)).
fn tell_systemd(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot tell systemd");
    }
}
