//! `castellum keystore`: how the keystore stands, and opening and closing it.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _};
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use clap::Subcommand;
use keystore_client::SealState;
use keystore_client::admin::{Admin, KekVersion, Report, Status};
use keystore_client::socket::AdminSocket;
use secrecy::SecretString;
use serde::Serialize;
use zeroize::Zeroizing;

use super::{ConfigFile, converse};
use crate::failure::{Exit, Failure};
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
    /// Make the root, sealed under a passphrase; once in a keystore's life
    #[command(
        after_help = "Example:\n  castellum keystore init --passphrase-file /etc/castellum/passphrase"
    )]
    Init(Passphrase),
    /// Take the root into memory, so that keys can be had
    #[command(after_help = "Example:\n  castellum keystore unseal")]
    Unseal(Passphrase),
    /// Wipe the root from memory and end held leases
    #[command(after_help = "Example:\n  castellum keystore seal")]
    Seal,
    /// Give keys a new wrapping while they are served: every tenant's, one tenant's, or the root
    #[command(
        after_help = "Keys are wrapped anew in the background, and keep their ids and bytes. `castellum keystore \
                      status` says when older versions are refused.\n\n\
                      Example:\n  castellum keystore rotate --tenant default"
    )]
    Rotate {
        /// Make a new root, sealed under the same passphrase
        #[arg(long, conflicts_with = "tenant")]
        root: bool,
        /// Make a new key-encrypting key for this tenant only
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,
        #[command(flatten)]
        passphrase: Passphrase,
    },
    /// Say how the keystore stands
    #[command(after_help = "Example:\n  castellum keystore status --json")]
    Status,
    /// Walk the audit chain, check the store and unwrap every key
    #[command(after_help = "Example:\n  castellum keystore verify")]
    Verify,
}

