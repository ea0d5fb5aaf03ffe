//! `castellum key`: what is known of keys, apart from the keys.

use std::fmt::Write as _;

use clap::Subcommand;
use keystore_client::admin::{Admin, KeyFilter, KeyRecord};
use keystore_client::socket::AdminSocket;
use keystore_types::{AssetId, KeyId};
use serde::Serialize;

use super::{ConfigFile, converse};
use crate::failure::Failure;
use crate::output::Output;

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

pub(crate) fn run(args: Args, output: Output) -> Result<(), Failure> {
    let settings = args.config.load()?.keystore;
    converse(async {
        let keystore = AdminSocket::open(&settings.control_socket);
        match args.verb {
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

async fn all(keystore: &AdminSocket, mut filter: KeyFilter) -> Result<Vec<KeyRecord>, Failure> {
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
