//! `castellum key`: what is known of keys, apart from the keys; and having them fetched.

use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use clap::Subcommand;
use keystore_client::admin::{Admin, KeyFilter, KeyRecord};
use keystore_client::socket::AdminSocket;
use keystore_types::{AssetId, KeyId};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{ConfigFile, converse};
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::probe;

#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigFile,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List key records
    #[command(after_help = "Example:\n  castellum key list --asset film --active")]
    List {
        /// Of this asset only
        #[arg(long, value_name = "ID")]
        asset: Option<AssetId>,
        /// Without those that were destroyed
        #[arg(long)]
        active: bool,
    },
    /// Show one key's record
    #[command(after_help = "Example:\n  castellum key show 9eb4050d-e44b-4802-932e-27d75083e266")]
    Show {
        /// The key id
        #[arg(value_name = "UUID")]
        id: KeyId,
    },
    /// Order an asset's keys from its vendor's key server; ordered again, they are the same keys
    #[command(after_help = "Example:\n  castellum key fetch film")]
    Fetch {
        /// The asset
        #[arg(value_name = "ASSET")]
        asset: AssetId,
        /// Under new ids, after the old keys were destroyed
        #[arg(long)]
        renew: bool,
    },
    /// Erase a key for ever: what it encrypted can never be decrypted again
    #[command(
        after_help = "Example:\n  castellum key destroy 9eb4050d-e44b-4802-932e-27d75083e266 --yes"
    )]
    Destroy {
        /// The key id
        #[arg(value_name = "UUID")]
        id: KeyId,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Serialize)]
struct List {
    keys: Vec<KeyRecord>,
}

/// What the licence role answers.
#[derive(Serialize, Deserialize)]
struct Fetched {
    vendor: String,
    keys: Vec<FetchedKey>,
}

#[derive(Serialize, Deserialize)]
struct FetchedKey {
    key_id: String,
    label: String,
    scheme: String,
}

pub(crate) fn run(args: Args, output: Output) -> Result<(), Failure> {
    let settings = args.config.load()?;
    converse(async {
        let keystore = AdminSocket::open(&settings.keystore.control_socket);
        match args.verb {
            Verb::Fetch { asset, renew } => {
                output.say(&fetch(&settings, &asset, renew).await?, fetched_text)
            }
            Verb::List { asset, active } => {
                let filter = KeyFilter {
                    asset,
                    active_only: active,
                    after: None,
                };
                output.say(
                    &List {
                        keys: all(&keystore, filter).await?,
                    },
                    list_text,
                )
            }
            Verb::Show { id } => output.say(&keystore.key_show(id).await?, record_text),
            Verb::Destroy { id, yes: true } => {
                output.say(&keystore.key_destroy(id).await?, record_text)
            }
            Verb::Destroy { yes: false, .. } => Err(Failure::usage(
                "what the key encrypted can never be decrypted again; say --yes to destroy it",
            )),
        }
    })
}

/// The vendor has its own time for each answer; this is for all of them, and for orders that come first.
const PATIENCE: Duration = Duration::from_secs(1800);

/// Asks the licence role, where it has a process of its own or else in that of all roles.
async fn fetch(
    settings: &conf::Settings,
    asset: &AssetId,
    renew: bool,
) -> Result<Fetched, Failure> {
    let listeners = [
        settings.license.admin.address,
        settings.origin.admin.address,
    ];
    let path = format!("/api/v1/orders/{asset}?renew={renew}");
    let token = match &settings.license.api_token {
        Some(source) => Some(api_token(source)?),
        None => None,
    };
    let token = token.as_ref().map(|token| token.as_str());
    let mut tried = Vec::new();
    for address in listeners.into_iter().flatten().map(probe::reachable) {
        let answer = match probe::ask_for(PATIENCE, address, "POST", &path, token).await {
            Ok(answer) => answer,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                tried.push(address.to_string());
                continue;
            }
            Err(error) => {
                let message = format!("the answer from {address} broke off: {error}");
                return Err(Failure::new(Exit::Unreachable, message));
            }
        };
        return match answer.status {
            200 => serde_json::from_str(&answer.body)
                .map_err(|error| Failure::failed(format!("the answer from {address}: {error}"))),
            404 if matches!(answer.code().as_deref(), None | Some("not-found")) => {
                let message = format!("the role at {address} orders no keys");
                let help = "set license.exchange.enabled, and a [license.exchange.vendors.NAME]";
                Err(Failure::with_help(Exit::Config, message, help))
            }
            _ => Err(Failure::failed(answer.detail())),
        };
    }
    let message = format!(
        "nobody answers for the licence role at {}",
        match tried.is_empty() {
            true => "its admin listener, which is off".to_owned(),
            false => tried.join(" or "),
        }
    );
    Err(Failure::new(Exit::Unreachable, message))
}

/// What the licence role's API wants to see.
fn api_token(source: &conf::SecretSource) -> Result<Zeroizing<String>, Failure> {
    let unfit = |why: String| {
        let message = format!("cannot use the token {source} of license.admin: {why}");
        let help =
            "set token_file, or for token_credential CREDENTIALS_DIRECTORY to the unit's folder";
        Failure::with_help(Exit::Config, message, help)
    };
    let token = source
        .read_line()
        .map_err(|error| unfit(error.to_string()))?;
    match str::from_utf8(&token) {
        Ok(token) if token.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Ok(Zeroizing::new(token.to_owned()))
        }
        _ => Err(unfit("it is not visible ASCII".to_owned())),
    }
}

fn fetched_text(fetched: &Fetched) -> String {
    let mut text = format!("from {}:", fetched.vendor);
    for key in &fetched.keys {
        let FetchedKey {
            key_id,
            label,
            scheme,
        } = key;
        let _ = write!(text, "\n{key_id}  {scheme:6}  {label}");
    }
    text
}

pub(super) async fn all(
    keystore: &AdminSocket,
    mut filter: KeyFilter,
) -> Result<Vec<KeyRecord>, Failure> {
    let mut keys = Vec::new();
    loop {
        let page = keystore.key_list(filter.clone()).await?;
        keys.extend(page.keys);
        match page.next {
            Some(next) => filter.after = Some(next),
            None => return Ok(keys),
        }
    }
}

fn list_text(list: &List) -> String {
    let mut text = format!(
        "{:36}  {:24}  {:6}  {:5}  state\n",
        "key id", "asset", "scheme", "label"
    );
    for key in &list.keys {
        let state = if key.destroyed.is_some() {
            "destroyed"
        } else {
            "active"
        };
        let context = &key.context;
        let _ = writeln!(
            text,
            "{}  {:24}  {:6}  {:5}  {state}",
            key.key_id,
            context.asset.as_str(),
            context.scheme.as_str(),
            context.label.as_str(),
        );
    }
    text
}

fn record_text(key: &KeyRecord) -> String {
    let context = &key.context;
    let destroyed = key
        .destroyed
        .map_or_else(|| "no".to_owned(), |at| format!("at Unix time {at}"));
    format!(
        "key id       {}\ntenant       {}\nasset        {}\nscheme       {}\nlabel        {}\n\
         generation   {:?}\nkek version  {}\ncreated      at Unix time {}\ndestroyed    {destroyed}",
        key.key_id,
        context.tenant,
        context.asset,
        context.scheme,
        context.label,
        context.generation,
        key.kek_version,
        key.created,
    )
}
