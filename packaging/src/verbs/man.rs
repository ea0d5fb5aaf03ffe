//! `castellum man`: manual pages, for packages to install.

use std::path::PathBuf;

use clap::CommandFactory as _;

use super::Cli;
use crate::failure::Failure;
use crate::output;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  castellum man --dir debian/castellum/usr/share/man/man1")]
pub(crate) struct Args {
    /// Write one page for each verb into this folder, rather than the first to standard output
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    match &args.dir {
        Some(dir) => clap_mangen::generate_to(Cli::command(), dir).map_err(|error| {
            Failure::failed(format!("cannot write to {}: {error}", dir.display()))
        }),
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command())
                .render(&mut page)
                .map_err(Failure::failed)?;
            output::write(&page)
        }
    }
}
