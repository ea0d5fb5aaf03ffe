//! `castellum keystore`: how the keystore stands, and opening and closing it.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _};
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Subcommand;
use keystore::audit::Checkpoint;
use keystore_client::SealState;
use keystore_client::admin::{
    Act, Acted, Admin, Keeping, KekVersion, Progress, RotatedRoot, SharePlan, Status, Stored,
    UnlockMethod,
};
use keystore_client::socket::AdminSocket;
use secrecy::SecretString;
use serde::Serialize;
use zeroize::Zeroizing;

use self::audit::{PublicKey, read_checkpoint, report_text, verify_offline};
use self::backup::{NewFile, backup, restore};
use self::nodes::{Revoked, enrol, enrolled_text};
use self::operators::{Pending, act, acted_text, agreed, approval_text, pending_text, wait};
use super::{ConfigFile, converse};
use crate::failure::{Exit, Failure};
use crate::output::Output;

mod audit;
mod backup;
mod ceremony;
mod nodes;
mod operators;

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
    /// Give keys a new wrapping while they are served: every tenant's, one tenant's, or the root
    #[command(
        after_help = "Keys are wrapped anew in the background, and keep their ids and bytes. `castellum keystore \
                      status` says when older versions are refused.\n\n\
                      Example:\n  castellum keystore rotate --tenant default\n  \
                      castellum keystore rotate --root --new-passphrase"
    )]
    Rotate {
        /// Make a new root, kept in the same ways; its passphrase is asked for unless it is configured
        #[arg(long, conflicts_with = "tenant")]
        root: bool,
        /// Make a new key-encrypting key for this tenant only
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,
        #[command(flatten)]
        passphrase: Passphrase,
        #[command(flatten)]
        new_passphrase: NewPassphrase,
        #[command(flatten)]
        shares: Shares,
    },
    /// Make another machine's certificate and keys, and say what the keystore's configuration needs
    #[command(
        after_help = "The files go to that machine; its private keys stay there. The keystore's machine needs the certificate \
                      and the printed table.\n\n\
                      Example:\n  castellum keystore enrol edge1 /etc/castellum"
    )]
    Enrol {
        /// Its name, as the audit log will have it
        #[arg(value_name = "NAME")]
        name: String,
        /// The folder for the files
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Give another machine nothing any more, and end its leases
    #[command(
        after_help = "It holds until the machine gets a new certificate. One that cannot be told so keeps what it has until \
                      its lease is over (keystore.nodes.NAME.lease_term).\n\n\
                      Example:\n  castellum keystore revoke edge1"
    )]
    Revoke {
        /// The machine, as keystore.nodes names it
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Say how the keystore stands
    #[command(after_help = "Example:\n  castellum keystore status --json")]
    Status,
    /// Say what waits for a second operator
    #[command(after_help = "Example:\n  castellum keystore approvals")]
    Approvals,
    /// Agree with what another operator wants
    #[command(after_help = "Example:\n  castellum keystore approve 7f3a91c2")]
    Approve {
        /// The request, as `approvals` names it
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Withdraw a request
    #[command(after_help = "Example:\n  castellum keystore cancel 7f3a91c2")]
    Cancel {
        /// The request, as `approvals` names it
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Set the audit log's file aside and go on in a new one; needs two operators
    #[command(
        after_help = "Say it, let another operator `castellum keystore approve` it, and say it again.\n\n\
                      Example:\n  castellum keystore set-aside-log"
    )]
    SetAsideLog,
    /// Take keys under older key-encrypting keys in again; needs two operators
    #[command(
        after_help = "For records out of an old copy of the store. They are wrapped anew, and then the floor is raised \
                      again.\n\n\
                      Example:\n  castellum keystore lower-floor --tenant default --to 1"
    )]
    LowerFloor {
        /// The tenant
        #[arg(long, value_name = "NAME")]
        tenant: String,
        /// The oldest version to take in
        #[arg(long = "to", value_name = "VERSION")]
        version: u32,
    },
    /// Go on with a store or a log that was put back; needs two operators
    #[command(after_help = "Example:\n  castellum keystore accept-rollback")]
    AcceptRollback,
    /// Destroy a tenant and all its keys, for ever; needs two operators
    #[command(after_help = "Example:\n  castellum keystore destroy-tenant gone --yes")]
    DestroyTenant {
        /// The tenant
        #[arg(value_name = "NAME")]
        tenant: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Write all key records, still wrapped, to a file for age recipients
    #[command(
        after_help = "The file opens with an age identity, and the keystore in it with what unseals the root. Keep the \
                      tombstones (keystore.tombstone_file) apart from it: a restore needs them.\n\n\
                      Example:\n  castellum keystore backup keystore.age --recipient age1..."
    )]
    Backup {
        /// The file to write
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Who can open it; may be given several times
        #[arg(long = "recipient", value_name = "AGE", required = true)]
        recipients: Vec<String>,
    },
    /// Put a backup back into an empty keystore; needs two operators
    #[command(
        after_help = "Copy the tombstones to their place first. Say it, let another operator `castellum keystore \
                      approve` it, and say it again.\n\n\
                      Example:\n  castellum keystore restore keystore.age --identity key.txt"
    )]
    Restore {
        /// The backup
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The age identity that opens it, as `age-keygen` writes it
        #[arg(long, value_name = "FILE")]
        identity: PathBuf,
        /// Go on where the tombstones are lost: keys that were destroyed since the backup come back
        #[arg(long)]
        without_tombstones: bool,
    },
    /// Write a tenant's key-encrypting keys to a file for age recipients; needs two operators
    #[command(
        after_help = "Example:\n  castellum keystore export-keks keks.age --tenant default --recipient age1..."
    )]
    ExportKeks {
        /// The file to write
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The tenant
        #[arg(long, value_name = "NAME")]
        tenant: String,
        /// Who can open it; may be given several times
        #[arg(long = "recipient", value_name = "AGE", required = true)]
        recipients: Vec<String>,
    },
    /// Sign how far the audit log has come: kept elsewhere, it finds out a log or a store that was put back
    #[command(after_help = "Example:\n  castellum keystore checkpoint > checkpoint.json")]
    Checkpoint {
        /// Write the public key instead, in PEM: what `verify --offline` checks signatures with
        #[arg(long)]
        public_key: bool,
    },
    /// Walk the audit chain, check the store and unwrap every key
    #[command(
        after_help = "Example:\n  castellum keystore verify --checkpoint checkpoint.json\n\n\
                      On another machine, with a copy of the log:\n  castellum keystore verify --offline audit.log \
                      --public-key audit.pem"
    )]
    Verify {
        /// A checkpoint that was kept elsewhere: what came before it must be there, unchanged
        #[arg(long, value_name = "FILE")]
        checkpoint: Option<PathBuf>,
        /// Walk this copy of an audit log, without a keystore
        #[arg(long, value_name = "LOG", requires = "public_key")]
        offline: Option<PathBuf>,
        /// The public key that its checkpoints are signed with
        #[arg(long, value_name = "FILE", requires = "offline")]
        public_key: Option<PathBuf>,
    },
}

