//! The ceremony of shares: each is shown to its keeper, or written to a file, once, and read back before anything is
//! kept.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use keystore_client::admin::{Admin, AdminError, Dealing, DealtShare, Progress};
use keystore_client::socket::AdminSocket;
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use super::{line_of_stdin, prompt};
use crate::failure::Failure;
use crate::output::{self, Output};

/// How shares get to their keepers.
pub(super) enum Keepers {
    /// To people, one after the other, at this terminal.
    AtTerminal,
    /// To files of this folder.
    InFiles(PathBuf),
    /// To a program: a line of standard output each, read back from standard input.
    ByPipe,
}

impl Keepers {
    pub(super) fn of(folder: Option<PathBuf>, output: Output) -> Result<Self, Failure> {
        keystore::harden_process();
        match folder {
            Some(folder) => Ok(Self::InFiles(folder)),
            None if io::stdin().is_terminal() => Ok(Self::AtTerminal),
            None if output.is_json() => Err(Failure::usage(
                "with --json and without a terminal, say where shares go: --share-files DIR",
            )),
            None => Ok(Self::ByPipe),
        }
    }
}

/// Deals every share and has it read back.
pub(super) async fn deal(
    keystore: &AdminSocket,
    dealing: &Dealing,
    keepers: &Keepers,
) -> Result<(), Failure> {
    let Dealing { set, plan } = dealing;
    if let Keepers::AtTerminal = keepers {
        eprintln!(
            "The root is made and not yet kept. It is split into {} shares, the set {set}; any {} open it, fewer do not.\n\
             Each is shown once, to its keeper, who writes it down and types it back. Nothing is kept before the last was\n\
             typed back: who stops earlier, with Ctrl-C, begins anew.",
            plan.shares, plan.threshold
        );
    }
    for _ in 0..plan.shares {
        match keepers {
            Keepers::AtTerminal => {
                eprint!("\nThe next keeper alone looks at the screen, and presses Enter.");
                drop(line_of_stdin()?);
                let share = keystore.deal_share().await?;
                show(dealing, &share)?;
                read_back(keystore, share.index).await?;
            }
            Keepers::InFiles(folder) => {
                let share = keystore.deal_share().await?;
                let path = write(folder, dealing, &share)?;
                // As the file has it: a disk that was full shows here.
                keystore.confirm_share(read(&path)?).await?;
            }
            Keepers::ByPipe => {
                let share = keystore.deal_share().await?;
                let text = share.text.expose_secret();
                let mut line = Zeroizing::new(Vec::with_capacity(text.len() + 1));
                line.extend_from_slice(text.as_bytes());
                line.push(b'\n');
                output::write(&line)?;
                keystore.confirm_share(typed(line_of_stdin()?)?).await?;
            }
        }
    }
    Ok(())
}

/// Shows a share on the terminal until its keeper has written it down, and leaves no trace of it there.
fn show(dealing: &Dealing, share: &DealtShare) -> Result<(), Failure> {
    const CLEAR: &str = "\x1b[H\x1b[2J\x1b[3J";
    eprint!(
        "{CLEAR}Share {} of {}, set {}\n\n  {}\n\nWrite it down, then press Enter: it is not shown again.",
        share.index,
        dealing.plan.shares,
        dealing.set,
        share.text.expose_secret()
    );
    let read = line_of_stdin();
    eprint!("{CLEAR}");
    io::stderr().flush().map_err(Failure::failed)?;
    read.map(drop)
}

/// Has the keeper type the share until it is right.
async fn read_back(keystore: &AdminSocket, index: u8) -> Result<(), Failure> {
    loop {
        let share = typed(prompt(&format!(
            "Type share {index} again (it is not shown): "
        ))?)?;
        match keystore.confirm_share(share).await {
            Ok(progress) => {
                eprintln!(
                    "Right. {} of {} read back.",
                    progress.given.len(),
                    progress.needed
                );
                return Ok(());
            }
            Err(AdminError::WrongShare(what)) => eprintln!("{what}"),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Gives shares to a sealed keystore, and says how far it has come.
pub(super) async fn give(keystore: &AdminSocket, files: &[PathBuf]) -> Result<Progress, Failure> {
    keystore::harden_process();
    let mut last = None;
    for file in files {
        let share = match file.as_os_str() == "-" {
            false => read(file)?,
            true if io::stdin().is_terminal() => typed(prompt("Share (it is not shown): ")?)?,
            true => typed(line_of_stdin()?)?,
        };
        let progress = keystore.unseal_share(share).await?;
        let done = progress.done;
        last = Some(progress);
        if done {
            break;
        }
    }
    last.ok_or_else(|| Failure::usage("no share is given"))
}

pub(super) fn progress_text(progress: &Progress) -> String {
    let given: Vec<String> = progress.given.iter().map(u8::to_string).collect();
    let (count, needed) = (given.len(), progress.needed);
    let given = match given.is_empty() {
        true => String::new(),
        false => format!(" (share {})", given.join(", ")),
    };
    let rest = match progress.done {
        true => "; the keystore is unsealed",
        false => "",
    };
    format!(
        "{count} of {needed} given{given}, set {}{rest}",
        progress.set
    )
}

/// A file for one keeper alone, which must not be there yet.
fn write(folder: &Path, dealing: &Dealing, share: &DealtShare) -> Result<PathBuf, Failure> {
    let Dealing { set, plan } = dealing;
    let remark = format!(
        "# Share {} of {} of a Castellum keystore's root, set {set}. Any {} of them open it: keep it apart from the others.\n",
        share.index, plan.shares, plan.threshold
    );
    let text = share.text.expose_secret();
    let mut content = Zeroizing::new(Vec::with_capacity(remark.len() + text.len() + 1));
    content.extend_from_slice(remark.as_bytes());
    content.extend_from_slice(text.as_bytes());
    content.push(b'\n');
    let path = folder.join(format!("share-{}.txt", share.index));
    let write = || {
        (DirBuilder::new().recursive(true).mode(0o700)).create(folder)?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        file.write_all(&content)?;
        file.sync_all()
    };
    match write() {
        Ok(()) => Ok(path),
        Err(error) => Err(Failure::failed(format!(
            "cannot write {}: {error}; no root was kept",
            path.display()
        ))),
    }
}

fn read(path: &Path) -> Result<SecretString, Failure> {
    let bytes = conf::SecretSource::file(path)
        .read()
        .map_err(|error| Failure::failed(format!("cannot read {}: {error}", path.display())))?;
    typed(bytes)
}

fn typed(bytes: Zeroizing<Vec<u8>>) -> Result<SecretString, Failure> {
    match str::from_utf8(&bytes) {
        Ok(text) => Ok(text.into()),
        Err(_) => Err(Failure::usage("a share is letters, digits and hyphens")),
    }
}
