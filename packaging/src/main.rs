//! The `castellum` binary: verbs, and the composition of the roles that they start or speak to.
#![forbid(unsafe_code)]

mod admin;
mod audit;
mod demo;
mod failure;
mod logging;
mod output;
mod probe;
mod roles;
mod signals;
mod verbs;

use std::process::ExitCode;

use clap::Parser as _;

#[global_allocator]
static ALLOCATOR: keystore::WipingAllocator = keystore::WipingAllocator;

fn main() -> ExitCode {
    // This program is also the process in which a PKCS#11 module is loaded.
    if keystore::unlock::is_token_process() {
        return keystore::unlock::run_token_process();
    }
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
