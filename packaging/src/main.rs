//! The `castellum` binary: verbs, and the composition of the roles that they start or speak to.
#![forbid(unsafe_code)]

mod admin;
mod demo;
mod failure;
mod logging;
mod output;
mod probe;
mod roles;
mod verbs;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let cli = verbs::Cli::parse();
    let json = cli.json;
    match verbs::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report(json);
            failure.exit.into()
        }
    }
}
