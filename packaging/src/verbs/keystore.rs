//! `castellum keystore`: how the keystore stands, and opening and closing it.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _};
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use clap::Subcommand;
use keystore_client::SealState;
use keystore_client::admin::{Admin, Keeping, Progress, Report, SharePlan, Status, UnlockMethod};
use keystore_client::socket::AdminSocket;
use secrecy::SecretString;
use serde::Serialize;
use zeroize::Zeroizing;

use super::{ConfigFile, ceremony, converse};
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
    /// Make the root, once in a keystore's life: under a passphrase, or in the ways that are named, each of which
    /// opens it alone
    #[command(
        after_help = "Example:\n  castellum keystore init --passphrase-file /etc/castellum/passphrase\n  \
                      castellum keystore init --shares 5 --threshold 3\n  \
                      castellum keystore init --pkcs11 --shares 3 --threshold 2 --share-files /run/user/0/shares"
    )]
    Init(Init),
    /// Take the root into memory, so that keys can be had: by the passphrase, by shares, or by what is configured
    #[command(after_help = "Example:\n  castellum keystore unseal\n  \
                      castellum keystore unseal --share /media/usb/share-2.txt")]
    Unseal(Unseal),
    /// Wipe the root from memory and end held leases
    #[command(after_help = "Example:\n  castellum keystore seal")]
    Seal,
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

#[derive(Debug, clap::Args)]
struct Init {
    #[command(flatten)]
    passphrase: Passphrase,
    /// Keep it under the key of keystore.key_file or keystore.key_credential
    #[arg(long)]
    key: bool,
    /// Keep it by the token of [keystore.pkcs11]
    #[arg(long)]
    pkcs11: bool,
    /// Keep it by the service of [keystore.transit]
    #[arg(long)]
    transit: bool,
    /// Keep it by so many shares, each for a keeper of its own
    #[arg(long, value_name = "N", requires = "threshold")]
    shares: Option<u8>,
    /// So many of the shares open it
    #[arg(long, value_name = "M", requires = "shares")]
    threshold: Option<u8>,
    /// Write each share to a file in this folder, and read it back from there, instead of showing it to its keeper
    #[arg(long, value_name = "DIR", requires = "shares")]
    share_files: Option<PathBuf>,
}

impl Init {
    fn keeping(&self) -> Keeping {
        let methods = [
            (self.key, UnlockMethod::Key),
            (self.pkcs11, UnlockMethod::Pkcs11),
            (self.transit, UnlockMethod::Transit),
        ];
        let plan = self.shares.zip(self.threshold);
        Keeping {
            methods: (methods.into_iter())
                .filter_map(|(named, method)| named.then_some(method))
                .collect(),
            shares: plan.map(|(shares, threshold)| SharePlan { shares, threshold }),
        }
    }

    /// The passphrase, where a file is named or no other way is.
    fn passphrase(&self, keeping: &Keeping) -> Result<Option<SecretString>, Failure> {
        let only = *keeping == Keeping::default();
        let wanted = only || self.passphrase.passphrase_file.is_some();
        wanted.then(|| self.passphrase.read(true)).transpose()
    }
}

#[derive(Debug, clap::Args)]
struct Unseal {
    #[command(flatten)]
    passphrase: Passphrase,
    /// Give the share in this file, or `-` for one that is typed; as often as there are shares at hand
    #[arg(
        long,
        value_name = "FILE",
        group = "way",
        conflicts_with = "passphrase_file"
    )]
    share: Vec<PathBuf>,
    /// Open it by the key of keystore.key_file or keystore.key_credential
    #[arg(long, group = "way", conflicts_with = "passphrase_file")]
    key: bool,
    /// Open it by the token of [keystore.pkcs11]
    #[arg(long, group = "way", conflicts_with = "passphrase_file")]
    pkcs11: bool,
    /// Open it by the service of [keystore.transit]
    #[arg(long, group = "way", conflicts_with = "passphrase_file")]
    transit: bool,
}

impl Unseal {
    fn method(&self) -> Option<UnlockMethod> {
        match (self.key, self.pkcs11, self.transit) {
            (true, _, _) => Some(UnlockMethod::Key),
            (_, true, _) => Some(UnlockMethod::Pkcs11),
            (_, _, true) => Some(UnlockMethod::Transit),
            (false, false, false) => None,
        }
    }
}

