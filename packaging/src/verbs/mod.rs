//! The command line: one file for each verb.

mod audit;
mod check_config;
mod completions;
mod config;
mod demo;
mod export;
mod health;
mod ingest;
mod inspect;
mod key;
mod keystore;
mod license;
mod man;
mod serve;
mod token;

use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};

use crate::failure::Failure;
use crate::output::Output;

/// A just-in-time packager, licence server and keystore in one appliance.
#[derive(Debug, Parser)]
#[command(
    name = "castellum",
    version,
    after_help = "Exit codes:\n  0  ok\n  1  failed\n  2  usage\n  3  configuration\n  \
                  4  unreachable\n  5  sealed\n  6  not allowed\n\nExample:\n  castellum demo",
    disable_help_subcommand = true,
    arg_required_else_help = true,
    max_term_width = 100
)]
pub(crate) struct Cli {
    /// Answer in JSON: one document on standard output, errors as one line on standard error
    #[arg(long, global = true)]
    pub(crate) json: bool,

    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Play a title on loopback, with no configuration and no root
    Demo(demo::Args),
    /// Run the daemon: all roles in one process, or one role per process
    Serve(serve::Args),
    /// Take up files as an asset: check, index, give keys, publish
    Ingest(ingest::Args),
    /// Write every file of an asset, byte for byte as the origin serves it
    Export(export::Args),
    /// Say what a file contains and whether it can be packaged
    Inspect(inspect::Args),
    /// Walk a title at any origin as a player would, and name the faults in it
    Audit(audit::Args),
    /// Initialise, unseal, seal and check the keystore
    Keystore(keystore::Args),
    /// List, show, fetch and destroy keys
    Key(key::Args),
    /// Mint and inspect entitlement tokens
    Token(token::Args),
    /// Say why a licence would be given or refused, and what other rules would change
    License(license::Args),
    /// Say all that is wrong with a configuration; change nothing
    CheckConfig(check_config::Args),
    /// Show the configuration in force
    Config(config::Args),
    /// Ask a running role whether it is ready
    Health(health::Args),
    /// Print a shell's completion script
    Completions(completions::Args),
    /// Print manual pages
    #[command(hide = true)]
    Man(man::Args),
}

/// The configuration that a verb works under.
#[derive(Debug, clap::Args)]
pub(crate) struct ConfigFile {
    /// The configuration file; without one, /etc/castellum/castellum.toml if it exists, else built-in defaults
    #[arg(
        short = 'c',
        long = "config",
        value_name = "FILE",
        env = "CASTELLUM_CONFIG",
        global = true
    )]
    path: Option<PathBuf>,
}

impl ConfigFile {
    pub(crate) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    pub(crate) fn load(&self) -> Result<conf::Settings, Failure> {
        Ok(conf::load(self.path())?)
    }
}

/// Does what the command line says.
pub(crate) fn run(cli: Cli) -> Result<(), Failure> {
    let output = Output::new(cli.json);
    match cli.verb {
        Verb::Demo(args) => demo::run(&args, output),
        Verb::Serve(args) => serve::run(&args),
        Verb::Ingest(args) => ingest::run(args, output),
        Verb::Export(args) => export::run(args, output),
        Verb::Inspect(args) => inspect::run(&args, output),
        Verb::Audit(args) => audit::run(args, output),
        Verb::Keystore(args) => keystore::run(args, output),
        Verb::Key(args) => key::run(args, output),
        Verb::Token(args) => token::run(args, output),
        Verb::License(args) => license::run(args, output),
        Verb::CheckConfig(args) => check_config::run(&args, output),
        Verb::Config(args) => config::run(&args, output),
        Verb::Health(args) => health::run(&args, output),
        Verb::Completions(args) => completions::run(&args),
        Verb::Man(args) => man::run(&args),
    }
}

/// Runs one conversation with a role on this thread.
fn converse<T>(conversation: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start a runtime: {error}")))?
        .block_on(conversation)
}
