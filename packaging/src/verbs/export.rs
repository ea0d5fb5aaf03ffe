//! `castellum export`: an asset as a folder of files, by way of the running origin.
//!
//! The origin runs as another user and needs no access to the folder: it sends the files, and this process writes them.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use keystore_types::AssetId;
use origin::control::{self, ExportReport, ExportedFile, Next};

use super::{ConfigFile, converse};
use crate::failure::Failure;
use crate::output::Output;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "DIR/v1/ASSET/... is then what http://ORIGIN/v1/ASSET/... answers with, so that any static server of \
                  DIR is a twin of the origin. Files that are there already are written over. A demo that keeps \
                  itself in DEMO is reached with CASTELLUM__RUNTIME_DIR=DEMO/run.\n\n\
                  Example:\n  castellum export film /srv/twin --policy cbcs"
)]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigFile,
    /// The asset's name
    #[arg(value_name = "ASSET")]
    asset: AssetId,
    /// The folder, made if need be
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Only what manifests of this policy name; may be given again. Without it, every policy that the tenant allows
    #[arg(long = "policy", value_name = "POLICY")]
    policies: Vec<String>,
}

pub(crate) fn run(args: Args, output: Output) -> Result<(), Failure> {
    let settings = args.config.load()?.origin;
    let folder = args.folder;
    // Nothing is asked for that cannot be kept.
    fs::create_dir_all(&folder).map_err(|error| cannot_write(&folder, &error))?;
    let bar = bar();
    let report = converse(async {
        let socket = &settings.control_socket;
        let mut exporting = control::export(socket, args.asset, args.policies).await?;
        let mut open = None;
        loop {
            match exporting.next().await? {
                Next::File(file) => {
                    bar.set_length(file.total);
                    bar.set_position(file.done);
                    open = Unfinished::begin(&folder, &file)?;
                }
                Next::Piece(piece, is_last) => {
                    if let Some(file) = &mut open {
                        file.write(&piece)?;
                    }
                    if is_last && let Some(file) = open.take() {
                        file.finish()?;
                    }
                }
                Next::End(report) => return Ok(report),
            }
        }
    });
    bar.finish_and_clear();
    output.say(&report?, |report| text(report, &folder))
}

/// A progress bar on a terminal; indicatif hides it anywhere else.
fn bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("[{bar:40}] {pos}/{len} files {eta}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// A file on its way: under another name until it is whole, and gone if it never is.
struct Unfinished {
    file: File,
    part: PathBuf,
    path: PathBuf,
    whole: bool,
}

impl Unfinished {
    /// Begins a file below `folder`; `None` where it is empty, and so finished.
    fn begin(folder: &Path, file: &ExportedFile) -> Result<Option<Self>, Failure> {
        let relative = Path::new(&file.path);
        // What the origin says is not trusted with a place outside of the folder.
        let plain = |part| matches!(part, Component::Normal(_));
        if !relative.components().all(plain) || relative.file_name().is_none() {
            return Err(Failure::failed(format!(
                "the origin names a file {:?}, which is not a path below a folder",
                file.path
            )));
        }
        let path = folder.join(relative);
        let mut part = path.clone().into_os_string();
        part.push(".part");
        let part = PathBuf::from(part);
        let begun = match path.parent() {
            Some(parent) => fs::create_dir_all(parent).and_then(|()| create(&part)),
            None => Err(io::ErrorKind::NotADirectory.into()),
        };
        let begun = Self {
            file: begun.map_err(|error| cannot_write(&path, &error))?,
            part,
            path,
            whole: false,
        };
        if file.bytes > 0 {
            return Ok(Some(begun));
        }
        begun.finish()?;
        Ok(None)
    }

    fn write(&mut self, piece: &[u8]) -> Result<(), Failure> {
        let written = self.file.write_all(piece);
        written.map_err(|error| cannot_write(&self.path, &error))
    }

    fn finish(mut self) -> Result<(), Failure> {
        let renamed = fs::rename(&self.part, &self.path);
        renamed.map_err(|error| cannot_write(&self.path, &error))?;
        self.whole = true;
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.whole {
            let _ = fs::remove_file(&self.part);
        }
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::failed(format!("cannot write {}: {error}", path.display()))
}

fn text(report: &ExportReport, folder: &Path) -> String {
    format!(
        "{} in {}: {} files, {} bytes ({})\n",
        report.asset,
        folder.display(),
        report.files,
        report.bytes,
        report.policies.join(", ")
    )
}

/// A new file in place of what an export that was cut short left; never one that a link of that name leads to.
fn create(part: &Path) -> io::Result<File> {
    match fs::remove_file(part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    File::create_new(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, bytes: u64) -> ExportedFile {
        ExportedFile {
            path: path.to_owned(),
            bytes,
            done: 0,
            total: 1,
        }
    }

    #[test]
    fn nothing_is_written_outside_of_the_folder() {
        let folder = std::env::temp_dir();
        for path in ["../x", "/etc/x", "v1/../../x", "./x", ""] {
            let failure = Unfinished::begin(&folder, &file(path, 1)).err();
            let failure = failure.unwrap_or_else(|| panic!("{path} was begun"));
            assert!(
                failure.to_string().contains("not a path below"),
                "{failure}"
            );
        }
    }

    #[test]
    fn a_file_has_its_name_when_it_is_whole_and_leaves_nothing_when_it_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let names = || -> Vec<_> {
            let entries = fs::read_dir(folder.path().join("v1")).unwrap();
            entries.map(|entry| entry.unwrap().file_name()).collect()
        };
        let mut whole = Unfinished::begin(folder.path(), &file("v1/1.m4s", 4))
            .unwrap()
            .unwrap();
        whole.write(b"film").unwrap();
        assert_eq!(names(), ["1.m4s.part"]);
        whole.finish().unwrap();
        assert_eq!(names(), ["1.m4s"]);
        drop(Unfinished::begin(folder.path(), &file("v1/2.m4s", 4)).unwrap());
        assert_eq!(names(), ["1.m4s"]);
        assert!(
            Unfinished::begin(folder.path(), &file("v1/1.m4s", 0))
                .unwrap()
                .is_none()
        );
        assert_eq!(fs::read(folder.path().join("v1/1.m4s")).unwrap(), b"");
    }

    #[test]
    fn a_link_in_the_place_of_a_part_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let [precious, part] = ["precious", "1.m4s.part"].map(|name| folder.path().join(name));
        fs::write(&precious, "kept").unwrap();
        std::os::unix::fs::symlink(&precious, &part).unwrap();
        create(&part).unwrap();
        assert_eq!(fs::read_to_string(&precious).unwrap(), "kept");
        assert!(fs::symlink_metadata(&part).unwrap().is_file());
    }
}