#[derive(Serialize)]
struct Done {
    state: SealState,
}

#[derive(Serialize)]
struct Given {
    state: SealState,
    #[serde(flatten)]
    progress: Progress,
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
            Verb::Init(init) => {
                let keeping = init.keeping();
                let keepers = (keeping.shares.is_some())
                    .then(|| ceremony::Keepers::of(init.share_files.clone(), output))
                    .transpose()?;
                let passphrase = init.passphrase(&keeping)?;
                let dealing = keystore.init_with(keeping, passphrase).await?;
                if let (Some(dealing), Some(keepers)) = (dealing, keepers) {
                    ceremony::deal(&keystore, &dealing, &keepers).await?;
                }
                done(
                    SealState::Unsealed,
                    "the keystore is initialised and unsealed",
                )
            }
            Verb::Unseal(unseal) if !unseal.share.is_empty() => {
                let progress = ceremony::give(&keystore, &unseal.share).await?;
                let state = match progress.done {
                    true => SealState::Unsealed,
                    false => SealState::Sealed,
                };
                output.say(&Given { state, progress }, |given| {
                    ceremony::progress_text(&given.progress)
                })
            }
            Verb::Unseal(unseal) => {
                match unseal.method() {
                    Some(method) => keystore.unseal_by(method).await?,
                    None => keystore.unseal(unseal.passphrase.read(false)?).await?,
                }
                done(SealState::Unsealed, "the keystore is unsealed")
            }
            Verb::Seal => {
                keystore.seal().await?;
                done(
                    SealState::Sealed,
                    "the keystore is sealed; held leases have ended",
                )
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

fn status_text(status: &Status) -> String {
    let state = match status.state {
        SealState::Uninitialised => "uninitialised (`castellum keystore init` makes a root)",
        SealState::Sealed => "sealed (`castellum keystore unseal` opens it)",
        SealState::Unsealed => "unsealed",
        SealState::Unreachable => "unreachable",
    };
    let locked = match status.memory_locked {
        Some(true) => "locked: never swapped",
        Some(false) => "NOT locked: may be swapped (raise LimitMEMLOCK)",
        None => "-",
    };
    let kept_by: Vec<_> = (status.kept_by.iter())
        .map(|method| method.as_str())
        .collect();
    let shares = (status.shares.as_ref()).map_or_else(String::new, |progress| {
        format!("\nshares         {}", ceremony::progress_text(progress))
    });
    format!(
        "state          {state}\nkept by        {}{shares}\nkeys           {} usable, {} destroyed\n\
         key memory     {locked}\naudit records  {}\naudit head     {}",
        kept_by.join(", "),
        status.keys,
        status.destroyed,
        status.audit_records,
        status.audit_head
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
pub(super) fn prompt(question: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let stdin = io::stdin();
    let before = tcgetattr(&stdin).map_err(Failure::failed)?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    // Silent before it asks: whoever answers at once is not shown either.
    tcsetattr(&stdin, OptionalActions::Flush, &silent).map_err(Failure::failed)?;
    eprint!("{question}");
    let answer = line_of_stdin();
    tcsetattr(&stdin, OptionalActions::Now, &before).map_err(Failure::failed)?;
    eprintln!();
    answer
}

/// A line of at most this many bytes, so that its buffer never grows and leaves a copy behind.
const MAX_PASSPHRASE_LINE: usize = 4096;

pub(super) fn line_of_stdin() -> Result<Zeroizing<Vec<u8>>, Failure> {
    // Not by `io::stdin` itself, whose buffer keeps what it held.
    let stdin = io::stdin().as_fd().try_clone_to_owned();
    let mut stdin = File::from(stdin.map_err(Failure::failed)?);
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_PASSPHRASE_LINE));
    let mut byte = Zeroizing::new([0]);
    while stdin.read(&mut *byte).map_err(Failure::failed)? > 0 && byte[0] != b'\n' {
        if line.len() == MAX_PASSPHRASE_LINE {
            return Err(Failure::usage(format!(
                "a passphrase or share has at most {MAX_PASSPHRASE_LINE} bytes"
            )));
        }
        line.push(byte[0]);
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(line)
}
