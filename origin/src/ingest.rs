//! Taking up files as an asset, ahead of the first viewer: copy, check, publish in one rename, then know it all.
//!
//! Files come into a hidden folder of the media root first. Nothing is served from there, so a process that
//! dies at any instant leaves either no asset or the whole of it; what it left in hidden folders goes at the
//! next start.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keystore_types::AssetId;
use origin_media::presentation::Presentation;
use ring::digest::{Context, SHA256};
use rustix::fs::{CWD, RenameFlags, ioctl_ficlone, renameat_with};
use tokio::sync::mpsc;

use crate::catalog::{ContentDigest, ReadFile, Title, film_stem};
use crate::control::{IngestReport, KeyReport, Progress, Refused, RefusedKind, SourceReport};
use crate::error::Error;
use crate::package::assemble;
use crate::packages::Packages;
use crate::report;
use crate::storage::Stamp;

/// Hidden folders in which ingests gather their files.
const STAGING_PREFIX: &str = ".ingest-";

/// Bytes of one read while a file is copied or digested.
const PIECE: usize = 1 << 20;

/// Does the verb `ingest`.
pub struct Ingest {
    packages: Arc<Packages>,
    media_root: PathBuf,
    /// One at a time: two ingests of one asset must not race for its name.
    turn: tokio::sync::Mutex<()>,
}

type Tell = mpsc::UnboundedSender<Progress>;

impl Ingest {
    /// Ingests into `media_root`, where it first removes what an ingest that died left behind.
    ///
    /// # Errors
    /// If the media root cannot be listed.
    pub fn new(packages: Arc<Packages>, media_root: PathBuf) -> io::Result<Self> {
        for entry in fs::read_dir(&media_root)? {
            let entry = entry?;
            let ours = entry
                .file_name()
                .as_encoded_bytes()
                .starts_with(STAGING_PREFIX.as_bytes());
            if ours && let Err(error) = fs::remove_dir_all(entry.path()) {
                tracing::warn!(path = %entry.path().display(), %error, "an unfinished ingest cannot be removed");
            }
        }
        Ok(Self {
            packages,
            media_root,
            turn: tokio::sync::Mutex::new(()),
        })
    }

    /// Takes up `paths` as `asset`, and tells how far it is.
    ///
    /// # Errors
    /// [`Refused`], with nothing changed.
    pub async fn run(
        &self,
        asset: AssetId,
        paths: Vec<PathBuf>,
        tell: Tell,
    ) -> Result<IngestReport, Refused> {
        let _turn = self.turn.lock().await;
        let films = blocking(move || films(&paths)).await?;
        let in_place = self.in_place(&asset, &films);
        let replaces = !in_place && self.media_root.join(asset.as_str()).exists();
        let files = if in_place {
            self.digest_in_place(films, tell.clone()).await?
        } else {
            self.bring_in(&asset, films, tell.clone()).await?
        };
        step(&tell, "index", 0, 1);
        let catalog = self.packages.catalog();
        catalog
            .adopt(&asset, files)
            .await
            .map_err(|error| Refused::because(&error))?;
        let title = catalog
            .title(&asset)
            .await
            .map_err(|error| Refused::because(&error))?;
        step(&tell, "index", 1, 1);
        let mut report = self.report(&asset, &title, &tell).await?;
        if replaces {
            let warning = "an asset of this name was there before; its files are gone";
            report.warnings.insert(0, warning.to_owned());
        }
        Ok(report)
    }

    /// Whether the files lie where the folder scan would find them as this asset.
    fn in_place(&self, asset: &AssetId, films: &[PathBuf]) -> bool {
        let folder = self.media_root.join(asset.as_str());
        films.iter().all(|film| {
            film.parent() == Some(&folder)
                || (film.parent() == Some(&self.media_root)
                    && film.file_stem() == folder.file_name())
        })
    }

    async fn digest_in_place(
        &self,
        films: Vec<PathBuf>,
        tell: Tell,
    ) -> Result<Vec<ReadFile>, Refused> {
        blocking(move || {
            let mut meter = Meter::new("read", &films, tell)?;
            films
                .into_iter()
                .map(|film| {
                    let stamp = stamp_of(&film)?;
                    let digest = meter.copy(&film, io::sink())?;
                    held_still(&film, &stamp)?;
                    Ok(ReadFile {
                        path: film,
                        stamp,
                        digest,
                    })
                })
                .collect()
        })
        .await
    }

