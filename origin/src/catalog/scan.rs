//! From a folder to assets: which files are film, which asset they belong to, and why others are left out.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use keystore_types::AssetId;

use crate::storage::Stamp;

/// What a look through the media root found. Immutable; the next look makes another.
#[derive(Debug, Default)]
pub struct Listing {
    /// The assets, by name.
    pub assets: BTreeMap<AssetId, Arc<Asset>>,
    /// What lies in the root and is not served, with the reason.
    pub left_out: Vec<LeftOut>,
    /// How many assets are not listed, or not as they will be, since a file of theirs is still being written.
    pub settling: usize,
}

impl Listing {
    /// This listing, with assets of which a file is still being written as they stood in the one before, or
    /// left out if they are new: a ladder that is being copied in appears when it is whole.
    pub(super) fn following(mut self, before: &Self) -> Self {
        let unsettled: Vec<_> = self
            .assets
            .extract_if(.., |_, asset| asset.unsettled > 0)
            .collect();
        self.settling = unsettled.len();
        for (id, asset) in unsettled {
            match before.assets.get(&id) {
                Some(earlier) => {
                    self.assets.insert(id, Arc::clone(earlier));
                }
                None => self.left_out.push(LeftOut {
                    path: PathBuf::from(id.as_str()),
                    reason: format!("{} of its files are still being written", asset.unsettled),
                }),
            }
        }
        self
    }
}

/// One asset of the folder: a file, or the files of a folder.
#[derive(Debug, PartialEq, Eq)]
pub struct Asset {
    /// Its name.
    pub id: AssetId,
    /// Its files, by name.
    pub files: Vec<AssetFile>,
    /// How many of its files are still being written.
    pub unsettled: usize,
}

/// One mezzanine file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssetFile {
    /// Its name in the asset's folder, without `.mp4`.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Its stat when it was taken up.
    pub stamp: Stamp,
}

/// Something in the media root that is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// The file or folder, relative to the root.
    pub path: PathBuf,
    /// Why, and what to do.
    pub reason: String,
}

/// The most files that one asset may have: rungs, languages, texts.
const FILES_PER_ASSET: usize = 256;

/// Looks through a media root again and again, and remembers how long each file has stood still.
pub(super) struct Scanner {
    root: PathBuf,
    settle: Duration,
    seen: HashMap<PathBuf, (Stamp, SystemTime)>,
}

impl Scanner {
    pub(super) fn new(root: PathBuf, settle: Duration) -> Self {
        Self {
            root,
            settle,
            seen: HashMap::new(),
        }
    }

    /// Takes a file for settled as it is now: whoever wrote it says that it is whole.
    pub(super) fn trust(&mut self, path: &Path) {
        if let Ok(metadata) = fs::metadata(path) {
            self.seen.insert(
                path.to_owned(),
                (Stamp::of(&metadata), SystemTime::UNIX_EPOCH),
            );
        }
    }

    /// Looks once. Blocks: meant for the blocking pool.
    ///
    /// # Errors
    /// If the root itself cannot be listed; a fault below it leaves out the entry.
    pub(super) fn look(&mut self, now: SystemTime) -> io::Result<Listing> {
        let mut listing = Listing::default();
        let mut seen = HashMap::new();
        let mut names: BTreeMap<AssetId, Vec<PathBuf>> = BTreeMap::new();
        for path in children(&self.root)? {
            let is_folder = fs::metadata(&path).is_ok_and(|metadata| metadata.is_dir());
            let stem = if is_folder {
                path.file_name()
            } else {
                film_stem(&path)
            };
            match stem.map(|stem| stem.to_string_lossy().parse()) {
                Some(Ok(id)) => names.entry(id).or_default().push(path),
                Some(Err(error)) => listing
                    .left_out
                    .push(self.left_out(&path, format!("{error}; rename it"))),
                None => listing
                    .left_out
                    .push(self.left_out(&path, "not an .mp4 file".to_owned())),
            }
        }
        for (id, paths) in names {
            let [path] = &paths[..] else {
                let reason = format!("both a file and a folder are called {id}; keep one");
                listing
                    .left_out
                    .extend(paths.iter().map(|path| self.left_out(path, reason.clone())));
                continue;
            };
            let mut asset = Asset {
                id: id.clone(),
                files: Vec::new(),
                unsettled: 0,
            };
            let files = if path.is_dir() {
                children(path)
            } else {
                Ok(vec![path.clone()])
            };
            let files = match files {
                Ok(files) => files,
                Err(error) => {
                    listing
                        .left_out
                        .push(self.left_out(path, error.to_string()));
                    continue;
                }
            };
            for path in files {
                match self.file(&path, now, &mut seen) {
                    Ok(Some(_)) if asset.files.len() == FILES_PER_ASSET => {
                        listing.left_out.push(self.left_out(
                            &path,
                            format!("an asset has at most {FILES_PER_ASSET} files"),
                        ))
                    }
                    Ok(Some(file)) => asset.files.push(file),
                    Ok(None) => asset.unsettled += 1,
                    Err(reason) => listing.left_out.push(self.left_out(&path, reason)),
                }
            }
            if !asset.files.is_empty() || asset.unsettled > 0 {
                listing.assets.insert(id, Arc::new(asset));
            }
        }
        self.seen = seen;
        Ok(listing)
    }

