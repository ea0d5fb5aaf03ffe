//! The command line of `loadtest`.
#![forbid(unsafe_code)]

mod verbs;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Load for origins and licence servers, and a check of what they serve.
///
/// Exit code 0: passed; 1: not; 2: usage, or the run could not begin.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Run(verbs::run::Arguments),
    Saturate(verbs::saturate::Arguments),
    Compare(verbs::compare::Arguments),
    Check(verbs::check::Arguments),
    Bench(loadtest::bench::Args),
}

fn main() -> ExitCode {
    let ended = match Arguments::parse().verb {
        Verb::Run(arguments) => verbs::run::run(&arguments),
        Verb::Saturate(arguments) => verbs::saturate::run(&arguments),
        Verb::Compare(arguments) => verbs::compare::run(&arguments),
        Verb::Check(arguments) => verbs::check::run(&arguments),
        Verb::Bench(arguments) => verbs::bench::run(&arguments),
    };
    match ended {
        Ok(verbs::Verdict::Passed) => ExitCode::SUCCESS,
        Ok(verbs::Verdict::Failed) => ExitCode::from(1),
        Err(error) => {
            eprintln!("loadtest: {error}");
            ExitCode::from(2)
        }
    }
}