    /// Copies the files beside the assets, checks them as a title, and publishes them with one rename.
    async fn bring_in(
        &self,
        asset: &AssetId,
        films: Vec<PathBuf>,
        tell: Tell,
    ) -> Result<Vec<ReadFile>, Refused> {
        let target = self.media_root.join(asset.as_str());
        let staging = self
            .media_root
            .join(format!("{STAGING_PREFIX}{}-{asset}", std::process::id()));
        let packs: Vec<_> = self.packages.packs().values().cloned().collect();
        let (id, catalog) = (asset.clone(), Arc::clone(self.packages.catalog()));
        let root = self.media_root.clone();
        blocking(move || {
            no_clash(&root, &id)?;
            let result = gather(&films, &staging, tell).and_then(|files| {
                let paths: Vec<_> = files.iter().map(|file| file.path.clone()).collect();
                let title = catalog
                    .try_out(&id, &paths)
                    .map_err(|error| Refused::because(&error))?;
                for pack in &packs {
                    assemble(&title, pack).map_err(|error| Refused::because(&error))?;
                }
                // Samples may be malformed too, which an index cannot tell.
                for source in &title.sources {
                    catalog
                        .map_protection(&id, source)
                        .map_err(|error| Refused::because(&error))?;
                }
                publish(&staging, &target)?;
                let moved = |path: &Path| target.join(path.file_name().unwrap_or_default());
                Ok(files
                    .into_iter()
                    .map(|file| ReadFile {
                        path: moved(&file.path),
                        ..file
                    })
                    .collect())
            });
            // After a publish that replaced an asset, the old one lies here.
            let _ = fs::remove_dir_all(&staging);
            result
        })
        .await
    }

    async fn report(
        &self,
        asset: &AssetId,
        title: &Arc<Title>,
        tell: &Tell,
    ) -> Result<IngestReport, Refused> {
        let mut warnings: Vec<String> = title
            .refused
            .iter()
            .map(|(name, reason)| format!("{name} is left out: {reason}"))
            .collect();
        let mut keys = Vec::new();
        let mut longest: Option<Presentation> = None;
        let total = self.packages.packs().len() as u64;
        for (done, pack) in (0..).zip(self.packages.packs().values()) {
            step(tell, "keys", done, total);
            let presentation = assemble(title, pack).map_err(|error| Refused::because(&error))?;
            let contexts = presentation.key_contexts(self.packages.tenant(), asset);
            longest.get_or_insert(presentation);
            if contexts.is_empty() {
                continue;
            }
            match self.packages.current(asset, &pack.name).await {
                Ok(package) => keys.extend(contexts.iter().filter_map(|context| {
                    let key = package.track_keys.get(&context.label)?;
                    Some(KeyReport {
                        scheme: context.scheme,
                        label: context.label,
                        key_id: key.key_id,
                    })
                })),
                Err(Error::Sealed | Error::Keystore(_)) => {
                    warnings.push(format!(
                        "pack {}: no keys yet, the keystore cannot give them now",
                        pack.name
                    ));
                }
                Err(error) => return Err(Refused::because(&error)),
            }
        }
        keys.sort_by_key(|key| (key.scheme, key.label));
        keys.dedup();
        step(tell, "maps", 0, 1);
        let mapped = Arc::clone(title);
        let catalog = Arc::clone(self.packages.catalog());
        let id = asset.clone();
        blocking(move || {
            for source in &mapped.sources {
                catalog
                    .map_protection(&id, source)
                    .map_err(|error| Refused::because(&error))?;
            }
            Ok(())
        })
        .await?;
        step(tell, "maps", 1, 1);
        let (renditions, segments) = longest.as_ref().map(report::renditions).unwrap_or_default();
        Ok(IngestReport {
            asset: asset.clone(),
            sources: title
                .sources
                .iter()
                .map(|source| SourceReport {
                    file: source
                        .path
                        .strip_prefix(&self.media_root)
                        .unwrap_or(&source.path)
                        .display()
                        .to_string(),
                    bytes: source.index.file_len(),
                    identity: source.identity.to_string(),
                    tracks: report::tracks(&source.index),
                    ignored: report::ignored(&source.index),
                })
                .collect(),
            renditions,
            segments,
            keys,
            warnings,
        })
    }
}

/// The files meant by `paths`: folders stand for the films in them.
fn films(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Refused> {
    let mut films = Vec::new();
    for path in paths {
        let cannot = |error: io::Error| malformed(format!("{}: {error}", path.display()));
        if fs::metadata(path).map_err(cannot)?.is_dir() {
            for entry in fs::read_dir(path).map_err(cannot)? {
                let entry = entry.map_err(cannot)?.path();
                if film_stem(&entry).is_some() {
                    films.push(entry);
                }
            }
        } else {
            films.push(path.clone());
        }
    }
    films.sort();
    for film in &films {
        // What the catalogue would pass over must not be published: it would be an asset without files.
        let hidden = |name: &std::ffi::OsStr| name.as_encoded_bytes().starts_with(b".");
        if film_stem(film).is_none() || film.file_name().is_none_or(hidden) {
            return Err(malformed(format!(
                "{} is not called like a film, such as film.mp4",
                film.display()
            )));
        }
        // A pipe or a device has no end.
        if !fs::metadata(film).is_ok_and(|metadata| metadata.is_file()) {
            return Err(malformed(format!(
                "{} is not a regular file",
                film.display()
            )));
        }
    }
    let mut names: Vec<_> = films.iter().filter_map(|film| film.file_name()).collect();
    names.sort();
    if films.is_empty() {
        return Err(malformed("there is no film among these paths".to_owned()));
    }
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(malformed(format!(
            "two files are called {}; an asset's files have different names",
            twice[0].display()
        )));
    }
    Ok(films)
}

