//! `castellum health`: whether a running role is ready, for people and for container health checks.

use std::net::SocketAddr;
use std::time::Duration;

use keystore_client::SealState;
use keystore_client::admin::Admin as _;
use keystore_client::socket::AdminSocket;
use serde::Serialize;

use super::serve::Role;
use super::{ConfigFile, converse};
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::probe;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  castellum health --role origin")]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigFile,
    /// The role to ask; the origin also answers for all roles of one process
    #[arg(long, value_enum, default_value = "origin")]
    role: Role,
}

#[derive(Serialize)]
struct Health {
    ready: bool,
    /// Not ready because keys cannot be had until somebody unseals.
    sealed: bool,
    detail: String,
}

/// A role that is well answers at once; one that takes longer is not.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) fn run(args: &Args, output: Output) -> Result<(), Failure> {
    let settings = args.config.load()?;
    let asked = async {
        match args.role {
            Role::Origin => ready(settings.origin.admin.address).await,
            Role::License => ready(settings.license.admin.address).await,
            Role::Keystore => {
                let status = AdminSocket::open(&settings.keystore.control_socket)
                    .status()
                    .await?;
                let ready = status.state == SealState::Unsealed;
                let detail = format!("keystore: {}", if ready { "unsealed" } else { "sealed" });
                Ok(Health {
                    ready,
                    sealed: !ready,
                    detail,
                })
            }
        }
    };
    let health = converse(async {
        tokio::time::timeout(PATIENCE, asked)
            .await
            .unwrap_or_else(|_| Err(Failure::new(Exit::Unreachable, "no answer within 5 s")))
    })?;
    output.say(&health, |health| health.detail.clone())?;
    match health {
        Health { ready: true, .. } => Ok(()),
        Health { sealed: true, .. } => Err(Failure::new(Exit::Sealed, "not ready: sealed")),
        Health { .. } => Err(Failure::failed("not ready")),
    }
}

/// Asks `/readyz?verbose` of an admin listener.
async fn ready(address: Option<SocketAddr>) -> Result<Health, Failure> {
    let address =
        address.ok_or_else(|| Failure::new(Exit::Config, "the role's admin listener is off"))?;
    let address = probe::reachable(address);
    let answer = probe::ask(address, "GET", "/readyz?verbose")
        .await
        .map_err(|error| {
            Failure::new(
                Exit::Unreachable,
                format!("nobody answers at {address}: {error}"),
            )
        })?;
    let keystore = answer
        .body
        .lines()
        .find_map(|line| line.strip_prefix("keystore: "));
    Ok(Health {
        ready: answer.status == 200,
        sealed: matches!(keystore, Some("sealed" | "not initialised")),
        detail: answer.body.trim().to_owned(),
    })
}
