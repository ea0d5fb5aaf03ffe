//! `castellum config dump`: the configuration in force.

use clap::Subcommand;

use super::ConfigFile;
use crate::failure::Failure;
use crate::output::{self, Output};

#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print the file, the environment on top of it and the defaults below, as one document
    #[command(after_help = "Example:\n  castellum config dump -c /etc/castellum/castellum.toml")]
    Dump {
        #[command(flatten)]
        config: ConfigFile,
    },
}

pub(crate) fn run(args: &Args, output: Output) -> Result<(), Failure> {
    match &args.verb {
        Verb::Dump { config } => {
            let document = conf::effective(config.path())?;
            if output.is_json() {
                return output.say(&document, |_| String::new());
            }
            let text = conf::to_toml(&document);
            output::write(text.as_bytes())
        }
    }
}