/// Refuses where a file of the media root is the asset already: beside a folder of that name neither is served.
fn no_clash(media_root: &Path, asset: &AssetId) -> Result<(), Refused> {
    let here = |error: io::Error| unavailable(format!("{}: {error}", media_root.display()));
    for entry in fs::read_dir(media_root).map_err(here)? {
        let path = entry.map_err(here)?.path();
        if film_stem(&path).is_some_and(|stem| stem == asset.as_str()) {
            return Err(malformed(format!(
                "{} is an asset of this name already; remove it first",
                path.display()
            )));
        }
    }
    Ok(())
}

fn stamp_of(film: &Path) -> Result<Stamp, Refused> {
    let metadata = fs::metadata(film);
    Ok(Stamp::of(&metadata.map_err(|error| {
        malformed(format!("{}: {error}", film.display()))
    })?))
}

/// Refuses a file that was written to while it was read: what was read is then no film that ever was.
fn held_still(film: &Path, before: &Stamp) -> Result<(), Refused> {
    if before.same_content(&stamp_of(film)?) {
        return Ok(());
    }
    Err(malformed(format!(
        "{} was changed while it was read",
        film.display()
    )))
}

/// Copies `films` into the new folder `staging`, with everything on disk when this returns.
fn gather(films: &[PathBuf], staging: &Path, tell: Tell) -> Result<Vec<ReadFile>, Refused> {
    let here = |error: io::Error| unavailable(format!("{}: {error}", staging.display()));
    fs::create_dir(staging).map_err(here)?;
    let mut meter = Meter::new("copy", films, tell)?;
    let mut files = Vec::new();
    for film in films {
        let name = film
            .file_name()
            .ok_or_else(|| malformed(format!("{} has no name", film.display())))?;
        let path = staging.join(name);
        let before = stamp_of(film)?;
        let copy = File::create_new(&path).map_err(here)?;
        let original =
            File::open(film).map_err(|error| malformed(format!("{}: {error}", film.display())))?;
        let digest = match ioctl_ficlone(&copy, &original) {
            Ok(()) => meter.copy(&path, io::sink())?,
            Err(_) => meter.copy(film, &copy)?,
        };
        held_still(film, &before)?;
        copy.sync_all().map_err(here)?;
        let stamp = stamp_of(&path)?;
        files.push(ReadFile {
            path,
            stamp,
            digest,
        });
    }
    File::open(staging)
        .and_then(|folder| folder.sync_all())
        .map_err(here)?;
    Ok(files)
}

/// Gives `staging` the name `target`; what had the name before is left at `staging`.
fn publish(staging: &Path, target: &Path) -> Result<(), Refused> {
    let renamed = match renameat_with(CWD, staging, CWD, target, RenameFlags::NOREPLACE) {
        Err(rustix::io::Errno::EXIST) => {
            renameat_with(CWD, staging, CWD, target, RenameFlags::EXCHANGE)
        }
        other => other,
    };
    let here = |error: io::Error| unavailable(format!("{}: {error}", target.display()));
    renamed.map_err(|error| here(error.into()))?;
    let parent = target.parent().unwrap_or(target);
    File::open(parent)
        .and_then(|folder| folder.sync_all())
        .map_err(here)
}

/// Copies files, digests them on the way and tells how far it is.
struct Meter {
    stage: &'static str,
    done: u64,
    total: u64,
    tell: Tell,
    buffer: Vec<u8>,
}

impl Meter {
    fn new(stage: &'static str, films: &[PathBuf], tell: Tell) -> Result<Self, Refused> {
        let mut total = 0;
        for film in films {
            total += fs::metadata(film)
                .map_err(|error| malformed(format!("{}: {error}", film.display())))?
                .len();
        }
        Ok(Self {
            stage,
            done: 0,
            total,
            tell,
            buffer: vec![0; PIECE],
        })
    }

    fn copy(&mut self, from: &Path, mut to: impl io::Write) -> Result<ContentDigest, Refused> {
        let mut context = Context::new(&SHA256);
        let mut piece_by_piece = || -> io::Result<()> {
            let mut file = File::open(from)?;
            loop {
                let count = file.read(&mut self.buffer)?;
                if count == 0 {
                    return to.flush();
                }
                context.update(&self.buffer[..count]);
                to.write_all(&self.buffer[..count])?;
                self.done += count as u64;
                step(&self.tell, self.stage, self.done, self.total);
            }
        };
        piece_by_piece().map_err(|error| unavailable(format!("{}: {error}", from.display())))?;
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        Ok(digest)
    }
}

fn step(tell: &Tell, stage: &str, done: u64, total: u64) {
    // Whoever asked may have gone; the ingest goes on.
    let _ = tell.send(Progress {
        stage: stage.to_owned(),
        done,
        total,
    });
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refused> + Send + 'static,
) -> Result<T, Refused> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(unavailable(error.to_string())))
}

fn malformed(message: String) -> Refused {
    Refused {
        kind: RefusedKind::Malformed,
        message,
    }
}

fn unavailable(message: String) -> Refused {
    Refused {
        kind: RefusedKind::Unavailable,
        message,
    }
}