#[derive(Debug, clap::Args)]
struct Passphrase {
    /// Read the passphrase from this file; without it, from standard input
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

#[derive(Serialize)]
struct Done {
    state: SealState,
}

#[derive(Serialize)]
struct Rotated {
    root: Option<u32>,
    keks: Vec<KekVersion>,
}

pub(crate) fn run(args: Args, output: Output) -> Result<(), Failure> {
    let settings = args.config.load()?.keystore;
    let done = |state, text: &str| {
        let text = text.to_owned();
        output.say(&Done { state }, |_| text)
    };
    converse(async {
        let keystore = AdminSocket::open(&settings.control_socket);
        match args.verb {
            Verb::Init(passphrase) => {
                keystore.init(passphrase.read(true)?).await?;
                done(
                    SealState::Unsealed,
                    "the keystore is initialised and unsealed",
                )
            }
            Verb::Unseal(passphrase) => {
                keystore.unseal(passphrase.read(false)?).await?;
                done(SealState::Unsealed, "the keystore is unsealed")
            }
            Verb::Seal => {
                keystore.seal().await?;
                done(
                    SealState::Sealed,
                    "the keystore is sealed; held leases have ended",
                )
            }
            Verb::Rotate {
                root: true,
                tenant: _,
                passphrase,
            } => {
                let version = keystore.rotate_root(passphrase.read(false)?).await?;
                let rotated = Rotated {
                    root: Some(version),
                    keks: vec![],
                };
                output.say(&rotated, rotated_text)
            }
            Verb::Rotate {
                root: false,
                tenant,
                passphrase: _,
            } => {
                let rotated = Rotated {
                    root: None,
                    keks: keystore.rotate_keks(tenant).await?,
                };
                output.say(&rotated, rotated_text)
            }
            Verb::Status => output.say(&keystore.status().await?, status_text),
            Verb::Verify => {
                let report = keystore.verify().await?;
                let faults = report.faults.len();
                output.say(&report, report_text)?;
                match faults {
                    0 => Ok(()),
                    _ => Err(Failure::failed(format!("{faults} faults were found"))),
                }
            }
        }
    })
}

fn rotated_text(rotated: &Rotated) -> String {
    let root = rotated
        .root
        .map(|version| format!("root: version {version}"));
    let keks = rotated.keks.iter();
    let keks = keks.map(|kek| format!("tenant {}: version {}", kek.tenant, kek.version));
    let lines: Vec<String> = root.into_iter().chain(keks).collect();
    match lines.is_empty() {
        true => "no tenant has keys yet".to_owned(),
        false => lines.join("\n"),
    }
}

fn status_text(status: &Status) -> String {
    let state = match status.state {
        SealState::Uninitialised => "uninitialised (`castellum keystore init` makes a root)",
        SealState::Sealed => "sealed (`castellum keystore unseal` opens it)",
        SealState::Unsealed => "unsealed",
        SealState::Unreachable => "unreachable",
    };
    let rotation = match status.rotating {
        true => format!("under way: {} keys are left", status.stale),
        false => "-".to_owned(),
    };
    let locked = match status.memory_locked {
        Some(true) => "locked: never swapped",
        Some(false) => "NOT locked: may be swapped (raise LimitMEMLOCK)",
        None => "-",
    };
    format!(
        "state          {state}\nkeys           {} usable, {} destroyed\nrotation       {rotation}\n\
         key memory     {locked}\naudit records  {}\naudit head     {}",
        status.keys, status.destroyed, status.audit_records, status.audit_head
    )
}

fn report_text(report: &Report) -> String {
    let mut text = format!(
        "{} audit records and {} keys checked, {} keys unwrapped\n",
        report.audit_records, report.keys, report.unwrapped
    );
    for fault in &report.faults {
        let at = fault
            .sequence
            .map_or_else(String::new, |sequence| format!(" {sequence}"));
        text.push_str(&format!("FAULT {}{at}: {}\n", fault.place, fault.what));
    }
    text
}

impl Passphrase {
    /// Reads the passphrase: from the file, or one line of standard input, which a terminal does not show.
    fn read(&self, twice: bool) -> Result<SecretString, Failure> {
        keystore::harden_process();
        let bytes = match &self.passphrase_file {
            Some(path) => conf::SecretSource::file(path)
                .read_line()
                .map_err(|error| {
                    Failure::new(
                        Exit::Failed,
                        format!("cannot read {}: {error}", path.display()),
                    )
                })?,
            None if io::stdin().is_terminal() => {
                let first = prompt("Passphrase: ")?;
                if twice && *prompt("The same again: ")? != *first {
                    return Err(Failure::usage("the two passphrases differ"));
                }
                first
            }
            None => line_of_stdin()?,
        };
        let text =
            std::str::from_utf8(&bytes).map_err(|_| Failure::usage("a passphrase is UTF-8"))?;
        if text.is_empty() {
            return Err(Failure::usage("the passphrase is empty"));
        }
        Ok(SecretString::from(text))
    }
}

/// Asks on the terminal, with echo off while the answer is typed.
fn prompt(question: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let stdin = io::stdin();
    let before = tcgetattr(&stdin).map_err(Failure::failed)?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    eprint!("{question}");
    tcsetattr(&stdin, OptionalActions::Flush, &silent).map_err(Failure::failed)?;
    let answer = line_of_stdin();
    tcsetattr(&stdin, OptionalActions::Now, &before).map_err(Failure::failed)?;
    eprintln!();
    answer
}

/// A line of at most this many bytes, so that its buffer never grows and leaves a copy behind.
const MAX_PASSPHRASE_LINE: usize = 4096;

fn line_of_stdin() -> Result<Zeroizing<Vec<u8>>, Failure> {
    // Not by `io::stdin` itself, whose buffer keeps what it held.
    let stdin = io::stdin().as_fd().try_clone_to_owned();
    let mut stdin = File::from(stdin.map_err(Failure::failed)?);
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_PASSPHRASE_LINE));
    let mut byte = Zeroizing::new([0]);
    while stdin.read(&mut *byte).map_err(Failure::failed)? > 0 && byte[0] != b'\n' {
        if line.len() == MAX_PASSPHRASE_LINE {
            return Err(Failure::usage(format!(
                "a passphrase has at most {MAX_PASSPHRASE_LINE} bytes"
            )));
        }
        line.push(byte[0]);
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(line)
}