    /// One file of an asset; `None` while it is still being written.
    fn file(
        &self,
        path: &Path,
        now: SystemTime,
        seen: &mut HashMap<PathBuf, (Stamp, SystemTime)>,
    ) -> Result<Option<AssetFile>, String> {
        let name = film_stem(path)
            .ok_or("not an .mp4 file")?
            .to_string_lossy()
            .into_owned();
        let metadata = fs::metadata(path).map_err(|error| error.to_string())?;
        if !metadata.is_file() {
            return Err("not a regular file".to_owned());
        }
        let stamp = Stamp::of(&metadata);
        let since = match self.seen.get(path) {
            Some((earlier, since)) if *earlier == stamp => *since,
            _ => now,
        };
        seen.insert(path.to_owned(), (stamp, since));
        let age = |instant: SystemTime| now.duration_since(instant).unwrap_or_default();
        let untouched = metadata.modified().map(age).unwrap_or_default();
        let settled = age(since) >= self.settle || untouched >= self.settle;
        Ok(settled.then(|| AssetFile {
            name,
            path: path.to_owned(),
            stamp,
        }))
    }

    fn left_out(&self, path: &Path, reason: String) -> LeftOut {
        LeftOut {
            path: path.strip_prefix(&self.root).unwrap_or(path).to_owned(),
            reason,
        }
    }
}

/// The entries of a folder that are not hidden, by name.
fn children(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// The name of a film without its extension; `None` for other files.
pub(crate) fn film_stem(path: &Path) -> Option<&std::ffi::OsStr> {
    let film = path.extension().is_some_and(|extension| {
        ["mp4", "m4v", "m4a", "mov"]
            .iter()
            .any(|known| extension.eq_ignore_ascii_case(known))
    });
    if film { path.file_stem() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(root: &Path) -> Listing {
        let later = SystemTime::now() + Duration::from_secs(10);
        Scanner::new(root.to_owned(), Duration::from_secs(2))
            .look(later)
            .unwrap()
    }

    fn write(path: PathBuf) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"film").unwrap();
    }

    #[test]
    fn files_and_folders_are_assets() {
        let root = tempfile::tempdir().unwrap();
        write(root.path().join("one.mp4"));
        write(root.path().join("two/high.mp4"));
        write(root.path().join("two/low.mp4"));
        write(root.path().join("two/notes.txt"));
        write(root.path().join(".hidden.mp4"));
        write(root.path().join("two/.partial.mp4"));
        let listing = look(root.path());
        let names: Vec<_> = listing.assets.keys().map(AssetId::as_str).collect();
        assert_eq!(names, ["one", "two"]);
        let files = &listing.assets[&"two".parse::<AssetId>().unwrap()].files;
        assert_eq!(
            files
                .iter()
                .map(|file| file.name.as_str())
                .collect::<Vec<_>>(),
            ["high", "low"]
        );
        assert_eq!(listing.left_out.len(), 1, "{:?}", listing.left_out);
        assert_eq!(listing.left_out[0].path, Path::new("two/notes.txt"));
    }

    #[test]
    fn a_name_taken_twice_or_unfit_is_reported_and_not_served() {
        let root = tempfile::tempdir().unwrap();
        write(root.path().join("film.mp4"));
        write(root.path().join("film/high.mp4"));
        write(root.path().join("no spaces.mp4"));
        let listing = look(root.path());
        assert!(listing.assets.is_empty());
        assert_eq!(listing.left_out.len(), 3);
        assert!(
            listing
                .left_out
                .iter()
                .any(|left| left.reason.contains("keep one"))
        );
        assert!(
            listing
                .left_out
                .iter()
                .any(|left| left.reason.contains("rename"))
        );
    }

    #[test]
    fn a_file_is_taken_up_when_it_has_stood_still() {
        let root = tempfile::tempdir().unwrap();
        write(root.path().join("film.mp4"));
        let mut scanner = Scanner::new(root.path().to_owned(), Duration::from_secs(2));
        let now = SystemTime::now();
        let mut look = |now| {
            scanner
                .look(now)
                .unwrap()
                .following(&Listing::default())
                .assets
                .len()
        };
        assert_eq!(look(now), 0);
        assert_eq!(look(now + Duration::from_secs(2)), 1);
        fs::write(root.path().join("film.mp4"), b"longer film").unwrap();
        assert_eq!(look(SystemTime::now()), 0);
    }

    #[test]
    fn a_modification_time_in_the_future_settles_by_observation() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("film.mp4");
        write(path.clone());
        let now = SystemTime::now();
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_modified(now + Duration::from_secs(86_400))
            .unwrap();
        let mut scanner = Scanner::new(root.path().to_owned(), Duration::from_secs(2));
        let mut look = |now| {
            scanner
                .look(now)
                .unwrap()
                .following(&Listing::default())
                .assets
                .len()
        };
        assert_eq!(look(now), 0);
        assert_eq!(look(now + Duration::from_secs(2)), 1);
    }

    #[test]
    fn an_asset_that_is_being_added_to_stays_as_it_was() {
        let root = tempfile::tempdir().unwrap();
        write(root.path().join("film/high.mp4"));
        let mut scanner = Scanner::new(root.path().to_owned(), Duration::from_secs(2));
        let later = SystemTime::now() + Duration::from_secs(10);
        let first = scanner.look(later).unwrap();
        write(root.path().join("film/low.mp4"));
        let second = scanner.look(SystemTime::now()).unwrap().following(&first);
        assert_eq!(second.assets.values().next().unwrap().files.len(), 1);
        let third = scanner.look(later).unwrap().following(&second);
        assert_eq!(third.assets.values().next().unwrap().files.len(), 2);
    }
}