#[derive(Debug, clap::Args)]
struct Passphrase {
    /// Read the passphrase from this file; without it, from standard input
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct NewPassphrase {
    /// Keep the new root under another passphrase, which is asked for after the old one
    #[arg(long, requires = "root")]
    new_passphrase: bool,
    /// Keep the new root under the passphrase in this file
    #[arg(long, value_name = "FILE", requires = "root")]
    new_passphrase_file: Option<PathBuf>,
}

impl NewPassphrase {
    fn read(self) -> Result<Option<SecretString>, Failure> {
        let Self {
            new_passphrase: asked_for,
            new_passphrase_file: file,
        } = self;
        let wanted = asked_for || file.is_some();
        let passphrase = Passphrase {
            passphrase_file: file,
        };
        (wanted.then(|| passphrase.ask("New passphrase: ", true))).transpose()
    }
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
    #[command(flatten)]
    shares: Shares,
}

#[derive(Debug, clap::Args)]
struct Shares {
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

impl Shares {
    fn plan(&self) -> Option<SharePlan> {
        let plan = self.shares.zip(self.threshold);
        plan.map(|(shares, threshold)| SharePlan { shares, threshold })
    }

    /// How they get to their keepers, if there are to be any.
    fn keepers(&self, output: Output) -> Result<Option<ceremony::Keepers>, Failure> {
        self.plan()
            .map(|_| ceremony::Keepers::of(self.share_files.clone(), output))
            .transpose()
    }
}

impl Init {
    fn keeping(&self) -> Keeping {
        let methods = [
            (self.key, UnlockMethod::Key),
            (self.pkcs11, UnlockMethod::Pkcs11),
            (self.transit, UnlockMethod::Transit),
        ];
        Keeping {
            methods: (methods.into_iter())
                .filter_map(|(named, method)| named.then_some(method))
                .collect(),
            shares: self.shares.plan(),
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
            Verb::Init(init) => {
                let keeping = init.keeping();
                let keepers = init.shares.keepers(output)?;
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
            Verb::Rotate {
                root: true,
                passphrase,
                new_passphrase,
                shares,
                ..
            } => {
                let keepers = shares.keepers(output)?;
                let kept_by = keystore.status().await?.stored.map(|stored| stored.kept_by);
                let under_one = kept_by.is_some_and(|by| by.contains(&UnlockMethod::Passphrase));
                let typed = under_one
                    && (passphrase.passphrase_file.is_some() || settings.passphrase.is_none());
                let passphrase = typed.then(|| passphrase.read(false)).transpose()?;
                let new_passphrase = new_passphrase.read()?;
                let rotated = keystore.rotate_root(shares.plan(), passphrase, new_passphrase);
                let root = match rotated.await? {
                    RotatedRoot::Version(version) => Some(version),
                    RotatedRoot::Waits(approval) => return wait(approval, output).map(drop),
                    RotatedRoot::Dealing(dealing) => {
                        if let Some(keepers) = keepers {
                            ceremony::deal(&keystore, &dealing, &keepers).await?;
                        }
                        None
                    }
                };
                let rotated = Rotated { root, keks: vec![] };
                output.say(&rotated, |rotated| match rotated.root {
                    Some(_) => rotated_text(rotated),
                    None => "the root is a new one, and only the new shares open it".to_owned(),
                })
            }
            Verb::Rotate {
                root: false,
                tenant,
                ..
            } => {
                let rotated = Rotated {
                    root: None,
                    keks: keystore.rotate_keks(tenant).await?,
                };
                output.say(&rotated, rotated_text)
            }
            Verb::Enrol { name, folder } => output.say(&enrol(&name, &folder)?, enrolled_text),
            Verb::Revoke { name } => {
                keystore.revoke_node(name.clone()).await?;
                output.say(&Revoked { node: name }, |revoked| {
                    format!("{} gets nothing any more", revoked.node)
                })
            }
            Verb::Status => output.say(&keystore.status().await?, status_text),
            Verb::Approvals => {
                let approvals = keystore.approvals().await?;
                output.say(&Pending { approvals }, pending_text)
            }
            Verb::Approve { id } => output.say(&keystore.approve(id).await?, approval_text),
            Verb::Cancel { id } => output.say(&keystore.cancel(id).await?, approval_text),
            Verb::SetAsideLog => act(&keystore, Act::SetAsideLog {}, output).await,
            Verb::LowerFloor { tenant, version } => {
                act(&keystore, Act::LowerFloor { tenant, version }, output).await
            }
            Verb::AcceptRollback => act(&keystore, Act::AcceptRollback {}, output).await,
            Verb::DestroyTenant { tenant, yes: true } => {
                act(&keystore, Act::DestroyTenant { tenant }, output).await
            }
            Verb::DestroyTenant { yes: false, .. } => Err(Failure::usage(
                "what the tenant's keys encrypted can never be decrypted again; say --yes to destroy it",
            )),
            Verb::Backup { file, recipients } => backup(&keystore, &file, recipients, output).await,
            Verb::Restore {
                file,
                identity,
                without_tombstones,
            } => restore(&keystore, &file, &identity, without_tombstones, output).await,
            Verb::ExportKeks {
                file,
                tenant,
                recipients,
            } => {
                let wanted = Act::ExportKeks { tenant, recipients };
                match agreed(&keystore, wanted, output).await? {
                    Acted::File(text) => {
                        let bytes = STANDARD.decode(text).map_err(Failure::failed)?;
                        let mut whole = NewFile::create(&file)?;
                        whole.write(&bytes)?;
                        whole.finish(output)
                    }
                    acted @ (Acted::Waits(_) | Acted::Done(_)) => output.say(&acted, acted_text),
                }
            }
            Verb::Checkpoint { public_key } => {
                let checkpoint = keystore.checkpoint().await?;
                match public_key {
                    true => {
                        let read = Checkpoint::try_from(&checkpoint).map_err(Failure::failed)?;
                        let key = PublicKey {
                            public_key: read.key.to_pem(),
                        };
                        output.say(&key, |key| key.public_key.clone())
                    }
                    // A file for `verify`, on a terminal too.
                    false => Output::new(true).say(&checkpoint, |_| String::new()),
                }
            }
            Verb::Verify {
                checkpoint,
                offline,
                public_key,
            } => {
                let checkpoint = checkpoint.as_deref().map(read_checkpoint).transpose()?;
                let report = match (offline, public_key) {
                    (Some(log), Some(key)) => verify_offline(&log, &key, checkpoint.as_ref())?,
                    _ => keystore.verify(checkpoint).await?,
                };
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
    let locked = match status.memory_locked {
        Some(true) => "locked: never swapped",
        Some(false) => "NOT locked: may be swapped (raise LimitMEMLOCK)",
        None => "-",
    };
    let shares = (status.shares.as_ref()).map_or_else(String::new, |progress| {
        format!("\nshares         {}", ceremony::progress_text(progress))
    });
    let stored = match &status.stored {
        Some(stored) => stored_text(stored),
        None => format!(
            "store          {}",
            status.store_fault.as_deref().unwrap_or("-")
        ),
    };
    format!(
        "state          {state}{shares}\n{stored}\nkey memory     {locked}\n\
         audit records  {}, {} of {} bytes\naudit head     {}\naudit key      {}",
        status.audit_records,
        status.audit_bytes,
        status.audit_capacity,
        status.audit_head,
        status.audit_key.as_deref().unwrap_or("-")
    )
}

fn stored_text(stored: &Stored) -> String {
    let rotation = match stored.rotating {
        true => format!("under way: {} keys are left", stored.stale),
        false => "-".to_owned(),
    };
    let kept_by: Vec<_> = (stored.kept_by.iter())
        .map(|method| method.as_str())
        .collect();
    format!(
        "kept by        {}\nkeys           {} usable, {} destroyed\nrotation       {rotation}",
        kept_by.join(", "),
        stored.keys,
        stored.destroyed
    )
}

impl Passphrase {
    /// Reads the passphrase: from the file, or one line of standard input, which a terminal does not show.
    fn read(&self, twice: bool) -> Result<SecretString, Failure> {
        self.ask("Passphrase: ", twice)
    }

    fn ask(&self, question: &str, twice: bool) -> Result<SecretString, Failure> {
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
                let first = prompt(question)?;
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
